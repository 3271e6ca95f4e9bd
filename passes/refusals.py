"""What was not fused, and why: the passes are asked again about a graph that they have fused.

    h = sum of x;  y = a library's product of h;  z = y + h     ->     h, y: library;  h, z: across;  y, z: library

Nothing is judged here. The merges of each distinct region are made once more while `Merger.tried` listens, the search
is asked what the region would cost without each value that it stores by choice, and the other laws have predicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .canonical import normal_form
from .fuse import Call, Cost, Fused, Fuser, Launch, Step, memory_of
from .laws import apply_laws
from .merge import same_domain
from .partition import SEARCH_LIMIT, Partition, Search
from .reasons import Reason, Refusal, Tried
from .regions import Region, refuse_call
from .reinplace import refuse_in_place

NEAREST = 16  # launches after one that are compared with it: those of far layers read the same mask, and repeat it


@dataclass(frozen=True, slots=True)
class Kept:
    """Why a value is in memory; the seconds of its region as it is and without it (0 where nobody has compared)."""

    refusal: Refusal
    seconds: float = 0.0
    other_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Between:
    """Why two steps, by their places in `Fused.steps`, are two.

    law    "inline": the second reads `value` rather than computing it. "merge": they are not one kernel that stores
           what both store; `value` goes from the first to the second, or both read it
    reads  the second reads what the first has made
    """

    law: str
    first: int
    second: int
    value: str
    reads: bool
    kept: Kept


@dataclass(frozen=True, slots=True)
class Refusals:
    """`tried` has, for each launch by its place in the steps, the laws that were asked about its own values.

    `mutations` are the values that replace inputs: written in place, or why not. `regions` counts, for each partition,
    the regions that are cut so.
    """

    kept: dict[str, Kept]
    between: tuple[Between, ...]
    tried: dict[int, tuple[Tried, ...]]
    mutations: tuple[Tried, ...]
    regions: tuple[int, ...]


def find_refusals(fused: Fused, cost: Cost) -> Refusals:
    """What the laws were asked while the graph was fused, and what they said. `cost` is the one it was fused with."""
    return _Judge(fused, cost).judge()


class _Judge:
    def __init__(self, fused: Fused, cost: Cost) -> None:
        self.fused = fused
        self.graph = fused.graph
        self.cost = cost
        self.fuser = Fuser(fused.graph, cost, fused.numerics, fused.asked_in_place, fused.apart)
        self.regions = self.fuser.regions
        self.kept: dict[str, Kept] = {}
        self.region_of: dict[str, int] = {}
        self.asked: list[Tried] = []
        self.equal: dict[object, int] = {}  # regions by what they compute
        self.reads = [self._read_by(step) for step in fused.steps]
        self.maker: dict[str, int] = {}
        for k, step in enumerate(fused.steps):
            self.maker.update(dict.fromkeys(step.writes if isinstance(step, Launch) else (step.node,), k))

    def judge(self) -> Refusals:
        self._ask_regions()
        tried: dict[int, list[Tried]] = {k: [] for k, s in enumerate(self.fused.steps) if isinstance(s, Launch)}
        refused: dict[tuple[int, int], list[Tried]] = {}
        for t in self.asked:
            if t.law != "merge":
                continue
            pair = self.maker[t.value], self.maker[t.other]
            if t.reason is None:
                tried[pair[1]].append(t)
            elif pair[0] != pair[1]:
                refused.setdefault(pair, []).append(t)
        for k, found in tried.items():
            found += self._ask_laws(k)
        between = [*self._edges(refused), *self._pairs(refused)]
        found = {k: tuple(f) for k, f in tried.items()}
        return Refusals(self.kept, tuple(between), found, tuple(self._mutations()), tuple(self.equal.values()))

    # --- regions -------------------------------------------------------------------------------------------------

    def _ask_regions(self) -> None:
        """The merges and the costs of each distinct region, under the names of every region that is equal to it."""
        known: dict[object, tuple[list[str], list[Tried], dict[str, Kept]]] = {}
        for number, region in enumerate(self.regions.regions):
            key, order = self.fuser.signature(region)
            if key not in known:
                known[key] = (order, *self._ask(region, self.fused.partitions[len(known)]))
            self.equal[key] = self.equal.get(key, 0) + 1
            like, tried, kept = known[key]
            named = dict(zip(like, order, strict=True))
            self.asked += [t._replace(value=named[t.value], other=named.get(t.other, t.other)) for t in tried]
            self.kept.update({named[name]: why for name, why in kept.items()})
            self.kept.update({name: Kept(self.regions.required[name]) for name in region.required})
            self.region_of.update(dict.fromkeys(region.nodes, number))

    def _ask(self, region: Region, partition: Partition) -> tuple[list[Tried], dict[str, Kept]]:
        merger = self.fuser.merger_of(region)
        merger.tried = []
        merger.groups(region.nodes, partition.stored)
        tried, merger.tried = merger.tried, None
        search = Search(region, merger, self.cost)
        kept = {name: Kept(why) for name, why in partition.always.items() if name in partition.stored}
        for name in sorted(partition.stored - region.required - kept.keys()):
            kept[name] = self._compare(name, search, partition)
        return tried, kept

    def _compare(self, name: str, search: Search, partition: Partition) -> Kept:
        """A value that the search stores by choice, or by its first guess where it compares no more than that."""
        other, seconds = partition.second or (None, 0.0)
        if other != partition.stored - {name}:
            small = len(search.region.nodes) <= SEARCH_LIMIT
            without = search.evaluate(partition.stored - {name}) if small else None
            seconds = 0.0 if without is None else without.seconds
        if seconds < partition.seconds:
            return Kept(Refusal(Reason.UNTRIED))
        return Kept(Refusal(Reason.COST), partition.seconds, seconds)

    # --- pairs of steps ------------------------------------------------------------------------------------------

    def _read_by(self, step: Step) -> dict[str, None]:
        names = step.reads if isinstance(step, Launch) else self.graph.by_name[step.node].inputs
        return dict.fromkeys(memory_of(n, self.graph, self.fused.views) for n in names)

    def _edges(self, refused: dict[tuple[int, int], list[Tried]]) -> Iterator[Between]:
        """What one step makes and another reads."""
        for second, step in enumerate(self.fused.steps):
            for value in self.reads[second]:
                first = self.maker.get(value)
                if first is None or first == second:
                    continue
                calls = [s for s in (self.fused.steps[first], step) if isinstance(s, Call)]
                if calls:
                    kept = Kept(refuse_call(self.graph.by_name[calls[0].node]))
                    if len(calls) == 1:  # what two calls are to each other is no matter of the laws
                        yield Between("inline", first, second, value, True, kept)
                    continue
                yield Between("inline", first, second, value, True, self._kept_from(value, step))
                yield from self._merges(refused, first, second, value, reads=True)

    def _kept_from(self, value: str, reader: Step) -> Kept:
        """Why a kernel reads a value of another kernel."""
        assert isinstance(reader, Launch)
        root = reader.nodes[-1]
        reason = self.regions.refuse_crossing(value, root)
        return self.kept[value] if reason is None else Kept(Refusal(reason, root))

    def _merges(
        self, refused: dict[tuple[int, int], list[Tried]], first: int, second: int, value: str, *, reads: bool
    ) -> Iterator[Between]:
        asked = [*refused.get((first, second), ()), *refused.get((second, first), ())]
        asked.sort(key=lambda t: (t.value != value, t.reason is Reason.UNSHARED))
        chosen = asked[0] if asked else None
        if chosen is not None and chosen.reason is not None:
            kept = Kept(Refusal(chosen.reason, chosen.other))
            yield Between("merge", first, second, chosen.value, reads, kept)

    def _pairs(self, refused: dict[tuple[int, int], list[Tried]]) -> Iterator[Between]:
        """Kernels that read the same memory, neither what the other makes, and that one kernel could have been."""
        readers: dict[str, list[int]] = {}
        before: list[int] = []  # the steps that each one needs, as bits
        for k, step in enumerate(self.fused.steps):
            needed = {self.maker[v] for v in self.reads[k] if v in self.maker} - {k}
            before.append(sum(1 << n for n in needed))
            for n in needed:
                before[k] |= before[n]
            if isinstance(step, Launch):
                for value in self.reads[k]:
                    readers.setdefault(value, []).append(k)
        seen: set[tuple[int, int]] = set()
        for value, places in readers.items():
            for at, first in enumerate(places):
                for second in places[at + 1 : at + 1 + NEAREST]:
                    if (first, second) not in seen and not self._makes_for(first, second):
                        seen.add((first, second))
                        yield from self._siblings(refused, first, second, value, bool(before[second] >> first & 1))

    def _makes_for(self, first: int, second: int) -> bool:
        return any(self.maker.get(v) == first for v in self.reads[second])

    def _siblings(
        self, refused: dict[tuple[int, int], list[Tried]], first: int, second: int, value: str, waits: bool
    ) -> Iterator[Between]:
        a, b = (s.nodes[-1] for s in (self.fused.steps[first], self.fused.steps[second]) if isinstance(s, Launch))
        if self.region_of[a] == self.region_of[b]:
            yield from (replace(m, value=value) for m in self._merges(refused, first, second, value, reads=False))
        elif not waits and same_domain(self.graph.by_name[a].shape, self.graph.by_name[b].shape):
            reason = self.regions.refuse_crossing(a, b)
            refusal = Refusal(Reason.APART) if reason is None else Refusal(reason, b)
            yield Between("merge", first, second, value, False, Kept(refusal))

    # --- other laws ----------------------------------------------------------------------------------------------

    def _ask_laws(self, place: int) -> list[Tried]:
        step = self.fused.steps[place]
        assert isinstance(step, Launch)
        tried: list[Tried] = []
        apply_laws(normal_form(step.original, self.fuser.simplify), self.fuser.simplify, tried=tried)
        return list({(t.law, t.value, t.other): t for t in tried}.values())

    def _mutations(self) -> Iterator[Tried]:
        asked = {t.value: t.reason for t in self.asked if t.law == "reinplace" and t.reason is not None}
        rest = Reason.FOREIGN if self.fused.asked_in_place else Reason.WAITING
        for target, value in self.graph.mutations:
            reason = refuse_in_place(self.graph, target, value) or asked.get(value, rest)
            yield Tried("reinplace", value, target, None if value in self.fused.in_place else reason)
