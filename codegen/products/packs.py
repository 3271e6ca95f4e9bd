"""Operands that are computed once, into scratch arrays in the nearest caches, because several tiles use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import Const, Expr, Load, Op, Rewriter, loads_in
from ...ir.index import Axis, Index, as_index, axis_coefficient, of_atom
from ...ir.scalar import cast, op
from ...ir.tiles import Let, Loop, Put, Scratch, Statement
from ...ir.types import Dim, DType
from .bits import find_planes
from .blocks import Blocks
from .fields import find_byte
from .find import Products, Sum, extent_of
from .narrow import Operand, narrow_type, operands_of, stored_part

MANY_COLUMNS = 64  # fewer do not pay for an array of the rows' operands


@dataclass(frozen=True, slots=True)
class Packed:
    """An operand that is computed into a scratch array: of one tile of columns, or of all rows (`axes`).

    count  products of a group, whose operands are neighbours in the array
    """

    array: str
    dtype: DType
    columns: bool
    axes: tuple[Axis, ...]
    count: int = 1


class OperandPacks(Blocks):
    """The operands of products, where they are kept and how they are read.

    width      columns of a tile       scratch  the arrays that were made, by their names
    is_shared  several tiles use the operands of a column
    part       the end of the names of the arrays of the current part of the kernel; suffix: of all of its parts
    hoists     the rows' operands are computed before everything else, for all parts
    """

    width: int
    is_shared: bool
    part: str
    suffix: str
    hoists: bool
    scratch: dict[str, Scratch]
    packed: dict[Operand, Packed]

    def _find_packed(self) -> dict[Operand, Packed]:
        """The operands that are worth a scratch array."""
        f = self.found
        small = self._small_axes
        found: dict[Operand, Packed] = {}
        for side in dict.fromkeys(side for s in f.sums for group in s.groups for side in self.sides(group)):
            name, axes = f"pack{len(found)}", frozenset[Axis]().union(*(e.axes for e in side))
            if f.lanes not in axes or self._is_plain(side):
                continue
            dtype = side[0].dtype if len(side) == 1 else narrow_type(side)
            if f.columns in axes:
                if self.is_shared and not axes.intersection(small):
                    found[side] = Packed(name, dtype, True, (), len(side))
            elif self._is_worth_packing(side):
                found[side] = Packed(name, dtype, False, tuple(a for a in small if a in axes), len(side))
        return found

    def _is_worth_packing(self, side: Operand) -> bool:
        """True for an operand of the rows that many columns share, or that is slow to read."""
        first, *others = side
        many = extent_of(self.found.columns) >= MANY_COLUMNS
        return many and (self.is_shared or bool(others) or self._leaps(first))

    def sides(self, group: Sequence[Expr]) -> list[Operand]:
        """The operands of a group of products."""
        if len(group) == 1:
            return [(e,) for e in self._operands_of(group[0])]
        return list(zip(*(operands_of(t) for t in group), strict=True))

    def _is_plain(self, side: Operand) -> bool:
        """True for what a load alone gives, as fast as it would be from a scratch array."""
        parts = [stored_part(e) for e in side] if len(side) > 1 else list(side)
        loads = [e for e in parts if isinstance(e, Load) and e.guard is None]
        if len(loads) < len(side) or axis_coefficient(loads[0].index[-1], self.found.lanes) != len(side):
            return False
        return all(are_apart(loads[0], e, k) for k, e in enumerate(loads))

    def _leaps(self, e: Expr) -> bool:
        """True where neighbours of the lanes lie apart in memory."""
        lanes = self.found.lanes
        return any(lanes in x.axes and axis_coefficient(x.index[-1], lanes) != 1 for x in loads_in(e))

    def _operands_of(self, value: Expr) -> list[Expr]:
        return split_sides(self.found, value)

    def _product(self, value: Expr, at: dict[Axis, Index], j: int, lets: dict[Expr, Let]) -> Expr:
        """A product with its operands named: one that several sums share is computed once."""
        if isinstance(value, Op) and value.name == "mul" and len(self._operands_of(value)) > 1:
            return op("mul", *(self._product(a, at, j, lets) for a in value.args))
        packed = self.packed.get((value,))
        placed = Rewriter(at)(value) if packed is None else self._read_packed(packed, at, j)
        if isinstance(placed, Const):
            return placed
        if placed not in lets:
            lets[placed] = Let(f"f{len(lets)}", placed)
        return Load(lets[placed].name, (), placed.dtype)

    def group(self, group: Sequence[Expr], at: dict[Axis, Index], j: int, lets: dict[Expr, Let]) -> Expr:
        """The products of a group, added up."""
        if len(group) == 1:
            return self._product(group[0], at, j, lets)
        sides = [self.side(side, at, j) for side in self.sides(group)]
        return add_up([op("mul", a, b) for a, b in zip(*sides, strict=True)])

    def side(self, side: Operand, at: dict[Axis, Index], j: int) -> list[Expr]:
        packed = self.packed.get(side)
        if packed is None:
            return [Rewriter(at)(e) for e in side]
        return [cast(self._read_packed(packed, at, j, k), side[k].dtype) for k in range(len(side))]

    def _read_packed(self, packed: Packed, at: dict[Axis, Index], j: int | Index, k: int = 0) -> Load:
        index = (*self._own_place(packed, at, j), *self._summed_place(packed.count, k))
        return Load(self._array_name(packed), index, packed.dtype)

    def _own_place(self, packed: Packed, at: dict[Axis, Index], j: int | Index) -> tuple[Index, ...]:
        if packed.columns:
            return (as_index(j),)
        return tuple(self._local(a, at.get(a, of_atom(a))) for a in packed.axes)

    def _pack(self, wanted: Sequence[tuple[Operand, Packed, dict[Axis, Index], int | Index]]) -> list[Statement]:
        """Computes operands into their arrays: those of dense lanes in one loop, the others in another."""
        dense: list[Statement] = []
        grouped: list[Statement] = []
        for side, packed, at, j in wanted:
            self._add_array(packed)
            name, whole = self._array_name(packed), self.narrow.whole.get(side)
            if whole is not None and find_byte(whole) is None and find_planes(whole) is None:
                place = (*self._own_place(packed, at, j), *self._dense_place())
                dense.append(Put(name, place, narrowed(Rewriter(at)(whole), packed.dtype)))
                continue
            for k, e in enumerate(side):
                place = self._read_packed(packed, at, j, k).index
                grouped.append(Put(name, place, narrowed(Rewriter(at)(e), packed.dtype)))
        return [self.over_sum(body, body is dense) for body in (dense, grouped) if body]

    def _add_array(self, packed: Packed) -> None:
        name = self._array_name(packed)
        if name in self.scratch:
            return
        own: list[Dim] = [self.width] if packed.columns else [self._size(a) for a in packed.axes]
        summed: list[Dim] = [
            self.deep[2] if self.deep is not None and self.deep[0] is axis else axis.extent
            for axis in (*self.found.summed, self.found.lanes)
        ]
        last = summed[-1]
        assert isinstance(last, int)
        shape = (*own, *summed[:-1], last * packed.count + self._gap_of(packed))
        self.scratch[name] = Scratch(name, packed.dtype, shape, packed.count > 1)

    def _gap_of(self, packed: Packed) -> int:
        """Elements that are left free behind each row of an array."""
        return 0

    def scale(self, s: Sum, at: dict[Axis, Index], j: int) -> Expr:
        """What a sum over the lanes is multiplied by."""
        assert s.scale is not None
        if not self.keeps_scale(s):
            return Rewriter(at)(s.scale)
        return Load(self._scale_array(s), (Index((), j), *map(of_atom, self.found.summed)), s.dtype)

    def offset(self, s: Sum, at: dict[Axis, Index], j: int) -> Expr:
        """What the sum of a row's operands is multiplied by, to be taken from the scaled sum."""
        assert s.offset is not None and s.scale is not None
        if not self.keeps_scale(s):
            return op("mul", Rewriter(at)(s.offset), Rewriter(at)(s.scale))
        place = Index((), j), *map(of_atom, self.found.summed)
        return Load(self._scale_array(s, "offsets"), place, s.dtype)

    def keeps_scale(self, s: Sum) -> bool:
        """True for scales of columns that are computed for many groups at once, before the sums."""
        f = self.found
        if s.scale is None or not f.summed or f.rows in s.scale.axes or set(f.inner) & s.scale.axes:
            return False
        return f.summed[-1] in s.scale.axes and extent_of(f.summed[-1]) >= self.pack

    def pack_scales(self, column: Index, width: int) -> list[Statement]:
        """Computes the scales of the columns of a tile into their arrays."""
        f = self.found
        puts: list[Statement] = []
        for s in (s for s in f.sums if self.keeps_scale(s)):
            assert s.scale is not None
            name = self._scale_array(s)
            for j in range(width):
                place = Index((), j), *map(of_atom, f.summed)
                scale = Rewriter({f.columns: column + j})(s.scale)
                puts.append(Put(name, place, scale))
                if s.offset is not None:
                    offset = op("mul", Rewriter({f.columns: column + j})(s.offset), scale)
                    puts.append(Put(self._scale_array(s, "offsets"), place, offset))
        body: list[Statement] = [Loop("lanes", f.summed[-1], tuple(puts), self.pack)] if puts else []
        for axis in reversed(f.summed[:-1]) if puts else ():
            body = [Loop("serial", axis, tuple(body))]
        return body

    def _scale_array(self, s: Sum, what: str = "scales") -> str:
        name = f"{s.name}_{what}{self.part}"
        if name not in self.scratch:
            self.scratch[name] = Scratch(name, s.dtype, (self.width, *map(extent_of, self.found.summed)))
        return name

    def _array_name(self, packed: Packed) -> str:
        return packed.array + (self.suffix if self.hoists and not packed.columns else self.part)

    def _pack_rows(self) -> list[Statement]:
        """The operands of all rows, those of the same axes together."""
        by_axes: dict[tuple[Axis, ...], list[tuple[Operand, Packed, dict[Axis, Index], int | Index]]] = {}
        for e, packed in self.packed.items():
            if not packed.columns:
                by_axes.setdefault(packed.axes, []).append((e, packed, {}, 0))
        return [s for axes, wanted in by_axes.items() for s in self._around(self._pack(wanted), axes)]


def split_sides(found: Products, value: Expr) -> list[Expr]:
    """What is multiplied: the largest parts of a product that the same axes of a tile are in."""
    if not isinstance(value, Op) or value.name != "mul":
        return [value]
    tiled = {found.columns, found.rows}
    differ = any(not isinstance(a, Const) and a.axes & tiled != value.axes & tiled for a in value.args)
    return [e for a in value.args for e in split_sides(found, a)] if differ else [value]


def add_up(values: Sequence[Expr]) -> Expr:
    total = values[0]
    for v in values[1:]:
        total = op("add", total, v)
    return total


def are_apart(first: Load, other: Load, by: int) -> bool:
    """True where a load reads `by` elements behind another one."""
    same = first.name == other.name and first.index[:-1] == other.index[:-1]
    return same and first.index[-1] + by == other.index[-1]


def narrowed(e: Expr, dtype: DType) -> Expr:
    """A value as it is kept: without the conversion from that type, where it is one."""
    inner = e.args[0] if isinstance(e, Op) and e.name == "cast" else e
    return inner if inner.dtype is dtype else cast(e, dtype)
