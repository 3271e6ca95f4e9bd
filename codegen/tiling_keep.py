"""Which pointwise values of a kernel are kept for the passes that read them, and which are computed again.

e[t, c] = exp(x[t, c] - m[t])          (kept: a row of scratch, written by one nest and read by the next)
l[t]    = sum(c) e[t, c]
y[t, c] <- e[t, c] / l[t]              (again: y[t, c] <- exp(x[t, c] - m[t]) / l[t], and l likewise)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..ir.expr import Expr, Load, Rewriter, const, loads_in
from ..ir.loops import Equation, Kernel, Statement
from ..ir.scalar import op
from ..ir.simplify import both
from .tiling_prepare import rewrite_statement

KEPT_BYTES = 256 << 10  # a row that stays in the second-level cache
WORTH_KEEPING = 6.0  # vector cycles: a store and a load, and what they displace


def recompute(kernel: Kernel, chosen: Callable[[Equation], bool]) -> Kernel:
    """The kernel with the chosen pointwise equations put into their readers."""
    inlined: dict[str, Equation] = {}
    body: list[Statement] = []
    for s in kernel.body:
        rewrite = Rewriter(load=lambda e: _pulled(e, inlined[e.name]) if e.name in inlined else e)
        new = rewrite_statement(s, rewrite)
        if isinstance(new, Equation) and new.is_pointwise and chosen(new):
            inlined[new.names[0]] = new
        else:
            body.append(new)
    return replace(kernel, body=tuple(body))


def _pulled(e: Load, equation: Equation) -> Expr:
    """The value of a pointwise equation at the index of a load, under the load's guard."""
    move = Rewriter(dict(zip(equation.axes, e.index, strict=True)))
    value = move(equation.args[0])
    if e.guard is None:
        return value
    guard = e.guard
    guarded = Rewriter(load=lambda x: replace_guard(x, guard))(value)
    return op("where", guard, guarded, const(0, e.dtype))


def replace_guard(e: Load, guard: Expr) -> Load:
    """The load under one more condition."""
    return Load(e.name, e.index, e.dtype, both(e.guard, guard))


def may_move(kernel: Kernel, e: Equation) -> bool:
    """True where a value is the same wherever in the kernel it is computed: nothing that it reads is written here."""
    written = {s.buffer for s in kernel.stores}
    return not any(x.name in written for x in loads_in(*e.args))
