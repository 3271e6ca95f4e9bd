"""Law: narrow. A store under a guard runs only over the part of its domain where the guard holds.

y[t, c] <- v[t - p, c] if (t >= p) & (t < p + 1)     t:4096     ->     y[p, c] <- v[0, c]
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.expr import TRUE, Rewriter
from ..ir.index import Axis, axes_of
from ..ir.loops import Store
from ..ir.simplify import Simplifier
from ..ir.types import Dim
from .limits import find_limits, shift


def narrow(store: Store, simplify: Simplifier) -> Store:
    """The store over the smallest box that its guard allows; what the box does not decide stays in the guard."""
    if store.guard is None:
        return store
    for axis in store.axes:
        bounds = find_limits(axis, store.guard)
        if bounds is not None:
            return narrow(_restrict(store, axis, *bounds, simplify), simplify)
    return store


def _restrict(store: Store, axis: Axis, first: Dim, end: Dim, simplify: Simplifier) -> Store:
    """axis -> first + shorter axis."""
    moved = shift(axis, first, end)
    (shorter,) = axes_of(moved)
    rewrite = Rewriter({axis: moved}, rebuild=simplify)
    assert store.guard is not None
    guard = rewrite(store.guard)
    axes = tuple(shorter if a is axis else a for a in store.axes)
    index = tuple(rewrite.index(i) for i in store.index)
    return replace(store, index=index, value=rewrite(store.value), axes=axes, guard=None if guard is TRUE else guard)
