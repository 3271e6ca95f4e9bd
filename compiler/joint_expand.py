"""Operators of the joint graph in simple operations, of which a cut may take a few and compute the others again.

    y = softmax(x)     ->     m = amax(x); s = sum(exp(x - m)); y = exp(x - m) / s
    y = scatter(x, i, v), where a gather at i has checked i     ->     y = where(position == i, v, x)

What comes out are ATen operators that treadle lowers, each with the fake tensor that it would give.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import guard_or_false

aten = torch.ops.aten
Expansion = Callable[["Writer", fx.Node], "fx.Node | dict[int, fx.Node] | None"]
EXPANSIONS: dict[Any, Expansion] = {}
NARROW = (torch.float16, torch.bfloat16)


def expand(joint: fx.GraphModule) -> None:
    """Spell normalisations in simple operations, where all of their results can be spelled so."""
    graph = joint.graph
    for node in graph.find_nodes(op="call_function", target=aten.detach.default):
        node.replace_all_uses_with(arguments(node)[0])
        graph.erase_node(node)
    for node in list(graph.nodes):
        expansion = EXPANSIONS.get(node.target)
        if expansion is None:
            continue
        write = Writer(graph)
        with graph.inserting_before(node.next):
            found = expansion(write, node)
            if isinstance(found, fx.Node):
                results = {node: found}
            else:
                results = {u: found[arguments(u)[1]] for u in node.users if arguments(u)[1] in found} if found else {}
            laid_out = {old: _laid_out(write, new, fake(old)) for old, new in results.items()}
        if None not in laid_out.values():
            for old, new in laid_out.items():
                old.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    joint.recompile()


def _laid_out(write: Writer, new: fx.Node, old: torch.Tensor) -> fx.Node | None:
    """The value in the layout of the operator's result, on which its views and the caller rely; None: that fails."""
    if _is_equal(fake(new).stride(), old.stride()):
        return new
    dense: list[Any] = [1]
    for n in reversed(old.shape[1:]):
        dense.insert(0, dense[0] * n)
    return (
        write(aten.clone.default, new, memory_format=torch.contiguous_format)
        if _is_equal(dense, old.stride())
        else None
    )


def _is_equal(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return all(guard_or_false(n == m) for n, m in zip(a, b, strict=True))


class Writer:
    """Adds operations to a graph, each with the fake tensor that it would give."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        fakes = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
        node.meta["val"] = target(*fakes[0], **fakes[1])
        return node

    def cast(self, x: fx.Node, dtype: torch.dtype) -> fx.Node:
        return x if fake(x).dtype is dtype else self(aten._to_copy.default, x, dtype=dtype)

    def wide(self, x: fx.Node) -> fx.Node:
        """In the type in which kernels compute."""
        return self.cast(x, torch.float32) if fake(x).dtype in NARROW else x


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments, which each operator has types of its own for."""
    return node.args


def fake(node: Any) -> torch.Tensor:
    value: torch.Tensor = node.meta["val"]
    return value


def expands(*targets: Any) -> Callable[[Expansion], Expansion]:
    def enter(expansion: Expansion) -> Expansion:
        EXPANSIONS.update(dict.fromkeys(targets, expansion))
        return expansion

    return enter


def _is_empty(x: fx.Node, dims: Sequence[int]) -> bool:
    """A row of no element has no maximum."""
    return any(guard_or_false(fake(x).shape[d] == 0) for d in dims) or not fake(x).ndim


@expands(aten._softmax.default)
def _softmax(write: Writer, node: fx.Node) -> fx.Node | None:
    x, dim, *_ = arguments(node)
    if _is_empty(x, (dim,)):
        return None
    wide = write.wide(x)
    e = write(aten.exp.default, write(aten.sub.Tensor, wide, write(aten.amax.default, wide, [dim], True)))
    return write.cast(write(aten.div.Tensor, e, write(aten.sum.dim_IntList, e, [dim], True)), fake(node).dtype)


@expands(aten._log_softmax.default)
def _log_softmax(write: Writer, node: fx.Node) -> fx.Node | None:
    x, dim, *_ = arguments(node)
    if _is_empty(x, (dim,)):
        return None
    wide = write.wide(x)
    shifted = write(aten.sub.Tensor, wide, write(aten.amax.default, wide, [dim], True))
    total = write(aten.sum.dim_IntList, write(aten.exp.default, shifted), [dim], True)
    return write.cast(write(aten.sub.Tensor, shifted, write(aten.log.default, total)), fake(node).dtype)


def _moments(write: Writer, x: fx.Node, dims: list[int], eps: float) -> tuple[fx.Node, fx.Node, fx.Node]:
    """x - mean(x), mean(x) and the reciprocal deviation."""
    mean = write(aten.mean.dim, x, dims, True)
    centred = write(aten.sub.Tensor, x, mean)
    variance = write(aten.mean.dim, write(aten.mul.Tensor, centred, centred), dims, True)
    return centred, mean, write(aten.rsqrt.default, write(aten.add.Scalar, variance, eps))


def _affine(write: Writer, x: fx.Node, weight: fx.Node | None, bias: fx.Node | None) -> fx.Node:
    if weight is not None:
        x = write(aten.mul.Tensor, x, write.cast(weight, fake(x).dtype))
    return x if bias is None else write(aten.add.Tensor, x, write.cast(bias, fake(x).dtype))


def _only_backward(node: fx.Node, backward: Any) -> bool:
    """True where the statistics go to the backward operator alone: they may be more exact than eager's."""
    uses = [u for n in node.users if n.target is operator.getitem and n.args[1] != 0 for u in n.users]
    return all(u.target is backward for u in uses)


@expands(aten.native_layer_norm.default)
def _layer_norm(write: Writer, node: fx.Node) -> dict[int, fx.Node] | None:
    x, shape, weight, bias, eps = arguments(node)
    dims = list(range(fake(x).ndim - len(shape), fake(x).ndim))
    if _is_empty(x, dims) or not _only_backward(node, aten.native_layer_norm_backward.default):
        return None
    centred, mean, rstd = _moments(write, write.wide(x), dims, eps)
    out = _affine(write, write(aten.mul.Tensor, centred, rstd), weight, bias)
    return {0: write.cast(out, fake(x).dtype), 1: mean, 2: rstd}


@expands(aten._fused_rms_norm.default)
def _rms_norm(write: Writer, node: fx.Node) -> dict[int, fx.Node] | None:
    x, shape, weight, eps = arguments(node)
    dims = list(range(fake(x).ndim - len(shape), fake(x).ndim))
    if eps is None or _is_empty(x, dims) or not _only_backward(node, aten._fused_rms_norm_backward.default):
        return None
    wide = write.wide(x)
    square = write(aten.mean.dim, write(aten.mul.Tensor, wide, wide), dims, True)
    rstd = write(aten.rsqrt.default, write(aten.add.Scalar, square, eps))
    out = _affine(write, write(aten.mul.Tensor, wide, rstd), weight, None)
    return {0: write.cast(out, fake(x).dtype), 1: rstd}


@expands(aten.native_group_norm.default)
def _group_norm(write: Writer, node: fx.Node) -> dict[int, fx.Node] | None:
    x, weight, bias, _, c, _, groups, eps = arguments(node)
    backward = aten.native_group_norm_backward.default
    if not isinstance(c, int) or _is_empty(x, range(fake(x).ndim)) or not _only_backward(node, backward):
        return None
    shape = list(fake(x).shape)
    if any(not isinstance(s, int) for s in shape):
        return None
    split = [shape[0], groups, c // groups, *shape[2:]]
    wide = write(aten.reshape.default, write.wide(x), split)
    centred, mean, rstd = _moments(write, wide, list(range(2, len(split))), eps)
    along = [groups, c // groups, *(1 for _ in shape[2:])]
    flat = (None if v is None else write(aten.reshape.default, v, along) for v in (weight, bias))
    out = _affine(write, write(aten.mul.Tensor, centred, rstd), *flat)
    out = write.cast(write(aten.reshape.default, out, shape), fake(x).dtype)
    return {0: out, **{k: write(aten.reshape.default, v, split[:2]) for k, v in ((1, mean), (2, rstd))}}


@expands(aten._native_batch_norm_legit_functional.default, aten._native_batch_norm_legit.no_stats)
def _batch_norm(write: Writer, node: fx.Node) -> dict[int, fx.Node] | None:
    """From the statistics that the operator gives itself, where these are as exact as the computation."""
    x, weight, bias = arguments(node)[:3]
    taken = {arguments(n)[1]: n for n in node.users if n.target is operator.getitem}
    is_training = arguments(node)[3 if node.target is aten._native_batch_norm_legit.no_stats else 5]
    if not is_training or 0 not in taken or fake(x).dtype in NARROW:
        return None
    graph, along = write.graph, [-1, *(1 for _ in fake(x).shape[2:])]
    statistics = []
    for k in (1, 2):
        item = graph.call_function(operator.getitem, (node, k))
        item.meta["val"] = node.meta["val"][k]
        statistics.append(write(aten.reshape.default, item, along))
        if k in taken:
            taken[k].replace_all_uses_with(item)
    out = write(aten.mul.Tensor, write(aten.sub.Tensor, x, statistics[0]), statistics[1])
    flat = (None if v is None else write(aten.reshape.default, v, along) for v in (weight, bias))
    return {0: _affine(write, out, *flat)}


@expands(aten.scatter_add.default, aten.scatter.value, aten.scatter.src)
def _scatter(write: Writer, node: fx.Node) -> fx.Node | None:
    """One element of each row: a choice by position, where a gather has checked the same indices."""
    base, dim, index, value = arguments(node)
    shape, at = fake(base).shape, fake(index).shape
    if not shape or len(at) != len(shape) or at[dim] != 1:
        return None
    dim %= len(shape)
    if any(not guard_or_false(n == m) for k, (n, m) in enumerate(zip(shape, at, strict=True)) if k != dim):
        return None
    if isinstance(value, fx.Node) and not guard_or_false(fake(value).shape[dim] == 1):
        return None
    gathers = write.graph.find_nodes(op="call_function", target=aten.gather.default)
    checks = (
        g for g in gathers if g < node and _is_same(arguments(g)[2], index) and arguments(g)[1] % len(shape) == dim
    )
    if not any(guard_or_false(fake(arguments(g)[0]).shape[dim] == shape[dim]) for g in checks):
        return None
    positions = write(aten.arange.start_step, 0, shape[dim], 1, dtype=torch.int64, device=fake(base).device)
    positions = write(aten.reshape.default, positions, [-1 if k == dim else 1 for k in range(len(shape))])
    chosen = write(aten.eq.Tensor, positions, index)
    if not isinstance(value, fx.Node):
        value = write(aten.full.default, [], value, dtype=fake(base).dtype, device=fake(base).device)
    if node.target is aten.scatter_add.default:
        value = write(aten.add.Tensor, base, value)
    return write(aten.where.self, chosen, value, base)


def _is_same(a: fx.Node, b: fx.Node) -> bool:
    """The same value, or the same view of one."""
    return a is b or (a.target is b.target and a.op == "call_function" and (a.args, a.kwargs) == (b.args, b.kwargs))
