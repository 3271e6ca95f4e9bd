"""Index expressions: sums of (coefficient x atom), kept in one normal form.

An atom is an axis, a floor division or a modulus of another index, or a value loaded from data (a gather).
Axes carry their extent, so every index knows its range and div and mod vanish wherever the range allows:

    (8*i + j) // 8   with j:8    ->  i
    (8*i + j) % 8    with j:8    ->  j
    8*(k // 8) + k % 8           ->  k

Coefficients and extents are dimensions (`ir.types.Dim`): plain integers, or sympy expressions for dynamic sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING

import sympy

from .intern import Interned
from .types import Dim, as_dim, divide_exactly, is_nonnegative, multiply, plus

if TYPE_CHECKING:
    from .expr import Expr


class Atom:
    """What an index is linear in."""

    __slots__ = ()


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Axis(Atom, metaclass=Interned):
    """A named axis of an iteration domain: 0 .. extent-1, or begin .. end-1 read from data (ragged axes)."""

    name: str
    extent: Dim
    begin: Expr | None = None
    end: Expr | None = None

    def intern_key(self) -> object:
        return self.name, self.extent, self.begin, self.end

    @property
    def is_ragged(self) -> bool:
        """True where data bounds the points."""
        return self.begin is not None or self.end is not None

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{self.name}:{self.extent}"


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Div(Atom, metaclass=Interned):
    index: Index
    by: Dim

    def intern_key(self) -> object:
        return self.index, self.by

    def __str__(self) -> str:
        return f"({self.index} // {_factor(self.by)})"

    __repr__ = __str__


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Mod(Atom, metaclass=Interned):
    index: Index
    by: Dim

    def intern_key(self) -> object:
        return self.index, self.by

    def __str__(self) -> str:
        return f"({self.index} % {_factor(self.by)})"

    __repr__ = __str__


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Data(Atom, metaclass=Interned):
    """An index read from data: `value` (an i64 expression) must lie in -size .. size-1; negatives count from the end.

    `wrap` False means that negative values are out of range. Kernels check the range and report a bad index.
    """

    value: Expr
    size: Dim
    wrap: bool = True

    def intern_key(self) -> object:
        return self.value, self.size, self.wrap

    def __str__(self) -> str:
        return f"at({self.value}, {self.size}{'' if self.wrap else ', nowrap'})"

    __repr__ = __str__


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Index(metaclass=Interned):
    """const + sum of coefficient * atom, atoms sorted by their text. Build with the functions below."""

    terms: tuple[tuple[Atom, Dim], ...]
    const: Dim = 0

    def intern_key(self) -> object:
        return self.terms, self.const

    @property
    def is_constant(self) -> bool:
        return not self.terms

    @property
    def single_axis(self) -> Axis | None:
        """The axis when the index is just one axis, else None."""
        if len(self.terms) == 1 and self.const == 0 and self.terms[0][1] == 1:
            atom = self.terms[0][0]
            return atom if isinstance(atom, Axis) else None
        return None

    def __add__(self, other: Index | Dim) -> Index:
        return add(self, as_index(other))

    def __sub__(self, other: Index | Dim) -> Index:
        return add(self, scale(as_index(other), -1))

    def __mul__(self, by: Dim) -> Index:
        return scale(self, by)

    def __floordiv__(self, by: Dim) -> Index:
        return floor_divide(self, by)

    def __mod__(self, by: Dim) -> Index:
        return modulo(self, by)

    def __str__(self) -> str:
        return _print(self)

    __repr__ = __str__


ZERO = Index(())


def as_index(value: Index | Axis | Dim) -> Index:
    if isinstance(value, Index):
        return value
    if isinstance(value, Atom):
        return of_atom(value)
    return Index((), value)


def of_atom(atom: Atom) -> Index:
    """The index that is this atom; an axis of one value is the constant 0."""
    if isinstance(atom, Axis) and atom.extent == 1 and atom.begin is None:
        return ZERO
    return Index(((atom, 1),))


def add(a: Index, b: Index) -> Index:
    if not a.terms and a.const == 0:
        return b
    if not b.terms and b.const == 0:
        return a
    return _normal([*a.terms, *b.terms], plus(a.const, b.const))


def scale(a: Index, by: Dim) -> Index:
    if by == 1:
        return a
    if by == 0:
        return ZERO
    return Index(tuple((atom, multiply(c, by)) for atom, c in a.terms), multiply(a.const, by))


@lru_cache(maxsize=65536)
def floor_divide(a: Index, by: Dim) -> Index:
    """a // by for by > 0."""
    if by == 1:
        return a
    whole, rest, const_whole, const_rest = _split_by(a, by)
    quotient = Index(tuple(whole), const_whole)
    remainder = Index(tuple(rest), const_rest)
    if _within(remainder, by):
        return quotient
    return add(quotient, _divided(remainder, by))


@lru_cache(maxsize=65536)
def modulo(a: Index, by: Dim) -> Index:
    """a % by for by > 0, with the sign of Python (0 .. by-1)."""
    if by == 1:
        return ZERO
    _, rest, _, const_rest = _split_by(a, by)
    remainder = Index(tuple(rest), const_rest)
    if _within(remainder, by):
        return remainder
    if len(rest) == 1 and const_rest == 0 and rest[0][1] == 1 and isinstance(rest[0][0], Mod):
        inner = rest[0][0]
        if divide_exactly(inner.by, by) is not None:
            return modulo(inner.index, by)
    common = _common_factor(remainder, by)
    if common > 1 and isinstance(by, int):
        return scale(modulo(_shrink(remainder, common), by // common), common)
    return Index(((Mod(remainder, by), 1),))


def substitute(a: Index, mapping: Mapping[Axis, Index], expr: Callable[[Expr], Expr] | None = None) -> Index:
    """Replaces axes; `expr` maps the expressions inside data atoms."""
    total: Index | None = None
    for atom, coefficient in a.terms:
        term = scale(_substitute_atom(atom, mapping, expr), coefficient)
        total = term if total is None else add(total, term)
    if total is None:
        return a
    return total if a.const == 0 else add(total, Index((), a.const))


def read_index(value: Expr, size: Dim, wrap: bool) -> Index:
    """The index that `value` (i64) gives into a dimension of `size`: itself where it is one and in range."""
    position = value.position
    if position is not None and _within(position, size):
        return position
    return of_atom(Data(value, size, wrap))


def bounds(a: Index) -> tuple[Dim, Dim]:
    """Limits of the values, from the atoms' own ranges: attained where each atom varies by itself, else generous."""
    low = high = a.const
    for atom, coefficient in a.terms:
        least, most = _range(atom)
        if is_nonnegative(coefficient):
            ends = multiply(coefficient, least), multiply(coefficient, most)
        elif is_nonnegative(multiply(coefficient, -1)):
            ends = multiply(coefficient, most), multiply(coefficient, least)
        else:
            both = multiply(coefficient, least), multiply(coefficient, most)
            ends = sympy.Min(*both), sympy.Max(*both)
        low, high = plus(low, ends[0]), plus(high, ends[1])
    return low, high


def axes_of(a: Index) -> frozenset[Axis]:
    """Every axis that the index depends on, also inside div, mod and data atoms."""
    return _axes_of(a)


def axis_coefficient(a: Index, axis: Axis) -> Dim | None:
    """The stride along `axis` when the index is affine in it (0 when absent), else None."""
    stride: Dim = 0
    for atom, coefficient in a.terms:
        if atom is axis:
            stride = coefficient
        elif axis in _axes_of_atom(atom):
            return None
    return stride


def is_affine(a: Index) -> bool:
    return all(isinstance(atom, Axis) for atom, _ in a.terms)


def linearize(index: Iterable[Index], strides: Iterable[Dim]) -> Index:
    total = ZERO
    for i, s in zip(index, strides, strict=True):
        total = add(total, scale(i, s))
    return total


# --- the normal form ---------------------------------------------------------------------------------------------


def _normal(terms: list[tuple[Atom, Dim]], const: Dim) -> Index:
    merged: dict[Atom, Dim] = {}
    for atom, coefficient in terms:
        merged[atom] = plus(merged[atom], coefficient) if atom in merged else coefficient
    kept = {atom: c for atom, c in merged.items() if c != 0}
    if any(isinstance(atom, Mod) for atom in kept):
        rejoined = _rejoin(kept)
        if rejoined is not None:
            return add(rejoined, Index((), const))
    return Index(tuple(sorted(kept.items(), key=_sort_key)), const)


def _sort_key(term: tuple[Atom, Dim]) -> str:
    return str(term[0])


def _rejoin(terms: dict[Atom, Dim]) -> Index | None:
    """c*k*(r // k) + c*(r % k) -> c*r, also where r is s % (k*m), whose remainder is s % k; None when no such pair is
    there.
    """
    for atom, coefficient in terms.items():
        if not isinstance(atom, Mod):
            continue
        wanted = multiply(coefficient, atom.by)
        whole = _divided(atom.index, atom.by)
        partner = whole.terms[0][0] if len(whole.terms) == 1 and whole.const == 0 and whole.terms[0][1] == 1 else None
        for div, factor in terms.items():
            if factor != wanted or not (div is partner or _divides_modulo(div, atom)):
                continue
            joined = atom.index if div is partner or not isinstance(div, Div) else div.index
            rest = [(a, c) for a, c in terms.items() if a is not atom and a is not div]
            return add(_normal(rest, 0), scale(joined, coefficient))
    return None


def _divides_modulo(div: Atom, remainder: Mod) -> bool:
    """Whether `div` is s % (k*m) // k, for the remainder s % k."""
    if not isinstance(div, Div) or div.by != remainder.by or len(div.index.terms) != 1 or div.index.const != 0:
        return False
    inner, coefficient = div.index.terms[0]
    if not isinstance(inner, Mod) or coefficient != 1 or inner.index is not remainder.index:
        return False
    return divide_exactly(inner.by, remainder.by) is not None


def _split_by(a: Index, by: Dim) -> tuple[list[tuple[Atom, Dim]], list[tuple[Atom, Dim]], Dim, Dim]:
    """Separates the terms that `by` divides (their quotients) from the rest."""
    whole: list[tuple[Atom, Dim]] = []
    rest: list[tuple[Atom, Dim]] = []
    for atom, coefficient in a.terms:
        quotient = divide_exactly(coefficient, by)
        if quotient is None:
            rest.append((atom, coefficient))
        else:
            whole.append((atom, quotient))
    if isinstance(a.const, int) and isinstance(by, int):
        return whole, rest, a.const // by, a.const % by
    quotient = divide_exactly(a.const, by)
    return (whole, rest, 0, a.const) if quotient is None else (whole, rest, quotient, 0)


def _within(a: Index, by: Dim) -> bool:
    low, high = bounds(a)
    return is_nonnegative(low) and is_nonnegative(plus(plus(by, multiply(high, -1)), -1))


def _divided(a: Index, by: Dim) -> Index:
    """a // by as one atom, after taking out a common factor and nested divisions."""
    common = _common_factor(Index(a.terms), by)
    if common > 1 and isinstance(by, int) and isinstance(a.const, int):
        return floor_divide(Index(tuple((t, c // common) for t, c in a.terms), a.const // common), by // common)
    if len(a.terms) == 1 and a.const == 0 and a.terms[0][1] == 1 and isinstance(a.terms[0][0], Div):
        inner = a.terms[0][0]
        return floor_divide(inner.index, multiply(inner.by, by))
    return Index(((Div(a, by), 1),))


def _common_factor(a: Index, by: Dim) -> int:
    values = [c for _, c in a.terms] + [by] + ([a.const] if a.const != 0 else [])
    if not all(isinstance(v, int) for v in values):
        return 1
    return gcd(*values)  # type: ignore[arg-type]


def _shrink(a: Index, by: int) -> Index:
    return Index(tuple((atom, c // by) for atom, c in a.terms), a.const // by)


def _range(atom: Atom) -> tuple[Dim, Dim]:
    """The least and greatest value of an atom."""
    if isinstance(atom, Axis):
        return 0, plus(atom.extent, -1)
    if isinstance(atom, Mod):
        return 0, plus(atom.by, -1)
    if isinstance(atom, Data):
        return 0, plus(atom.size, -1)
    assert isinstance(atom, Div)
    low, high = bounds(atom.index)
    return _floor(low, atom.by, sympy.Min), _floor(high, atom.by, sympy.Max)


def _floor(value: Dim, by: Dim, outer: Callable[[Dim, Dim], Dim]) -> Dim:
    """value // by; where no closed form is known a limit instead, below for `outer` Min and above for Max."""
    if isinstance(value, int) and isinstance(by, int):
        return value // by
    for less in (0, 1):  # most limits are a multiple of the divisor, or one less
        quotient = divide_exactly(plus(value, less), by)
        if quotient is not None:
            return plus(quotient, -less)
    return as_dim(outer(0, value))


def _substitute_atom(atom: Atom, mapping: Mapping[Axis, Index], expr: Callable[[Expr], Expr] | None) -> Index:
    if isinstance(atom, Axis):
        found = mapping.get(atom)
        return of_atom(atom) if found is None else found
    if isinstance(atom, Div):
        return floor_divide(substitute(atom.index, mapping, expr), atom.by)
    if isinstance(atom, Mod):
        return modulo(substitute(atom.index, mapping, expr), atom.by)
    assert isinstance(atom, Data)
    assert expr is not None or not (atom.value.axes & mapping.keys()), (
        "an index that reads data needs an expression rewriter"
    )
    return of_atom(atom) if expr is None else read_index(expr(atom.value), atom.size, atom.wrap)


@lru_cache(maxsize=65536)
def _axes_of(a: Index) -> frozenset[Axis]:
    found: frozenset[Axis] = frozenset()
    for atom, _ in a.terms:
        found |= _axes_of_atom(atom)
    return found


def _axes_of_atom(atom: Atom) -> frozenset[Axis]:
    if isinstance(atom, Axis):
        return frozenset((atom,))
    if isinstance(atom, (Div, Mod)):
        return _axes_of(atom.index)
    assert isinstance(atom, Data)
    return atom.value.axes


# --- printing ----------------------------------------------------------------------------------------------------


def _factor(value: Dim) -> str:
    text = str(value)
    return text if isinstance(value, int) or value.is_Symbol else f"({text})"


@lru_cache(maxsize=65536)
def _print(a: Index) -> str:
    parts = [str(atom) if c == 1 else f"{_factor(c)}*{atom}" for atom, c in a.terms]
    if a.const != 0 or not parts:
        parts.append(_factor(a.const))
    return " + ".join(parts).replace("+ -", "- ")
