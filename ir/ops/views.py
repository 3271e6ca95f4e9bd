"""View rows: an output element is one input element, or a constant. They are index maps and cost nothing to fuse."""

from __future__ import annotations

from functools import reduce
from typing import Any

from ..expr import Expr, const
from ..graph import Node
from ..index import ZERO, Axis, Index, add, as_index, linearize
from ..loops import Statement
from ..scalar import iota
from ..simplify import both, make
from ..types import Dim, DType, contiguous_strides, is_nonnegative, multiply, plus, product
from .row import Inputs, OpRow, Shape, broadcast_index, expect, point, pull, read


def reshape_index(index: tuple[Index, ...], shape: Shape, source: Shape) -> tuple[Index, ...]:
    """Where element `index` of a tensor of `shape` lies in the same elements seen as `source`.

    Dimensions are matched in the shortest groups of equal products, so equal dynamic sizes pass without division:
    [b, t, 8*64] -> [b, t, 8, 64] touches only the last one.
    """
    result: list[Index] = []
    i = j = 0
    while j < len(source):
        if source[j] == 1:
            result.append(ZERO)
            j += 1
            continue
        while i < len(shape) and shape[i] == 1:
            i += 1
        i0, j0 = i, j
        ours, theirs = shape[i], source[j]
        i, j = i + 1, j + 1
        while ours != theirs and (i < len(shape) or j < len(source)):
            grow_ours = j == len(source) or (i < len(shape) and is_nonnegative(plus(theirs, multiply(ours, -1))))
            if grow_ours:
                ours, i = multiply(ours, shape[i]), i + 1
            else:
                theirs, j = multiply(theirs, source[j]), j + 1
        group = source[j0:j]
        linear = linearize(index[i0:i], contiguous_strides(shape[i0:i]))
        result += _split_digits(linear, group)
    return tuple(result)


def _split_digits(linear: Index, sizes: Shape) -> list[Index]:
    if len(sizes) == 1:
        return [linear]
    digits: list[Index] = []
    for k, (size, stride) in enumerate(zip(sizes, contiguous_strides(sizes), strict=True)):
        if size == 1:
            digits.append(ZERO)
            continue
        leading = all(s == 1 for s in sizes[:k])
        digits.append(linear // stride if leading else (linear // stride) % size)
    return digits


def _infer_reshape(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, shape = inputs[0], tuple(attrs["shape"])
    same = product(x.shape) == product(shape)
    expect(same, "reshape", "different number of elements", list(x.shape), list(shape))
    return shape, x.element


def _lower_reshape(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    x = inputs[0]
    if product(node.shape) == 0:
        return pull(node, axes, read(x, (ZERO,) * len(x.shape)))
    return pull(node, axes, read(x, reshape_index(point(axes), node.shape, x.shape)))


def _infer_permute(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, dims = inputs[0], attrs["dims"]
    expect(sorted(dims) == list(range(len(x.shape))), "permute", "not a permutation", f"of rank {len(x.shape)}", dims)
    return tuple(x.shape[d] for d in dims), x.element


def _lower_permute(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    dims, index = node.attr("dims"), point(axes)
    return pull(node, axes, read(inputs[0], tuple(index[dims.index(d)] for d in range(len(dims)))))


def _infer_expand(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, shape = inputs[0], tuple(attrs["shape"])
    fits = len(shape) >= len(x.shape) and all(
        s in (1, n) for s, n in zip(x.shape, shape[len(shape) - len(x.shape) :], strict=True)
    )
    expect(fits, "expand", "shape does not expand", list(x.shape), list(shape))
    return shape, x.element


def _lower_expand(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    return pull(node, axes, read(inputs[0], broadcast_index(inputs[0].shape, point(axes))))


def _infer_slice(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    rank = len(inputs[0].shape)
    given = tuple(len(attrs[k]) for k in ("start", "step", "shape"))
    expect(given == (rank,) * 3, "slice", "one start, step and size per dimension", rank, given)
    return tuple(attrs["shape"]), inputs[0].element


def _lower_slice(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    starts, steps = node.attr("start"), node.attr("step")
    index = tuple(add(i * step, as_index(start)) for i, start, step in zip(point(axes), starts, steps, strict=True))
    return pull(node, axes, read(inputs[0], index))


def _reference_slice(t: Any, inputs: list[Any], node: Node) -> Any:
    x = inputs[0]
    for d, (start, step, size) in enumerate(zip(node.attr("start"), node.attr("step"), node.shape, strict=True)):
        x = x.index_select(d, t.arange(size) * step + start)
    return x


def _infer_windows(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, count, size = inputs[0], tuple(attrs["count"]), tuple(attrs["size"])
    parts = count, size, attrs["step"], attrs["stride"]
    expect(all(len(p) == len(count) <= len(x.shape) for p in parts), "windows", "one entry per dimension", got=parts)
    image = x.shape[len(x.shape) - len(count) :]
    for n, k, s, d, room in zip(*parts, image, strict=True):
        fits = 0 in (n, k) or is_nonnegative(plus(room, -((n - 1) * s + (k - 1) * d + 1)))
        expect(fits and s > 0 and d > 0, "windows", "windows reach beyond the image", room, (n, k, s, d))
    return (*x.shape[: len(x.shape) - len(count)], *count, *size), x.element


def _lower_windows(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    """y[.., i, t] = x[.., step*i + stride*t]."""
    rank, index = len(node.attr("count")), point(axes)
    lead = len(index) - 2 * rank
    starts = (i * s for i, s in zip(index[lead : lead + rank], node.attr("step"), strict=True))
    taps = (t * d for t, d in zip(index[lead + rank :], node.attr("stride"), strict=True))
    return pull(node, axes, read(inputs[0], (*index[:lead], *map(add, starts, taps))))


def _reference_windows(t: Any, inputs: list[Any], node: Node) -> Any:
    x, rank = inputs[0], len(node.attr("count"))
    lead = len(x.shape) - rank
    parts = zip(*(node.attr(name) for name in ("count", "size", "step", "stride")), strict=True)
    for d, (n, k, step, stride) in enumerate(parts):
        places = (t.arange(n)[:, None] * step + t.arange(k) * stride).reshape(-1)
        x = x.index_select(lead + 2 * d, places).unflatten(lead + 2 * d, (n, k))
    return x.permute(*range(lead), *(lead + 2 * d + part for part in (0, 1) for d in range(rank)))


def _infer_pad(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x = inputs[0]
    shape = tuple(plus(plus(n, lo), hi) for n, lo, hi in zip(x.shape, attrs["low"], attrs["high"], strict=True))
    return shape, x.element


def inside(index: Index, size: Dim) -> Expr:
    """0 <= index < size, as far as the ranges do not decide it."""
    return make("and", make("ge", iota(index), iota(0)), make("lt", iota(index), iota(Index((), size))))


def _lower_pad(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    x = inputs[0]
    index = tuple(add(i, as_index(multiply(lo, -1))) for i, lo in zip(point(axes), node.attr("low"), strict=True))
    guard: Expr | None = reduce(both, (inside(i, n) for i, n in zip(index, x.shape, strict=True)), None)
    fill = const(node.attr("value"), node.element)
    return pull(node, axes, guarded(guard, read(x, index, guard), fill))


def guarded(guard: Expr | None, value: Expr, otherwise: Expr) -> Expr:
    return value if guard is None else make("where", guard, value, otherwise)


def _reference_pad(t: Any, inputs: list[Any], node: Node) -> Any:
    out = t.full(node.shape, node.attr("value")).to(inputs[0].dtype)
    x = inputs[0]
    for d, (lo, hi) in enumerate(zip(node.attr("low"), node.attr("high"), strict=True)):
        x = x.narrow(d, max(-lo, 0), x.shape[d] + min(lo, 0) + min(hi, 0))
    target = out
    for d, lo in enumerate(node.attr("low")):
        target = target.narrow(d, max(lo, 0), x.shape[d])
    target.copy_(x)
    return out


def _infer_cat(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    dim, first = attrs["dim"], inputs[0]
    for x in inputs:
        same = len(x.shape) == len(first.shape) and all(
            a == b for d, (a, b) in enumerate(zip(x.shape, first.shape, strict=True)) if d != dim
        )
        expect(same, "cat", "shapes differ outside the joined dimension", list(first.shape), list(x.shape))
        expect(x.element is first.element, "cat", "types differ", first.element, x.element)
    total = reduce(plus, (x.shape[dim] for x in inputs))
    return (*first.shape[:dim], total, *first.shape[dim + 1 :]), first.element


def _lower_cat(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    dim, index = node.attr("dim"), point(axes)
    starts: list[Dim] = [0]
    for x in inputs[:-1]:
        starts.append(plus(starts[-1], x.shape[dim]))
    value: Expr = const(0, node.element)  # never chosen: the parts cover the dimension
    for x, start in reversed(list(zip(inputs, starts, strict=True))):
        moved = index[dim] - start
        guard = inside(moved, x.shape[dim])
        part = read(x, (*index[:dim], moved, *index[dim + 1 :]), guard)
        value = make("where", guard, part, value)
    return pull(node, axes, value)


def _infer_slice_scatter(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, src = inputs
    expect(x.element is src.element, "slice_scatter", "types differ", x.element, src.element)
    expect(len(x.shape) == len(src.shape), "slice_scatter", "ranks differ", len(x.shape), len(src.shape))
    return x.shape, x.element


def _lower_slice_scatter(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    """x[start : : step] = src as a pull: where(the position is a written one, src, x)."""
    x, src = inputs
    dim, start, step = node.attr("dim"), node.attr("start"), node.attr("step")
    index = point(axes)
    shifted = index[dim] - start
    guard = make("ge", iota(shifted), iota(0))
    if step != 1:
        guard = make("and", guard, make("eq", iota(shifted % step), iota(0)))
    moved = shifted // step
    guard = make("and", guard, make("lt", iota(moved), iota(Index((), src.shape[dim]))))
    at = (*index[:dim], moved, *index[dim + 1 :])
    return pull(node, axes, guarded(guard, read(src, at, guard), read(x, index)))


def _reference_slice_scatter(t: Any, inputs: list[Any], node: Node) -> Any:
    x, src = inputs
    dim, start, step = node.attr("dim"), node.attr("start"), node.attr("step")
    positions = t.arange(src.shape[dim]) * step + start
    return x.index_copy(dim, positions, src)


ROWS = (
    OpRow(
        "reshape", "view", ("shape",), _infer_reshape,
        lambda t, inputs, node: inputs[0].reshape(node.shape), _lower_reshape,
    ),
    OpRow(
        "permute", "view", ("dims",), _infer_permute,
        lambda t, inputs, node: inputs[0].permute(node.attr("dims")), _lower_permute,
    ),
    OpRow(
        "expand", "view", ("shape",), _infer_expand,
        lambda t, inputs, node: inputs[0].expand(node.shape), _lower_expand,
    ),
    OpRow("slice", "view", ("start", "step", "shape"), _infer_slice, _reference_slice, _lower_slice),
    OpRow(
        "windows", "view", ("count", "size", "step", "stride"), _infer_windows, _reference_windows, _lower_windows
    ),
    OpRow("pad", "view", ("low", "high", "value"), _infer_pad, _reference_pad, _lower_pad),
    OpRow(
        "cat", "view", ("dim",), _infer_cat,
        lambda t, inputs, node: t.cat(inputs, node.attr("dim")), _lower_cat,
    ),
    OpRow(
        "slice_scatter", "view", ("dim", "start", "step"), _infer_slice_scatter,
        _reference_slice_scatter, _lower_slice_scatter,
    ),
)  # fmt: skip
