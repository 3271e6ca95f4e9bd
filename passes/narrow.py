"""Law: narrow. A store under a guard runs only over the part of its domain where the guard holds.

    y[t, c] <- v[t - p, c] if (t >= p) & (t < p + 1)     t:4096     ->     y[p, c] <- v[0, c]

The bounds of an axis are read off the conjuncts that compare it, with stride 1, with what no axis changes.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.expr import TRUE, Expr, Op, Rewriter
from ..ir.index import Axis, add, as_index, of_atom
from ..ir.loops import Store
from ..ir.simplify import Simplifier
from ..ir.types import Dim, is_nonnegative, multiply, plus


def narrow(store: Store, simplify: Simplifier) -> Store:
    """The store over the smallest box that its guard allows; what the box does not decide stays in the guard."""
    if store.guard is None:
        return store
    for axis in store.axes:
        bounds = _bounds_of(axis, store.guard)
        if bounds is not None:
            return narrow(_restrict(store, axis, *bounds, simplify), simplify)
    return store


def conjuncts(e: Expr) -> list[Expr]:
    if isinstance(e, Op) and e.name == "and":
        return [c for a in e.args for c in conjuncts(a)]
    return [e]


def _bounds_of(axis: Axis, guard: Expr) -> tuple[Dim, Dim] | None:
    """(first, one past the last) where these are inside the axis and something is cut off, else None."""
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


def _limit(axis: Axis, comparison: Expr) -> Dim | None:
    """L where the comparison is `axis ? L` with a constant L."""
    if not isinstance(comparison, Op) or comparison.name not in ("lt", "ge", "eq"):
        return None
    left, right = (a.position for a in comparison.args)
    if left is None or right is None or left.single_axis is not axis or not right.is_constant:
        return None
    return right.const


def _restrict(store: Store, axis: Axis, first: Dim, end: Dim, simplify: Simplifier) -> Store:
    """axis -> first + shorter axis."""
    shorter = Axis(f"{axis.name}n", plus(end, multiply(first, -1)))
    moved = add(of_atom(shorter), as_index(first))
    rewrite = Rewriter({axis: moved}, rebuild=simplify)
    assert store.guard is not None
    guard = rewrite(store.guard)
    axes = tuple(shorter if a is axis else a for a in store.axes)
    index = tuple(rewrite.index(i) for i in store.index)
    return replace(store, index=index, value=rewrite(store.value), axes=axes, guard=None if guard is TRUE else guard)
