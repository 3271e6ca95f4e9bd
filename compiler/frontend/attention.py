"""Lowerings of attention to equations: two contractions, and the softmax between them. What fuses them is derived.

    s[i, j] = scale * sum(d) q[i, d] * k[j, d] + mask[i, j]      p = exp(s - max s)      y = (p / sum p) v

and its gradients, of the logarithm l of the sums of exponentials:

    p[i, j] = exp(s[i, j] - l[i])    t[i, j] = sum(e) g[i, e] v[j, e]    u = p * (t - sum(e) g[i, e] y[i, e]) * scale
    dq[i, d] = sum(j) u[i, j] k[j, d]     dk[j, d] = sum(i) u[i, j] q[i, d]     dv[j, e] = sum(i) p[i, j] g[i, e]

A row without a key (all of it -inf) gives 0, as ATen's kernels have it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...ir.types import BOOL, F32
from ...passes.linked import FEWEST, WIDEST
from .context import Context, Unsupported, Value, lowers
from .contractions import Product


@lowers("_scaled_dot_product_flash_attention_for_cpu.default")
def _attention(
    cx: Context, q: Value, k: Value, v: Value, dropout: float = 0.0, causal: bool = False, *,
    attn_mask: Value | None = None, scale: float | None = None,
) -> tuple[Value, Value]:  # fmt: skip
    if dropout:
        raise Unsupported("attention with dropout")
    sizes = _sizes(q, v)
    _leave_to_library(cx, sizes, q, k)
    g = cx.g
    scores, live = _scores(cx, sizes, q, k, attn_mask, causal, scale)
    if live is not None:
        scores = g.where(live, scores, -math.inf)
    batch, heads, queries, width = sizes.batch, sizes.heads, sizes.queries, sizes.width
    top = g.reduce("max", scores, (4,), keepdim=True)
    shift = g.where(top.equals(-math.inf), 0.0, top)
    power = g.exp(scores - shift)
    total = g.sum(power, (4,), keepdim=True)
    share = g.cast(power / g.where(total.equals(0.0), 1.0, total), q.dtype)
    out = g.contract(share, v, ((0, 1, 2, 3, 5), (0, 1, 5, 4), (0, 1, 2, 3, 4)))
    out = cx.round(g.reshape(out, (batch, heads, queries, width)))
    sums = g.reshape(top + g.log(total), (batch, heads, queries))
    return g.lay_out(out, _strides(batch, heads, queries, width)), sums


@lowers("_scaled_dot_product_flash_attention_for_cpu_backward.default")
def _gradients(
    cx: Context, grad: Value, q: Value, k: Value, v: Value, out: Value, sums: Value, dropout: float = 0.0,
    causal: bool = False, *, attn_mask: Value | None = None, scale: float | None = None,
) -> tuple[Value, Value, Value]:  # fmt: skip
    if dropout:
        raise Unsupported("attention with dropout")
    sizes = _sizes(q, v)
    _leave_to_library(cx, sizes, q, k)
    g, s = cx.g, sizes
    grouped = (s.batch, s.groups, s.heads // s.groups, s.queries)
    scores, live = _scores(cx, sizes, q, k, attn_mask, causal, scale)
    total = g.reshape(sums, (*grouped, 1))
    share = g.exp(scores - g.where(total.equals(-math.inf), 0.0, total))
    wide, result = (g.reshape(x, (*grouped, s.width)) for x in (grad, out))
    delta = g.sum(g.cast(wide, F32) * g.cast(result, F32), (4,), keepdim=True)
    change = g.contract(wide, v, ((0, 1, 2, 3, 4), (0, 1, 5, 4), (0, 1, 2, 3, 5))) - delta
    factor = 1 / math.sqrt(s.depth) if scale is None else scale
    change = share * change * factor
    if live is not None:
        share, change = (g.where(live, x, 0.0) for x in (share, change))
    share, change = g.cast(share, q.dtype), g.cast(change, q.dtype)
    of_rows, of_keys = ((0, 1, 5, 4), (0, 1, 2, 3, 4)), ((0, 1, 2, 3, 4), (0, 1, 2, 5, 4))
    of_q = g.contract(change, k, ((0, 1, 2, 3, 5), *of_rows))
    rows = g.reshape(q, (*grouped, s.depth))
    of_k = g.contract(change, rows, ((0, 1, 2, 3, 5), *of_keys))
    of_v = g.contract(share, wide, ((0, 1, 2, 3, 5), *of_keys))
    if s.heads > s.groups:
        of_k, of_v = g.sum(of_k, (2,)), g.sum(of_v, (2,))
    found = [cx.round(g.reshape(x, like.shape)) for x, like in ((of_q, q), (of_k, k), (of_v, v))]
    laid = [g.lay_out(x, _strides(*_four(x))) for x in found]
    return laid[0], laid[1], laid[2]


@dataclass(frozen=True, slots=True)
class _Sizes:
    batch: int
    groups: int
    heads: int
    queries: int
    keys: int
    depth: int
    width: int


def _sizes(q: Value, v: Value) -> _Sizes:
    batch, heads, queries, depth = _static(q)
    _, groups, keys, width = _static(v)
    return _Sizes(batch, groups, heads, queries, keys, depth, width)


def _leave_to_library(cx: Context, s: _Sizes, q: Value, k: Value) -> None:
    if max(s.width, s.depth) > WIDEST:
        raise Unsupported("attention of wide heads")
    if cx.apart:
        raise Unsupported("attention that no one kernel of ours computes")
    rows = s.queries * (s.heads // s.groups)
    linked = rows >= FEWEST  # few of them read keys and values once, in kernels of their own
    cx.linked = 0 if linked else None
    types = q.dtype, k.dtype
    reason = cx.judge(Product(s.batch * s.groups, rows, s.keys, s.depth, types, (True, True), linked=linked))
    if reason:
        raise Unsupported(reason)


def _scores(
    cx: Context, s: _Sizes, q: Value, k: Value, mask: Value | None, causal: bool, scale: float | None
) -> tuple[Value, Value | None]:  # fmt: skip
    """(what softmax is taken of, where it is not -inf for another reason than an additive mask)"""
    g, leading = cx.g, (s.batch, s.groups, s.heads // s.groups)
    grouped = g.reshape(q, (*leading, s.queries, s.depth))
    scores = g.contract(grouped, k, ((0, 1, 2, 3, 4), (0, 1, 5, 4), (0, 1, 2, 3, 5)))
    scores = scores * (1 / math.sqrt(s.depth) if scale is None else scale)
    live: Value | None = None
    if causal:
        i, j = (g.reshape(g.iota(n), shape) for n, shape in ((s.queries, (s.queries, 1)), (s.keys, (1, s.keys))))
        live = g.apply("le", j, i)
    if mask is not None:
        whole = (s.batch, s.heads, s.queries, s.keys)
        mask = g.expand(g.reshape(mask, (*(1,) * (4 - mask.rank), *mask.shape)), whole)
        mask = g.reshape(mask, (*leading, *whole[2:]))
        if mask.dtype is not BOOL:
            scores = scores + g.cast(mask, scores.dtype)
        else:
            live = mask if live is None else g.apply("and", live, mask)
    return scores, live


def _four(x: Value) -> tuple[int, int, int, int]:
    batch, heads, rows, width = _static(x)
    return batch, heads, rows, width


def _static(x: Value) -> tuple[int, ...]:
    sizes = tuple(n for n in x.shape if isinstance(n, int))
    if len(sizes) < x.rank or 0 in sizes:
        raise Unsupported("attention of nothing" if 0 in sizes else "attention of dynamic sizes")
    return sizes


def _strides(batch: int, heads: int, queries: int, width: int) -> tuple[int, ...]:
    """The heads of a query side by side, as ATen stores them."""
    return heads * queries * width, width, heads * width, 1
