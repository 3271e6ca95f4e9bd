"""From a kernel and a schedule to the tile program of a GPU: every axis that is kept by all is part of the grid.

softmax over rows of 1000                       sums of columns
  grid t in 4096 by 2:                            grid c in 2048 by 64:
    state m over c in 1000 by 1024                  state s over t in 4096 by 32
    lanes c by 1024: m := max(m, x[t, c])           lanes t by 32: s := s + x[t, c]
    fold m = max ..                                 fold s = sum ..

Each loop at the root is a launch of its own: a grid of programs, after all of those of the loop before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, prod

from ...ir.errors import ScheduleError
from ...ir.expr import loads_in
from ...ir.index import Axis, axes_of, axis_coefficient
from ...ir.loops import Kernel, Store, statement_expressions
from ...ir.schedule import Schedule
from ...ir.tiles import Loop, Program, Scratch, Statement
from ..tiling import Builder, Choices, Planned, describe, plan_kernel
from ..tiling_nest import NestBuilder
from ..tiling_plan import Block, Nest, Part, estimate, nests_of
from ..tiling_prepare import prepare
from .dot_parts import take_apart
from .dot_space import PRODUCTS
from .dots import Tile, build_dots, find_dots
from .space import BLOCK_K, BLOCK_M, BLOCK_N, COLUMNS, KEEP, KNOBS, POINTS, RESIDENT, STEP

SERIAL = Choices(lanes=1, unroll=1, rows=1, stage=False, cut=False, blocks=False)  # the lanes of a tile sum apart


@dataclass(frozen=True, slots=True)
class Sizes:
    """Points that a program holds at once, the longest row that it holds whole, and its part of a longer one."""

    points: int
    resident: int
    step: int


def tile_kernel(
    kernel: Kernel, schedule: Schedule, apart: frozenset[str] = frozenset()
) -> tuple[Planned, Program]:  # fmt: skip
    """The launches of a kernel under a schedule; `apart` as for `make_plan`.

    Raises ScheduleError where the schedule does not apply.
    """
    schedule.check_names(KNOBS)
    if schedule.strategy == PRODUCTS:
        return tile_products(kernel, schedule)
    sizes = _sizes(schedule)
    planned = plan_kernel(kernel, str(schedule.get(KEEP)), shares_lanes=False, resident=sizes.resident, apart=apart)
    builder = GridBuilder(planned.kernel, planned.parts, sizes)
    body = [s for p in planned.parts for s in builder.build(p, frozenset(), root=True)]
    k = planned.kernel
    scratch = tuple(builder.scratch.values())
    return planned, Program(k.name, k.inputs, k.outputs, scratch, tuple(body), planned.maths)


def tile_products(kernel: Kernel, schedule: Schedule) -> tuple[Planned, Program]:
    """A kernel that is sums of products, as products of tiles; where those are in parts, a grid that adds them up."""
    k = prepare(kernel)
    apart = take_apart(k)
    sums, rest, arrays = (k, None, ()) if apart is None else apart
    dots = find_dots(sums)
    if dots is None:
        raise ScheduleError("no sums of products whose operands have rows and columns", where=kernel.name)
    tile = Tile(*(int(schedule.get(knob)) for knob in (BLOCK_M, BLOCK_N, BLOCK_K)))
    maths = tuple(describe(s) for s in k.body)
    body, own = build_dots(dots, tile), tuple[Scratch, ...]()
    if rest is not None:
        sizes = _sizes(schedule)
        planned = plan_kernel(rest, str(schedule.get(KEEP)), shares_lanes=False, resident=sizes.resident)
        builder = GridBuilder(planned.kernel, planned.parts, sizes)
        body += tuple(s for p in planned.parts for s in builder.build(p, frozenset(), root=True))
        own = tuple(builder.scratch.values())
    return Planned(k, (), maths), Program(k.name, k.inputs, k.outputs, (*arrays, *own), body, maths)


def _sizes(schedule: Schedule) -> Sizes:
    return Sizes(int(schedule.get(POINTS)), int(schedule.get(RESIDENT)), int(schedule.get(STEP)))


class GridBuilder(Builder):
    """Builds the statements of a plan whose shared axes are a grid."""

    def __init__(self, kernel: Kernel, parts: tuple[Part, ...], sizes: Sizes) -> None:
        super().__init__(kernel, parts, SERIAL)
        self.sizes = sizes
        self._tiles: dict[int, int] = {}
        for part in parts:
            self._choose_tiles(part)

    def build(self, part: Part, bound: frozenset[Axis], root: bool) -> list[Statement]:
        if isinstance(part, Nest):
            return NestBuilder(self, part, (None, None)).build()
        if any(a.is_ragged for a in part.axes):
            raise ScheduleError("axes that data bounds are not part of a grid", where=self.kernel.name)
        body: list[Statement] = [s for p in part.body for s in self.build(p, bound | set(part.axes), root=False)]
        tiles = self._grid_tiles(part) if root else {}
        for axis in part.axes[::-1]:
            body = [Loop("grid" if root else "serial", axis, tuple(body), tiles.get(axis, 1))]
        return body

    def tile_of(self, lanes: Axis, nest: Nest) -> int:
        return self._tiles[id(nest)]

    def streams(self, s: Store) -> bool:
        return False

    # --- tiles ---------------------------------------------------------------------------------------------------

    def _choose_tiles(self, part: Part) -> None:
        """Points of the lanes of each nest: whole rows where they fit, few of each column."""
        columns = isinstance(part, Block) and self._dense(part) in part.axes
        for nest in nests_of([part]):
            if nest.lanes is None:
                self._tiles[id(nest)] = 1
                continue
            most = max(self.sizes.points // COLUMNS, 1) if columns else self.sizes.resident
            extent = nest.lanes.extent
            fits = isinstance(extent, int) and extent <= most
            self._tiles[id(nest)] = power_of_two(extent) if fits else min(most, self.sizes.step)

    def _grid_tiles(self, block: Block) -> dict[Axis, int]:
        """Points of each axis of a grid that one program takes: of the dense axis first, then of the one across it
        that some accesses are dense along, or of the one outside of it.
        """
        inner = max((self._tiles[id(n)] for n in nests_of([block])), default=1)
        room, tiles = max(self.sizes.points // inner, 1), dict.fromkeys(block.axes, 1)
        weights, dense = self._weights(block), self._dense(block)
        much = weights.get(dense, 0.0) / 4 if dense is not None else 0.0
        across = [a for a in block.axes if a is not dense and weights.get(a, 0.0) > much] if inner == 1 else []
        others = [*across[::-1], *(a for a in block.axes[::-1] if a is not dense and a not in across)]
        if dense in block.axes:
            side = power_of_two(isqrt(room)) if across else room
            tiles[dense] = min(side, power_of_two(dense.extent))
            room //= tiles[dense]
        for axis in others[:1]:
            tiles[axis] = max(min(room, power_of_two(axis.extent)), 1)
        return tiles

    def _dense(self, block: Block) -> Axis | None:
        """The axis along which most of the traffic of a block is dense."""
        weights = self._weights(block)
        return max(weights, key=lambda a: weights[a], default=None)

    def _weights(self, block: Block) -> dict[Axis, float]:
        """Bytes that are touched one next to the other along an axis, for the axes that have any."""
        found: dict[Axis, float] = {}
        for nest in nests_of([block]):
            for k in nest.members:
                s = self.kernel.body[k]
                loads = [e for e in loads_in(*statement_expressions(s)) if e.name in self.kernel.buffers]
                touched = [(e.index[0], e.dtype.itemsize) for e in loads]
                if isinstance(s, Store):
                    touched.append((s.index[0], 2 * self.kernel.buffers[s.buffer].dtype.itemsize))
                for index, size in touched:
                    for axis in axes_of(index):
                        if axis_coefficient(index, axis) == 1:
                            found[axis] = found.get(axis, 0.0) + size * prod(estimate(a.extent) for a in axes_of(index))
        return found


def power_of_two(extent: object) -> int:
    """The least power of two that is not less than a size; a large one for a size that is not known."""
    if not isinstance(extent, int):
        return 1 << 20
    return 1 << max(extent - 1, 0).bit_length()
