"""From a graph to launches: regions are partitioned, kernels made canonical, equal regions solved once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from ..ir.graph import Graph, Node
from ..ir.loops import Buffer, Kernel, contiguous
from ..ir.simplify import simplifier
from ..ir.types import Dim
from .canonical import Canonical, canonicalize
from .inline import Lowered
from .linked import Link
from .merge import Merger
from .order import CircularOrder, topological
from .partition import Partition, partition_region
from .refine import refine
from .regions import Region, Regions, View
from .reinplace import find_in_place

Cost = Callable[[Kernel], float]


@dataclass(frozen=True, slots=True)
class Launch:
    """One run of a canonical kernel on named values, in the order of `kernel.buffers`.

    `nodes` are the graph nodes whose values it stores; `original` is the kernel under their own names, for people.
    """

    kernel: Kernel
    digest: str
    buffers: tuple[str, ...]
    nodes: tuple[str, ...]
    original: Kernel

    @property
    def reads(self) -> tuple[str, ...]:
        return self.buffers[: len(self.kernel.inputs)]

    @property
    def writes(self) -> tuple[str, ...]:
        return self.buffers[len(self.kernel.buffers) - len(self.kernel.outputs) :]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ATen or a library: the `call` node of this name."""

    node: str


Step = Launch | Call


@dataclass(frozen=True, slots=True)
class Fused:
    """Steps in an order that respects every dependency.

    `views` bind values that are strided views of others; `layouts` give the strides of every stored value;
    `partitions` (one per distinct region) say what the search found. `in_place` maps values to the inputs in whose
    memory they are stored: these mutations are done when the kernel is. `links` are contractions that may share a
    kernel. `numerics`, `asked_in_place` (what could have been in place) and `apart` (contractions that are not linked)
    are what it was made with.
    """

    graph: Graph
    steps: tuple[Step, ...]
    views: dict[str, View]
    layouts: dict[str, tuple[Dim, ...]]
    partitions: tuple[Partition, ...]
    in_place: dict[str, str] = field(default_factory=dict)
    numerics: str = "fast"
    asked_in_place: dict[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    apart: frozenset[str] = frozenset()


def fuse_graph(graph: Graph, cost: Cost, numerics: str = "fast") -> Fused:
    """Kernels and calls that compute `graph`; `cost` estimates the seconds of one kernel."""
    apart: frozenset[str] = frozenset()
    while True:
        try:
            fused = _fuse(graph, cost, numerics, find_in_place(graph), apart)
        except CircularOrder:  # writing in place would make two kernels wait for each other
            fused = _fuse(graph, cost, numerics, {}, apart)
        more = _unlinked(fused, cost)
        if not more:
            return fused
        apart = apart | more


def _unlinked(fused: Fused, cost: Cost) -> frozenset[str]:
    """The links whose kernels nobody can compute well: their contractions are then kernels of their own."""
    if not fused.links:
        return frozenset()
    dear = {s.digest for s in fused.steps if isinstance(s, Launch) and cost(s.kernel) == math.inf}
    front = [n for s in fused.steps if isinstance(s, Launch) and s.digest in dear for n in s.nodes]
    lost, seen = set[str](), set[str]()
    first = {n: link.last for link in fused.links for n in link.first}
    while front:
        name = front.pop()
        if name in first:
            lost.add(first[name])
        elif name not in seen:
            seen.add(name)
            front += fused.graph.by_name[name].inputs
    return frozenset(lost)


def _rounds(node: Node) -> bool:
    """True for what rounds numbers coarsely: to integers, or to FP8."""
    return node.op == "round" or (node.op == "call" and "float8" in repr(node.attr("args")))


def _fuse(graph: Graph, cost: Cost, numerics: str, in_place: dict[str, str], apart: frozenset[str]) -> Fused:
    fuser = Fuser(graph, cost, numerics, in_place, apart)
    launches = [launch for region in fuser.regions.regions for launch in fuser.solve(region)]
    calls = [Call(n.name) for n in graph.nodes if n.op == "call" and n.name in fuser.regions.live]
    steps = _schedule(graph, launches, calls, fuser.regions.views, fuser.done_in_place)
    found = tuple(fuser.partitions), fuser.done_in_place
    links = tuple(fuser.regions.links.values())
    return Fused(graph, steps, fuser.regions.views, fuser.layouts, *found, numerics, in_place, links, apart)


class Fuser:
    """The regions of one graph, and the launches of each."""

    def __init__(
        self, graph: Graph, cost: Cost, numerics: str, in_place: dict[str, str], apart: frozenset[str] = frozenset()
    ) -> None:  # fmt: skip
        self.graph = graph
        self.in_place = in_place
        self.done_in_place: dict[str, str] = {}
        self.cost = cost
        self.simplify = simplifier(numerics, rounds=any(_rounds(n) for n in graph.nodes))
        self.lowered = Lowered(graph)
        self.regions = Regions(graph, self.lowered, self.simplify, apart)
        self.layouts = self._find_layouts()
        self.partitions: list[Partition] = []
        self._solved: dict[object, list[tuple[Canonical, Kernel, tuple[str, ...], dict[int, str]]]] = {}

    def _find_layouts(self) -> dict[str, tuple[Dim, ...]]:
        """Outputs and nodes that say so have the strides that were traced; other stored values are contiguous."""
        g = self.graph
        own = (*self.regions.layouts.items(),)
        layouts = {n: s for n, s in own if self.regions.is_computed(n) or n in self.regions.required}
        for value, target in self.in_place.items():
            strides = g.by_name[target].strides
            if strides is not None:
                layouts[value] = strides
        return layouts

    def buffer_of(self, name: str) -> Buffer:
        node = self.graph.by_name[name]
        if node.strides is not None and self.regions.is_memory(name):
            return Buffer(name, node.element, node.shape, node.strides)
        strides = self.layouts.get(name)
        if strides is None:
            return contiguous(name, node.element, node.shape)
        return Buffer(name, node.element, node.shape, strides)

    def solve(self, region: Region) -> list[Launch]:
        key, order = self.signature(region)
        if key not in self._solved:
            self._solved[key] = self._solve_new(region, order)
        numbers = dict(enumerate(order))
        launches: list[Launch] = []
        for canonical, original, members, local in self._solved[key]:
            back = {old: numbers[k] for k, old in local.items()}
            names = tuple(back[n] for n in canonical.names)
            nodes = tuple(back[n] for n in members)
            launches.append(Launch(canonical.kernel, canonical.digest, names, nodes, original))
        return launches

    def _solve_new(
        self, region: Region, order: list[str]
    ) -> list[tuple[Canonical, Kernel, tuple[str, ...], dict[int, str]]]:
        partition = partition_region(region, self.regions, self.merger_of(region), self.cost)
        self.partitions.append(partition)
        local = dict(enumerate(order))
        solved = []
        for group in partition.groups:
            refined = refine(group.kernel, self.simplify)
            solved.append((canonicalize(refined, self.simplify), refined, group.members, local))
            self.done_in_place.update({v: self.in_place[v] for v in group.in_place})
        return solved

    def merger_of(self, region: Region) -> Merger:
        inside = set(region.nodes)

        def outside(name: str) -> bool:
            return name not in inside and not self.regions.is_transparent(name)

        return Merger(self.lowered, self.simplify, self.buffer_of, outside, self.in_place)

    def signature(self, region: Region) -> tuple[object, list[str]]:
        """A key that equal regions share, and the names of their values in the order in which the key meets them."""
        position: dict[str, int] = {}
        parts: list[object] = []

        def visit(name: str, inside: bool) -> None:
            if name in position:
                return
            node = self.graph.by_name[name]
            if inside or self.regions.is_transparent(name):
                for i in node.inputs:
                    visit(i, i in members)
                body: object = (node.op, tuple(position[i] for i in node.inputs), repr(node.attrs))
            else:
                body = "outside"
            position[name] = len(position)
            buffer = self.buffer_of(name)
            target = (name, self.in_place[name]) if name in self.in_place else None
            parts.append((body, node.shape, node.dtype, buffer.strides, name in region.required, target))

        members = set(region.nodes)
        for name in region.nodes:
            visit(name, True)
        return tuple(parts), list(position)


def _schedule(
    graph: Graph, launches: list[Launch], calls: list[Call], views: dict[str, View], in_place: dict[str, str]
) -> tuple[Step, ...]:
    """Steps after what they read and readers before writers in place, otherwise in the order of the graph."""
    place = {n.name: k for k, n in enumerate(graph.nodes)}
    maker: dict[str, int] = {}
    steps: list[Step] = [*launches, *calls]
    for k, step in enumerate(steps):
        for name in step.writes if isinstance(step, Launch) else (step.node,):
            maker[name] = k

    def needs(step: Step) -> set[int]:
        names = step.reads if isinstance(step, Launch) else graph.by_name[step.node].inputs
        return {maker[m] for n in names if (m := memory_of(n, graph, views)) in maker}

    waiting = {k: needs(s) - {k} for k, s in enumerate(steps)}
    for value, target in in_place.items():
        for k, step in enumerate(steps):
            names = step.reads if isinstance(step, Launch) else graph.by_name[step.node].inputs
            if k != maker[value] and any(memory_of(n, graph, views) == target for n in names):
                waiting[maker[value]].add(k)
    effects = [k for k, s in enumerate(steps) if isinstance(s, Call) and graph.by_name[s.node].attr("kind") == "effect"]
    for before, after in pairwise(effects):
        waiting[after].add(before)
    return tuple(steps[k] for k in topological(waiting, [_position(s, place) for s in steps]))


def _position(step: Step, place: dict[str, int]) -> int:
    return max(place[n] for n in step.nodes) if isinstance(step, Launch) else place[step.node]


def memory_of(name: str, graph: Graph, views: dict[str, View]) -> str:
    """The stored value that a name lives in (`result` nodes live in their call)."""
    while True:
        if name in views:
            name = views[name].base
        elif graph.by_name[name].op == "result":
            return graph.by_name[name].inputs[0]
        else:
            return name
