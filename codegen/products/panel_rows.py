"""The operands of a block's rows as panels: rows of a panel are points of the sum, its lanes are rows of the block.

panel[t / 32][c, t % 32] <- x[t, c]     turned in registers where x is dense along the sum
panel[t / 32][c, t % 32] <- x[c, t]     copied where it is dense along the rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...ir.expr import Expr, Load
from ...ir.index import Axis, Index, axis_coefficient, of_atom
from ...ir.tiles import Loop, Put, Scratch, Stage, Statement
from ...ir.types import DType
from .blocks import RowTile
from .find import extent_of
from .narrow import Operand, narrow_type, stored_part
from .packs import narrowed
from .tiles import ProductBuilder


class RowPanels(ProductBuilder):
    """The panels of a block of rows.

    passes  tiles read the operands where they lie, without panels
    """

    passes: bool

    def _is_across(self, side: Operand) -> bool:
        """True for operands of rows that are taken as they lie: along the rows."""
        rows = self.found.rows
        if rows is None or rows not in side[0].axes or self.rows.dynamic:
            return False
        if self.found.across:
            return True
        loads = [e for e in map(stored_part, side) if isinstance(e, Load) and e.guard is None]
        return len(loads) == len(side) and all(axis_coefficient(e.index[-1], rows) == 1 for e in loads)

    def _row_sides(self) -> dict[Operand, str]:
        """The operands of rows, with the names of their arrays."""
        sides = dict.fromkeys(self._oriented(g)[0] for s in self.found.sums for g in s.groups)
        part = "" if self.hoists else self.part  # what is turned once serves all parts
        return {side: f"panel{k}{part}" for k, side in enumerate(sides)}

    def _oriented(self, group: Sequence[Expr]) -> tuple[Operand, Operand]:
        """The sides of a group: that of the rows, that of the columns."""
        a, b = self.sides(group)
        return (b, a) if self.found.columns in a[0].axes else (a, b)

    def _pack_rows(self) -> list[Statement]:
        """Computes operands that are no plain loads, and turns all of them."""
        turned: list[Statement] = []
        for k, tile in enumerate(self.rows.tiles):
            copied = {side: name for side, name in self._row_sides().items() if self._is_across(side)}
            turned += self._over_outer(self._copies(copied, k, tile)) if copied and not self.passes else []
            stages: list[Statement] = []
            for side, name in self._row_sides().items():
                stages += [] if side in copied else self._stages(side, name, k, tile)
            if not stages:
                continue
            chunks = self._chunks()
            body: list[Statement] = [Loop("serial", chunks, tuple(stages))] if chunks.extent != 1 else stages
            body = self._over_outer(body)
            turned += tile.loop(body)
        return [*super()._pack_rows(), *turned]

    def _stages(self, side: Operand, name: str, k: int, tile: RowTile) -> list[Statement]:
        f, value = self.found, self._panel_source(side)
        assert f.rows is not None
        count, width = len(side), self.height * len(side)
        if name not in self.scratch:
            panels = self.rows.size // self.height if self.rows.dynamic else len(self._tile_starts())
            rows = panels * self._tile_points()
            self.scratch[name] = Scratch(name, value.dtype, (rows, width), count > 1)
        begin, _ = self._limits(f.lanes)
        at = of_atom(self._chunks()) * self.pack if self._chunks().extent != 1 else Index(())
        row = at if begin is None else at + begin
        base = self._tile_base(k, tile) + self._panel_place(at)
        found: list[Statement] = []
        for u in range(self._packs(tile)):
            lane = self.rows.first + tile.row(0) + self.pack * u
            place = base, Index((), count * self.pack * u)
            found.append(Stage(name, place, value, f.lanes, f.rows, row, lane, self.pack, count))
        return found

    def _copies(self, sides: Mapping[Operand, str], k: int, tile: RowTile) -> list[Statement]:
        """Computes operands of a tile's rows, all rows of a point at once."""
        f = self.found
        assert f.rows is not None
        begin, end = self._limits(f.lanes)
        at = of_atom(f.lanes) if begin is None else of_atom(f.lanes) - begin
        first = self.rows.first + tile.row(0)
        puts: list[Statement] = []
        for side, name in sides.items():
            dtype = self._panel_type(side)
            count = len(side)
            if name not in self.scratch:
                rows = len(self._tile_starts()) * self._tile_points()
                self.scratch[name] = Scratch(name, dtype, (rows, self.height * count), count > 1)
            row = self._tile_base(k, tile) + self._panel_place(at)
            for n, e in enumerate(side):
                puts.append(Put(name, (row, (of_atom(f.rows) - first) * count + n), narrowed(e, dtype)))
        loop = Loop("lanes", f.rows, tuple(puts), self.pack, first, first + tile.height)
        return [Loop("serial", f.lanes, tuple(tile.loop([loop])), 1, begin, end)]

    def _panel_type(self, side: Operand) -> DType:
        """The type of a panel's elements."""
        if not self._is_across(side):
            return self._panel_source(side).dtype
        return side[0].dtype if len(side) == 1 else narrow_type(side)

    def _panel_source(self, side: Operand) -> Load:
        """What is turned: the first element of each group."""
        packed = self.packed.get(side)
        value = self._read_packed(packed, {}, 0) if packed is not None else stored_part(side[0])
        assert isinstance(value, Load)
        return value

    def _chunks(self) -> Axis:
        return Axis(f"{self.found.lanes.name}_w", -(-self._block_points(self.found.lanes) // self.pack))

    def _block_points(self, axis: Axis) -> int:
        """Points of an axis that is summed over, in a block."""
        return self.deep[2] if self.deep is not None and self.deep[0] is axis else extent_of(axis)

    def _tile_points(self) -> int:
        """Rows of a panel: the points of the sum in a block, whole tiles of them."""
        points = -(-self._block_points(self.found.lanes) // self.pack) * self.pack
        for a in self.found.summed:
            points *= self._block_points(a)
        return points

    def _panel_place(self, lanes: Index) -> Index:
        """The row of a panel: at a place of the lanes in their block, and the current point of the other axes."""
        place = Index(())
        for a in self.found.summed:
            begin, _ = self._limits(a)
            place = place * self._block_points(a) + (of_atom(a) if begin is None else of_atom(a) - begin)
        return place * (-(-self._block_points(self.found.lanes) // self.pack) * self.pack) + lanes

    def _tile_starts(self) -> list[int]:
        """The first rows of the tiles of a block."""
        return [
            t.label + i * t.height
            for t in self.rows.tiles for i in range(1 if t.axis is None else extent_of(t.axis))
        ]  # fmt: skip

    def _tile_base(self, k: int, tile: RowTile) -> Index:
        """Where the panel of a tile starts."""
        if tile.place is not None:
            return tile.place * self._tile_points()
        if tile.axis is not None:
            return of_atom(tile.axis) * self._tile_points()
        return Index((), self._tile_starts().index(tile.label) * self._tile_points())

    def _packs(self, tile: RowTile) -> int:
        return -(-tile.height // self.pack)

    def _padded_rows(self) -> int:
        return -(-self.rows.size // self.pack) * self.pack

    def _over_outer(self, body: list[Statement]) -> list[Statement]:
        """Loops over the axes around the lanes."""
        for axis in reversed(self.found.summed):
            begin, end = self._limits(axis)
            body = [Loop("serial", axis, tuple(body), 1, begin, end)]
        return body
