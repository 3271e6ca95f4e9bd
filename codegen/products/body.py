"""The register tile of a kernel of sums of products, whose lanes run along the sum."""

from __future__ import annotations

from ...ir.expr import Expr, Load, Rewriter, const
from ...ir.index import Axis, Index
from ...ir.scalar import op
from ...ir.tiles import Fold, Let, State, Statement, Update
from ...ir.types import DType
from .find import Sum
from .packs import OperandPacks, add_up


class TileBody:
    """The running values of a tile, what is done at each point of the sum, and after it."""

    def __init__(self, builder: OperandPacks) -> None:
        self.b = builder
        self.states: list[Statement] = []
        self.inner: list[Statement] = []  # running values that start anew at each point around the lanes
        self.lets: dict[Expr, Let] = {}
        self.updates: list[Statement] = []
        self.flushes: list[Statement] = []  # of `inner`
        self.after: list[Statement] = []
        self.shifts: dict[tuple[str, int], Expr] = {}
        self.sums: dict[tuple[str, Index | None], str] = {}  # of the operands of rows

    def add(self, s: Sum, name: str, at: dict[Axis, Index], j: int) -> Expr:
        """A running value for one result; what it is in the end."""
        self._start(self.states, name, s.dtype)
        own = Load(name, (), s.dtype)
        if s.scale is None or not self.b.found.summed:
            self._update(s, name, at, j)
        else:
            part = f"{name}_part"
            self._start(self.inner, part, s.dtype)
            self._update(s, part, at, j)
            scaled = op("add", own, op("mul", Load(part, (), s.dtype), self.b.scale(s, at, j)))
            if s.offset is not None:
                scaled = op("sub", scaled, op("mul", self._rows_sum(s, at), self.b.offset(s, at, j)))
            self.flushes.append(Update((name,), (scaled,)))
        self.after.append(Fold((name,), "sum"))
        shift = self.shifts.get((s.name, j))
        whole = own if shift is None else op("sub", own, shift)
        if s.scale is None or self.b.found.summed:
            return whole
        return op("mul", whole, Rewriter(at)(s.scale))

    def _rows_sum(self, s: Sum, at: dict[Axis, Index]) -> Expr:
        """The sum of the operands of a row, which the results of all columns share."""
        row = at.get(self.b.found.rows) if self.b.found.rows is not None else None
        name = self.sums.get((s.name, row))
        if name is None:
            name = self.sums[s.name, row] = f"{s.name}_rows{len(self.sums)}"
            self._start(self.inner, name, s.dtype)
            value: Expr = Load(name, (), s.dtype)
            for group in s.groups:
                side = self.b.side(self.b.sides(group)[0], at, 0)
                value = op("add", value, add_up([op("mul", e, const(1.0, s.dtype)) for e in side]))
            self.updates.append(Update((name,), (value,)))
        return Load(name, (), s.dtype)

    def add_shift(self, s: Sum, name: str, at: dict[Axis, Index], j: int) -> None:
        """What the shift of the rows' operands adds to all results of a column."""
        if not s.shift:
            return
        self._start(self.states, name, s.dtype)
        value: Expr = Load(name, (), s.dtype)
        for group in s.groups:
            side = self.b.side(self.b.sides(group)[1], at, j)
            value = op("add", value, add_up([op("mul", const(s.shift, s.dtype), e) for e in side]))
        self.updates.append(Update((name,), (value,)))
        self.after.append(Fold((name,), "sum"))
        self.shifts[s.name, j] = Load(name, (), s.dtype)

    def statements(self) -> list[Statement]:
        b = self.b
        loop = b.over_lanes([*self.lets.values(), *self.updates])
        return [*self.states, b.over_summed([*self.inner, loop, *self.flushes]), *self.after]

    def _start(self, into: list[Statement], name: str, dtype: DType) -> None:
        into.append(State(name, dtype, const(0, dtype), self.b.found.lanes, self.b.pack))

    def _update(self, s: Sum, name: str, at: dict[Axis, Index], j: int) -> None:
        value: Expr = Load(name, (), s.dtype)
        for group in s.groups:
            value = op("add", value, self.b.group(group, at, j, self.lets))
        self.updates.append(Update((name,), (value,)))
