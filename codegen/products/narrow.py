"""Sums of narrow products as processors add them: two products of bf16, four of bytes, in each lane at once.

    sum(c:64) f32(x[t, c]) * f32(w[n, c])
 -> sum(c:32) (f32(x[t, 2*c]) * f32(w[n, 2*c])) + (f32(x[t, 2*c + 1]) * f32(w[n, 2*c + 1]))

That is arithmetic like any other: the order of additions changes, and operands are rounded to the type that their
contraction names. Printers see which groups are one instruction (`cpp.printer_dots`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...ir.expr import Expr, Op, Rewriter, const, product_factors
from ...ir.index import Axis, Index, axes_of, axis_coefficient, of_atom
from ...ir.scalar import cast, op
from ...ir.types import BF16, F32, I8, I32, U8, DType
from ..fields import find_field
from ..ranges import value_range
from .bits import find_planes
from .fields import find_byte, find_lookup
from .find import Products, Sum, extent_of, multiplied

Operand = tuple[Expr, ...]
"""One side of the products of a group."""

SHIFT = 128  # makes signed bytes unsigned ones


@dataclass(frozen=True, slots=True)
class Narrow:
    """Products in groups.

    count  products of a group, in neighbouring elements of the operands where `dense` says so
    dense  the lanes before they were cut into groups; None: the products were written out as groups
    whole  operands as they were along `dense`
    """

    found: Products
    count: int = 1
    dense: Axis | None = None
    whole: Mapping[Operand, Expr] = field(default_factory=dict)


def take_together(
    found: Products, lanes: int, pairs: bool, quads: bool, shared: bool, any_signs: bool = False
) -> Narrow:  # fmt: skip
    """The products in groups for instructions that add pairs of bf16, or quads of bytes; as they are where none does.

    `shared`: operands that are computed are kept for several tiles. Others are computed where they are used, which is
    slow for points apart. `any_signs`: bytes are multiplied whatever their signs; else signed ones are shifted.
    """
    kinds = {s.dtype for s in found.sums}
    count = 2 if pairs and kinds == {F32} else 4 if quads and kinds == {I32} else 1
    sums = [_narrow_sum(s, found.columns, any_signs) for s in found.sums] if count > 1 else []
    known = [s for s in sums if s is not None]
    if count == 1 or len(known) < len(sums):
        return Narrow(found)
    if not shared and count == 2 and all(_has_fields(s, found.lanes) for s in known):
        spread = _spread(replace(found, sums=tuple(known)))
        if extent_of(spread.lanes) >= lanes:
            return Narrow(spread, count)
    if all(len(s.groups) % count == 0 for s in known):
        return Narrow(replace(found, sums=tuple(_by_terms(s, count) for s in known)), count)
    operands = [f for s in known for (t,) in s.groups for f in operands_of(t)]
    plain = all(is_stored_narrow(f) or find_byte(f) or find_planes(f) for f in operands if found.columns in f.axes)
    extent = extent_of(found.lanes)
    left = extent % count
    if not (plain or shared) or extent < 2 * count or (left and found.summed):
        return Narrow(found)
    halves = Axis(f"{found.lanes.name}_{count}", extent // count)
    dense = Axis(f"{found.lanes.name}_whole", extent - left) if left else found.lanes
    at = [Rewriter({found.lanes: of_atom(halves) * count + i}) for i in range(count)]
    whole: dict[Operand, Expr] = {}
    for s in known:
        for (term,) in s.groups:
            whole.update(
                {tuple(r(f) for r in at): Rewriter({found.lanes: of_atom(dense)})(f) for f in operands_of(term)}
            )
    halved = tuple(
        replace(s, groups=tuple(tuple(r(t) for r in at) for (t,) in s.groups), rest=_at_end(s, found, left))
        for s in known
    )
    return Narrow(replace(found, sums=halved, lanes=halves), count, dense, whole)


def _at_end(s: Sum, found: Products, count: int) -> tuple[Expr, ...]:
    """The products at the last points of the lanes."""
    last = extent_of(found.lanes)
    points = [Rewriter({found.lanes: Index((), k)}) for k in range(last - count, last)]
    terms = [_unshifted(t, s.shift) for (t,) in s.groups]
    scale = [] if s.scale is None else [s.scale]
    return tuple(multiplied([*operands_of(at(t)), *scale]) for at in points for t in terms)


def _unshifted(term: Expr, shift: int) -> Expr:
    a, b = operands_of(term)
    return op("mul", a.args[0], b) if shift and isinstance(a, Op) else term


def _has_fields(s: Sum, lanes: Axis) -> bool:
    """True where the columns' sides are functions of a few bits of the same byte, which is dense along the lanes."""
    sides = [operands_of(t)[1] for (t,) in s.groups]
    found = [find_lookup(e) for e in sides]
    fields = [None if d is None else find_field(d.digit) for d in found]
    bytes_ = {f.byte for f in fields if f is not None}
    if len(sides) < 2 or len(bytes_) != 1 or None in fields:
        return False
    (byte,) = bytes_
    if any(d is not None and d.base is not None and lanes in axes_of(d.base) for d in found):
        return False
    return byte.guard is None and axis_coefficient(byte.index[-1], lanes) == 1


def _spread(found: Products) -> Products:
    """Pairs of what stands two bytes apart: of words of memory, both halves are shifted at once."""
    lanes = Axis(f"{found.lanes.name}_4", extent_of(found.lanes) // 4)
    if extent_of(found.lanes) % 4:
        return replace(found, lanes=Axis(lanes.name, 0))
    pairs = [[Rewriter({found.lanes: of_atom(lanes) * 4 + (2 * h + b)}) for h in (0, 1)] for b in (0, 1)]
    sums = tuple(
        replace(s, groups=tuple(tuple(at(t) for at in pair) for pair in pairs for (t,) in s.groups)) for s in found.sums
    )
    return replace(found, sums=sums, lanes=lanes)


def operands_of(term: Expr) -> tuple[Expr, Expr]:
    """The two sides of a product of a group: that of the rows, that of the columns."""
    assert isinstance(term, Op) and term.name == "mul"
    return term.args[0], term.args[1]


def narrow_type(side: Operand) -> DType:
    """The type that holds what one side of a group is: bf16, or the bytes that all its values fit."""
    if side[0].dtype is F32:
        return BF16
    return next((d for d in (U8, I8) if all(_fits(e, d) for e in side)), I32)


def stored_part(e: Expr) -> Expr:
    """What is loaded for a side of a product: without its conversion, and without what makes it unsigned."""
    if isinstance(e, Op) and e.name == "add" and e.args[1] is const(SHIFT, I32):
        e = e.args[0]
    return e.args[0] if isinstance(e, Op) and e.name == "cast" else e


def is_stored_narrow(e: Expr) -> bool:
    """True for a conversion of what a narrow buffer holds."""
    return (
        isinstance(e, Op) and e.name == "cast" and e.args[0].dtype in (BF16, I8, U8) and not isinstance(e.args[0], Op)
    )


def _by_terms(s: Sum, count: int) -> Sum:
    terms = [t for (t,) in s.groups]
    return replace(s, groups=tuple(tuple(terms[k : k + count]) for k in range(0, len(terms), count)))


def _narrow_sum(s: Sum, columns: Axis, any_signs: bool) -> Sum | None:
    """The sum with operands that are narrow values; None where that is not what it is."""
    sides = [_sides(t, columns) for (t,) in s.groups]
    if any(p is None for p in sides):
        return None
    pairs = [p for p in sides if p is not None]
    if s.dtype is F32:
        rounds = s.equation.operand_dtype is BF16
        if not all(rounds or is_stored_narrow(f) for p in pairs for f in p):
            return None
        return replace(s, groups=tuple((op("mul", _in_bf16(a), _in_bf16(b)),) for a, b in pairs))
    if not all(_fits(f, U8) or _fits(f, I8) for p in pairs for f in p):
        return None
    if any_signs or all(_fits(a, U8) != _fits(b, U8) for a, b in pairs):
        return replace(s, groups=tuple((op("mul", a, b),) for a, b in pairs))
    if not all(_fits(f, I8) for p in pairs for f in p):
        return None
    shifted = tuple((op("mul", op("add", a, const(SHIFT, I32)), b),) for a, b in pairs)
    return replace(s, groups=shifted, shift=SHIFT)


def _sides(term: Expr, columns: Axis) -> tuple[Expr, Expr] | None:
    """The factors of a product that are free of the columns, and those that are not."""
    factors = product_factors(term)
    sides = [f for f in factors if columns not in f.axes], [f for f in factors if columns in f.axes]
    if all(sides):
        return multiplied(sides[0]), multiplied(sides[1])
    return (factors[0], factors[1]) if len(factors) == 2 else None


def _in_bf16(e: Expr) -> Expr:
    return e if is_stored_narrow(e) and isinstance(e, Op) and e.args[0].dtype is BF16 else cast(cast(e, BF16), F32)


def _fits(e: Expr, dtype: DType) -> bool:
    found, (low, high) = value_range(e), dtype.limits
    return found is not None and low <= found[0] and found[1] <= high
