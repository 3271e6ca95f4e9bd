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
from ..ir.loops import Store
from ..ir.scalar import cast, op
from ..ir.tiles import Fold, Let, Loop, Put, Scratch, State, Statement, Update
from ..ir.types import Dim, DType
from .tiling_product import Products, Sum, delay_scales, extent_of, has_products
from .tiling_product_narrow import Operand, narrow_type, operands_of, stored_part, take_together

BLOCK = 64  # results along the outer axis that wait in the nearest cache for what is computed of them
DEEP = 1024  # points of a block of long sums
MANY = 128  # rows of a block: with so many points each, their operands stay in the second-level cache
REGISTERS = {16: 30, 8: 14, 4: 14, 2: 14}  # values of a tile that stay in registers, by the lanes of a pack
AT_HAND = 2  # operands of a column, which are used up before those of the next one are loaded
MOST_ROWS = 5  # of a tile: more leave no room for columns


def choose_tile(rows: int, sums: int, lanes: int) -> tuple[int, int]:
    """Rows and columns of a register tile of `sums` results each: as many as registers hold with their operands."""
    room = REGISTERS.get(lanes, 14)
    height = -(-rows // -(-rows // (MOST_ROWS if room > 16 else 4)))
    for width in (8, 4, 2):
        if sums * height * width + height + AT_HAND <= room:
            return height, width
    return (height, 1) if sums * height + height + AT_HAND <= room else (1, 1)


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

    many = MANY
    block = BLOCK
    fetches = False  # asks for what is read next by itself

    def __init__(self, found: Products, lanes: int, pairs: bool = False, quads: bool = False) -> None:
        self.pack = lanes
        self.scratch: dict[str, Scratch] = {}
        self.part = ""
        count = 1 if found.rows is None else extent_of(found.rows)
        size = -(-count // -(-count // self.many))
        self.height, self.width, self.is_shared = 1, 1, True
        found = self._choose_tile(found, size)
        self.narrow = take_together(found, pairs, quads, self.is_shared)
        self.found = self.narrow.found
        self.row_parts = self._row_parts(count, -(-size // self.height) * self.height)
        self.rows = self.row_parts[0]
        self.packed = self._find_packed()
        self.deep = self._find_blocks()

    def _choose_tile(self, found: Products, size: int) -> Products:
        """Sets the size of a tile for blocks of `size` rows, and whether several share the operands of a column."""
        states = sum(has_products(s.equation) for s in found.sums)
        self.height, self.width = choose_tile(size, states, self.pack)
        self.is_shared = size > self.height or bool(found.inner)
        if self.is_shared and found.summed:
            return found  # scales join operands that are computed once for several tiles
        found = delay_scales(found)
        if found.summed:
            states += sum(s.scale is not None for s in found.sums)
            self.width = choose_tile(size, states, self.pack)[1]
        return found

    def build(self) -> list[Statement]:
        """Whole blocks of columns, the rest of whole tiles, and the columns that are left."""
        count = extent_of(self.found.columns)
        blocks = count // self.block * self.block
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

    def _find_packed(self) -> dict[Operand, Packed]:
        """The operands that are worth a scratch array."""
        f = self.found
        small = self._small_axes
        found: dict[Operand, Packed] = {}
        for side in dict.fromkeys(side for s in f.sums for group in s.groups for side in self._sides(group)):
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
        many = extent_of(self.found.columns) >= BLOCK
        return many and (self.is_shared or len(side) > 1 or self._leaps(side[0]))

    def _sides(self, group: Sequence[Expr]) -> list[Operand]:
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
        columns, size = f.columns, min(self.block, end - begin)
        blocks = Axis(f"{columns.name}_b", (end - begin) // size)
        tiles = Axis(f"{columns.name}_t", extent_of(columns) // width)
        first = of_atom(blocks) * size + begin
        start, column = first // width, of_atom(tiles) * width
        body = self._fetch_packed(column, width)
        body += self._pack(
            [(e, p, {columns: column + j}, j) for e, p in self.packed.items() if p.columns for j in range(width)]
        )
        body += self._before_tiles(column, width, first)
        for tile in self.rows.tiles:
            made = self._tile(tile, column, width, first)
            made = made if tile.axis is None else [Loop("serial", tile.axis, tuple(made))]
            body += self._around(made, f.inner)
        tiled = Loop("serial", tiles, tuple(body), 1, start, start + size // width)
        sums: list[Statement] = [*self._pack_rows(), tiled]
        if self.deep is not None:
            sums = [Loop("serial", self.deep[1], tuple(sums))]
        if self._adds:
            sums = [*self._clear(first, size), *sums]
        sums += self._after_sums(first, size)
        loops: list[Statement] = [*sums, *(s for store in f.stores for s in self._store(store, first, size))]
        several = [self.rows.blocks] if self.rows.blocks.extent != 1 else []
        for axis in (*several, blocks, *reversed(f.outer)):
            loops = [Loop("grid", axis, tuple(loops))]
        return loops

    @property
    def _adds(self) -> bool:
        """True where sums are added to what is in their arrays already."""
        return self.deep is not None

    def _fetch_packed(self, column: Index, width: int) -> list[Statement]:
        """Asks for what the operands of the next columns are computed of."""
        return []

    def _before_tiles(self, column: Index, width: int, first: Index) -> list[Statement]:
        """What the tiles of some columns have in common."""
        return []

    def _after_sums(self, first: Index, size: int) -> list[Statement]:
        """What is done with the sums of a block before anything is computed of them."""
        return []

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

    def _over_sum(self, body: list[Statement], dense: bool = False) -> Loop:
        """Loops over the axes that are summed over, or the current block of them."""
        return self._over_summed([self._over_lanes(body, dense)])

    def _over_lanes(self, body: list[Statement], dense: bool = False) -> Loop:
        """The loop over the lanes; `dense`: as they were before they were cut into groups."""
        begin, end = self._limits(self.found.lanes)
        if not dense:
            return Loop("lanes", self.found.lanes, tuple(body), self.pack, begin, end)
        assert self.narrow.dense is not None
        count = self.narrow.count
        first, last = (None if i is None else i * count for i in (begin, end))
        return Loop("lanes", self.narrow.dense, tuple(body), self.pack, first, last)

    def _over_summed(self, body: list[Statement]) -> Loop:
        """Loops over the axes around the lanes."""
        for axis in reversed(self.found.summed):
            begin, end = self._limits(axis)
            body = [Loop("serial", axis, tuple(body), 1, begin, end)]
        (loop,) = body
        assert isinstance(loop, Loop)
        return loop

    def _limits(self, axis: Axis) -> tuple[Index | None, Index | None]:
        if self.deep is None or self.deep[0] is not axis:
            return None, None
        begin = of_atom(self.deep[1]) * self.deep[2]
        return begin, begin + self.deep[2]

    # --- operands ------------------------------------------------------------------------------------------------

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

    def _group(self, group: Sequence[Expr], at: dict[Axis, Index], j: int, lets: dict[Expr, Let]) -> Expr:
        """The products of a group, added up."""
        if len(group) == 1:
            return self._product(group[0], at, j, lets)
        sides = [self._side(side, at, j) for side in self._sides(group)]
        return add_up([op("mul", a, b) for a, b in zip(*sides, strict=True)])

    def _side(self, side: Operand, at: dict[Axis, Index], j: int) -> list[Expr]:
        packed = self.packed.get(side)
        if packed is None:
            return [Rewriter(at)(e) for e in side]
        return [cast(self._read_packed(packed, at, j, k), side[k].dtype) for k in range(len(side))]

    def _summed_place(self, count: int = 1, k: int = 0) -> tuple[Index, ...]:
        """Where the current point of the axes that are summed over stands in a block of them; the point `k` of the
        `count` of a group.
        """
        places: list[Index] = []
        for axis in (*self.found.summed, self.found.lanes):
            begin, _ = self._limits(axis)
            places.append(of_atom(axis) if begin is None else of_atom(axis) - begin)
        return (*places[:-1], places[-1] * count + k)

    def _dense_place(self) -> tuple[Index, ...]:
        """The same for the lanes before they were cut into groups."""
        assert self.narrow.dense is not None
        begin, _ = self._limits(self.found.lanes)
        at = of_atom(self.narrow.dense)
        return (*self._summed_place()[:-1], at if begin is None else at - begin * self.narrow.count)

    def _read_packed(self, packed: Packed, at: dict[Axis, Index], j: int, k: int = 0) -> Load:
        index = (*self._own_place(packed, at, j), *self._summed_place(packed.count, k))
        return Load(packed.array + self.part, index, packed.dtype)

    def _own_place(self, packed: Packed, at: dict[Axis, Index], j: int) -> tuple[Index, ...]:
        if packed.columns:
            return (Index((), j),)
        return tuple(self._local(a, at.get(a, of_atom(a))) for a in packed.axes)

    def _pack(self, wanted: Sequence[tuple[Operand, Packed, dict[Axis, Index], int]]) -> list[Statement]:
        """Computes operands into their arrays: those of dense lanes in one loop, the others in another."""
        dense: list[Statement] = []
        grouped: list[Statement] = []
        for side, packed, at, j in wanted:
            self._add_array(packed)
            name, whole = packed.array + self.part, self.narrow.whole.get(side)
            if whole is not None:
                place = (*self._own_place(packed, at, j), *self._dense_place())
                dense.append(Put(name, place, narrowed(Rewriter(at)(whole), packed.dtype)))
                continue
            for k, e in enumerate(side):
                place = self._read_packed(packed, at, j, k).index
                grouped.append(Put(name, place, narrowed(Rewriter(at)(e), packed.dtype)))
        return [self._over_sum(body, body is dense) for body in (dense, grouped) if body]

    def _add_array(self, packed: Packed) -> None:
        name = packed.array + self.part
        if name in self.scratch:
            return
        own: list[Dim] = [self.width] if packed.columns else [self._size(a) for a in packed.axes]
        summed: list[Dim] = [
            self.deep[2] if self.deep is not None and self.deep[0] is axis else axis.extent
            for axis in (*self.found.summed, self.found.lanes)
        ]
        last = summed[-1]
        assert isinstance(last, int)
        shape = (*own, *summed[:-1], last * packed.count)
        self.scratch[name] = Scratch(name, packed.dtype, shape, packed.count > 1)

    def _pack_rows(self) -> list[Statement]:
        """The operands of all rows, those of the same axes together."""
        by_axes: dict[tuple[Axis, ...], list[tuple[Operand, Packed, dict[Axis, Index], int]]] = {}
        for e, packed in self.packed.items():
            if not packed.columns:
                by_axes.setdefault(packed.axes, []).append((e, packed, {}, 0))
        return [s for axes, wanted in by_axes.items() for s in self._around(self._pack(wanted), axes)]

    # --- a tile --------------------------------------------------------------------------------------------------

    def _tile(self, tile: RowTile, column: Index, width: int, first: Index) -> list[Statement]:
        """The sums of one tile, left in their scratch arrays or added to what is there."""
        made = TileBody(self)
        for s in self.found.sums:
            for j in range(width if self.found.columns in s.axes else 1):
                made.add_shift(s, f"{s.name}_shift_{tile.low}_{j}", {self.found.columns: column + j}, j)
                for i in range(tile.height if self.found.rows in s.axes else 1):
                    at = {self.found.columns: column + j}
                    if self.found.rows is not None:
                        at[self.found.rows] = self.rows.first + tile.row(i)
                    value = made.add(s, f"{s.name}_{tile.low + i}_{j}", at, j)
                    made.after.append(self._keep(s, value, at, first))
        return made.statements()

    def _keep(self, s: Sum, value: Expr, at: dict[Axis, Index], first: Index) -> Put:
        name = self._array(s)
        index = self._result(s, at, first)
        if self._adds:
            value = op("add", Load(name, index, value.dtype), value)
        return Put(name, index, value)

    def _array(self, s: Sum) -> str:
        """The scratch array of a sum's results: each part has its own, so that its workers need not share it."""
        name = f"{s.name}_all{self.part}"
        if name not in self.scratch:
            self.scratch[name] = Scratch(name, s.dtype, tuple(self._size(a) for a in s.axes))
        return name

    def _result(self, s: Sum, at: dict[Axis, Index], first: Index) -> tuple[Index, ...]:
        """Where a result stands in the sum's array."""
        return tuple(self._place(a, at.get(a, of_atom(a)), first) for a in s.axes)

    def _size(self, a: Axis) -> Dim:
        if a in self.found.outer:
            return 1
        return self.block if a is self.found.columns else self.rows.size if a is self.found.rows else a.extent

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
            puts.append(Put(self._array(s), self._result(s, {}, first), const(0, s.dtype)))
        loop: Statement = Loop("lanes", f.columns, tuple(puts), self.pack, first, first + size)
        return self._around([loop], self._small_axes)

    # --- what is computed of the sums ----------------------------------------------------------------------------

    def _store(self, s: Store, first: Index, size: int) -> list[Statement]:
        f = self.found
        sums = {own.name: own for own in f.sums}

        def read(e: Load) -> Expr:
            own = sums.get(e.name)
            if own is None:
                return e
            return Load(self._array(own), self._result(own, {}, first), e.dtype)

        rewrite = Rewriter(load=read)
        put = Put(s.buffer, tuple(rewrite.index(i) for i in s.index), rewrite(s.value))
        loop: Statement = Loop("lanes", f.columns, (put,), self.pack, first, first + size)
        return self._around([loop], self._small_axes)


class TileBody:
    """The running values of a tile, what is done at each point of the sum, and after it."""

    def __init__(self, builder: ProductBuilder) -> None:
        self.b = builder
        self.states: list[Statement] = []
        self.inner: list[Statement] = []  # running values that start anew at each point around the lanes
        self.lets: dict[Expr, Let] = {}
        self.updates: list[Statement] = []
        self.flushes: list[Statement] = []  # of `inner`
        self.after: list[Statement] = []
        self.shifts: dict[tuple[str, int], Expr] = {}

    def add(self, s: Sum, name: str, at: dict[Axis, Index], j: int) -> Expr:
        """A running value for one result; what it is in the end."""
        self._start(self.states, name, s.dtype)
        own = Load(name, (), s.dtype)
        if s.scale is None or not self.b.found.summed:
            self._update(s, name, at, j)
        else:
            part = f"{name}_part"
            self._start(self.inner, part, s.dtype)
            self._update(s, part, at, j)
            scaled = op("mul", Load(part, (), s.dtype), Rewriter(at)(s.scale))
            self.flushes.append(Update((name,), (op("add", own, scaled),)))
        self.after.append(Fold((name,), "sum"))
        shift = self.shifts.get((s.name, j))
        whole = own if shift is None else op("sub", own, shift)
        if s.scale is None or self.b.found.summed:
            return whole
        return op("mul", whole, Rewriter(at)(s.scale))

    def add_shift(self, s: Sum, name: str, at: dict[Axis, Index], j: int) -> None:
        """What the shift of the rows' operands adds to all results of a column."""
        if not s.shift:
            return
        self._start(self.states, name, s.dtype)
        value: Expr = Load(name, (), s.dtype)
        for group in s.groups:
            side = self.b._side(self.b._sides(group)[1], at, j)
            value = op("add", value, add_up([op("mul", const(s.shift, s.dtype), e) for e in side]))
        self.updates.append(Update((name,), (value,)))
        self.after.append(Fold((name,), "sum"))
        self.shifts[s.name, j] = Load(name, (), s.dtype)

    def statements(self) -> list[Statement]:
        b = self.b
        loop = b._over_lanes([*self.lets.values(), *self.updates])
        return [*self.states, b._over_summed([*self.inner, loop, *self.flushes]), *self.after]

    def _start(self, into: list[Statement], name: str, dtype: DType) -> None:
        into.append(State(name, dtype, const(0, dtype), self.b.found.lanes, self.b.pack))

    def _update(self, s: Sum, name: str, at: dict[Axis, Index], j: int) -> None:
        value: Expr = Load(name, (), s.dtype)
        for group in s.groups:
            value = op("add", value, self.b._group(group, at, j, self.lets))
        self.updates.append(Update((name,), (value,)))


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
