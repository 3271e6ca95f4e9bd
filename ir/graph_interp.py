"""The graph level run on torch tensors, node by node: what a graph means, for tests and for `verify`.

Two ways of rounding: `declared` computes each node in its compute type and rounds to the node's own type, `float64`
holds every floating tensor in f64 and rounds nothing. Not imported by the rest of `ir`, because it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch

from .errors import BadInput
from .graph import Graph, Node
from .ops import OPS
from .types import BF16, BOOL, F16, F32, F64, I8, I16, I32, I64, U8, DType
from .types import evaluate as evaluate_dim

TORCH_DTYPES: dict[DType, torch.dtype] = {
    BOOL: torch.bool,
    U8: torch.uint8,
    I8: torch.int8,
    I16: torch.int16,
    I32: torch.int32,
    I64: torch.int64,
    F16: torch.float16,
    BF16: torch.bfloat16,
    F32: torch.float32,
    F64: torch.float64,
}

# (target, argument tree, tensors, sizes) -> tensor, tuple of tensors, or whatever the call returns
RunCall = Callable[[str, Any, Sequence[Any], Mapping[str, int]], Any]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """`outputs` in the graph's order (tensors, integers, None); `mutations` are the inputs' new values by name."""

    outputs: list[Any]
    mutations: dict[str, torch.Tensor]


def evaluate(
    graph: Graph, inputs: Sequence[Any], sizes: Mapping[str, int] | None = None, run_call: RunCall | None = None,
    float64: bool = False,
) -> Evaluated:  # fmt: skip
    """Run the graph on `inputs` (in the order of `graph.inputs`); sizes that inputs show need not be given."""
    if len(inputs) != len(graph.inputs):
        raise BadInput("wrong number of inputs", where=graph.name, expected=len(graph.inputs), got=len(inputs))
    known = {**read_sizes(graph, inputs), **(sizes or {})}
    run = _Run(known, run_call, float64)
    for node, value in zip(graph.inputs, inputs, strict=True):
        run.values[node.name] = run.hold(node, value)
    for node in graph.nodes:
        run.values[node.name] = run.node(node)
    outputs = [run.output(o) for o in graph.outputs]
    return Evaluated(outputs, {name: run.values[value] for name, value in graph.mutations})


def read_sizes(graph: Graph, inputs: Sequence[Any]) -> dict[str, int]:
    """The values of the symbols that stand alone (or plus a constant) as an input size or integer."""
    found: dict[str, int] = {}
    for node, value in zip(graph.inputs, inputs, strict=True):
        if node.op == "size":
            _bind(node.attr("dim"), value, found)
        elif node.dtype is not None:
            for dim, size in zip(node.shape, value.shape, strict=True):
                _bind(dim, size, found)
    return found


def _bind(dim: Any, value: int, found: dict[str, int]) -> None:
    if isinstance(dim, sympy.Expr) and len(dim.free_symbols) == 1:
        (symbol,) = dim.free_symbols
        rest = dim - symbol
        if rest.is_Integer:
            found[symbol.name] = value - int(rest)  # type: ignore[attr-defined]


@dataclass(slots=True)
class _Run:
    sizes: Mapping[str, int]
    run_call: RunCall | None
    float64: bool
    values: dict[str, Any] = field(default_factory=dict)

    def node(self, node: Node) -> Any:
        inputs = [self.values[name] for name in node.inputs]
        if node.op == "call":
            return self.hold(node, self.call(node, inputs))
        if node.op == "result":
            return self.hold(node, inputs[0][node.attr("number")])
        node = self.concrete(node)
        row = OPS[node.op]
        assert row.reference is not None, node.op
        if row.kind != "view":
            inputs = [self.widen(t) for t in inputs]
        value = self.hold(node, row.reference(torch, inputs, node))
        return self._own(value, node.strides) if node.strides is not None or node.op == "copy" else value

    def hold(self, node: Node, value: Any) -> Any:
        """The value in the node's type; what is no tensor of ours stays as it is."""
        if node.dtype is None or not isinstance(value, torch.Tensor):
            return value
        dtype = F64 if self.float64 and node.dtype.is_float else node.dtype
        return value.to(TORCH_DTYPES[dtype])

    def widen(self, value: torch.Tensor) -> torch.Tensor:
        if value.dtype in (torch.float16, torch.bfloat16):
            return value.float()
        return value.int() if value.dtype in (torch.int8, torch.uint8, torch.int16) else value

    def concrete(self, node: Node) -> Node:
        """The node with its sizes as integers."""
        if not self.sizes:
            return node
        attrs = tuple((k, self._sized(v)) for k, v in node.attrs)
        return replace(node, attrs=attrs, shape=self._sized(node.shape))

    def _sized(self, value: Any) -> Any:
        if isinstance(value, sympy.Expr):
            return evaluate_dim(value, dict(self.sizes))
        return tuple(self._sized(v) for v in value) if isinstance(value, tuple) else value

    def call(self, node: Node, inputs: list[Any]) -> Any:
        if self.run_call is None:
            raise BadInput("the graph has calls", where=node.attr("target"), hint="give run_call")
        layouts = node.attr("layouts")
        if layouts:
            inputs = [self._laid_out(t, layout) for t, layout in zip(inputs, layouts, strict=True)]
        return self.run_call(node.attr("target"), node.attr("args"), inputs, self.sizes)

    def _laid_out(self, value: Any, strides: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if strides is None:
            return value.contiguous()
        strides = self._sized(strides)
        if tuple(value.stride()) == strides:
            return value
        return torch.empty_strided(value.shape, strides, dtype=value.dtype).copy_(value)

    def _own(self, value: torch.Tensor, strides: Any) -> torch.Tensor:
        """A fresh tensor with the strides that can be seen."""
        shape = value.shape
        if strides is None:
            return value.clone()
        strides = self._sized(strides)
        for d, stride in enumerate(strides):
            value = value.narrow(d, 0, 1) if stride == 0 and value.shape[d] else value  # one place, seen many times
        out = torch.empty_strided(value.shape, strides, dtype=value.dtype).copy_(value)
        return out.expand(shape)

    def output(self, out: Any) -> Any:
        return self.values[out] if isinstance(out, str) else self._sized(out)
