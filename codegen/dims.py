"""Sizes as integer expressions of the languages that targets print: dynamic ones are formulas over named sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy

from ..ir.errors import LoweringError
from ..ir.types import Dim


@dataclass(frozen=True, slots=True)
class Style:
    """How a language writes what sizes are made of. Every division is of non-negative numbers."""

    language: str
    divide: str
    extremum: Callable[[str, str, str], str]  # of "<" or ">" and two operands


CPP = Style("C++", "/", lambda sign, a, b: f"({a} {sign} {b} ? {a} : {b})")
PYTHON = Style("Python", "//", lambda sign, a, b: f"{'max' if sign == '>' else 'min'}({a}, {b})")


def print_dim(dim: Dim, style: Style = CPP) -> str:
    """A size as an expression; raises LoweringError for what the language has no form for."""
    if isinstance(dim, int):
        return str(dim)
    if dim.is_Integer:
        return str(int(dim))
    if isinstance(dim, sympy.Symbol):
        return dim.name
    if isinstance(dim, sympy.Add):
        return "(" + " + ".join(print_dim(a, style) for a in _ordered(dim)) + ")"
    if isinstance(dim, sympy.Mul):
        return _print_product(dim, style)
    if isinstance(dim, sympy.Pow) and dim.exp.is_Integer and int(dim.exp) > 0:
        return "(" + " * ".join([print_dim(dim.base, style)] * int(dim.exp)) + ")"
    if isinstance(dim, sympy.floor):
        numerator, denominator = sympy.fraction(sympy.together(dim.args[0]))
        return f"({print_dim(sympy.expand(numerator), style)} {style.divide} {print_dim(denominator, style)})"
    if isinstance(dim, sympy.Mod):
        whole, part = _operands(dim)
        return f"({print_dim(whole, style)} % {print_dim(part, style)})"
    if isinstance(dim, sympy.Max | sympy.Min):
        return _print_extremum(dim, style)
    hint = "report it: the op should be left to ATen"
    raise LoweringError(f"a size that {style.language} has no form for", got=dim, hint=hint)


def _operands(dim: sympy.Expr) -> tuple[Any, ...]:
    return dim.args


def _ordered(dim: sympy.Expr) -> list[Any]:
    """The terms of a sum, constants last."""
    return sorted(dim.args, key=lambda a: (bool(a.is_number), str(a)))


def _print_product(dim: sympy.Mul, style: Style) -> str:
    numerator, denominator = sympy.fraction(dim)
    if denominator != 1:
        return f"({print_dim(numerator, style)} {style.divide} {print_dim(denominator, style)})"
    factors = sorted(dim.args, key=lambda a: (not a.is_number, str(a)))
    return "(" + " * ".join(print_dim(a, style) for a in factors) + ")"


def _print_extremum(dim: sympy.Expr, style: Style) -> str:
    sign = ">" if isinstance(dim, sympy.Max) else "<"
    parts = [print_dim(a, style) for a in _operands(dim)]
    text = parts[0]
    for part in parts[1:]:
        text = style.extremum(sign, text, part)
    return text
