"""A tile program as phases, one after the other: a grid, whose points are independent, or statements between two.

    grid k in 16: p_all[k] <- ..        phase 0: 16 points, shared by programs or threads
    s := s + p_all[k]                   phase 1: one point, after all of those
    y[0] <- s[]

What one phase leaves for another lies in memory that all of them see: scratch arrays that several touch, and cells for
the values that are named at the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir.expr import Expr, Load, Rewriter, data_in, loads_in
from ..ir.index import ZERO
from ..ir.tiles import Let, Loop, Program, Put, Scratch, Stage, State, Statement, walk_statements
from ..ir.types import DType
from .parts import expressions_of
from .tiling_nest import map_statement


@dataclass(frozen=True, slots=True)
class Phase:
    """Grid loops with a body, or statements at the root that run once."""

    grid: tuple[Loop, ...]
    body: tuple[Statement, ...]


def find_phases(body: Sequence[Statement]) -> tuple[Phase, ...]:
    """Each grid at the root is a phase, and so are the statements between two of them. Empty grids are left out."""
    phases: list[Phase] = []
    rest: list[Statement] = []
    for s in body:
        if not (isinstance(s, Loop) and s.kind == "grid"):
            rest.append(s)
            continue
        if rest:
            phases.append(Phase((), tuple(rest)))
            rest = []
        grid = [s]
        while len(grid[-1].body) == 1 and isinstance(grid[-1].body[0], Loop) and grid[-1].body[0].kind == "grid":
            grid.append(grid[-1].body[0])
        if any(x.axis.extent == 0 for x in grid):
            continue
        phases.append(Phase(tuple(grid), grid[-1].body))
    return (*phases, *([Phase((), tuple(rest))] if rest else []))


def find_owner(phases: Sequence[Phase], array: Scratch) -> Phase | None:
    """The phase that alone uses an array; None where several do."""
    users = [s for s in phases if array.name in names_touched(s.body)]
    return users[0] if len(users) == 1 else None


def passed_on(phases: Sequence[Phase]) -> dict[str, int]:
    """Values that one phase names and another reads, with the number of the phase that does."""
    made: dict[str, int] = {}
    passed: dict[str, int] = {}
    for k, phase in enumerate(phases):
        for name in sorted(names_touched(phase.body)):
            if name in made and made[name] != k:
                passed[name] = made[name]
        made.update(dict.fromkeys(values_bound(phase.body), k))
    return passed


def with_cells(program: Program) -> Program | None:
    """The program in which values that one phase leaves for another pass through arrays of one element; None where
    the bounds of a loop are among them.
    """
    phases = find_phases(program.body)
    passed = passed_on(phases)
    if not passed:
        return program
    types = {n: d for p in phases for n, d in values_bound(p.body).items()}
    body: list[Statement] = []
    for k, phase in enumerate(phases):
        given = {n for n, made in passed.items() if made < k}

        def read(e: Load, given: frozenset[str] = frozenset(given)) -> Expr:
            return Load(f"{e.name}_cell", (ZERO,), e.dtype) if e.name in given else e

        rewrite = Rewriter(load=read)
        kept = [Put(f"{n}_cell", (ZERO,), Load(n, (), types[n])) for n, made in passed.items() if made == k]
        body += [map_statement(s, rewrite) for s in phase.grid[:1] or phase.body] + kept
    cells = tuple(Scratch(f"{n}_cell", types[n], (1,)) for n in passed)
    made = replace(program, scratch=(*program.scratch, *cells), body=tuple(body))
    return None if passed_on(find_phases(made.body)) else made


def names_touched(body: Sequence[Statement]) -> set[str]:
    """The names that statements read or write."""
    names: set[str] = set()
    for s in walk_statements(body):
        names |= {e.name for e in loads_in(*expressions_of(s))}
        if isinstance(s, Put | Stage):
            names.add(s.target)
        if isinstance(s, Put):
            names |= {e.name for i in s.index for d in data_in(i) for e in loads_in(d.value)}
    return names


def values_bound(body: Sequence[Statement]) -> dict[str, DType]:
    """The names that are bound outside of loops, with their types."""
    found: dict[str, DType] = {}
    for s in body:
        if isinstance(s, Let):
            found[s.name] = s.value.dtype
        elif isinstance(s, State):
            found[s.name] = s.dtype
    return found
