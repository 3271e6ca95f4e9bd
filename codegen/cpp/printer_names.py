"""Names and literals in C++."""

from __future__ import annotations

import math
import re
import struct

from ...ir.expr import Const
from .prelude import known

_KEYWORDS = """
alignas alignof and asm auto bool break case catch char class const continue default delete do double else enum
export extern false float for friend goto if inline int long main mutable namespace new not operator or private
protected public register return short signed sizeof static struct switch template this throw true try typedef
typename union unsigned using virtual void volatile wchar_t while xor f16 bf16 f32 f64 i8 u8 i16 u16 i32 i64 b8
args sizes work n u lo hi large threads FN NULL
"""
KEYWORDS = frozenset(_KEYWORDS.split())
TYPES = {"F": "f32", "D": "f64", "I": "i32", "L": "i64", "M": "bool"}


def identifier(name: str, taken: set[str]) -> str:
    """A C++ name like `name` that is not in `taken`, to which it is added."""
    base = re.sub(r"\W", "_", name) or "v"
    if base[0].isdigit() or base[0] == "_":
        base = f"v{base}"
    found, k = base, 1
    while found in taken or found in KEYWORDS or known(found):
        found, k = f"{base}_{k}", k + 1
    taken.add(found)
    return found


def print_const(c: Const, pack: str) -> str:
    """A literal of the C++ type of a pack's element."""
    value = c.value
    if pack == "M":
        return "true" if value else "false"
    if pack in "FD":
        return _print_float(float(value), pack)
    number = int(value)
    if pack == "I":
        return "(-2147483647 - 1)" if number == -(2**31) else str(number)
    if number == -(2**63):
        return "(-9223372036854775807L - 1)"
    return str(number) if abs(number) < 2**31 else f"{number}L"


def _print_float(value: float, pack: str) -> str:
    suffix = "f" if pack == "F" else ""
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    if pack == "F":
        value = struct.unpack("f", struct.pack("f", value))[0]
        short = next(t for t in (f"{value:.{d}g}" for d in range(6, 18)) if _as_f32(t) == value)
    else:
        short = repr(value)
    if "." not in short and "e" not in short:
        short += ".0"
    return short + suffix


def _as_f32(text: str) -> float:
    return struct.unpack("f", struct.pack("f", float(text)))[0]
