"""Transposing kernels: loads that run along another axis than the stores are read in square blocks and turned in
registers.

grid r, lanes c: y[r, c] <- x[c, r]              (x is read one element a row)
->
grid r by 1024, c by 16, serial r by 16:
  stage t[r - r0, c - c0] <- x[c, r]             (16 rows of x along r, turned)
  serial r in r0..r0+16: lanes c in c0..c0+16: y[r, c] <- t[r - r0, c - c0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.expr import Expr, Load, Rewriter, const, loads_in
from ..ir.index import Axis, Index, axis_coefficient, of_atom
from ..ir.loops import Kernel, Store, statement_expressions
from ..ir.scalar import op
from ..ir.tiles import Loop, Scratch, Stage, Statement
from ..ir.types import BOOL, I32, Dim, plus
from .tiling_nest import quotient
from .tiling_plan import Block, Nest, estimate

CACHE_LINE = 64  # bytes
LONG_BLOCK = 1024  # rows of a block whose tiles are written at once: they are read along memory
WIDE_BLOCK = 512  # points of a row of a block that is turned in the second-level cache
STRIP = 128  # rows of such a block that are read at once, so that whole lines are


@dataclass(frozen=True, slots=True)
class Staging:
    """Which loads of a pointwise nest are staged, and along which axis they run in memory."""

    rows: Axis
    lanes: Axis
    loads: tuple[Load, ...]


def find_staging(kernel: Kernel, block: Block, lanes: int) -> Staging | None:
    """The loads worth staging in a block that is one pointwise nest, or None."""
    if (
        lanes == 1
        or len(block.body) != 1
        or block.lanes is None
        or any(a.is_ragged for a in (block.lanes, *block.axes))
    ):
        return None
    nest = block.body[0]
    if not isinstance(nest, Nest) or nest.serial or nest.lanes is not block.lanes:
        return None
    statements = [kernel.body[k] for k in nest.members]
    if not all(isinstance(s, Store) and s.injective for s in statements):
        return None
    touched = (e for s in statements for e in loads_in(*statement_expressions(s)))
    loads = dict.fromkeys(e for e in touched if e.name in kernel.buffers)
    across = [e for e in loads if e.guard is None and _stride(e, block.lanes) not in (None, 0, 1, -1)]
    weights = {a: [e for e in across if _stride(e, a) == 1] for a in block.axes}
    rows = max(weights, key=lambda a: len(weights[a]), default=None)
    if rows is None or not weights[rows] or min(estimate(rows.extent), estimate(block.lanes.extent)) < lanes // 2:
        return None
    return Staging(rows, block.lanes, tuple(weights[rows]))


def _stride(e: Load, axis: Axis) -> object:
    return axis_coefficient(e.index[0], axis)


@dataclass(frozen=True, slots=True)
class Shape:
    """Packs of a block (`rows` x `cols`), of the strip of it (`strip` x `cols`) that is read before it is written, and
    of what is written at once (`tile`, a cache line).

    Narrow blocks stay in registers and the nearest cache; wide ones make long rows, which may be streamed from wherever
    they are aligned.
    """

    rows: int
    cols: int
    strip: int
    tile: int


def choose_shape(kernel: Kernel, block: Block, staging: Staging, lanes: int, stream: bool) -> Shape:
    """Narrow blocks where rows of the outputs are cache lines, or stay in the caches anyway."""
    stores = [kernel.body[k] for n in block.body if isinstance(n, Nest) for k in n.members]
    sizes = [(s.index[0], kernel.buffers[s.buffer].dtype.itemsize) for s in stores if isinstance(s, Store)]
    aligned = all(_is_line(axis_coefficient(i, a), size) for i, size in sizes for a in block.axes)
    line = max(1, CACHE_LINE // (lanes * min(size for _, size in sizes)))
    if stream and not aligned:
        return Shape(2 * STRIP // lanes, WIDE_BLOCK // lanes, STRIP // lanes, max(2, line))
    return Shape(LONG_BLOCK // lanes, line, 1, line)


def _is_line(stride: Dim | None, size: int) -> bool:
    return isinstance(stride, int) and stride * size % CACHE_LINE == 0


def stage_scratch(staging: Staging, shape: Shape, lanes: int) -> dict[Load, Scratch]:
    """A square array for each staged load; bool is held as i32, which registers can turn."""
    made: dict[Load, Scratch] = {}
    pad = lanes if shape.cols > 1 else 0  # rows a power of two apart would share their place in the cache
    for k, e in enumerate(staging.loads):
        dtype = I32 if e.dtype is BOOL else e.dtype
        made[e] = Scratch(f"{e.name}_t{k if k else ''}", dtype, (shape.strip * lanes, shape.cols * lanes + pad))
    return made


@dataclass(frozen=True, slots=True)
class StageLoops:
    """The axes of a staged nest: blocks of rows and columns, strips of a block, tiles of a strip."""

    staging: Staging
    shape: Shape
    lanes: int

    @property
    def row_blocks(self) -> Axis:
        return _parts(self.staging.rows, self.shape.rows * self.lanes, "b")

    @property
    def col_blocks(self) -> Axis:
        return _parts(self.staging.lanes, self.shape.cols * self.lanes, "b")

    @property
    def strips(self) -> Axis:
        return _parts(self.staging.rows, self.shape.strip * self.lanes, "s")

    @property
    def first_row(self) -> Index:
        return of_atom(self.strips) * (self.shape.strip * self.lanes)

    @property
    def first_col(self) -> Index:
        return of_atom(self.col_blocks) * (self.shape.cols * self.lanes)

    def build(self, block: Block, arrays: dict[Load, Scratch], body: tuple[Statement, ...]) -> list[Statement]:
        """The loops around `body`, the statements at one point, whose staged loads read the arrays already."""
        rows, cols, lanes, shape = self.staging.rows, self.staging.lanes, self.lanes, self.shape
        row_tiles = self.strips if shape.strip == 1 else _parts(rows, lanes, "t")
        col_tiles = self.col_blocks if shape.cols == 1 else _parts(cols, lanes, "t")
        row, col = of_atom(row_tiles) * lanes, of_atom(col_tiles) * lanes
        at = (row - self.first_row, col - self.first_col)
        stages: list[Statement] = [Stage(s.name, at, e, rows, cols, row, col, lanes) for e, s in arrays.items()]
        read = _over(row_tiles, self.strips, shape.strip, stages)  # one after the other: they share cache lines
        read = _over(col_tiles, self.col_blocks, shape.cols, read)
        tile = shape.tile * lanes
        end = self.first_col + shape.cols * lanes
        point = Loop("lanes", cols, body, tile, self.first_col, end)
        write = Loop("serial", rows, (point,), 1, self.first_row, self.first_row + shape.strip * lanes)
        loops: list[Statement] = [*_over(self.strips, self.row_blocks, shape.rows // shape.strip, [*read, write])]
        around = [a for a in block.axes if a is not rows]
        for axis in reversed([*around, self.row_blocks, self.col_blocks]):
            loops = [Loop("grid", axis, tuple(loops))] if axis.extent != 1 else loops
        return loops

    def read_staged(self, arrays: dict[Load, Scratch]) -> Rewriter:
        """Replaces staged loads by reads of their arrays."""
        row, col = of_atom(self.staging.rows) - self.first_row, of_atom(self.staging.lanes) - self.first_col

        def load(e: Load) -> Expr:
            array = arrays.get(e)
            if array is None:
                return e
            if e.dtype is BOOL:
                return op("ne", Load(array.name, (row, col), I32), const(0, I32))
            return Load(array.name, (row, col), e.dtype)

        return Rewriter(load=load)


def _over(parts: Axis, wholes: Axis, count: int, body: Sequence[Statement]) -> list[Statement]:
    """A loop over the `count` parts of the current whole: none where a part is a whole, or there is only one."""
    if parts is wholes or parts.extent == 1:
        return list(body)
    if wholes.extent == 1:
        return [Loop("serial", parts, tuple(body))]
    start = of_atom(wholes) * count
    return [Loop("serial", parts, tuple(body), 1, start, start + count)]


def _parts(axis: Axis, points: int, suffix: str) -> Axis:
    """The axis of the parts of `points` that an axis is cut into."""
    return Axis(f"{axis.name}_{suffix}", quotient(plus(axis.extent, points - 1), points))
