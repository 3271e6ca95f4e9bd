"""Linked contractions (see `passes.linked`) in the joint graph of training: what lies between them is not saved.

    s = bmm(q, k);  m = amax(s);  p = exp(s - m) / sum exp(s - m);  y = bmm(p, v)          forward
    dp = bmm(dy, v^T);  u = p * (dp - sum(p * dp));  dq = bmm(u, k)  ..                    backward

The backward graph computes s and p again, of q, k and a number or two for each row: a kernel that links contractions
does so as it goes. And the row sums of p * dp are those of dy * y, which are much less work (the law `exchange`: here
the inner sum is one that the other graph has computed).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from .contractions import judge_product
from .driver import choose_isa
from .frontend.contractions import Product
from .frontend.dims import DTYPE_OF
from .frontend.links import FxLink, iterate_links, operands_of, shape_of
from .joint_expand import Writer, arguments, fake
from .settings import settings

aten = torch.ops.aten
RESHAPES = (
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default, aten.clone.default,
    aten._to_copy.default, aten.detach.default, aten.alias.default, aten.unsqueeze.default, aten.squeeze.dim,
)  # fmt: skip
PRODUCTS = (aten.bmm.default, aten.mm.default)
Judge = Callable[[Product], str]


def save_little(joint: fx.GraphModule, outputs: int) -> None:
    """Makes the backward graph compute again what lies between linked contractions of the forward graph, where kernels
    of ours compute those, under the settings in force. The first `outputs` results are those of the forward graph.
    """
    values = (n.meta.get("val") for n in joint.graph.nodes)
    devices = {v.device.type for v in values if isinstance(v, torch.Tensor)}
    if devices == {"cpu"} and settings.numerics == "fast":
        judge = partial(judge_product, isa=choose_isa(), gemm=settings.gemm)
        save_between(joint, outputs, judge)


def save_between(joint: fx.GraphModule, outputs: int, judge: Judge) -> None:
    """The same for contractions of which `judge` does not say why a library is to compute them."""
    forward = _find_forward(joint, outputs)
    links = [x for x in iterate_links(forward) if _is_apart(x, set(forward)) and not judge(_product_of(x.first[0]))]
    if not links:
        return
    exchange_row_sums(joint)
    for link in links:
        large = max(prod(shape_of(n)) for n in link.first)
        inside = {*link.first, *link.between}
        whole = [n for n in inside if 2 * prod(shape_of(n)) > large]
        masks = (m for n in whole for i in n.all_input_nodes if i not in inside for m in _find_fixed(i))
        for node in (*whole, *masks):
            node.meta.setdefault("recompute", CheckpointPolicy.MUST_RECOMPUTE)


def _find_forward(joint: fx.GraphModule, outputs: int) -> list[fx.Node]:
    """What the first results are computed of."""
    results: Any = joint.graph.output_node().args[0]
    front = [n for n in results[:outputs] if isinstance(n, fx.Node)]
    needed = set(front)
    while front:
        more = [n for n in front.pop().all_input_nodes if n not in needed]
        needed.update(more)
        front += more
    return [n for n in joint.graph.nodes if n in needed and n.op == "call_function"]


def _find_fixed(node: fx.Node) -> set[fx.Node]:
    """A value with all that it is computed of, where that is the same whatever the graph is given."""
    found, front = {node}, [node]
    while front:
        here = front.pop()
        tags = getattr(here.target, "tags", None)  # none: one of several results, or a number
        if here.op != "call_function" or tags is None or torch.Tag.nondeterministic_seeded in tags:
            return set()
        more = [n for n in here.all_input_nodes if n not in found]
        found.update(more)
        front += more
    return found


def _is_apart(link: FxLink, forward: set[fx.Node]) -> bool:
    """True where nothing else of the forward graph reads values between the contractions."""
    inside = {*link.first, *link.between, link.last}
    large = max(prod(shape_of(n)) for n in link.first)
    whole = [n for n in (*link.first, *link.between) if 2 * prod(shape_of(n)) > large]
    readers = [u for n in whole for u in n.users]
    return all(u in inside or (u not in forward and u.op != "output") for u in readers)


def _product_of(node: fx.Node) -> Product:
    """A linked contraction as one is judged."""
    left, right = operands_of(node)[:2]
    *batch, rows, columns = shape_of(node)
    types = DTYPE_OF[fake(left).dtype], DTYPE_OF[fake(right).dtype]
    return Product(prod(batch), rows, columns, shape_of(left)[-1], types, (True, True), linked=True)


def exchange_row_sums(joint: fx.GraphModule) -> None:
    """Row sums of a softmax times its gradient, where that is summed over by a product, as sums over its results."""
    for node in joint.graph.find_nodes(op="call_function", target=aten._softmax_backward_data.default):
        grad, out, dim, dtype = arguments(node)
        found = _find_pair(grad, out) if dim in (-1, fake(out).ndim - 1) else None
        if found is None:
            continue
        write = Writer(joint.graph)
        with joint.graph.inserting_before(node):
            both = write(aten.mul.Tensor, *(write.wide(x) for x in found))
            sums = write(aten.sum.dim_IntList, both, [-1], True)
            sums = write(aten.reshape.default, sums, [*fake(out).shape[:-1], 1])
            moved = write(aten.sub.Tensor, write.wide(grad), sums)
            new = write.cast(write(aten.mul.Tensor, write.wide(out), moved), dtype)
        node.replace_all_uses_with(new)
        joint.graph.erase_node(node)
    joint.recompile()


def _find_pair(grad: fx.Node, out: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """(the gradient of a product of `out`, that product), where `grad` is computed of the former."""
    inner, whole = _source(grad), _source(out)
    if inner.target not in PRODUCTS:
        return None
    gradient, turned = operands_of(inner)
    for node in inner.graph.nodes:
        if node is inner:
            return None  # only what comes before it
        if node.target is not inner.target or shape_of(node) != shape_of(gradient):
            continue
        left, right = operands_of(node)
        if _source(left) is whole and _turns(turned, right):
            return gradient, node
    return None


def _source(node: fx.Node) -> fx.Node:
    """What a node has all elements of, in the same order."""
    while node.target in RESHAPES and prod(shape_of(node.all_input_nodes[0])) == prod(shape_of(node)):
        node = node.all_input_nodes[0]
    return node


def _turns(node: fx.Node, base: fx.Node) -> bool:
    """True where a node is another one with its last two dimensions exchanged."""
    args: tuple[Any, ...] = node.args
    if not args or args[0] is not base:
        return False
    rank = len(shape_of(base))
    if node.target is aten.t.default:
        return rank == 2
    if node.target is aten.transpose.int:
        return {d % rank for d in args[1:]} == {rank - 2, rank - 1}
    return node.target is aten.permute.default and [d % rank for d in args[1]] == [
        *range(rank - 2), rank - 1, rank - 2,
    ]  # fmt: skip
