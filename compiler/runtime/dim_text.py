"""Dimensions as Python expressions: what a plan computes sizes, strides and offsets with.

    8*floor(s77/2) + 1     ->     1 + 8*(s77//2)

All of it is integer arithmetic: a quotient is one of Python's `//`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy

from ...ir.errors import LoweringError
from ...ir.types import Dim


def dim_text(dim: Dim) -> str:
    """The Python expression of a dimension over variables named as its symbols; exact in integers."""
    return str(dim) if isinstance(dim, int) else _integer(dim)


def tuple_text(dims: Sequence[Dim]) -> str:
    """`(4, s0*8)`; a tuple of one keeps its comma."""
    return f"({', '.join(map(dim_text, dims))}{',' if len(dims) == 1 else ''})"


def _integer(e: Any) -> str:
    """`e`, which is an integer whatever its symbols are."""
    numerator, denominator = _fraction(e)
    if denominator == 1:
        return _polynomial(numerator)
    return f"({_polynomial(sympy.expand(numerator))})//({_polynomial(denominator)})"


def _polynomial(e: Any) -> str:
    if e.is_Symbol or (e.is_Integer and int(e) >= 0):
        return str(e)
    if e.is_Integer:
        return f"({e})"
    if e.is_Add:
        return "(" + " + ".join(_polynomial(a) for a in e.args) + ")"
    if e.is_Mul:
        return "*".join(f"({_polynomial(a)})" if a.is_Add else _polynomial(a) for a in e.args)
    if e.is_Pow and e.exp.is_Integer and int(e.exp) > 0:
        return f"({_polynomial(e.base)})**{e.exp}"
    printer = _FUNCTIONS.get(type(e).__name__)
    if printer is None:
        raise LoweringError("no Python for a size", where=str(e), expected="+, *, //, %, min, max of symbols")
    return printer(*e.args)


def _quotient(e: Any) -> tuple[str, str]:
    numerator, denominator = _fraction(e)
    return _polynomial(sympy.expand(numerator)), _polynomial(denominator)


def _fraction(e: Any) -> tuple[Any, Any]:
    together: Any = sympy.together(e)
    return together.as_numer_denom()


def _floor(e: Any) -> str:
    above, below = _quotient(e)
    return f"(({above})//({below}))"


def _ceiling(e: Any) -> str:
    above, below = _quotient(e)
    return f"(-((-({above}))//({below})))"


_FUNCTIONS: dict[str, Callable[..., str]] = {
    "floor": _floor,
    "ceiling": _ceiling,
    "Mod": lambda a, b: f"(({_integer(a)}) % ({_integer(b)}))",
    "Max": lambda *args: f"max({', '.join(map(_integer, args))})",
    "Min": lambda *args: f"min({', '.join(map(_integer, args))})",
}
