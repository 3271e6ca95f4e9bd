"""Rows of products in groups stay those rows: what moves them, or joins them with other products, waits for them.

y = contract_groups(x, w, offsets); z = y[:, :n] * y[:, n:]     one kernel: rows of z are those of y
y = contract_groups(x, w, offsets); z = take(y, order)          y is stored: rows of z are in no order of groups
y = contract_groups(x, w, offsets); z = y + contract(x, v)      y is stored: a group at a time is no product of all
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.expr import loads_in
from ..ir.graph import Graph, Node
from ..ir.types import Dim, product
from .inline import Lowered


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of groups: the dimension of a value that they are, the offsets, and how many products are summed."""

    dim: int
    offsets: str
    depth: Dim


def find_rows(graph: Graph, node: Node) -> Rows | None:
    """The rows of a product in groups; None for other nodes."""
    if node.op != "contract_groups" or node.attr("ragged") not in node.attr("out"):
        return None
    out, left = tuple(node.attr("out")), graph.by_name[node.inputs[0]]
    kept = {*out, node.attr("group")}
    depth = product(n for label, n in zip(node.attr("left"), left.shape, strict=True) if label not in kept)
    return Rows(out.index(node.attr("ragged")), node.inputs[2], depth)


def follow_rows(lowered: Lowered, name: str, rows: Mapping[str, Rows]) -> Rows | None:
    """The rows of a value that is computed of `rows`; None where they are moved, or others than each other."""
    equation = lowered.equation(name)
    kinds = {(r.offsets, r.depth) for r in rows.values()}
    places = {
        None if e.guard is not None else e.index[rows[e.name].dim].single_axis
        for e in loads_in(*equation.args)
        if e.name in rows
    }
    axis = places.pop() if len(places) == 1 else None
    if axis is None or len(kinds) > 1:
        return None
    return Rows(equation.axes.index(axis), *kinds.pop())
