"""Lowerings of softmax and the normalisations, as plain equations over sums and maxima."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .context import F32, Context, Dim, Unsupported, Value, lowers
from .reductions import moments

Triple = tuple[Value | None, Value | None, Value | None]


@lowers("_softmax.default")
def _softmax(cx: Context, x: Value, dim: int, half_to_float: bool = False) -> Value:
    wide, dims = cx.wide(x), cx.reduced(x, dim)
    e = cx.g.exp(wide - cx.g.reduce("max", wide, dims, keepdim=True))
    return cx.round(e / cx.g.sum(e, dims, keepdim=True))


@lowers("_log_softmax.default")
def _log_softmax(cx: Context, x: Value, dim: int, half_to_float: bool = False) -> Value:
    g, wide, dims = cx.g, cx.wide(x), cx.reduced(x, dim)
    shifted = wide - g.reduce("max", wide, dims, keepdim=True)
    return cx.round(shifted - g.log(g.sum(g.exp(shifted), dims, keepdim=True)))


@lowers("_softmax_backward_data.default")
def _softmax_backward(cx: Context, grad: Value, y: Value, dim: int, input_dtype: Any) -> Value:
    grad, y = _wider(cx, grad, y)
    product = grad * y
    return cx.round(product - y * cx.g.sum(product, cx.reduced(y, dim), keepdim=True))


@lowers("_log_softmax_backward_data.default")
def _log_softmax_backward(cx: Context, grad: Value, y: Value, dim: int, input_dtype: Any) -> Value:
    grad, y = _wider(cx, grad, y)
    return cx.round(grad - cx.g.exp(y) * cx.g.sum(grad, cx.reduced(y, dim), keepdim=True))


@lowers("_safe_softmax.default")
def _safe_softmax(cx: Context, x: Value, dim: int, dtype: Any = None) -> Value:
    """Softmax whose fully masked rows (all -inf) are 0."""
    g, wide, dims = cx.g, cx.wide(x), cx.reduced(x, dim)
    top = g.reduce("max", wide, dims, keepdim=True)
    empty = top.equals(float("-inf"))
    e = g.exp(wide - top)
    return cx.round(g.where(empty, 0.0, e / g.sum(e, dims, keepdim=True)))


def _wider(cx: Context, *values: Value) -> list[Value]:
    """Operands in the compute type of the widest of them (a bf16 gradient may come from an f32 one)."""
    wide = max((v.dtype.compute for v in values), key=lambda d: d.itemsize)
    return [cx.g.cast(v, wide) for v in values]


def _affine(cx: Context, x: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        x = x * cx.g.cast(weight, x.dtype)
    return x if bias is None else x + cx.g.cast(bias, x.dtype)


@lowers("native_layer_norm.default")
def _layer_norm(
    cx: Context, x: Value, shape: Sequence[Dim], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, Value, Value]:
    wide = cx.wide(x)
    dims = range(x.rank - len(shape), x.rank)
    mean, variance = moments(cx, wide, tuple(dims))
    rstd = cx.g.rsqrt(variance + eps)
    out = _affine(cx, (wide - mean) * rstd, weight, bias)
    return cx.round(out), cx.g.cast(mean, cx.dtype_of(1)), cx.g.cast(rstd, cx.dtype_of(2))


@lowers("native_layer_norm_backward.default")
def _layer_norm_backward(
    cx: Context, grad: Value, x: Value, shape: Sequence[Dim], mean: Value, rstd: Value, weight: Value | None,
    bias: Value | None, mask: Sequence[bool],
) -> Triple:  # fmt: skip
    g, wide = cx.g, F32 if x.dtype.compute is F32 else x.dtype
    dims, outer = tuple(range(x.rank - len(shape), x.rank)), tuple(range(x.rank - len(shape)))
    grad, mean, rstd = g.cast(grad, wide), g.cast(mean, wide), g.cast(rstd, wide)
    unit = (g.cast(x, wide) - mean) * rstd
    dx = dweight = dbias = None
    if mask[0]:
        inner = grad if weight is None else grad * g.cast(weight, wide)
        along = unit * g.mean(inner * unit, dims, keepdim=True)
        dx = g.cast((inner - g.mean(inner, dims, keepdim=True) - along) * rstd, x.dtype)
    if mask[1] and weight is not None:
        dweight = g.cast(g.sum(grad * unit, outer), weight.dtype)
    if mask[2] and bias is not None:
        dbias = g.cast(g.sum(grad, outer), bias.dtype)
    return dx, dweight, dbias


@lowers("_fused_rms_norm.default")
def _rms_norm(
    cx: Context, x: Value, shape: Sequence[Dim], weight: Value | None, eps: float | None
) -> tuple[Value, Value]:
    if eps is None:
        eps = x.dtype.epsilon if x.dtype.compute is x.dtype else F32.epsilon
    wide = cx.wide(x)
    dims = tuple(range(x.rank - len(shape), x.rank))
    rstd = cx.g.rsqrt(cx.g.mean(wide * wide, dims, keepdim=True) + eps)
    return cx.round(_affine(cx, wide * rstd, weight, None)), cx.g.cast(rstd, cx.dtype_of(1))


@lowers("_fused_rms_norm_backward.default")
def _rms_norm_backward(
    cx: Context, grad: Value, x: Value, shape: Sequence[Dim], rstd: Value, weight: Value | None, mask: Sequence[bool]
) -> tuple[Value | None, Value | None]:
    g, wide = cx.g, F32 if x.dtype.compute is F32 else x.dtype
    dims, outer = tuple(range(x.rank - len(shape), x.rank)), tuple(range(x.rank - len(shape)))
    grad, rstd = g.cast(grad, wide), g.cast(rstd, wide)
    unit = g.cast(x, wide) * rstd
    dx = dweight = None
    if mask[0]:
        inner = grad if weight is None else grad * g.cast(weight, wide)
        dx = g.cast((inner - unit * g.mean(inner * unit, dims, keepdim=True)) * rstd, x.dtype)
    if mask[1] and weight is not None:
        dweight = g.cast(g.sum(grad * unit, outer), weight.dtype)
    return dx, dweight


def grouped_shape(x: Value, groups: int) -> tuple[Dim, ...]:
    channels = x.shape[1]
    if not isinstance(channels, int):
        raise Unsupported("a dynamic number of channels")
    return (x.shape[0], groups, channels // groups, *x.shape[2:])


def per_channel(cx: Context, v: Value, x: Value, groups: int) -> Value:
    """A [C] vector against [N, groups, C/groups, ...]."""
    return cx.g.reshape(v, (groups, v.shape[0] // groups, *(1 for _ in x.shape[2:])))


@lowers("native_group_norm.default")
def _group_norm(
    cx: Context, x: Value, weight: Value | None, bias: Value | None, n: Dim, c: Dim, hxw: Dim, groups: int, eps: float
) -> tuple[Value, Value, Value]:
    g, split = cx.g, grouped_shape(x, groups)
    wide = g.reshape(cx.wide(x), split)
    mean, variance = moments(cx, wide, tuple(range(2, len(split))))
    rstd = g.rsqrt(variance + eps)
    out = (wide - mean) * rstd
    if weight is not None:
        out = out * g.cast(per_channel(cx, weight, x, groups), wide.dtype)
    if bias is not None:
        out = out + g.cast(per_channel(cx, bias, x, groups), wide.dtype)
    shape = split[:2]
    mean, rstd = g.reshape(mean, shape), g.reshape(rstd, shape)
    return cx.round(g.reshape(out, x.shape)), g.cast(mean, cx.dtype_of(1)), g.cast(rstd, cx.dtype_of(2))


@lowers("native_group_norm_backward.default")
def _group_norm_backward(
    cx: Context, grad: Value, x: Value, mean: Value, rstd: Value, weight: Value | None, n: Dim, c: Dim, hxw: Dim,
    groups: int, mask: Sequence[bool],
) -> Triple:  # fmt: skip
    g, wide, grouped = cx.g, F32 if x.dtype.compute is F32 else x.dtype, grouped_shape(x, groups)[:3]
    flat = (*x.shape[:2], *(1 for _ in x.shape[2:]))

    def of_channel(v: Value) -> Value:
        """A number for each group against [N, C, ...]."""
        return g.reshape(g.expand(g.reshape(v, (*grouped[:2], 1)), grouped), flat)

    def over_group(v: Value) -> Value:
        """The mean over a group of what [N, C] sums over its channels' points."""
        total = g.sum(g.reshape(v if weight is None else v * g.cast(weight, wide), grouped), (2,))
        return of_channel(total / cx.count(g.reshape(x, (*grouped, *x.shape[2:])), range(2, x.rank + 1), wide))

    dy, rstd = g.cast(grad, wide), of_channel(g.cast(rstd, wide))
    unit = (g.cast(x, wide) - of_channel(g.cast(mean, wide))) * rstd
    # Sums by channel first: the gradients of weight, bias and x all need them.
    points = tuple(range(2, x.rank))
    sums, products = g.sum(dy, points), g.sum(dy * unit, points)
    dx = dweight = dbias = None
    if mask[0]:
        inner = dy if weight is None else dy * g.reshape(g.cast(weight, wide), flat[1:])
        dx = g.cast((inner - over_group(sums) - unit * over_group(products)) * rstd, x.dtype)
    if mask[1] and weight is not None:
        dweight = g.cast(g.sum(products, (0,)), weight.dtype)
    if mask[2]:
        dbias = g.cast(g.sum(sums, (0,)), cx.dtype_of(2))
    return dx, dweight, dbias
