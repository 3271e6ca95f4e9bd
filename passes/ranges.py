"""Limits of scalar values that their operations alone guarantee, whatever the data are (NaN apart).

sigmoid(x) + 1     ->     (1, 2)          min(max(x, -4), 4)     ->     (-4, 4)
"""

from __future__ import annotations

import math

from ..ir.expr import Const, Expr, Op

Range = tuple[float, float]
EVERYTHING: Range = (-math.inf, math.inf)
UNIT: Range = (-1.0, 1.0)
FIXED: dict[str, Range] = {
    "sigmoid": (0.0, 1.0), "tanh": UNIT, "sin": UNIT, "cos": UNIT, "erf": UNIT, "sign": UNIT,
    "erfc": (0.0, 2.0), "exp": (0.0, math.inf), "exp2": (0.0, math.inf), "sqrt": (0.0, math.inf),
}  # fmt: skip


def find_range(e: Expr) -> Range:
    """Limits of a float's values where it is a number; it may be NaN all the same."""
    if isinstance(e, Const) and e.dtype.is_float and not math.isnan(e.value):
        return float(e.value), float(e.value)
    if not isinstance(e, Op) or not e.dtype.is_float:
        return EVERYTHING
    if e.name in FIXED:
        return FIXED[e.name]
    if e.name == "where":
        (a, b), (c, d) = find_range(e.args[1]), find_range(e.args[2])
        return min(a, c), max(b, d)
    if e.name not in ("neg", "abs", "add", "sub", "min", "max"):
        return EVERYTHING
    return _of_sides(e.name, [find_range(a) for a in e.args])


def _of_sides(name: str, sides: list[Range]) -> Range:
    low, high = sides[0]
    if name == "neg":
        return -high, -low
    if name == "abs":
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
    other_low, other_high = sides[1]
    if name in ("min", "max"):
        choose = min if name == "min" else max
        return choose(low, other_low), choose(high, other_high)
    if name == "sub":
        other_low, other_high = -other_high, -other_low
    sums = low + other_low, high + other_high
    return EVERYTHING if any(math.isnan(s) for s in sums) else sums


def is_positive(e: Expr) -> bool:
    """True where the value, if it is no NaN, is above 0 and finite."""
    low, high = find_range(e)
    return low > 0 and math.isfinite(high)
