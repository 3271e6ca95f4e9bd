"""Windows that overlap: several points of the axis around the lanes are computed at once, and share what they load.

    grid h, w: lanes c: y[h, w, c] <- x[h, w - 1, c] * k[3*c] + x[h, w, c] * k[3*c + 1] + x[h, w + 1, c] * k[3*c + 2]
->
lanes c: k_0[c] <- k[3*c]; k_1[c] <- k[3*c + 1]; k_2[c] <- k[3*c + 2]
grid h:
  serial w in 0..1:             lanes c: y[h, w, c] <- ..                          (what the edge's conditions say)
  serial w in 1..W - 1 by 4:    lanes c: y[h, w, c] <- ..; ..; y[h, w + 3, c] <- ..     (6 loads of x, not 12)
  serial w in W - 1..W:         lanes c: y[h, w, c] <- ..

Between the edges conditions on the axis are decided, so that equal elements are loaded once. Elements that only the
lanes move along, and that lie apart, are copied side by side first. Long rows of lanes run in parts, outside of all
axes along which windows overlap: a part's windows are then in the nearest caches when the next row reads them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from ..ir.expr import Const, Expr, Load, Op, Rewriter, loads_in, walk
from ..ir.index import Axis, Index, axis_coefficient, of_atom
from ..ir.loops import Kernel, Store, statement_expressions
from ..ir.tiles import Loop, Put, Scratch, Statement
from .tiling_nest import Level, NestBuilder, chain_of, map_statement
from .tiling_plan import Block, Nest
from .tiling_segments import decide, find_changes

if TYPE_CHECKING:
    from .tiling import Builder

WIDTHS = (2, 3, 4, 5, 6)
MOST_NODES = 1200  # of the expressions of all points together
CLOSE = 64 << 10  # bytes of the windows that the lanes go over: they stay in the nearest cache
KEPT_ELEMENTS = 1 << 16  # of the arrays of what lies apart: they stay in the second-level cache


@dataclass(frozen=True, slots=True)
class Jam:
    """What is computed at once in a block: `width` points of `axis`, in its part begin .. end-1 between the edges.

    around  outer axes along which windows overlap too: the lanes run in parts of `chunk` points outside of them
    apart   loads that only the lanes move along, of elements that do not lie side by side, with their conversions
    """

    axis: Axis
    begin: int
    end: int
    width: int
    around: tuple[Axis, ...]
    chunk: int
    apart: tuple[Expr, ...]


def find_jam(kernel: Kernel, block: Block, pack: int) -> Jam | None:
    """How a block that is one pointwise nest is run by several points at once; None where they would share nothing."""
    nest = block.body[0]
    if not block.axes or block.lanes is None or len(block.body) > 1 or not isinstance(nest, Nest) or nest.serial:
        return None
    axis, lanes = block.axes[-1], block.lanes
    if any(a.is_ragged or not isinstance(a.extent, int) or a.extent == 0 for a in (*block.axes, lanes)):
        return None
    statements = [kernel.body[k] for k in nest.members]
    if not all(isinstance(s, Store) and s.injective and s.mode == "set" and s.guard is None for s in statements):
        return None
    roots = [e for s in statements for e in statement_expressions(s)]
    if not _overlaps(kernel, roots, axis, lanes):
        return None
    begin, end = _between_edges(axis, roots)
    width = _choose_width(end - begin, sum(1 for _ in walk(*roots)))
    if width < WIDTHS[0]:
        return None
    outer = [a for a in block.axes[:-1] if _overlaps(kernel, roots, a, lanes)]
    around = block.axes[block.axes.index(outer[0]) : -1] if outer else ()
    chunk = _choose_chunk(kernel, roots, (*around, axis), lanes, pack)
    return Jam(axis, begin, end, width, around, chunk, _apart(kernel, roots, lanes))


def _overlaps(kernel: Kernel, roots: Sequence[Expr], axis: Axis, lanes: Axis) -> bool:
    """True where a point loads, side by side along the lanes, what the next point of the axis loads too."""
    places = {(e.name, e.index) for e in loads_in(*roots) if e.name in kernel.buffers}
    for name, (index, *_) in places:
        step = axis_coefficient(index, axis)
        dense = axis_coefficient(index, lanes) not in (None, 0)
        if dense and isinstance(step, int) and step and (name, (index + step,)) in places:
            return True
    return False


def _between_edges(axis: Axis, roots: Sequence[Expr]) -> tuple[int, int]:
    """The longest part of an axis over which no condition on it changes."""
    assert isinstance(axis.extent, int)
    return max(pairwise([0, *find_changes(axis, roots), axis.extent]), key=lambda part: part[1] - part[0])


def _choose_width(points: int, nodes: int) -> int:
    """So many points at once that there are fewest steps: what is left over is a step of its own."""
    fitting = [w for w in WIDTHS if w <= points and w * nodes <= MOST_NODES]
    return min(fitting, key=lambda w: (-(-points // w), w), default=1)


def _choose_chunk(kernel: Kernel, roots: Sequence[Expr], axes: Sequence[Axis], lanes: Axis, pack: int) -> int:
    """Points of the lanes whose windows stay in the nearest cache from one row of them to the next."""
    assert isinstance(lanes.extent, int)
    loads = [e for e in dict.fromkeys(loads_in(*roots)) if e.name in kernel.buffers and lanes in e.axes]
    rows = {(e.name, _row_of(e, axes)): e.dtype.itemsize for e in loads if axes[-1] in e.axes}
    assert isinstance(axes[-1].extent, int)
    each = axes[-1].extent * sum(rows.values()) + sum(e.dtype.compute.itemsize for e in loads)
    count = -(-lanes.extent // pack)
    parts = -(-count // max(1, CLOSE // (each * pack)))
    return -(-count // parts) * pack


def _row_of(e: Load, axes: Sequence[Axis]) -> int:
    """Which row of a window a load is of: rows are apart along the axis before the last one."""
    step = axis_coefficient(e.index[0], axes[-2]) if len(axes) > 1 else 0
    if not isinstance(step, int) or not isinstance(e.index[0].const, int) or not step:
        return 0
    return round(e.index[0].const / step)


def _apart(kernel: Kernel, roots: Sequence[Expr], lanes: Axis) -> tuple[Expr, ...]:
    converted = {e.args[0]: e for e in walk(*roots) if isinstance(e, Op) and e.name == "cast"}
    loads = dict.fromkeys(e for e in loads_in(*roots) if e.name in kernel.buffers and e.axes == {lanes})
    apart = (e for e in loads if e.guard is None and axis_coefficient(e.index[0], lanes) not in (0, 1))
    found = tuple(converted.get(e, e) for e in apart)
    assert isinstance(lanes.extent, int)
    return found if len(found) * lanes.extent <= KEPT_ELEMENTS else ()


class Replacer(Rewriter):
    """Puts values in the place of others, and a guarded load, which gives 0 elsewhere, in that of its select."""

    def __init__(self, given: Mapping[Expr, Expr]) -> None:
        super().__init__()
        self.memo.update(given)

    def _rewrite(self, e: Expr) -> Expr:
        new = super()._rewrite(e)
        if isinstance(new, Op) and new.name == "where" and isinstance(new.args[2], Const) and not new.args[2].value:
            condition, value, _ = new.args
            if isinstance(value, Load) and value.guard == condition:
                return value
        return new


class JamBuilder:
    """Builds the statements of a block whose windows overlap."""

    def __init__(self, builder: Builder, block: Block, jam: Jam) -> None:
        nest = block.body[0]
        assert isinstance(nest, Nest) and block.lanes is not None
        self.builder, self.block, self.jam, self.lanes = builder, block, jam, block.lanes
        self.nest = NestBuilder(builder, nest, (None, None))
        assert isinstance(self.lanes.extent, int)
        count = -(-self.lanes.extent // jam.chunk)
        self.parts = Axis(f"{self.lanes.name}_part", count) if count > 1 else None
        self.rows = {e: Scratch(f"row{k}", e.dtype, (self.lanes.extent,)) for k, e in enumerate(jam.apart)}

    def build(self) -> list[Statement]:
        self.builder.scratch.update({s.name: s for s in self.rows.values()})
        copies: list[Statement] = [Put(s.name, (of_atom(self.lanes),), e) for e, s in self.rows.items()]
        copied = [Level(self.lanes, chain_of(self.lanes.extent), self.nest.tile).loop(copies)] if copies else []
        body = self._along(self._read_rows(self.nest.point()))
        for axis in reversed(self._grid()):
            body = [Loop("grid", axis, tuple(body))]
        return [*copied, *body]

    def _grid(self) -> list[Axis]:
        outer = self.block.axes[: -1 - len(self.jam.around)]
        return [*outer, *(() if self.parts is None else (self.parts,)), *self.jam.around]

    def _level(self) -> Level:
        whole = Level(self.lanes, chain_of(self.lanes.extent), self.nest.tile)
        if self.parts is None:
            return whole
        begin = of_atom(self.parts) * self.jam.chunk
        return replace(whole, begin=begin, end=begin + self.jam.chunk)

    def _read_rows(self, point: Sequence[Statement]) -> list[Statement]:
        """A point's statements with what lies apart read from its rows, which hold what it is converted to."""
        at = (of_atom(self.lanes),)
        rewrite = Replacer({e: Load(s.name, at, s.dtype) for e, s in self.rows.items()})
        return [map_statement(s, rewrite) for s in point]

    def _along(self, point: list[Statement]) -> list[Statement]:
        """All points of the axis, in order."""
        jam = self.jam
        assert isinstance(jam.axis.extent, int)
        rewrite = decide(jam.axis, jam.begin, jam.end)
        inner = [map_statement(s, rewrite) for s in point]
        steps, rest = divmod(jam.end - jam.begin, jam.width)
        several = Axis(f"{jam.axis.name}_several", steps)
        first = of_atom(several) * jam.width + jam.begin
        last = Index((), jam.end - rest)
        kind = "serial" if self._grid() else "grid"
        return [
            *self._edge(point, 0, jam.begin),
            Loop(kind, several, tuple(self._at_once(inner, [first + k for k in range(jam.width)]))),
            *(self._at_once(inner, [last + k for k in range(rest)]) if rest else ()),
            *self._edge(point, jam.end, jam.axis.extent),
        ]

    def _edge(self, point: list[Statement], begin: int, end: int) -> list[Statement]:
        if begin == end:
            return []
        rewrite = decide(self.jam.axis, begin, end)
        body = self.nest.loops_over_lanes(self._level(), [map_statement(s, rewrite) for s in point])
        return [Loop("serial", self.jam.axis, tuple(body), begin=Index((), begin), end=Index((), end))]

    def _at_once(self, point: Sequence[Statement], places: Sequence[Index]) -> list[Statement]:
        rewriters = [Rewriter({self.jam.axis: place}) for place in places]
        body = [self._moved(s, r) for r in rewriters for s in point]
        return self.nest.loops_over_lanes(self._level(), body)

    def _moved(self, s: Statement, rewrite: Rewriter) -> Statement:
        assert isinstance(s, Put)
        return replace(s, index=tuple(rewrite.index(i) for i in s.index), value=rewrite(s.value))
