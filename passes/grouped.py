"""Rows of products in groups stay rows: what moves them waits until they are stored.

y = contract_groups(x, w, offsets); z = take(y, order)     y is stored: rows of z are in no order of groups
y = contract_groups(x, w, offsets); z = y[:, :n] * y[:, n:]     one kernel: rows of z are those of y
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.expr import loads_in
from ..ir.graph import Node
from .inline import Lowered


def grouped_rows(node: Node) -> int | None:
    """The dimension of a product's result that is in groups; None for other nodes."""
    if node.op != "contract_groups" or node.attr("ragged") not in node.attr("out"):
        return None
    return tuple(node.attr("out")).index(node.attr("ragged"))


def follow_rows(lowered: Lowered, name: str, rows: Mapping[str, int]) -> int | None:
    """The dimension of a value that the `rows` of what it is computed of are; None where they are moved."""
    equation = lowered.equation(name)
    found = {
        None if e.guard is not None else e.index[rows[e.name]].single_axis
        for e in loads_in(*equation.args)
        if e.name in rows
    }
    axis = found.pop() if len(found) == 1 else None
    return None if axis is None else equation.axes.index(axis)
