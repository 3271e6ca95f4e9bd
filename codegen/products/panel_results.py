"""The sums of a block of many rows: turned so that those of a row are together, or stored as they are."""

from __future__ import annotations

from ...ir.expr import Expr, Load, Rewriter, const
from ...ir.index import Axis, Index, axis_coefficient, of_atom
from ...ir.loops import Store
from ...ir.scalar import op
from ...ir.tiles import Loop, Put, Scratch, Stage, Statement
from .blocks import RowTile
from .counts import add, counted, divide
from .find import Sum, extent_of
from .packs import add_up
from .panel_rows import RowPanels


class PanelResults(RowPanels):
    """What is done with the results of tiles whose lanes are rows; `local` is the axis of a pack's lanes."""

    local: Axis

    @property
    def _stores_at_once(self) -> bool:
        """True where results go from registers to memory: sums are whole, and rows fill packs that lie side by side."""
        rows = self.found.rows
        plain = not any(s.shift or s.rest or s.scale is not None for s in self.found.sums)
        whole = rows is not None and not self.rows.dynamic and extent_of(rows) % self.pack == 0
        return self._stores_columns and plain and whole and not self._adds

    def _results_of(self, k: int, tile: RowTile, column: Index, width: int, chains: int) -> list[Statement]:
        """The stores of a tile's results."""
        f = self.found
        assert f.rows is not None
        dtypes = {s.name: s.dtype for s in f.sums}
        done: list[Statement] = []
        for store in f.stores:
            for j in range(width):
                for u in range(self._packs(tile)):
                    row = self.rows.first + tile.row(0) + of_atom(self.local) + self.pack * u

                    def read(e: Load, j: int = j, u: int = u) -> Expr:
                        if e.name not in dtypes:
                            return e
                        parts = [Load(f"{e.name}_{k}_{j}_{u}" + "_b" * i, (), e.dtype) for i in range(chains)]
                        return add_up(parts)

                    at = Rewriter({f.rows: row, f.columns: column + j}, read)
                    done.append(Put(store.buffer, tuple(map(at.index, store.index)), at(store.value)))
        return done

    def _columns_array(self, s: Sum) -> str:
        """The sums of a block, each column's together."""
        name = f"{s.name}_cols{self.part}"
        if name not in self.scratch:
            self.scratch[name] = Scratch(name, s.dtype, (self._padded_columns(), self._padded_rows()))
        return name

    def _padded_columns(self) -> int:
        """The columns of a block, as whole packs: that is how they are turned."""
        return -(-self.block // self.pack) * self.pack

    def _keep_pack(
        self, s: Sum, name: str, tile: RowTile, column: Index, first: Index, u: int, chains: int
    ) -> Put:  # fmt: skip
        """Leaves a pack of results in the column's place of the array, or adds it to what is there."""
        index = column, of_atom(self.local) + tile.row(0) + self.pack * u
        value: Expr = add_up([Load(name + "_b" * i, (), s.dtype) for i in range(chains)])
        if s.scale is not None:
            value = op("mul", value, Rewriter({self.found.columns: column + first})(s.scale))
        array = self._columns_array(s)
        if s.shift:
            value = op("sub", value, Load(f"{s.name}_shift{self.part}", (column,), s.dtype))
        if self._adds:
            value = op("add", Load(array, index, s.dtype), value)
        return Put(array, index, value)

    def _clear(self, first: Index, size: int) -> list[Statement]:
        columns, rows = Axis("column", size), Axis("row", self._padded_rows())
        puts = [
            Put(self._columns_array(s), (of_atom(columns), of_atom(rows)), const(0, s.dtype)) for s in self.found.sums
        ]
        return [Loop("serial", columns, (Loop("lanes", rows, tuple(puts), self.pack),))]

    def _after_sums(self, first: Index, size: int) -> list[Statement]:
        """Turns the sums, so that those of a row are together, unless results are stored as they are."""
        f, n = self.found, self.pack
        assert f.rows is not None
        if self._stores_columns:
            return []  # they lie side by side already
        across, along = Axis("row_w", self._padded_rows() // n), Axis("column_w", -(-size // n))
        start, begin, end = of_atom(across) * n, None, None
        if self.rows.span is not None:  # packs of rows that are there
            packs = self._padded_rows() // n
            across = counted("row_w", divide(add(self.rows.span.count, n - 1), n))
            begin = of_atom(self.rows.blocks) * packs
            start, end = (of_atom(across) - begin) * n, begin + packs
        stages: list[Statement] = []
        for s in f.sums:
            value = Load(
                self._columns_array(s), (of_atom(f.columns) - first, of_atom(f.rows) - self.rows.first), s.dtype
            )
            at = start, of_atom(along) * n
            row, lane = start + self.rows.first, of_atom(along) * n + first
            stages.append(Stage(self._array(s), at, value, f.rows, f.columns, row, lane, n))
        return [Loop("serial", across, (Loop("serial", along, tuple(stages)),), 1, begin, end)]

    @property
    def _stores_columns(self) -> bool:
        """True where the results of a column, and not those of a row, lie side by side in memory."""
        rows = self.found.rows
        return rows is not None and all(axis_coefficient(s.index[-1], rows) == 1 for s in self.found.stores)

    def _store(self, s: Store, first: Index, size: int) -> list[Statement]:
        return [] if self._stores_at_once else super()._store(s, first, size)

    def _over_results(self, put: Put, first: Index, size: int) -> list[Statement]:
        f = self.found
        if not self._stores_columns or f.rows is None:
            return super()._over_results(put, first, size)
        begin, end = self.rows.limits
        loop = Loop("lanes", f.rows, (put,), self.pack, begin, end)
        return [Loop("serial", f.columns, (loop,), 1, first, first + size)]

    def _array(self, s: Sum) -> str:
        if self._stores_columns:
            return self._columns_array(s)
        name = f"{s.name}_all{self.part}"
        if name not in self.scratch:
            self.scratch[name] = Scratch(name, s.dtype, (self._padded_rows(), self._padded_columns()))
        return name

    def _result(self, s: Sum, at: dict[Axis, Index], first: Index) -> tuple[Index, ...]:
        f = self.found
        assert f.rows is not None
        row, column = of_atom(f.rows) - self.rows.first, of_atom(f.columns) - first
        return (column, row) if self._stores_columns else (row, column)
