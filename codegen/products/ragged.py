"""Rows in groups, whose ends are data: each group has a matrix of its own.

    y[t, n] = sum(g, k) where(off[g - 1] <= t & t < off[g], x[t, k] * w[g, n, k], 0)
->
serial g: let first = off[g - 1]; let count = off[g] - first
  y[t, n] = sum(k) x[t, k] * w[g, n, k]      with t in first..first + count
y[t, n] = 0                                  with t in off[last]..

The rows of a group run like those whose count is known at run time only (`dynamic`). Matrices of groups without rows
are not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...ir.expr import Const, Expr, Load, Op, Rewriter, const
from ...ir.index import Axis, Data, Index, as_index, of_atom
from ...ir.loops import Equation, Kernel, Statement
from ...ir.scalar import iota, op
from ...ir.tiles import Let, Loop, Put
from ...ir.tiles import Statement as Step
from ...ir.types import BOOL, I64, Dim, plus
from ..tiling_keep import recompute
from ..tiling_prepare import rename_axes, rewrite_statement
from .counts import Span

if TYPE_CHECKING:
    from .find import Products

BLOCK = 64  # columns of rows of no group that are stored at once


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows (as an axis between data) in the groups of `axis`; `first` and `last` bound a group, of `extent` rows at
    most.
    """

    axis: Axis
    rows: Axis
    first: Expr
    last: Expr

    @property
    def span(self) -> Span:
        """The rows of the current group. Bounds that are no bounds leave it empty."""
        extent = self.rows.extent
        first, count = _names(self.rows)
        begin, end = Load(first, (), I64), self.last
        inside = op("le", end, iota(Index((), extent)))
        lets = [
            Let(first, self.first),
            Let(count, op("where", inside, op("sub", end, begin), const(-1, I64))),
        ]
        return Span(self.rows, _data(first, extent), _data(count, extent), lets)

    def over_groups(self, body: Iterable[Step], lets: Iterable[Let]) -> list[Step]:
        return [Loop("serial", self.axis, (*lets, *body))]


def find_ragged(kernel: Kernel) -> tuple[Kernel, Ragged] | None:
    """The kernel of one group, and its rows; None where sums are none of products in groups."""
    kernel = recompute(kernel, lambda e: True)
    sums = [s for s in kernel.body if isinstance(s, Equation)]
    conditions = {_condition(s) for s in sums}
    if len(conditions) != 1 or None in conditions:
        return None
    (condition,) = conditions
    assert condition is not None
    found = next((r for s in sums for r in _read_bounds(condition, s) if r is not None), None)
    if found is None:
        return None
    rows, group = found.rows, found.axis
    own = _between(rows)
    rewrite = Rewriter({rows: of_atom(own)})
    body = [rename_axes(rewrite_statement(_of_group(s, group), rewrite), {rows: own}) for s in kernel.body]
    return replace(kernel, body=tuple(body)), replace(found, rows=own)


def _between(rows: Axis) -> Axis:
    """The rows of the current group, as it is named in a program."""
    first, count = (Load(name, (), I64) for name in _names(rows))
    return Axis(rows.name, rows.extent, first, op("add", first, count))


def _names(rows: Axis) -> tuple[str, str]:
    return f"{rows.name}_first", f"{rows.name}_count"


def _data(name: str, most: Dim) -> Index:
    return of_atom(Data(Load(name, (), I64), plus(most, 1), wrap=False))


# --- conditions --------------------------------------------------------------------------------------------------


def _condition(s: Equation) -> Expr | None:
    """Where the terms of a sum are not 0."""
    e = s.args[0] if s.state == "sum" and not s.scan else None
    chosen = isinstance(e, Op) and e.name == "where" and isinstance(e.args[2], Const) and e.args[2].value == 0
    return e.args[0] if chosen and isinstance(e, Op) else None


def _of_group(s: Statement, group: Axis) -> Statement:
    """A sum for one group, without its condition."""
    if not isinstance(s, Equation):
        return s
    value = s.args[0]
    assert isinstance(value, Op)
    return replace(s, args=(value.args[1],), reduce=tuple(a for a in s.reduce if a is not group))


def _read_bounds(condition: Expr, s: Equation) -> Iterable[Ragged | None]:
    """The groups whose bounds a condition is, of each pair of a kept axis and a summed one."""
    parts = [_compared(e) for e in _conjuncts(condition)]
    if len(parts) != 2 or None in parts:
        return
    for rows in s.axes:
        for group in s.reduce:
            yield _match([p for p in parts if p is not None], rows, group)


def _match(parts: list[tuple[str, Expr, Expr]], rows: Axis, group: Axis) -> Ragged | None:
    """first <= row and row < last, where each group starts where the one before it ends."""
    row = iota(rows)
    last = next((b for sign, a, b in parts if sign == "lt" and a is row), None)
    first = next((a for sign, a, b in parts if sign == "le" and b is row), None)
    if first is None or last is None or last.axes != {group} or not isinstance(group.extent, int):
        return None
    before = Rewriter({group: of_atom(group) - 1})(last)
    return Ragged(group, rows, first, last) if _without_guard(first, group) is before else None


def _without_guard(e: Expr, group: Axis) -> Expr:
    """What is read for all groups but the first one, for which it is 0."""
    later = op("ge", iota(group), const(1, I64))
    return Rewriter(load=lambda x: Load(x.name, x.index, x.dtype) if x.guard is later else x)(e)


def _conjuncts(e: Expr) -> list[Expr]:
    if isinstance(e, Op) and e.name == "and" and e.dtype is BOOL:
        return [c for a in e.args for c in _conjuncts(a)]
    return [e]


def _compared(e: Expr) -> tuple[str, Expr, Expr] | None:
    """A comparison by "lt" or "le"."""
    if not isinstance(e, Op) or e.name not in ("lt", "le", "gt", "ge"):
        return None
    a, b = e.args
    return (e.name, a, b) if e.name in ("lt", "le") else (e.name.replace("g", "l"), b, a)


# --- rows of no group --------------------------------------------------------------------------------------------


def store_rest(found: Products, lanes: int) -> list[Step]:
    """What the stores are where all sums are 0: for rows behind the last group."""
    ragged, columns = found.ragged, found.columns
    if ragged is None:
        return []
    names = {s.name for s in found.sums}
    groups, count = ragged.axis.extent, columns.extent
    assert isinstance(groups, int) and isinstance(count, int)
    end = f"{ragged.rows.name}_end"
    rows = Axis(ragged.rows.name, ragged.rows.extent, Load(end, (), I64))
    zero = Rewriter({ragged.rows: of_atom(rows)}, lambda e: const(0, e.dtype) if e.name in names else e)
    puts = tuple(Put(s.buffer, tuple(zero.index(i) for i in s.index), zero(s.value)) for s in found.stores)
    blocks = Axis(f"{columns.name}_b", -(-count // BLOCK))
    begin = of_atom(blocks) * BLOCK
    loop = Loop("serial", rows, (Loop("lanes", columns, puts, lanes, begin, begin + BLOCK),))
    last = Rewriter({ragged.axis: as_index(groups - 1)})(ragged.last)
    body: Step = Loop("grid", blocks, (Let(end, last), loop))
    for axis in reversed(found.outer):
        body = Loop("grid", axis, (body,))
    return [body]
