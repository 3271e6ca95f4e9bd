"""The search over materialised edges: which values of a region are stored, and in which kernels they are computed.

Given the set of stored values the laws run in one fixed order and the result is costed whole. Values that are always stored
are those that something outside needs, and those that cannot be pulled; values with several readers are tried both ways, all
combinations where they are few, one after the other beyond that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from ..ir.loops import Kernel
from ..ir.ops import OPS
from ..ir.scalar import SCALAR_OPS
from .inline import Lowered
from .merge import Group, Merger
from .regions import Region, Regions

EXACT_LIMIT = 4  # candidates that are searched in all combinations
CHAIN_LIMIT = 96  # nested values that one expression may pull in
SIZE_LIMIT = 400  # operations of one stored value: beyond, a compiler needs longer than a pass over memory saves

Cost = Callable[[Kernel], float]


@dataclass(frozen=True, slots=True)
class Partition:
    """The chosen kernels of a region and their estimated seconds; `second` is the best that was not taken."""

    groups: tuple[Group, ...]
    stored: frozenset[str]
    seconds: float
    second: tuple[frozenset[str], float] | None = None


def partition_region(region: Region, regions: Regions, merger: Merger, cost: Cost) -> Partition:
    """The cheapest partition of a region under `cost` (seconds of one kernel)."""
    search = _Search(region, merger, cost)
    always = region.required | _too_large(region, regions)
    while search.evaluate(always) is None and merger.unpullable - always:
        always |= merger.unpullable
    candidates = _candidates(region, regions, always)
    return search.best(always, candidates)


class _Search:
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
            self._costs[key] = self.cost(group.kernel)
        return self._costs[key]

    def best(self, always: frozenset[str], candidates: list[str]) -> Partition:
        if len(candidates) <= EXACT_LIMIT:
            for count in range(1, len(candidates) + 1):
                for chosen in combinations(candidates, count):
                    self.evaluate(always | set(chosen))
        else:
            self._descend(always, candidates)
        found = sorted((p for p in self.seen.values() if p is not None), key=lambda p: (p.seconds, len(p.stored)))
        first = found[0]
        second = (found[1].stored, found[1].seconds) if len(found) > 1 else None
        return Partition(first.groups, first.stored, first.seconds, second)

    def _descend(self, always: frozenset[str], candidates: list[str]) -> None:
        current = always
        for name in candidates:
            here, trial = self.evaluate(current), self.evaluate(current | {name})
            if trial is not None and (here is None or trial.seconds < here.seconds):
                current = current | {name}


def _too_large(region: Region, regions: Regions) -> set[str]:
    """Values at which growing expressions are cut."""
    cut: set[str] = set()
    size: dict[str, int] = {}
    depth: dict[str, int] = {}
    inside = set(region.nodes)
    for name in region.nodes:
        pulled = [s for s in regions.sources(name) if s in inside and s not in cut and s not in region.required]
        size[name] = 1 + sum(size[s] for s in pulled)
        depth[name] = 1 + max((depth[s] for s in pulled), default=0)
        if size[name] > SIZE_LIMIT or depth[name] > CHAIN_LIMIT:
            cut.add(name)
    return cut


def _candidates(region: Region, regions: Regions, always: frozenset[str]) -> list[str]:
    """Values with work behind them that more than one stored value, or one and a reduction, would recompute."""
    inside = set(region.nodes)
    pullers: dict[str, set[str]] = {n: set() for n in region.nodes}
    for name in reversed(region.nodes):
        roots = {name} if name in always else set(pullers[name])
        for source in regions.sources(name):
            if source in inside:
                pullers[source] |= roots
    found = [n for n in region.nodes if n not in always and len(pullers[n]) > 1 and _has_work(n, regions.lowered)]
    return found[-12:]


def _has_work(name: str, lowered: Lowered) -> bool:
    node = lowered.node(name)
    if OPS[node.op].kind in ("reduce", "scan") or node.op in ("gather", "take"):
        return True
    row = SCALAR_OPS.get(node.op)
    return row is not None and row.cost >= 5
