"""Lowerings of indexing by data: gathers, scatters and writes through index tensors. Sums in narrow floats
accumulate in f32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...ir.types import product
from .context import BOOL, I64, Context, Operand, Unsupported, Value, lowers

Indices = Sequence[Value | None]
REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


@lowers("gather.default")
def _gather(cx: Context, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> Value:
    if x.rank == 0 or index.rank == 0:
        flat = cx.g.gather(_at_least_1d(cx, x), 0, _at_least_1d(cx, index))
        return cx.g.reshape(flat, cx.shape)
    return cx.g.gather(x, dim % x.rank, index)


def _at_least_1d(cx: Context, x: Value) -> Value:
    return x if x.rank else cx.g.reshape(x, (1,))


@lowers("index_select.default")
def _index_select(cx: Context, x: Value, dim: int, index: Value) -> Value:
    index = _at_least_1d(cx, index)
    if x.rank == 0:
        return cx.g.reshape(cx.g.take(cx.g.reshape(x, (1,)), (0,), [index], wrap=False), ())
    return cx.g.take(x, (dim % x.rank,), [index], wrap=False)


@lowers("embedding.default")
def _embedding(
    cx: Context,
    weight: Value,
    index: Value,
    padding_idx: Any = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    return cx.g.take(weight, (0,), [index], wrap=False)


def _named(indices: Indices) -> tuple[tuple[int, ...], list[Value]]:
    """The indexed dimensions and their index tensors."""
    found = [(d, i) for d, i in enumerate(indices) if i is not None]
    return tuple(d for d, _ in found), [i for _, i in found]


@lowers("index.Tensor", "_unsafe_index.Tensor")
def _index(cx: Context, x: Value, indices: Indices) -> Value:
    dims, tensors = _named(indices)
    if any(not _is_position(i) for i in tensors):
        raise Unsupported("a mask as index")
    return cx.g.take(x, dims, tensors) if dims else x


def _is_position(index: Value) -> bool:
    return index.dtype is not BOOL and index.dtype.kind != "u"


@lowers("index_put.default", "_unsafe_index_put.default")
def _index_put(cx: Context, x: Value, indices: Indices, values: Value, accumulate: bool = False) -> Value:
    dims, tensors = _named(indices)
    if not dims:
        raise Unsupported("no index")
    if tensors[0].dtype is BOOL:
        return _put_by_mask(cx, x, indices, values, accumulate)
    if any(not _is_position(i) for i in tensors):
        raise Unsupported("a mask among the indices")
    return _accumulated(
        cx, x, accumulate, lambda y: cx.g.put(y, dims, tensors, cx.g.cast(values, y.dtype), _mode(accumulate))
    )


def _mode(accumulate: bool) -> str:
    return "add" if accumulate else "set"


def _put_by_mask(cx: Context, x: Value, indices: Indices, values: Value, accumulate: bool) -> Value:
    """x[mask] = one value, as a select."""
    (mask, *others) = indices
    if mask is None or any(o is not None for o in others) or any(n != 1 for n in values.shape):
        raise Unsupported("a mask as index")
    mask = cx.g.reshape(mask, (*mask.shape, *(1 for _ in range(x.rank - mask.rank))))
    value = cx.g.cast(cx.g.reshape(values, ()), x.dtype)
    return cx.g.where(mask, x + value if accumulate else value, x)


def _accumulated(cx: Context, x: Value, accumulate: bool, write: Callable[[Value], Value]) -> Value:
    """Write into `x`; where many values may be summed into one element, in the compute type."""
    if not accumulate or not x.dtype.is_float:
        return write(x)
    return cx.g.cast(write(cx.g.cast(x, x.dtype.compute)), x.dtype)


@lowers("scatter.src", "scatter.value")
def _scatter(cx: Context, x: Value, dim: int, index: Value, src: Operand) -> Value:
    return _scattered(cx, x, dim, index, src, "set")


@lowers("scatter_add.default")
def _scatter_add(cx: Context, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _scattered(cx, x, dim, index, src, "add")


@lowers("scatter.reduce", "scatter.value_reduce")
def _scatter_mode(cx: Context, x: Value, dim: int, index: Value, src: Operand, *, reduce: str) -> Value:
    return _scattered(cx, x, dim, index, src, REDUCTIONS[reduce])


@lowers("scatter_reduce.two")
def _scatter_reduce(
    cx: Context, x: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if reduce not in REDUCTIONS:
        raise Unsupported(f"reduction {reduce}")
    if not include_self:
        x = _scattered(cx, x, dim, index, _neutral(cx, x, reduce), "set")
    return _scattered(cx, x, dim, index, src, REDUCTIONS[reduce])


def _neutral(cx: Context, x: Value, reduce: str) -> Operand:
    if reduce in ("sum", "prod"):
        return 0 if reduce == "sum" else 1
    if x.dtype.is_float:
        return float("-inf") if reduce == "amax" else float("inf")
    return x.dtype.limits[0 if reduce == "amax" else 1]


def _scattered(cx: Context, x: Value, dim: int, index: Value, src: Operand, mode: str) -> Value:
    if x.dtype is BOOL and mode != "set":
        raise Unsupported("reducing bools")
    shape, index = x.shape, _at_least_1d(cx, index)
    x = _at_least_1d(cx, x)
    if not isinstance(src, Value):
        src = cx.g.expand(cx.operand(src, x.dtype), index.shape)
    src = _at_least_1d(cx, src)

    def write(y: Value) -> Value:
        return cx.g.scatter(y, dim % x.rank, index, cx.g.cast(src, y.dtype), mode)

    out = _accumulated(cx, x, mode in ("add", "mul"), write)
    return cx.g.reshape(out, shape)


@lowers("index_add.default")
def _index_add(cx: Context, x: Value, dim: int, index: Value, src: Value, *, alpha: Any = 1) -> Value:
    if x.dtype is BOOL:
        raise Unsupported("adding bools")

    def write(y: Value) -> Value:
        values = cx.g.cast(src, y.dtype)
        return _put_along(cx, y, dim, index, values if alpha == 1 else values * alpha, "add")

    return _accumulated(cx, x, True, write)


@lowers("index_copy.default")
def _index_copy(cx: Context, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _put_along(cx, x, dim, index, src, "set")


@lowers("index_fill.int_Scalar", "index_fill.int_Tensor")
def _index_fill(cx: Context, x: Value, dim: int, index: Value, value: Operand) -> Value:
    return _put_along(cx, x, dim, index, cx.operand(value, x.dtype), "set")


def _put_along(cx: Context, x: Value, dim: int, index: Value, values: Value, mode: str) -> Value:
    """x[..., index[k], ...] = values[..., k, ...]"""
    index = _at_least_1d(cx, index)
    if x.rank == 0:
        out = cx.g.put(cx.g.reshape(x, (1,)), (0,), [index], cx.g.reshape(values, (1,)), mode)
        return cx.g.reshape(out, ())
    return cx.g.put(x, (dim % x.rank,), [index], values, mode)


@lowers("embedding_dense_backward.default")
def _embedding_backward(
    cx: Context, grad: Value, index: Value, count: Any, padding_idx: int, scale_grad_by_freq: bool
) -> Value:
    if scale_grad_by_freq:
        raise Unsupported("gradients scaled by frequency")
    g, wide = cx.g, grad.dtype.compute
    values = g.cast(grad, wide)
    if padding_idx >= 0:
        values = g.where(g.unsqueeze(index.equals(padding_idx), index.rank), 0.0, values)
    return g.cast(g.put(g.full(cx.shape, 0.0, wide), (0,), [index], values, "add"), grad.dtype)


@lowers("diagonal.default", "diagonal_copy.default")
def _diagonal(cx: Context, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """x[..., i + max(-offset, 0), ..., i + max(offset, 0), ...], i last."""
    g, a, b = cx.g, dim1 % x.rank, dim2 % x.rank
    along = g.iota(cx.shape[-1])
    order = [*(d for d in range(x.rank) if d not in (a, b)), a, b]
    moved = g.permute(x, order)
    rows, columns = along + max(-offset, 0), along + max(offset, 0)
    return g.take(moved, (x.rank - 2, x.rank - 1), [rows, columns], wrap=False)


@lowers("diagonal_scatter.default")
def _diagonal_scatter(cx: Context, x: Value, src: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    g, a, b = cx.g, dim1 % x.rank, dim2 % x.rank
    along = g.iota(src.shape[-1])
    order = [*(d for d in range(x.rank) if d not in (a, b)), a, b]
    at = [along + max(-offset, 0), along + max(offset, 0)]
    written = g.put(g.permute(x, order), (x.rank - 2, x.rank - 1), at, g.cast(src, x.dtype))
    return g.permute(written, [order.index(d) for d in range(x.rank)])


@lowers("masked_scatter.default")
def _masked_scatter(cx: Context, x: Value, mask: Value, source: Value) -> Value:
    """The n-th position of the mask takes the n-th element of the source."""
    if product(source.shape) == 0 or product(mask.shape) == 0:
        raise Unsupported("of no elements")
    g, flat = cx.g, cx.g.reshape(cx.g.expand(mask, cx.shape), (product(cx.shape),))
    number = g.apply("max", g.scan("sum", g.cast(flat, I64), 0) - 1, 0)
    taken = g.take(g.reshape(source, (product(source.shape),)), (0,), [number], wrap=False)
    return g.where(g.expand(mask, cx.shape), g.reshape(taken, cx.shape), g.expand(x, cx.shape))


@lowers("unfold.default", "unfold_copy.default")
def _unfold(cx: Context, x: Value, dim: int, size: int, step: int) -> Value:
    """Windows: x[..., w*step + k, ...] with k last."""
    if x.rank == 0:
        return cx.g.reshape(x, cx.shape)
    g, dim = cx.g, dim % x.rank
    starts = g.reshape(g.iota(cx.shape[dim]) * step, (cx.shape[dim], 1))
    at = starts + g.iota(cx.shape[-1])
    windows = g.take(x, (dim,), [at], wrap=False)
    order = [d for d in range(windows.rank) if d != dim + 1] + [dim + 1]
    return g.permute(windows, order)


@lowers("nll_loss_forward.default", "nll_loss2d_forward.default")
def _nll_loss(
    cx: Context, x: Value, target: Value, weight: Value | None, reduction: int, ignore: int
) -> tuple[Value, Value]:
    """-w[t] x[.., t, ..] with classes in dimension 1 (0 for a single sample); ignored targets count nothing."""
    g, axis = cx.g, _class_axis(x)
    kept, at, w = _targets(cx, x, target, weight, ignore, axis)
    picked = g.reshape(g.gather(x, axis, g.unsqueeze(at, axis)), target.shape)
    loss = g.where(kept, -(g.cast(picked, w.dtype) * w), 0.0)
    dims = tuple(range(target.rank))
    total = g.sum(w, dims)
    if reduction == 0:
        return g.cast(loss, x.dtype), g.full((), 0.0, cx.dtype_of(1))
    out = g.sum(loss, dims)
    return g.cast(out / total if reduction == 1 else out, x.dtype), g.cast(total, cx.dtype_of(1))


@lowers("nll_loss_backward.default", "nll_loss2d_backward.default")
def _nll_loss_backward(
    cx: Context, grad: Value, x: Value, target: Value, weight: Value | None, reduction: int, ignore: int, total: Value
) -> Value:
    """Gradient at [.., c, ..]: -w[t] g where c is the target: a select over classes, without a scatter."""
    g, axis = cx.g, _class_axis(x)
    kept, at, w = _targets(cx, x, target, weight, ignore, axis)
    scale = g.cast(grad, w.dtype)
    if reduction == 1:
        scale = scale / g.cast(total, w.dtype)
    values = g.unsqueeze(g.where(kept, -(w * scale), 0.0), axis)
    classes = g.reshape(g.iota(x.shape[axis]), (x.shape[axis], *(1 for _ in x.shape[axis + 1 :])))
    chosen = g.unsqueeze(at, axis).equals(classes)
    return g.cast(g.where(chosen, values, 0.0), x.dtype)


def _class_axis(x: Value) -> int:
    return 0 if x.rank == 1 else 1


def _targets(
    cx: Context, x: Value, target: Value, weight: Value | None, ignore: int, axis: int
) -> tuple[Value, Value, Value]:
    """(target is not ignored, a target safe to index with, its weight or 0)."""
    g, wide = cx.g, x.dtype.compute
    target = g.cast(target, I64)
    kept = g.apply("ne", target, ignore)
    at = g.where(kept, target, 0)
    if weight is None:
        return kept, at, g.cast(kept, wide)
    return kept, at, g.where(kept, g.cast(g.take(weight, (0,), [at], wrap=False), wide), 0.0)
