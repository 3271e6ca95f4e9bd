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
from collections.abc import Iterator

from ...ir.expr import Expr, Load, Rewriter, const, product_factors
from ...ir.index import Axis, Index, of_atom
from ...ir.loops import Store
from ...ir.scalar import op
from ...ir.tiles import Loop, Put, Scratch, Statement
from .blocks import Rows, RowTile
from .body import TileBody
from .counts import Span, span_of
from .dynamic import all_rows, rows_left
from .find import Products, Sum, delay_scales, extent_of, has_products, is_dynamic, multiplied
from .narrow import take_together
from .rest import RestOfSums

BLOCK = 64  # results along the outer axis that wait in the nearest cache for what is computed of them
DEEP = 1024  # points of a block of long sums
MANY = 128  # rows of a block: with so many points each, their operands stay in the second-level cache
REGISTERS = {16: 30, 8: 14, 4: 14, 2: 14}  # values of a tile that stay in registers, by the lanes of a pack
AT_HAND = 2  # operands of a column, which are used up before those of the next one are loaded
POWER = 4  # rows of a tile, where there are smaller ones for those that are left
FEW = 2  # of the lanes of a pack: fewer rows are no panel
MOST_ROWS = 5  # of a tile: more leave no room for columns


def choose_tile(rows: int, sums: int, lanes: int) -> tuple[int, int]:
    """Rows and columns of a register tile of `sums` results each: as many as registers hold with their operands."""
    room = REGISTERS.get(lanes, 14)
    height = -(-rows // -(-rows // (MOST_ROWS if room > 16 else 4)))
    for width in (8, 4, 2):
        if sums * height * width + height + AT_HAND <= room:
            return height, width
    return (height, 1) if sums * height + height + AT_HAND <= room else (1, 1)


def few_for(lanes: int) -> int:
    """The most rows that are too few for a panel."""
    return max(1, -(-lanes // FEW) - 1)


class ProductBuilder(RestOfSums):
    """Builds the statements of a kernel of sums of products, for packs of `lanes`.

    after_panels  only for the rows that panels leave, whose count is known at run time
    """

    many = MANY
    block = BLOCK
    fetches = False  # asks for what is read next by itself
    any_signs = False  # bytes are multiplied whatever their signs

    def __init__(
        self, found: Products, lanes: int, pairs: bool = False, quads: bool = False, after_panels: bool = False
    ) -> None:  # fmt: skip
        self.pack = lanes
        self.after_panels = after_panels
        self.suffix = "_left" if after_panels else ""
        self.pairs = pairs
        self.scratch: dict[str, Scratch] = {}
        self.part = self.suffix
        count = 1 if found.rows is None else None if is_dynamic(found.rows) else extent_of(found.rows)
        size = self._block_size(found, count)
        self.height, self.width, self.is_shared = 1, 1, True
        found = self._choose_tile(found, size)
        self.narrow = take_together(found, lanes, pairs, quads, self.is_shared, self.any_signs)
        self.found = self.narrow.found
        whole = -(-size // self.height) * self.height
        self.row_parts = [self._dynamic_rows(whole)] if count is None else self._row_parts(count, whole)
        self.rows = self.row_parts[0]
        self.block = self._columns_of(self.rows)
        self.packed = self._find_packed()
        self.deep = self._find_blocks()
        self.hoists = self._can_hoist()

    def _most_rows(self, found: Products) -> int:
        """Rows of a block at most."""
        return self.many

    def _choose_tile(self, found: Products, size: int) -> Products:
        """Sets the size of a tile for blocks of `size` rows, and whether several share the operands of a column."""
        states = sum(has_products(s.equation) for s in found.sums)
        many = POWER if found.rows is not None and is_dynamic(found.rows) else size
        self.height, self.width = choose_tile(many, states, self.pack)
        several = size > self.height and not self.after_panels  # so few rows are one tile or two
        self.is_shared = several or bool(found.inner)
        if self.is_shared and found.summed:
            return found  # scales join operands that are computed once for several tiles
        found = delay_scales(found, offsets=self.pairs and bool(found.summed))
        if found.summed:
            states += sum(s.scale is not None for s in found.sums)
            self.width = choose_tile(many, states, self.pack)[1]
        return found

    def build(self) -> list[Statement]:
        """Whole blocks of columns, the rest of whole tiles, and the columns that are left."""
        done = self._hoisted() if self.hoists else list[Statement]()
        for parts, (rows, begin, end, width) in enumerate(self._find_parts()):
            self.rows, self.block = rows, self._columns_of(rows)
            self.part = self.suffix + (f"_part{parts}" if parts else "")
            done += self._part(begin, end, width)
        return done

    def _find_parts(self) -> Iterator[tuple[Rows, int, int, int]]:
        """The blocks of rows with (begin, end) of the columns and those of a tile."""
        for rows in self.row_parts:
            for begin, end, width in self._column_parts(extent_of(self.found.columns), self._columns_of(rows)):
                if begin < end:
                    yield rows, begin, end, width

    def _columns_of(self, rows: Rows) -> int:
        """Columns of a block."""
        return self.block

    def _column_parts(self, count: int, block: int) -> list[tuple[int, int, int]]:
        """The first column, the one after the last, and the columns of a tile: of parts that are blocks or less."""
        blocks, tiles = count // block * block, count // self.width * self.width
        return [(0, blocks, self.width), (blocks, tiles, self.width), (tiles, count, 1)]

    # --- choices -------------------------------------------------------------------------------------------------

    def _can_hoist(self) -> bool:
        """True where all blocks of columns use the same operands of the rows, of which there is one block."""
        alone = len(self.row_parts) == 1 and self.row_parts[0].is_single and self.deep is None
        alone = alone and not self.found.outer and self.found.ragged is None
        return alone and extent_of(self.found.columns) > self.block

    def _hoisted(self) -> list[Statement]:
        """The operands of the rows, in a grid of their own."""
        grids: list[Statement] = []
        for s in self._pack_rows():
            outermost = isinstance(s, Loop) and s.kind == "serial" and s.begin is None
            grids.append(Loop("grid", s.axis, s.body) if outermost and isinstance(s, Loop) else s)
        return grids

    def _row_parts(self, count: int, size: int) -> list[Rows]:
        """Whole blocks of rows, and the rows that are left."""
        axis = self.found.rows
        name = "row" if axis is None else axis.name
        found: list[Rows] = []
        for begin, end in ((0, count // size * size), (count // size * size, count)):
            if begin < end:
                length = min(size, end - begin)
                blocks = Axis(f"{name}_b", (end - begin) // length)
                found.append(Rows(axis, blocks, Index((), begin), length, self._row_tiles(name, length)))
        return found

    def _block_size(self, found: Products, count: int | None) -> int:
        """Rows of a block, before they are made whole tiles."""
        if count is not None:
            return -(-count // -(-count // self._most_rows(found)))
        return few_for(self.pack) + 1 if self.after_panels else self.many

    def _dynamic_rows(self, size: int) -> Rows:
        if self.after_panels:
            return rows_left(self._span(), self.many, few_for(self.pack), self.height)
        return all_rows(self._span(), size, self.height)

    def _span(self) -> Span:
        """The rows, whose count is known at run time."""
        assert self.found.rows is not None
        return span_of(self.found.rows) if self.found.ragged is None else self.found.ragged.span

    def _row_tiles(self, name: str, count: int) -> tuple[RowTile, ...]:
        whole, left = divmod(count, self.height)
        axis, start = Axis(f"{name}_t", whole) if whole > 1 else None, whole * self.height
        found = [RowTile(axis, Index(()), self.height, 0)] if whole else []
        return (*found, *([RowTile(None, Index((), start), left, start)] if left else []))

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
        offset = begin % width
        start, column = (first - offset) // width, of_atom(tiles) * width + offset
        body = self._fetch_packed(column, width)
        body += self._pack_columns(column, width)
        body += self._before_tiles(column, width, first)
        for tile in self.rows.tiles:
            made = self._tile(tile, column, width, first)
            body += self._around(tile.loop(made), f.inner)
        tiled = Loop("serial", tiles, tuple(body), 1, start, start + size // width)
        sums: list[Statement] = [*([] if self.hoists else self._pack_rows()), tiled]
        if self.deep is not None:
            sums = [Loop("serial", self.deep[1], tuple(sums))]
        if self._adds:
            sums = [*self._clear(first, size), *sums]
        sums += [*self._after_sums(first, size), *self.pack_rest(first, size)]
        loops: list[Statement] = [*sums, *(s for store in f.stores for s in self._store(store, first, size))]
        several = [self.rows.blocks] if self.rows.blocks.extent != 1 or self.rows.blocks.is_ragged else []
        if f.ragged is not None and self.rows.span is not None:
            rows = Loop("serial", self.rows.blocks, tuple(loops))
            loops, several = f.ragged.over_groups([rows], self.rows.span.lets), []
        for axis in (*several, blocks, *reversed(f.outer)):
            loops = [Loop("grid", axis, tuple(loops))]
        return loops

    @property
    def _adds(self) -> bool:
        """True where sums are added to what is in their arrays already."""
        return self.deep is not None

    def _pack_columns(self, column: Index, width: int) -> list[Statement]:
        """Computes the operands of a tile's columns."""
        packed = [(e, p) for e, p in self.packed.items() if p.columns]
        return self._pack([(e, p, {self.found.columns: column + j}, j) for e, p in packed for j in range(width)])

    def _fetch_packed(self, column: Index, width: int) -> list[Statement]:
        """Asks for what the operands of the next columns are computed of."""
        return []

    def _before_tiles(self, column: Index, width: int, first: Index) -> list[Statement]:
        """What the tiles of some columns have in common."""
        return self.pack_scales(column, width)

    def _after_sums(self, first: Index, size: int) -> list[Statement]:
        """What is done with the sums of a block before anything is computed of them."""
        return []

    # --- a tile --------------------------------------------------------------------------------------------------

    def _tile(self, tile: RowTile, column: Index, width: int, first: Index) -> list[Statement]:
        """The sums of one tile, left in their scratch arrays or added to what is there."""
        made = TileBody(self)
        for s in self.found.sums:
            for j in range(width if self.found.columns in s.axes else 1):
                made.add_shift(s, f"{s.name}_shift_{tile.label}_{j}", {self.found.columns: column + j}, j)
                for i in range(tile.height if self.found.rows in s.axes else 1):
                    at = {self.found.columns: column + j}
                    if self.found.rows is not None:
                        at[self.found.rows] = self.rows.first + tile.row(i)
                    value = made.add(s, f"{s.name}_{tile.label + i}_{j}", at, j)
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

    def _clear(self, first: Index, size: int) -> list[Statement]:
        """Sets the sums to 0 before their blocks are added."""
        f = self.found
        puts = [Put(self._array(s), self._result(s, {}, first), const(0, s.dtype)) for s in f.sums]
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
            value: Expr = Load(self._array(own), self._result(own, {}, first), e.dtype)
            for term in own.rest:
                value = op("add", value, multiplied([self.read_rest(f, first) for f in product_factors(term)]))
            return value

        rewrite = Rewriter(load=read)
        put = Put(s.buffer, tuple(rewrite.index(i) for i in s.index), rewrite(s.value))
        return self._over_results(put, first, size)

    def _over_results(self, put: Put, first: Index, size: int) -> list[Statement]:
        """What is stored of each result of a block: a row of the columns at once."""
        loop: Statement = Loop("lanes", self.found.columns, (put,), self.pack, first, first + size)
        return self._around([loop], self._small_axes)
