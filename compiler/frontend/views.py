"""Lowerings of views, joins and splits. The result's shape is taken from tracing, so sizes of -1 never need solving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.types import multiply, plus, product
from .context import Context, Dim, Meta, Unsupported, Value, lowers
from .dims import LEAST


@lowers(
    "view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default", "squeeze.default",
    "squeeze.dim", "squeeze.dims", "flatten.using_ints", "_reshape_alias.default", "view_copy.default",
    "_reshape_copy.default", "unsqueeze_copy.default", "squeeze_copy.default", "squeeze_copy.dim",
    "squeeze_copy.dims", "unflatten.int",
)  # fmt: skip
def _reshape(cx: Context, x: Value, *_: Any) -> Value:
    return cx.g.reshape(x, cx.shape)


@lowers("view.dtype")
def _view_dtype(cx: Context, x: Value, dtype: Any) -> Value:
    if x.dtype is not cx.dtype:
        raise Unsupported("the same bits as another type")
    return x


@lowers("expand.default", "expand_copy.default", "broadcast_to.default", "expand_as.default")
def _expand(cx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return cx.g.expand(x, cx.shape)


@lowers("permute.default", "permute_copy.default")
def _permute(cx: Context, x: Value, dims: Sequence[int]) -> Value:
    return cx.g.permute(x, [d % x.rank for d in dims])


@lowers("t.default", "t_copy.default", "numpy_T.default")
def _t(cx: Context, x: Value) -> Value:
    return cx.g.permute(x, tuple(reversed(range(x.rank))))


@lowers("transpose.int", "transpose_copy.int", "swapaxes.default")
def _transpose(cx: Context, x: Value, a: int, b: int) -> Value:
    if x.rank == 0:
        return x
    order = list(range(x.rank))
    order[a], order[b] = order[b], order[a]
    return cx.g.permute(x, order)


@lowers("slice.Tensor", "slice_copy.Tensor")
def _slice(
    cx: Context, x: Value, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    dim %= x.rank
    return cx.g.slice(x, dim, slice_start(cx, start, x.shape[dim]), cx.shape[dim], step)


def slice_start(cx: Context, start: Dim | None, size: Dim) -> Dim:
    """Where a slice begins, from 0 to `size`. That a symbolic start lies inside was settled when torch traced the
    result's size.
    """
    if start is None:
        return 0
    if isinstance(start, int) and isinstance(size, int):
        return min(max(start + size if start < 0 else start, 0), size)
    return cx.position(start, size)


@lowers("narrow.default", "narrow_copy.default")
def _narrow(cx: Context, x: Value, dim: int, start: Dim, length: Dim) -> Value:
    dim %= x.rank
    return cx.g.slice(x, dim, cx.position(start, x.shape[dim]), cx.shape[dim])


@lowers("select.int", "select_copy.int")
def _select(cx: Context, x: Value, dim: int, at: Dim) -> Value:
    dim %= x.rank
    return cx.g.select(x, dim, cx.position(at, x.shape[dim]))


@lowers("slice_scatter.default")
def _slice_scatter(
    cx: Context, x: Value, src: Value, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    dim %= x.rank
    begin = slice_start(cx, start, x.shape[dim])
    if begin == 0 and step == 1 and src.shape == x.shape:
        return cx.operand(src, x.dtype)
    src = cx.g.expand(cx.operand(src, x.dtype), (*x.shape[:dim], src.shape[dim], *x.shape[dim + 1 :]))
    return cx.g.slice_scatter(x, src, dim, begin, step)


@lowers("select_scatter.default")
def _select_scatter(cx: Context, x: Value, src: Value, dim: int, at: Dim) -> Value:
    dim %= x.rank
    src = cx.g.unsqueeze(cx.operand(src, x.dtype), dim)
    return cx.g.slice_scatter(x, src, dim, cx.position(at, x.shape[dim]))


@lowers("slice_backward.default")
def _slice_backward(cx: Context, grad: Value, sizes: Sequence[Dim], dim: int, start: Dim, end: Dim, step: int) -> Value:
    """The gradient where the slice was, zeros around it."""
    dim %= grad.rank
    begin, size = slice_start(cx, start, cx.shape[dim]), cx.shape[dim]
    if step != 1:
        return cx.g.slice_scatter(cx.g.full(cx.shape, 0, cx.dtype), grad, dim, begin, step)
    return _surrounded(cx, grad, dim, begin, size)


@lowers("select_backward.default")
def _select_backward(cx: Context, grad: Value, sizes: Sequence[Dim], dim: int, at: Dim) -> Value:
    dim %= len(cx.shape)
    return _surrounded(cx, cx.g.unsqueeze(grad, dim), dim, cx.position(at, cx.shape[dim]), cx.shape[dim])


def _surrounded(cx: Context, x: Value, dim: int, start: Dim, size: Dim) -> Value:
    """`x` at `start` of a dimension of `size` that is zero elsewhere."""
    low: list[Dim] = [0] * x.rank
    high: list[Dim] = [0] * x.rank
    low[dim], high[dim] = start, plus(size, multiply(plus(start, x.shape[dim]), -1))
    return cx.g.pad(x, low, high, 0) if low[dim] != 0 or high[dim] != 0 else x


def _pieces(cx: Context, x: Value, dim: int) -> tuple[Value, ...]:
    """Consecutive slices along `dim`, of the sizes that were traced."""
    dim %= x.rank
    start: Dim = 0
    parts = []
    for meta in cx.metas:
        assert isinstance(meta, Meta)
        parts.append(cx.g.slice(x, dim, start, meta.shape[dim]))
        start = plus(start, meta.shape[dim])
    return tuple(parts)


@lowers(
    "split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default", "unsafe_split.Tensor",
    "unsafe_split_with_sizes.default", "split_copy.Tensor", "split_with_sizes_copy.default", "unsafe_chunk.default",
    "tensor_split.sections", "tensor_split.indices",
)  # fmt: skip
def _split(cx: Context, x: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    return _pieces(cx, x, dim)


@lowers("unbind.int", "unbind_copy.int")
def _unbind(cx: Context, x: Value, dim: int = 0) -> tuple[Value, ...]:
    dim %= x.rank
    return tuple(cx.g.select(x, dim, k) for k in range(len(cx.metas)))


@lowers("cat.default", "concat.default")
def _cat(cx: Context, parts: Sequence[Value], dim: int = 0) -> Value:
    kept = [cx.operand(p, cx.dtype) for p in parts if p.shape != (0,) or len(cx.shape) == 1]
    return cx.g.cat(kept, dim % len(cx.shape))


@lowers("stack.default")
def _stack(cx: Context, parts: Sequence[Value], dim: int = 0) -> Value:
    dim %= len(cx.shape)
    return cx.g.cat([cx.g.unsqueeze(cx.operand(p, cx.dtype), dim) for p in parts], dim)


@lowers("repeat.default", "tile.default")
def _repeat(cx: Context, x: Value, repeats: Sequence[Dim]) -> Value:
    """Each dimension n becomes [r, n], expanded and joined again."""
    shape = (*(1 for _ in range(len(repeats) - x.rank)), *x.shape)
    narrow = tuple(d for n in shape for d in (1, n))
    wide = tuple(d for r, n in zip(repeats, shape, strict=True) for d in (r, n))
    return cx.g.reshape(cx.g.expand(cx.g.reshape(x, narrow), wide), cx.shape)


@lowers("flip.default")
def _flip(cx: Context, x: Value, dims: Sequence[int]) -> Value:
    for d in dims:
        d %= x.rank
        x = flip(cx, x, d)
    return x


def flip(cx: Context, x: Value, dim: int) -> Value:
    size = x.shape[dim]
    return x if size in (0, 1) else cx.g.slice(x, dim, plus(size, -1), size, -1)


@lowers("roll.default")
def _roll(cx: Context, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    if not dims:
        flat = cx.g.reshape(x, (product(x.shape),))
        return cx.g.reshape(cx.g.roll(flat, 0, shifts[0]), x.shape)
    for shift, d in zip(shifts, dims, strict=True):
        d %= x.rank
        x = cx.g.roll(x, d, _rotation(shift, x.shape[d]))
    return x


def _rotation(shift: Dim, size: Dim) -> Dim:
    """The same rotation from 0 to `size`."""
    if not isinstance(shift, int) or isinstance(size, int):
        return shift
    if abs(shift) > LEAST:
        raise Unsupported("a rotation that may go round a dynamic size")
    return plus(size, shift) if shift < 0 else shift


@lowers("constant_pad_nd.default")
def _constant_pad(cx: Context, x: Value, pad: Sequence[Dim], value: Any = 0) -> Value:
    low: list[Dim] = [0] * x.rank
    high: list[Dim] = [0] * x.rank
    for k in range(len(pad) // 2):
        low[x.rank - 1 - k], high[x.rank - 1 - k] = pad[2 * k], pad[2 * k + 1]
    return cx.g.pad(x, low, high, cx.constant(value))


@lowers("reflection_pad1d.default", "reflection_pad2d.default", "reflection_pad3d.default")
def _reflection_pad(cx: Context, x: Value, pad: Sequence[int]) -> Value:
    return _pad_edges(cx, x, pad, _mirror(cx))


def _mirror(cx: Context) -> Any:
    """low: positions low, ..., 1; high: positions n-2, ..., n-1-high."""
    return lambda x, d, at, by: cx.g.slice(x, d, plus(at, by if by > 0 else -1), abs(by), -1)


@lowers("replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default")
def _replication_pad(cx: Context, x: Value, pad: Sequence[int]) -> Value:
    def edge(x: Value, d: int, at: Dim, by: int) -> Value:
        return cx.g.expand(cx.g.slice(x, d, at, 1), (*x.shape[:d], abs(by), *x.shape[d + 1 :]))

    return _pad_edges(cx, x, pad, edge)


def _pad_edges(cx: Context, x: Value, pad: Sequence[int], edge: Any) -> Value:
    """Join `edge(x, dim, position of the edge, width)` to both ends, the width negative at the upper one."""
    for k in range(len(pad) // 2):
        d, low, high = x.rank - 1 - k, pad[2 * k], pad[2 * k + 1]
        if not isinstance(low, int) or not isinstance(high, int) or low < 0 or high < 0:
            raise Unsupported("padding by edges of dynamic or negative width")
        parts = [edge(x, d, 0, low)] if low else []
        parts.append(x)
        if high:
            parts.append(edge(x, d, plus(x.shape[d], -1), -high))
        x = cx.g.cat(parts, d)
    return x


@lowers("as_strided.default")
def _as_strided(cx: Context, x: Value, size: Any, stride: Sequence[Dim], offset: Dim | None = None) -> Value:
    """A strided window is a view we know only where it is the whole tensor in another order."""
    traced = cx.strides(0)
    if offset not in (None, 0) or traced is None:
        raise Unsupported("a strided window")
    if tuple(stride) == traced and cx.shape == x.shape:
        return x
    order = _order_of(list(zip(x.shape, traced, strict=True)), list(zip(cx.shape, stride, strict=True)))
    if order is None:
        raise Unsupported("a strided window")
    return cx.g.permute(x, order)


def _order_of(have: list[tuple[Dim, Dim]], want: list[tuple[Dim, Dim]]) -> list[int] | None:
    if len(have) != len(want) or len(set(have)) != len(have):
        return None
    return [have.index(w) for w in want] if set(have) == set(want) else None


# What is only another way to look at the same memory.
FREE = (
    _reshape, _view_dtype, _expand, _permute, _t, _transpose, _slice, _narrow, _select, _split, _unbind, _as_strided,
)  # fmt: skip
