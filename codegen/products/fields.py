"""Small numbers: which bits of which byte a value depends on, and what it is for each of their states.

(f32(q[n, j] >> 4) - 8.0)      depends on the upper 4 bits of q[n, j]; -8.0, -7.0, .. 7.0
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import lshift, rshift

from ...ir.expr import Const, Expr, Load, Op, Rewriter, const, data_in, loads_in
from ...ir.index import Data, Index, of_atom
from ...ir.simplify import make, make_cast
from ...ir.types import U8
from ..ranges import is_within, value_range

DIGITS = 16  # states of a digit at most
SIGN = 128  # the upper bit of a byte
SIGN_OF_WORD, INFINITE = 0x8000, 0x7F80  # of bf16; beyond are those that are no numbers
INTEGERS: dict[str, Callable[..., int]] = {"max": max, "min": min, "shr": rshift, "shl": lshift}
BYTE = Load("#byte", (), U8)  # stands for any byte


@dataclass(frozen=True, slots=True)
class Lookup:
    """A value by a digit: bf16 `words` for each of its states, or the entries of `table` from `base` on."""

    digit: Expr
    words: tuple[int, ...] = ()
    table: Load | None = None
    base: Index | None = None

    @property
    def entries(self) -> object:
        """What two values have in common that are looked up in the same table."""
        return self.words or (self.table and self.table.name, self.base)


def find_lookup(e: Expr) -> Lookup | None:
    """How a value follows from 4 bits: None where it does not."""
    found = find_entry(e)
    if found is not None:
        return found
    digit = find_digit(e)
    words = None if digit is None else tabulate(e, digit)
    return None if digit is None or words is None else Lookup(digit, tuple(words))


def find_entry(e: Expr) -> Lookup | None:
    """The entry of a table in memory that a value is, but for its type."""
    while isinstance(e, Op) and e.name == "cast" and e.dtype.is_float:
        e = e.args[0]
    if not isinstance(e, Load) or e.guard is not None or not e.dtype.is_float or len(e.index) != 1:
        return None
    datas = [(a, c) for a, c in e.index[0].terms if isinstance(a, Data)]
    if len(datas) != 1 or datas[0][1] != 1 or len(list(data_in(e.index[0]))) != 1:
        return None
    ((data, _),) = datas
    digit = data.value
    while isinstance(digit, Op) and digit.name == "cast":
        digit = digit.args[0]
    found = value_range(digit)
    if found is None or found[0] < 0 or found[1] >= DIGITS or not is_within(data) or find_digit(digit) is not digit:
        return None
    return Lookup(digit, (), e, e.index[0] - of_atom(data))


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


def find_byte(e: Expr) -> tuple[Load, tuple[int, ...]] | None:
    """The byte in memory that a value is an odd function of (its upper bit is the sign), and the bf16 words of the 128
    states of the other bits; None where it is none.
    """
    loads = list(loads_in(e))
    if len(loads) != 1 or loads[0].dtype is not U8 or loads[0].guard is not None or not e.dtype.is_float:
        return None
    words = _odd_words(Rewriter(load=lambda _: BYTE)(e))
    return (loads[0], words) if words else None


@lru_cache(maxsize=256)
def _odd_words(function: Expr) -> tuple[int, ...]:
    words = _tabulate(function, BYTE, 2 * SIGN)
    if words is None or any(a ^ SIGN_OF_WORD != b and a & ~SIGN_OF_WORD <= INFINITE for a, b in pairwise_halves(words)):
        return ()
    return tuple(words[:SIGN])


def pairwise_halves(words: list[int]) -> list[tuple[int, int]]:
    """Each of the first half with its like in the second."""
    half = len(words) // 2
    return list(zip(words[:half], words[half:], strict=True))


def tabulate(e: Expr, digit: Expr) -> list[int] | None:
    """The bits of a function of a digit as bf16, for each of its values; None where it cannot be evaluated here."""
    return _tabulate(e, digit, DIGITS)


def _tabulate(e: Expr, variable: Expr, states: int) -> list[int] | None:
    return bf16_words(e, ({variable: const(k, variable.dtype)} for k in range(states)))


def bf16_words(e: Expr, states: Iterable[dict[Expr, Expr]]) -> list[int] | None:
    """The bits of a value as bf16 in each of some states of what it is a function of; None where one is unknown."""
    words: list[int] = []
    for known in states:
        value = evaluate(e, known)
        if not isinstance(value, Const):
            return None
        words.append(_bf16_bits(float(value.value)))
    return words


def evaluate(e: Expr, known: dict[Expr, Expr]) -> Expr:
    """The expression with its constants folded; `known` has what was found already."""
    if e not in known:
        if isinstance(e, Op):
            args = [evaluate(a, known) for a in e.args]
            found = _compute(e, args)
            known[e] = found or (make_cast(args[0], e.dtype) if e.name == "cast" else make(e.name, *args))
        else:
            known[e] = e
    return known[e]


def _compute(e: Op, args: list[Expr]) -> Const | None:
    """What no rule folds since it is not exact for all operands, but is for these."""
    values = [a.value for a in args if isinstance(a, Const)]
    if len(values) < len(args):
        return None
    if e.dtype.is_integer and e.name in INTEGERS:
        return const(INTEGERS[e.name](*map(int, values)), e.dtype)
    if e.name == "exp2" and float(values[0]).is_integer() and abs(values[0]) < SIGN - 2:
        return const(2.0 ** values[0], e.dtype)
    return None


def _bf16_bits(value: float) -> int:
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF
