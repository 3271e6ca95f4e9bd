"""Pointwise rows: every scalar op applied elementwise with broadcasting, conversions, and tensors made from nothing."""

from __future__ import annotations

from typing import Any

from ..expr import Expr, const
from ..graph import Node
from ..index import Axis, Index
from ..loops import Statement
from ..scalar import SCALAR_OPS, ScalarOp, accepts, iota
from ..simplify import make, make_cast
from ..types import BOOL, I64, DType
from .row import Inputs, OpRow, Shape, broadcast_index, broadcast_shapes, expect, point, pull, read


def _infer(row: ScalarOp) -> Any:
    def infer(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
        expect(len(inputs) == row.arity, row.name, "wrong number of operands", row.arity, len(inputs))
        values = inputs[1:] if row.name == "where" else inputs
        dtype = values[0].element
        if any(n.dtype is not dtype for n in values):
            expect(False, row.name, "operands differ in type", "one dtype", ", ".join(str(n.dtype) for n in values))
        if not accepts(row, dtype):
            expect(False, row.name, "operand type not accepted", f"kind {row.operands!r}", dtype)
        shape = broadcast_shapes(row.name, *(n.shape for n in inputs))
        return shape, BOOL if row.result == "bool" else dtype

    return infer


def _reference(row: ScalarOp) -> Any:
    return lambda t, inputs, node: row.reference(t, *inputs)


def _lower(row: ScalarOp) -> Any:
    def lower(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
        index = point(axes)
        args = [_operand(n, broadcast_index(n.shape, index)) for n in inputs]
        return pull(node, axes, make_cast(make(row.name, *args), node.element))

    return lower


def _operand(node: Node, index: tuple[Index, ...]) -> Expr:
    """The element in the type that arithmetic is done in."""
    return make_cast(read(node, index), node.element.compute)


def _infer_cast(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    return inputs[0].shape, attrs["dtype"]


def _lower_cast(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    value = read(inputs[0], broadcast_index(inputs[0].shape, point(axes)))
    return pull(node, axes, make_cast(value, node.element))


def _reference_cast(t: Any, inputs: list[Any], node: Node) -> Any:
    return inputs[0]  # the caller converts every result to the node's dtype


def _infer_full(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    return tuple(attrs["shape"]), attrs["dtype"]


def _reference_full(t: Any, inputs: list[Any], node: Node) -> Any:
    value = node.attr("value")
    return t.full(node.shape, value, dtype=t.float64 if isinstance(value, float) else None)


def _lower_full(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    return pull(node, axes, const(node.attr("value"), node.element))


def _infer_iota(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    return (attrs["size"],), I64


def _lower_iota(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    return pull(node, axes, iota(axes[0] if axes[0].extent != 1 else 0))


def _lower_size(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    return pull(node, axes, iota(Index((), node.attr("dim"))))


# Where a reduction has the scalar op's name, the elementwise row is called as torch calls it.
PAIRWISE = {"min": "minimum", "max": "maximum"}

ROWS = (
    *(
        OpRow(PAIRWISE.get(row.name, row.name), "pointwise", (), _infer(row), _reference(row), _lower(row))
        for row in SCALAR_OPS.values()
        if row.name != "cast"
    ),
    OpRow("cast", "pointwise", ("dtype",), _infer_cast, _reference_cast, _lower_cast),
    # A result that must not share memory with what it equals: only made where the caller can see the difference.
    OpRow("copy", "pointwise", (), lambda inputs, attrs: (inputs[0].shape, inputs[0].element), _reference_cast,
    _lower_cast),
    OpRow(
        "full", "create", ("value", "shape", "dtype"), _infer_full,
        _reference_full, _lower_full,
    ),
    OpRow("iota", "create", ("size",), _infer_iota, lambda t, inputs, node: t.arange(node.attr("size")), _lower_iota),
    OpRow(
        "dim", "create", ("dim",), lambda inputs, attrs: ((), I64),
        lambda t, inputs, node: t.tensor(node.attr("dim")), _lower_size,
    ),
)  # fmt: skip
