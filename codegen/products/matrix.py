"""Sums of products of narrow numbers on tile registers: of 16 columns and 16 rows, 64 bytes of the sum at once.

    y[t, n] = sum(c) x[t, c] * w[n, c]      bf16, with t:256, n:128, tiles of 32 rows and 32 columns
->
stage panel[t / 32][c / 2, t % 32, c % 2] <- x[t, c]          pairs of points, turned in registers
serial n by 32:
  serial t by 32:
    tiles n by 16:
      tiles t by 16:
        state y: f32 = 0
        lanes c / 2 by 16: dot y of w[n, c], panel[c / 2, t, 0]
                           dot y of w[n, c + 1], panel[c / 2, t, 1]
        y_cols[n, t] <- y

All but the sums themselves is as for panels: their operands are the registers' right ones as they are. The left ones
are the larger operand, 64 bytes of each of 16 columns, as they lie in memory or in packs (Intel's Architecture
Instruction Set Extensions Programming Reference, chapter 3). Packs leave a line free behind each column, so that
columns do not share their places in the nearest cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import Expr, Load, Rewriter, const
from ...ir.index import Axis, Index, axis_coefficient, of_atom
from ...ir.scalar import op
from ...ir.tiles import Dot, Loop, Put, Scratch, State, Statement
from ...ir.types import BF16, I8, U8
from .blocks import RowTile
from .find import Products, Sum, is_dynamic
from .narrow import Operand, stored_part, take_together
from .packs import Packed
from .panel import PanelBuilder, fits_panels

SIDE = 16  # rows of a tile, and its words of 32 bits
SUMS = 4  # tiles of running values: two columns by two rows
ANY = SIDE  # rows that tiles have room for, to those there are: a single one is a tile too
NARROW = (BF16, I8, U8)
LINE = 64  # bytes
PACKED = 8192  # words of a tile's columns that are kept in the nearest cache


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """The tile registers of a processor: whether they multiply pairs of bf16, and quads of bytes.

    packs  the larger operand is copied to packs too where it could be read as it lies
    """

    pairs: bool
    quads: bool
    packs: bool = False


def make_matrix(found: Products, lanes: int, unit: MatrixUnit) -> MatrixBuilder | None:
    """The builder of a kernel whose sums fit tile registers; None for others."""
    if lanes != SIDE or found.across or found.rows is None or is_dynamic(found.rows):
        return None
    narrow = take_together(found, lanes, unit.pairs, unit.quads, shared=True, any_signs=True)
    if narrow.count == 1 or not fits_panels(narrow.found, lanes, ANY):
        return None
    builder = MatrixBuilder(found, lanes, unit.pairs, unit.quads, unit.packs)
    return builder if builder.narrow.count > 1 else None  # what is taken out of sums may leave wide numbers


class MatrixBuilder(PanelBuilder):
    """Builds the statements of a kernel of sums of products, for tile registers."""

    fetches = False
    any_signs = True
    least_delayed = 128  # shorter groups are scaled with their operands

    def __init__(self, found: Products, lanes: int, pairs: bool, quads: bool, packs: bool) -> None:
        self.packs = packs
        super().__init__(found, lanes, pairs, quads)

    def _choose_tile(self, found: Products, size: int) -> Products:
        rows = min(2, -(-size // SIDE))
        self.height = rows * SIDE
        self.width = SUMS // (rows * len(found.sums)) * SIDE
        self.passes, self.chains = False, 1
        self.local = Axis("lane", SIDE)
        return self._delay(found)

    def _column_parts(self, count: int, block: int) -> list[tuple[int, int, int]]:
        """Blocks, whole tiles, whole registers, and the columns that are left: fewer than a register has."""
        blocks, tiles, whole = (count // n * n for n in (block, self.width, SIDE))
        left = max(1, count - whole)
        return [(0, blocks, self.width), (blocks, tiles, self.width), (tiles, whole, SIDE), (whole, count, left)]

    @property
    def _most_packed(self) -> int:
        return PACKED // self.width

    @property
    def _stores_at_once(self) -> bool:
        return False

    # --- operands ------------------------------------------------------------------------------------------------

    def _is_plain(self, side: Operand) -> bool:
        """True for what registers load from memory: narrow numbers, those of neighbouring columns evenly apart."""
        if not super()._is_plain(side):
            return False
        parts = [stored_part(e) for e in side]
        if self.found.columns not in side[0].axes:
            return all(e.dtype in NARROW for e in parts)
        loads = [e for e in parts if isinstance(e, Load) and e.dtype in NARROW]
        even = all(isinstance(axis_coefficient(e.index[-1], self.found.columns), int) for e in loads)
        return len(loads) == len(parts) and even and not self.packs

    def _gap_of(self, packed: Packed) -> int:
        return LINE // packed.dtype.itemsize if packed.columns else 0

    def _pack_columns(self, column: Index, width: int) -> list[Statement]:
        local = self._local_column(width)
        at = {self.found.columns: column + of_atom(local)}
        body = self._pack([(e, p, at, of_atom(local)) for e, p in self.packed.items() if p.columns])
        return [Loop("serial", local, tuple(body))] if body else []

    def _fetch_packed(self, column: Index, width: int) -> list[Statement]:
        return []

    def _local_column(self, width: int) -> Axis:
        """The columns of a tile."""
        return Axis(f"{self.found.columns.name}_l", width)

    def _left(self, side: Operand, column: Index, local: Axis) -> list[Expr]:
        """The operands of a column, as they are stored."""
        packed, at = self.packed.get(side), {self.found.columns: column + of_atom(local)}
        if packed is not None:
            return [self._read_packed(packed, at, of_atom(local), k) for k in range(len(side))]
        return [Rewriter(at)(stored_part(e)) for e in side]

    def _right(self, side: Operand, name: str, tile: RowTile, local: Axis) -> list[Expr]:
        """The operands of a row, from its panel."""
        begin, _ = self._limits(self.found.lanes)
        at = of_atom(self.found.lanes) if begin is None else of_atom(self.found.lanes) - begin
        row = self._tile_base(self.rows.tiles.index(tile), tile) + self._panel_place(at)
        count, dtype = len(side), self._panel_type(side)
        return [Load(name, (row, of_atom(local) * count + n), dtype) for n in range(count)]

    # --- a tile --------------------------------------------------------------------------------------------------

    def _tile(self, tile: RowTile, column: Index, width: int, first: Index) -> list[Statement]:
        f = self.found
        assert f.rows is not None
        columns, rows = self._local_column(width), Axis(f"{f.rows.name}_l", self._packs(tile) * SIDE)
        names = self._row_sides()
        states, dots, puts, scaled = list[Statement](), list[Statement](), list[Statement](), list[Statement]()
        for s in f.sums:
            own = Load(s.name, (), s.dtype)
            place = (column + of_atom(columns) - first, tile.row(0) + of_atom(rows))
            result = Load(self._columns_array(s), place, s.dtype)
            keeps = self._adds and s.scale is None
            states.append(State(s.name, s.dtype, result if keeps else const(0, s.dtype)))
            for group in s.groups:
                x, w = self._oriented(group)
                sides = zip(self._left(w, column, columns), self._right(x, names[x], tile, rows), strict=True)
                dots += [Dot(s.name, a, b) for a, b in sides]
            if s.scale is None:
                puts.append(Put(result.name, place, own))
                continue
            part = Load(self._part_array(s), (of_atom(columns), of_atom(rows)), s.dtype)
            puts.append(Put(part.name, part.index, own))
            scaled.append(self._scaled(s, result, part, column + of_atom(columns)))
        body = [*states, *self._over_dots(dots), *puts]
        made: list[Statement] = [Loop("tiles", columns, (Loop("tiles", rows, tuple(body), SIDE),), min(SIDE, width))]
        if scaled:
            made.append(Loop("serial", columns, (Loop("lanes", rows, tuple(scaled), self.pack),)))
        return self._over_outer(made) if self._scales_parts else made

    def _over_dots(self, dots: Sequence[Statement]) -> list[Statement]:
        """The loops over the points of a sum: those of a group, where its results are scaled."""
        loop = self.over_lanes(list(dots))
        return [loop] if self._scales_parts else self._over_outer([loop])

    def _part_array(self, s: Sum) -> str:
        """The sums of a tile that are not scaled yet."""
        name = f"{s.name}_tile{self.part}"
        if name not in self.scratch:
            self.scratch[name] = Scratch(name, s.dtype, (self.width, self.height))
        return name

    def _scaled(self, s: Sum, result: Load, part: Load, column: Index) -> Put:
        """Leaves sums times their scale where the results are, or adds them to what is there."""
        assert s.scale is not None
        value = op("mul", part, Rewriter({self.found.columns: column})(s.scale))
        return Put(result.name, result.index, op("add", result, value) if self._adds else value)
