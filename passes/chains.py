"""Chains of reductions over one axis: which of them wait for another.

    m[t] = max(c) x[t, c];   l[t] = sum(c) exp(x[t, c] - m[t])         l waits for m: two passes over c

What the laws of long rows share: the length from which a row is long, who reads whom, and fresh names.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..ir.expr import Expr, Load, names_in
from ..ir.index import Axis, of_atom
from ..ir.loops import Equation, Kernel, Statement, statement_expressions
from ..ir.types import Dim, is_nonnegative, plus, product

RESIDENT = 1 << 16  # elements of a row that a core keeps close while it passes over it again


def is_long(axes: tuple[Axis, ...], resident: int) -> bool:
    """True where the axes surely have more points than stay close; so they are not empty either."""
    if any(a.is_ragged for a in axes):
        return False
    extent: Dim = product(a.extent for a in axes)
    return is_nonnegative(plus(extent, -resident - 1))


def is_made(kernel: Kernel, values: Iterable[Expr], over: tuple[Axis, ...]) -> bool:
    """True where values read what the kernel sums up for each point of the axes `over`: a second pass over those would
    sum it again.
    """
    front, seen = [n for v in values for n in sorted(names_in(v))], set[str]()
    while front:
        name = front.pop()
        equation = kernel.equations.get(name)
        if name in seen or equation is None or not set(equation.axes) & set(over):
            continue
        if equation.state:
            return True
        seen.add(name)
        front += sorted(frozenset().union(*(names_in(a) for a in equation.args)))
    return False


def reductions_before(kernel: Kernel, values: Iterable[Expr], over: tuple[Axis, ...]) -> list[Equation]:
    """The reductions over some of the axes `over` that the values wait for, through pointwise equations too."""
    found: dict[Equation, None] = {}
    seen: set[str] = set()
    front = [n for v in values for n in sorted(names_in(v))]
    while front:
        name = front.pop(0)
        equation = kernel.equations.get(name)
        if name in seen or equation is None:
            continue
        seen.add(name)
        if set(equation.reduce) & set(over):
            found[equation] = None
        else:
            front += sorted(frozenset().union(*(names_in(a) for a in equation.args)))
    return list(found)


def read_own(equation: Equation, component: int = 0) -> Load:
    """The load of an equation's result at its own axes."""
    own = tuple(of_atom(a) for a in equation.axes)
    return Load(equation.names[component], own, equation.dtypes[component])


def fresh_name(kernel: Kernel, wish: str) -> str:
    """`wish`, or `wish` with a number where the kernel has that name."""
    taken = {*kernel.buffers, *kernel.equations, *(a.name for a in kernel.axes)}
    if wish not in taken:
        return wish
    return next(name for k in range(2, len(taken) + 3) if (name := f"{wish}{k}") not in taken)


def replaced(body: Iterable[Statement], changes: dict[Statement, tuple[Statement, ...]]) -> tuple[Statement, ...]:
    """The statements, some of them with others in their place."""
    return tuple(new for s in body for new in changes.get(s, (s,)))


def readers_of(kernel: Kernel, names: Iterable[str]) -> list[Statement]:
    """The statements that load one of the names."""
    wanted = set(names)
    return [s for s in kernel.body if any(wanted & names_in(e) for e in statement_expressions(s))]
