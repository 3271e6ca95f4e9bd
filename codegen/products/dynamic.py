"""Rows whose count is known at run time only: a size, or data.

    y[t, n] = ..        with t:s0, packs of 16 lanes
->
blocks of 128 rows as panels, the last of them of at least 8 rows: tiles of 32 rows, then one of 16, whose last lanes
    are no rows
the up to 7 rows that are left: tiles of 4 rows, then one of 2, then one of 1

Each kind of tile is a loop, which runs as often as there are such tiles: no size is in the text of a kernel.
"""

from __future__ import annotations

from ...ir.index import Axis, Index, as_index, of_atom
from .blocks import Rows, RowTile
from .counts import Count, Span, add, counted, divide, remainder, times


def panel_rows(span: Span, size: int, pack: int, packs: int, few: int) -> Rows:
    """All rows but the few that are left, in tiles of `packs` packs and of one."""
    many = _panel_blocks(span.count, size, few)
    blocks = counted(f"{span.axis.name}_b", many)
    whole = divide(add(span.count, pack - 1), pack)
    whole = span.choose("packs", False, whole, times(many, size // pack))
    tiles = _tiles(span, blocks, many, whole, size // pack, pack, packs)
    return Rows(span.axis, blocks, span.first, size, tiles, dynamic=True, span=span)


def all_rows(span: Span, size: int, height: int) -> Rows:
    """All rows in blocks of `size`, in tiles of `height` rows and of each smaller power of two."""
    many = divide(add(span.count, size - 1), size)
    blocks = counted(f"{span.axis.name}_b", many)
    tiles = _tiles(span, blocks, many, span.count, size, 1, height)
    return Rows(span.axis, blocks, span.first, size, tiles, dynamic=True, span=span)


def rows_left(span: Span, block: int, few: int, height: int) -> Rows:
    """The at most `few` rows that panels of blocks of `block` rows leave, as tiles like those of all rows."""
    behind = block - 1 - few
    left = span.choose("left", True, add(remainder(add(span.count, behind), block), -behind), 0)
    some = span.choose("some", False, 1, left)
    blocks = counted(f"{span.axis.name}_b", some)
    begin = span.first + as_index(times(_panel_blocks(span.count, block, few), block))
    tiles = _tiles(span, blocks, some, left, few + 1, 1, height, single=True)
    return Rows(span.axis, blocks, begin, few + 1, tiles, dynamic=True, single=True, span=span)


def _panel_blocks(count: Count, size: int, few: int) -> Count:
    """Blocks of `size` rows that leave at most `few` rows."""
    return divide(add(count, size - 1 - few), size)


def _tiles(
    span: Span, blocks: Axis, many: Count, count: Count, size: int, unit: int, most: int, *, single: bool = False
) -> tuple[RowTile, ...]:  # fmt: skip
    """`count` units of rows, `size` of them a block, in tiles of `most` units and of each smaller power of two.

    Only the last block has others than those of `most` units.
    """
    axis = span.axis
    block = Index(()) if single else of_atom(blocks)
    first = block * (size * unit)
    last = None if single else as_index(add(many, -1)) - block
    found: list[RowTile] = []
    low: Count = 0  # units in tiles before this one
    units, label = most, 0
    while units >= 1:
        each = size // units
        if units == most:
            whole = divide(count, units)
            tiles = counted(f"{axis.name}_t{units}", whole)
            limits = (None, None) if single else (block * each, block * each + each)
            place = of_atom(tiles) - block * each
            found.append(RowTile(tiles, first * -1, units * unit, label, *limits, place))
            low = times(whole, units)
        else:
            whole = divide(remainder(count, 2 * units), units)
            tiles = counted(f"{axis.name}_t{units}", whole)
            before = as_index(times(low, unit)) - first
            place = as_index(divide(low, most)) - block * (size // most)
            found.append(RowTile(tiles, before, units * unit, label, last, None, place))
            low = add(low, times(whole, units))
        label += units * unit
        units //= 2
    return tuple(found)
