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

The axis of the larger operand is the outer one, so that each of its elements is read from memory once. A tile of one
result computes what a tile of many does, in the same order: results do not depend on how an axis is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..ir.expr import Const, Expr, Load, Op, Rewriter, const, loads_in, product_factors
from ..ir.index import Axis, Index, axis_coefficient, of_atom
from ..ir.loops import Equation, Kernel, Store, statement_expressions
from ..ir.scalar import op
from ..ir.tiles import Fold, Let, Loop, Put, Scratch, State, Statement, Update
from ..ir.types import Dim
from .tiling_keep import recompute

BLOCK = 64  # results along the outer axis that wait in the nearest cache for what is computed of them
REGISTERS = {16: 30, 8: 14, 4: 14, 2: 14}  # values of a tile that stay in registers, by the lanes of a pack
MOST_ROWS = 5  # of a tile: more leave no room for columns


@dataclass(frozen=True, slots=True)
class Products:
    """The sums of a kernel, and how its axes are run.

    lanes    the axis that is summed over, along which the larger operands are dense in memory
    summed   other axes that are summed over, around the lanes
    columns  the kept axis of the larger operands that is tiled, rows that of the smaller ones (None: there is none)
    outer    other kept axes, outside of the columns; inner: others of the smaller operands, inside of them
    """

    kernel: Kernel
    sums: tuple[Equation, ...]
    stores: tuple[Store, ...]
    lanes: Axis
    summed: tuple[Axis, ...]
    columns: Axis
    rows: Axis | None
    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]


def find_products(kernel: Kernel) -> Products | None:
    """The sums of products of a prepared kernel that is nothing else; None for all other kernels."""
    if not any(isinstance(s, Equation) and s.state == "sum" and not s.scan for s in kernel.body):
        return None
    kernel = recompute(kernel, lambda e: True)
    sums = tuple(s for s in kernel.body if isinstance(s, Equation))
    stores = kernel.stores
    if any(s.state != "sum" or s.scan for s in sums):
        return None
    whole = [s for s in sums if has_products(s)]
    axes, summed = (whole[0].axes, set(whole[0].reduce)) if whole else ((), set[Axis]())
    static = all(isinstance(a.extent, int) and a.extent > 0 and not a.is_ragged for a in (*axes, *summed))
    if not whole or not static or any(set(s.reduce) != summed or not set(s.axes) <= set(axes) for s in sums):
        return None
    if any(set(s.axes) != set(axes) or not _reads_own(s, kernel) for s in (*whole, *stores)):
        return None
    if not all(s.injective and s.mode == "set" and s.guard is None for s in stores) or _feeds_itself(sums, stores):
        return None
    return _with_axes(kernel, sums, stores, whole[0])


def has_products(s: Equation) -> bool:
    """True for a sum of products, or of sums of them, whose operands are not all of its own: tiles share them."""
    kept, summed = frozenset(s.axes), frozenset(s.reduce)
    for term in _terms(s.args[0]):
        operands = [f for f in product_factors(term) if f.axes & summed]
        if len(operands) < 2 or all(kept <= f.axes for f in operands):
            return False
    return True


def _terms(e: Expr) -> list[Expr]:
    if isinstance(e, Op) and e.name == "add":
        return [t for a in e.args for t in _terms(a)]
    return [e]


def _reads_own(s: Equation | Store, kernel: Kernel) -> bool:
    """True where sums are read at the statement's own point."""
    for e in loads_in(*statement_expressions(s)):
        equation = kernel.equations.get(e.name)
        if equation is not None and (
            e.guard is not None or not all(i.single_axis is a for i, a in zip(e.index, equation.axes, strict=True))
        ):
            return False
    return True


def _feeds_itself(sums: Iterable[Equation], stores: Iterable[Store]) -> bool:
    """True where a sum waits for another one, or reads what is stored."""
    written = {s.buffer for s in stores} | {n for s in sums for n in s.names}
    return any(e.name in written for s in sums for e in loads_in(*s.args))


def _with_axes(
    kernel: Kernel, sums: tuple[Equation, ...], stores: tuple[Store, ...], main: Equation
) -> Products | None:  # fmt: skip
    """The roles of the axes; None where the larger operand is not dense along one that is summed over."""
    kept, summed = frozenset(main.axes), frozenset(main.reduce)
    loads = [e for e in loads_in(*main.args) if e.name in kernel.buffers and e.axes & summed]
    if not loads:
        return None
    large = max(loads, key=lambda e: math.prod(_extent(a) for a in e.axes))
    lanes = next((a for a in main.reduce if axis_coefficient(large.index[-1], a) == 1), None)
    if lanes is None or lanes.extent == 1:
        return None
    loads = [e for e in loads if lanes in e.axes]
    own = [a for a in main.axes if a in large.axes]
    rest = [a for a in main.axes if a not in large.axes]
    alone = [a for a in own if not all(a in e.axes for e in loads)]
    if not alone:
        return None
    columns = max(alone, key=_extent)
    rows = max(rest, key=_extent) if rest else None
    outer = tuple(a for a in own if a is not columns)
    inner = tuple(a for a in rest if a is not rows)
    around = tuple(a for a in main.reduce if a is not lanes)
    sums = tuple(s if s.operand_dtype is None else replace(s, args=(_grouped(s.args[0], columns),)) for s in sums)
    return Products(kernel, sums, stores, lanes, around, columns, rows, outer, inner)


def _grouped(e: Expr, columns: Axis) -> Expr:
    """The same products with all factors of each operand multiplied first: once a column or row, not once a result.

    Only for sums that round their operands: others are taken as they were written.
    """
    if isinstance(e, Op) and e.name == "add":
        return op("add", *(_grouped(a, columns) for a in e.args))
    factors = product_factors(e)
    sides = [f for f in factors if columns not in f.axes], [f for f in factors if columns in f.axes]
    return op("mul", *map(_multiplied, sides)) if len(factors) > 2 and all(sides) else e


def _multiplied(factors: Sequence[Expr]) -> Expr:
    value = factors[0]
    for f in factors[1:]:
        value = op("mul", value, f)
    return value


def _extent(a: Axis) -> int:
    assert isinstance(a.extent, int)
    return a.extent


def choose_tile(rows: int, sums: int, lanes: int) -> tuple[int, int]:
    """Rows and columns of a register tile of `sums` results each: as many as registers hold with their operands."""
    room = REGISTERS.get(lanes, 14)
    height = -(-rows // -(-rows // (MOST_ROWS if room > 16 else 4)))
    for width in (8, 4, 2):
        if sums * height * width + height + sums * width <= room:
            return height, width
    return (height, 1) if sums * height + height + sums <= room else (1, 1)


class ProductBuilder:
    """Builds the statements of a kernel of sums of products, for packs of `lanes`."""

    def __init__(self, found: Products, lanes: int) -> None:
        self.found = found
        self.pack = lanes
        self.scratch: dict[str, Scratch] = {}
        self.part = ""
        self.height, self.width = choose_tile(
            1 if found.rows is None else _extent(found.rows), sum(map(has_products, found.sums)), lanes
        )

    def build(self) -> list[Statement]:
        """Whole blocks of columns, the rest of whole tiles, and the columns that are left."""
        count = _extent(self.found.columns)
        blocks = count // BLOCK * BLOCK
        tiles = count // self.width * self.width
        done: list[Statement] = []
        for begin, end, width in ((0, blocks, self.width), (blocks, tiles, self.width), (tiles, count, 1)):
            if begin < end:
                self.part = f"_part{len(done)}" if done else ""
                done += self._part(begin, end, width)
        return done

    # --- loops ---------------------------------------------------------------------------------------------------

    def _part(self, begin: int, end: int, width: int) -> list[Statement]:
        """The columns from `begin` to `end`, which are whole blocks or less than one, in tiles of `width`."""
        f = self.found
        columns, size = f.columns, min(BLOCK, end - begin)
        blocks = Axis(f"{columns.name}_b", (end - begin) // size)
        tiles = Axis(f"{columns.name}_t", _extent(columns) // width)
        first = of_atom(blocks) * size + begin
        start = first // width
        body: list[Statement] = []
        for tile in self._row_tiles():
            body += self._around_rows(tile, self._tile(tile, of_atom(tiles) * width, width, first))
        sums: Statement = Loop("serial", tiles, tuple(body), 1, start, start + size // width)
        loops: list[Statement] = [sums, *(s for store in f.stores for s in self._store(store, first, size))]
        for axis in (blocks, *reversed(f.outer)):
            loops = [Loop("grid", axis, tuple(loops))]
        return loops

    def _row_tiles(self) -> list[tuple[Axis | None, int, int]]:
        """(the axis of the tiles, None for a single one; the first row; how many rows a tile has)."""
        rows = self.found.rows
        if rows is None:
            return [(None, 0, 1)]
        count = _extent(rows)
        whole = count // self.height
        found: list[tuple[Axis | None, int, int]] = []
        if whole:
            found.append((Axis(f"{rows.name}_t", whole) if whole > 1 else None, 0, self.height))
        if count % self.height:
            found.append((None, whole * self.height, count % self.height))
        return found

    def _around_rows(self, tile: tuple[Axis | None, int, int], body: list[Statement]) -> list[Statement]:
        if tile[0] is not None:
            body = [Loop("serial", tile[0], tuple(body))]
        for axis in reversed(self.found.inner):
            body = [Loop("serial", axis, tuple(body))]
        return body

    # --- a tile --------------------------------------------------------------------------------------------------

    def _tile(
        self, tile: tuple[Axis | None, int, int], column: Index, width: int, first: Index
    ) -> list[Statement]:  # fmt: skip
        """The sums of one tile, left in their scratch arrays."""
        f = self.found
        tiles, low, height = tile
        row = Index((), low) if tiles is None else of_atom(tiles) * height + low
        states: list[Statement] = []
        lets: dict[Expr, Let] = {}
        updates: list[Statement] = []
        after: list[Statement] = []
        for s in f.sums:
            dtype, name = s.dtypes[0], s.names[0]
            for i in range(height if f.rows in s.axes else 1):
                for j in range(width if f.columns in s.axes else 1):
                    at = {f.columns: column + j} | ({} if f.rows is None else {f.rows: row + i})
                    own = f"{name}_{low + i}_{j}"
                    states.append(State(own, dtype, const(0, dtype), f.lanes, self.pack))
                    value: Expr = Load(own, (), dtype)
                    for term in _terms(s.args[0]):
                        value = op("add", value, self._operands(term, Rewriter(at), lets))
                    updates.append(Update((own,), (value,)))
                    index = tuple(self._place(a, at.get(a, of_atom(a)), first) for a in s.axes)
                    after += [Fold((own,), "sum"), Put(self._array(s), index, Load(own, (), dtype))]
        loop = Loop("lanes", f.lanes, (*lets.values(), *updates), self.pack)
        for axis in reversed(f.summed):
            loop = Loop("serial", axis, (loop,))
        return [*states, loop, *after]

    def _operands(self, value: Expr, place: Rewriter, lets: dict[Expr, Let]) -> Expr:
        """The products with their operands named: one that several sums share is computed once."""
        tiled = {self.found.columns, self.found.rows}
        if isinstance(value, Op) and value.name == "mul":
            if any(not isinstance(a, Const) and a.axes & tiled != value.axes & tiled for a in value.args):
                return op("mul", *(self._operands(a, place, lets) for a in value.args))
        placed = place(value)
        if isinstance(placed, Const):
            return placed
        if placed not in lets:
            lets[placed] = Let(f"f{len(lets)}", placed)
        return Load(lets[placed].name, (), placed.dtype)

    def _array(self, s: Equation) -> str:
        """The scratch array of a sum's results: each part has its own, so that its workers need not share it."""
        name = f"{s.names[0]}_all{self.part}"
        if name not in self.scratch:
            self.scratch[name] = Scratch(name, s.dtypes[0], tuple(self._size(a) for a in s.axes))
        return name

    def _size(self, a: Axis) -> Dim:
        if a in self.found.outer:
            return 1
        return BLOCK if a is self.found.columns else a.extent

    def _place(self, a: Axis, at: Index, first: Index) -> Index:
        """Where a point of an axis stands in the scratch arrays."""
        if a in self.found.outer:
            return Index(())
        return at - first if a is self.found.columns else at

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
        for axis in reversed((*f.inner, *([] if f.rows is None else [f.rows]))):
            loop = Loop("serial", axis, (loop,))
        return [loop]
