"""Sums that grow in step: their first terms, then their second ones, and so on.

Sums of points side by side share most of what they load, each an addition later than the one before it. Written one
after the other, all of it would wait in registers; in step, no more than the sums themselves and a few elements do, and
no addition waits for the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..ir.expr import Expr, Load, Op, Rewriter, children, walk
from ..ir.tiles import Let, Put, Statement
from ..ir.types import F32

LONG_SUM = 4  # additions of a sum that grows in step with others


def in_step(puts: Sequence[Put]) -> list[Statement]:
    """Stores of sums, whose terms are added to all sums in turn.

    y[0] <- a*x[0] + b*x[1] + c*x[2]; y[1] <- a*x[1] + b*x[2] + c*x[3]
    ->
    s0 = a*x[0] + b*x[1]; s1 = a*x[1] + b*x[2]; t0 = s0 + c*x[2]; t1 = s1 + c*x[3]; y[0] <- t0; y[1] <- t1
    """
    chains = [_additions(p.value) for p in puts]
    if min(map(len, chains)) < LONG_SUM:
        return list(puts)
    rewriters = [Rewriter() for _ in puts]
    lets: list[Statement] = []
    for k in range(max(map(len, chains))):
        for at, (chain, rewrite) in enumerate(zip(chains, rewriters, strict=True)):
            if k < len(chain):
                lets.append(Let(f"sum{k}_{at}", rewrite(chain[k])))
                rewrite.memo[chain[k]] = Load(f"sum{k}_{at}", (), chain[k].dtype)
    return [*lets, *(replace(p, value=rewrite(p.value)) for p, rewrite in zip(puts, rewriters, strict=True))]


def _additions(e: Expr) -> list[Expr]:
    """The additions of f32 on the way to the innermost one, from there outwards."""
    depth: dict[Expr, int] = {}
    for inner in walk(e):
        below = children(inner) if isinstance(inner, Op) else ()
        depth[inner] = _adds(inner) + max((depth[c] for c in below), default=0)
    found: list[Expr] = []
    while depth[e]:
        if _adds(e):
            found.append(e)
        e = max(children(e), key=lambda c: depth[c])
    return found[::-1]


def _adds(e: Expr) -> bool:
    return isinstance(e, Op) and e.name == "add" and e.dtype is F32
