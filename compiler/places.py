"""Which part of a graph, and which lines of the user's program, a kernel stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir.graph import Graph
from ..passes.fuse import Fused, Launch
from .runtime.plan_values import writes_of

if TYPE_CHECKING:
    from .kernels import Built


def cut_out(graph: Graph, launch: Launch) -> Graph:
    """The part of the graph between what a launch reads and what it writes.

    %2 = exp %1;  %3 = add %2, %0     a launch that reads %0 and %1 and writes %3     ->     f(%0, %1) { %2; %3 }

    A value written in place of an input may need that input too, although its kernel leaves what it keeps alone.
    """
    reads = dict.fromkeys(launch.reads)
    needed: set[str] = set()
    waiting = list(writes_of(launch))
    while waiting:
        name = waiting.pop()
        if name in needed or name in reads:
            continue
        node = graph.by_name[name]
        if node.op in ("input", "call", "result"):
            reads[name] = None
            continue
        needed.add(name)
        waiting += node.inputs
    inputs = tuple(replace(graph.by_name[n], op="input", inputs=(), attrs=()) for n in reads)
    nodes = tuple(n for n in graph.nodes if n.name in needed)
    return Graph(launch.kernel.name, inputs, nodes, writes_of(launch))


def describe_place(built: Built, fused: Fused) -> str:
    """A kernel by the lines of the program that it computes."""
    launch = next(s for s in fused.steps if isinstance(s, Launch) and s.digest == built.digest)
    sources = dict.fromkeys(n.source for n in cut_out(fused.graph, launch).nodes if n.source)
    return f"kernel {built.digest[:12]} of {fused.graph.name} ({', '.join(list(sources)[:3])})"
