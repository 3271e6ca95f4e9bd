"""Reading dynamic sizes from the inputs of a call.

    inputs  arg0: size s0*2, x: f32[s0*2, s1]     ->     s0 = arg0//2;  s1 = x.shape[1]

torch hands over most sizes as integers; those that it does not are read from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy

from ...ir.graph import Node
from ...ir.types import Dim
from .dim_text import dim_text


def solve_sizes(inputs: Sequence[Node], variable: Callable[[str], str]) -> dict[str, str]:
    """A Python expression for each symbol, in an order in which each needs only inputs and those before it.

    Integers among the inputs come first, since reading one is free. What no input determines is absent.
    """
    known: dict[str, str] = {}
    facts = [(n.attr("dim"), variable(n.name)) for n in inputs if n.op == "size"]
    for n in inputs:
        facts += [(d, f"{variable(n.name)}.shape[{k}]") for k, d in enumerate(n.shape)]
    facts = [(d, text) for d, text in facts if not isinstance(d, int)]
    progress = True
    while progress:
        progress = False
        for dim, text in facts:
            solved = _solve(dim, text, known)
            if solved is not None:
                known[solved[0]] = solved[1]
                progress = True
    return known


def _solve(dim: Any, text: str, known: dict[str, str]) -> tuple[str, str] | None:
    """The one unknown symbol of `dim` where `dim` is linear in it."""
    unknown = [s for s in dim.free_symbols if s.name not in known]
    if len(unknown) != 1:
        return None
    s = unknown[0]
    factor = dim.coeff(s, 1)
    rest: Any = sympy.expand(dim - factor * s)
    if factor == 0 or rest.has(s) or factor.has(s):
        return None
    value = text if rest == 0 else f"({text} - {dim_text(_plain(rest))})"
    if factor != 1:
        value = f"{value}//{dim_text(_plain(factor))}" if factor != -1 else f"-{value}"
    return s.name, value.removeprefix("(").removesuffix(")") if value.count("(") == 1 and factor == 1 else value


def _plain(e: Any) -> Dim:
    return int(e) if e.is_Integer else e
