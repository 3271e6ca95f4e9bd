"""How many rows there are: a size, or what is computed of data."""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy

from ...ir.expr import Load
from ...ir.index import ZERO, Axis, Data, Index, as_index, bounds, floor_divide, modulo, of_atom
from ...ir.scalar import iota, op
from ...ir.tiles import Let
from ...ir.types import I64, Dim, as_dim, multiply, plus

Count = Dim | Index
"""How many there are: a size, or an index that is computed of data."""


@dataclass(frozen=True, slots=True)
class Span:
    """`count` rows of an axis from `first`. `lets` are the values that data stand for, known before the rows are."""

    axis: Axis
    first: Index
    count: Count
    lets: list[Let] = field(default_factory=list)

    def choose(self, name: str, largest: bool, a: Count, b: Count) -> Count:
        """The larger or the smaller one of two counts; neither is more than `a` can be."""
        if not isinstance(a, Index) and not isinstance(b, Index):
            return as_dim((sympy.Max if largest else sympy.Min)(a, b))
        full = f"{self.axis.name}_{name}"
        value = op("max" if largest else "min", iota(as_index(a)), iota(as_index(b)))
        self.lets.append(Let(full, value))
        return of_atom(Data(Load(full, (), I64), plus(most_of(a), 1), wrap=False))


def span_of(axis: Axis) -> Span:
    """All rows of an axis of a dynamic size."""
    return Span(axis, ZERO, axis.extent)


def counted(name: str, count: Count) -> Axis:
    """An axis of so many points."""
    if not isinstance(count, Index):
        return Axis(name, count)
    return Axis(name, most_of(count), end=iota(count))


def most_of(count: Count) -> Dim:
    return bounds(count)[1] if isinstance(count, Index) else count


def divide(a: Count, by: int) -> Count:
    if isinstance(a, Index):
        return floor_divide(a, by)
    return a // by if isinstance(a, int) else as_dim(sympy.floor(a / by))


def remainder(a: Count, by: int) -> Count:
    return modulo(a, by) if isinstance(a, Index) else as_dim(sympy.Mod(a, by))


def add(a: Count, b: Count) -> Count:
    if isinstance(a, Index) or isinstance(b, Index):
        return as_index(a) + as_index(b)
    return plus(a, b)


def times(a: Count, by: int) -> Count:
    return a * by if isinstance(a, Index) else multiply(a, by)
