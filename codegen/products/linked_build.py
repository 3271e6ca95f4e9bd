"""The loops of linked sums: see `linked`. What comes between the two kinds of sums is up to `linked_values`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import Expr, Load, Rewriter, const
from ...ir.index import ZERO, Axis, Index, of_atom
from ...ir.loops import Equation
from ...ir.scalar import cast, op
from ...ir.spans import Span, Tile, find_span
from ...ir.tiles import Let, Loop, Put, Scratch, Stage, State, Statement, Update
from ...ir.types import BF16, F32, DType
from .find import extent_of
from .linked import Linked, Weighted, is_paired, sides_of, stored
from .linked_skips import AWAKE, find_skip, limits, look_at
from .packs import add_up

PACKS = 2  # of rows in a block
BLOCK = 128  # points that the sums run along, in a block: their exponentials stay in the nearest cache; even
RESULTS = {16: 8, 8: 4, 4: 4}  # columns of a tile, by the lanes of a pack


@dataclass(frozen=True, slots=True)
class Part:
    """`size` points of an axis from `first`."""

    first: Index
    size: int


class LinkedBuilder(ABC):
    """Builds the statements of a kernel of linked sums.

    Scratch arrays of a block of rows: `rows` (their operands, turned), `scores`, `values` (those that are not narrow
    `powers`), `sums`, `results`, and others that have one value a row.
    """

    def __init__(self, found: Linked, lanes: int, pairs: bool) -> None:
        self.found = found
        self.pack = lanes
        self.pairs = pairs
        self.packs = min(PACKS, -(-extent_of(found.rows) // lanes))
        self.height = self.packs * lanes
        self.width = RESULTS[lanes]
        self.columns = 0 if found.columns is None else extent_of(found.columns)
        self.block = min(BLOCK, extent_of(found.along))
        self.local = Axis("lane", lanes)
        self.scratch: dict[str, Scratch] = {}
        self.blocks = Axis(f"{found.rows.name}_b", -(-extent_of(found.rows) // self.height))
        self.first = of_atom(self.blocks) * self.height  # row of the block
        self.skip = find_skip(found)

    @abstractmethod
    def clear(self) -> list[Put]:
        """What a row starts with."""

    @abstractmethod
    def of_rows(self) -> dict[str, str]:
        """The arrays, of one value a row, of the sums that have no weights."""

    @abstractmethod
    def values(self, part: Part) -> list[Statement]:
        """The values of a block of what the sums run along, of its scores."""

    @abstractmethod
    def carried(self, old: Expr, lane: Index) -> Expr:
        """A sum so far, as the next block's is added to it."""

    def build(self) -> list[Statement]:
        f = self.found
        span, count = self.span, extent_of(f.along)
        before: list[Statement] = []
        lets: list[Let] = []
        if self.skip is not None and self.skip.guards and span != Span():
            self.array(AWAKE, F32, 1)
            before = look_at(self.skip, f)
            lets, span = limits(span, f.along, count)
        body = [*lets, *self._start(), *self._over_blocks(count, span), *self._end()]
        loops: list[Statement] = [
            *self._pack_weights(),
            *before,
            Loop("serial" if f.outer else "grid", self.blocks, tuple(body)),
        ]
        for axis in reversed(f.outer):
            loops = [Loop("grid", axis, tuple(loops))]
        return loops

    # --- parts of axes -------------------------------------------------------------------------------------------

    def _over_blocks(self, count: int, span: Span) -> list[Statement]:
        """The blocks, whole ones and what is left, in which some row has a value that is not zero."""
        done: list[Statement] = []
        whole = count - count % self.block
        for begin, size, blocks in ((0, self.block, whole // self.block), (whole, count % self.block, 1)):
            if not size or not blocks:
                continue
            axis = Axis(f"{self.found.along.name}_b{size}", blocks)
            body = self._step(Part(of_atom(axis) * size + begin, size))
            first = None if span.first is None else (span.first + -begin) // size
            end = None if span.end is None else (span.end + (size - 1 - begin)) // size
            done.append(Loop("serial", axis, tuple(body), 1, first, end))
        return done

    @property
    def span(self) -> Span:
        """The points at which some row of a block has a value that is not 0."""
        if self.skip is None:
            return Span()
        return find_span(self.skip.condition, self.found.along, {self.found.rows: Tile(self.first, self.height)})

    def cut(self, name: str, count: int, size: int) -> list[tuple[Part, Axis | None]]:
        """All points of an axis in parts of a size, which a loop runs over, and one of those that are left."""
        whole, left = divmod(count, size)
        found: list[tuple[Part, Axis | None]] = []
        if whole == 1:
            found.append((Part(ZERO, size), None))
        elif whole:
            loop = Axis(f"{name}{size}", whole)
            found.append((Part(of_atom(loop) * size, size), loop))
        if left:
            found.append((Part(Index((), whole * size), left), None))
        return found

    def looped(self, axis: Axis | None, body: Sequence[Statement]) -> list[Statement]:
        return list(body) if axis is None else [Loop("serial", axis, tuple(body))]

    def array(self, name: str, dtype: DType, *shape: int, narrow: bool = False) -> str:
        self.scratch.setdefault(name, Scratch(name, dtype, shape, narrow))
        return name

    def powers(self, k: int) -> str:
        """The array of the narrow ones of a value."""
        return self.array(f"powers{k}", BF16, -(-self.block // 2), 2 * self.height, narrow=True)

    # --- over rows -----------------------------------------------------------------------------------------------

    def over_rows(self, body: Sequence[Statement]) -> Loop:
        """The rows of the block that are there, one by one."""
        return Loop("lanes", self.found.rows, tuple(body), self.pack, self.first, self.first + self.height)

    @property
    def row(self) -> Index:
        return of_atom(self.found.rows) - self.first

    def read_row(self, name: str) -> Load:
        return Load(self.array(name, F32, self.height), (self.row,), F32)

    def put_row(self, name: str, value: Expr) -> Put:
        return Put(self.array(name, F32, self.height), (self.row,), value)

    def _over_lanes(self, body: Sequence[Statement]) -> Loop:
        """What is done in registers, each of the lanes one of a pack of rows."""
        return Loop("lanes", self.local, tuple(body), self.pack)

    # --- before and after ----------------------------------------------------------------------------------------

    def _start(self) -> list[Statement]:
        """Turns the rows' operands, and clears what runs."""
        f, zero = self.found, const(0.0, F32)
        cleared = self.clear()
        done: list[Statement] = [self._turn_rows(k, s) for k, s in enumerate(f.scores)]
        if cleared:
            done.append(self.over_rows(cleared))
        column = Axis("column", self.columns)
        names = [self._sums_array(k) for k, w in enumerate(f.weighted) if w.weight is not None]
        puts = [Put(name, (of_atom(column), self.row), zero) for name in names]
        return [*done, Loop("serial", column, (self.over_rows(puts),))] if puts else done

    def _turn_rows(self, k: int, s: Equation) -> Loop:
        """The rows' operand of a score, the rows of a point side by side."""
        source, count, halves = self._rows_operand(s), self._count(s), self._halves(s)
        chunks = Axis(f"{halves.name}_w", -(-extent_of(halves) // self.pack))
        value = Rewriter({s.reduce[0]: of_atom(halves) * count})(source) if count > 1 else source
        assert isinstance(value, Load)
        shape = extent_of(chunks) * self.pack, self.height * count
        name, at = self.array(f"rows{k}", source.dtype, *shape, narrow=count > 1), of_atom(chunks) * self.pack
        stages: list[Statement] = []
        for u in range(self.packs):
            place, lane = (at, Index((), count * self.pack * u)), self.first + self.pack * u
            stages.append(Stage(name, place, value, halves, self.found.rows, at, lane, self.pack, count))
        return Loop("serial", chunks, tuple(stages))

    def _sums_array(self, k: int) -> str:
        return self.array(f"sums{k}", F32, self.columns, self.height)

    def _end(self) -> list[Statement]:
        """Turns the sums, so that those of a row are together, and stores what is computed of them."""
        f, n = self.found, self.pack
        puts = self._stores()
        of_rows = [put for s, put in zip(f.stores, puts, strict=True) if f.columns not in s.axes]
        done: list[Statement] = []
        if f.columns is not None:
            whole = [put for s, put in zip(f.stores, puts, strict=True) if f.columns in s.axes]
            along = Axis("column_w", -(-self.columns // n))
            stages = [s for k, w in enumerate(f.weighted) if w.weight is not None for s in self._turn_sums(k, along)]
            rows = Loop("lanes", f.columns, tuple(whole), n)
            done.append(Loop("serial", along, tuple(stages)))
            done.append(Loop("serial", f.rows, (rows,), 1, self.first, self.first + self.height))
        return [*done, self.over_rows(of_rows)] if of_rows else done

    def _turn_sums(self, k: int, along: Axis) -> list[Statement]:
        f, n = self.found, self.pack
        assert f.columns is not None
        name = self.array(f"results{k}", F32, self.height, extent_of(along) * n)
        value = Load(self._sums_array(k), (of_atom(f.columns), self.row), F32)
        first = of_atom(along) * n
        return [
            Stage(name, (Index((), u * n), first), value, f.rows, f.columns, self.first + u * n, first, n)
            for u in range(self.packs)
        ]

    def _stores(self) -> list[Put]:
        f = self.found
        own = {w.name: k for k, w in enumerate(f.weighted) if w.weight is not None}
        per_row = self.of_rows()

        def read(e: Load) -> Expr:
            if e.name in own and f.columns is not None:
                return Load(f"results{own[e.name]}", (self.row, of_atom(f.columns)), F32)
            return self.read_row(per_row[e.name]) if e.name in per_row else e

        rewrite = Rewriter(load=read)
        return [Put(s.buffer, tuple(map(rewrite.index, s.index)), rewrite(s.value)) for s in f.stores]

    # --- weights -------------------------------------------------------------------------------------------------

    def is_paired(self, w: Weighted) -> bool:
        """True where an instruction takes two values and their weights at once."""
        return self.pairs and w.weight is not None and is_paired(w.equation, w.weight)

    def _pack_weights(self) -> list[Statement]:
        """Puts the weights of two neighbours side by side, where an instruction takes two."""
        f, count = self.found, extent_of(self.found.along)
        done: list[Statement] = []
        for k, w in enumerate(f.weighted):
            value = None if w.weight is None else stored(w.weight)
            if value is None or f.columns is None or not self.is_paired(w):
                continue
            name = self.array(f"weights{k}", BF16, -(-count // 2), 2 * self.columns, narrow=True)
            for part, axis in self.cut(f"{f.along.name}_p", count, 2):
                puts: list[Statement] = []
                for n in range(2):
                    held = Rewriter({f.along: part.first + n})(value) if n < part.size else const(0.0, BF16)
                    puts.append(Put(name, (part.first // 2, of_atom(f.columns) * 2 + n), held))
                done += self.looped(axis, [Loop("lanes", f.columns, tuple(puts), self.pack)])
        return done

    # --- a block of what the sums run along ----------------------------------------------------------------------

    def _step(self, part: Part) -> list[Statement]:
        done: list[Statement] = []
        for tile, axis in self.cut("score_t", part.size, self.width):
            scores = [s for k in range(len(self.found.scores)) for s in self._scores(k, part, tile)]
            done += self.looped(axis, scores)
        return [*done, *self.values(part), *self._sums(part)]

    def _count(self, s: Equation) -> int:
        """Products of a score that are added at once."""
        return 2 if self.pairs and is_paired(s, s.args[0]) and extent_of(s.reduce[0]) % 2 == 0 else 1

    def _halves(self, s: Equation) -> Axis:
        """What the sums of a score run along: its axis, or pairs of its points."""
        depth, count = s.reduce[0], self._count(s)
        return Axis(f"{depth.name}_{count}", extent_of(depth) // count) if count > 1 else depth

    def _rows_operand(self, s: Equation) -> Load:
        source = stored(sides_of(s, self.found)[0])
        assert source is not None
        return source

    def _scores(self, k: int, part: Part, tile: Part) -> list[Statement]:
        """A tile of the first sums: some points along, all rows."""
        f = self.found
        s = f.scores[k]
        count, halves, source = self._count(s), self._halves(s), self._rows_operand(s)
        others = sides_of(s, f)[1]
        array = self.array(f"scores{k}", F32, self.block, self.height)
        states: list[Statement] = []
        updates: list[Statement] = []
        puts: list[Statement] = []
        for j in range(tile.size):
            for u in range(self.packs):
                name = f"score{k}_{tile.size}_{j}_{u}"
                terms: list[Expr] = []
                for n in range(count):
                    lane = of_atom(self.local) * count + (count * self.pack * u + n)
                    held = Load(f"rows{k}", (of_atom(halves), lane), source.dtype)
                    at = {f.along: part.first + tile.first + j, s.reduce[0]: of_atom(halves) * count + n}
                    terms.append(op("mul", cast(held, F32), Rewriter(at)(others)))
                own = Load(name, (), F32)
                states.append(State(name, F32, const(0.0, F32), self.local, self.pack))
                updates.append(Update((name,), (op("add", own, add_up(terms)),)))
                puts.append(Put(array, (tile.first + j, of_atom(self.local) + self.pack * u), own))
        return [*states, Loop("serial", halves, (self._over_lanes(updates),)), self._over_lanes(puts)]

    def value(self, k: int, along: Index, place: Index) -> Expr:
        """A value of a row at a point, which has a place in the block."""
        f = self.found
        scores = {s.names[0]: f"scores{k}" for k, s in enumerate(f.scores)}
        held = Rewriter(load=lambda e: Load(scores[e.name], (), F32) if e.name in scores else e)(f.values[k])
        moved = Rewriter({f.along: along})(held)
        read = {name: Load(name, (place, self.row), F32) for name in scores.values()}
        return Rewriter(load=lambda e: read.get(e.name, e))(moved)

    def _sums(self, part: Part) -> list[Statement]:
        done: list[Statement] = []
        for k, w in enumerate(self.found.weighted):
            for tile, axis in self.cut("sum_t", self.columns, self.width) if w.weight is not None else ():
                done += self.looped(axis, self._sum(k, part, tile))
        return done

    def _sum(self, k: int, part: Part, tile: Part) -> list[Statement]:
        """A tile of the sums with weights: some columns, all rows. A block is added up apart: more exactly."""
        points = Axis("point", -(-part.size // (2 if self.is_paired(self.found.weighted[k]) else 1)))
        states: list[Statement] = []
        updates: list[Statement] = []
        puts: list[Statement] = []
        for j in range(tile.size):
            for u in range(self.packs):
                lane = of_atom(self.local) + self.pack * u
                own, place = Load(f"sum{k}_{tile.size}_{j}_{u}", (), F32), (tile.first + j, lane)
                old = self.carried(Load(self._sums_array(k), place, F32), lane)
                more = self._products(k, part, points, tile.first + j, lane)
                states.append(State(own.name, F32, const(0.0, F32), self.local, self.pack))
                updates.append(Update((own.name,), (op("add", own, more),)))
                puts.append(Put(self._sums_array(k), place, op("add", old, own)))
        over = Loop("serial", points, (self._over_lanes(updates),))
        return [*states, over, self._over_lanes(puts)]

    def _products(self, k: int, part: Part, points: Axis, column: Index, lane: Index) -> Expr:
        """The values of a pack of rows with the weights of a column, at a point or two."""
        f, point = self.found, of_atom(points)
        w, v = f.weighted[k], f.values.index(f.weighted[k].value)
        assert f.columns is not None and w.weight is not None
        if not self.is_paired(w):
            at = {f.along: part.first + point, f.columns: column}
            return op("mul", Load(f"values{v}", (point, lane), F32), Rewriter(at)(w.weight))
        terms: list[Expr] = []
        for n in range(2):
            power = Load(f"powers{v}", (point, lane * 2 + n), BF16)
            weight = Load(f"weights{k}", (part.first // 2 + point, column * 2 + n), BF16)
            terms.append(op("mul", cast(power, F32), cast(weight, F32)))
        return add_up(terms)
