"""Transposing kernels: loads that run along another axis than the stores are read in square blocks and turned in registers.

    grid r, lanes c: y[r, c] <- x[c, r]              (x is read one element a row)
    ->
    grid r by 64, c by 64, serial r by 16, c by 16:
      stage t[r - r0, c - c0] <- x[c, r]             (16 rows of x along r, turned)
      serial r in r0..r0+16: lanes c in c0..c0+16: y[r, c] <- t[r - r0, c - c0]
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.expr import Expr, Load, Rewriter, const, loads_in
from ..ir.index import Axis, axis_coefficient, of_atom
from ..ir.loops import Kernel, Store, statement_expressions
from ..ir.scalar import op
from ..ir.tiles import Loop, Scratch, Stage, Statement
from ..ir.types import BOOL, I32, plus
from .tiling_nest import quotient
from .tiling_plan import Block, Nest, estimate

BLOCK_TILES = 4  # tiles along a side of the block whose rows stay in the nearest cache


@dataclass(frozen=True, slots=True)
class Staging:
    """Which loads of a pointwise nest are staged, and along which axis they run in memory."""

    rows: Axis
    lanes: Axis
    loads: tuple[Load, ...]


def find_staging(kernel: Kernel, block: Block, lanes: int) -> Staging | None:
    """The loads worth staging in a block that is one pointwise nest, or None."""
    if lanes == 1 or len(block.body) != 1 or block.lanes is None:
        return None
    nest = block.body[0]
    if not isinstance(nest, Nest) or nest.serial or nest.lanes is not block.lanes:
        return None
    statements = [kernel.body[k] for k in nest.members]
    if not all(isinstance(s, Store) and s.injective for s in statements):
        return None
    loads = dict.fromkeys(e for s in statements for e in loads_in(*statement_expressions(s)))
    across = [e for e in loads if e.guard is None and _stride(e, block.lanes) not in (None, 0, 1, -1)]
    weights = {a: [e for e in across if _stride(e, a) == 1] for a in block.axes if a.begin is None}
    rows = max(weights, key=lambda a: len(weights[a]), default=None)
    if rows is None or not weights[rows] or min(estimate(rows.extent), estimate(block.lanes.extent)) < lanes // 2:
        return None
    return Staging(rows, block.lanes, tuple(weights[rows]))


def _stride(e: Load, axis: Axis) -> object:
    return axis_coefficient(e.index[0], axis)


def stage_scratch(staging: Staging, lanes: int) -> dict[Load, Scratch]:
    """A square array for each staged load; bool is held as i32, which registers can turn."""
    made: dict[Load, Scratch] = {}
    for k, e in enumerate(staging.loads):
        dtype = I32 if e.dtype is BOOL else e.dtype.compute
        made[e] = Scratch(f"{e.name}_t{k if k else ''}", dtype, (lanes, lanes))
    return made


def build_staged(
    block: Block, staging: Staging, arrays: dict[Load, Scratch], body: tuple[Statement, ...], lanes: int
) -> list[Statement]:
    """The loops around `body`, the statements at one point, whose staged loads read the arrays already."""
    rows, cols = staging.rows, staging.lanes
    row_tiles, col_tiles = _tiles(rows, lanes), _tiles(cols, lanes)
    row, col = of_atom(row_tiles) * lanes, of_atom(col_tiles) * lanes
    stages: list[Statement] = [Stage(s.name, e, rows, cols, row, col, lanes) for e, s in arrays.items()]
    inner = Loop("lanes", cols, body, lanes, col, col + lanes)
    tile: list[Statement] = [*stages, Loop("serial", rows, (inner,), 1, row, row + lanes)]
    row_blocks = Axis(f"{rows.name}_b", quotient(plus(row_tiles.extent, BLOCK_TILES - 1), BLOCK_TILES))
    col_blocks = Axis(f"{cols.name}_b", quotient(plus(col_tiles.extent, BLOCK_TILES - 1), BLOCK_TILES))
    tile = [_cut(col_tiles, col_blocks, tile)]
    tile = [_cut(row_tiles, row_blocks, tile)]
    around = [a for a in block.axes if a is not rows]
    for axis in reversed([*around, row_blocks, col_blocks]):
        tile = [Loop("grid", axis, tuple(tile))]
    return tile


def _cut(tiles: Axis, blocks: Axis, body: list[Statement]) -> Loop:
    start = of_atom(blocks) * BLOCK_TILES
    return Loop("serial", tiles, tuple(body), 1, start, start + BLOCK_TILES)


def read_staged(staging: Staging, arrays: dict[Load, Scratch]) -> Rewriter:
    """Replaces staged loads by reads of their arrays."""
    lanes = next(int(s.shape[0]) for s in arrays.values())
    row = of_atom(staging.rows) - of_atom(_tiles(staging.rows, lanes)) * lanes
    col = of_atom(staging.lanes) - of_atom(_tiles(staging.lanes, lanes)) * lanes

    def load(e: Load) -> Expr:
        array = arrays.get(e)
        if array is None:
            return e
        if e.dtype is BOOL:
            return op("ne", Load(array.name, (row, col), I32), const(0, I32))
        return Load(array.name, (row, col), e.dtype)

    return Rewriter(load=load)


def _tiles(axis: Axis, lanes: int) -> Axis:
    """The axis of the tiles of an axis."""
    return Axis(f"{axis.name}_t", quotient(plus(axis.extent, lanes - 1), lanes))
