"""Lowerings of reductions. Narrow floats accumulate in f32 and are rounded at the end, integers accumulate in i64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir.types import product
from .context import BOOL, I64, Context, Unsupported, Value, accumulator, lowers

Dims = int | Sequence[int] | None
INF = math.inf


def _reduce(cx: Context, state: str, x: Value, dim: Dims, keepdim: bool) -> Value:
    """Convert to the result's type, reduce in its accumulator type, round."""
    dims = cx.reduced(x, dim)
    wide = accumulator(cx.dtype)
    return cx.round(cx.g.reduce(state, cx.g.cast(cx.operand(x, cx.dtype), wide), dims, keepdim))


@lowers("sum.default", "sum.dim_IntList", "prims.sum.default")
def _sum(cx: Context, x: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return _reduce(cx, "sum", x, dim, keepdim)


@lowers("prod.default", "prod.dim_int")
def _prod(cx: Context, x: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return _reduce(cx, "prod", x, dim, keepdim)


@lowers("mean.default", "mean.dim")
def _mean(cx: Context, x: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    wide = cx.wide(cx.operand(x, cx.dtype))
    return cx.round(cx.g.mean(wide, cx.reduced(x, dim), keepdim))


def _refuse_empty(x: Value, dims: Sequence[int]) -> None:
    """The largest of no elements is an error, which ATen words best."""
    if any(x.shape[d] == 0 for d in dims):
        raise Unsupported("an extremum of no elements")


def _extremum(cx: Context, state: str, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
    _refuse_empty(x, dims)
    if x.dtype is BOOL:
        return cx.g.reduce({"max": "any", "min": "all"}[state], x, dims, keepdim)
    return cx.g.cast(cx.g.reduce(state, cx.g.cast(x, x.dtype.compute), dims, keepdim), x.dtype)


@lowers("amax.default", "max.default")
def _amax(cx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return _extremum(cx, "max", x, cx.reduced(x, dim), keepdim)


@lowers("amin.default", "min.default")
def _amin(cx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return _extremum(cx, "min", x, cx.reduced(x, dim), keepdim)


@lowers("aminmax.default")
def _aminmax(cx: Context, x: Value, *, dim: int | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    dims = cx.reduced(x, dim)
    return _extremum(cx, "min", x, dims, keepdim), _extremum(cx, "max", x, dims, keepdim)


@lowers("max.dim")
def _max_dim(cx: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return _extremum(cx, "max", x, cx.reduced(x, dim), keepdim), _argmax(cx, x, dim, keepdim)


@lowers("min.dim")
def _min_dim(cx: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return _extremum(cx, "min", x, cx.reduced(x, dim), keepdim), _argmin(cx, x, dim, keepdim)


@lowers("argmax.default")
def _argmax(cx: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _position(cx, "argmax", x, dim, keepdim)


@lowers("argmin.default")
def _argmin(cx: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _position(cx, "argmin", x, dim, keepdim)


def _position(cx: Context, state: str, x: Value, dim: int | None, keepdim: bool) -> Value:
    wide = cx.g.cast(x, accumulator(x.dtype))
    if x.rank == 0:
        wide, dim, keepdim = cx.g.reshape(wide, (1,)), 0, False
    dims = cx.reduced(wide, dim)
    _refuse_empty(wide, dims)
    return cx.g.reduce(state, wide, dims, keepdim)


@lowers("any.default", "any.dim", "any.dims")
def _any(cx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return cx.round(cx.g.reduce("any", cx.truth(x), _listed(cx, x, dim), keepdim))


@lowers("all.default", "all.dim", "all.dims")
def _all(cx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return cx.round(cx.g.reduce("all", cx.truth(x), _listed(cx, x, dim), keepdim))


def _listed(cx: Context, x: Value, dim: Dims) -> tuple[int, ...]:
    """As `reduced`, but for these an empty list means no dimension."""
    return () if isinstance(dim, (list, tuple)) and not dim else cx.reduced(x, dim)


def moments(cx: Context, x: Value, dims: Sequence[int], correction: Any = 0) -> tuple[Value, Value]:
    """(mean, variance) along `dims`, which stay with size 1: two passes, the second over the centred values."""
    mean = cx.g.mean(x, dims, keepdim=True)
    centred = x - mean
    return mean, cx.g.sum(centred * centred, dims, keepdim=True) / cx.count(x, dims, x.dtype, correction)


def _variance(cx: Context, x: Value, dim: Dims, correction: Any, keepdim: bool) -> tuple[Value, Value]:
    if not cx.dtype.is_float:
        raise Unsupported("of integers")
    dims = cx.reduced(x, dim)
    mean, variance = moments(cx, cx.wide(x), dims, 1 if correction is None else correction)
    if keepdim:
        return mean, variance
    kept = tuple(n for d, n in enumerate(x.shape) if d not in dims)
    return cx.g.reshape(mean, kept), cx.g.reshape(variance, kept)


@lowers("var.correction")
def _var(cx: Context, x: Value, dim: Dims = None, *, correction: Any = None, keepdim: bool = False) -> Value:
    return cx.round(_variance(cx, x, dim, correction, keepdim)[1])


@lowers("std.correction")
def _std(cx: Context, x: Value, dim: Dims = None, *, correction: Any = None, keepdim: bool = False) -> Value:
    return cx.round(cx.g.sqrt(_variance(cx, x, dim, correction, keepdim)[1]))


@lowers("var_mean.correction")
def _var_mean(cx: Context, x: Value, dim: Dims = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    mean, variance = _variance(cx, x, dim, correction, keepdim)
    return cx.round(variance), cx.round(mean)


@lowers("std_mean.correction")
def _std_mean(cx: Context, x: Value, dim: Dims = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    mean, variance = _variance(cx, x, dim, correction, keepdim)
    return cx.round(cx.g.sqrt(variance)), cx.round(mean)


@lowers("logsumexp.default")
def _logsumexp(cx: Context, x: Value, dim: Dims, keepdim: bool = False) -> Value:
    g, wide, dims = cx.g, cx.wide(x), cx.reduced(x, dim)
    top = g.reduce("max", wide, dims, keepdim=True)
    shift = g.where(g.isinf(top), 0.0, top)
    out = g.log(g.sum(g.exp(wide - shift), dims, keepdim=True)) + shift
    if not keepdim:
        out = g.reshape(out, tuple(n for d, n in enumerate(x.shape) if d not in dims))
    return cx.round(out)


@lowers("linalg_vector_norm.default")
def _vector_norm(
    cx: Context, x: Value, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    g, dims = cx.g, cx.reduced(x, dim)
    wide = cx.wide(cx.operand(x, cx.dtype))
    if ord == 0:
        return cx.round(g.sum(g.cast(g.apply("ne", wide, 0), wide.dtype), dims, keepdim))
    if ord == 2:
        return cx.round(g.sqrt(g.sum(wide * wide, dims, keepdim)))
    size = g.abs(wide)
    if ord in (INF, -INF):
        return cx.round(g.reduce("max" if ord > 0 else "min", size, dims, keepdim))
    if ord == 1:
        return cx.round(g.sum(size, dims, keepdim))
    total = g.sum(g.apply("pow", size, float(ord)), dims, keepdim)
    return cx.round(g.apply("pow", total, 1 / ord))


@lowers("count_nonzero.default", "count_nonzero.dim_IntList")
def _count_nonzero(cx: Context, x: Value, dim: Dims = None) -> Value:
    return cx.g.sum(cx.g.cast(cx.truth(x), cx.dtype), cx.reduced(x, dim))


@lowers("histc.default")
def _histc(cx: Context, x: Value, bins: int = 100, min: Any = 0, max: Any = 0) -> Value:
    """How many elements fall into each bin: ATen's own index formula, then a sum into the bins."""
    if x.dtype.compute is not x.dtype or not x.dtype.is_float or not min < max:
        raise Unsupported("with bounds from the data")
    g, flat = cx.g, cx.g.reshape(x, (product(x.shape),))
    inside = (flat >= float(min)) & (flat <= float(max))
    at = g.cast((g.where(inside, flat, float(min)) - float(min)) * float(bins) / float(max - min), I64)
    at = g.apply("min", at, bins - 1)  # the last bin has its upper bound too
    return g.put(g.full((bins,), 0.0, x.dtype), (0,), [at], g.cast(inside, x.dtype), "add")
