"""Values put in the place of others, and conditions that are asked twice asked once.

where(c, f32(x[i if c]), 0)     ->     f32(x[i if c])     a load whose condition fails is 0 already
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..ir.expr import Const, Expr, Load, Op, Rewriter
from ..ir.types import I64

OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}


class Replacer(Rewriter):
    """Puts values in the place of others, and a guarded load, which gives 0 elsewhere, in that of its select."""

    def __init__(self, given: Mapping[Expr, Expr]) -> None:
        super().__init__()
        self.memo.update(given)

    def _rewrite(self, e: Expr) -> Expr:
        new = super()._rewrite(e)
        if not isinstance(new, Op) or new.name != "where":
            return new
        condition, *sides = new.args
        for k, value in enumerate(sides):
            inner = value.args[0] if isinstance(value, Op) and value.name == "cast" else value
            guard = inner.guard if isinstance(inner, Load) else None
            if guard is not None and _is_zero(sides[1 - k]) and guard == (_negate(condition) if k else condition):
                return value
        return new


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and str(e.value) in ("0", "0.0")


def _negate(e: Expr) -> Expr | None:
    """The opposite of a comparison of indices."""
    if not isinstance(e, Op) or e.name not in OPPOSITE or e.args[0].dtype is not I64:
        return None
    return replace(e, name=OPPOSITE[e.name])
