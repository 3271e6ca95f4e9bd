"""Law: skip. What a guard leaves out of a reduction is not looked at.

    s[t] = sum(c) where((c >= 2) & (c < 5), x[t, c], 0)      ->      s[t] = sum(d:3) x[t, d + 2]

It narrows the axis of a reduction whose guard has constant bounds (`ir.spans` finds them), where the other branch is
the identity of the combiner: what is combined stays the same. Bounds that move with other axes are left to schedules,
which leave out tiles. It stays away where a load reads at an index from data, since the part that is left out might
have a bad one to report.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.expr import Const, Expr, Load, Op, Rewriter, data_in, indices, walk
from ..ir.index import ZERO, Axis, Index, of_atom
from ..ir.loops import Equation, Kernel, Statement
from ..ir.simplify import Simplifier
from ..ir.spans import Tile, find_span
from ..ir.states import STATES
from .chains import reductions_before, replaced

NARROWED = ("sum", "prod", "max", "min", "any", "all")


def may_skip(kernel: Kernel) -> bool:
    """True where some reduction has a guard."""
    return any(isinstance(s, Equation) and s.state and _guard_of(s) is not None for s in kernel.body)


def skip(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """The kernel whose guarded reductions run over the part of their axes where the guard can hold; the notes say
    which.
    """
    changes: dict[Statement, tuple[Statement, ...]] = {}
    narrower = _Narrower({a.name for a in kernel.axes}, simplify)
    for s in kernel.body:
        narrowed = narrower.narrow(s) if isinstance(s, Equation) and not _is_awaited(kernel, s) else s
        if narrowed is not s:
            changes[s] = (narrowed,)
    if not changes:
        return kernel
    who = ", ".join(s.names[-1] for s in changes if isinstance(s, Equation))
    body = replaced(kernel.body, changes)
    return replace(kernel, body=body, notes=(*kernel.notes, f"skip: {who} over the part where the guard holds"))


def _is_awaited(kernel: Kernel, s: Equation) -> bool:
    """True where another reduction over the same axes waits for this one: together they may become one pass."""
    others = (o for o in kernel.body if isinstance(o, Equation) and o is not s and o.state)
    return any(s in reductions_before(kernel, o.args, s.reduce) and set(o.reduce) == set(s.reduce) for o in others)


class _Narrower:
    """Narrows reductions of one kernel: those over the same part of the same axis share the new one."""

    def __init__(self, taken: set[str], simplify: Simplifier) -> None:
        self.taken = taken
        self.simplify = simplify
        self.made: dict[tuple[Axis, int, int], Axis] = {}

    def narrow(self, s: Equation) -> Equation:
        guard = _guard_of(s)
        for axis in s.reduce if guard is not None else ():
            assert guard is not None
            limits = _constant_limits(guard, axis, s)
            if limits is None:
                continue
            first, end = limits
            if first >= end:
                return Equation(s.names, s.axes, STATES[s.state].identity(s.dtypes), s.dtypes, source=s.source)
            shorter = self._part(axis, first, end)
            rewrite = Rewriter({axis: of_atom(shorter) + first}, rebuild=self.simplify)
            reduce = tuple(shorter if a is axis else a for a in s.reduce)
            return self.narrow(replace(s, args=tuple(rewrite(a) for a in s.args), reduce=reduce))
        return s

    def _part(self, axis: Axis, first: int, end: int) -> Axis:
        """The axis of the points first .. end - 1."""
        if (axis, first, end) not in self.made:
            name = f"{axis.name}n"
            while name in self.taken:
                name += "n"
            self.taken.add(name)
            self.made[axis, first, end] = Axis(name, end - first)
        return self.made[axis, first, end]


def _constant_limits(guard: Expr, axis: Axis, s: Equation) -> tuple[int, int] | None:
    """The part of an axis outside of which the guard holds nowhere in the domain, if it is not all of the axis."""
    if not isinstance(axis.extent, int) or any(a.is_ragged for a in s.domain):
        return None
    span = find_span(guard, axis, {a: Tile(ZERO, a.extent) for a in s.domain if a is not axis})
    ends = [0 if span.first is None else span.first, axis.extent if span.end is None else span.end]
    first, end = (e.const if isinstance(e, Index) and e.is_constant else e for e in ends)
    if not isinstance(first, int) or not isinstance(end, int):
        return None
    first, end = max(first, 0), min(end, axis.extent)
    return None if (first, end) == (0, axis.extent) else (first, end)


def _guard_of(s: Equation) -> Expr | None:
    """The condition without which a point contributes the combiner's identity."""
    if s.scan or s.state not in NARROWED or any(_reads_at_data(a) for a in s.args):
        return None
    value = s.args[0]
    if isinstance(value, Op) and value.name == "where":
        identity = STATES[s.state].identity(s.dtypes)[0]
        other = value.args[2]
        zero = isinstance(other, Const) and isinstance(identity, Const) and other.value == identity.value
        return value.args[0] if zero else None
    return value.guard if isinstance(value, Load) and s.state in ("sum", "any") else None


def _reads_at_data(e: Expr) -> bool:
    return any(True for n in walk(e) for i in indices(n) for _ in data_in(i))
