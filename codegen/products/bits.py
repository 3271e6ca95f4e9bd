"""Bits of bytes, one for each point of a sum: 1-bit fields, bit planes.

    sum(j, d:8) x[8*j + d] * f(b[j] >> d & 1)   ->   sum(k) x[k] * f(b[k // 8] >> k % 8 & 1)

Bits in the order of the lanes are a mask of them: printers read one for a pack and need no shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations

from ...ir.expr import Const, Expr, Iota, Load, Op, Rewriter, const, data_in, loads_in, walk
from ...ir.index import (
    Axis,
    Data,
    Div,
    Index,
    Mod,
    add,
    as_index,
    axes_of,
    axis_coefficient,
    floor_divide,
    modulo,
    of_atom,
    scale,
)  # fmt: skip
from ...ir.scalar import cast, iota, is_const, op
from ...ir.types import I32, I64, U8, multiply
from ..ranges import fits_in, value_range
from .fields import Lookup, bf16_words, evaluate, find_entry
from .find import Products, extent_of

BYTE = 8  # bits
DIGIT = 4  # bits of the number of an entry


@dataclass(frozen=True, slots=True)
class Bit:
    """A bit of memory: number `shift` of a byte, the lowest is 0."""

    byte: Load
    shift: Index

    def place(self, at: Rewriter) -> Index:
        """Where it stands, in bits from the beginning of the buffer."""
        return add(scale(at.index(self.byte.index[-1]), BYTE), at.index(self.shift))


@dataclass(frozen=True, slots=True)
class Planes:
    """A value by some bits, the lowest first: bf16 `words` for each of their states, or the `entry` of a table."""

    bits: tuple[Expr, ...]
    words: tuple[int, ...]
    entry: Lookup | None = None


# --- lanes that are points ---------------------------------------------------------------------------------------


def join_bits(found: Products) -> Products:
    """Sums over bytes and over their bits as sums over points, where the other operands lie in that order."""
    for axis in found.summed:
        terms = [t for s in found.sums for group in s.groups for t in group]
        if axis.extent == BYTE and all(_is_by_bits(t, found.lanes, axis) for t in terms):
            return _joined(found, axis)
    return found


def _is_by_bits(e: Expr, lanes: Axis, axis: Axis) -> bool:
    """True where the axis chooses bits of bytes along the lanes, and what else is read takes both axes as one."""
    if isinstance(e, Op):
        byte = _shifted_byte(e, of_atom(axis))
        if byte is not None:
            return axis not in byte.axes and axis_coefficient(byte.index[-1], lanes) == 1
        return all(_is_by_bits(a, lanes, axis) for a in e.args)
    if isinstance(e, Load):
        whole = all(_takes_as_one(i, lanes, axis) for i in e.index)
        return e.guard is None and whole and all(_is_by_bits(d.value, lanes, axis) for i in e.index for d in data_in(i))
    return not e.axes & {lanes, axis}


def _takes_as_one(i: Index, lanes: Axis, axis: Axis) -> bool:
    """True for a place that is the same for all bytes, or that of a bit among all of them; data aside."""
    plain = Index(tuple((a, c) for a, c in i.terms if not isinstance(a, Data)), i.const)
    by_bytes, by_bits = (axis_coefficient(plain, a) for a in (lanes, axis))
    return by_bits is not None and by_bytes == multiply(by_bits, BYTE)


def _joined(found: Products, axis: Axis) -> Products:
    """With lanes that are points: bit k % 8 of byte k // 8."""
    points = Axis(f"{found.lanes.name}{axis.name}", extent_of(found.lanes) * BYTE)
    move = Joiner(found.lanes, axis, points)
    sums = tuple(replace(s, groups=tuple(tuple(map(move, g)) for g in s.groups)) for s in found.sums)
    return replace(found, sums=sums, lanes=points, summed=tuple(a for a in found.summed if a is not axis))


class Joiner(Rewriter):
    """Rewrites what takes bytes and their bits as one, and the bits themselves."""

    def __init__(self, bytes_: Axis, bits: Axis, points: Axis) -> None:
        super().__init__({bytes_: as_index(0), bits: of_atom(points)})
        self.bits, self.points = bits, points
        self.in_bytes = Rewriter({bytes_: floor_divide(of_atom(points), BYTE)})

    def _rewrite(self, e: Expr) -> Expr:
        byte = _shifted_byte(e, of_atom(self.bits)) if isinstance(e, Op) else None
        if byte is None:
            return super()._rewrite(e)
        shift = cast(iota(modulo(of_atom(self.points), BYTE)), I32)
        return op("and", op("shr", cast(self.in_bytes(byte), I32), shift), const(1, I32))


def _shifted_byte(e: Op, shift: Index | None = None) -> Load | None:
    """The byte of which an integer is one bit: the one whose number is `shift`, or any."""
    found = find_bit(e)
    return None if found is None or (shift is not None and found.shift != shift) else found.byte


# --- values by bits ----------------------------------------------------------------------------------------------


def find_bit(e: Expr) -> Bit | None:
    """The bit of memory that an integer is, byte >> shift & 1; None for all else."""
    if not isinstance(e, Op) or e.name != "and" or not is_const(e.args[1], 1):
        return None
    shifted = _uncast(e.args[0])
    if not isinstance(shifted, Op) or shifted.name != "shr":
        return None
    byte, by = map(_uncast, shifted.args)
    if not isinstance(byte, Load) or byte.dtype is not U8 or byte.guard is not None or not isinstance(by, Iota):
        return None
    whole = value_range(by)
    return Bit(byte, by.index) if whole is not None and whole[0] >= 0 and whole[1] < BYTE else None


def _uncast(e: Expr) -> Expr:
    """What an integer was before conversions that leave its value as it is."""
    while isinstance(e, Op) and e.name == "cast" and (e.dtype is I64 or fits_in(e.args[0], e.dtype)):
        e = e.args[0]
    return e


@lru_cache(maxsize=1024)
def find_planes(e: Expr) -> Planes | None:
    """The bits that a float is a function of, and its values as bf16, or its table; None where there is more to it."""
    entry = find_entry(e)
    value = e if entry is None else entry.digit
    bits = [n for n in walk(value) if find_bit(n) is not None]
    bytes_ = {n for b in bits for n in loads_in(b)}
    if not bits or len(bits) > BYTE or set(loads_in(value)) != bytes_:
        return None
    if entry is None:
        words = bf16_words(e, (_state(bits, k) for k in range(1 << len(bits))))
        return None if words is None else Planes(tuple(bits), tuple(words))
    for order in permutations(bits) if len(bits) <= DIGIT else ():
        states = [evaluate(value, _state(order, k)) for k in range(1 << len(order))]
        if all(isinstance(s, Const) and s.value == k for k, s in enumerate(states)):
            return Planes(order, (), entry)
    return None


def _state(bits: Sequence[Expr], k: int) -> dict[Expr, Expr]:
    """Bits with the values that they have in a number, the lowest first."""
    return {b: const(k >> i & 1, b.dtype) for i, b in enumerate(bits)}


def steps_by(e: Expr, lanes: Axis) -> int | None:
    """How many bits of memory lie between those of neighbouring lanes; None where they lie irregularly."""
    bit = find_bit(e)
    if bit is None:
        return None
    atoms = [a for i in (bit.byte.index[-1], bit.shift) for a, _ in i.terms if lanes in axes_of(of_atom(a))]
    if any(not isinstance(a, Div | Mod) or a.by not in (2, 4, BYTE) or axes_of(a.index) != {lanes} for a in atoms):
        return None
    places = [bit.place(Rewriter({lanes: as_index(k)})) for k in range(4 * BYTE)]
    step = (places[1] - places[0]).const
    if not isinstance(step, int) or any(places[0] + step * k != p for k, p in enumerate(places)):
        return None
    return step
