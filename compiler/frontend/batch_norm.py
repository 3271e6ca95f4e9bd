"""Lowerings of batch normalisation, with given statistics and with the batch's own, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .context import F32, Context, Unsupported, Value, lowers
from .reductions import moments


def _channels(x: Value) -> tuple[int, ...]:
    """All dimensions but the channels', which is the second."""
    return (0, *range(2, x.rank))


def _along(cx: Context, v: Value, x: Value, dtype: Any) -> Value:
    """A [C] vector against [N, C, ...]."""
    return cx.g.reshape(cx.g.cast(v, dtype), (x.shape[1], *(1 for _ in x.shape[2:])))


def _normalise(cx: Context, x: Value, mean: Value, rstd: Value, weight: Value | None, bias: Value | None) -> Value:
    wide = x.dtype.compute
    out = (cx.g.cast(x, wide) - mean) * rstd
    if weight is not None:
        out = out * _along(cx, weight, x, wide)
    if bias is not None:
        out = out + _along(cx, bias, x, wide)
    return cx.g.cast(out, x.dtype)


def _trained(
    cx: Context, x: Value, weight: Value | None, bias: Value | None, means: Value | None, variances: Value | None,
    momentum: float, eps: float,
) -> list[Value | None]:  # fmt: skip
    """[out, batch mean, batch rstd, new running mean, new running variance]"""
    g, wide, dims = cx.g, x.dtype.compute, _channels(x)
    mean, variance = moments(cx, g.cast(x, wide), dims)
    rstd = g.rsqrt(variance + eps)
    out = _normalise(cx, x, mean, rstd, weight, bias)
    flat = (x.shape[1],)
    mean, variance, rstd = (g.reshape(v, flat) for v in (mean, variance, rstd))
    count = cx.count(x, dims, wide)
    unbiased = variance * count / (count - 1.0 if isinstance(count, Value) or count != 1 else 0.0)
    new_means = None if means is None else _moved(cx, means, mean, momentum)
    new_variances = None if variances is None else _moved(cx, variances, unbiased, momentum)
    return [out, mean, rstd, new_means, new_variances]


def _moved(cx: Context, old: Value, new: Value, momentum: float) -> Value:
    wide = new.dtype
    return cx.g.cast(cx.g.cast(old, wide) * (1 - momentum) + new * momentum, old.dtype)


def _tested(
    cx: Context, x: Value, weight: Value | None, bias: Value | None, means: Value, variances: Value, eps: float
) -> Value:
    wide = x.dtype.compute
    rstd = cx.g.rsqrt(_along(cx, variances, x, wide) + eps)
    return _normalise(cx, x, _along(cx, means, x, wide), rstd, weight, bias)


def _rounded(cx: Context, values: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """The first results in the types that were traced; a result of size 0 is an empty tensor."""
    out: list[Value | None] = []
    for k, value in enumerate(values[: len(cx.metas)]):
        meta = cx.metas[k]
        if meta is None or value is None:
            out.append(None)
        elif meta.shape == (0,) and value.shape != (0,):
            out.append(cx.g.full((0,), 0, cx.dtype_of(k)))
        else:
            out.append(cx.g.cast(value, cx.dtype_of(k)))
    return tuple(out)


def _empty(cx: Context, number: int) -> Value:
    return cx.g.full((0,), 0, cx.dtype_of(number))


@lowers("_native_batch_norm_legit_functional.default")
def _functional(
    cx: Context, x: Value, weight: Value | None, bias: Value | None, means: Value, variances: Value, training: bool,
    momentum: float, eps: float,
) -> Any:  # fmt: skip
    if not training:
        return _tested(cx, x, weight, bias, means, variances, eps), _empty(cx, 1), _empty(cx, 2), means, variances
    return _rounded(cx, _trained(cx, x, weight, bias, means, variances, momentum, eps))


@lowers("_native_batch_norm_legit.no_stats")
def _no_stats(
    cx: Context, x: Value, weight: Value | None, bias: Value | None, training: bool, momentum: float, eps: float
) -> Any:
    return _rounded(cx, _trained(cx, x, weight, bias, None, None, momentum, eps))


@lowers("_native_batch_norm_legit_no_training.default")
def _no_training(
    cx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    means: Value,
    variances: Value,
    momentum: float,
    eps: float,
) -> Any:
    return _tested(cx, x, weight, bias, means, variances, eps), _empty(cx, 1), _empty(cx, 2)


@lowers("_batch_norm_with_update_functional.default")
def _with_update(
    cx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    means: Value,
    variances: Value,
    momentum: float,
    eps: float,
) -> Any:
    out, mean, rstd, new_means, new_variances = _trained(cx, x, weight, bias, means, variances, momentum, eps)
    return _rounded(cx, [out, mean, rstd, cx.g.full((0,), 0, cx.dtype_of(3)), new_means, new_variances])


@lowers("_batch_norm_no_update.default")
def _no_update(
    cx: Context, x: Value, weight: Value | None, bias: Value | None, means: Value | None, variances: Value | None,
    momentum: float, eps: float,
) -> Any:  # fmt: skip
    if means is None or variances is None:
        raise Unsupported("without statistics")
    return _rounded(cx, [_tested(cx, x, weight, bias, means, variances, eps), *(_empty(cx, k) for k in (1, 2, 3))])


@lowers("native_batch_norm_backward.default")
def _backward(
    cx: Context, grad: Value, x: Value, weight: Value | None, means: Value | None, variances: Value | None,
    save_mean: Value | None, save_rstd: Value | None, train: bool, eps: float, mask: Sequence[bool],
) -> Any:  # fmt: skip
    g, wide, dims = cx.g, F32 if x.dtype.compute is F32 else x.dtype, _channels(x)
    if train:
        assert save_mean is not None and save_rstd is not None
        mean, rstd = _along(cx, save_mean, x, wide), _along(cx, save_rstd, x, wide)
    else:
        assert means is not None and variances is not None
        mean, rstd = _along(cx, means, x, wide), g.rsqrt(_along(cx, variances, x, wide) + eps)
    dy = g.cast(grad, wide)
    unit = (g.cast(x, wide) - mean) * rstd
    dx = None
    if mask[0]:
        inner = dy
        if train:
            inner = dy - g.mean(dy, dims, keepdim=True) - unit * g.mean(dy * unit, dims, keepdim=True)
        scale = rstd if weight is None else rstd * _along(cx, weight, x, wide)
        dx = inner * scale
    dweight = g.sum(dy * unit, dims) if mask[1] else None
    dbias = g.sum(dy, dims) if mask[2] else None
    return _rounded(cx, [dx, dweight, dbias])
