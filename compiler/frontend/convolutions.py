"""Lowerings of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

from .context import Context, Unsupported, Value, lowers
from .pools import make_windows, static_sizes, window_views


@lowers("convolution.default")
def _convolution(
    cx: Context, x: Value, weight: Value, bias: Value | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    if transposed or x.shape[1] != groups or weight.shape[0] != groups:
        raise Unsupported("a convolution that is not depthwise")
    rank = x.rank - 2
    w = make_windows(rank, weight.shape[2:], stride, padding, dilation)
    count = static_sizes(cx.shape[-rank:])
    g = cx.g
    terms = []
    for tap, view in zip(w.taps(), window_views(cx, x, w, count, 0.0), strict=True):
        factor = weight
        for d, t in enumerate(tap):
            factor = g.slice(factor, 2 + d, t, 1, 1)
        factor = g.reshape(factor, (weight.shape[0], *(1,) * rank))
        terms.append(cx.wide(view) * cx.wide(factor))
    total = reduce(lambda a, b: a + b, terms)
    if bias is not None:
        total = total + g.reshape(cx.wide(bias), (weight.shape[0], *(1,) * rank))
    return cx.round(total)
