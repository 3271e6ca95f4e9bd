"""The default tiles of sums of products, by their sizes. No GPU has measured them: they fill a large one where they
can, and stay within the registers and the shared memory of every target (`benchmarks/triton_resources.py`).
"""

from __future__ import annotations

from itertools import product as combinations
from math import prod

from ...ir.expr import Load, loads_in
from ...ir.index import Axis
from ...ir.loops import Equation, Kernel
from ...ir.schedule import Schedule
from ..cuts import Cut, Cuts
from ..products import has_products
from ..products.find import extent_of
from ..tiling_prepare import prepare
from .dots import Dots, find_dots, without_quotients

PRODUCTS = "products"  # the family of sums of products as products of tiles
THREADS = 32  # of a warp
MOST_WARPS = 8
LEAST = 16  # points of a side of what tensor cores multiply
FILL = 128  # programs that a large GPU runs at once: with fewer, smaller tiles are better
HELD = 128 * 128  # results that a program holds, with what it multiplies, in registers
SHARED = 64 << 10  # bytes that every target has for operands in flight; those being multiplied have room besides
LINE = 128  # bytes of each row that are worth to be loaded at once
EACH = 64  # results that a thread holds: as many registers again are for operands and their places
SIDES = ((128, 128, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4), (32, 64, 4), (16, 64, 4), (32, 32, 4), (16, 32, 2),
         (16, 16, 1))  # fmt: skip
PARTS = (1, 2, 4, 8)
LEAST_PART = 512  # points of a sum that are worth a program
FEW_ROWS = 64  # with more, the parts are much to write and to read again
LONGEST_GROUP = 128  # lanes that are multiplied at once, so that the loop over groups is the innermost one


def dots_of(kernel: Kernel) -> Dots | None:
    """What `find_dots` finds in a kernel that was not prepared yet."""
    sums = [s for s in map(without_quotients, kernel.body) if isinstance(s, Equation) and s.state == "sum"]
    some = any(not s.scan and has_products(s) for s in sums)
    return find_dots(prepare(kernel)) if some else None


def cut_dots(kernel: Kernel, parts: int) -> Cuts:
    """The axis of the sums of a kernel that is cut into so many parts: the outermost one that has them."""
    sums = [s for s in map(without_quotients, kernel.body) if isinstance(s, Equation) and s.state == "sum"]
    axes = [a for s in sums if has_products(s) for a in s.reduce if parts > 1 and extent_of(a) % parts == 0]
    return tuple(Cut(a, parts) for a in axes[:1])


def default_dots(dots: Dots) -> Schedule:
    """What is run where nothing was measured: the largest tiles that fill a GPU."""
    rows, columns = extent_of(dots.rows), extent_of(dots.found.columns)
    batches = prod(extent_of(a) for a in dots.found.outer)
    fitting = [s for s in SIDES if s[0] <= _rounded(rows) and s[1] <= _rounded(columns) and _held(dots, s) <= HELD]
    fitting = fitting or [SIDES[-1]]

    def programs(side: tuple[int, int, int]) -> int:
        return batches * -(-rows // side[0]) * -(-columns // side[1])

    most = _most_parts(dots)
    filling = (s for parts in (1, most) for s in fitting if programs(s) * parts >= FILL)
    tall, wide, warps = next(filling, fitting[-1])
    parts = next((p for p in PARTS if programs((tall, wide, warps)) * p >= FILL), PARTS[-1])
    depth, stages = _depth(dots, tall, wide)
    while warps < MOST_WARPS and _held(dots, (tall, wide, warps)) > EACH * THREADS * warps:
        warps *= 2
    return Schedule(PRODUCTS).choose(
        block_m=tall,
        block_n=wide,
        block_k=depth,
        warps=warps,
        stages=stages,
        group=1 if rows <= tall else 8,
        split=min(parts, most),
    )


def dot_candidates(dots: Dots) -> list[Schedule]:
    """The schedules worth measuring, the default first."""
    default = default_dots(dots)
    rows, columns = _rounded(extent_of(dots.rows)), _rounded(extent_of(dots.found.columns))
    found = [default]
    for (tall, wide, warps), depth, stages in combinations(SIDES, (32, 64, 128), (2, 3, 4)):
        fits = tall <= rows and wide <= columns and _held(dots, (tall, wide, warps)) <= HELD
        if fits and (stages - 1) * _bytes(dots, tall, wide, depth) <= SHARED:
            found.append(default.choose(block_m=tall, block_n=wide, block_k=depth, warps=warps, stages=stages))
    return list(dict.fromkeys(found))[:64]


def _most_parts(dots: Dots) -> int:
    """Into how many parts the sums may be cut: each is long, and all that is summed has rows and columns."""
    found = dots.found
    axis = found.summed[0] if found.summed else found.lanes
    length = prod(extent_of(a) for a in (*found.summed, found.lanes))
    full = all(set(s.axes) == set(found.sums[0].axes) for s in found.sums) and dots.rows in found.sums[0].axes
    fits = [p for p in PARTS if extent_of(axis) % p == 0 and length // p >= LEAST_PART]
    return fits[-1] if fits and full and extent_of(dots.rows) <= FEW_ROWS else 1


def _held(dots: Dots, sides: tuple[int, int, int]) -> int:
    return dots.whole * sides[0] * sides[1]


def _depth(dots: Dots, tall: int, wide: int) -> tuple[int, int]:
    """(points of the sum that are multiplied at once, iterations in flight)."""
    lanes = _rounded(extent_of(dots.found.lanes))
    least = 32 if any(d.itemsize == 1 for d in dots.dtypes) else LEAST
    if dots.found.summed and lanes <= LONGEST_GROUP:
        depth = max(lanes, least)
        return depth, 3 if 2 * _bytes(dots, tall, wide, depth) <= SHARED else 2
    for depth, stages in ((128, 3), (64, 3), (32, 3)):
        line = depth * max(d.itemsize for d in dots.dtypes) <= LINE and depth <= max(lanes, least)
        if line and (stages - 1) * _bytes(dots, tall, wide, depth) <= SHARED // dots.whole:
            return depth, stages
    return max(least, min(lanes, 32)), 2


def _bytes(dots: Dots, tall: int, wide: int, depth: int) -> int:
    """Bytes of the tiles of all operands: as they are multiplied, or as they are stored where that is more."""
    sides = [e for terms in dots.terms for t in terms for e in (t.left, t.right)]
    operands = {e: e.dtype.itemsize for e in sides if dots.found.lanes in e.axes}
    loads: dict[Load, int] = {}
    for e in loads_in(*operands):
        if dots.found.lanes in e.axes:
            loads[e] = e.dtype.itemsize

    def side(axes: frozenset[Axis]) -> int:
        return tall if dots.rows in axes else wide if dots.found.columns in axes else 1

    return depth * max(sum(n * side(e.axes) for e, n in x.items()) for x in (operands, loads))


def _rounded(extent: int) -> int:
    """The side of a tile that holds a whole axis."""
    return max(LEAST, 1 << max(extent - 1, 0).bit_length())
