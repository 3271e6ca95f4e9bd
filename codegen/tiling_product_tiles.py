"""Sums of products as register tiles: several results at once share what they load.

    y[t, n] = sum(c) x[t, c] * w[n, c]      with t:2, n:4096, lanes along c
->
grid n by 64:
  serial n by 2:
    state y_0_0 .. y_1_1
    lanes c: let x_0 = x[0, c]; let x_1 = ..; let w_0 = w[n, c]; let w_1 = ..
             y_0_0 := y_0_0 + x_0 * w_0; ..; y_1_1 := y_1_1 + x_1 * w_1
    fold each; y_all[t, n - n0] <- y_t_n
  serial t: lanes n: y[t, n] <- ..                 (what is computed of the sums: a row of lanes at once)

The axis of the larger operand is the outer one, so that each of its elements is read from memory once. Operands that
several tiles use and that are more than a load (a conversion, unpacked bits, elements apart) are computed once, into
scratch rows of the nearest caches; long sums then go block by block, so that those rows stay there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.expr import Const, Expr, Load, Op, Rewriter, const, loads_in
from ..ir.index import Axis, Index, axis_coefficient, of_atom
from ..ir.loops import Equation, Store
from ..ir.scalar import op
from ..ir.tiles import Fold, Let, Loop, Put, Scratch, State, Statement, Update
from ..ir.types import Dim, DType
from .tiling_product import Products, extent_of, has_products, terms_of

BLOCK = 64  # results along the outer axis that wait in the nearest cache for what is computed of them
DEEP = 1024  # points of a block of long sums
MANY = 128  # rows of a block: with so many points each, their operands stay in the second-level cache
REGISTERS = {16: 30, 8: 14, 4: 14, 2: 14}  # values of a tile that stay in registers, by the lanes of a pack
MOST_ROWS = 5  # of a tile: more leave no room for columns


def choose_tile(rows: int, sums: int, lanes: int) -> tuple[int, int]:
    """Rows and columns of a register tile of `sums` results each: as many as registers hold with their operands."""
    room = REGISTERS.get(lanes, 14)
    height = -(-rows // -(-rows // (MOST_ROWS if room > 16 else 4)))
    for width in (8, 4, 2):
        if sums * height * width + height + sums * width <= room:
            return height, width
    return (height, 1) if sums * height + height + sums <= room else (1, 1)


@dataclass(frozen=True, slots=True)
class Packed:
    """An operand that is computed into a scratch array: of one tile of columns, or of all rows (`axes`)."""

    array: str
    dtype: DType
    columns: bool
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class RowTile:
    """`height` rows of a block from `low`; of each point of `axis`, where there are several such tiles."""

    axis: Axis | None
    low: int
    height: int

    def row(self, i: int) -> Index:
        return Index((), self.low + i) if self.axis is None else of_atom(self.axis) * self.height + self.low + i


@dataclass(frozen=True, slots=True)
class Rows:
    """Blocks of `size` rows from `begin`, for each point of `blocks`, as tiles."""

    axis: Axis | None
    blocks: Axis
    begin: int
    size: int
    tiles: tuple[RowTile, ...]

    @property
    def first(self) -> Index:
        return of_atom(self.blocks) * self.size + self.begin

    @property
    def limits(self) -> tuple[Index | None, Index | None]:
        whole = self.axis is None or self.size == self.axis.extent
        return (None, None) if whole else (self.first, self.first + self.size)


class ProductBuilder:
    """Builds the statements of a kernel of sums of products, for packs of `lanes`."""

    def __init__(self, found: Products, lanes: int) -> None:
        self.found = found
        self.pack = lanes
        self.scratch: dict[str, Scratch] = {}
        self.part = ""
        count = 1 if found.rows is None else extent_of(found.rows)
        size = -(-count // -(-count // MANY))
        self.height, self.width = choose_tile(size, sum(map(has_products, found.sums)), lanes)
        self.row_parts = self._row_parts(count, -(-size // self.height) * self.height)
        self.rows = self.row_parts[0]
        self.is_shared = count > self.height or bool(found.inner)
        self.packed = self._find_packed()
        self.deep = self._find_blocks()

    def build(self) -> list[Statement]:
        """Whole blocks of columns, the rest of whole tiles, and the columns that are left."""
        count = extent_of(self.found.columns)
        blocks = count // BLOCK * BLOCK
        tiles = count // self.width * self.width
        done: list[Statement] = []
        for begin, end, width in ((0, blocks, self.width), (blocks, tiles, self.width), (tiles, count, 1)):
            for rows in self.row_parts if begin < end else ():
                self.rows = rows
                self.part = f"_part{len(done)}" if done else ""
                done += self._part(begin, end, width)
        return done

    # --- choices -------------------------------------------------------------------------------------------------

    def _row_parts(self, count: int, size: int) -> list[Rows]:
        """Whole blocks of rows, and the rows that are left."""
        axis = self.found.rows
        name = "row" if axis is None else axis.name
        found: list[Rows] = []
        for begin, end in ((0, count // size * size), (count // size * size, count)):
            if begin < end:
                length = min(size, end - begin)
                blocks = Axis(f"{name}_b", (end - begin) // length)
                found.append(Rows(axis, blocks, begin, length, self._row_tiles(name, length)))
        return found

    def _row_tiles(self, name: str, count: int) -> tuple[RowTile, ...]:
        whole, left = divmod(count, self.height)
        found = [RowTile(Axis(f"{name}_t", whole) if whole > 1 else None, 0, self.height)] if whole else []
        return (*found, *([RowTile(None, whole * self.height, left)] if left else []))

    def _find_packed(self) -> dict[Expr, Packed]:
        """The operands that are worth a scratch array."""
        f = self.found
        small = self._small_axes
        found: dict[Expr, Packed] = {}
        for e in dict.fromkeys(e for s in f.sums for t in terms_of(s.args[0]) for e in self._operands_of(t)):
            name = f"pack{len(found)}"
            if f.lanes not in e.axes or self._is_plain(e):
                continue
            if f.columns in e.axes:
                if self.is_shared and not e.axes.intersection(small):
                    found[e] = Packed(name, e.dtype, True, ())
            elif extent_of(f.columns) >= BLOCK and (self.is_shared or self._leaps(e)):
                found[e] = Packed(name, e.dtype, False, tuple(a for a in small if a in e.axes))
        return found

    def _is_plain(self, e: Expr) -> bool:
        """True for what a load alone gives, as fast as it would be from a scratch array."""
        return isinstance(e, Load) and e.guard is None and axis_coefficient(e.index[-1], self.found.lanes) == 1

    def _leaps(self, e: Expr) -> bool:
        """True where neighbours of the lanes lie apart in memory."""
        lanes = self.found.lanes
        return any(lanes in x.axes and axis_coefficient(x.index[-1], lanes) != 1 for x in loads_in(e))

    def _find_blocks(self) -> tuple[Axis, Axis, int] | None:
        """(the axis that is summed in blocks, the axis of those, points of a block) of long sums that tiles share."""
        f = self.found
        depth = math.prod(extent_of(a) for a in (*f.summed, f.lanes))
        axes = max((frozenset(s.axes) for s in f.sums), key=len)
        if not self.is_shared or depth < 2 * DEEP or any(frozenset(s.axes) != axes for s in f.sums):
            return None  # what lacks an axis is computed by several tiles: its parts would be added several times
        axis = f.summed[0] if f.summed else f.lanes
        size = max(1, DEEP * extent_of(axis) // depth)
        size = size if f.summed else -(-size // self.pack) * self.pack
        return axis, Axis(f"{axis.name}_b", -(-extent_of(axis) // size)), size

    # --- loops ---------------------------------------------------------------------------------------------------

    def _part(self, begin: int, end: int, width: int) -> list[Statement]:
        """The columns from `begin` to `end`, which are whole blocks or less than one, in tiles of `width`."""
        f = self.found
        columns, size = f.columns, min(BLOCK, end - begin)
        blocks = Axis(f"{columns.name}_b", (end - begin) // size)
        tiles = Axis(f"{columns.name}_t", extent_of(columns) // width)
        first = of_atom(blocks) * size + begin
        start, column = first // width, of_atom(tiles) * width
        of_columns = [
            self._put_packed(e, p, {columns: column + j}, j)
            for e, p in self.packed.items() if p.columns for j in range(width)
        ]  # fmt: skip
        body: list[Statement] = [self._over_sum(of_columns)] if of_columns else []
        for tile in self.rows.tiles:
            made = self._tile(tile, column, width, first)
            made = made if tile.axis is None else [Loop("serial", tile.axis, tuple(made))]
            body += self._around(made, f.inner)
        tiled = Loop("serial", tiles, tuple(body), 1, start, start + size // width)
        sums: list[Statement] = [*self._pack_rows(), tiled]
        if self.deep is not None:
            sums = [*self._clear(first, size), Loop("serial", self.deep[1], tuple(sums))]
        loops: list[Statement] = [*sums, *(s for store in f.stores for s in self._store(store, first, size))]
        several = [self.rows.blocks] if self.rows.blocks.extent != 1 else []
        for axis in (*several, blocks, *reversed(f.outer)):
            loops = [Loop("grid", axis, tuple(loops))]
        return loops

    def _around(self, body: Sequence[Statement], axes: Sequence[Axis]) -> list[Statement]:
        """Loops over rows (those of the current block) and over axes inside of the columns."""
        for axis in reversed(axes):
            begin, end = self.rows.limits if axis is self.found.rows else (None, None)
            body = [Loop("serial", axis, tuple(body), 1, begin, end)]
        return list(body)

    @property
    def _small_axes(self) -> tuple[Axis, ...]:
        f = self.found
        return f.inner if f.rows is None else (*f.inner, f.rows)

    def _over_sum(self, body: list[Statement]) -> Loop:
        """Loops over the axes that are summed over, or the current block of them."""
        begin, end = self._limits(self.found.lanes)
        loop = Loop("lanes", self.found.lanes, tuple(body), self.pack, begin, end)
        for axis in reversed(self.found.summed):
            begin, end = self._limits(axis)
            loop = Loop("serial", axis, (loop,), 1, begin, end)
        return loop

    def _limits(self, axis: Axis) -> tuple[Index | None, Index | None]:
        if self.deep is None or self.deep[0] is not axis:
            return None, None
        begin = of_atom(self.deep[1]) * self.deep[2]
        return begin, begin + self.deep[2]

    # --- operands ------------------------------------------------------------------------------------------------

    def _operands_of(self, value: Expr) -> list[Expr]:
        """What is multiplied: the largest parts of a product that the same axes of a tile are in."""
        if not isinstance(value, Op) or value.name != "mul":
            return [value]
        tiled = {self.found.columns, self.found.rows}
        differ = any(not isinstance(a, Const) and a.axes & tiled != value.axes & tiled for a in value.args)
        return [e for a in value.args for e in self._operands_of(a)] if differ else [value]

    def _product(self, value: Expr, tile: RowTile, at: dict[Axis, Index], j: int, lets: dict[Expr, Let]) -> Expr:
        """A product with its operands named: one that several sums share is computed once."""
        if isinstance(value, Op) and value.name == "mul" and len(self._operands_of(value)) > 1:
            return op("mul", *(self._product(a, tile, at, j, lets) for a in value.args))
        packed = self.packed.get(value)
        placed = Rewriter(at)(value) if packed is None else self._read_packed(packed, at, j)
        if isinstance(placed, Const):
            return placed
        if placed not in lets:
            lets[placed] = Let(f"f{len(lets)}", placed)
        return Load(lets[placed].name, (), placed.dtype)

    def _summed_place(self) -> tuple[Index, ...]:
        """Where the current point of the axes that are summed over stands in a block of them."""
        places: list[Index] = []
        for axis in (*self.found.summed, self.found.lanes):
            begin, _ = self._limits(axis)
            places.append(of_atom(axis) if begin is None else of_atom(axis) - begin)
        return tuple(places)

    def _read_packed(self, packed: Packed, at: dict[Axis, Index], j: int) -> Load:
        own = (Index((), j),) if packed.columns else tuple(self._local(a, at.get(a, of_atom(a))) for a in packed.axes)
        return Load(packed.array + self.part, (*own, *self._summed_place()), packed.dtype)

    def _put_packed(self, e: Expr, packed: Packed, at: dict[Axis, Index], j: int = 0) -> Statement:
        name = packed.array + self.part
        if name not in self.scratch:
            own: list[Dim] = [self.width] if packed.columns else [self._size(a) for a in packed.axes]
            own += [
                self.deep[2] if self.deep is not None and self.deep[0] is axis else axis.extent
                for axis in (*self.found.summed, self.found.lanes)
            ]
            self.scratch[name] = Scratch(name, packed.dtype, tuple(own))
        return Put(name, self._read_packed(packed, at, j).index, Rewriter(at)(e))

    def _pack_rows(self) -> list[Statement]:
        """The operands of all rows, those of the same axes together."""
        by_axes: dict[tuple[Axis, ...], list[Statement]] = {}
        for e, packed in self.packed.items():
            if not packed.columns:
                by_axes.setdefault(packed.axes, []).append(self._put_packed(e, packed, {}))
        return [s for axes, body in by_axes.items() for s in self._around([self._over_sum(body)], axes)]

    # --- a tile --------------------------------------------------------------------------------------------------

    def _tile(self, tile: RowTile, column: Index, width: int, first: Index) -> list[Statement]:
        """The sums of one tile, left in their scratch arrays or added to what is there."""
        f = self.found
        states: list[Statement] = []
        lets: dict[Expr, Let] = {}
        updates: list[Statement] = []
        after: list[Statement] = []
        for s in f.sums:
            dtype, name = s.dtypes[0], s.names[0]
            for i in range(tile.height if f.rows in s.axes else 1):
                for j in range(width if f.columns in s.axes else 1):
                    at = {f.columns: column + j} | ({} if f.rows is None else {f.rows: self.rows.first + tile.row(i)})
                    own = f"{name}_{tile.low + i}_{j}"
                    states.append(State(own, dtype, const(0, dtype), f.lanes, self.pack))
                    value: Expr = Load(own, (), dtype)
                    for term in terms_of(s.args[0]):
                        value = op("add", value, self._product(term, tile, at, j, lets))
                    updates.append(Update((own,), (value,)))
                    after += [Fold((own,), "sum"), self._keep(s, Load(own, (), dtype), at, first)]
        return [*states, self._over_sum([*lets.values(), *updates]), *after]

    def _keep(self, s: Equation, value: Expr, at: dict[Axis, Index], first: Index) -> Put:
        name = self._array(s)
        index = tuple(self._place(a, at.get(a, of_atom(a)), first) for a in s.axes)
        if self.deep is not None:
            value = op("add", Load(name, index, value.dtype), value)
        return Put(name, index, value)

    def _array(self, s: Equation) -> str:
        """The scratch array of a sum's results: each part has its own, so that its workers need not share it."""
        name = f"{s.names[0]}_all{self.part}"
        if name not in self.scratch:
            self.scratch[name] = Scratch(name, s.dtypes[0], tuple(self._size(a) for a in s.axes))
        return name

    def _size(self, a: Axis) -> Dim:
        if a in self.found.outer:
            return 1
        return BLOCK if a is self.found.columns else self.rows.size if a is self.found.rows else a.extent

    def _place(self, a: Axis, at: Index, first: Index) -> Index:
        """Where a point of an axis stands in the scratch arrays."""
        if a in self.found.outer:
            return Index(())
        return at - first if a is self.found.columns else self._local(a, at)

    def _local(self, a: Axis, at: Index) -> Index:
        """Where a row stands in the current block of them."""
        return at - self.rows.first if a is self.found.rows else at

    def _clear(self, first: Index, size: int) -> list[Statement]:
        """Sets the sums to 0 before their blocks are added."""
        f = self.found
        puts: list[Statement] = []
        for s in f.sums:
            index = tuple(self._place(a, of_atom(a), first) for a in s.axes)
            puts.append(Put(self._array(s), index, const(0, s.dtypes[0])))
        loop: Statement = Loop("lanes", f.columns, tuple(puts), self.pack, first, first + size)
        return self._around([loop], self._small_axes)

    # --- what is computed of the sums ----------------------------------------------------------------------------

    def _store(self, s: Store, first: Index, size: int) -> list[Statement]:
        f = self.found
        equations = f.kernel.equations

        def read(e: Load) -> Expr:
            if e.name not in equations:
                return e
            own = equations[e.name]
            index = tuple(self._place(a, of_atom(a), first) for a in own.axes)
            return Load(self._array(own), index, e.dtype)

        rewrite = Rewriter(load=read)
        put = Put(s.buffer, tuple(rewrite.index(i) for i in s.index), rewrite(s.value))
        loop: Statement = Loop("lanes", f.columns, (put,), self.pack, first, first + size)
        return self._around([loop], self._small_axes)
