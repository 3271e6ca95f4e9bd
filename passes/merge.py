"""Law: merge. Equations over one iteration domain share a kernel, so what they both read is read once.

    y[t, c] = f(x[t, c])      z[t, c] = g(x[t, c], y[t, c])     ->     one kernel that stores y and z

A group is a set of stored values that one kernel computes: its sinks (roots that run over the kernel's axes) and the
values absorbed on the way, each stored where the kernel passes over it exactly once. Merging never makes a cycle
between kernels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..ir.expr import loads_in, names_in
from ..ir.index import Axis
from ..ir.loops import Buffer, Equation, Kernel, Statement, Store, reads_of, statement_expressions
from ..ir.ops import OPS
from ..ir.simplify import Simplifier
from ..ir.types import Dim
from .across import match_rows, match_sums
from .inline import Assembly, Lowered, Shared, covers
from .order import topological
from .reasons import CannotPull, Reason, Tried
from .reinplace import store_changes

MEMBERS = 12  # values that one kernel stores: more streams than that defeat the prefetcher, and compilers slow down

MOST_PLACES = 2  # in which a kernel that stores a value may read it: in the others it is computed anew

READ_ALIKE = "read the same rows"

BufferOf = Callable[[str], Buffer]


@dataclass(frozen=True, slots=True)
class Group:
    """`sinks` have the kernel's domain; `absorbed` are stored from inside. `reads` are the stored values it loads.

    `in_place` are the members that it writes into the memory of the input they replace.
    """

    sinks: tuple[str, ...]
    absorbed: tuple[str, ...]
    kernel: Kernel
    reads: frozenset[str]
    in_place: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.absorbed, *self.sinks)


class _Groups:
    """The kernels made so far, the graph's last ones first; `readers` has the places of those that read a value."""

    def __init__(self) -> None:
        self.made: list[Group] = []
        self.readers: defaultdict[str, set[int]] = defaultdict(set)

    def put(self, group: Group, k: int | None = None) -> None:
        """Add a kernel, or put a grown one in the place of what it has grown from."""
        if k is None:
            k = len(self.made)
            self.made.append(group)
        else:
            for name in self.made[k].reads:
                self.readers[name].discard(k)
            self.made[k] = group
        for name in group.reads:
            self.readers[name].add(k)

    def would_cycle(self, name: str, alone: Group, k: int) -> bool:
        """True when another kernel must run both after and before the one at `k` grown by `name`."""
        group = self.made[k]
        return self._has_way_back([name, *group.members], alone.reads | group.reads, {k})

    def would_wait(self, k: int, other: int) -> bool:
        """True when a third kernel must run between two, or one of the two before the other."""
        a, b = self.made[k], self.made[other]
        if not a.reads.isdisjoint(b.members) or not b.reads.isdisjoint(a.members):
            return True
        return self._has_way_back([*a.members, *b.members], a.reads | b.reads, {k, other})

    def _has_way_back(self, front: list[str], needed: frozenset[str], seen: set[int]) -> bool:
        """True when a kernel that is not in `seen` reads what leads from the front, and makes what is needed."""
        while front:
            for reader in self.readers[front.pop()] - seen:
                members = self.made[reader].members
                if not needed.isdisjoint(members):
                    return True
                seen.add(reader)
                front += members
        return False

    def in_order(self) -> list[Group]:
        """Kernels after the ones whose results they read."""
        maker = {name: k for k, group in enumerate(self.made) for name in group.members}
        waiting = {k: {maker[n] for n in g.reads if n in maker} - {k} for k, g in enumerate(self.made)}
        return [self.made[k] for k in topological(waiting, range(0, -len(self.made), -1))]


class Merger:
    """Makes the kernels of one region for a given set of stored values."""

    def __init__(
        self,
        lowered: Lowered,
        simplify: Simplifier,
        buffer_of: BufferOf,
        outside: Callable[[str], bool],
        in_place: Mapping[str, str] | None = None,
    ) -> None:
        self.in_place = in_place or {}  # values to the inputs whose memory they may take
        self.lowered = lowered
        self.simplify = simplify
        self.buffer_of = buffer_of
        self.outside = outside  # values of other regions, inputs and calls: always in memory
        self.unpullable: dict[str, Reason] = {}  # values that some reader wants under a guard or out of order
        self.tried: list[Tried] | None = None  # a list here is told of every merge that is asked for
        self._made: dict[object, Group | Reason] = {}
        self._shared: Shared = {}

    def groups(self, order: Sequence[str], stored: frozenset[str]) -> list[Group] | None:
        """The kernels that compute the stored values, in dependency order; None when a value cannot be pulled."""
        groups = _Groups()
        for name in reversed([n for n in order if n in stored]):
            merged = self._absorb(name, groups, stored) or self._join_sibling(name, groups, stored)
            if merged:
                continue
            alone = self._make((name,), (), stored)
            if isinstance(alone, Reason):
                return None
            groups.put(alone)
        return self._join_groups(groups, order, stored).in_order()

    def _absorb(self, name: str, groups: _Groups, stored: frozenset[str]) -> bool:
        """Lets a kernel that reads `name` compute and store it on the way."""
        readers = sorted(groups.readers[name])
        for at, k in enumerate(readers):
            grown = self._absorbed(name, k, groups, stored)
            self._tell(name, groups.made[k], grown)
            if isinstance(grown, Group):
                for other in readers[at + 1 :]:
                    self._tell(name, groups.made[other], Reason.TAKEN)
                groups.put(grown, k)
                return True
        return False

    def _absorbed(self, name: str, k: int, groups: _Groups, stored: frozenset[str]) -> Group | Reason:
        """The kernel that computes `name` on the way, or why there is none."""
        group = groups.made[k]
        if OPS[self.lowered.node(name).op].kind == "scatter":
            return Reason.SCATTER
        if len(group.members) >= MEMBERS:
            return Reason.FULL
        alone = self._make((name,), (), stored)
        if isinstance(alone, Reason):
            return alone
        if groups.would_cycle(name, alone, k):
            return Reason.CYCLE
        if not _passes_over(group.kernel, name, self.lowered.node(name).shape):
            return Reason.DOMAIN
        return self._make(group.sinks, (name, *group.absorbed), stored)

    def _join_sibling(self, name: str, groups: _Groups, stored: frozenset[str]) -> bool:
        """Puts a value beside the sinks of a kernel with the same domain that reads some of the same memory.

        Kernels that read the value itself have been asked to absorb it.
        """
        for k, group in enumerate(groups.made):
            if name in group.reads:
                continue
            grown = self._joined(name, k, groups, stored)
            self._tell(name, group, grown)
            if isinstance(grown, Group):
                groups.put(grown, k)
                return True
        return False

    def _joined(self, name: str, k: int, groups: _Groups, stored: frozenset[str]) -> Group | Reason:
        """The kernel that computes `name` beside its sinks, or why there is none."""
        group = groups.made[k]
        node, sink = self.lowered.node(name), self.lowered.node(self._widest(group.sinks))
        if OPS[node.op].kind == "scatter" or OPS[sink.op].kind == "scatter":
            return Reason.SCATTER
        if len(group.members) >= MEMBERS:
            return Reason.FULL
        across = not same_domain(node.shape, sink.shape)
        alone = self._make((name,), (), stored)
        if isinstance(alone, Reason):
            return alone
        if not alone.reads & group.reads:
            return Reason.DOMAIN if across else Reason.UNSHARED
        if across and not self.in_place.keys().isdisjoint((name, *group.members)):
            return Reason.DOMAIN  # what is written in place must not be read again
        if not across and not _same_reductions(alone.kernel, group.kernel):
            return Reason.EXTENTS
        if groups.would_cycle(name, alone, k):
            return Reason.CYCLE
        return self._make((name, *group.sinks), group.absorbed, stored)

    def _join_groups(self, groups: _Groups, order: Sequence[str], stored: frozenset[str]) -> _Groups:
        """Kernels of one domain that read the same memory, now that each has absorbed what it could."""
        for k, a in enumerate(groups.made):
            for j in range(k + 1, len(groups.made)):
                grown = self._joined_groups(k, j, groups, order, stored)
                if grown is None:
                    continue
                self._tell(groups.made[j].sinks[0], a, grown)
                if isinstance(grown, Group):
                    fewer = _Groups()
                    for at, group in enumerate(groups.made):
                        if at != j:
                            fewer.put(grown if at == k else group)
                    return self._join_groups(fewer, order, stored)
        return groups

    def _joined_groups(
        self, k: int, j: int, groups: _Groups, order: Sequence[str], stored: frozenset[str]
    ) -> Group | Reason | None:
        """One kernel for two, why there is none, or None where they were asked before: neither has absorbed a thing."""
        a, b = groups.made[k], groups.made[j]
        if not (a.absorbed or b.absorbed) or not a.reads & b.reads:
            return None
        first, second = (self.lowered.node(g.sinks[0]) for g in (a, b))
        if "scatter" in (OPS[self.lowered.node(n).op].kind for n in (*a.members, *b.members)):
            return None
        if not same_domain(first.shape, second.shape):
            return None
        if len(a.members) + len(b.members) > MEMBERS:
            return Reason.FULL
        if not _same_reductions(a.kernel, b.kernel):
            return Reason.EXTENTS
        if groups.would_wait(k, j):
            return Reason.CYCLE
        sinks, absorbed = {*a.sinks, *b.sinks}, {*a.absorbed, *b.absorbed}
        return self._make(tuple(n for n in order if n in sinks), tuple(n for n in order if n in absorbed), stored)

    def _tell(self, name: str, group: Group, found: Group | Reason) -> None:
        if self.tried is not None:
            self.tried.append(Tried("merge", name, group.sinks[-1], found if isinstance(found, Reason) else None))

    def _make(self, sinks: tuple[str, ...], absorbed: tuple[str, ...], stored: frozenset[str]) -> Group | Reason:
        key = (sinks, absorbed, stored)
        if key not in self._made:
            self._made[key] = self._assemble(sinks, absorbed, stored)
        return self._made[key]

    def _assemble(self, sinks: tuple[str, ...], absorbed: tuple[str, ...], stored: frozenset[str]) -> Group | Reason:
        own = set(sinks) | set(absorbed)
        widest = self._widest(sinks)

        def in_memory(name: str) -> bool:
            return self.outside(name) or (name in stored and name not in own)

        assembly = Assembly(self.lowered, in_memory, self.simplify, own, self._shared)
        try:
            axes: tuple[Axis, ...] | None = None
            for name in (widest, *(n for n in reversed(sinks) if n != widest)):
                along = self._axes_of(name, widest, stored, axes)
                if isinstance(along, Reason):
                    return along
                assembly.add_root(name, along)
                axes = axes or assembly.axes
        except CannotPull as error:
            if not absorbed and error.reason is not Reason.CHAIN:
                self.unpullable[error.where] = error.reason
            return error.reason
        if any(n not in assembly.absorbed_stores for n in absorbed):
            return Reason.DOMAIN
        body, in_place = assembly.body, []
        for name in own & self.in_place.keys():
            changed = store_changes(body, name, self.in_place[name], self.simplify)
            if isinstance(changed, list):
                body = changed
                in_place.append(name)
            if self.tried is not None:
                reason = changed if isinstance(changed, Reason) else None
                self.tried.append(Tried("reinplace", name, self.in_place[name], reason))
        kernel = self._kernel(assembly.roots[0], body, self._notes(assembly, absorbed, in_place))
        reads = frozenset(b.name for b in kernel.inputs)
        return Group(sinks, absorbed, kernel, reads, tuple(sorted(in_place)))

    def _widest(self, sinks: Sequence[str]) -> str:
        """The last sink of those that run over the most axes."""
        return max(reversed(sinks), key=lambda n: len([d for d in self.lowered.node(n).shape if d != 1]))

    def _axes_of(
        self, name: str, widest: str, stored: frozenset[str], axes: tuple[Axis, ...] | None
    ) -> tuple[Axis, ...] | Reason | None:
        """The kernel axes that a sink runs over, where they are known already."""
        shape = self.lowered.node(name).shape
        if axes is None or same_domain(shape, self.lowered.node(widest).shape):
            return _axes_for(shape, axes)
        narrow, wide = (self._make((n,), (), stored) for n in (name, widest))
        if isinstance(narrow, Reason) or isinstance(wide, Reason):
            return Reason.DOMAIN
        match = match_sums(narrow.kernel, wide.kernel) or match_rows(narrow.kernel, wide.kernel)
        if match is None:
            return Reason.DOMAIN
        return tuple(axes[match[d]] if d in match else Axis(f"u{d}", 1) for d in range(len(shape)))

    def _notes(self, assembly: Assembly, absorbed: tuple[str, ...], in_place: list[str]) -> tuple[str, ...]:
        """Which law did what, by the ops of the values concerned."""

        def ops(names: Iterable[str]) -> str:
            return ", ".join(self.lowered.node(n).op for n in names)

        notes: list[str] = []
        inner = [n for n in assembly.find_pulled() if n not in assembly.roots and n not in absorbed]
        if inner:
            notes.append(f"inline: {len(inner)} values have no memory of their own ({ops(inner[:12])})")
        if absorbed:
            notes.append(f"merge: {ops(absorbed)} stored on the way")
        if len(assembly.roots) > 1:
            shapes = [self.lowered.node(n).shape for n in assembly.roots]
            alike = all(same_domain(s, shapes[0]) for s in shapes)
            notes.append(f"merge: {ops(assembly.roots)} {'share one iteration domain' if alike else READ_ALIKE}")
        if in_place:
            notes.append(f"reinplace: {ops(in_place)} written into the input it replaces")
        return tuple(notes)

    def _kernel(self, name: str, body: Sequence[Statement], notes: tuple[str, ...]) -> Kernel:
        written = tuple(dict.fromkeys(s.buffer for s in body if isinstance(s, Store)))
        local = {n for s in body if isinstance(s, Equation) for n in s.names}
        read = dict.fromkeys(n for s in body for n in sorted(reads_of(s)) if n not in local)
        inputs = tuple(self.buffer_of(n) for n in read if n not in written)
        outputs = tuple(self.buffer_of(n) for n in written)
        return Kernel(name, inputs, outputs, tuple(body), notes)


def _axes_for(shape: tuple[Dim, ...], axes: tuple[Axis, ...] | None) -> tuple[Axis, ...] | None:
    """The first axes of the kernel, one per dimension of a sink of the same domain."""
    if axes is None:
        return None
    left = [a for a in axes if a.extent != 1]
    fitted: list[Axis] = []
    for d, n in enumerate(shape):
        fitted.append(Axis(f"u{d}", 1) if n == 1 else left.pop(0))
    return tuple(fitted)


def _passes_over(kernel: Kernel, name: str, shape: tuple[Dim, ...]) -> bool:
    """True when the kernel reads each element of a value exactly once somewhere, so that it can store it there.

    A window that is read in many places would compute the value anew in each of them.
    """
    roots = [e for s in kernel.body for e in statement_expressions(s) if name in names_in(e)]
    loads = [e for e in loads_in(*roots) if e.name == name]
    if len({e.index for e in loads}) > MOST_PLACES:
        return False
    return any(e.guard is None and covers(e.index, shape) for e in loads)


def same_domain(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def _same_reductions(a: Kernel, b: Kernel) -> bool:
    """Reductions of merged siblings run over the same extents (what differs is left to other laws)."""
    extents = [{x.extent for s in k.body if isinstance(s, Equation) for x in s.reduce} for k in (a, b)]
    return extents[0] == extents[1] or not extents[0] or not extents[1]
