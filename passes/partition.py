"""The search over materialised edges: which values of a region are stored, and in which kernels they are computed.

Given the set of stored values the laws run in one fixed order, those of reductions to a fixed point, and the result is
costed whole. Values that are always stored are those that something outside needs, and those that cannot be pulled;
values with several readers are tried both ways, all combinations where they are few, one after the other beyond that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import combinations

from ..ir.errors import LoweringError
from ..ir.loops import Kernel
from ..ir.ops import OPS
from ..ir.scalar import SCALAR_OPS
from .canonical import derive
from .inline import Lowered
from .laws import may_change
from .merge import Group, Merger
from .reasons import Reason, Refusal
from .regions import Place, Region, Regions

EXACT_LIMIT = 4  # candidates that are searched in all combinations
SEARCH_LIMIT = 80  # nodes of a region whose alternatives are tried; larger ones take the first guess
CHAIN_LIMIT = 64  # nested values that one expression may pull in
SIZE_LIMIT = 300  # operations of one stored value: beyond, a compiler needs longer than a pass over memory saves
TEXT_LIMIT = 3000  # the same, where what is read twice is written twice: that is how kernels are printed
REDUCING = ("reduce", "scan", "contract")  # kinds of nodes whose every element is much work
LIGHT = 10.0  # cycles an element that are cheaper to spend again in a second reader than to store and load

Cost = Callable[[Kernel], float]


@dataclass(frozen=True, slots=True)
class Partition:
    """The chosen kernels of a region and their estimated seconds; `second` is the best that was not taken.

    `always` has the values that no partition leaves out and that nobody outside needs, and why.
    """

    groups: tuple[Group, ...]
    stored: frozenset[str]
    seconds: float
    second: tuple[frozenset[str], float] | None = None
    always: dict[str, Refusal] = field(default_factory=dict)


def partition_region(region: Region, regions: Regions, merger: Merger, cost: Cost) -> Partition:
    """The cheapest partition of a region under `cost` (seconds of one kernel)."""
    search = Search(region, merger, cost)
    large = _too_large(region, regions, region.required)
    always = region.required.union(large)
    if large and (again := _read_in_places(region, regions, region.required)):
        fewer = _too_large(region, regions, region.required | again)
        if len(fewer) < len(large):
            large, always = fewer, region.required.union(again, fewer)
    again = _read_in_places(region, regions, always)
    if again and search.evaluate(always) is None and search.evaluate(always | again) is not None:
        always = always | again
    while search.evaluate(always) is None and merger.unpullable.keys() - always:
        always = always.union(merger.unpullable)
    unpullable = {name: Refusal(reason) for name, reason in merger.unpullable.items() if name in always}
    kept = always | _read_twice(region, regions, always)
    guess = kept.union(more := _too_large(region, regions, kept))
    search.evaluate(guess)
    if len(region.nodes) <= SEARCH_LIMIT:
        search.explore(always, guess, _candidates(region, regions, always))
    return replace(search.best(), always={**more, **large, **unpullable})


class Search:
    """The partitions of one region that were asked for, each costed once."""

    def __init__(self, region: Region, merger: Merger, cost: Cost) -> None:
        self.region = region
        self.merger = merger
        self.cost = cost
        self.seen: dict[frozenset[str], Partition | None] = {}
        self._costs: dict[int, float] = {}

    def evaluate(self, stored: frozenset[str]) -> Partition | None:
        if stored not in self.seen:
            groups = self.merger.groups(self.region.nodes, stored)
            if groups is None:
                self.seen[stored] = None
            else:
                seconds = sum(self._seconds(g) for g in groups)
                self.seen[stored] = Partition(tuple(groups), stored, seconds)
        return self.seen[stored]

    def _seconds(self, group: Group) -> float:
        key = id(group.kernel)
        if key not in self._costs:
            kernel = group.kernel
            self._costs[key] = self.cost(derive(kernel, self.merger.simplify) if may_change(kernel) else kernel)
        return self._costs[key]

    def explore(self, always: frozenset[str], guess: frozenset[str], candidates: list[str]) -> None:
        """All combinations of few candidates; else each in turn, in and out, from the guess."""
        if len(candidates) <= EXACT_LIMIT:
            for count in range(1, len(candidates) + 1):
                for chosen in combinations(candidates, count):
                    self.evaluate(always | set(chosen))
            return
        current = guess
        for name in candidates:
            here, trial = self.evaluate(current), self.evaluate(current ^ {name})
            if trial is not None and (here is None or trial.seconds < here.seconds):
                current = current ^ {name}

    def best(self) -> Partition:
        found = sorted((p for p in self.seen.values() if p is not None), key=lambda p: (p.seconds, len(p.stored)))
        if not found:
            raise LoweringError("no partition", where=self.region.nodes[0], hint="report this graph")
        second = (found[1].stored, found[1].seconds) if len(found) > 1 else None
        return replace(found[0], second=second)


@dataclass(frozen=True, slots=True)
class Extent:
    """How large the expression of a value is: its values (what is read at the same place is one), how long it is
    written out, how deep it is nested.
    """

    values: frozenset[tuple[str, Place]] = frozenset()
    length: int = 0
    depth: int = 0

    def through(self, views: Place) -> Extent:
        return replace(self, values=frozenset((v, views + at) for v, at in self.values)) if views else self

    def beside(self, other: Extent) -> Extent:
        return Extent(self.values | other.values, self.length + other.length, max(self.depth, other.depth))

    def read_by(self, name: str) -> Extent:
        return Extent(self.values | {(name, ())}, self.length + 1, self.depth + 1)

    @property
    def refusal(self) -> Refusal | None:
        """The limit that it passes."""
        if len(self.values) > SIZE_LIMIT or self.length > TEXT_LIMIT:
            return Refusal(Reason.SIZE, str(SIZE_LIMIT))
        return Refusal(Reason.CHAIN) if self.depth > CHAIN_LIMIT else None


def _too_large(region: Region, regions: Regions, stored: frozenset[str]) -> dict[str, Refusal]:
    """The largest operands of expressions that would grow beyond the limits."""
    cut: dict[str, Refusal] = {}
    extents: dict[str, Extent] = {}
    inside = set(region.nodes) - stored
    for name in region.nodes:
        grown: dict[str, Extent] = {}
        for views, source in regions.reads(name):
            if source in inside and source not in cut:
                grown[source] = grown.get(source, Extent()).beside(extents[source].through(views))
        pulled = sorted(grown, key=lambda s: grown[s].length)
        while refusal := (together := reduce(Extent.beside, (grown[s] for s in pulled), Extent())).refusal:
            cut[pulled.pop()] = refusal
        extents[name] = together.read_by(name)
    return cut


def _read_twice(region: Region, regions: Regions, stored: frozenset[str]) -> frozenset[str]:
    """A first guess: values with several readers that cost more to compute again than to store and load."""
    inside = set(region.nodes)
    readers: dict[str, int] = dict.fromkeys(region.nodes, 0)
    for name in region.nodes:
        for source in regions.sources(name):
            if source in inside:
                readers[source] += 1
    work: dict[str, float] = {}
    kept: set[str] = set()
    for name in region.nodes:
        op = regions.graph.by_name[name].op
        own = SCALAR_OPS[op].cost if op in SCALAR_OPS else 2.0
        below = [s for s in regions.sources(name) if s in inside and s not in stored and s not in kept]
        work[name] = own + sum(work[s] for s in below)
        reduces = OPS[op].kind in REDUCING
        if readers[name] > 1 and work[name] > LIGHT and not reduces and len(inside) > SEARCH_LIMIT:
            kept.add(name)
    return frozenset(kept)


def _candidates(region: Region, regions: Regions, always: frozenset[str]) -> list[str]:
    """Values with work behind them that more than one stored value would recompute."""
    inside = set(region.nodes)
    pullers: dict[str, set[str]] = {n: set() for n in region.nodes}
    for name in reversed(region.nodes):
        roots = {name} if name in always else set(pullers[name])
        for source in regions.sources(name):
            if source in inside:
                pullers[source] |= roots
    ways: dict[str, int] = dict.fromkeys(region.nodes, 0)
    for name in region.nodes:
        for source, count in regions.sources(name).items():
            if source in inside and OPS[regions.graph.by_name[source].op].kind == "contract":
                ways[source] += count  # along each it may be another element of its
    again = _read_in_places(region, regions, always)
    found = [
        n for n in region.nodes
        if n not in always
        and (n in again or ((len(pullers[n]) > 1 or ways[n] > 1) and _has_work(n, regions.lowered)))
    ]  # fmt: skip
    return found[-12:]


def _read_in_places(region: Region, regions: Regions, always: frozenset[str]) -> frozenset[str]:
    """Values that their readers slice in several places, each of which would compute them anew, with work behind them.

    y = slice(pad(x * s + b), 0) + slice(pad(x * s + b), 1)     ->     x * s + b: once, or for each of the slices
    """
    inside = set(region.nodes) - always
    slices: dict[str, frozenset[str]] = {}
    for name in region.nodes:
        for source, cuts in regions.slices(name).items():
            slices[source] = slices.get(source, frozenset()) | cuts
    places = {source: regions.count_places(cuts) for source, cuts in slices.items()}
    work: dict[str, float] = {}
    found: set[str] = set()
    for name in region.nodes:
        node = regions.graph.by_name[name]
        below = [s for s in regions.sources(name) if s in inside and regions.graph.by_name[s].shape == node.shape]
        own = SCALAR_OPS[node.op].cost if node.op in SCALAR_OPS else 0.0
        own = 2 * LIGHT if OPS[node.op].kind in REDUCING else own
        work[name] = own + sum(work[s] for s in below)
        padded = [s for s in regions.sources(name) if s in inside] if node.op == "pad" else [name]
        if places.get(name, 0) > 1:
            found.update(s for s in padded if s in inside and work[s] * (places[name] - 1) > LIGHT)
    return frozenset(found)


def _has_work(name: str, lowered: Lowered) -> bool:
    node = lowered.node(name)
    if OPS[node.op].kind in REDUCING or node.op in ("gather", "take"):
        return True
    row = SCALAR_OPS.get(node.op)
    return row is not None and row.cost >= 5
