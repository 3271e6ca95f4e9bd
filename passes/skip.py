"""Law: skip. What a guard says of a tile: it holds nowhere, everywhere or in places, and between which bounds.

    i:64*a .. 64*a + 63,  j:32*b .. 32*b + 31,   guard j <= i        never where 32*b > 64*a + 63, always where ...
                                                                     it can hold for j below 64*a + 64

    s[t] = sum(c) where((c >= 2) & (c < 5), x[t, c], 0)      ->      s[t] = sum(d:3) x[t, d + 2]

The first is analysis alone: schedules leave out tiles that contribute the combiner's identity. Conditions are compared
by the limits of affine differences, floor divisions by constants among them, joined by and, or and not; a condition
that data decide is "mixed". Nothing is claimed that does not hold: never and always are proofs, bounds may be generous.

The second narrows the axis of a reduction whose guard has constant bounds, where the other branch is the identity of
the combiner: what is combined stays the same. It stays away where a load reads at an index from data, since the part
that is left out might have a bad one to report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from ..ir.expr import FALSE, TRUE, Const, Expr, Load, Op, Rewriter, data_in, indices, walk
from ..ir.index import ZERO, Axis, Div, Index, add, axes_of, bounds, of_atom, scale, substitute
from ..ir.loops import Equation, Kernel, Statement
from ..ir.simplify import Simplifier
from ..ir.states import STATES
from ..ir.types import Dim, is_nonnegative, multiply, plus
from .chains import replaced
from .limits import conjuncts

OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
NARROWED = ("sum", "prod", "max", "min", "any", "all")


class Holds(Enum):
    NEVER = "never"
    ALWAYS = "always"
    MIXED = "mixed"

    @property
    def opposite(self) -> Holds:
        return {Holds.NEVER: Holds.ALWAYS, Holds.ALWAYS: Holds.NEVER}.get(self, Holds.MIXED)


@dataclass(frozen=True, slots=True)
class Tile:
    """The points origin .. origin + size - 1 of an axis; the origin may be an index of other axes (block numbers)."""

    origin: Index
    size: Dim


@dataclass(frozen=True, slots=True)
class Span:
    """A condition can hold only at points first .. end - 1 of an axis; None is no limit but the axis's own."""

    first: Index | None = None
    end: Index | None = None


# --- never, always, mixed ----------------------------------------------------------------------------------------


def classify(condition: Expr, tiles: Mapping[Axis, Tile]) -> Holds:
    """What a condition says of the points of a tile; axes that are not in `tiles` run over all their points."""
    if condition is TRUE or condition is FALSE:
        return Holds.ALWAYS if condition is TRUE else Holds.NEVER
    if not isinstance(condition, Op):
        return Holds.MIXED
    if condition.name in ("and", "or"):
        decided = Holds.NEVER if condition.name == "and" else Holds.ALWAYS
        sides = [classify(a, tiles) for a in condition.args]
        return decided if decided in sides else sides[0] if sides[0] is sides[1] else Holds.MIXED
    if condition.name == "not":
        return classify(condition.args[0], tiles).opposite
    difference = _difference(condition)
    return Holds.MIXED if difference is None else _compare(condition.name, *limits_in(difference, tiles))


def _difference(comparison: Op) -> Index | None:
    """left - right, where both sides are indices."""
    if comparison.name not in OPPOSITE:
        return None
    left, right = (a.position for a in comparison.args)
    return None if left is None or right is None else left - right


def _compare(name: str, low: Dim, high: Dim) -> Holds:
    """A difference of low .. high against 0."""
    negative, positive = _less(high, 0), _less(0, low)
    least, most = is_nonnegative(low), is_nonnegative(multiply(high, -1))
    always = {
        "lt": negative, "le": most, "gt": positive, "ge": least,
        "eq": least and most, "ne": negative or positive,
    }  # fmt: skip
    if always[name]:
        return Holds.ALWAYS
    return Holds.NEVER if always[OPPOSITE[name]] else Holds.MIXED


def _less(a: Dim, b: Dim) -> bool:
    return is_nonnegative(plus(plus(b, multiply(a, -1)), -1))


def limits_in(index: Index, tiles: Mapping[Axis, Tile]) -> tuple[Dim, Dim]:
    """Limits of an index's values over a tile. Floor divisions by constants of what is within one tile are bounded.

    Within the tile an axis is its origin and a step of its own, so equal origins cancel: i - j for one block of both.
    """
    return bounds(_in_tile(index, tiles))


def _in_tile(index: Index, tiles: Mapping[Axis, Tile]) -> Index:
    moved = {a: add(t.origin, of_atom(Axis(f"{a.name}'", t.size))) for a, t in tiles.items()}
    return substitute(index, moved) if not any(True for _ in data_in(index)) else index


# --- bounds of one axis ------------------------------------------------------------------------------------------


def find_span(condition: Expr, axis: Axis, tiles: Mapping[Axis, Tile]) -> Span:
    """Where along `axis` a condition can hold, as indices of the other axes' origins.

    Axes in `tiles` are replaced by the ends of their tiles, so the bounds are good for the whole tile; others stay.
    Every conjunct `k*axis + rest ? 0` with a constant k, or one of a floor division of that, gives a bound.
    """
    span = Span()
    for c in conjuncts(condition):
        for name, difference in _as_comparisons(c):
            span = _both(span, _bound(name, difference, axis, tiles))
    return span


def _as_comparisons(c: Expr, negated: bool = False) -> Iterator[tuple[str, Index]]:
    """Comparisons of an index with 0 that a conjunct says hold: `lt` and `ge` alone."""
    if not isinstance(c, Op):
        return
    if c.name == "not":
        yield from _as_comparisons(c.args[0], not negated)
    elif c.name == ("or" if negated else "and"):
        for a in c.args:
            yield from _as_comparisons(a, negated)
    else:
        difference = _difference(c)
        name = OPPOSITE.get(c.name) if negated else c.name
        if difference is not None and name != "ne":
            if name in ("lt", "le", "eq"):
                yield "lt", difference if name == "lt" else difference + -1
            if name in ("ge", "gt", "eq"):
                yield "ge", difference if name != "gt" else difference + -1


def _bound(name: str, difference: Index, axis: Axis, tiles: Mapping[Axis, Tile]) -> Span:
    """The span in which `difference < 0` or `difference >= 0` can hold at some point of the other axes' tiles."""
    own = [t for t in difference.terms if axis in axes_of(Index((t,)))]
    if len(own) != 1 or any(True for _ in data_in(difference)):
        return Span()
    atom, k = own[0]
    division = (1, 0) if atom is axis else _division(atom, axis)
    if division is None or not isinstance(k, int):
        return Span()
    other = difference - Index((own[0],))
    if name == "ge":  # k*x + other >= 0  is  -k*x - other - 1 < 0
        k, other = -k, scale(other, -1) + -1
    return _solve(k, *division, _least(other, tiles))


def _division(atom: object, axis: Axis) -> tuple[int, int] | None:
    """(by, offset) of (axis + offset) // by."""
    if not isinstance(atom, Div) or not isinstance(atom.by, int) or not isinstance(atom.index.const, int):
        return None
    return (atom.by, atom.index.const) if Index(atom.index.terms).single_axis is axis else None


def _least(other: Index, tiles: Mapping[Axis, Tile]) -> Index:
    """A lower limit of an index over the tiles: steps within a tile at the end that makes it least, origins kept."""
    total = Index((), other.const)
    for atom, coefficient in other.terms:
        term = Index(((atom, coefficient),))
        signed = isinstance(coefficient, int) or is_nonnegative(coefficient)
        if signed and isinstance(atom, Axis) and atom in tiles:
            tile = tiles[atom]
            step: Dim = 0 if is_nonnegative(coefficient) else multiply(coefficient, plus(tile.size, -1))
            total = total + scale(tile.origin, coefficient) + step
        elif axes_of(term).isdisjoint(tiles):
            total = total + term
        elif signed and isinstance(atom, Div):  # it grows with what it divides
            rises = is_nonnegative(coefficient)
            end = _least(atom.index, tiles) if rises else scale(_least(scale(atom.index, -1), tiles), -1)
            total = total + scale(end // atom.by, coefficient)
        else:
            total = total + limits_in(term, tiles)[0]
    return total


def _solve(k: int, divisor: int, offset: int, least: Index) -> Span:
    """The x for which k * ((x + offset) // divisor) + least < 0."""
    if k > 0:
        top = (scale(least, -1) + -1) // k
        return Span(end=scale(top + 1, divisor) + -offset)
    bottom = (least + -k) // -k
    return Span(first=scale(bottom, divisor) + -offset)


def _both(a: Span, b: Span) -> Span:
    """The first bound that is found on a side is kept, unless the other is a tighter one by a constant."""
    return Span(_tighter(a.first, b.first, 1), _tighter(a.end, b.end, -1))


def _tighter(a: Index | None, b: Index | None, sign: int) -> Index | None:
    if a is None or b is None:
        return b if a is None else a
    difference = scale(b - a, sign)
    return b if is_nonnegative(bounds(difference)[0]) else a


# --- reductions over what a guard leaves -------------------------------------------------------------------------


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
        narrowed = narrower.narrow(s) if isinstance(s, Equation) else s
        if narrowed is not s:
            changes[s] = (narrowed,)
    if not changes:
        return kernel
    who = ", ".join(s.names[-1] for s in changes if isinstance(s, Equation))
    body = replaced(kernel.body, changes)
    return replace(kernel, body=body, notes=(*kernel.notes, f"skip: {who} over the part where the guard holds"))


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
