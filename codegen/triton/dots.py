"""Sums of products as products of tiles: which kernels they are, what their axes do, the statements that compute them.

    y[m, n] = sum(k) x[m, k] * w[n, k]
->
grid m by 128: grid n by 128:
  state s = 0
  lanes k by 64: dot s of x[m, k], w[n, k]
  y[m, n] <- s

Factors that are free of the lanes leave their sum (`products.delay_scales`); all others are part of an operand, and are
computed on its tile before the product: unpacked bits, conversions, the factors of a norm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...ir.errors import ScheduleError
from ...ir.expr import Expr, Load, Op, Rewriter, const, loads_in
from ...ir.index import Axis, axis_coefficient
from ...ir.loops import Equation, Kernel, Statement, Store
from ...ir.scalar import cast, op
from ...ir.tiles import Dot, Let, Loop, Put, State, Update
from ...ir.tiles import Statement as Step
from ...ir.types import BF16, F16, F32, I8, I32, DType
from ..products import Products, delay_scales, find_sums, sum_of
from ..products.find import Sum, extent_of, terms_of
from ..products.join import find_joint
from ..ranges import fits_in
from ..tiling_prepare import join_axes


@dataclass(frozen=True, slots=True)
class Term:
    """A product of one sum: `left` is free of the columns, `right` of the rows."""

    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Dots:
    """The sums of a kernel with the terms of each. `found.outer` are the axes of batches, around rows and columns."""

    found: Products
    terms: tuple[tuple[Term, ...], ...]

    @property
    def rows(self) -> Axis:
        assert self.found.rows is not None
        return self.found.rows

    @property
    def whole(self) -> int:
        """How many values a program keeps for each of its points: sums, and those of the current group."""
        full = [s for s in self.found.sums if {self.rows, self.found.columns} <= set(s.axes)]
        return len(full) + sum(is_grouped(s, self.found) for s in full)

    @property
    def dtypes(self) -> set[DType]:
        """Of the operands that have both rows and columns."""
        return {t.left.dtype for terms in self.terms for t in terms if self.rows in t.left.axes | t.right.axes}


def find_dots(kernel: Kernel) -> Dots | None:
    """The sums of products of a prepared kernel that is nothing else, where each product is one of rows and columns."""
    found = find_sums(replace(kernel, body=tuple(without_quotients(s) for s in kernel.body)))
    if found is None:
        return None
    kernel, sums, stores, main = found
    kept = [a for a in main.axes if extent_of(a) > 1]
    lanes = _choose_lanes(main, kernel)
    pairs = [(r, c) for r in kept for c in kept if r is not c and _separates(sums, r, c)]
    if not pairs or lanes is None:
        return None

    def worth(pair: tuple[Axis, Axis]) -> tuple[int, int, int]:
        rows, columns = pair
        sizes = extent_of(rows), extent_of(columns)
        return min(sizes), max(sizes), sum(axis_coefficient(s.index[-1], columns) == 1 for s in stores)

    rows, columns = max(pairs, key=worth)
    others = [a for a in kept if a not in (rows, columns)]
    joint = find_joint(kernel, main, rows, others) or find_joint(kernel, main, columns, others)
    if joint is not None:
        return find_dots(join_axes(kernel, *joint, digits=True))
    outer = tuple(a for a in main.axes if a not in (rows, columns))
    around = tuple(a for a in main.reduce if a is not lanes)
    products = Products(
        kernel, tuple(sum_of(s, columns) for s in sums), stores, lanes, around, columns, rows, outer, ()
    )  # fmt: skip
    products = delay_scales(products)
    terms = [_terms(s, rows, columns) for s in products.sums]
    known = tuple(t for t in terms if t is not None)
    return Dots(products, known) if len(known) == len(terms) else None


def is_grouped(s: Sum, found: Products) -> bool:
    """True where a scale of each group of the lanes multiplies what the group adds."""
    return s.scale is not None and bool(s.scale.axes & set(found.summed))


def without_quotients(s: Statement) -> Statement:
    """a*b/c -> a*b*(1/c) in sums that round their operands: c is a factor like any other."""
    if not isinstance(s, Equation) or s.state != "sum" or s.operand_dtype in (None, s.dtypes[0]):
        return s

    def factored(e: Expr) -> Expr:
        if not isinstance(e, Op) or e.name not in ("add", "mul", "div") or e.dtype is not F32:
            return e
        a, b = e.args
        if e.name == "div":
            return op("mul", factored(a), op("div", const(1, F32), b))
        return op(e.name, factored(a), factored(b))

    return replace(s, args=(factored(s.args[0]),))


def _choose_lanes(main: Equation, kernel: Kernel) -> Axis | None:
    """The axis of the sum that most operands are dense along, of those the longest."""
    loads = [e for e in loads_in(*main.args) if e.name in kernel.buffers]

    def worth(a: Axis) -> tuple[int, int]:
        return sum(axis_coefficient(e.index[-1], a) == 1 for e in loads), extent_of(a)

    return max((a for a in main.reduce if extent_of(a) > 1), key=worth, default=None)


def _separates(sums: Iterable[Equation], rows: Axis, columns: Axis) -> bool:
    """True where no factor of any product has both axes, and some product has both."""
    terms = [t for s in sums for t in terms_of(s.args[0])]
    return all(not {rows, columns} <= f.axes for t in terms for f in _factors(t))


def _factors(e: Expr) -> list[Expr]:
    return [f for a in e.args for f in _factors(a)] if isinstance(e, Op) and e.name == "mul" else [e]


# --- operands ----------------------------------------------------------------------------------------------------


def _terms(s: Sum, rows: Axis, columns: Axis) -> tuple[Term, ...] | None:
    """The operands of each product, in the type that they are multiplied in; None where there is none for dots."""
    found: list[Term] = []
    for (term,) in s.groups:
        sides = _sides(term, rows, columns)
        if sides is None:
            return None
        if rows in term.axes and columns in term.axes:
            dtype = _operand_type(s, *sides)
            if dtype is None:
                return None
            sides = narrow(sides[0], dtype), narrow(sides[1], dtype)
        elif not {rows, columns} & term.axes or s.dtype not in (F32, I32):
            return None
        found.append(Term(*sides))
    return tuple(found)


def _sides(term: Expr, rows: Axis, columns: Axis) -> tuple[Expr, Expr] | None:
    """(left, right) as the product is written: nothing is multiplied in another order."""
    if columns not in term.axes:
        return term, const(1, term.dtype)
    if rows not in term.axes:
        return const(1, term.dtype), term
    if not (isinstance(term, Op) and term.name == "mul"):
        return None
    a, b = term.args
    if columns not in a.axes and rows not in b.axes:
        return a, b
    return (b, a) if columns not in b.axes and rows not in a.axes else None


def _operand_type(s: Sum, left: Expr, right: Expr) -> DType | None:
    """What tensor cores multiply: the type that the sum names, or the one that both operands are exact in."""
    if s.dtype is I32:
        return I8 if fits_in(left, I8) and fits_in(right, I8) else None
    if s.dtype is not F32:
        return None
    if s.rounds:
        return s.equation.operand_dtype if s.equation.operand_dtype in (BF16, F16) else None
    stored = {e.args[0].dtype if isinstance(e, Op) and e.name == "cast" else e.dtype for e in (left, right)}
    return stored.pop() if len(stored) == 1 and stored <= {BF16, F16} else F32


def narrow(e: Expr, dtype: DType) -> Expr:
    """The operand in a type; without a conversion from that very type."""
    if isinstance(e, Op) and e.name == "cast" and e.args[0].dtype is dtype:
        return e.args[0]
    return cast(e, dtype)


# --- statements --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows and columns of a program, points of the lanes that it multiplies at once."""

    rows: int
    columns: int
    lanes: int


def build_dots(dots: Dots, tile: Tile) -> tuple[Step, ...]:
    """The grid that computes a kernel: batches, rows, columns; the last ones run fastest."""
    if min(tile.rows, tile.columns, tile.lanes) < 16:
        raise ScheduleError("tensor cores multiply tiles of at least 16 points a side", got=tile)
    found = dots.found
    body = [*_sum_all(dots, tile), *_results(found)]
    for axis, size in ((found.columns, tile.columns), (dots.rows, tile.rows), *((a, 1) for a in found.outer[::-1])):
        body = [Loop("grid", axis, tuple(body), size)]
    return tuple(body)


def _sum_all(dots: Dots, tile: Tile) -> list[Step]:
    """The running values, and the loops that add up all products."""
    found = dots.found
    states: list[Step] = []
    parts: list[Step] = []
    products: list[Step] = []
    after: list[Step] = []
    for s, terms in zip(found.sums, dots.terms, strict=True):
        name, grouped = s.name, is_grouped(s, found)
        states.append(State(name, s.dtype, const(0, s.dtype)))
        if grouped:
            assert s.scale is not None
            name = f"{name}_part"
            parts.append(State(name, s.dtype, const(0, s.dtype)))
            scaled = op("mul", Load(name, (), s.dtype), s.scale)
            after.append(Update((s.name,), (op("add", Load(s.name, (), s.dtype), scaled),)))
        products += [Dot(name, t.left, t.right) for t in terms]
    body: list[Step] = [*parts, Loop("lanes", found.lanes, tuple(products), tile.lanes), *after]
    for axis in reversed(found.summed):
        body = [Loop("serial", axis, tuple(body))]
    return [*states, *body]


def _results(found: Products) -> list[Step]:
    """The scales that are left for the end, and what is stored."""
    known = {s.name: s for s in found.sums}
    lets: list[Step] = []
    for s in found.sums:
        if s.scale is not None and not is_grouped(s, found):
            value = op("mul", Load(s.name, (), s.dtype), s.scale)
            lets.append(Let(f"{s.name}_scaled", value))

    def read(e: Load) -> Expr:
        s = known.get(e.name)
        if s is None:
            return e
        scaled = s.scale is not None and not is_grouped(s, found)
        return Load(f"{e.name}_scaled" if scaled else e.name, (), e.dtype)

    rewrite = Rewriter(load=read)
    return [*lets, *(_put(s, rewrite) for s in found.stores)]


def _put(s: Store, rewrite: Rewriter) -> Put:
    return Put(s.buffer, tuple(rewrite.index(i) for i in s.index), rewrite(s.value))
