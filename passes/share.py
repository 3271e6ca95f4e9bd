"""Naming what several statements of a kernel compute, so that a schedule may keep it instead of computing it again.

    l[t]    = sum(c) exp(x[t, c] - m[t])              e[t, c] = exp(x[t, c] - m[t])
    y[t, c] <- exp(x[t, c] - m[t]) / l[t]      ->     l[t]    = sum(c) e[t, c]
                                                      y[t, c] <- e[t, c] / l[t]

Only the largest shared expressions are named, and only those that cost more than the store and the load of keeping
them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..ir.expr import Expr, Load, Op, Rewriter, children, walk
from ..ir.index import Axis, of_atom
from ..ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ..ir.scalar import SCALAR_OPS
from ..ir.simplify import Simplifier

WORTH_KEEPING = 6.0  # vector cycles: a store and a load of the first-level cache, and what they displace


def name_shared(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """The kernel with a pointwise equation for each large expression that more than one statement computes."""
    uses: Counter[Expr] = Counter()
    for s in kernel.body:
        uses.update(set(walk(*statement_expressions(s))))
    shared: set[Expr] = {
        e for e, n in uses.items() if n > 1 and isinstance(e, Op) and e.axes and _work(e) >= WORTH_KEEPING
    }
    largest = _largest(kernel, shared, uses)
    if not largest:
        return kernel
    names = {e: f"p{k}" for k, e in enumerate(largest)}
    order = {a: k for k, a in enumerate(kernel.axes)}

    def axes_of(e: Expr) -> tuple[Axis, ...]:
        return tuple(sorted(e.axes, key=order.__getitem__))

    rewrite = _Namer({e: Load(n, tuple(of_atom(a) for a in axes_of(e)), e.dtype) for e, n in names.items()}, simplify)
    body: list[Statement] = []
    defined: set[Expr] = set()
    for s in kernel.body:
        inside = set(walk(*statement_expressions(s)))
        for e in largest:
            if e in inside and e not in defined:
                defined.add(e)
                body.append(Equation((names[e],), axes_of(e), (rewrite.inner(e),), (e.dtype,), source=s.source))
        body.append(_renamed(s, rewrite))
    return replace(kernel, body=tuple(body))


def _renamed(s: Statement, rewrite: Rewriter) -> Statement:
    if isinstance(s, Equation):
        return replace(s, args=tuple(rewrite(a) for a in s.args))
    assert isinstance(s, Store)
    guard = None if s.guard is None else rewrite(s.guard)
    return replace(s, index=tuple(rewrite.index(i) for i in s.index), value=rewrite(s.value), guard=guard)


class _Namer(Rewriter):
    """Replaces named expressions by loads of their names."""

    def __init__(self, named: dict[Expr, Load], simplify: Simplifier) -> None:
        super().__init__(rebuild=simplify)
        self.named = named

    def _rewrite(self, e: Expr) -> Expr:
        return self.named[e] if e in self.named else super()._rewrite(e)

    def inner(self, e: Expr) -> Expr:
        """The right side of the name's own equation (other names inside it are used)."""
        return super()._rewrite(e)


def _largest(kernel: Kernel, shared: set[Expr], uses: Counter[Expr]) -> list[Expr]:
    """Shared expressions that are not always part of one and the same larger shared expression, inner ones first."""
    covered: dict[Expr, int] = {}
    for s in kernel.body:
        for e in set(walk(*statement_expressions(s))):
            if e in shared:
                for c in children(e):
                    covered[c] = max(covered.get(c, 0), uses[e])
    seen = dict.fromkeys(e for s in kernel.body for e in walk(*statement_expressions(s)))
    return [e for e in seen if e in shared and covered.get(e, 0) < uses[e]]


def _work(e: Expr) -> float:
    """Cycles of the part of an expression that changes along its fastest axes; parts of fewer axes are hoisted."""
    full = e.axes
    total = 0.0
    for node in walk(e):
        if node.axes == full:
            total += SCALAR_OPS[node.name].cost if isinstance(node, Op) else 0.5
    return total
