"""Sums of products of many rows: the lanes are rows, which share each element of the other operand that is read.

    y[t, n] = sum(c) x[t, c] * w[n, c]      with t:256, n:128, tiles of 32 rows and 8 columns
->
stage panel[t / 32][c, t % 32] <- x[t, c]                     turned in registers
serial n by 8:
  serial t by 32:
    state y_0_0 .. y_7_1 over 16 rows each
    serial c: lanes t: y_0_0 := y_0_0 + panel[c, t] * w[n, c]; ..; y_7_1 := y_7_1 + panel[c, t + 16] * w[n + 7, c]
    lanes t: y_cols[n, t] <- y_0_0; ..
stage y_all[t, n] <- y_cols[n, t]
serial t: lanes n: y[t, n] <- ..

The operand of the rows, which is the smaller one, is rearranged once for a block of columns; the larger one is taken as
it lies in memory, whatever its rows. There are no sums across lanes (Goto and van de Geijn, Anatomy of high-performance
matrix multiplication, TOMS 2008, with the two operands' parts exchanged).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.expr import Expr, Load, Rewriter, const, data_in, loads_in
from ...ir.index import Axis, Index, axis_coefficient, of_atom
from ...ir.scalar import cast, op
from ...ir.tiles import Fetch, Fold, Loop, Put, Scratch, State, Statement, Update
from ...ir.types import F32, I32
from .blocks import Rows, RowTile
from .dynamic import panel_rows
from .find import Products, delay_scales, extent_of, is_dynamic
from .narrow import Operand, stored_part
from .packs import add_up, split_sides
from .panel_results import PanelResults
from .tiles import few_for

MANY_ROWS = 128  # of a block
MORE_ROWS = 1024  # of a block whose rows few columns share: pages of memory are read as a whole
FEW_COLUMNS = 64
COLUMNS = 512  # of a block: so many share one rearrangement of the rows
POINTS = 4  # blocks of long work at least: there may be so many workers
LONG = 1 << 23  # products of a kernel that several workers share
LEAST_ROWS, LEAST_COLUMNS = 64, 128  # of blocks that are smaller than they might be, so that there are several
STREAMS = 8  # columns of a tile: rows that are a power of two apart share their places in the nearest cache
PANEL_BYTES = 1 << 19  # of a block's rearranged rows, which stay in the second-level cache
RESULTS = {16: 16, 8: 8, 4: 8}  # running packs of a tile, by the lanes of a pack: registers, and chains of additions
LINE = 64  # bytes
PACKED = 512  # words of a column of a tile that are kept in the nearest cache
LEAST_DELAYED = 16  # points of the sums whose results are worth to be multiplied and added apart
LONGEST_CHAIN = 512  # additions of f32 to one running value
WASTE = 2  # rows that packs have room for, to those there are


def fits_panels(found: Products, lanes: int, waste: int = WASTE) -> bool:
    """True where there are rows enough for the lanes, and nothing else than products of a row's and a column's side."""
    rows, columns = found.rows, found.columns
    if rows is None or found.inner or lanes < 4 or len(found.sums) > 2:
        return False
    if not is_dynamic(rows) and -(-extent_of(rows) // lanes) * lanes > waste * extent_of(rows):
        return False
    for s in found.sums:
        if s.dtype not in (F32, I32) or not {rows, columns} <= set(s.axes):
            return False
        for term in (t for group in s.groups for t in group):
            sides = split_sides(found, term)
            if len(sides) != 2 or any((rows in e.axes) == (columns in e.axes) for e in sides):
                return False
            if (rows in sides[0].axes and rows in sides[1].axes) or any(found.lanes not in e.axes for e in sides):
                return False
    return True


def _is_long(found: Products) -> bool:
    """True where the work is worth several workers."""
    axes = (*found.outer, found.rows, found.columns, *found.summed, found.lanes)
    known = [a.extent for a in axes if a is not None and isinstance(a.extent, int)]
    return math.prod(known) >= LONG


class PanelBuilder(PanelResults):
    """Builds the statements of a kernel of sums of products of many rows."""

    many = MANY_ROWS
    block = COLUMNS
    fetches = True
    least_delayed = LEAST_DELAYED

    def _most_rows(self, found: Products) -> int:
        few = found.across and extent_of(found.columns) <= FEW_COLUMNS
        many = MORE_ROWS * self.many // MANY_ROWS if few else self.many
        if not found.across or not _is_long(found):
            return many
        assert found.rows is not None
        return min(many, max(LEAST_ROWS, extent_of(found.rows) * math.prod(map(extent_of, found.outer)) // POINTS))

    def _columns_of(self, rows: Rows) -> int:
        if rows.dynamic or not _is_long(self.found):
            return COLUMNS
        blocks = extent_of(rows.blocks) * math.prod(map(extent_of, self.found.outer))
        columns = -(-extent_of(self.found.columns) * blocks // (POINTS * self.width)) * self.width
        return min(COLUMNS, max(LEAST_COLUMNS, columns))

    def _choose_tile(self, found: Products, size: int) -> Products:
        results = RESULTS[self.pack] // len(found.sums)
        packs = min(2, -(-size // self.pack))
        if found.across:
            packs = max(packs, min(-(-size // self.pack), results // min(STREAMS, extent_of(found.columns))))
        self.height = packs * self.pack
        self.width = max(1, min(STREAMS, RESULTS[self.pack] // (packs * len(found.sums))))
        self.passes = (
            found.across
            and found.rows is not None
            and extent_of(found.rows) % self.pack == 0
            and extent_of(found.columns) <= self.width
        )
        room = RESULTS[self.pack] // (packs * len(found.sums) * self.width)
        self.chains = 2 if room > 1 else 1
        self.local = Axis("lane", self.pack)
        return self._delay(found)

    def _delay(self, found: Products) -> Products:
        """The sums with what multiplies their results apart, where that is worth it."""
        is_long = not found.summed or extent_of(found.lanes) >= self.least_delayed
        delayed = delay_scales(found) if is_long else found
        fits = all(s.scale is None or found.rows not in s.scale.axes for s in delayed.sums)
        return delayed if fits else found

    @property
    def _most_packed(self) -> int:
        """Words of a column of a tile that are packed at once."""
        return PACKED

    @property
    def _adds(self) -> bool:
        return super()._adds or self._scales_parts

    @property
    def _scales_parts(self) -> bool:
        """True where the sums over the lanes are multiplied before they are added up."""
        return bool(self.found.summed) and any(s.scale is not None for s in self.found.sums)

    def _dynamic_rows(self, size: int) -> Rows:
        return panel_rows(self._span(), size, self.pack, self.height // self.pack, few_for(self.pack))

    def _find_blocks(self) -> tuple[Axis, Axis, int] | None:
        f = self.found
        axis = f.summed[0] if f.summed else f.lanes
        points = 1
        for a in (*f.summed, f.lanes):
            points *= extent_of(a) if a is not axis else 1
        size = PANEL_BYTES // (4 * self._padded_rows())
        if self.narrow.count == 1:  # others are rounded to less than what such sums lose
            size = min(size, LONGEST_CHAIN * (self.chains if extent_of(f.lanes) % 2 == 0 else 1))
        if any(p.columns for p in self.packed.values()):
            size = min(size, self._most_packed)
        size //= points
        size = max(1, size if f.summed else size // self.pack * self.pack)
        size = size if f.summed else max(self.pack, size)
        if size >= extent_of(axis):
            return None
        return axis, Axis(f"{axis.name}_b", -(-extent_of(axis) // size)), size

    def _is_plain(self, side: Operand) -> bool:
        """True for what needs no scratch array: elements in memory, those of a row along the lanes."""
        if self._is_across(side):
            return True
        parts = [stored_part(e) for e in side]
        loads = [e for e in parts if isinstance(e, Load) and e.guard is None]
        if len(loads) < len(side) or any(list(data_in(e.index[-1])) for e in loads):
            return False
        rows = self.found.rows
        if rows is not None and any(axis_coefficient(e.index[-1], rows) is None for e in loads):
            return False  # rows are digits of a place, and not so far apart as each other
        if self.found.columns in side[0].axes:
            return (len(side) > 1 and super()._is_plain(side)) or (len(side) == 1 and isinstance(side[0], Load))
        return axis_coefficient(loads[0].index[-1], self.found.lanes) == len(side) and (
            len(side) == 1 or super()._is_plain(side)
        )

    def _is_worth_packing(self, side: Operand) -> bool:
        return True  # only what lies in memory is turned

    # --- a tile --------------------------------------------------------------------------------------------------

    def _tile(self, tile: RowTile, column: Index, width: int, first: Index) -> list[Statement]:
        k = self.rows.tiles.index(tile)
        names = self._row_sides()
        states: list[Statement] = []
        updates: list[Update] = []
        single: list[Update] = []
        puts: list[Statement] = []
        chains = self._chains()
        for i, step in enumerate(chains):
            for s in self.found.sums:
                for j in range(width):
                    for u in range(self._packs(tile)):
                        name = f"{s.name}_{k}_{j}_{u}" + "_b" * i
                        states.append(State(name, s.dtype, const(0, s.dtype), self.local, self.pack))
                        value: Expr = Load(name, (), s.dtype)
                        for group in s.groups:
                            rows, columns = self._oriented(group)
                            a = self._from_panel(rows, names[rows], k, tile, u)
                            b = self.side(columns, {self.found.columns: column + j}, j)
                            value = op("add", value, add_up([op("mul", x, y) for x, y in zip(a, b, strict=True)]))
                        updates.append(Update((name,), (step(value),)))
                        if i == 0:
                            single.append(Update((name,), (value,)))
                            if not self._stores_at_once:
                                puts.append(self._keep_pack(s, name, tile, column + j - first, first, u, len(chains)))
        fetches = self._fetches(column, width) if k == 0 else []
        points = self._over_points(updates, single, len(chains), fetches)
        if self._stores_at_once:
            puts = self._results_of(k, tile, column, width, len(chains))
        keep = Loop("lanes", self.local, tuple(puts), self.pack)
        if self._scales_parts:
            return self._over_outer([*states, *points, keep])
        return [*states, *self._over_outer(points), keep]

    def _over_points(
        self, updates: Sequence[Update], single: Sequence[Update], chains: int, fetches: Sequence[Statement]
    ) -> list[Statement]:
        """The loops over the points of the sum: over lines of the cache, at each of which `fetches` are done once, and
        over the points that are left. `updates` are of a point for each of the chains, `single` of one.
        """
        lanes, line = self.found.lanes, self._line()
        begin, end = self._limits(lanes)
        point, points = (Loop("lanes", self.local, tuple(made), self.pack) for made in (single, updates))
        unit = line if fetches and self._divides(line) else chains
        whole, left = divmod(extent_of(lanes), unit)
        first, last = (None if i is None else i // unit for i in (begin, end))
        done: list[Statement] = []
        if whole and unit == line:
            lines = Axis(f"{lanes.name}_l", whole)
            start, axis = of_atom(lines) * (line // chains), lanes if chains == 1 else self._twos()
            inner = Loop("serial", axis, (points,), 1, start, start + line // chains)
            done.append(Loop("serial", lines, (*fetches, inner), 1, first, last))
        elif whole:
            done.append(Loop("serial", lanes if chains == 1 else self._twos(), (points,), 1, first, last))
        if left:
            done.append(Loop("serial", lanes, (point,), 1, Index((), whole * unit), end))
        return done

    def _fetch_packed(self, column: Index, width: int) -> list[Statement]:
        """Asks for what the operands of the next columns are computed of, line by line."""
        f = self.found
        sides = [side[0] for side, p in self.packed.items() if p.columns]
        buffers = f.kernel.buffers
        loads = [e for e in loads_in(*sides) if {f.columns, f.lanes} <= e.axes and e.name in buffers]
        done: list[Statement] = []
        for k, e in enumerate(loads):
            step = axis_coefficient(e.index[0], f.lanes)
            if not isinstance(step, int) or step < 1 or e.guard is not None:
                continue
            points = max(1, LINE // (step * e.dtype.itemsize))
            begin, end = self._limits(f.lanes)
            if self.deep is not None and self._block_points(f.lanes) % points:
                continue
            lines = Axis(f"{f.lanes.name}_f{k}", -(-extent_of(f.lanes) // points))
            at = {f.lanes: of_atom(lines) * points}
            places = [Rewriter({f.columns: column + (width + j), **at}).index(e.index[0]) for j in range(width)]
            asks = [Fetch(e.name, place) for place in places]
            first, last = (None if i is None else i // points for i in (begin, end))
            done += self._over_outer([Loop("serial", lines, tuple(asks), 1, first, last)])
        return done

    def _line(self) -> int:
        """Points of the sum in a line of the cache."""
        return LINE // 4

    def _fetches(self, column: Index, width: int) -> list[Statement]:
        """Asks for what the next columns are multiplied with, at the points of a line."""
        f = self.found
        lines = of_atom(Axis(f"{f.lanes.name}_l", extent_of(f.lanes) // self._line())) * self._line()
        done: list[Statement] = []
        for side in dict.fromkeys(self._oriented(g)[1] for s in f.sums for g in s.groups):
            e = stored_part(side[0])
            if side in self.packed or not isinstance(e, Load):
                continue
            for j in range(width):
                place = Rewriter({f.columns: column + (width + j), f.lanes: lines})
                done.append(Fetch(e.name, place.index(e.index[0])))
        return done

    def _chains(self) -> list[Rewriter]:
        """Where each of the chains of additions of a result stands: at all points, or at every other one."""
        lanes = self.found.lanes
        if self.chains == 1 or extent_of(lanes) < 2 or not self._divides(2):
            return [Rewriter()]
        return [Rewriter({lanes: of_atom(self._twos()) * 2 + i}) for i in range(2)]

    def _divides(self, points: int) -> bool:
        """True where loops may run by so many points: what is left of the lanes belongs to no one block of them."""
        lanes = self.found.lanes
        return self._block_points(lanes) == extent_of(lanes) or not (
            extent_of(lanes) % points or self._block_points(lanes) % points
        )

    def _twos(self) -> Axis:
        return Axis(f"{self.found.lanes.name}_p", extent_of(self.found.lanes) // 2)

    def _before_tiles(self, column: Index, width: int, first: Index) -> list[Statement]:
        """What the shift of the rows' operands adds to all results of each column."""
        done: list[Statement] = []
        for s in (s for s in self.found.sums if s.shift):
            array = f"{s.name}_shift{self.part}"
            self.scratch[array] = Scratch(array, s.dtype, (self.block,))
            states, updates, after = list[Statement](), list[Statement](), list[Statement]()
            for j in range(width):
                name, at = f"{s.name}_s_{j}", {self.found.columns: column + j}
                states.append(State(name, s.dtype, const(0, s.dtype), self.found.lanes, self.pack))
                value: Expr = Load(name, (), s.dtype)
                for group in s.groups:
                    side = self.side(self._oriented(group)[1], at, j)
                    value = op("add", value, add_up([op("mul", const(s.shift, s.dtype), e) for e in side]))
                updates.append(Update((name,), (value,)))
                after += [Fold((name,), "sum"), Put(array, (column + j - first,), Load(name, (), s.dtype))]
            done += [*states, self.over_sum(updates), *after]
        return done

    def _from_panel(self, side: Operand, name: str, k: int, tile: RowTile, u: int) -> list[Expr]:
        """The operands of a pack of rows."""
        begin, _ = self._limits(self.found.lanes)
        at = of_atom(self.found.lanes) if begin is None else of_atom(self.found.lanes) - begin
        row, count = self._tile_base(k, tile) + self._panel_place(at), len(side)
        if self.passes:
            assert self.found.rows is not None
            here = Rewriter({self.found.rows: self.rows.first + tile.row(0) + of_atom(self.local) + self.pack * u})
            return [here(e) for e in side]
        found: list[Expr] = []
        for n, e in enumerate(side):
            place = of_atom(self.local) * count + (count * self.pack * u + n)
            held = Load(name, (row, place), self._panel_type(side))
            if side in self.packed or self._is_across(side):
                found.append(cast(held, e.dtype))
            else:
                found.append(Rewriter(load=lambda _, held=held: held)(e))
        return found

    def side(self, side: Operand, at: dict[Axis, Index], j: int) -> list[Expr]:
        packed = self.packed.get(side)
        if packed is not None and len(side) == 1:
            return [self._read_packed(packed, at, j)]
        return super().side(side, at, j)
