"""Selects whose branches are one function of the point that chooses among them, as that function.

    where(d < 1, b & 1, where(d < 2, b >> 1 & 1, .. b >> 7))    d:8    ->    b >> d & 1

That is what a stack of the fields of a byte becomes; loops are unrolled, such a chain is rerolled.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.expr import TRUE, Const, Expr, Iota, Load, Op, Rewriter, const
from ..ir.index import Axis, as_index, of_atom, scale
from ..ir.loops import Equation, Kernel, Statement, Store
from ..ir.scalar import cast, iota, op
from ..ir.simplify import exact
from ..ir.types import I32, U8, DType
from .fields import Field, find_field

BYTE = 8  # bits
FEWEST = 4  # points: selects among so few are better written out


def reroll(kernel: Kernel) -> Kernel:
    """The kernel with selects among the fields of a byte as shifts by so many bits."""
    rewrite = Reroller()
    body = tuple(_rerolled(s, rewrite) for s in kernel.body)
    return replace(kernel, body=body) if body != kernel.body else kernel


class Reroller(Rewriter):
    """Rewrites such selects wherever they stand, in the indices of loads too."""

    def _rewrite(self, e: Expr) -> Expr:
        found = _as_shift(e) if isinstance(e, Op) and e.name == "where" else None
        return super()._rewrite(e) if found is None else found


def _rerolled(s: Statement, rewrite: Rewriter) -> Statement:
    if isinstance(s, Store):
        return replace(s, value=rewrite(s.value))
    return replace(s, args=tuple(map(rewrite, s.args))) if isinstance(s, Equation) else s


def _as_shift(e: Op) -> Expr | None:
    """where(d < 1, field 0, where(d < 2, field 1, ..)) of one byte as byte >> d * bits & mask."""
    axis = _chosen_by(e, 1)
    if axis is None or not isinstance(axis.extent, int) or axis.extent <= FEWEST:
        return None
    branches: list[Expr] = []
    rest: Expr = e
    for k in range(1, axis.extent):
        if not isinstance(rest, Op) or _chosen_by(rest, k) is not axis:
            return None
        branches.append(rest.args[1])
        rest = rest.args[2]
    values, dtypes = _uncast([*branches, rest])
    fields = [find_field(v) for v in values]
    first = fields[0]
    if first is None or first.bits * axis.extent > BYTE:
        return None
    for k, f in enumerate(fields):
        if f is None or not _is_field(f, first, k * first.bits) or not _holds(f.byte.guard, axis, k):
            return None
    byte = Load(first.byte.name, first.byte.index, U8)
    shift = cast(iota(scale(of_atom(axis), first.bits)), I32)
    mask = const((1 << first.bits) - 1, I32)
    found: Expr = op("and", op("shr", cast(byte, I32), shift), mask)
    for dtype in dtypes:
        found = cast(found, dtype)
    return found


def _uncast(values: list[Expr]) -> tuple[list[Expr], list[DType]]:
    """The integers that all values are conversions of, and the types through which those go."""
    dtypes: list[DType] = [values[0].dtype]
    while all(isinstance(v, Op) and v.name == "cast" and v.dtype.is_float for v in values):
        values = [v.args[0] for v in values if isinstance(v, Op)]
        if len({v.dtype for v in values}) > 1:
            break
        dtypes.insert(0, values[0].dtype)
    return values, dtypes


def _chosen_by(e: Op, k: int) -> Axis | None:
    """The axis whose points below `k` a select is about."""
    condition = e.args[0]
    if e.name != "where" or not isinstance(condition, Op) or condition.name != "lt":
        return None
    at, limit = condition.args
    if not isinstance(at, Iota) or not isinstance(limit, Const) or limit.value != k:
        return None
    return at.index.single_axis


def _is_field(f: Field, first: Field, low: int) -> bool:
    same = f.byte.name == first.byte.name and f.byte.index == first.byte.index
    return same and f.low == low and f.bits == first.bits


def _holds(guard: Expr | None, axis: Axis, k: int) -> bool:
    """True for a load whose guard lets it pass at that point of the axis."""
    return guard is None or (guard.axes == {axis} and Rewriter({axis: as_index(k)}, rebuild=exact)(guard) is TRUE)
