"""Lanes loops cut where a condition on their axis changes, so that each part runs without it.

lanes c in 4096: y[c] <- where(c < 1024, a[c if c < 1024], b[c - 1024 if c >= 1024])
->
lanes c in 4096 from 0 to 1024:     y[c] <- a[c]
lanes c in 4096 from 1024 to 4096:  y[c] <- b[c - 1024]
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.expr import FALSE, TRUE, Const, Expr, Iota, Load, Op, Rewriter, const, walk
from ..ir.index import Axis, Index
from ..ir.simplify import exact
from ..ir.types import I64

CONDITIONS = ("lt", "le", "gt", "ge")
MOST_SEGMENTS = 4
MOST_NODES = 240  # of all segments together


def find_cuts(axis: Axis, roots: Sequence[Expr]) -> list[int]:
    """The points of an axis at which conditions on it alone change, in order; none where cutting is not worth it."""
    if not isinstance(axis.extent, int) or axis.is_ragged:
        return []
    cuts = find_changes(axis, roots)
    parts = len(cuts) + 1
    return cuts if parts <= MOST_SEGMENTS and parts * sum(1 for _ in walk(*roots)) <= MOST_NODES else []


def find_changes(axis: Axis, roots: Sequence[Expr]) -> list[int]:
    """The points of an axis of static extent at which conditions on it alone change, in order."""
    assert isinstance(axis.extent, int)
    changes = {_change(e, axis) for e in walk(*roots) if isinstance(e, Op) and e.name in CONDITIONS}
    return sorted(c for c in changes if c is not None and 0 < c < axis.extent)


def decide(axis: Axis, begin: int, end: int) -> Rewriter:
    """Replaces the conditions that hold, or fail, all over begin .. end-1 of an axis, and what follows from them."""
    return _Decider(axis, begin, end)


def _line(e: Op, axis: Axis) -> tuple[int, int] | None:
    """(a, b) such that the condition compares a*axis + b with 0, where it is about that axis alone."""
    sides: list[Index] = []
    for a in e.args:
        if isinstance(a, Iota):
            sides.append(a.index)
        elif isinstance(a, Const) and a.dtype is I64:
            sides.append(Index((), int(a.value)))
    if len(sides) != 2:
        return None
    d = sides[0] - sides[1]
    if len(d.terms) != 1 or d.terms[0][0] is not axis:
        return None
    slope, offset = d.terms[0][1], d.const
    return (slope, offset) if isinstance(slope, int) and isinstance(offset, int) else None


def _holds(name: str, value: int) -> bool:
    return {"lt": value < 0, "le": value <= 0, "gt": value > 0, "ge": value >= 0}[name]


def _change(e: Op, axis: Axis) -> int | None:
    """The first point at which the condition is not what it is before."""
    line = _line(e, axis)
    if line is None or abs(line[0]) != 1:
        return None
    zero = -line[1] * line[0]
    for point in (zero, zero + 1):
        if _holds(e.name, line[0] * point + line[1]) != _holds(e.name, line[0] * (point - 1) + line[1]):
            return point
    return None


class _Decider(Rewriter):
    def __init__(self, axis: Axis, begin: int, end: int) -> None:
        super().__init__(load=_without_false_guard, rebuild=exact)
        self.axis, self.first, self.last = axis, begin, end - 1

    def _rewrite(self, e: Expr) -> Expr:
        if isinstance(e, Op) and e.name in CONDITIONS:
            line = _line(e, self.axis)
            if line is not None:
                ends = {_holds(e.name, line[0] * c + line[1]) for c in (self.first, self.last)}
                if len(ends) == 1:
                    return TRUE if ends.pop() else FALSE
        return super()._rewrite(e)


def _without_false_guard(e: Load) -> Expr:
    return const(0, e.dtype) if e.guard is FALSE else e
