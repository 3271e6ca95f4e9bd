"""Memory planning: values that live at different times share bytes of one arena.

    a: steps 0..1, 4 KB     b: steps 1..2, 4 KB     c: steps 2..3, 4 KB     ->     a and c at 0, b at 4096

Static sizes are placed by best fit, the largest first. A dynamic size gets a slot behind them; another value goes into
the same slot when it lives at another time and its size is provably no greater, whatever the symbols are. Slots are
laid one behind the other when the sizes are known.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..ir.types import Dim, evaluate, is_nonnegative, multiply, plus, symbols_of

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
TYPICAL_SIZE = 512  # stands for a dynamic size where values are ordered by theirs


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A value of `size` bytes that is written in step `first` and read up to step `last`."""

    name: str
    size: Dim
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where values lie: at a byte offset in the static part, or in a slot of a dynamic size.

    static  bytes of the static part
    bound   the least that any plan of the static values needs: what lives at the worst moment
    slots   sizes in bytes of the dynamic slots, which follow the static part in this order
    """

    static: int
    bound: int
    offsets: dict[str, int]
    slots: tuple[Dim, ...]
    slot_of: dict[str, int]


def plan_memory(lifetimes: Iterable[Lifetime]) -> MemoryPlan:
    """Place every value so that no two that live at the same time overlap."""
    lives = list(lifetimes)
    static = [v for v in lives if isinstance(v.size, int)]
    offsets, total = _place_static(static)
    slots, slot_of = _place_dynamic([v for v in lives if not isinstance(v.size, int)])
    return MemoryPlan(total, peak_bytes(static), offsets, slots, slot_of)


def align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def peak_bytes(lifetimes: Sequence[Lifetime]) -> int:
    """The bytes of static values that live at the worst moment, each aligned."""
    changes: dict[int, int] = {}
    for v in lifetimes:
        assert isinstance(v.size, int)
        changes[v.first] = changes.get(v.first, 0) + align(v.size)
        changes[v.last + 1] = changes.get(v.last + 1, 0) - align(v.size)
    live = peak = 0
    for step in sorted(changes):
        live += changes[step]
        peak = max(peak, live)
    return peak


def _place_static(lifetimes: list[Lifetime]) -> tuple[dict[str, int], int]:
    offsets: dict[str, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # (offset, end, first, last), by offset
    for v in sorted(lifetimes, key=lambda v: (-int(v.size), v.first, v.name)):
        size = align(int(v.size))
        offset = _find_gap(size, v, placed)
        offsets[v.name] = offset
        insort(placed, (offset, offset + size, v.first, v.last))
    return offsets, max((end for _, end, _, _ in placed), default=0)


def _find_gap(size: int, v: Lifetime, placed: list[tuple[int, int, int, int]]) -> int:
    """The start of the smallest gap that takes `size` bytes while `v` lives; the end of all where there is none."""
    best, best_gap, cursor = -1, 0, 0
    for offset, end, first, last in placed:
        if last < v.first or first > v.last:
            continue
        gap = offset - cursor
        if gap >= size and (best < 0 or gap < best_gap):
            best, best_gap = cursor, gap
        cursor = max(cursor, end)
    return cursor if best < 0 else best


def _place_dynamic(lifetimes: list[Lifetime]) -> tuple[tuple[Dim, ...], dict[str, int]]:
    slots: list[Dim] = []
    tenants: list[list[Lifetime]] = []
    slot_of: dict[str, int] = {}
    for v in sorted(lifetimes, key=lambda v: (-_typical(v.size), v.first, v.name)):
        for k, size in enumerate(slots):
            fits = size == v.size or is_nonnegative(plus(size, multiply(v.size, -1)))
            if fits and not any(v.overlaps(other) for other in tenants[k]):
                break
        else:
            k = len(slots)
            slots.append(v.size)
            tenants.append([])
        tenants[k].append(v)
        slot_of[v.name] = k
    return tuple(slots), slot_of


def _typical(size: Dim) -> int:
    return evaluate(size, dict.fromkeys(symbols_of([size]), TYPICAL_SIZE))
