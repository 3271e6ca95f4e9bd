"""Fields: some neighbouring bits of a byte in memory."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.expr import Const, Expr, Load, Op
from ..ir.types import I64, U8
from .ranges import fits_in


@dataclass(frozen=True, slots=True)
class Field:
    """`bits` bits of a byte, of which `low` is the lowest."""

    byte: Load
    low: int = 0
    bits: int = 8


def find_field(e: Expr) -> Field | None:
    """The bits of a byte in memory that an integer is; None where it is something else."""
    if isinstance(e, Load):
        return Field(e) if e.dtype is U8 else None
    if not isinstance(e, Op):
        return None
    if e.name == "cast":
        return find_field(e.args[0]) if e.dtype is I64 or fits_in(e.args[0], e.dtype) else None
    if e.name not in ("and", "shr") or not isinstance(e.args[1], Const):
        return None
    inner, number = find_field(e.args[0]), int(e.args[1].value)
    if inner is None:
        return None
    if e.name == "shr":
        return Field(inner.byte, inner.low + number, inner.bits - number) if 0 <= number < inner.bits else None
    bits = number.bit_length()
    return Field(inner.byte, inner.low, min(inner.bits, bits)) if 0 < number == (1 << bits) - 1 else None
