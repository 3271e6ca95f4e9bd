"""Lowerings of convolutions: sums of products whose operands are read through index maps, without a copy of windows.

    depthwise    y[n, c, i] = sum(t) x[n, c, step*i + stride*t - pad] * w[c, t]          written out, tap by tap
    pointwise    y[n, o, i] = sum(c) x[n, c, i] * w[o, c]                                a contraction
    others       y[n, o, i] = sum(c, t) x[n, c, step*i + stride*t - pad] * w[o, c, t]    one of windows
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from ...ir.types import product
from .context import Context, Unsupported, Value, lowers
from .contractions import Product, contract
from .pools import Windows, make_windows, pad_windows, static_sizes, window_views


@lowers("convolution.default")
def _convolution(
    cx: Context, x: Value, weight: Value, bias: Value | None, step: Sequence[int], pad: Sequence[int],
    stride: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    if transposed or not x.dtype.is_float:
        raise Unsupported("a transposed convolution" if transposed else "a convolution of integers")
    rank, channels = weight.rank - 2, weight.shape[0]
    if x.rank < weight.rank:
        raise Unsupported("a convolution of one image")
    windows = make_windows(rank, static_sizes(weight.shape[2:]), tuple(step), tuple(pad), tuple(stride))
    if weight.shape[1] == 1 and groups == channels == x.shape[1]:
        total = _sum_taps(cx, x, weight, windows)
    elif groups == 1 and set(weight.shape[2:]) == {1} and set(windows.step) == {1} and not any(windows.pad):
        total = _contract_channels(cx, x, weight)
    else:
        total = _contract_windows(cx, x, weight, windows, groups)
    if bias is not None:
        total = total + cx.g.reshape(cx.operand(bias, total.dtype), (channels, *(1,) * rank))
    return cx.round(total)


def _sum_taps(cx: Context, x: Value, weight: Value, windows: Windows) -> Value:
    """Each channel by itself: one product for each position of the window."""
    g, rank, channels = cx.g, weight.rank - 2, weight.shape[0]
    count, strides = static_sizes(cx.shape[2:]), cx.strides(0)
    dense = strides is not None and (strides[1] == 1 or (strides[-1] == 1 and windows.step[-1] == 1))
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
    strides = cx.strides(0)
    if strides is None or 1 not in (strides[1], strides[-1]):
        raise Unsupported("a convolution of which neither channels nor positions lie side by side")
    image = tuple(range(2, x.rank))
    flat = cx.g.reshape(weight, weight.shape[:2])
    labels = (0, 1, *image), (x.rank, 1), (0, x.rank, *image)
    return contract(cx, x, flat, labels, reordered=strides[1] != 1)


def _contract_windows(cx: Context, x: Value, weight: Value, windows: Windows, groups: int) -> Value:
    """Windows of the padded image, of which nothing is copied, times the weights of each group."""
    strides = cx.strides(0)
    if strides is None or 1 not in (strides[1], strides[-1]):
        raise Unsupported("a convolution of which neither channels nor positions lie side by side")
    g, rank = cx.g, weight.rank - 2
    count = static_sizes(cx.shape[2:])
    views = g.windows(pad_windows(cx, x, windows, count, 0.0), count, windows.size, windows.step, windows.stride)
    n, c, o, group, *rest = range(4 + 2 * rank)
    places, taps = tuple(rest[:rank]), tuple(rest[rank:])
    labels = (n, c, *places, *taps), (o, c, *taps), (n, o, *places)
    if groups > 1:
        views, weight = _by_groups(cx, views, 1, groups), _by_groups(cx, weight, 0, groups)
        labels = (n, group, *labels[0][1:]), (group, *labels[1]), (n, group, *labels[2][1:])
    return g.reshape(contract(cx, views, weight, labels, windows=True), cx.shape)


def _by_groups(cx: Context, x: Value, dim: int, groups: int) -> Value:
    """[.., groups * k, ..] as [.., groups, k, ..]."""
    (size,) = static_sizes(x.shape[dim : dim + 1])
    return cx.g.reshape(x, (*x.shape[:dim], groups, size // groups, *x.shape[dim + 1 :]))
