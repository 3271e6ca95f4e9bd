"""Graphs as one kernel, lowered node by node by the op table and not optimised; and graphs by the rows' references."""

from __future__ import annotations

import torch

from treadle.ir.expr import Load
from treadle.ir.graph import Graph, Node
from treadle.ir.index import Axis
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.loops import Kernel, Statement, Store, contiguous
from treadle.ir.ops import OPS
from treadle.ir.ops.row import point

Tensors = dict[str, torch.Tensor]


def kernel_of_graph(graph: Graph) -> Kernel:
    """Every node an equation (scatters: an output); output `v` of the graph is the buffer `out_v`."""
    body: list[Statement] = []
    outputs = []
    for node in graph.nodes:
        row = OPS[node.op]
        assert row.lower is not None
        axes = _axes(node)
        statements = row.lower(node, tuple(graph.by_name[i] for i in node.inputs), axes)
        body += statements
        if any(isinstance(s, Store) for s in statements):
            outputs.append(contiguous(node.name, node.element, node.shape))
    for name in graph.outputs:
        node = graph.by_name[str(name)]
        axes = _axes(node)
        body.append(Store(f"out_{name}", point(axes), Load(node.name, point(axes), node.element), axes))
        outputs.append(contiguous(f"out_{name}", node.element, node.shape))
    inputs = tuple(contiguous(n.name, n.element, n.shape) for n in graph.inputs)
    return Kernel(graph.name, inputs, tuple(outputs), tuple(body))


def _axes(node: Node) -> tuple[Axis, ...]:
    return tuple(Axis(f"{node.name}_i{d}", n) for d, n in enumerate(node.shape))


def run_reference(graph: Graph, tensors: Tensors, float64: bool = True) -> Tensors:
    """The outputs by name: every node by its row's reference, its operands in the type that it computes in."""
    values = {n.name: as_held(tensors[n.name], n, float64) for n in graph.inputs}
    for node in graph.nodes:
        row = OPS[node.op]
        assert row.reference is not None
        args = [as_computed(values[i], graph.by_name[i], float64) for i in node.inputs]
        values[node.name] = as_held(row.reference(torch, args, node), node, float64)
    return {str(o): values[str(o)] for o in graph.outputs}


def as_held(x: torch.Tensor, node: Node, float64: bool) -> torch.Tensor:
    return x.to(torch.float64 if float64 and node.element.is_float else torch_dtype(node.element))


def as_computed(x: torch.Tensor, node: Node, float64: bool) -> torch.Tensor:
    return x if float64 and node.element.is_float else x.to(torch_dtype(node.element.compute))
