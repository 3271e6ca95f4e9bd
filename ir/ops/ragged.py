"""Contractions in groups: one of their labels is cut into groups by offsets, which are data.

    y[t, n] = sum(g, k) where(t in group g, a[t, k] * b[g, k, n], 0)     the ragged label t is kept: one term is not 0
    y[g, m, n] = sum(t in group g) a[m, t] * b[t, n]                     t is summed over, the group is kept

Group g is the points from offsets[g - 1] (from 0, where g is 0) to offsets[g]. Offsets do not decrease. Points of no
group, behind the last offset, give 0.
"""

from __future__ import annotations

from typing import Any

from ..expr import Expr, const
from ..graph import Node
from ..index import ZERO, Axis, Index, of_atom
from ..loops import Equation, Statement
from ..scalar import iota
from ..simplify import make, make_cast
from ..types import BOOL, I64, Dim, DType
from .contractions import accumulator, operand_dtype
from .row import Inputs, OpRow, Shape, expect, read

WHERE = "contract_groups"


def _sizes(inputs: Inputs, attrs: dict[str, Any]) -> dict[int, Dim]:
    """The size of each label."""
    left, right, offsets = inputs
    sizes: dict[int, Dim] = {attrs["group"]: offsets.shape[0]}
    for node, labels in ((left, attrs["left"]), (right, attrs["right"])):
        fits = len(labels) == len(node.shape) == len(set(labels))
        expect(fits, WHERE, "one label of its own for each dimension of an operand", node.shape, labels)
        for label, size in zip(labels, node.shape, strict=True):
            known = sizes.setdefault(label, size)
            expect(known == size, WHERE, f"label {label} has two sizes", known, size)
    return sizes


def _infer(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    expect(len(inputs) == 3, WHERE, "wrong number of operands", 3, len(inputs))
    left, right, offsets = inputs
    expect(len(offsets.shape) == 1 and offsets.element.is_integer, WHERE, "offsets are integers in one dimension",
           "i32[groups] or i64[groups]", f"{offsets.dtype}{list(offsets.shape)}")  # fmt: skip
    sizes, out, group, ragged = _sizes(inputs, attrs), tuple(attrs["out"]), attrs["group"], attrs["ragged"]
    of_left, of_right = set(attrs["left"]), set(attrs["right"])
    fits = len(out) == len(set(out)) and set(out) <= set(sizes)
    expect(fits, WHERE, "the result's labels are distinct and of an operand", sorted(sizes), out)
    expect((group in out) != (ragged in out), WHERE, "either groups or their points are of the result", group, out)
    expect(ragged in of_left | of_right, WHERE, "no operand has the ragged label", attrs["left"], ragged)
    expect((group in of_left | of_right) != (group in out), WHERE, "groups are of an operand or of the result", group)
    alone = (of_left ^ of_right) - {group}
    expect(alone <= set(out), WHERE, "a label of one operand alone is kept", sorted(alone), out)
    expect(BOOL not in (left.element, right.element), WHERE, "element type not accepted", "numbers", left.element)
    return tuple(sizes[label] for label in out), accumulator(left.element, right.element)


def _lower(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    left, right, offsets = inputs
    group, ragged = node.attr("group"), node.attr("ragged")
    at = {label: of_atom(a) for label, a in zip(node.attr("out"), axes, strict=True)}
    reduce: list[Axis] = []
    if group in at:
        reduce.append(_members(node, inputs, at[group]))
        at[ragged] = of_atom(reduce[0])
    else:
        reduce.append(Axis(f"{node.name}_g", offsets.shape[0]))
        at[group] = of_atom(reduce[0])
    for label, size in zip(node.attr("left"), left.shape, strict=True):
        if label not in at:
            reduce.append(Axis(f"{node.name}_k{label}", size))
            at[label] = of_atom(reduce[-1])
    factors = [
        make_cast(read(n, tuple(at[label] for label in node.attr(name))), node.element)
        for n, name in ((left, "left"), (right, "right"))
    ]
    value = make("mul", *factors)
    if group not in node.attr("out"):
        value = make("where", _is_member(offsets, at[group], at[ragged]), value, const(0, node.element))
    narrow = operand_dtype(left.element, right.element)
    return (
        Equation(
            (node.name,), axes, (value,), (node.element,), "sum", tuple(reduce), operand_dtype=narrow,
            source=node.source,
        ),
    )  # fmt: skip


def _is_member(offsets: Node, group: Index, point: Index) -> Expr:
    begin, end = _bounds(offsets, group)
    inside = make("lt", iota(point), end)
    return inside if begin is None else make("and", make("le", begin, iota(point)), inside)


def _bounds(offsets: Node, group: Index) -> tuple[Expr | None, Expr]:
    """Where a group starts (None: at 0), and where it ends."""
    first = None
    if group != ZERO:
        first = make_cast(read(offsets, (group - 1,), make("ge", iota(group), const(1, I64))), I64)
    return first, make_cast(read(offsets, (group,)), I64)


def _members(node: Node, inputs: Inputs, group: Index) -> Axis:
    """The points of a group."""
    left, right, offsets = inputs
    sizes = dict(zip((*node.attr("left"), *node.attr("right")), (*left.shape, *right.shape), strict=True))
    return Axis(f"{node.name}_k{node.attr('ragged')}", sizes[node.attr("ragged")], *_bounds(offsets, group))


def _reference(t: Any, inputs: list[Any], node: Node) -> Any:
    """One group after the other."""
    wide = t.promote_types(inputs[0].dtype, inputs[1].dtype)
    offsets = [0, *inputs[2].tolist()]
    group, ragged, out = node.attr("group"), node.attr("ragged"), list(node.attr("out"))
    result = t.zeros([int(n) for n in node.shape], dtype=wide, device=inputs[0].device)
    kept = [label for label in out if label != group]
    for g in range(len(offsets) - 1):
        span = slice(offsets[g], offsets[g + 1])
        operands: list[Any] = []
        for x, name in zip(inputs, ("left", "right"), strict=False):
            labels = node.attr(name)
            key = tuple(g if label == group else span if label == ragged else slice(None) for label in labels)
            operands += [x.to(wide)[key], [label for label in labels if label != group]]
        place = tuple(g if label == group else span if label == ragged else slice(None) for label in out)
        result[place] = t.einsum(*operands, kept)
    return result


ROWS = (OpRow(WHERE, "contract", ("left", "right", "out", "group", "ragged"), _infer, _reference, _lower),)
