"""Contractions: the sum of a product of two tensors over the dimensions that only they share."""

from __future__ import annotations

from typing import Any

from ..graph import Node
from ..index import Axis, of_atom
from ..loops import Equation, Statement
from ..simplify import make, make_cast
from ..types import BOOL, I32, I64, Dim, DType
from .row import Inputs, OpRow, Shape, expect, read

Labels = tuple[int, ...]


def _sizes(inputs: Inputs, attrs: dict[str, Any]) -> dict[int, Dim]:
    """The size of each label."""
    sizes: dict[int, Dim] = {}
    for node, name in zip(inputs, ("left", "right"), strict=True):
        labels = tuple(attrs[name])
        fits = len(labels) == len(node.shape) == len(set(labels))
        expect(fits, "contract", f"one label of its own for each dimension of the {name} operand", node.shape, labels)
        for label, size in zip(labels, node.shape, strict=True):
            known = sizes.setdefault(label, size)
            expect(known == size, "contract", f"label {label} has two sizes", known, size)
    return sizes


def _infer(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    expect(len(inputs) == 2, "contract", "wrong number of operands", 2, len(inputs))
    sizes, out = _sizes(inputs, attrs), tuple(attrs["out"])
    fits = len(out) == len(set(out)) and set(out) <= set(sizes)
    expect(fits, "contract", "the result's labels are distinct and of an operand", sorted(sizes), out)
    alone = set(attrs["left"]) ^ set(attrs["right"])
    expect(alone <= set(out), "contract", "a label of one operand alone is kept", sorted(alone), out)
    left, right = (n.element for n in inputs)
    expect(left is not BOOL and right is not BOOL, "contract", "element type not accepted", "numbers", left)
    return tuple(sizes[label] for label in out), accumulator(left, right)


def accumulator(left: DType, right: DType) -> DType:
    """The type in which products are added: integers in i32 (i64 where an operand is), narrow floats in f32."""
    wide = [left.compute, right.compute]
    if all(d.is_integer for d in wide):
        return I64 if I64 in wide else I32
    return max((d for d in wide if d.is_float), key=lambda d: d.itemsize)


def operand_dtype(left: DType, right: DType) -> DType | None:
    """What the operands may be rounded to without loss: their own type, where it is one and narrow."""
    return left if left is right and left is not left.compute else None


def _lower(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    axis_of = dict(zip(node.attr("out"), axes, strict=True))
    reduce: list[Axis] = []
    for label, size in zip(node.attr("left"), inputs[0].shape, strict=True):
        if label not in axis_of:
            axis_of[label] = Axis(f"{node.name}_k{label}", size)
            reduce.append(axis_of[label])
    factors = [
        make_cast(read(n, tuple(of_atom(axis_of[label]) for label in node.attr(name))), node.element)
        for n, name in zip(inputs, ("left", "right"), strict=True)
    ]
    value = make("mul", *factors)
    if not reduce:
        return (Equation((node.name,), axes, (value,), (node.element,), source=node.source),)
    narrow = operand_dtype(inputs[0].element, inputs[1].element)
    return (
        Equation(
            (node.name,), axes, (value,), (node.element,), "sum", tuple(reduce), operand_dtype=narrow,
            source=node.source,
        ),
    )  # fmt: skip


def _reference(t: Any, inputs: list[Any], node: Node) -> Any:
    wide = t.promote_types(inputs[0].dtype, inputs[1].dtype)
    left, right = ((x.to(wide), list(node.attr(name))) for x, name in zip(inputs, ("left", "right"), strict=True))
    return t.einsum(*left, *right, list(node.attr("out")))


ROWS = (OpRow("contract", "contract", ("left", "right", "out"), _infer, _reference, _lower),)
