"""The loop structure of a kernel: which axes its statements share as outer loops, and what runs inside them.

    s[t] = sum(c) x[t, c]             over t                  (shared by all: the grid)
    y[t, c] <- x[t, c] * s[t]            nest c: s            (reduces: y cannot join)
                                         nest c: y

A plan is a list of `Block`s (loops over axes that all members keep) and `Nest`s (statements over equal axes, in one
pass). Statements join as early as their dependencies allow; an axis is shared only if no two of its points meet in
memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..ir.expr import Expr, Load, Op, loads_in, walk
from ..ir.index import Axis, Index, axes_of, axis_coefficient, bounds
from ..ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ..ir.scalar import SCALAR_OPS
from ..ir.types import Dim, divide_exactly, is_nonnegative, multiply, plus

TYPICAL_SIZE = 256  # stands for a dynamic size where sizes are weighed
ORDERED = ("argmax_last", "argmin_last")  # states whose lanes must not be combined out of order
LITTLE = 64  # times as many points: beside those, what is kept in between costs nothing
WORTH_A_PASS = 0.2  # share of the traffic that may be strided before a pass of its own is cheaper
LANE_SCANS = ("sum", "prod", "max", "min")  # rows that scan within a tile


@dataclass(frozen=True, slots=True)
class Nest:
    """Statements (by position in the kernel) over equal axes: `serial` loops, outermost first, around one `lanes`
    loop.
    """

    members: tuple[int, ...]
    serial: tuple[Axis, ...]
    lanes: Axis | None


@dataclass(frozen=True, slots=True)
class Block:
    """Loops over `axes` around the parts. `lanes` is the axis, kept by all members too, that nests inside run over
    innermost.
    """

    axes: tuple[Axis, ...]
    lanes: Axis | None
    body: tuple[Block | Nest, ...]


Part = Block | Nest


def make_plan(kernel: Kernel, shares_lanes: bool = True, apart: frozenset[str] = frozenset()) -> tuple[Part, ...]:
    """The loop structure of a prepared kernel. Statements along an axis named in `apart` do not join others.

    `shares_lanes`: statements that keep a dense axis run over it innermost, as packs of one worker; else every axis
    that is kept by all is one of the loops around them, whose points a GPU spreads over programs and their threads.
    """
    facts = [_Facts(kernel, s) for s in kernel.body]
    return _Planner(kernel, facts, shares_lanes, apart).split(tuple(range(len(facts))), frozenset(), None)


def nests_of(parts: Iterable[Part]) -> list[Nest]:
    return [n for p in parts for n in ([p] if isinstance(p, Nest) else nests_of(p.body))]


def statement_cost(s: Statement) -> float:
    """A rough count of vector cycles at one point."""
    return expression_cost(*statement_expressions(s))


def statement_traffic(kernel: Kernel, s: Statement) -> int:
    """Bytes of buffers that each point of a statement touches for itself."""
    axes = frozenset(s.domain)
    loads = dict.fromkeys(e for e in loads_in(*statement_expressions(s)) if e.name in kernel.buffers)
    total = sum(e.dtype.itemsize for e in loads if e.axes >= axes)
    return total + (kernel.buffers[s.buffer].dtype.itemsize if isinstance(s, Store) else 0)


def expression_cost(*roots: Expr) -> float:
    return sum(SCALAR_OPS[n.name].cost if isinstance(n, Op) else 0.5 for n in walk(*roots))


def estimate(dim: Dim) -> int:
    """A size to weigh with, where a dynamic one is taken as typical."""
    if isinstance(dim, int):
        return dim
    return int(dim.subs(dict.fromkeys(dim.free_symbols, TYPICAL_SIZE)))


# --- what a statement touches ------------------------------------------------------------------------------------


class _Facts:
    """Accesses of one statement: loads of buffers and local values, the store, the axes that loops over it may
    share.
    """

    def __init__(self, kernel: Kernel, s: Statement) -> None:
        self.statement = s
        self.axes = frozenset(s.domain)
        self.loads = tuple(loads_in(*statement_expressions(s)))
        self.local = tuple(e for e in self.loads if e.name in kernel.equations)
        self.store = s if isinstance(s, Store) else None
        self.names = frozenset(n for n in s.names if n != "_") if isinstance(s, Equation) else frozenset()
        self.kept = frozenset(a for a in s.axes if self._is_kept(a))

    def _is_kept(self, axis: Axis) -> bool:
        s = self.statement
        if isinstance(s, Equation):
            return axis not in s.reduce
        return s.injective or digit(s.index[0], axis) is not None

    def accesses(self, buffer: str) -> list[tuple[Index, bool]]:
        """(index, is a store) of each access to a buffer."""
        found = [(e.index[0], False) for e in self.loads if e.name == buffer]
        if self.store is not None and self.store.buffer == buffer:
            found.append((self.store.index[0], True))
        return found


@lru_cache(maxsize=65536)
def digit(index: Index, axis: Axis) -> tuple[Dim, Dim] | None:
    """(k, extent) such that index // k % extent is the axis, whatever the other axes are; None where not provable."""
    k = axis_coefficient(index, axis)
    if k is None or k == 0 or not is_nonnegative(k):
        return None
    radix = multiply(k, axis.extent)
    low = [(a, c) for a, c in index.terms if a is not axis and divide_exactly(c, radix) is None]
    least, most = bounds(Index(tuple(low), index.const))
    whole = least - least % radix if isinstance(least, int) and isinstance(radix, int) and radix > 0 else 0
    fits = is_nonnegative(plus(least, -whole)) and is_nonnegative(plus(plus(k, whole), plus(multiply(most, -1), -1)))
    return (k, axis.extent) if fits else None


# --- the planner -------------------------------------------------------------------------------------------------


class _Planner:
    def __init__(
        self, kernel: Kernel, facts: Sequence[_Facts], shares_lanes: bool, apart: frozenset[str] = frozenset()
    ) -> None:
        self.kernel = kernel
        self.apart = [frozenset(a for a in f.kept if a.name in apart) for f in facts]
        self.facts = facts
        self.shares_lanes = shares_lanes
        self.position = {a: k for k, a in enumerate(kernel.axes)}
        self.defined = {n: k for k, f in enumerate(facts) for n in f.names}

    def split(self, members: tuple[int, ...], bound: frozenset[Axis], lanes: Axis | None) -> tuple[Part, ...]:
        """Groups that share loops, each with its loops, in order."""
        return tuple(self._part(group, bound, lanes) for group in self._group(members, bound, lanes))

    def _part(self, group: tuple[int, ...], bound: frozenset[Axis], lanes: Axis | None) -> Part:
        shared = self._shared(group, bound, lanes)
        chosen = lanes
        if lanes is None and shared and (self.shares_lanes or bound):
            best = self._best_lanes(group, bound)
            if best in shared:
                chosen, shared = best, shared - {best}
        if shared or (chosen is not lanes and not self._is_nest(group, bound)):
            inner = self.split(group, bound | shared, chosen)
            return Block(self._in_memory_order(group, shared), None if chosen is lanes else chosen, inner)
        nest = self._nest(group, bound, chosen)
        return nest if chosen is lanes else Block((), chosen, (nest,))

    def _is_nest(self, group: tuple[int, ...], bound: frozenset[Axis]) -> bool:
        """True when the group runs in one nest: over equal axes, nobody waiting for what another gives at its end."""
        axes = self.facts[group[0]].axes - bound
        if any(self.facts[k].axes - bound != axes for k in group):
            return False
        pairs = [(m, k) for at, k in enumerate(group) for m in group[:at]]
        return all(self._may_interleave(m, k, axes) and not self._needs_final(k, m) for m, k in pairs)

    def _shared(self, group: Iterable[int], bound: frozenset[Axis], lanes: Axis | None) -> frozenset[Axis]:
        """Axes that every member keeps, ragged ones only where what bounds them is known outside."""
        shared = frozenset.intersection(*(self.facts[k].kept for k in group)) - bound
        shared -= {a for a in shared if self._reads_local_bounds(a)}
        return shared if lanes is None else shared - {lanes}

    def _reads_local_bounds(self, axis: Axis) -> bool:
        limits = [e for e in (axis.begin, axis.end) if e is not None]
        return any(e.name in self.kernel.equations for e in loads_in(*limits)) if limits else False

    # --- joining -------------------------------------------------------------------------------------------------

    def _group(self, members: tuple[int, ...], bound: frozenset[Axis], lanes: Axis | None) -> list[tuple[int, ...]]:
        groups: list[list[int]] = []
        for k in members:
            earliest = next((g + 1 for g in reversed(range(len(groups))) if self._follows(k, groups[g])), 0)
            first = max(earliest - 1, 0)
            home = next((g for g in groups[first:] if self._joins(k, g, bound, lanes)), None)
            if home is None:
                groups.append([k])
            else:
                home.append(k)
        return [tuple(g) for g in groups]

    def _follows(self, k: int, group: list[int]) -> bool:
        """True when statement k needs something that the group does."""
        mine = self.facts[k]
        for m in group:
            other = self.facts[m]
            if any(e.name in other.names for e in mine.local) or self._shared_buffers(mine, other):
                return True
        return False

    def _shared_buffers(self, a: _Facts, b: _Facts) -> set[str]:
        """Buffers that both touch and one of them writes."""
        stores = {f.store.buffer for f in (a, b) if f.store is not None}
        return {s for s in stores if a.accesses(s) and b.accesses(s)}

    def _joins(self, k: int, group: list[int], bound: frozenset[Axis], lanes: Axis | None) -> bool:
        """True when k may run in the same loops as the group: around shared axes, or in one nest over equal axes."""
        grown = [*group, k]
        if self.apart[k] - bound != self.apart[group[0]] - bound:
            return False
        if lanes is None and self.shares_lanes and self._differ_in_lanes(k, group, bound):
            return False
        shared = self._shared(grown, bound, lanes)
        if shared:
            if not bound and self._turns(k, group, shared):
                return False
            return all(self._may_interleave(m, k, shared | ({lanes} if lanes else set())) for m in group)
        axes = self.facts[k].axes - bound
        if any(self.facts[m].axes - bound != axes for m in group) or not self._one_kept_axis(grown, bound, lanes):
            return False
        if self._shared(group, bound, lanes) and not self._is_nest(tuple(group), bound):
            return False  # what the group does one after the other inside loops around it
        return all(self._may_interleave(m, k, axes) and not self._needs_final(k, m) for m in group)

    def _turns(self, k: int, group: list[int], shared: frozenset[Axis]) -> bool:
        """True where loops around both would turn the order in which k walks memory, for what is little beside it."""
        axes = self.facts[k].axes
        little = max(_points(self.facts[m].axes) for m in group) * LITTLE <= _points(axes)
        return little and not shared.issuperset(self._in_memory_order((k,), axes)[: len(shared)])

    def _one_kept_axis(self, group: Iterable[int], bound: frozenset[Axis], lanes: Axis | None) -> bool:
        """Reductions and scans of one nest keep none of its axes but the lanes, and scans run in one direction."""
        kept = self._kept_axes(group, bound)
        scans = [s for s in (self.facts[k].statement for k in group) if isinstance(s, Equation) and s.scan]
        collides = any(not self.facts[k].axes <= self.facts[k].kept for k in group if self.facts[k].store is not None)
        if len({s.reverse for s in scans}) > 1 or (collides and any(s.reverse for s in scans)):
            return False
        if not kept:
            return True
        if len(kept) > 1 or (lanes is not None and lanes not in kept) or not self._all_lanes(group, *kept):
            return False
        return lanes is not None or self._is_dense(tuple(group), next(iter(kept)), bound)

    def _is_dense(self, group: tuple[int, ...], axis: Axis, bound: frozenset[Axis]) -> bool:
        """True where running over the axis innermost leaps little more than the best of all axes would."""
        best = self._best_lanes(group, bound)
        most = 0.0 if best is None else self._density(group, best)
        return most - self._density(group, axis) <= WORTH_A_PASS * most

    def _kept_axes(self, group: Iterable[int], bound: frozenset[Axis]) -> frozenset[Axis]:
        """Axes of a nest along which its reductions and scans have several running values."""
        stateful = [s for s in (self.facts[k].statement for k in group) if isinstance(s, Equation) and s.state]
        return frozenset(a for s in stateful for a in s.axes if a not in s.reduce) - bound

    def _all_lanes(self, group: Iterable[int], axis: Axis) -> bool:
        return all(self._may_be_lanes(k, axis) for k in group)

    def _needs_final(self, k: int, m: int) -> bool:
        """True when k reads what a reduction gives only after its loop."""
        s = self.facts[m].statement
        reduces = isinstance(s, Equation) and bool(s.state) and not s.scan
        return reduces and any(e.name in self.facts[m].names for e in self.facts[k].local)

    def _may_interleave(self, m: int, k: int, axes: Iterable[Axis]) -> bool:
        """True when m then k at each point of `axes` does what m at all points and then k at all points does."""
        first, second = self.facts[m], self.facts[k]
        for e in second.local:
            if e.name in first.names and not self._at_same_point(e, axes):
                return False
        for buffer in self._shared_buffers(first, second):
            for i, wrote in first.accesses(buffer):
                for j, writes in second.accesses(buffer):
                    if (wrote or writes) and not self._apart(i, j, axes, first, second):
                        return False
        return True

    def _at_same_point(self, e: Load, axes: Iterable[Axis]) -> bool:
        where = dict(zip(self.kernel.equations[e.name].axes, e.index, strict=True))
        return all(where[a].single_axis is a if a in where else False for a in axes)

    def _apart(self, i: Index, j: Index, axes: Iterable[Axis], first: _Facts, second: _Facts) -> bool:
        """True when accesses at i and j by different points of `axes` are of different elements."""
        one_to_one = any(f.store is not None and f.store.injective and f.store.index[0] is i for f in (first, second))
        if i is j and one_to_one:
            return all(a in axes_of(i) for a in axes)
        return all(digit(i, a) is not None and digit(i, a) == digit(j, a) for a in axes)

    # --- axes ----------------------------------------------------------------------------------------------------

    def _nest(self, group: tuple[int, ...], bound: frozenset[Axis], lanes: Axis | None) -> Nest:
        axes = frozenset().union(*(self.facts[k].axes for k in group)) - bound
        if not axes:
            return Nest(group, (), None)
        kept = self._kept_axes(group, bound)
        chosen = lanes or (next(iter(kept)) if kept else self._best_lanes(group, bound))
        serial = axes - {chosen} if chosen else axes
        return Nest(group, self._in_memory_order(group, serial), chosen)

    def _in_memory_order(self, group: Iterable[int], axes: frozenset[Axis]) -> tuple[Axis, ...]:
        """Outermost first: as the main access walks memory, except where the statement's own order has a meaning."""
        statements = [self.facts[k].statement for k in group]
        colliding = next((s for s in statements if isinstance(s, Store) and not s.injective), None)
        if colliding is not None:
            order = [a for a in colliding.axes if a in axes]
            return (*order, *(a for a in self.position if a in axes and a not in order))
        main = [s.index[0] for s in reversed(statements) if isinstance(s, Store)]
        main += [e.index[0] for k in group for e in self.facts[k].loads if e.name in self.kernel.buffers]

        def stride(axis: Axis) -> int:
            for i in main:
                k = axis_coefficient(i, axis)
                if k is not None and k != 0:
                    return abs(estimate(k))
            return 0

        ordered = sorted(axes, key=lambda a: (-stride(a), self.position[a]))
        return tuple(sorted(ordered, key=lambda a: a.is_ragged))  # what bounds a ragged axis comes first

    def _best_lanes(self, group: tuple[int, ...], bound: frozenset[Axis]) -> Axis | None:
        """The axis along which most of the traffic is dense; None where statements must run point by point."""
        axes = sorted(frozenset().union(*(self.facts[k].axes for k in group)) - bound, key=self.position.__getitem__)
        allowed = [a for a in axes if all(self._may_be_lanes(k, a) for k in group)]
        if not allowed:
            return None
        return max(allowed, key=lambda a: (self._density(group, a), self.position[a]))

    def _differ_in_lanes(self, k: int, group: list[int], bound: frozenset[Axis]) -> bool:
        """True where the one walks memory along rows and the other along columns: together, one of them would leap."""
        every = frozenset().union(*(self.facts[m].axes for m in [*group, k])) - bound
        axes = sorted(every, key=self.position.__getitem__)
        mine = {a: self._density((k,), a) for a in axes}
        theirs = {a: self._density(tuple(group), a) for a in axes}
        if not axes:
            return False
        own, other = (max(d, key=d.__getitem__) for d in (mine, theirs))
        lost = min(mine[own] - mine[other], theirs[other] - theirs[own])
        return lost > WORTH_A_PASS * (mine[own] + theirs[other])

    def _may_be_lanes(self, k: int, axis: Axis) -> bool:
        s = self.facts[k].statement
        if isinstance(s, Store):
            return axis not in s.axes or axis in self.facts[k].kept
        if axis not in s.reduce:
            return True
        if s.scan:
            return s.scan == "inclusive" and not s.reverse and s.state in LANE_SCANS and not axis.is_ragged
        return s.state not in ORDERED

    def _density(self, group: tuple[int, ...], axis: Axis) -> float:
        total = 0.0
        for k in group:
            f = self.facts[k]
            if axis not in f.axes:
                continue
            fill = min(1.0, estimate(axis.extent) / 16)
            for e in dict.fromkeys(f.loads):
                total += _points(e.axes & f.axes) * fill * _density_of(e.index[-1:], axis)
            if f.store is not None:
                total += 2 * _points(f.axes) * fill * _density_of(f.store.index, axis)
        return total


def _points(axes: Iterable[Axis]) -> float:
    """How many elements an access along these axes touches: those read again are in cache, dense or not."""
    return math.prod(float(estimate(a.extent)) for a in axes)


def _density_of(index: tuple[Index, ...], axis: Axis) -> float:
    """1 for neighbours in memory, a little for one value for all, nothing for elements apart."""
    stride = axis_coefficient(index[0], axis) if index else 0
    return 1.0 if stride == 1 else 0.1 if stride == 0 else 0.0
