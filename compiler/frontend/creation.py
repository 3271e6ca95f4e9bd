"""Lowerings of tensors made from nothing: constants, ranges, triangles."""

from __future__ import annotations

from typing import Any

from ...ir.types import F64
from .context import BOOL, I64, Context, Operand, Value, lowers


def filled(cx: Context, value: Operand) -> Value:
    if isinstance(value, (bool, int, float)):
        return cx.g.full(cx.shape, value, cx.dtype)
    return cx.g.expand(cx.operand(value, cx.dtype), cx.shape)


@lowers("full.default", "scalar_tensor.default", "full_like.default", "new_full.default")
def _full(cx: Context, *args: Any, **_: Any) -> Value:
    """The value is the last positional argument of each of them."""
    return filled(cx, args[-1])


@lowers(
    "zeros.default", "zeros_like.default", "new_zeros.default", "empty.memory_format", "empty_like.default",
    "new_empty.default", "empty_strided.default", "new_empty_strided.default", "empty_permuted.default",
    "zero.default", "prims.empty_strided.default", "_efficientzerotensor.default",
)  # fmt: skip
def _zeros(cx: Context, *_: Any, **__: Any) -> Value:
    """Empty tensors are zeros too: the same program then gives the same result twice."""
    return filled(cx, 0)


@lowers("ones.default", "ones_like.default", "new_ones.default")
def _ones(cx: Context, *_: Any, **__: Any) -> Value:
    return filled(cx, 1)


@lowers("arange.default")
def _arange(cx: Context, end: Any, **_: Any) -> Value:
    return _range(cx, 0, 1)


@lowers("arange.start")
def _arange_start(cx: Context, start: Any, end: Any, **_: Any) -> Value:
    return _range(cx, start, 1)


@lowers("arange.start_step")
def _arange_step(cx: Context, start: Any, end: Any, step: Any = 1, **_: Any) -> Value:
    return _range(cx, start, step)


@lowers("prims.iota.default")
def _iota(cx: Context, length: Any, *, start: Any, step: Any, **_: Any) -> Value:
    return _range(cx, start, step)


def _range(cx: Context, start: Any, step: Any) -> Value:
    """start + step*i: in i64 where both are integers, else in f64, and rounded once."""
    wide = F64 if isinstance(start, float) or isinstance(step, float) else I64
    at = cx.g.cast(cx.g.iota(cx.shape[0]), wide)
    if step != 1:
        at = at * cx.operand(step, wide)
    if start != 0:
        at = at + cx.operand(start, wide)
    return cx.round(at)


@lowers("eye.default", "eye.m")
def _eye(cx: Context, *_: Any, **__: Any) -> Value:
    rows, columns = _grid(cx, cx.shape)
    return cx.round(cx.g.apply("eq", rows, columns))


def _grid(cx: Context, shape: Any) -> tuple[Value, Value]:
    """Row numbers [m, 1] and column numbers [n] of the last two dimensions."""
    return cx.g.unsqueeze(cx.g.iota(shape[-2]), 1), cx.g.iota(shape[-1])


@lowers("triu.default")
def _triu(cx: Context, x: Value, diagonal: Any = 0) -> Value:
    rows, columns = _grid(cx, x.shape)
    return cx.g.where(cx.g.apply("ge", columns, rows + diagonal), x, _zero(x))


@lowers("tril.default")
def _tril(cx: Context, x: Value, diagonal: Any = 0) -> Value:
    rows, columns = _grid(cx, x.shape)
    return cx.g.where(cx.g.apply("le", columns, rows + diagonal), x, _zero(x))


def _zero(x: Value) -> Any:
    return False if x.dtype is BOOL else 0
