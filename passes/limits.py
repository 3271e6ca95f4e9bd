"""What a condition says of an axis: the part of it where the condition can hold."""

from __future__ import annotations

from ..ir.expr import Expr, Op, Rewriter
from ..ir.index import Axis, Index, axes_of, bounds
from ..ir.spans import conjuncts
from ..ir.types import Dim, is_nonnegative, multiply, plus


def find_limits(axis: Axis, guard: Expr) -> tuple[Dim, Dim] | None:
    """(first, one past the last) where these are inside the axis and something is cut off, else None.

    They are read off the conjuncts that compare the axis, with stride 1, with what no axis changes.
    """
    first: Dim = 0
    end: Dim = axis.extent
    for c in conjuncts(guard):
        limit = _limit(axis, c)
        if limit is None:
            continue
        if isinstance(c, Op) and c.name == "ge" and is_nonnegative(plus(limit, multiply(first, -1))):
            first = limit
        elif isinstance(c, Op) and c.name == "lt" and is_nonnegative(plus(end, multiply(limit, -1))):
            end = limit
        elif isinstance(c, Op) and c.name == "eq" and is_nonnegative(limit):
            first, end = limit, plus(limit, 1)
    inside = is_nonnegative(first) and is_nonnegative(plus(axis.extent, multiply(end, -1)))
    if not inside or not is_nonnegative(plus(end, multiply(first, -1))):
        return None
    return None if (first, end) == (0, axis.extent) else (first, end)


def bounds_where(index: Index, guard: Expr) -> tuple[Dim, Dim]:
    """Limits of an index's values where the guard holds; those of all its values where the guard says nothing."""
    moved: dict[Axis, Index] = {}
    for axis in axes_of(index):
        limits = find_limits(axis, guard)
        if limits is not None:
            first, end = limits
            moved[axis] = shift(axis, first, end)
    return bounds(Rewriter(moved).index(index) if moved else index)


def shift(axis: Axis, first: Dim, end: Dim) -> Index:
    """The part of an axis from `first` to before `end`: first + shorter axis."""
    shorter = Axis(f"{axis.name}n", plus(end, multiply(first, -1)))
    return Index(((shorter, 1),), first)


def _limit(axis: Axis, comparison: Expr) -> Dim | None:
    """L where the comparison is `axis ? L` with a constant L."""
    if not isinstance(comparison, Op) or comparison.name not in ("lt", "ge", "eq"):
        return None
    left, right = (a.position for a in comparison.args)
    if left is None or right is None or left.single_axis is not axis or not right.is_constant:
        return None
    return right.const
