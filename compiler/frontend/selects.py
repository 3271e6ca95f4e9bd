"""Lowerings of selects and conversions: results that are one of the operands, perhaps in another type."""

from __future__ import annotations

from typing import Any

from .context import BOOL, Context, DType, Operand, Value, lowers


@lowers("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(cx: Context, p: Value, a: Operand, b: Operand) -> Value:
    return cx.g.where(cx.truth(p), cx.operand(a, cx.dtype), cx.operand(b, cx.dtype))


@lowers("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(cx: Context, x: Value, mask: Value, value: Operand) -> Value:
    return cx.g.where(cx.truth(mask), cx.operand(value, cx.dtype), x)


@lowers("clamp.default", "clamp.Tensor")
def _clamp(cx: Context, x: Value, low: Operand | None = None, high: Operand | None = None) -> Value:
    x = cx.operand(x, cx.dtype)
    if low is not None:
        x = cx.choose("max", x, low)
    return x if high is None else cx.choose("min", x, high)


@lowers("clamp_min.default", "clamp_min.Tensor")
def _clamp_min(cx: Context, x: Value, low: Operand) -> Value:
    return _clamp(cx, x, low)


@lowers("clamp_max.default", "clamp_max.Tensor")
def _clamp_max(cx: Context, x: Value, high: Operand) -> Value:
    return _clamp(cx, x, None, high)


@lowers("maximum.default")
def _maximum(cx: Context, a: Value, b: Value) -> Value:
    return _greater_or_less(cx, "max", a, b)


@lowers("minimum.default")
def _minimum(cx: Context, a: Value, b: Value) -> Value:
    return _greater_or_less(cx, "min", a, b)


def _greater_or_less(cx: Context, row: str, a: Value, b: Value) -> Value:
    return cx.choose(row if cx.dtype is not BOOL else {"max": "or", "min": "and"}[row], a, b)


@lowers("fmax.default")
def _fmax(cx: Context, a: Value, b: Value) -> Value:
    return _ignoring_nan(cx, "max", a, b)


@lowers("fmin.default")
def _fmin(cx: Context, a: Value, b: Value) -> Value:
    return _ignoring_nan(cx, "min", a, b)


def _ignoring_nan(cx: Context, row: str, a: Value, b: Value) -> Value:
    if not cx.dtype.is_float:
        return _greater_or_less(cx, row, a, b)
    g, a, b = cx.g, cx.operand(a, cx.dtype), cx.operand(b, cx.dtype)
    return g.where(g.isnan(a), b, g.where(g.isnan(b), a, g.apply(row, a, b)))


@lowers("nan_to_num.default")
def _nan_to_num(cx: Context, x: Value, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Value:
    if not x.dtype.is_float:
        return x
    g, top = cx.g, _largest(x.dtype)
    x = g.where(g.isnan(x), 0.0 if nan is None else nan, x)
    x = g.where(x.equals(float("inf")), top if posinf is None else posinf, x)
    return g.where(x.equals(float("-inf")), -top if neginf is None else neginf, x)


def _largest(dtype: DType) -> float:
    return {
        "f16": 65504.0,
        "bf16": (2 - 2.0**-7) * 2.0**127,
        "f32": (2 - 2.0**-23) * 2.0**127,
        "f64": 1.7976931348623157e308,
    }[dtype.name]


@lowers(
    "clone.default", "alias.default", "detach.default", "contiguous.default", "lift_fresh_copy.default",
    "lift_fresh.default", "positive.default", "_conj.default", "conj_physical.default", "resolve_conj.default",
    "resolve_neg.default", "real.default", "view_as.default", "alias_copy.default", "detach_copy.default",
)  # fmt: skip
def identity(cx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return x


_CONVERSIONS = "_to_copy.default", "to.dtype", "prims.convert_element_type.default", "to.dtype_layout", "to.device"
CONVERSIONS = frozenset(name if name.startswith("prims.") else f"aten.{name}" for name in _CONVERSIONS)


@lowers(*_CONVERSIONS)
def _convert(cx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return cx.g.cast(x, cx.dtype)


@lowers("copy.default")
def _copy(cx: Context, x: Value, src: Value, non_blocking: bool = False) -> Value:
    return cx.g.expand(cx.g.cast(src, x.dtype), x.shape)


@lowers("fill.Scalar", "fill.Tensor")
def _fill(cx: Context, x: Value, value: Operand) -> Value:
    return cx.g.expand(cx.operand(value, cx.dtype), cx.shape)


@lowers("prims.broadcast_in_dim.default")
def _broadcast_in_dim(cx: Context, x: Value, shape: Any, dims: list[int]) -> Value:
    sizes = tuple(x.shape[dims.index(d)] if d in dims else 1 for d in range(len(cx.shape)))
    return cx.g.expand(cx.g.reshape(x, sizes), cx.shape)
