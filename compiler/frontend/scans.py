"""Lowerings of cumulative operations."""

from __future__ import annotations

from typing import Any

from .context import Context, Unsupported, Value, accumulator, lowers


def _scan(cx: Context, state: str, x: Value, dim: int) -> Value:
    if x.rank == 0:
        return cx.round(x)
    wide = cx.g.cast(cx.operand(x, cx.dtype), accumulator(cx.dtype))
    return cx.round(cx.g.scan(state, wide, dim % x.rank))


@lowers("cumsum.default")
def _cumsum(cx: Context, x: Value, dim: int, *, dtype: Any = None) -> Value:
    return _scan(cx, "sum", x, dim)


@lowers("cumprod.default")
def _cumprod(cx: Context, x: Value, dim: int, *, dtype: Any = None) -> Value:
    return _scan(cx, "prod", x, dim)


def _extremum(cx: Context, state: str, x: Value, dim: int) -> tuple[Value, Value]:
    if x.rank == 0:
        return x, cx.g.full((), 0, cx.dtype_of(1))
    wide, dim = cx.g.cast(x, accumulator(x.dtype)), dim % x.rank
    value, at = (cx.g.scan(state, wide, dim, component) for component in (0, 1))
    return cx.g.cast(value, x.dtype), at


@lowers("cummax.default")
def _cummax(cx: Context, x: Value, dim: int) -> tuple[Value, Value]:
    return _extremum(cx, "argmax_last", x, dim)


@lowers("cummin.default")
def _cummin(cx: Context, x: Value, dim: int) -> tuple[Value, Value]:
    return _extremum(cx, "argmin_last", x, dim)


@lowers("logcumsumexp.default")
def _logcumsumexp(cx: Context, x: Value, dim: int) -> Value:
    """m + log(l) of the running (max, sum of exp(x - max)); an infinite maximum is the result itself."""
    if x.rank == 0:
        return x
    if not x.dtype.is_float:
        raise Unsupported("of integers")
    g, wide, dim = cx.g, cx.wide(x), dim % x.rank
    top, total = (g.scan("max_sum_exp", wide, dim, component) for component in (0, 1))
    return cx.round(g.where(g.isinf(top), top, top + g.log(total)))
