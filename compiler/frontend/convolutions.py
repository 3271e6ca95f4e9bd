"""Lowerings of convolutions: sums of products whose operands are read through index maps, without a copy of windows.

depthwise    y[n, c, i] = sum(t) x[n, c, step*i + stride*t - pad] * w[c, t]          written out, tap by tap
pointwise    y[n, o, i] = sum(c) x[n, c, i] * w[o, c]                                a contraction
others       y[n, o, i] = sum(c, t) x[n, c, step*i + stride*t - pad] * w[o, c, t]    one of windows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from ...ir.types import product
from .context import Context, Unsupported, Value, lowers
from .contractions import Product, contract
from .dims import Shape
from .pools import Windows, make_windows, pad_windows, static_sizes, window_views


@lowers("convolution.default")
def _convolution(
    cx: Context, x: Value, weight: Value, bias: Value | None, step: Sequence[int], pad: Sequence[int],
    stride: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    if not x.dtype.is_float:
        raise Unsupported("a convolution of integers")
    if x.rank < weight.rank:
        raise Unsupported("a convolution of one image")
    windows = Windows(static_sizes(weight.shape[2:]), *map(tuple, (step, pad, stride)))
    total = (_transposed if transposed else _direct)(cx, x, weight, windows, groups)
    if bias is not None:
        total = total + cx.g.reshape(cx.operand(bias, total.dtype), (cx.shape[1], *(1,) * (x.rank - 2)))
    return cx.round(total)


def _direct(cx: Context, x: Value, weight: Value, windows: Windows, groups: int) -> Value:
    if weight.shape[1] == 1 and groups == weight.shape[0] == x.shape[1]:
        return _sum_taps(cx, x, weight, windows)
    if groups == 1 and set(windows.size) == {1} and set(windows.step) == {1} and not any(windows.pad):
        return _contract_channels(cx, x, weight)
    return _contract_windows(cx, x, _by_groups(cx, weight, 0, groups), windows)


def _transposed(cx: Context, x: Value, weight: Value, windows: Windows, groups: int) -> Value:
    """Each position spread over a window; what is added there are windows again, of turned weights."""
    g, rank = cx.g, x.rank - 2
    filled = tuple(n * k for n, k in zip(static_sizes(x.shape[2:]), windows.size, strict=True))
    if windows.step == windows.size and cx.shape[2:] == filled and set(windows.stride) == {1} and not any(windows.pad):
        return _fill_windows(cx, x, weight, windows, groups)
    for d, size in enumerate(windows.size):
        weight = g.slice(weight, 2 + d, size - 1, size, -1)
    taps = range(3, 3 + rank)
    weight = g.permute(_by_groups(cx, weight, 0, groups), (0, 2, 1, *taps))
    pad = (d * (k - 1) - p for d, k, p in zip(windows.stride, windows.size, windows.pad, strict=True))
    around = replace(windows, pad=tuple(pad), step=(1,) * rank)
    return _contract_windows(cx, _spread(cx, x, windows.step), weight, around)


def _spread(cx: Context, x: Value, step: Sequence[int]) -> Value:
    """The image with its positions `step` apart, and zeros between them."""
    for d, n in enumerate(step, x.rank - len(step)):
        (size,) = static_sizes(x.shape[d : d + 1])
        if n > 1 and size > 1:
            shape = (*x.shape[:d], (size - 1) * n + 1, *x.shape[d + 1 :])
            x = cx.g.slice_scatter(cx.g.full(shape, 0, x.dtype), x, d, 0, n)
    return x


def _fill_windows(cx: Context, x: Value, weight: Value, windows: Windows, groups: int) -> Value:
    """Windows that lie side by side: each position of the image is one of them in the result."""
    _require_dense(cx)
    g, rank = cx.g, x.rank - 2
    n, group, c, o, *rest = range(4 + 2 * rank)
    places, taps = tuple(rest[:rank]), tuple(rest[rank:])
    out = (n, group, o, *(label for pair in zip(places, taps, strict=True) for label in pair))
    labels = (n, group, c, *places), (group, c, o, *taps), out
    x, weight = _by_groups(cx, x, 1, groups), _by_groups(cx, weight, 0, groups)
    return g.reshape(contract(cx, x, weight, labels, windows=True), cx.shape)


def _sum_taps(cx: Context, x: Value, weight: Value, windows: Windows) -> Value:
    """Each channel by itself: one product for each position of the window."""
    g, rank, channels = cx.g, weight.rank - 2, weight.shape[0]
    windows = make_windows(rank, windows.size, windows.step, windows.pad, windows.stride)
    count, strides = static_sizes(cx.shape[2:]), cx.strides(0)
    dense = strides is not None and (strides[1] == 1 or (strides[-1] == 1 and windows.step[-1] <= 2))
    taps, images = product(windows.size), product((x.shape[0], channels))
    reason = cx.judge(Product(images, product(count), 1, taps, (x.dtype, weight.dtype), (dense, True)))
    if reason:
        raise Unsupported(reason)
    flat = g.reshape(cx.wide(weight), (channels, taps))
    terms = [
        cx.wide(view) * g.reshape(g.slice(flat, 1, k, 1, 1), (channels, *(1,) * rank))
        for k, view in enumerate(window_views(cx, x, windows, count, 0.0))
    ]
    return reduce(lambda a, b: a + b, terms)


def _contract_channels(cx: Context, x: Value, weight: Value) -> Value:
    """Windows of one position are a product of matrices, whose rows are the positions of the image."""
    strides = _require_dense(cx)
    image = tuple(range(2, x.rank))
    flat = cx.g.reshape(weight, weight.shape[:2])
    labels = (0, 1, *image), (x.rank, 1), (0, x.rank, *image)
    return contract(cx, x, flat, labels, reordered=strides[1] != 1)


def _contract_windows(cx: Context, x: Value, weight: Value, windows: Windows) -> Value:
    """Windows of the padded image, of which nothing is copied, times weights [groups, outputs, channels, *window]."""
    dense = _require_dense(cx)[1] == 1, False
    g, rank, count = cx.g, x.rank - 2, static_sizes(cx.shape[2:])
    views = g.windows(pad_windows(cx, x, windows, count, 0.0), count, windows.size, windows.step, windows.stride)
    n, c, o, group, *rest = range(4 + 2 * rank)
    places, taps = tuple(rest[:rank]), tuple(rest[rank:])
    labels = (n, group, c, *places, *taps), (group, o, c, *taps), (n, group, o, *places)
    groups = static_sizes(weight.shape[:1])[0]
    total = contract(cx, _by_groups(cx, views, 1, groups), weight, labels, windows=True, dense=dense)
    return g.reshape(total, cx.shape)


def _require_dense(cx: Context) -> Shape:
    """The strides of the image."""
    strides = cx.strides(0)
    if strides is None or 1 not in (strides[1], strides[-1]):
        raise Unsupported("a convolution of which neither channels nor positions lie side by side")
    return strides


def _by_groups(cx: Context, x: Value, dim: int, groups: int) -> Value:
    """[.., groups * k, ..] as [.., groups, k, ..]."""
    (size,) = static_sizes(x.shape[dim : dim + 1])
    return cx.g.reshape(x, (*x.shape[:dim], groups, size // groups, *x.shape[dim + 1 :]))
