"""Indexing by data: gathers are pulls through an index that is loaded, scatters are stores through one."""

from __future__ import annotations

from typing import Any

from ..expr import Load
from ..graph import Node
from ..index import Axis, Index, read_index
from ..loops import Statement, Store
from ..simplify import make_cast
from ..types import I64, Dim, DType
from .row import Inputs, OpRow, Shape, broadcast_index, broadcast_shapes, expect, point, pull, read


def data_index(source: Node, at: tuple[Index, ...], size: Dim, wrap: bool) -> Index:
    """The index that `source` holds at `at`, checked against a dimension of `size`."""
    return read_index(make_cast(read(source, at), I64), size, wrap)


def _infer_gather(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, index = inputs
    expect(index.element.is_integer, "gather", "the index is not integral", "i32 or i64", index.element)
    expect(len(x.shape) == len(index.shape), "gather", "ranks differ", len(x.shape), len(index.shape))
    return index.shape, x.element


def _lower_gather(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    x, index = inputs
    dim, at = node.attr("dim"), point(axes)
    moved = data_index(index, at, x.shape[dim], wrap=False)
    return pull(node, axes, read(x, (*at[:dim], moved, *at[dim + 1 :])))


def _take_layout(x: Shape, dims: tuple[int, ...], shapes: list[Shape]) -> tuple[Shape, int, Shape]:
    """(result shape, where the indices' dimensions stand in it, their broadcast shape): torch's advanced indexing."""
    shape = broadcast_shapes("take", *shapes)
    adjacent = list(dims) == list(range(dims[0], dims[0] + len(dims)))
    start = dims[0] if adjacent else 0
    rest = [n for d, n in enumerate(x) if d not in dims]
    return (*rest[:start], *shape, *rest[start:]), start, shape


def _infer_take(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, *indices = inputs
    expect(len(indices) == len(attrs["dims"]), "take", "one index per dimension", len(attrs["dims"]), len(indices))
    for i in indices:
        expect(i.element.is_integer, "take", "an index is not integral", "i32 or i64", i.element)
    return _take_layout(x.shape, tuple(attrs["dims"]), [i.shape for i in indices])[0], x.element


def _taken_at(x: Node, indices: Inputs, dims: tuple[int, ...], at: tuple[Index, ...], wrap: bool) -> tuple[Index, ...]:
    """The element of `x` that position `at` of the result stands for."""
    _, start, shape = _take_layout(x.shape, dims, [i.shape for i in indices])
    middle = at[start : start + len(shape)]
    rest = iter((*at[:start], *at[start + len(shape) :]))
    chosen = {
        d: data_index(i, broadcast_index(i.shape, middle), x.shape[d], wrap) for d, i in zip(dims, indices, strict=True)
    }
    return tuple(chosen[d] if d in chosen else next(rest) for d in range(len(x.shape)))


def _lower_take(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    x, *indices = inputs
    at = _taken_at(x, tuple(indices), tuple(node.attr("dims")), point(axes), bool(node.attr("wrap", True)))
    return pull(node, axes, read(x, at))


def _reference_take(t: Any, inputs: list[Any], node: Node) -> Any:
    x, *indices = inputs
    by_dim = dict(zip(node.attr("dims"), indices, strict=True))
    key = [by_dim[d].long() if d in by_dim else None for d in range(x.dim())]
    return t.ops.aten.index(x, key)  # x[...] would take an index tensor without dimensions for a number


MODES = ("set", "add", "mul", "max", "min")


def _infer_scatter(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, index, src = inputs
    expect(index.element.is_integer, "scatter", "the index is not integral", "i32 or i64", index.element)
    expect(x.element is src.element, "scatter", "types differ", x.element, src.element)
    expect(attrs["mode"] in MODES, "scatter", "unknown mode", ", ".join(MODES), attrs["mode"])
    return x.shape, x.element


def _copy(node: Node, x: Node, axes: tuple[Axis, ...]) -> Store:
    return Store(node.name, point(axes), read(x, point(axes)), axes, source=node.source)


def _lower_scatter(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    x, index, src = inputs
    dim = node.attr("dim")
    over = tuple(Axis(f"{node.name}_s{d}", n) for d, n in enumerate(index.shape))
    at = point(over)
    target = (*at[:dim], data_index(index, at, x.shape[dim], wrap=False), *at[dim + 1 :])
    put = Store(node.name, target, read(src, at), over, node.attr("mode"), injective=False, source=node.source)
    return _copy(node, x, axes), put


def _reference_scatter(t: Any, inputs: list[Any], node: Node) -> Any:
    x, index, src = inputs
    dim, mode, index = node.attr("dim"), node.attr("mode"), index.long()
    src = src[tuple(slice(0, n) for n in index.shape)]
    if mode == "set":
        return x.scatter(dim, index, src)
    return x.scatter_reduce(dim, index, src, {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[mode])


def _infer_put(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x, *indices, values = inputs
    expect(len(indices) == len(attrs["dims"]), "put", "one index per dimension", len(attrs["dims"]), len(indices))
    expect(x.element is values.element, "put", "types differ", x.element, values.element)
    expect(attrs["mode"] in ("set", "add"), "put", "unknown mode", "set, add", attrs["mode"])
    return x.shape, x.element


def _lower_put(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    x, *indices, values = inputs
    dims = tuple(node.attr("dims"))
    shape, _, _ = _take_layout(x.shape, dims, [i.shape for i in indices])
    over = tuple(Axis(f"{node.name}_s{d}", n) for d, n in enumerate(shape))
    target = _taken_at(x, tuple(indices), dims, point(over), wrap=True)
    value: Load = read(values, broadcast_index(values.shape, point(over)))
    put = Store(node.name, target, value, over, node.attr("mode"), injective=False, source=node.source)
    return _copy(node, x, axes), put


def _reference_put(t: Any, inputs: list[Any], node: Node) -> Any:
    x, *indices, values = inputs
    by_dim = dict(zip(node.attr("dims"), indices, strict=True))
    key = tuple(by_dim[d].long() if d in by_dim else None for d in range(x.dim()))
    return t.ops.aten.index_put(x, key, values, node.attr("mode") == "add")


ROWS = (
    OpRow(
        "gather", "view", ("dim",), _infer_gather,
        lambda t, inputs, node: t.gather(inputs[0], node.attr("dim"), inputs[1].long()), _lower_gather,
    ),
    OpRow("take", "view", ("dims", "wrap"), _infer_take, _reference_take, _lower_take),
    OpRow("scatter", "scatter", ("dim", "mode"), _infer_scatter, _reference_scatter, _lower_scatter),
    OpRow("put", "scatter", ("dims", "mode"), _infer_put, _reference_put, _lower_put),
)  # fmt: skip
