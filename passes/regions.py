"""Cutting a graph into regions: what lies between calls, and what must be in memory.

Views and tensors made of indices alone are transparent: they are index maps, pulled into whoever reads them. The other
nodes that treadle computes form regions, connected parts at one depth, where depth counts the calls and contractions on
the longest path from the inputs. Equal layers give equal regions, which are then solved once.

A contraction is in a region with what is computed of its results one by one; what reduces them, or moves rows that are
in groups, waits until they are stored. Its operands are stored too, unless few of its results read each element of
theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from ..ir.expr import Load, Rewriter
from ..ir.graph import Graph, Node
from ..ir.index import Axis, Index, axis_coefficient, is_affine, linearize, of_atom
from ..ir.ops import OPS
from ..ir.simplify import Simplifier
from ..ir.types import Dim, contiguous_strides, is_nonnegative, multiply, plus, product
from .grouped import Rows, find_rows, follow_rows
from .inline import Lowered
from .linked import find_links, in_order
from .order import connected_parts
from .reasons import Reason, Refusal

PURE_VIEWS = ("reshape", "permute", "expand", "slice", "windows")
CALLS = {"library": Reason.LIBRARY, "effect": Reason.EFFECT}  # kinds of calls; what is not here is opaque
LIGHT = 24  # nodes of an index-only value (a mask of positions) that is cheaper to recompute than to load
FEW = 16  # times that an operand of a contraction may be computed again, rather than stored
TOGETHER = 128  # results that share an element of the larger operand, whatever the tiles of a target
MOST_SLICES = 16  # that are compared with each other
MANY_PLACES = 3  # in which the elements of a window stand
TABLE = 256  # entries: looking one up costs no more than computing a value
FEW_BLOCKS = 4  # of so many results, for each of which the larger operand may be computed again
POINT_BY_POINT = ("pointwise", "view", "create")  # kinds of nodes that need no more of a value than its own element

Place = tuple[str, ...]  # what stands between a value and who reads it, views for one; equal: the same element


@dataclass(frozen=True, slots=True)
class View:
    """A value that is a strided view of a stored one."""

    base: str
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes to be computed together, in order; `required` ones must be stored."""

    nodes: tuple[str, ...]
    required: frozenset[str]


class Regions:
    """The analysis of one graph. `views` binds names that need no kernel; `regions` are in dependency order. `apart`
    are contractions that are linked with none before them.
    """

    def __init__(
        self, graph: Graph, lowered: Lowered, simplify: Simplifier, apart: frozenset[str] = frozenset()
    ) -> None:  # fmt: skip
        self.graph = graph
        self.lowered = lowered
        self.simplify = simplify
        self.live = _live(graph)
        self.views: dict[str, View] = {}
        self.required: dict[str, Refusal] = {}  # the values that are stored whatever it costs, and why
        self.forced: set[str] = set()  # views that must be copied
        self.layouts = _find_layouts(graph)
        self._index_only = self._find_index_only()
        self._bind_uses()
        self._reads: dict[str, tuple[tuple[Place, str], ...]] = {}  # once all that is forced is known
        self._places: dict[frozenset[str], int] = {}
        self.links = find_links(graph, self.live, apart) if simplify.is_fast else ()
        self.depth = self._find_depths()
        self._require_crossing()

    # --- classes of nodes ----------------------------------------------------------------------------------------

    def is_memory(self, name: str) -> bool:
        """Inputs and results of calls are in memory without our doing."""
        return OPS[self.graph.by_name[name].op].kind in ("input", "call")

    def is_transparent(self, name: str) -> bool:
        if name in self.forced:
            return False
        node = self.graph.by_name[name]
        return node.op in PURE_VIEWS or OPS[node.op].kind == "create" or name in self._index_only

    def is_computed(self, name: str) -> bool:
        return not self.is_memory(name) and not self.is_transparent(name)

    def _find_index_only(self) -> set[str]:
        weight: dict[str, int] = {}
        for node in self.graph.nodes:
            kind = OPS[node.op].kind
            light = kind in ("create", "pointwise") or node.op in PURE_VIEWS
            if light and all(i in weight for i in node.inputs):
                total = 1 + sum(weight[i] for i in node.inputs)
                if total <= LIGHT:
                    weight[node.name] = total
        return set(weight)

    # --- what must be stored -------------------------------------------------------------------------------------

    def _bind_uses(self) -> None:
        g = self.graph
        strides = dict(zip((o for o in g.outputs), g.output_strides, strict=False)) if g.output_strides else {}
        bases: set[str] = set()
        for output in dict.fromkeys(o for o in g.outputs if isinstance(o, str)):
            self._bind_output(output, strides.get(output), bases)
        for target, value in g.mutations:
            if g.by_name[value].op in PURE_VIEWS:  # a kernel writes it where it belongs: nothing copies a view for us
                self.forced.add(value)
            self._require(value, None, Refusal(Reason.MUTATION, target))
        for node in g.nodes:
            if node.op == "call" and node.name in self.live:
                self._bind_arguments(node)
            if OPS[node.op].kind == "scatter" and node.name in self.live:
                self.required.setdefault(node.name, Refusal(Reason.SCATTER))

    def _bind_output(self, name: str, strides: tuple[Dim, ...] | None, bases: set[str]) -> None:
        """Outputs own their memory: one may be a view of what nobody else returns, never of an input."""
        view = self._as_view(name)
        own = view is not None and self.graph.by_name[view.base].op not in ("input", "size")
        wanted = strides if strides is not None else contiguous_strides(self.graph.by_name[name].shape)
        returned = Refusal(Reason.OUTPUT)
        if view is not None and own and view.base not in bases and _same_layout(view.shape, view.strides, wanted):
            bases.add(view.base)
            self._require(name, None, returned)
            return
        if self.is_memory(name) and view is not None and own and name not in bases:
            bases.add(name)
            self._require(name, None, returned)
            return
        self.forced.add(name)
        self.required.setdefault(name, returned)

    def _bind_arguments(self, call: Node) -> None:
        layouts = call.attr("layouts") or (None,) * len(call.inputs)
        free = is_layout_free(call)
        for name, layout in zip(call.inputs, layouts, strict=True):
            self._require(name, None if free else layout, refuse_call(call))

    def _require(self, name: str, layout: tuple[Dim, ...] | None, why: Refusal) -> None:
        """`name` must be in memory; as a view of its base where that is strided (and laid out as asked)."""
        if self.is_memory(name):
            return
        view = self._as_view(name)
        if view is not None and (layout is None or _same_layout(view.shape, view.strides, layout)):
            if view.base != name:
                self.views[name] = view
            if not self.is_memory(view.base):
                self.required.setdefault(view.base, why)
            return
        if self.graph.by_name[name].op in PURE_VIEWS or OPS[self.graph.by_name[name].op].kind == "create":
            self.forced.add(name)
        if name in self._index_only:
            self.forced.add(name)
        self.required.setdefault(name, why)

    def _as_view(self, name: str) -> View | None:
        """The strided view that a chain of view nodes is, or None."""
        base = name
        while self.graph.by_name[base].op in PURE_VIEWS and base not in self.forced:
            base = self.graph.by_name[base].inputs[0]
        node, root = self.graph.by_name[name], self.graph.by_name[base]
        if OPS[root.op].kind == "create" or base in self._index_only:
            return None
        axes = tuple(Axis(f"@{d}", n) for d, n in enumerate(node.shape))
        index = pulled_index(self.lowered, name, base, axes, self.simplify)
        if index is None:
            return None
        stored = root.strides if self.is_memory(base) else self.layouts.get(base)
        stored = contiguous_strides(root.shape) if stored is None else stored
        flat = linearize(index, stored)
        if not is_affine(flat):
            return None
        strides = tuple(axis_coefficient(flat, a) or 0 for a in axes)
        return View(base, node.shape, _natural_strides(node.shape, strides), flat.const)

    # --- depth ---------------------------------------------------------------------------------------------------

    def _find_depths(self) -> dict[str, int]:
        depth: dict[str, int] = {n.name: 0 for n in self.graph.inputs}
        pads, sources = self._find_padded()
        windows = self._find_windows() | sources
        fresh: set[str] = set()  # what is computed of a contraction of the same depth
        rows: dict[str, Rows] = {}  # of it, where they are in groups
        for node, *linked in in_order(self.graph, self.links) if self.links else ([n] for n in self.graph.nodes):
            if linked:  # at one depth: behind all that any of them reads
                inside = {node.name, *(n.name for n in linked)}
                read = max(depth[i] for n in (node, *linked) for i in n.inputs if i not in inside)
                depth.update(dict.fromkeys(inside, read + 1))
                fresh |= inside
                continue
            level = max((depth[i] for i in node.inputs), default=0)
            kind = OPS[node.op].kind
            products = {i for i in node.inputs if i in fresh and depth[i] == level}
            deeper = node.op == "call" or kind == "contract" or (products and kind not in POINT_BY_POINT)
            own, found = {i: rows[i] for i in products if i in rows}, find_rows(self.graph, node)
            if own and not deeper:
                found = follow_rows(self.lowered, node.name, own) if len(own) == len(products) else None
                deeper = found is None
            if found is not None:
                rows[node.name] = found
            depth[node.name] = level + 1 if deeper else level
            if kind == "contract" or (products and not deeper):
                fresh.add(node.name)
        for node in reversed(self.graph.nodes):
            if node.name not in windows and self._may_sink(node):
                readers = self._readers_through_views(node.name)
                levels = {depth[r] for r in readers}
                seldom = node.name in pads or self._is_read_seldom(node.name, readers)
                if len(levels) == 1 and min(levels) > depth[node.name] and seldom:
                    depth[node.name] = levels.pop()
        return depth

    def _find_windows(self) -> set[str]:
        """What is computed, one by one, of values that are read in several places: much work for an operand."""
        places: dict[str, dict[str, frozenset[str]]] = {}
        for node in self.graph.nodes:
            kind = OPS[node.op].kind
            if kind not in POINT_BY_POINT:
                continue
            found = {} if self.is_transparent(node.name) else self.slices(node.name)
            for i in node.inputs:
                for source, cuts in places.get(i, {}).items():
                    own = found.get(source, frozenset())
                    found[source] = own if len(own) > MOST_SLICES else own | cuts
            if found:
                places[node.name] = found
        return {n for n, found in places.items() if any(self.count_places(c) >= MANY_PLACES for c in found.values())}

    def _find_padded(self) -> tuple[set[str], set[str]]:
        """(the zeros around and within images of which windows are read, which are conditions of what reads them; what
        is computed of such images, which is done once for all windows).
        """
        pads: set[str] = set()
        sources: set[str] = set()
        waiting = [i for n in self.graph.nodes if n.op == "windows" and set(n.attr("size")) != {1} for i in n.inputs]
        while waiting:
            name = waiting.pop()
            node = self.graph.by_name[name]
            if node.op in ("pad", "slice_scatter") or self.is_transparent(name):
                pads.add(name)
                waiting += node.inputs
            else:
                sources.add(name)
        return pads, sources

    def count_places(self, slices: frozenset[str]) -> int:
        """In how many places slices read a value: in one where they are not many and have no element in common."""
        if len(slices) > MOST_SLICES:
            return len(slices)
        if slices not in self._places:
            nodes = [self.graph.by_name[n] for n in sorted(slices)]
            apart = all(are_disjoint(a, b) for a, b in combinations(nodes, 2))
            self._places[slices] = 1 if apart else len(nodes)
        return self._places[slices]

    def _may_sink(self, node: Node) -> bool:
        name = node.name
        pointwise = OPS[node.op].kind == "pointwise" or node.op in ("cat", "pad", "slice_scatter")
        return (
            (pointwise or self._looks_up(node))
            and name in self.live
            and name not in self.required
            and self.is_computed(name)
        )

    def _looks_up(self, node: Node) -> bool:
        """True for what is taken from a table that stays in the nearest cache."""
        if node.op not in ("take", "gather"):
            return False
        table = self.graph.by_name[node.inputs[0]]
        entries = product(table.shape[d] for d in (node.attr("dims") if node.op == "take" else (node.attr("dim"),)))
        return isinstance(entries, int) and entries <= TABLE

    def _is_read_seldom(self, name: str, readers: Iterable[str]) -> bool:
        """True where the contractions among the readers would not compute a value again for each of many results."""
        for reader in readers:
            node = self.graph.by_name[reader]
            if OPS[node.op].kind != "contract":
                continue
            sizes = dict(zip(node.attr("out"), node.shape, strict=True))
            for labels, operand in zip((node.attr("left"), node.attr("right")), node.inputs, strict=False):
                again = product(n for label, n in sizes.items() if label not in labels)
                own = product(n for label, n in sizes.items() if label in labels)
                if self._leads_to(name, operand) and not _is_cheap_again(again, own):
                    return False
        return True

    def _leads_to(self, name: str, operand: str) -> bool:
        """True where a value is an operand, or is read by it through views."""
        if name == operand:
            return True
        return self.is_transparent(operand) and any(self._leads_to(name, i) for i in self.graph.by_name[operand].inputs)

    def _readers_through_views(self, name: str) -> set[str]:
        found: set[str] = set()
        for reader in self.graph.readers[name]:
            if reader.name not in self.live:
                continue
            if self.is_transparent(reader.name):
                found |= self._readers_through_views(reader.name)
            else:
                found.add(reader.name)
        return found

    def reads(self, name: str) -> tuple[tuple[Place, str], ...]:
        """The computed or stored values that a node reads, each with the place where it does."""
        found = self._reads.get(name)
        if found is None:
            node = self.graph.by_name[name]
            of_own = OPS[node.op].kind != "pointwise"  # of each operand other elements than of the next one
            ways: list[tuple[Place, str]] = []
            for k, i in enumerate(dict.fromkeys(node.inputs)):
                at = (f"{name}[{k}]",) if of_own else ()
                through = self.reads(i) if self.is_transparent(i) else None
                ways += [(at, i)] if through is None else [((*at, i, *views), source) for views, source in through]
            found = self._reads[name] = tuple(ways)
        return found

    def sources(self, name: str) -> Counter[str]:
        """The computed or stored values that a node reads, and along how many ways.

        Each way is an index map of its own, mostly: along it the value is computed anew where it is pulled.
        """
        return Counter(source for _, source in self.reads(name))

    def slices(self, name: str) -> dict[str, frozenset[str]]:
        """The sources of which a node reads slices, with the nodes that cut them."""
        found: dict[str, frozenset[str]] = {}
        for i in dict.fromkeys(self.graph.by_name[name].inputs):
            if self.is_transparent(i):
                sliced = self.graph.by_name[i].op == "slice"
                cuts = dict.fromkeys(self.sources(i), frozenset((i,))) if sliced else self.slices(i)
                for source, of_it in cuts.items():
                    found[source] = found.get(source, frozenset()) | of_it
        return found

    def _require_crossing(self) -> None:
        for node in self.graph.nodes:
            name = node.name
            if name not in self.live or not self.is_computed(name):
                continue
            for source in self.sources(name):
                if self.is_computed(source) and self.refuse_crossing(source, name):
                    self.required.setdefault(source, Refusal(Reason.ACROSS, name))

    def refuse_crossing(self, a: str, b: str) -> Reason | None:
        """Values after another number of calls are computed in other kernels."""
        return None if self.depth[a] == self.depth[b] else Reason.ACROSS

    # --- regions -------------------------------------------------------------------------------------------------

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        order = {n.name: k for k, n in enumerate(self.graph.nodes)}
        computed = [n.name for n in self.graph.nodes if n.name in self.live and self.is_computed(n.name)]
        links = [
            (source, name)
            for name in computed
            for source in self.sources(name)
            if self.is_computed(source) and not self.refuse_crossing(source, name)
        ]
        parts = connected_parts(computed, links)
        parts = connected_parts(computed, [*links, *self._shared_rows(parts)])
        parts.sort(key=lambda p: (self.depth[p[0]], order[p[0]]))
        return tuple(Region(p, frozenset(n for n in p if n in self.required)) for p in parts)

    def _shared_rows(self, parts: list[tuple[str, ...]]) -> list[tuple[str, str]]:
        """Pairs of nodes of parts that no value connects, but that read the same rows: what only reduces them, and
        what gives one result for each of their elements.
        """
        wide: dict[tuple[str, int], str] = {}  # memory that is read, and at which depth, to a node
        narrow: list[tuple[str, str, int]] = []
        for part in parts:
            depth = self.depth[part[0]]
            results = [_rank(self.graph.by_name[n].shape) for n in part if n in self.required]
            memory = dict.fromkeys(s for n in part for s in self.sources(n) if self.is_memory(s))
            for source in memory if results else ():
                rank = _rank(self.graph.by_name[source].shape)
                if rank >= 2 and max(results) == rank:
                    wide.setdefault((source, depth), part[0])
                elif rank >= 2 and max(results) < rank:
                    narrow.append((part[0], source, depth))
        return [(name, wide[source, depth]) for name, source, depth in narrow if (source, depth) in wide]


def _rank(shape: tuple[Dim, ...]) -> int:
    return sum(n != 1 for n in shape)


def pulled_index(
    lowered: Lowered, name: str, base: str, axes: tuple[Axis, ...], simplify: Simplifier
) -> tuple[Index, ...] | None:
    """Where element `axes` of a view lies in its base, as an index into the base; None for reads under a guard."""
    index = tuple(of_atom(a) for a in axes)
    while name != base:
        equation = lowered.equation(name)
        value = equation.args[0]
        if not isinstance(value, Load) or value.guard is not None:
            return None
        moved = Rewriter(dict(zip(equation.axes, index, strict=True)), rebuild=simplify)(value)
        assert isinstance(moved, Load)
        name, index = moved.name, moved.index
    return index


def refuse_call(call: Node) -> Refusal:
    """Nothing is fused with a call."""
    return Refusal(CALLS.get(call.attr("kind"), Reason.OPAQUE), call.name)


def is_layout_free(call: Node) -> bool:
    """Products of matrices take any strides and are written where we say."""
    return call.attr("target") in ("aten.mm.default", "aten.bmm.default", "aten.addmm.default", "aten.baddbmm.default")


def are_disjoint(a: Node, b: Node) -> bool:
    """True where two slices of one value, cut without gaps, have no element in common."""
    if a.inputs != b.inputs:
        return False
    one, other = (list(zip(n.attr("start"), n.attr("step"), n.shape, strict=True)) for n in (a, b))
    pairs = [(s, t) for s, t in zip(one, other, strict=True) if s[1] == t[1] == 1]
    return any(_ends_before(s, t) or _ends_before(t, s) for s, t in pairs)


def _ends_before(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    """True where a range of (start, step, size) ends before another one starts."""
    return is_nonnegative(plus(b[0], multiply(plus(a[0], a[2]), -1)))


def _natural_strides(shape: tuple[Dim, ...], strides: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Dimensions of size 1 get the stride that torch would give them (it never moves anything)."""
    result = list(strides)
    step: Dim = 1
    for d in reversed(range(len(shape))):
        if shape[d] == 1:
            result[d] = step
        else:
            step = multiply(result[d], shape[d])
    return tuple(result)


def _same_layout(shape: tuple[Dim, ...], a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    if any(n == 0 for n in shape):
        return True
    return all(n == 1 or x == y for n, x, y in zip(shape, a, b, strict=True))


def _find_layouts(graph: Graph) -> dict[str, tuple[Dim, ...]]:
    """The strides of nodes that say so, where they are stored; those of outputs are what the graph says of them."""
    outputs = {o for o in graph.outputs if isinstance(o, str)}
    own = {n.name: n.strides for n in graph.nodes if n.strides is not None and n.name not in outputs}
    seen = zip(graph.outputs, graph.output_strides, strict=False)
    return own | {n: strides for n, strides in seen if isinstance(n, str) and strides is not None}


def _live(graph: Graph) -> set[str]:
    live: set[str] = set(graph.results) | {i for i, _ in graph.mutations}
    for node in reversed(graph.nodes):
        effect = node.op == "call" and node.attr("kind") == "effect"
        if node.name in live or effect:
            live.add(node.name)
            live.update(node.inputs)
    return live


def _is_cheap_again(again: Dim, own: Dim) -> bool:
    """True where an operand of a contraction is computed a few times: `again` results share each of its `own` ones.

    As many results as are counted at run time only are taken for one block of them.
    """
    if not isinstance(own, int):
        return False
    again = again if isinstance(again, int) else TOGETHER
    return again <= FEW or (again <= own and again <= TOGETHER * FEW_BLOCKS)
