"""One nest of a plan as tile statements: its loops, its running values, what is done at each point, what is left after.

rows (the lanes are reduced)                 columns (the lanes are kept)
  state s over c*64                            lanes c: s[c] <- 0
  lanes c by 64: s := s + x[t, c]              serial t by 8 rows: lanes c: s[c] <- s[c] + (x[t, c] + ...)
  fold s = sum
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import sympy

from ..ir.expr import Expr, Load, Rewriter, const
from ..ir.index import Axis, Index, of_atom
from ..ir.loops import Equation, Store
from ..ir.scalar import cast, op
from ..ir.states import STATES, Values
from ..ir.states import State as StateRow
from ..ir.tiles import Dot, Fold, Let, Loop, Put, Scan, State, Statement, Update
from ..ir.types import F32, F64, Dim, DType, as_dim, multiply, plus
from .tiling_plan import Nest, statement_cost
from .tiling_prepare import combine_tree
from .tiling_segments import decide, find_cuts

if TYPE_CHECKING:
    from .tiling import Builder

UNKNOWN_CHAIN = 1 << 20  # stands for the length of a loop of dynamic size
LONGEST_CHAIN = 64  # float additions into one accumulator before it is worth flushing into another
LONGEST_COLUMN = 16  # the same where no fold of lanes makes sums shorter: each lane has its own, or there are none
LONGEST_POINT = 40  # vector cycles of the rows that are joined
SHORT_CHAIN = 8  # steps that are not worth an accumulator of their own
BLOCK_STEPS = 16  # steps between two flushes


@dataclass(frozen=True, slots=True)
class Level:
    """One loop of a nest. `chain` is about how many additions it makes in a row."""

    axis: Axis
    chain: int
    tile: int = 0  # of a lanes loop; 0: serial
    begin: Index | None = None
    end: Index | None = None
    reverse: bool = False

    def loop(self, body: Sequence[Statement]) -> Loop:
        kind = "lanes" if self.tile else "serial"
        return Loop(kind, self.axis, tuple(body), self.tile or 1, self.begin, self.end, self.reverse)


@dataclass(frozen=True, slots=True)
class Running:
    """The running values of a reduction: states (rows: `lanes` is None or reduced) or scratch rows (columns).

    wide  a float sum point by point, which runs in f64: that costs nothing where there is one addition at a time
    """

    equation: Equation
    names: tuple[str, ...]
    dtypes: tuple[DType, ...]
    column: bool
    wide: bool = False

    @property
    def row(self) -> StateRow:
        return STATES[self.equation.state]

    @property
    def identity(self) -> Values:
        return self.row.identity(self.dtypes)

    @property
    def rounds(self) -> bool:
        """True for sums whose error grows with the length of the chain of additions."""
        return self.row.linear and self.dtypes[0] is F32

    def part(self, k: int) -> Running:
        """A second accumulator, flushed into this one."""
        return replace(self, names=tuple(f"{n}_part{k}" for n in self.names))


class NestBuilder:
    """Builds the statements of one nest; `limits` is the part of the lanes axis that a chunk covers."""

    def __init__(self, builder: Builder, nest: Nest, limits: tuple[Index | None, Index | None]) -> None:
        self.b = builder
        self.nest = nest
        self.lanes = nest.lanes
        self.begin, self.end = limits
        self.members = [(k, builder.kernel.body[k]) for k in nest.members]
        self.running: list[Running] = []
        self.tile = builder.tile_of(self.lanes, nest) if self.lanes else 1

    def build(self) -> list[Statement]:
        reductions = [s for _, s in self.members if isinstance(s, Equation) and s.state and not s.scan]
        self.running = [self._make_running(s) for s in reductions]
        loops = self._rows_at_once() if self._takes_rows() else self._around(self._levels(), self.running, self._point)
        before = [s for r in self.running for s in self._start(r)] + self._start_scans()
        after = [s for r in self.running for s in self._finish(r)]
        return [*before, *loops, *after]

    def point(self) -> list[Statement]:
        """What a nest without running values does at one point."""
        return self._point([])

    # --- running values ------------------------------------------------------------------------------------------

    def _make_running(self, s: Equation) -> Running:
        lifted = STATES[s.state].lift(s.args)
        dtypes = STATES[s.state].dtypes(tuple(a.dtype for a in s.args))
        known = next(n for n in s.names if n != "_")
        names = tuple(
            s.names[k] if k < len(s.names) and s.names[k] != "_" else f"{known}_{k}" for k in range(len(lifted))
        )
        if self.lanes is None and s.state == "sum" and dtypes[0] is F32 and self.b.choices.blocks:
            return Running(s, (f"{known}_wide",), (F64,), False, wide=True)
        return Running(s, names, dtypes, self.lanes is not None and self.lanes in s.axes)

    def _column_axes(self, r: Running) -> tuple[Axis, ...]:
        """What a running value that is kept per lane is indexed by."""
        own = () if r.equation.scan else self.b.private_axes(r.equation)
        return tuple(a for a in r.equation.axes if a in own or a is self.lanes)

    def _column_index(self, r: Running) -> tuple[Index, ...]:
        return self.b.scratch_index(r.equation, self._column_axes(r))

    def _read(self, r: Running) -> Values:
        index = self._column_index(r) if r.column else ()
        return tuple(Load(n, index, d) for n, d in zip(r.names, r.dtypes, strict=True))

    def _start(self, r: Running) -> list[Statement]:
        """Sets the running values to the identity."""
        if not r.column:
            lanes = self.lanes if self.lanes in r.equation.reduce else None
            tile = self.tile if lanes else 1
            return [State(n, d, i, lanes, tile) for n, d, i in zip(r.names, r.dtypes, r.identity, strict=True)]
        for n, d in zip(r.names, r.dtypes, strict=True):
            self.b.add_scratch(n, d, r.equation, self._column_axes(r))
        index = self._column_index(r)
        return [self._over_lanes([Put(n, index, v) for n, v in zip(r.names, r.identity, strict=True)])]

    def _over_lanes(self, body: Sequence[Statement]) -> Loop:
        assert self.lanes is not None
        tile = self.b.choices.lanes if self.b.choices.blocks else self.tile  # on a GPU a step is a tile of a program
        return Loop("lanes", self.lanes, tuple(body), tile, self.begin, self.end)

    def _assign(self, r: Running, values: Values) -> list[Statement]:
        if not r.column:
            return [Update(r.names, values)]
        index = self._column_index(r)
        if len(values) == 1:
            return [Put(r.names[0], index, values[0])]
        fresh = [f"{n}_new" for n in r.names]
        lets: list[Statement] = [Let(n, v) for n, v in zip(fresh, values, strict=True)]
        puts = [Put(n, index, Load(f, (), v.dtype)) for n, f, v in zip(r.names, fresh, values, strict=True)]
        return lets + puts

    def _combine(self, r: Running, values: Values) -> list[Statement]:
        return self._assign(r, r.row.combine(self._read(r), values))

    def _flush(self, outer: Running, part: Running) -> list[Statement]:
        joined = self._combine(outer, self._read(part))
        return [self._over_lanes(joined)] if outer.column else joined

    def _finish(self, r: Running) -> list[Statement]:
        """Folds lanes; stores what loops outside this one's will read."""
        if r.column:
            return []
        if r.wide:
            name = r.equation.names[0]
            rounded = Let(name, cast(self._read(r)[0], F32))
            return [rounded, self.b.keep(r.equation, name, F32)] if self.b.is_stored(name) else [rounded]
        folded: list[Statement] = [Fold(r.names, r.equation.state)] if self.lanes in r.equation.reduce else []
        for k, n in enumerate(r.names):
            if self.b.is_stored(n):
                folded.append(self.b.keep(r.equation, n, r.dtypes[k]))
        return folded

    # --- loops ---------------------------------------------------------------------------------------------------

    def _levels(self, innermost: Sequence[Level] = ()) -> list[Level]:
        """The loops of the nest, outermost first; long sums along the lanes are cut in blocks."""
        reverse = any(isinstance(s, Equation) and s.scan and s.reverse for _, s in self.members)
        levels = [Level(a, chain_of(a.extent), reverse=reverse) for a in self.nest.serial]
        if innermost:
            levels[-1:] = innermost
        elif levels and self._sums_rows(levels[-1]):
            levels[-1:] = cut_level(levels[-1], BLOCK_STEPS)
        if self.lanes is None:
            return levels
        steps = -(-chain_of(self.lanes.extent) // self.tile)
        whole = Level(self.lanes, steps, self.tile, self.begin, self.end)
        sums = self.b.choices.blocks and any(r.rounds and not r.column for r in self.running)
        if not sums or self.begin is not None or not is_long(whole):
            return [*levels, whole]
        return [*levels, *cut_level(whole, BLOCK_STEPS * self.tile)]

    def _sums_rows(self, level: Level) -> bool:
        """True for a long loop whose points are added up: in each lane, or what the lanes' loop gave at each."""
        scans = any(isinstance(s, Equation) and s.scan for _, s in self.members)
        sums = any(r.rounds and level.axis in r.equation.reduce for r in self.running)
        return (
            self.b.choices.blocks
            and sums
            and not scans
            and level.begin is None
            and not level.axis.is_ragged
            and is_long(level)
        )

    def _around(
        self, levels: list[Level], running: list[Running], point: Callable[[list[Running]], list[Statement]]
    ) -> list[Statement]:
        """The loops around `point`, with an accumulator more wherever a chain of additions gets long."""
        breaks = self._breaks(levels)

        def code(p: int, current: list[Running]) -> list[Statement]:
            if p == len(levels):
                return point(current)
            if p + 1 not in breaks:
                return self.loops_over_lanes(levels[p], code(p + 1, current))
            inner = [r.part(p) if self._flushes(r) else r for r in current]
            pairs = [(o, i) for o, i in zip(current, inner, strict=True) if o is not i]
            start = [s for _, i in pairs for s in self._start(i)]
            flush = [s for o, i in pairs for s in self._flush(o, i)]
            return [levels[p].loop([*start, *code(p + 1, inner), *flush])]

        return code(0, running)

    def loops_over_lanes(self, level: Level, body: list[Statement]) -> list[Statement]:
        """The loop of a level; for the lanes one loop for each part over which the conditions on their axis are
        decided.
        """
        roots = [e for s in body for e in expressions_of(s)]
        extent = level.axis.extent
        # A scan carries what its last lane holds, which only a full step computes: its loop must not end in between.
        whole = not level.tile or level.begin is not None or any(isinstance(s, Scan) for s in body)
        cuts = [] if whole or not self.b.choices.cut else find_cuts(level.axis, roots)
        if not cuts or not isinstance(extent, int):
            return [level.loop(body)]
        loops: list[Statement] = []
        for begin, end in pairwise([0, *cuts, extent]):
            rewrite = decide(level.axis, begin, end)
            part = replace(level, begin=Index((), begin), end=Index((), end))
            loops.append(part.loop([map_statement(s, rewrite) for s in body]))
        return loops

    def _flushes(self, r: Running) -> bool:
        return r.rounds

    def _breaks(self, levels: list[Level]) -> set[int]:
        """The positions at which a new accumulator starts: inside loop p - 1, around loop p."""
        if not self.b.choices.blocks or not any(r.rounds for r in self.running):
            return set()
        columns = [r.column for r in self.running if r.rounds]
        longest = LONGEST_COLUMN if any(columns) or self.lanes is None else LONGEST_CHAIN
        found: set[int] = set()
        chain = 1
        for p in reversed(range(len(levels))):
            if levels[p].tile and any(columns):
                continue  # each point of the lanes has its own
            if chain >= SHORT_CHAIN and chain * levels[p].chain > longest:
                found.add(p + 1)
                chain = 1
            chain *= levels[p].chain
        return found

    # --- rows at once --------------------------------------------------------------------------------------------

    def _takes_rows(self) -> bool:
        """True where every statement reduces columns along the innermost serial axis: rows are then joined first."""
        if not self.nest.serial or self.lanes is None or self._rows() < 2:
            return False
        axis = self.nest.serial[-1]
        if axis.is_ragged or (isinstance(axis.extent, int) and axis.extent < self._rows()):
            return False
        reduces = [isinstance(s, Equation) and bool(s.state) and not s.scan for _, s in self.members]
        return all(reduces) and all(r.column and axis in r.equation.reduce for r in self.running)

    def _rows(self) -> int:
        """How many rows are joined: fewer of those that cost much, whose code is repeated."""
        rows, cost = self.b.choices.rows, sum(statement_cost(s) for _, s in self.members)
        while rows > 2 and rows * cost > LONGEST_POINT:
            rows //= 2
        return rows

    def _rows_at_once(self) -> list[Statement]:
        axis, rows = self.nest.serial[-1], self._rows()
        groups = Axis(f"{axis.name}_rows", quotient(axis.extent, rows))
        level = Level(groups, chain_of(groups.extent))
        inner = cut_level(level, BLOCK_STEPS) if any(r.rounds for r in self.running) and is_long(level) else [level]
        first = [Rewriter({axis: of_atom(groups) * rows + k}) for k in range(rows)]
        whole = self._around(self._levels(inner), self.running, lambda current: self._point_of_rows(current, first))
        if isinstance(axis.extent, int) and axis.extent % rows == 0:
            return whole
        rest = Level(axis, rows, begin=Index((), multiply(quotient(axis.extent, rows), rows)))
        single = [Rewriter()]
        left = self._around(self._levels([rest]), self.running, lambda current: self._point_of_rows(current, single))
        return [*whole, *left]

    def _point_of_rows(self, current: list[Running], rows: list[Rewriter]) -> list[Statement]:
        done: list[Statement] = []
        for r in current:
            args = [self.b.local(a, self.nest) for a in r.equation.args]
            states = [r.row.lift(tuple(row(a) for a in args)) for row in rows]
            done += self._combine(r, combine_tree(r.equation.state, states))
        return done

    # --- a point -------------------------------------------------------------------------------------------------

    def _point(self, current: list[Running]) -> list[Statement]:
        """What the members do at one point, in order."""
        by_equation = {id(r.equation): r for r in current}
        done: list[Statement] = []
        for _, s in self.members:
            if isinstance(s, Store):
                done.append(self._put(s))
            elif s.is_pointwise:
                done += self._let(s)
            elif s.scan:
                done += self._scan(s)
            else:
                r = by_equation[id(s)]
                args = tuple(self.b.local(a, self.nest) for a in s.args)
                done += self._combine(r, r.row.lift(tuple(cast(a, F64) for a in args) if r.wide else args))
        return done

    def _let(self, s: Equation) -> list[Statement]:
        name, value = s.names[0], self.b.local(s.args[0], self.nest)
        if not self.b.is_stored(name):
            return [Let(name, value)]
        return [Let(name, value), self.b.keep(s, name, s.dtypes[0])]

    def _put(self, s: Store) -> Put:
        value = self.b.local(s.value, self.nest)
        guard = None if s.guard is None else self.b.local(s.guard, self.nest)
        index = tuple(self.b.local_index(i, self.nest) for i in s.index)
        if s.mode != "set":
            old = Load(s.buffer, index, value.dtype, guard)
            compute = value.dtype.compute
            value = cast(op(s.mode, cast(old, compute), cast(value, compute)), value.dtype)
        return Put(s.buffer, index, value, guard, self.b.streams(s))

    # --- scans ---------------------------------------------------------------------------------------------------

    def _start_scans(self) -> list[Statement]:
        return [s for _, e in self.members if isinstance(e, Equation) and e.scan for s in self._start_scan(e)]

    def _start_scan(self, e: Equation) -> list[Statement]:
        if e.reduce[0] is self.lanes:
            dtype = F64 if e.args[0].dtype is F32 and e.state == "sum" else e.args[0].dtype
            row = STATES[e.state]
            return [State(f"{_scan_name(e)}_carry", dtype, row.identity((dtype,))[0])]
        return self._start(self._scan_running(e))

    def _scan_running(self, e: Equation) -> Running:
        """The state of a scan as running values; a float sum carries its rounding error beside it."""
        dtypes = STATES[e.state].dtypes(tuple(a.dtype for a in e.args))
        if e.state == "sum" and dtypes[0] is F32:
            dtypes = (F32, F32)
        names = tuple(f"{_scan_name(e)}_run{k}" for k in range(len(dtypes)))
        column = self.lanes is not None
        return _ScanState(e, names, dtypes, column)

    def _scan(self, e: Equation) -> list[Statement]:
        args = tuple(self.b.local(a, self.nest) for a in e.args)
        done: list[Statement] = []
        if e.reduce[0] is self.lanes:
            done.append(Scan(e.names[0], e.state, f"{_scan_name(e)}_carry", args[0]))
        else:
            r = self._scan_running(e)
            old = self._read(r)
            lifted = STATES[e.state].lift(args)
            new = add_exactly(old, lifted[0]) if len(r.names) > len(lifted) else r.row.combine(old, lifted)
            shown = new if e.scan == "inclusive" else old
            out = (op("add", *shown),) if len(r.names) > len(lifted) else r.row.project(shown)
            done += [Let(n, v) for n, v in zip(e.names, out, strict=False) if n != "_"]
            done += self._assign(r, new)
        for n, d in zip(e.names, e.dtypes, strict=True):
            if n != "_" and self.b.is_stored(n):
                done.append(self.b.keep(e, n, d))
        return done


class _ScanState(Running):
    """Running values of a scan, which hold one row of the axes that are not scanned."""

    @property
    def identity(self) -> Values:
        plain = self.row.identity(self.dtypes)
        return (*plain, *(const(0.0, d) for d in self.dtypes[len(plain) :]))


def _scan_name(e: Equation) -> str:
    return next(n for n in e.names if n != "_")


def add_exactly(state: Values, x: Expr) -> Values:
    """(s, e) + x where e is the rounding error of s so far (Knuth's two-sum); an overflowed sum has no error."""
    s, e = state
    total = op("add", s, x)
    seen = op("sub", total, s)
    lost = op("add", op("sub", s, op("sub", total, seen)), op("sub", x, seen))
    known = op("where", op("eq", lost, lost), lost, const(0.0, x.dtype))
    return total, op("add", e, known)


def chain_of(extent: Dim) -> int:
    """How many additions a loop may chain."""
    return extent if isinstance(extent, int) else UNKNOWN_CHAIN


def is_long(level: Level) -> bool:
    """True where a chain of additions over the whole loop may lose precision."""
    longest = LONGEST_CHAIN if level.tile else LONGEST_COLUMN
    return level.chain > longest or not isinstance(level.axis.extent, int)


def cut_level(level: Level, points: int) -> list[Level]:
    """A loop as loops over blocks of `points` and their points; blocks are cut again where there are many."""
    axis = level.axis
    blocks = Axis(f"{axis.name}_b", quotient(plus(axis.extent, points - 1), points))
    steps = points // (level.tile or 1)
    count = -(-level.chain // steps)
    start = of_atom(blocks) * points
    inner = replace(level, chain=steps, begin=start, end=start + points)
    outer = Level(blocks, count)
    if count <= (LONGEST_CHAIN if level.tile else LONGEST_COLUMN):
        return [outer, inner]
    return [*cut_level(outer, BLOCK_STEPS), inner]


def quotient(extent: Dim, by: int) -> Dim:
    """extent // by."""
    return extent // by if isinstance(extent, int) else as_dim(sympy.floor(extent / by))


def expressions_of(s: Statement) -> list[Expr]:
    """What a statement at a point computes."""
    if isinstance(s, Update):
        return list(s.values)
    if isinstance(s, Put):
        return [s.value] if s.guard is None else [s.value, s.guard]
    return [s.value] if isinstance(s, Let | Scan) else []


def map_statement(s: Statement, rewrite: Callable[[Expr], Expr]) -> Statement:
    """The statement with other expressions (those of loops inside it too)."""
    if isinstance(s, Loop):
        return replace(s, body=tuple([map_statement(inner, rewrite) for inner in s.body]))
    if isinstance(s, Update):
        return replace(s, values=tuple([rewrite(v) for v in s.values]))
    if isinstance(s, Put):
        return replace(s, value=rewrite(s.value), guard=None if s.guard is None else rewrite(s.guard))
    if isinstance(s, Dot):
        return replace(s, left=rewrite(s.left), right=rewrite(s.right))
    return replace(s, value=rewrite(s.value)) if isinstance(s, Let | Scan) else s
