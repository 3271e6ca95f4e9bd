"""The loops of linked sums: see `linked`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import Expr, Load, Rewriter, const
from ...ir.index import ZERO, Axis, Index, of_atom
from ...ir.loops import Equation
from ...ir.scalar import cast, op
from ...ir.spans import Span, Tile, find_span
from ...ir.states import lowest
from ...ir.tiles import Let, Loop, Put, Scratch, Stage, State, Statement, Update
from ...ir.types import BF16, F32, DType
from .find import extent_of
from .linked import Linked, condition_of, is_paired, sides_of, stored
from .packs import add_up

PACKS = 2  # of rows in a block
BLOCK = 128  # points that the sums run along, in a block: their exponentials stay in the nearest cache; even
RESULTS = {16: 8, 8: 4, 4: 4}  # columns of a tile, by the lanes of a pack
AT_ONCE = 4  # exponents whose maximum is found before the running one is read


@dataclass(frozen=True, slots=True)
class Part:
    """`size` points of an axis from `first`."""

    first: Index
    size: int


class LinkedBuilder:
    """Builds the statements of a kernel of linked sums.

    Scratch arrays of a block of rows: `rows` (their operands, turned), `scores`, `values` (exponents, then exponentials
    where those are not narrow `powers`), `top`, `new`, `scale`, `shifts`, `total` (one value a row), `sums`, `results`.
    """

    def __init__(self, found: Linked, lanes: int, pairs: bool) -> None:
        self.found = found
        self.pack = lanes
        self.pairs = pairs
        self.packs = min(PACKS, -(-extent_of(found.rows) // lanes))
        self.height = self.packs * lanes
        self.width = RESULTS[lanes]
        self.block = min(BLOCK, extent_of(found.along))
        self.local = Axis("lane", lanes)
        self.scratch: dict[str, Scratch] = {}
        self.blocks = Axis(f"{found.rows.name}_b", -(-extent_of(found.rows) // self.height))
        self.first = of_atom(self.blocks) * self.height  # row of the block

    def build(self) -> list[Statement]:
        f = self.found
        steps = self._cut(f"{f.along.name}_b", extent_of(f.along), self.block)
        blocks = [s for part, axis in steps for s in self._over_blocks(axis, part)]
        body = [*self._start(), *blocks, *self._end()]
        loops: list[Statement] = [
            *self._pack_weights(),
            Loop("serial" if f.outer else "grid", self.blocks, tuple(body)),
        ]
        for axis in reversed(f.outer):
            loops = [Loop("grid", axis, tuple(loops))]
        return loops

    # --- parts of axes -------------------------------------------------------------------------------------------

    def _over_blocks(self, axis: Axis | None, part: Part) -> list[Statement]:
        """The blocks in which some row has a weight that is not zero."""
        body = self._step(part)
        if axis is None:
            return body
        span = self._span()
        first = None if span.first is None else span.first // part.size
        end = None if span.end is None else (span.end + (part.size - 1)) // part.size
        return [Loop("serial", axis, tuple(body), 1, first, end)]

    def _span(self) -> Span:
        """The points at which some row's exponent is not -inf."""
        f = self.found
        condition = condition_of(f.value)
        return Span() if condition is None else find_span(condition, f.along, {f.rows: Tile(self.first, self.height)})

    def _cut(self, name: str, count: int, size: int) -> list[tuple[Part, Axis | None]]:
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

    def _looped(self, axis: Axis | None, body: Sequence[Statement]) -> list[Statement]:
        return list(body) if axis is None else [Loop("serial", axis, tuple(body))]

    def _array(self, name: str, dtype: DType, *shape: int, narrow: bool = False) -> str:
        self.scratch.setdefault(name, Scratch(name, dtype, shape, narrow))
        return name

    # --- over rows -----------------------------------------------------------------------------------------------

    def _over_rows(self, body: Sequence[Statement]) -> Loop:
        """The rows of the block that are there, one by one."""
        return Loop("lanes", self.found.rows, tuple(body), self.pack, self.first, self.first + self.height)

    @property
    def _row(self) -> Index:
        return of_atom(self.found.rows) - self.first

    def _read_row(self, name: str) -> Load:
        return Load(self._array(name, F32, self.height), (self._row,), F32)

    def _put_row(self, name: str, value: Expr) -> Put:
        return Put(self._array(name, F32, self.height), (self._row,), value)

    def _over_lanes(self, body: Sequence[Statement]) -> Loop:
        """What is done in registers, each of the lanes one of a pack of rows."""
        return Loop("lanes", self.local, tuple(body), self.pack)

    # --- before and after ----------------------------------------------------------------------------------------

    def _start(self) -> list[Statement]:
        """Turns the rows' operands, and clears what runs."""
        f = self.found
        zero = const(0.0, F32)
        cleared = [self._put_row("top", lowest(F32)), self._put_row("scale", zero)]
        if f.total is not None:
            cleared.append(self._put_row("total", zero))
        column = Axis("column", extent_of(f.columns))
        puts = [Put(self._sums_array(k), (of_atom(column), self._row), zero) for k in range(len(f.weighted))]
        turned = [self._turn_rows(k, s) for k, s in enumerate(f.scores)]
        return [*turned, self._over_rows(cleared), Loop("serial", column, (self._over_rows(puts),))]

    def _turn_rows(self, k: int, s: Equation) -> Loop:
        """The rows' operand of a score, the rows of a point side by side."""
        source, count, halves = self._rows_operand(s), self._count(s), self._halves(s)
        chunks = Axis(f"{halves.name}_w", -(-extent_of(halves) // self.pack))
        value = Rewriter({s.reduce[0]: of_atom(halves) * count})(source) if count > 1 else source
        assert isinstance(value, Load)
        shape = extent_of(chunks) * self.pack, self.height * count
        name, at = self._array(f"rows{k}", source.dtype, *shape, narrow=count > 1), of_atom(chunks) * self.pack
        stages: list[Statement] = []
        for u in range(self.packs):
            place, lane = (at, Index((), count * self.pack * u)), self.first + self.pack * u
            stages.append(Stage(name, place, value, halves, self.found.rows, at, lane, self.pack, count))
        return Loop("serial", chunks, tuple(stages))

    def _sums_array(self, k: int) -> str:
        return self._array(f"sums{k}", F32, extent_of(self.found.columns), self.height)

    def _end(self) -> list[Statement]:
        """Turns the sums, so that those of a row are together, and stores what is computed of them."""
        f, n = self.found, self.pack
        stages: list[Statement] = []
        along = Axis("column_w", -(-extent_of(f.columns) // n))
        for k in range(len(f.weighted)):
            name = self._array(f"results{k}", F32, self.height, extent_of(along) * n)
            value = Load(self._sums_array(k), (of_atom(f.columns), self._row), F32)
            for u in range(self.packs):
                at = Index((), u * n), of_atom(along) * n
                stages.append(Stage(name, at, value, f.rows, f.columns, self.first + u * n, of_atom(along) * n, n))
        puts = self._stores()
        whole = [put for s, put in zip(f.stores, puts, strict=True) if f.columns in s.axes]
        of_rows = [put for s, put in zip(f.stores, puts, strict=True) if f.columns not in s.axes]
        store = Loop("lanes", f.columns, tuple(whole), n)
        rows = Loop("serial", f.rows, (store,), 1, self.first, self.first + self.height)
        return [Loop("serial", along, tuple(stages)), rows, *([self._over_rows(of_rows)] if of_rows else [])]

    def _stores(self) -> list[Put]:
        f = self.found
        own = {s.names[1]: k for k, s in enumerate(f.weighted)}
        per_row = {} if f.total is None else dict(zip(f.total.names, ("top", "total"), strict=True))

        def read(e: Load) -> Expr:
            if e.name in own:
                return Load(f"results{own[e.name]}", (self._row, of_atom(f.columns)), F32)
            return self._read_row(per_row[e.name]) if e.name in per_row else e

        rewrite = Rewriter(load=read)
        return [Put(s.buffer, tuple(map(rewrite.index, s.index)), rewrite(s.value)) for s in f.stores]

    # --- weights -------------------------------------------------------------------------------------------------

    def _pairs_weights(self, k: int) -> bool:
        s = self.found.weighted[k]
        return self.pairs and is_paired(s, s.args[1])

    def _pack_weights(self) -> list[Statement]:
        """Puts the weights of two neighbours side by side, where an instruction takes two."""
        f, count = self.found, extent_of(self.found.along)
        done: list[Statement] = []
        for k, s in enumerate(f.weighted):
            value = stored(s.args[1])
            if value is None or not self._pairs_weights(k):
                continue
            name = self._array(f"weights{k}", BF16, -(-count // 2), 2 * extent_of(f.columns), narrow=True)
            for part, axis in self._cut(f"{f.along.name}_p", count, 2):
                puts: list[Statement] = []
                for n in range(2):
                    held = Rewriter({f.along: part.first + n})(value) if n < part.size else const(0.0, BF16)
                    puts.append(Put(name, (part.first // 2, of_atom(f.columns) * 2 + n), held))
                done += self._looped(axis, [Loop("lanes", f.columns, tuple(puts), self.pack)])
        return done

    # --- a block of what the sums run along ----------------------------------------------------------------------

    def _step(self, part: Part) -> list[Statement]:
        done: list[Statement] = []
        for tile, axis in self._cut("score_t", part.size, self.width):
            scores = [s for k in range(len(self.found.scores)) for s in self._scores(k, part, tile)]
            done += self._looped(axis, scores)
        return [*done, *self._exponents(part), *self._rescale(), *self._exponentials(part), *self._sums(part)]

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
        array = self._array(f"scores{k}", F32, self.block, self.height)
        states: list[Statement] = []
        updates: list[Statement] = []
        puts: list[Statement] = []
        for j in range(tile.size):
            for u in range(self.packs):
                name = f"score{k}_{j}_{u}"
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

    def _exponents(self, part: Part) -> list[Statement]:
        """The exponents of the block, and the new maximum of each row."""
        done: list[Statement] = [self._over_rows([self._put_row("new", self._read_row("top"))])]
        values = self._array("values", F32, self.block, self.height)
        for tile, axis in self._cut("value_t", part.size, AT_ONCE):
            body: list[Statement] = []
            largest: Expr = self._read_row("new")
            for j in range(tile.size):
                place = tile.first + j
                own = Load(f"value{j}", (), F32)
                body += [Let(own.name, self._value(part.first + place, place)), Put(values, (place, self._row), own)]
                largest = op("max", largest, own)
            done += self._looped(axis, [self._over_rows([*body, self._put_row("new", largest)])])
        return done

    def _value(self, along: Index, place: Index) -> Expr:
        """The exponent of a row at a point, which has a place in the block."""
        f = self.found
        scores = {s.names[0]: f"scores{k}" for k, s in enumerate(f.scores)}
        held = Rewriter(load=lambda e: Load(scores[e.name], (), F32) if e.name in scores else e)(f.value)
        moved = Rewriter({f.along: along})(held)
        read = {name: Load(name, (place, self._row), F32) for name in scores.values()}
        return Rewriter(load=lambda e: read.get(e.name, e))(moved)

    def _rescale(self) -> list[Statement]:
        """What the rows' sums so far are multiplied by: the shift is 0 while the maximum is -inf."""
        top, new = self._read_row("top"), self._read_row("new")
        shift = op("where", op("eq", new, lowest(F32)), const(0.0, F32), new)
        body: list[Statement] = [
            Let("shift", shift),
            self._put_row("shifts", Load("shift", (), F32)),
            self._put_row("scale", op("exp", op("sub", top, Load("shift", (), F32)))),
        ]
        if self.found.total is not None:
            body.append(self._put_row("total", op("mul", self._read_row("total"), self._read_row("scale"))))
        return [self._over_rows([*body, self._put_row("top", new)])]

    def _exponentials(self, part: Part) -> list[Statement]:
        """The exponentials: narrow ones in pairs, beside each other, others in the place of the exponents."""
        f = self.found
        paired = [self._pairs_weights(k) for k in range(len(f.weighted))]
        done: list[Statement] = []
        for tile, axis in self._cut("power_t", part.size, 2):
            body: list[Statement] = []
            total: Expr = self._read_row("total") if f.total is not None else const(0.0, F32)
            for j in range(2 if any(paired) else tile.size):
                place = tile.first + j, self._row
                power: Expr = const(0.0, F32)  # at the point after the last one, where they are odd in number
                if j < tile.size:
                    power = op("exp", op("sub", Load("values", place, F32), self._read_row("shifts")))
                own = Load(f"power{j}", (), F32)
                body.append(Let(own.name, power))
                total = op("add", total, own)
                if any(paired):
                    powers = self._array("powers", BF16, -(-self.block // 2), 2 * self.height, narrow=True)
                    body.append(Put(powers, (tile.first // 2, self._row * 2 + j), cast(own, BF16)))
                if not all(paired) and j < tile.size:
                    body.append(Put("values", place, own))
            done += self._looped(axis, [self._over_rows([*body, *self._put_total(total)])])
        return done

    def _put_total(self, total: Expr) -> list[Statement]:
        return [] if self.found.total is None else [self._put_row("total", total)]

    def _sums(self, part: Part) -> list[Statement]:
        done: list[Statement] = []
        for k in range(len(self.found.weighted)):
            for tile, axis in self._cut("sum_t", extent_of(self.found.columns), self.width):
                done += self._looped(axis, self._sum(k, part, tile))
        return done

    def _sum(self, k: int, part: Part, tile: Part) -> list[Statement]:
        """A tile of the sums with weights: some columns, all rows."""
        points = Axis("point", -(-part.size // (2 if self._pairs_weights(k) else 1)))
        states: list[Statement] = []
        starts: list[Statement] = []
        updates: list[Statement] = []
        puts: list[Statement] = []
        for j in range(tile.size):
            for u in range(self.packs):
                lane = of_atom(self.local) + self.pack * u
                own, place = Load(f"sum{k}_{j}_{u}", (), F32), (tile.first + j, lane)
                old = op("mul", Load(self._sums_array(k), place, F32), Load("scale", (lane,), F32))
                states.append(State(own.name, F32, const(0.0, F32), self.local, self.pack))
                starts.append(Update((own.name,), (old,)))
                updates.append(
                    Update((own.name,), (op("add", own, self._products(k, part, points, tile.first + j, lane)),))
                )
                puts.append(Put(self._sums_array(k), place, own))
        over = Loop("serial", points, (self._over_lanes(updates),))
        return [*states, self._over_lanes(starts), over, self._over_lanes(puts)]

    def _products(self, k: int, part: Part, points: Axis, column: Index, lane: Index) -> Expr:
        """The exponentials of a pack of rows with the weights of a column, at a point or two."""
        f, point = self.found, of_atom(points)
        if not self._pairs_weights(k):
            at = {f.along: part.first + point, f.columns: column}
            return op("mul", Load("values", (point, lane), F32), Rewriter(at)(f.weighted[k].args[1]))
        terms: list[Expr] = []
        for n in range(2):
            power = Load("powers", (point, lane * 2 + n), BF16)
            weight = Load(f"weights{k}", (part.first // 2 + point, column * 2 + n), BF16)
            terms.append(op("mul", cast(power, F32), cast(weight, F32)))
        return add_up(terms)
