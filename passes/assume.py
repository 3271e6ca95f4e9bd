"""Inside a branch of a select its condition is known.

    where(c, where(c, a, 0) * where(c, b, 0), 0)     ->     where(c, a * b, 0)
    where(i < 4, x, where(i >= 4, y, z))             ->     where(i < 4, x, y)

Inlining through a guarded load (pad, cat, roll) wraps each op of the producer so. Guards of loads stay: both branches
of a select may be computed, and the guard is what keeps a load inside its buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ..ir.expr import FALSE, TRUE, Expr, Load, Op, Rewriter
from ..ir.types import BOOL, DType

Rebuild = Callable[[str, tuple[Expr, ...], DType], Expr]
OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
MOST_NODES = 4096  # of an expression: what is decided is looked for in all of it


def assume(e: Expr, condition: Expr, holds: bool, rebuild: Rebuild) -> Expr:
    """`e` where the condition holds, or where it does not."""
    known: dict[Expr, Expr] = {}
    _learn(condition, holds, known)
    inside = conditions_in(e)
    if known.keys().isdisjoint(inside):
        return e
    return _Assumer({c: v for c, v in known.items() if c in inside}, rebuild)(e)


def _learn(condition: Expr, holds: bool, known: dict[Expr, Expr]) -> None:
    known[condition] = TRUE if holds else FALSE
    if not isinstance(condition, Op):
        return
    if condition.name == ("and" if holds else "or"):
        for a in condition.args:
            _learn(a, holds, known)
    elif condition.name == "not":
        _learn(condition.args[0], not holds, known)
    elif condition.name in OPPOSITE and not condition.args[0].dtype.is_float:  # no order holds for NaN
        known[Op(OPPOSITE[condition.name], condition.args, BOOL)] = FALSE if holds else TRUE


@lru_cache(maxsize=65536)
def conditions_in(e: Expr) -> frozenset[Expr]:
    """The conditions, and parts of them, that selects of `e` read."""
    if not isinstance(e, Op):
        return frozenset()
    found = frozenset().union(*(conditions_in(a) for a in e.args))
    if e.name == "where":
        found |= _parts(e.args[0])
    return found if len(found) <= MOST_NODES else frozenset()


def _parts(condition: Expr) -> frozenset[Expr]:
    if isinstance(condition, Op) and condition.name in ("and", "or", "not"):
        return frozenset({condition}).union(*(_parts(a) for a in condition.args))
    return frozenset({condition})


class _Assumer(Rewriter):
    def __init__(self, known: dict[Expr, Expr], rebuild: Rebuild) -> None:
        super().__init__(rebuild=rebuild)
        self.known = known

    def _rewrite(self, e: Expr) -> Expr:
        if isinstance(e, Load) or not isinstance(e, Op):
            return e
        if e.dtype is BOOL and e in self.known:
            return self.known[e]
        if self.known.keys().isdisjoint(conditions_in(e)) and e.dtype is not BOOL:
            return e
        return super()._rewrite(e)
