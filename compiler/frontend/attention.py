"""Lowerings of attention to equations: two contractions, and the softmax between them. What fuses them is derived.

    s[i, j] = scale * sum(d) q[i, d] * k[j, d] + mask[i, j]      p = exp(s - max s)      y = (p / sum p) v

A row without a key (all of it -inf) gives 0, as ATen's kernels have it.
"""

from __future__ import annotations

import math
from typing import Any

from ...ir.types import BOOL
from .context import Context, Unsupported, Value, lowers
from .contractions import Product
from .links import FEW_ROWS, WIDEST


@lowers("_scaled_dot_product_flash_attention_for_cpu.default")
def _attention(
    cx: Context, q: Value, k: Value, v: Value, dropout: float = 0.0, causal: bool = False, *,
    attn_mask: Value | None = None, scale: float | None = None,
) -> tuple[Value, Value]:  # fmt: skip
    if dropout:
        raise Unsupported("attention with dropout")
    batch, heads, queries, depth = _static(q)
    _, groups, keys, width = _static(v)
    if queries < FEW_ROWS or width > WIDEST:
        raise Unsupported("attention of few queries" if queries < FEW_ROWS else "attention of wide heads")
    product = Product(batch * groups, queries, keys, depth, (q.dtype, k.dtype), (True, True), linked=True)
    reason = cx.judge(product)
    if reason:
        raise Unsupported(reason)
    g = cx.g
    grouped = g.reshape(q, (batch, groups, heads // groups, queries, depth))
    scores = g.contract(grouped, k, ((0, 1, 2, 3, 4), (0, 1, 5, 4), (0, 1, 2, 3, 5)))
    scores = scores * (1 / math.sqrt(depth) if scale is None else scale)
    if attn_mask is not None:
        scores = _masked(cx, scores, attn_mask, (batch, heads, queries, keys), (batch, groups, heads // groups))
    if causal:
        i, j = (g.reshape(g.iota(n), shape) for n, shape in ((queries, (queries, 1)), (keys, (1, keys))))
        scores = g.where(g.apply("le", j, i), scores, -math.inf)
    top = g.reduce("max", scores, (4,), keepdim=True)
    shift = g.where(top.equals(-math.inf), 0.0, top)
    power = g.exp(scores - shift)
    total = g.sum(power, (4,), keepdim=True)
    share = g.cast(power / g.where(total.equals(0.0), 1.0, total), q.dtype)
    out = g.contract(share, v, ((0, 1, 2, 3, 5), (0, 1, 5, 4), (0, 1, 2, 3, 4)))
    out = cx.round(g.reshape(out, (batch, heads, queries, width)))
    sums = g.reshape(top + g.log(total), (batch, heads, queries))
    return g.lay_out(out, _strides(batch, heads, queries, width)), sums


def _static(x: Value) -> tuple[int, ...]:
    sizes = tuple(n for n in x.shape if isinstance(n, int))
    if len(sizes) < x.rank or 0 in sizes:
        raise Unsupported("attention of nothing" if 0 in sizes else "attention of dynamic sizes")
    return sizes


def _masked(cx: Context, scores: Value, mask: Value, whole: tuple[Any, ...], leading: tuple[Any, ...]) -> Value:
    """Scores with a mask of (rows, keys), or one that broadcasts to (batch, heads, queries, keys)."""
    g = cx.g
    mask = g.expand(g.reshape(mask, (*(1,) * (4 - mask.rank), *mask.shape)), whole)
    mask = g.reshape(mask, (*leading, *whole[2:]))
    if mask.dtype is BOOL:
        return g.where(mask, scores, -math.inf)
    return scores + g.cast(mask, scores.dtype)


def _strides(batch: int, heads: int, queries: int, width: int) -> tuple[int, ...]:
    """The heads of a query side by side, as ATen stores them."""
    return heads * queries * width, width, heads * width, 1
