"""Element types and dimensions: the two facts that every IR level shares.

A dimension is a plain `int`, or a sympy expression over named positive integer symbols where the size is dynamic.
Everything here has an integer fast path, because static graphs must not pay for sympy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy

Dim = int | sympy.Expr


@dataclass(frozen=True, eq=False, slots=True)
class DType:
    """An element type, one object each. `compute` is the type that arithmetic is done in (f32 for bf16, i32 for i8)."""

    name: str
    itemsize: int
    kind: str  # "b" bool, "u" unsigned, "i" signed, "f" floating
    compute_name: str
    epsilon: float = 0.0  # distance from 1 to the next value; 0 for the exact kinds

    @property
    def compute(self) -> DType:
        return DTYPES[self.compute_name]

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "ui"

    @property
    def limits(self) -> tuple[int, int]:
        """The least and greatest value of an integer type (bool counts as 0..1)."""
        if self.kind == "b":
            return 0, 1
        if self.kind == "u":
            return 0, 2 ** (8 * self.itemsize) - 1
        return -(2 ** (8 * self.itemsize - 1)), 2 ** (8 * self.itemsize - 1) - 1

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


BOOL = DType("bool", 1, "b", "bool")
U8 = DType("u8", 1, "u", "i32")
I8 = DType("i8", 1, "i", "i32")
I16 = DType("i16", 2, "i", "i32")
I32 = DType("i32", 4, "i", "i32")
I64 = DType("i64", 8, "i", "i64")
F16 = DType("f16", 2, "f", "f32", 2.0**-10)
BF16 = DType("bf16", 2, "f", "f32", 2.0**-7)
F32 = DType("f32", 4, "f", "f32", 2.0**-23)
F64 = DType("f64", 8, "f", "f64", 2.0**-52)

DTYPES: dict[str, DType] = {d.name: d for d in (BOOL, U8, I8, I16, I32, I64, F16, BF16, F32, F64)}


def symbol(name: str) -> sympy.Symbol:
    """A dynamic size. Sizes 0 and 1 are specialised by torch, so a symbol stands for an integer of at least 2."""
    return sympy.Symbol(name, integer=True, positive=True)


def as_dim(value: Dim) -> Dim:
    """The plain integer where `value` is one, else the expression itself."""
    if isinstance(value, int):
        return value
    return int(value) if value.is_Integer else value


def is_static(dims: Iterable[Dim]) -> bool:
    return all(isinstance(d, int) for d in dims)


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = multiply(total, d)
    return total


def multiply(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int):
        if isinstance(b, int):
            return a * b
        if a == 1:
            return b
    elif isinstance(b, int) and b == 1:
        return a
    return _multiply(a, b)


@lru_cache(maxsize=65536)
def _multiply(a: Dim, b: Dim) -> Dim:
    return as_dim(sympy.expand(a * b))


def plus(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return _plus(a, b)


@lru_cache(maxsize=65536)
def _plus(a: Dim, b: Dim) -> Dim:
    return as_dim(sympy.expand(a + b))


def divide_exactly(a: Dim, b: Dim) -> Dim | None:
    """a / b when b divides a for every value of the symbols, else None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    return None if b == 0 else _divide_exactly(a, b)


@lru_cache(maxsize=65536)
def _divide_exactly(a: Dim, b: Dim) -> Dim | None:
    quotient = sympy.cancel(sympy.sympify(a) / b)
    numerator, denominator = quotient.as_numer_denom()
    if denominator == 1 and all(c.is_integer for c in numerator.as_coefficients_dict().values()):
        return as_dim(sympy.expand(numerator))
    return None


def is_nonnegative(value: Dim) -> bool:
    """True when `value` >= 0 for all sizes of at least 2; False means "not proved"."""
    if isinstance(value, int):
        return value >= 0
    return _is_nonnegative(value)


@lru_cache(maxsize=65536)
def _is_nonnegative(value: sympy.Expr) -> bool:
    shifted = sympy.expand(value.subs({s: s + 2 for s in value.atoms(sympy.Symbol)}))
    try:
        coefficients = (
            sympy.Poly(shifted, *sorted(shifted.free_symbols, key=str)).coeffs() if shifted.free_symbols else [shifted]
        )
    except sympy.PolynomialError:
        return False
    return all(c.is_number and c >= 0 for c in coefficients)


def contiguous_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Row-major strides, in elements; a size of 0 counts as 1, as torch does."""
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        step = multiply(step, d if d != 0 else 1)
    return tuple(reversed(strides))


def symbols_of(dims: Iterable[Dim]) -> tuple[str, ...]:
    names = {s.name for d in dims if not isinstance(d, int) for s in d.free_symbols}  # type: ignore[attr-defined]
    return tuple(sorted(names))


def evaluate(dim: Dim, sizes: dict[str, int]) -> int:
    """The integer that `dim` is under concrete sizes of its symbols."""
    if isinstance(dim, int):
        return dim
    return int(dim.subs({s: sizes[s.name] for s in dim.free_symbols}))  # type: ignore[attr-defined]
