"""What a row of the graph op table holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import VerifyError
from ..expr import Expr, Load
from ..graph import Node
from ..index import ZERO, Axis, Index, of_atom
from ..loops import Equation, Statement
from ..types import Dim, DType

Shape = tuple[Dim, ...]
Inputs = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class OpRow:
    """One graph operation and all its facts.

    infer      (input nodes, attributes) -> (shape, dtype); raises VerifyError where they do not fit
    reference  (torch, input tensors, node) -> tensor: the meaning, on tensors of the node's dtypes (or all in float64)
    lower      (node, input nodes, axes) -> statements that define `node.name` over `axes`, one axis per dimension
    kind       "input", "create", "pointwise", "view", "reduce", "scan", "contract", "scatter" or "call": its
             numeric class
    attrs      the names of its attributes
    """

    name: str
    kind: str
    attrs: tuple[str, ...]
    infer: Callable[[Inputs, dict[str, Any]], tuple[Shape, DType | None]]
    reference: Callable[[Any, list[Any], Node], Any] | None
    lower: Callable[[Node, Inputs, tuple[Axis, ...]], tuple[Statement, ...]] | None


def expect(condition: bool, where: str, problem: str, expected: object = "", got: object = "") -> None:
    if not condition:
        raise VerifyError(problem, where=where, expected=expected, got=got)


def point(axes: tuple[Axis, ...]) -> tuple[Index, ...]:
    return tuple(of_atom(a) for a in axes)


def read(node: Node, index: tuple[Index, ...], guard: Expr | None = None) -> Load:
    return Load(node.name, index, node.element, guard)


def pull(node: Node, axes: tuple[Axis, ...], value: Expr) -> tuple[Statement, ...]:
    """The pointwise equation `node[axes] = value`."""
    return (Equation((node.name,), axes, (value,), (node.element,), source=node.source),)


def broadcast_shapes(where: str, *shapes: Shape) -> Shape:
    """numpy's rule, right-aligned; symbolic sizes must be equal as expressions."""
    if all(s == shapes[0] for s in shapes):
        return shapes[0] if shapes else ()
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for k in range(rank):
        sizes = {s[k - rank + len(s)] for s in shapes if k - rank + len(s) >= 0}
        sizes.discard(1)
        if len(sizes) > 1:
            raise VerifyError("shapes do not broadcast", where=where, got=" and ".join(str(list(s)) for s in shapes))
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def broadcast_index(shape: Shape, index: tuple[Index, ...]) -> tuple[Index, ...]:
    """The index into a tensor of `shape` that is broadcast to the rank of `index`."""
    tail = index[len(index) - len(shape) :]
    return tuple(ZERO if size == 1 else i for size, i in zip(shape, tail, strict=True))
