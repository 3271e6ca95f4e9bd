"""Blocks of a kernel of sums of products: the rows and the points of the sums that run together, and their loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.index import Axis, Index, of_atom
from ...ir.tiles import Loop, Statement
from ...ir.types import Dim
from .counts import Span
from .find import Products
from .narrow import Narrow


@dataclass(frozen=True, slots=True)
class RowTile:
    """`height` rows of a block from `low`; of each point of `axis` from `begin` to `end`, where there are several such
    tiles, or as many as is known at run time.

    label  a number of its own for each row of the block's tiles
    place  which of the block's tiles it is, where that is not counted
    """

    axis: Axis | None
    low: Index
    height: int
    label: int
    begin: Index | None = None
    end: Index | None = None
    place: Index | None = None

    def row(self, i: int) -> Index:
        return self.low + i if self.axis is None else of_atom(self.axis) * self.height + self.low + i

    def loop(self, body: Sequence[Statement]) -> list[Statement]:
        """What is done for each such tile."""
        if self.axis is None:
            return list(body)
        return [Loop("serial", self.axis, tuple(body), 1, self.begin, self.end)]


@dataclass(frozen=True, slots=True)
class Rows:
    """Blocks of `size` rows from `begin`, for each point of `blocks`, as tiles.

    dynamic  how many rows there are is known at run time; single: there is one block at most
    span     all rows, of which those are a part, where their count is known at run time
    """

    axis: Axis | None
    blocks: Axis
    begin: Index
    size: int
    tiles: tuple[RowTile, ...]
    dynamic: bool = False
    single: bool = False
    span: Span | None = None

    @property
    def is_single(self) -> bool:
        return self.single or self.blocks.extent == 1

    @property
    def first(self) -> Index:
        return self.begin if self.single else of_atom(self.blocks) * self.size + self.begin

    @property
    def limits(self) -> tuple[Index | None, Index | None]:
        if self.single:
            return self.first, None
        whole = self.axis is None or self.size == self.axis.extent
        return (None, None) if whole else (self.first, self.first + self.size)


class Blocks:
    """The current blocks of rows and of the sum, for packs of `pack` lanes; what stands where in them.

    narrow  the products, `found`, in groups
    rows    the blocks of rows that statements are made for; block: columns of a block
    deep    (the axis that is summed in blocks, the axis of those, points of a block) of long sums that tiles share
    """

    pack: int
    narrow: Narrow
    found: Products
    block: int
    rows: Rows
    deep: tuple[Axis, Axis, int] | None

    @property
    def _small_axes(self) -> tuple[Axis, ...]:
        f = self.found
        return f.inner if f.rows is None else (*f.inner, f.rows)

    def _around(self, body: Sequence[Statement], axes: Sequence[Axis]) -> list[Statement]:
        """Loops over rows (those of the current block) and over axes inside of the columns."""
        for axis in reversed(axes):
            begin, end = self.rows.limits if axis is self.found.rows else (None, None)
            body = [Loop("serial", axis, tuple(body), 1, begin, end)]
        return list(body)

    def over_sum(self, body: list[Statement], dense: bool = False) -> Loop:
        """Loops over the axes that are summed over, or the current block of them."""
        return self.over_summed([self.over_lanes(body, dense)])

    def over_lanes(self, body: list[Statement], dense: bool = False) -> Loop:
        """The loop over the lanes; `dense`: as they were before they were cut into groups."""
        begin, end = self._limits(self.found.lanes)
        if not dense:
            return Loop("lanes", self.found.lanes, tuple(body), self.pack, begin, end)
        assert self.narrow.dense is not None
        count = self.narrow.count
        first, last = (None if i is None else i * count for i in (begin, end))
        return Loop("lanes", self.narrow.dense, tuple(body), self.pack, first, last)

    def over_summed(self, body: list[Statement]) -> Loop:
        """Loops over the axes around the lanes."""
        for axis in reversed(self.found.summed):
            begin, end = self._limits(axis)
            body = [Loop("serial", axis, tuple(body), 1, begin, end)]
        (loop,) = body
        assert isinstance(loop, Loop)
        return loop

    def _limits(self, axis: Axis) -> tuple[Index | None, Index | None]:
        if self.deep is None or self.deep[0] is not axis:
            return None, None
        begin = of_atom(self.deep[1]) * self.deep[2]
        return begin, begin + self.deep[2]

    def _size(self, a: Axis) -> Dim:
        if a in self.found.outer:
            return 1
        return self.block if a is self.found.columns else self.rows.size if a is self.found.rows else a.extent

    def _local(self, a: Axis, at: Index) -> Index:
        """Where a row stands in the current block of them."""
        return at - self.rows.first if a is self.found.rows else at

    def _place(self, a: Axis, at: Index, first: Index) -> Index:
        """Where a point of an axis stands in the scratch arrays of a block whose columns start at `first`."""
        if a in self.found.outer:
            return Index(())
        return at - first if a is self.found.columns else self._local(a, at)

    def _summed_place(self, count: int = 1, k: int = 0) -> tuple[Index, ...]:
        """Where the current point of the axes that are summed over stands in a block of them; the point `k` of the
        `count` of a group.
        """
        places: list[Index] = []
        for axis in (*self.found.summed, self.found.lanes):
            begin, _ = self._limits(axis)
            places.append(of_atom(axis) if begin is None else of_atom(axis) - begin)
        return (*places[:-1], places[-1] * count + k)

    def _dense_place(self) -> tuple[Index, ...]:
        """The same for the lanes before they were cut into groups."""
        assert self.narrow.dense is not None
        begin, _ = self._limits(self.found.lanes)
        at = of_atom(self.narrow.dense)
        return (*self._summed_place()[:-1], at if begin is None else at - begin * self.narrow.count)
