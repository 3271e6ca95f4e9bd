"""Sums with weights of a running maximum as two plain reductions: what they mean, where nobody runs them in one pass.

(_, o)[t, e] = max_weighted_sum(c) u[t, c], w[c, e]  ->  m[t] = max(c) u[t, c];  o[t, e] = sum(c) exp(u - m) * w[c, e]
"""

from __future__ import annotations

from dataclasses import replace

from .expr import Expr, Load, const
from .index import of_atom
from .loops import Equation, Kernel, Statement
from .scalar import op
from .states import lowest

STATE = "max_weighted_sum"


def split_weighted(e: Equation) -> list[Statement]:
    """The maximum, which keeps the axes of what it is of where nobody else reads it, and the sum.

    The shift is 0 where the maximum is -inf.
    """
    x, weight = e.args
    name = e.names[0] if e.names[0] != "_" else f"{e.names[1]}_0"
    axes = e.axes if e.names[0] != "_" else tuple(a for a in e.axes if a in x.axes)
    top = replace(e, names=(name,), axes=axes, args=(x,), state="max", dtypes=(x.dtype,), operand_dtype=None)
    if e.names[1] == "_":
        return [top]
    m: Expr = Load(name, tuple(map(of_atom, axes)), x.dtype)
    shift = op("where", op("eq", m, lowest(x.dtype)), const(0.0, x.dtype), m)
    value = op("mul", op("exp", op("sub", x, shift)), weight)
    return [top, replace(e, names=(e.names[1],), args=(value,), state="sum", dtypes=e.dtypes[1:])]


def without_weighted(kernel: Kernel) -> Kernel:
    """The kernel with all such sums, of which nobody reads the maximum, as plain reductions."""
    body: list[Statement] = []
    for s in kernel.body:
        weighted = isinstance(s, Equation) and s.state == STATE and not s.scan and s.names[0] == "_"
        body += split_weighted(s) if weighted and isinstance(s, Equation) else [s]
    return kernel if len(body) == len(kernel.body) else replace(kernel, body=tuple(body))
