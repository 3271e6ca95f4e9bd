"""Small numbers: which bits of which byte a value depends on, and what it is for each of their states.

    (f32(q[n, j] >> 4) - 8.0)      depends on the upper 4 bits of q[n, j]; -8.0, -7.0, .. 7.0
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ...ir.expr import Const, Expr, Load, Op, const
from ...ir.simplify import make, make_cast
from ...ir.types import U8
from ..ranges import fits_in, value_range

DIGITS = 16  # states of a digit at most


@dataclass(frozen=True, slots=True)
class Field:
    """`bits` bits of a byte, of which `low` is the lowest."""

    byte: Load
    low: int = 0
    bits: int = 8


def find_digit(e: Expr) -> Expr | None:
    """The integer of 4 bits that a value is a function of; None where there is none."""
    if not e.axes:
        return None
    found = value_range(e) if e.dtype.is_integer else None
    if found is not None and found[0] >= 0 and found[1] < DIGITS and isinstance(e, Op) and e.name != "cast":
        return e
    if not isinstance(e, Op):
        return None
    digits = {find_digit(a) for a in e.args if not isinstance(a, Const)}
    return next(iter(digits)) if len(digits) == 1 else None


def find_field(e: Expr) -> Field | None:
    """The bits of a byte in memory that an integer is; None where it is something else."""
    if isinstance(e, Load):
        return Field(e) if e.dtype is U8 else None
    if not isinstance(e, Op):
        return None
    if e.name == "cast":
        return find_field(e.args[0]) if fits_in(e.args[0], e.dtype) else None
    if e.name not in ("and", "shr") or not isinstance(e.args[1], Const):
        return None
    inner, number = find_field(e.args[0]), int(e.args[1].value)
    if inner is None:
        return None
    if e.name == "shr":
        return Field(inner.byte, inner.low + number, inner.bits - number) if 0 <= number < inner.bits else None
    bits = number.bit_length()
    return Field(inner.byte, inner.low, min(inner.bits, bits)) if 0 < number == (1 << bits) - 1 else None


def tabulate(e: Expr, digit: Expr) -> list[int] | None:
    """The bits of a function of a digit as bf16, for each of its values; None where it cannot be evaluated here."""

    def at(x: Expr, k: int) -> Expr:
        if x is digit:
            return const(k, x.dtype)
        if not isinstance(x, Op):
            return x
        return make(x.name, *(at(a, k) for a in x.args)) if x.name != "cast" else make_cast(at(x.args[0], k), x.dtype)

    values = [at(e, k) for k in range(DIGITS)]
    if not all(isinstance(v, Const) for v in values):
        return None
    return [_bf16_bits(float(v.value)) for v in values if isinstance(v, Const)]


def _bf16_bits(value: float) -> int:
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF
