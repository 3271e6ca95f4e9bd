"""What a graph returns and writes: strides as traced, memory shared where torch shares it and nowhere else.

    y = x + 1;  return y, y.clone(), y.t(), x.clone()
->
    return v1, copy v1, view of v1, copy x

Inside the graph clones and layouts mean nothing; here they do. AOTAutograd makes a result that is a view again from the
tensor it is a view of, by the strides and the offset of what the graph returned: such a result must be that memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ...ir.builder import GraphBuilder, Value
from .dims import Dims

# Rows whose result may be memory of their operand; every other row makes a tensor of its own.
VIEWS = frozenset({"reshape", "permute", "expand", "slice"})
MADE_BY_TORCH = frozenset({"call", "result"})
# Views in all but their schema, and views that change nothing.
UNSAFE_VIEW, SAME = "aten._unsafe_view.default", frozenset({"aten.alias.default", "aten.detach.default"})

Mutations = list[tuple[Value, Value]]


@dataclass(slots=True)
class Placer:
    """Places the results of one graph.

    env        what each fx node became
    emit_view  (fx node of a view operator, its source) -> the view, made by torch
    """

    g: GraphBuilder
    dims: Dims
    env: Mapping[fx.Node, Any]
    emit_view: Callable[[fx.Node, Value], Value]
    placed: dict[fx.Node, Any] = field(default_factory=dict)
    owners: dict[str, fx.Node] = field(default_factory=dict)  # of each node's memory, among the results

    def protect(self, mutations: Mutations) -> Mutations:
        """A value that lies in an input which is itself written is copied before the first write."""
        written = {target.node.name for target, _ in mutations}
        return [
            (target, self.g.copy(value) if self._is_at_risk(target, value, written) else value)
            for target, value in mutations
        ]

    def _is_at_risk(self, target: Value, value: Value, written: Container[str]) -> bool:
        return value is not target and value.node.dtype is not None and self._root(value) in written

    def place_all(self, results: Sequence[Any]) -> list[Any]:
        """What the graph returns for each fx result."""
        nodes = dict.fromkeys(out for out in results if isinstance(out, fx.Node))
        views = [out for out in nodes if self._is_seen_view(out, nodes)]
        self._place_each(out for out in nodes if out not in views)
        for out in views:
            self.placed[out] = self._view(out)
        return [self.placed[out] if isinstance(out, fx.Node) else out for out in results]

    def _is_seen_view(self, out: fx.Node, results: Container[fx.Node]) -> bool:
        """True for a view of an input, of another result, or of what torch computes: that memory is there anyway."""
        base = find_base(out)
        if base is out or not isinstance(self.env[out], Value) or not isinstance(self.env[base], Value):
            return False
        return base.op == "placeholder" or base in results or self.env[base].node.op in MADE_BY_TORCH

    def _view(self, out: fx.Node) -> Any:
        """`out` by the view operators that lead to it from its base."""
        if out in self.placed:
            return self.placed[out]
        source = out.args[0] if out.args else None
        if out is find_base(out) or not isinstance(source, fx.Node):
            return self.env[out]
        above = self._view(source)
        return above if str(out.target) in SAME else self.emit_view(out, above)

    def _place_each(self, nodes: Iterable[fx.Node]) -> None:
        for out in nodes:
            self.placed[out] = self._place(out)

    def _place(self, out: fx.Node) -> Any:
        """A tensor gets its traced strides, and is copied where sharing memory would show."""
        value, val = self.env[out], out.meta.get("val")
        if not isinstance(value, Value) or value.node.dtype is None or not isinstance(val, torch.Tensor):
            return value if not isinstance(value, bool) else int(value)
        strides, base, root = self.dims.strides(val), find_base(out), self._root(value)
        owner = self.owners.setdefault(root, base)
        node = self.g.node(value.node.name)
        shared = owner is not base or (self.g.is_input(root) and base.op != "placeholder")
        claimed = node.op == "input" or node.op in MADE_BY_TORCH or node.strides is not None
        if shared or (claimed and node.strides != strides):
            value = self.g.copy(value)
            node = value.node
        return value if strides is None or node.strides == strides else self.g.lay_out(value, strides)

    def _root(self, value: Value) -> str:
        """The node whose memory `value` may lie in."""
        node = value.node
        while node.op in VIEWS:
            node = self.g.node(node.inputs[0])
        return node.name


def find_base(node: fx.Node) -> fx.Node:
    """The fx node whose memory `node` is a view of; itself where it is none."""
    while node.op == "call_function" and node.args:
        source = node.args[0]
        is_view = _gives_views(node) or str(node.target) == UNSAFE_VIEW
        is_view = is_view or (node.target is operator.getitem and _gives_views(source))
        if not is_view or not isinstance(source, fx.Node):
            return node
        node = source
    return node


def _gives_views(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.target, torch._ops.OpOverload) and node.target.is_view
