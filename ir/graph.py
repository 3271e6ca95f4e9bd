"""The graph level: a functional DAG of tensor operations.

    graph f(%x: f32[b, 256]) {
      %1: f32[b, 256] = exp %x
      %2: f32[b] = sum %1, dims=[1]
      return %2
    }

Each node is a row of the op table (`ir.ops`). Nodes are in dependency order; names are unique. What torch mutates is
listed in `mutations`: after all nodes have run, the value is copied into the input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .types import Dim, DType, symbols_of

Attrs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One operation and the tensor it gives.

    dtype    None for a call that gives several results (read with `result` nodes) or none
    strides  as torch traced them, in elements; they bind only where the layout can be seen (calls, outputs)
    source   where the op comes from in the user's program, for messages and `explain`
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attrs: Attrs = ()
    shape: tuple[Dim, ...] = ()
    dtype: DType | None = None
    strides: tuple[Dim, ...] | None = None
    source: str = field(default="", compare=False)

    def attr(self, name: str, default: Any = None) -> Any:
        for key, value in self.attrs:
            if key == name:
                return value
        return default

    @property
    def element(self) -> DType:
        """The dtype of a node that is known to be a tensor."""
        assert self.dtype is not None, self.name
        return self.dtype


@dataclass(frozen=True)
class Graph:
    """`outputs` are node names, dimensions (a size that the caller asked for) or None.

    `output_strides` are the traced layouts of the outputs (one entry each, or none at all: contiguous).
    Inputs are nodes with op "input" (a tensor) or "size" (an integer; attribute `dim` is its symbol).
    """

    name: str
    inputs: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str | Dim | None, ...]
    mutations: tuple[tuple[str, str], ...] = ()
    output_strides: tuple[tuple[Dim, ...] | None, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {n.name: n for n in (*self.inputs, *self.nodes)}

    @cached_property
    def readers(self) -> dict[str, tuple[Node, ...]]:
        """The nodes that read each name (outputs and mutations are not nodes; see `results`)."""
        found: dict[str, list[Node]] = {n: [] for n in self.by_name}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {k: tuple(v) for k, v in found.items()}

    @cached_property
    def results(self) -> frozenset[str]:
        """Names that must exist when the graph ends: outputs, and the values of mutations."""
        return frozenset(o for o in self.outputs if isinstance(o, str)) | {v for _, v in self.mutations}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        return symbols_of(d for n in self.by_name.values() for d in n.shape)
