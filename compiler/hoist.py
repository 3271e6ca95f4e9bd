"""What depends on parameters and buffers alone leaves an inference graph, so that it is computed once.

    w32: static; w = bf16(w32); y = x @ w.t()     ->     once: w = bf16(w32);     each call: y = x @ w.t()

Bytes decide: each call reads the kept value in place of what it is computed of. `kept` has when it is computed again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import fx
from torch._functorch._aot_autograd.schemas import PlainTensorMeta, ViewAndMutationMeta
from torch._guards import TracingContext

SMALL = 64 * 1024  # bytes of a table that is kept to save arithmetic, where it saves no traffic
LITTLE = 16 * 1024  # bytes that are read in about the time that a look at a static tensor takes, a microsecond


class Verdict(Enum):
    """Why a value that depends on static inputs alone is kept, or is not."""

    FEWER = "kept: fewer bytes than it is computed of"
    TABLE = "kept: a small table"
    COPY = "kept: a copy that is dense along what its product sums over"
    LARGER = "not kept: more bytes than it is computed of"
    EQUAL = "not kept: as many bytes as it is computed of, and not small"
    LITTLE = "not kept: it would save less than a look at what it is computed of costs"
    RETURNED = "not kept: the caller gets it, or a view of it, and may write to it"


KEPT = (Verdict.FEWER, Verdict.TABLE, Verdict.COPY)
PRODUCTS = {torch.ops.aten.mm.default: 1, torch.ops.aten.addmm.default: 2}  # and which operand is the right one


@dataclass(frozen=True, slots=True)
class Hoisted:
    """A graph in two.

    once     static inputs -> kept values
    main     the inputs of the whole graph, then the kept values -> its results
    statics  positions of the inputs of `once` among those of the whole graph
    notes    one line a value that was judged
    """

    once: fx.GraphModule
    main: fx.GraphModule
    statics: tuple[int, ...]
    notes: tuple[str, ...]


def find_statics(gm: fx.GraphModule) -> frozenset[int]:
    """The inputs that AOTAutograd, which must be compiling `gm`, knows to be parameters or buffers."""
    meta = getattr(TracingContext.try_get(), "fw_metadata", None)
    if not isinstance(meta, ViewAndMutationMeta) or len(_inputs(gm)) != len(meta.input_info):
        return frozenset()
    if not all(isinstance(m, PlainTensorMeta) for m in meta.subclass_inp_meta):
        return frozenset()
    changed = {k for k, i in enumerate(meta.input_info) if i.mutates_data or i.mutates_storage_metadata}
    return frozenset(meta.static_input_indices) - changed


def hoist(gm: fx.GraphModule, statics: Collection[int], *, copies: bool = False) -> Hoisted | None:
    """Take the graph apart; None where nothing pays. `copies` of weights may be kept that save no bytes."""
    inputs = _inputs(gm)
    chosen = [inputs[k] for k in sorted(statics)]
    turned = _turn_operands(gm, _find_roots(gm, chosen), copies)
    roots = _find_roots(gm, chosen)
    verdicts = dict(_judge_all(gm, roots, turned))
    kept = [n for n, v in verdicts.items() if v in KEPT]
    if not kept:
        return None
    needed = set(kept).union(*(roots[n] for n in kept))
    used = tuple(k for k, n in enumerate(inputs) if n in needed)
    notes = tuple(f"{n.name} {list(n.meta['val'].shape)}, {v.value}" for n, v in verdicts.items())
    return Hoisted(_make_once(gm, kept, roots), _make_main(gm, kept), used, notes)


def _inputs(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.op == "placeholder"]


def _find_roots(gm: fx.GraphModule, statics: Collection[fx.Node]) -> dict[fx.Node, frozenset[fx.Node]]:
    """For each node that depends on static inputs and constants alone, the static inputs."""
    found = {n: frozenset([n]) for n in statics if _is_dense(n)}
    for node in gm.graph.nodes:
        if _is_pure(node) and all(n in found for n in node.all_input_nodes):
            found[node] = frozenset().union(*(found[n] for n in node.all_input_nodes))
    return found


def _is_dense(node: fx.Node) -> bool:
    """Whether it is a tensor of fixed size on the CPU whose bytes lie together: the guard samples its memory."""
    if not _is_fixed(node.meta.get("val")):
        return False
    val = node.meta["val"]
    span = 1 + sum((n - 1) * stride for n, stride in zip(val.shape, val.stride(), strict=True))
    return val.numel() in (0, span)


def _is_fixed(val: Any) -> bool:
    return (
        isinstance(val, torch.Tensor)
        and val.layout is torch.strided
        and val.device.type == "cpu"
        and not (val.is_neg() or val.is_conj())
        and all(type(n) is int for n in (*val.shape, *val.stride()))
    )


def _is_pure(node: fx.Node) -> bool:
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and target.namespace in ("aten", "prims")
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
        and not target._schema.name.startswith("aten::empty")
        and _is_fixed(node.meta.get("val"))
    )


def _turn_operands(
    gm: fx.GraphModule, roots: dict[fx.Node, frozenset[fx.Node]], copies: bool
) -> frozenset[fx.Node]:  # fmt: skip
    """Let products read static operands across; returns the copies.

    x @ w, w: [K, N] of strides [N, 1]     ->     x @ copy.t(), copy = contiguous(w.t())

    Without `copies` only where w is narrower than what it is computed of, so that a copy is kept in its place.
    """
    aten = torch.ops.aten
    made: dict[fx.Node, fx.Node] = {}
    for product in [n for n in gm.graph.nodes if n.target in PRODUCTS]:
        place = PRODUCTS[product.target]
        w = product.args[place]
        if not isinstance(w, fx.Node) or not roots.get(w) or not _is_across(w.meta["val"]):
            continue
        if w not in made and (copies or _bytes(w) < sum(map(_bytes, roots[w]))):
            with gm.graph.inserting_after(w):
                view = _call(gm.graph, aten.t.default, w)
            with gm.graph.inserting_after(view):
                made[w] = _call(gm.graph, aten.clone.default, view, memory_format=torch.contiguous_format)
        if w in made:
            with gm.graph.inserting_before(product):
                product.update_arg(place, _call(gm.graph, aten.t.default, made[w]))
    return frozenset(made.values())


def _is_across(val: torch.Tensor) -> bool:
    """Whether a matrix is dense along its rows, and not by chance along its columns too."""
    return min(val.shape) > 1 and val.stride() == (val.shape[1], 1)


def _call(graph: fx.Graph, target: Any, x: fx.Node, **options: Any) -> fx.Node:
    node = graph.call_function(target, (x,), options)
    node.meta = {**x.meta, "val": target(x.meta["val"], **options)}
    return node


def _judge_all(
    gm: fx.GraphModule, roots: dict[fx.Node, frozenset[fx.Node]], turned: Collection[fx.Node]
) -> Iterator[tuple[fx.Node, Verdict]]:  # fmt: skip
    """The values that the rest of the graph reads; where one is not kept, what it is computed of is asked."""
    open_ = [n for n in roots if n.op != "placeholder" and any(u not in roots for u in n.users)]
    seen = set[fx.Node]()
    while open_:
        node = open_.pop(0)
        if node in seen or node.op == "placeholder" or not roots[node]:
            continue
        seen.add(node)
        verdict = None if _is_view(node) else _judge(node, roots[node])
        if node in turned and verdict in (Verdict.EQUAL, Verdict.TABLE):
            verdict = Verdict.COPY
        if verdict is not None:
            yield node, verdict
        if verdict not in KEPT:
            open_ += node.all_input_nodes


def _judge(node: fx.Node, roots: frozenset[fx.Node]) -> Verdict:
    if _is_returned(node):
        return Verdict.RETURNED
    size, before = _bytes(node), sum(map(_bytes, roots))
    if size > before:
        return Verdict.LARGER
    if (before - size or size) < LITTLE * len(roots):
        return Verdict.LITTLE
    if size < before:
        return Verdict.FEWER
    return Verdict.TABLE if size <= SMALL else Verdict.EQUAL


def _bytes(node: fx.Node) -> int:
    val = node.meta["val"]
    return int(val.numel()) * int(val.element_size())


def _is_view(node: fx.Node) -> bool:
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target is torch.ops.aten._unsafe_view.default or any(r.alias_info for r in target._schema.returns)


def _is_returned(node: fx.Node) -> bool:
    return any(u.op == "output" or (_is_view(u) and _is_returned(u)) for u in node.users)


def _make_once(
    gm: fx.GraphModule, kept: Collection[fx.Node], roots: dict[fx.Node, frozenset[fx.Node]]
) -> fx.GraphModule:  # fmt: skip
    needed: set[fx.Node] = set()
    waiting = list(kept)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in gm.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[n] for n in kept))
    return fx.GraphModule(gm, graph)


def _make_main(gm: fx.GraphModule, kept: Collection[fx.Node]) -> fx.GraphModule:
    """The graph with inputs for the kept values, behind its own."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in _inputs(gm):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    for node in kept:
        copies[node] = graph.placeholder(f"kept_{node.name}")
        copies[node].meta = dict(node.meta)
    for node in gm.graph.nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    _drop_dead(graph)
    return fx.GraphModule(gm, graph)


def _drop_dead(graph: fx.Graph) -> None:
    """Without what only the kept values read; what has effects stays."""
    for node in reversed(graph.nodes):
        if not node.users and _is_pure(node):
            graph.erase_node(node)
