"""What the next row needs is asked for while this row is computed.

    for t:  m = max(c) x[t, c]                   waits for memory
            for c:  e[c] = exp(x[t, c] - m)      computes:  ask for x[t + 1, c], and for the line of y[t, c]
            for c:  y[t, c] = e[c] / sum(e)      waits for memory

A worker passes over a row several times, and only the first pass that reads it, and the one that writes, wait for
memory. Hardware fetches ahead within a row, and forgets at its end. So the pass that computes most asks, a line at a
time, for the row after this one and for the place of this row's results: softmax of 64 x 4096 gains a third.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...ir.expr import Load, walk
from ...ir.index import Axis, Index, axes_of, axis_coefficient, of_atom, substitute
from ...ir.loops import Buffer
from ...ir.tiles import Loop, Program, Put, Statement
from ...ir.types import product
from ..parts import expressions_of
from ..tiling_plan import expression_cost

LEAST_ROW, MOST_ROW = 512, 1 << 16  # bytes of a row: shorter ones follow at once, longer ones leave the cache again
MOST_ASKED = 1 << 18  # bytes of all rows that are asked for at once
LEAST_BUFFER = 1 << 18  # bytes: what is smaller is in a cache already
LEAST_ROWS = 4
STORE_COST = 6.0


@dataclass(frozen=True, slots=True)
class Ask:
    """The element of a buffer at an index over the axes of the loops around; `writes` where it will be stored to."""

    buffer: str
    index: Index
    writes: bool


@dataclass(frozen=True, slots=True)
class _Pass:
    """A lanes loop, and how busy it is beside memory."""

    loop: Loop
    spare: float


def find_asks(program: Program) -> dict[int, tuple[Ask, ...]]:
    """What each lanes loop, by its id, asks for at each of its points."""
    buffers = {b.name: b for b in (*program.inputs, *program.outputs)}
    found: dict[int, list[Ask]] = {}
    for rows, around in _row_loops(program.body):
        passes = [_Pass(loop, _spare(loop, buffers)) for loop in _passes(rows.body)]
        if len(passes) < 2 or not isinstance(rows.axis.extent, int) or rows.axis.extent < LEAST_ROWS:
            continue
        asked = 0
        for host, ask in [*_next_rows(rows, passes, buffers), *_results(rows, passes, buffers)]:
            if not axes_of(ask.index) <= {*around, rows.axis, host.loop.axis}:
                continue
            size = _row_bytes(host.loop.axis, buffers[ask.buffer])
            if asked + size <= MOST_ASKED:
                asked += size
                found.setdefault(id(host.loop), []).append(ask)
    return {key: tuple(dict.fromkeys(asks)) for key, asks in found.items()}


def _row_loops(body: Sequence[Statement], around: tuple[Axis, ...] = ()) -> Iterator[tuple[Loop, tuple[Axis, ...]]]:
    """Loops that may be over rows, with the axes of the loops around."""
    for s in body:
        if isinstance(s, Loop) and s.kind != "lanes":
            if not s.reverse and not s.axis.is_ragged:
                yield s, around
            yield from _row_loops(s.body, (*around, s.axis))


def _passes(body: Sequence[Statement]) -> Iterator[Loop]:
    for s in body:
        if isinstance(s, Loop) and s.kind == "lanes":
            yield s
        elif isinstance(s, Loop) and s.kind == "serial":
            yield from _passes(s.body)


def _spare(loop: Loop, buffers: dict[str, Buffer]) -> float:
    """Rough cycles of a point in which memory has nothing to do."""
    puts = sum(1 for s in loop.body if isinstance(s, Put) and s.target in buffers)
    return sum(expression_cost(*expressions_of(s)) for s in loop.body) - STORE_COST * puts


def _next_rows(rows: Loop, passes: list[_Pass], buffers: dict[str, Buffer]) -> Iterator[tuple[_Pass, Ask]]:
    """Each row that is read, in the busiest pass after the first that reads it."""
    first: dict[tuple[str, Index], int] = {}
    for k, p in enumerate(passes):
        for e in walk(*(e for s in p.loop.body for e in expressions_of(s))):
            if isinstance(e, Load) and e.name in buffers and e.guard is None:
                first.setdefault((e.name, e.index[0]), k)
    for (name, index), k in first.items():
        host = _host(passes[k + 1 :], passes[k].loop.axis)
        if host is not None and _is_row(rows, host.loop.axis, index, buffers[name]):
            yield host, Ask(name, substitute(index, {rows.axis: of_atom(rows.axis) + 1}), writes=False)


def _results(rows: Loop, passes: list[_Pass], buffers: dict[str, Buffer]) -> Iterator[tuple[_Pass, Ask]]:
    """Each row that is written through the caches, in the busiest pass before."""
    for k, p in enumerate(passes):
        for s in p.loop.body:
            if isinstance(s, Put) and s.target in buffers and s.guard is None and not s.stream:
                host = _host(passes[:k], p.loop.axis)
                if host is not None and _is_row(rows, host.loop.axis, s.index[0], buffers[s.target]):
                    yield host, Ask(s.target, s.index[0], writes=True)


def _host(passes: list[_Pass], axis: Axis) -> _Pass | None:
    return max((p for p in passes if p.loop.axis is axis), key=lambda p: p.spare, default=None)


def _is_row(rows: Loop, lanes: Axis, index: Index, buffer: Buffer) -> bool:
    """Dense along the lanes, another row at each point of the outer loop, and of a size that is worth asking for."""
    if any(not isinstance(atom, Axis) for atom, _ in index.terms) or not isinstance(lanes.extent, int):
        return False
    step, whole = axis_coefficient(index, rows.axis), product(buffer.shape)
    if axis_coefficient(index, lanes) != 1 or not isinstance(step, int) or step < lanes.extent:
        return False
    large = not isinstance(whole, int) or whole * buffer.dtype.itemsize >= LEAST_BUFFER
    return large and LEAST_ROW <= _row_bytes(lanes, buffer) <= MOST_ROW


def _row_bytes(lanes: Axis, buffer: Buffer) -> int:
    assert isinstance(lanes.extent, int)
    return lanes.extent * buffer.dtype.itemsize
