"""Rows whose count is known at run time only.

    y[t, n] = ..        with t:s0, packs of 16 lanes
->
blocks of 128 rows as panels, the last of them of at least 8 rows: tiles of 32 rows, then one of 16, whose last lanes
    are no rows
the up to 7 rows that are left: tiles of 4 rows, then one of 2, then one of 1

Each kind of tile is a loop, which runs as often as there are such tiles: no size is in the text of a kernel.
"""

from __future__ import annotations

import sympy

from ...ir.index import Axis, Index, of_atom
from ...ir.types import Dim, as_dim, multiply, plus
from .blocks import Rows, RowTile


def panel_blocks(count: Dim, size: int, few: int) -> Dim:
    """Blocks of `size` rows that leave at most `few` rows."""
    return _divide(plus(count, size - 1 - few), size)


def panel_rows(axis: Axis, size: int, pack: int, packs: int, few: int) -> Rows:
    """All rows but the few that are left, in tiles of `packs` packs and of one."""
    many = panel_blocks(axis.extent, size, few)
    blocks = Axis(f"{axis.name}_b", many)
    whole = _divide(plus(axis.extent, pack - 1), pack)
    whole = as_dim(sympy.Min(whole, multiply(many, size // pack)))
    return Rows(axis, blocks, 0, size, _tiles(axis, blocks, whole, size // pack, pack, packs), dynamic=True)


def all_rows(axis: Axis, size: int, height: int) -> Rows:
    """All rows in blocks of `size`, in tiles of `height` rows and of each smaller power of two."""
    blocks = Axis(f"{axis.name}_b", _divide(plus(axis.extent, size - 1), size))
    return Rows(axis, blocks, 0, size, _tiles(axis, blocks, axis.extent, size, 1, height), dynamic=True)


def rows_left(axis: Axis, block: int, few: int, height: int) -> Rows:
    """The at most `few` rows that panels of blocks of `block` rows leave, as tiles like those of all rows."""
    behind = block - 1 - few
    left = as_dim(sympy.Max(0, sympy.Mod(plus(axis.extent, behind), block) - behind))
    blocks = Axis(f"{axis.name}_b", as_dim(sympy.Min(1, left)))
    begin = multiply(panel_blocks(axis.extent, block, few), block)
    tiles = _tiles(axis, blocks, left, few + 1, 1, height, single=True)
    return Rows(axis, blocks, begin, few + 1, tiles, dynamic=True, single=True)


def _tiles(
    axis: Axis, blocks: Axis, count: Dim, size: int, unit: int, most: int, *, single: bool = False
) -> tuple[RowTile, ...]:  # fmt: skip
    """`count` units of rows, `size` of them a block, in tiles of `most` units and of each smaller power of two.

    Only the last block has others than those of `most` units.
    """
    block = Index(()) if single else of_atom(blocks)
    first = block * (size * unit)
    last = None if single else Index((), plus(blocks.extent, -1)) - block
    found: list[RowTile] = []
    low: Dim = 0  # units in tiles before this one
    units, label = most, 0
    while units >= 1:
        each = size // units
        if units == most:
            tiles = Axis(f"{axis.name}_t{units}", _divide(count, units))
            limits = (None, None) if single else (block * each, block * each + each)
            place = of_atom(tiles) - block * each
            found.append(RowTile(tiles, first * -1, units * unit, label, *limits, place))
            low = multiply(tiles.extent, units)
        else:
            left = as_dim(sympy.Mod(count, 2 * units))
            tiles = Axis(f"{axis.name}_t{units}", _divide(left, units))
            before = Index((), multiply(low, unit)) - first
            place = Index((), _divide(low, most)) - block * (size // most)
            found.append(RowTile(tiles, before, units * unit, label, last, None, place))
            low = plus(low, multiply(tiles.extent, units))
        label += units * unit
        units //= 2
    return tuple(found)


def _divide(a: Dim, by: int) -> Dim:
    return a // by if isinstance(a, int) else as_dim(sympy.floor(a / by))
