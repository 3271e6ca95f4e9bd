"""What a condition says of a tile: it holds nowhere, everywhere or in places, and between which bounds.

    i:64*a .. 64*a + 63,  j:32*b .. 32*b + 31,   condition j <= i    never where 32*b > 64*a + 63, always where ...
                                                                     it can hold for j below 64*a + 64

Conditions are compared by the limits of affine differences, floor divisions by constants among them, joined by and, or
and not; a condition that data decide is "mixed". Nothing is claimed that does not hold: never and always are proofs,
bounds may be generous.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from .expr import FALSE, TRUE, Expr, Op, data_in
from .index import Axis, Div, Index, add, axes_of, bounds, of_atom, scale, substitute
from .types import Dim, is_nonnegative, multiply, plus

OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}


def conjuncts(e: Expr) -> list[Expr]:
    if isinstance(e, Op) and e.name == "and":
        return [c for a in e.args for c in conjuncts(a)]
    return [e]


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
        for name, difference in as_comparisons(c):
            span = _both(span, _bound(name, difference, axis, tiles))
    return span


def as_comparisons(c: Expr, negated: bool = False) -> Iterator[tuple[str, Index]]:
    """(name, index): comparisons of an index with 0 that a conjunct says hold, by `lt` and `ge` alone."""
    if not isinstance(c, Op):
        return
    if c.name == "not":
        yield from as_comparisons(c.args[0], not negated)
    elif c.name == ("or" if negated else "and"):
        for a in c.args:
            yield from as_comparisons(a, negated)
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
