"""A lowered program on another device: packages are made on machines that have no GPU, for machines that have one.

x: f32[8] cpu;  %1 = arange(8, device=cpu)      ->      x: f32[8] cuda:0;  %1 = arange(8, device=cuda:0)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from ..ir.errors import BadInput
from .package_signature import WHERE

Tensor = torch.Tensor
SUFFIX = "_for_cpu"  # of operators that no other device has


def move_module(module: fx.GraphModule, device: str) -> fx.GraphModule:
    """A copy of a graph as it is on another device: what each node gives there, and the devices that it names.

    Raises BadInput for an operator that the CPU alone has.
    """
    known: dict[fx.Node, fx.Node] = {}
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, known))
    moved = fx.GraphModule(module, graph)
    mode = find_mode(module)
    target = torch.device(device)
    for node in graph.nodes:
        if node.op == "call_function" and str(node.target).partition(".")[2].partition(".")[0].endswith(SUFFIX):
            raise BadInput("an operator that the CPU alone has", where=WHERE, got=node.target,
                           hint="export the model on the GPU")  # fmt: skip
        node.args, node.kwargs = pytree.tree_map_only(torch.device, lambda _: target, (node.args, node.kwargs))
        if mode is not None and "val" in node.meta:
            node.meta["val"] = _evaluate(node, mode, target)
    moved.recompile()
    return moved


def find_mode(module: fx.GraphModule) -> FakeTensorMode | None:
    """The mode that a graph's tensors were traced in; None where it has none."""
    leaves = (x for node in module.graph.nodes for x in pytree.tree_leaves(node.meta.get("val")))
    return next((x.fake_mode for x in leaves if isinstance(x, FakeTensor)), None)


def _evaluate(node: fx.Node, mode: FakeTensorMode, device: torch.device) -> Any:
    """What a node gives on the device. Layouts of what torch computes may be other ones there."""
    before = node.meta["val"]
    if node.op == "call_function" and not free_unbacked_symbols(before):
        target: Any = node.target
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        try:
            with mode, torch.no_grad():
                return target(*args, **kwargs)
        except RuntimeError as error:
            # A torch without CUDA cannot trace a few operators there; those are of our own, whose layouts are the same.
            if "not linked with support" not in str(error):
                raise
    with mode, torch.no_grad():
        return pytree.tree_map_only(Tensor, lambda x: x.to(device), before)


def attention_of_products(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Scaled dot-product attention by its definition: its fused forms are operators of one device each."""
    return torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


PORTABLE = {torch.ops.aten.scaled_dot_product_attention.default: attention_of_products}
