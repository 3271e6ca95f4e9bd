"""The loops of linked sums: see `linked`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import Expr, Load, Rewriter, const
from ...ir.index import Axis, Index, of_atom
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
BLOCK = 128  # points that the sums run along, in a block: their exponentials stay in the nearest cache
RESULTS = {16: 8, 8: 4, 4: 4}  # columns of a tile, by the lanes of a pack
AT_ONCE = 4  # values whose maximum is found before the running one is read


@dataclass(frozen=True, slots=True)
class Part:
    """Points of an axis from `first`, `size` of them."""

    first: Index
    size: int


class LinkedBuilder:
    """Builds the statements of a kernel of linked sums."""

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
        steps = self._cut(f"{f.along.name}_b", extent_of(f.along), self.block, Index(()))
        blocks = [s for part, axis in steps for s in self._over_blocks(axis, part)]
        body = [*self._start(), *blocks, *self._end()]
        kind = "serial" if f.outer else "grid"
        loops: list[Statement] = [*self._pack_weights(), Loop(kind, self.blocks, tuple(body))]
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

    def _cut(self, name: str, count: int, size: int, first: Index) -> list[tuple[Part, Axis | None]]:
        whole, left = divmod(count, size)
        found: list[tuple[Part, Axis | None]] = []
        if whole == 1:
            found.append((Part(first, size), None))
        elif whole:
            loop = Axis(f"{name}{size}", whole)
            found.append((Part(of_atom(loop) * size + first, size), loop))
        if left:
            found.append((Part(first + whole * size, left), None))
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

    def _per_row(self, name: str) -> Load:
        return Load(self._array(name, F32, self.height), (self._row,), F32)

    def _put_row(self, name: str, value: Expr) -> Put:
        return Put(self._array(name, F32, self.height), (self._row,), value)

    # --- before and after ----------------------------------------------------------------------------------------

    def _start(self) -> list[Statement]:
        """Turns the rows' operands, and clears what runs."""
        f = self.found
        done: list[Statement] = []
        for k, s in enumerate(f.scores):
            source = stored(sides_of(s, f)[0])
            assert source is not None
            depth, count = s.reduce[0], self._count(s)
            chunks = Axis(f"{depth.name}_w", -(-extent_of(depth) // (self.pack * count)))
            name = self._array(
                f"rows{k}", source.dtype, extent_of(chunks) * self.pack, self.height * count, narrow=count > 1
            )
            halves = Axis(f"{depth.name}_{count}", extent_of(depth) // count) if count > 1 else depth
            value = Rewriter({depth: of_atom(halves) * count})(source) if count > 1 else source
            assert isinstance(value, Load)
            at = of_atom(chunks) * self.pack
            stages = tuple(
                Stage(name, (at, Index((), count * self.pack * u)), value, halves, f.rows, at, self.first + self.pack * u, self.pack, count)
                for u in range(self.packs)
            )  # fmt: skip
            done.append(Loop("serial", chunks, stages))
        zero = const(0.0, F32)
        cleared = [self._put_row("top", lowest(F32)), self._put_row("scale", zero)]
        if f.total is not None:
            cleared.append(self._put_row("total", zero))
        done.append(self._over_rows(cleared))
        column = Axis("column", extent_of(f.columns))
        puts = [Put(self._result(k), (of_atom(column), self._row), zero) for k in range(len(f.weighted))]
        return [*done, Loop("serial", column, (self._over_rows(puts),))]

    def _result(self, k: int) -> str:
        return self._array(f"sums{k}", F32, extent_of(self.found.columns), self.height)

    def _end(self) -> list[Statement]:
        """Turns the sums, so that those of a row are together, and stores what is computed of them."""
        f, n = self.found, self.pack
        stages: list[Statement] = []
        along = Axis("column_w", -(-extent_of(f.columns) // n))
        for k in range(len(f.weighted)):
            name = self._array(f"results{k}", F32, self.height, extent_of(along) * n)
            value = Load(self._result(k), (of_atom(f.columns), self._row), F32)
            for u in range(self.packs):
                at = Index((), u * n), of_atom(along) * n
                stages.append(Stage(name, at, value, f.rows, f.columns, self.first + u * n, of_atom(along) * n, n))
        own = {s.names[1]: k for k, s in enumerate(f.weighted)}
        per_row = {} if f.total is None else dict(zip(f.total.names, ("top", "total"), strict=True))

        def read(e: Load) -> Expr:
            if e.name in own:
                return Load(f"results{own[e.name]}", (self._row, of_atom(f.columns)), F32)
            return self._per_row(per_row[e.name]) if e.name in per_row else e

        rewrite = Rewriter(load=read)
        puts = {s: Put(s.buffer, tuple(map(rewrite.index, s.index)), rewrite(s.value)) for s in f.stores}
        whole = [put for s, put in puts.items() if f.columns in s.axes]
        of_rows = [put for s, put in puts.items() if f.columns not in s.axes]
        store = Loop("lanes", f.columns, tuple(whole), n)
        rows = Loop("serial", f.rows, (store,), 1, self.first, self.first + self.height)
        return [Loop("serial", along, tuple(stages)), rows, *([self._over_rows(of_rows)] if of_rows else [])]

    # --- weights -------------------------------------------------------------------------------------------------

    def _pairs_weights(self, k: int) -> bool:
        s = self.found.weighted[k]
        return self.pairs and is_paired(s, s.args[1])

    def _pack_weights(self) -> list[Statement]:
        """Puts the weights of two neighbours side by side, where an instruction takes two."""
        f = self.found
        done: list[Statement] = []
        for k, s in enumerate(f.weighted):
            value = stored(s.args[1])
            assert value is not None
            if not self._pairs_weights(k):
                continue
            count = extent_of(f.along)
            name = self._array(f"weights{k}", BF16, -(-count // 2), 2 * extent_of(f.columns), narrow=True)
            for part, axis in self._cut(f"{f.along.name}_p", count, 2, Index(())):
                puts: list[Statement] = []
                for n in range(2):
                    held = Rewriter({f.along: part.first + n})(value) if n < part.size else const(0.0, BF16)
                    puts.append(Put(name, (part.first // 2, of_atom(f.columns) * 2 + n), held))
                done += self._looped(axis, [Loop("lanes", f.columns, tuple(puts), self.pack)])
        return done

    # --- a block of what the sums run along ----------------------------------------------------------------------

    def _step(self, part: Part) -> list[Statement]:
        done: list[Statement] = []
        for tile, axis in self._cut("score_t", part.size, self.width, Index(())):
            done += self._looped(axis, [s for k in range(len(self.found.scores)) for s in self._scores(k, part, tile)])
        return [*done, *self._exponents(part), *self._sums(part)]

    def _count(self, s: Equation) -> int:
        """Products of the first sums that are added at once."""
        return 2 if self.pairs and is_paired(s, s.args[0]) and extent_of(s.reduce[0]) % 2 == 0 else 1

    def _scores(self, k: int, part: Part, tile: Part) -> list[Statement]:
        """A tile of the first sums: some points along, all rows."""
        f = self.found
        s = f.scores[k]
        depth, count = s.reduce[0], self._count(s)
        rows, others = sides_of(s, f)
        source = stored(rows)
        assert source is not None
        halves = Axis(f"{depth.name}_{count}", extent_of(depth) // count) if count > 1 else depth
        states: list[Statement] = []
        updates: list[Statement] = []
        puts: list[Statement] = []
        array = self._array(f"scores{k}", F32, self.block, self.height)
        for j in range(tile.size):
            for u in range(self.packs):
                name = f"score{k}_{j}_{u}"
                states.append(State(name, F32, const(0.0, F32), self.local, self.pack))
                terms: list[Expr] = []
                for n in range(count):
                    lane = of_atom(self.local) * count + (count * self.pack * u + n)
                    held = Load(f"rows{k}", (of_atom(halves), lane), source.dtype)
                    at = {
                        f.along: part.first + tile.first + j,
                        depth: of_atom(halves) * count + n if count > 1 else of_atom(depth),
                    }
                    terms.append(op("mul", cast(held, F32), Rewriter(at)(others)))
                own = Load(name, (), F32)
                updates.append(Update((name,), (op("add", own, add_up(terms)),)))
                puts.append(Put(array, (tile.first + j, of_atom(self.local) + self.pack * u), own))
        point = Loop("lanes", self.local, tuple(updates), self.pack)
        return [*states, Loop("serial", halves, (point,)), Loop("lanes", self.local, tuple(puts), self.pack)]

    def _exponents(self, part: Part) -> list[Statement]:
        """The exponents, the new maximum of each row, the exponentials and their sum."""
        f = self.found
        done: list[Statement] = [self._over_rows([self._put_row("new", self._per_row("top"))])]
        values = self._array("values", F32, self.block, self.height)
        for tile, axis in self._cut("value_t", part.size, AT_ONCE, Index(())):
            lets: list[Statement] = []
            largest: Expr = self._per_row("new")
            for j in range(tile.size):
                value = self._value(part.first + tile.first + j, tile.first + j)
                lets += [Let(f"value{j}", value), Put(values, (tile.first + j, self._row), Load(f"value{j}", (), F32))]
                largest = op("max", largest, Load(f"value{j}", (), F32))
            done += self._looped(axis, [self._over_rows([*lets, self._put_row("new", largest)])])
        top, new = self._per_row("top"), self._per_row("new")
        shift = op("where", op("eq", new, lowest(F32)), const(0.0, F32), new)
        scale = op("exp", op("sub", top, shift))
        rescale = [Let("shift", shift), self._put_row("scale", scale), self._put_row("shifts", Load("shift", (), F32))]
        if f.total is not None:
            rescale.append(self._put_row("total", op("mul", self._per_row("total"), self._per_row("scale"))))
        done.append(self._over_rows([*rescale, self._put_row("top", new)]))
        return [*done, *self._exponentials(part, values)]

    def _exponentials(self, part: Part, values: str) -> list[Statement]:
        f = self.found
        paired = [self._pairs_weights(k) for k in range(len(f.weighted))]
        done: list[Statement] = []
        if any(paired):
            self._array("powers", BF16, -(-self.block // 2), 2 * self.height, narrow=True)
        for tile, axis in self._cut("power_t", part.size, 2, Index(())):
            body: list[Statement] = []
            total: list[Expr] = []
            for j in range(2):
                here = tile.first + j
                known = j < tile.size
                e = op("exp", op("sub", Load(values, (here, self._row), F32), self._per_row("shifts")))
                body.append(Let(f"power{j}", e if known else const(0.0, F32)))
                own = Load(f"power{j}", (), F32)
                total += [own] if known else []
                if any(paired):
                    body.append(Put("powers", (tile.first // 2, self._row * 2 + j), cast(own, BF16)))
                if not all(paired) and known:
                    body.append(Put(values, (here, self._row), own))
            if f.total is not None:
                body.append(self._put_row("total", add_up([self._per_row("total"), add_up(total)])))
            done += self._looped(axis, [self._over_rows(body)])
        return done

    def _value(self, along: Index, place: Index) -> Expr:
        """The exponent of a row at a point."""
        f = self.found
        names = {s.names[0]: k for k, s in enumerate(f.scores)}
        held = Rewriter(load=lambda e: Load(f"score_{names[e.name]}", (), F32) if e.name in names else e)(f.value)
        moved = Rewriter({f.along: along})(held)
        read = {f"score_{k}": Load(f"scores{k}", (place, self._row), F32) for k in names.values()}
        return Rewriter(load=lambda e: read.get(e.name, e))(moved)

    def _sums(self, part: Part) -> list[Statement]:
        done: list[Statement] = []
        for k in range(len(self.found.weighted)):
            for tile, axis in self._cut("sum_t", extent_of(self.found.columns), self.width, Index(())):
                done += self._looped(axis, self._sum(k, part, tile))
        return done

    def _sum(self, k: int, part: Part, tile: Part) -> list[Statement]:
        """A tile of the sums with weights: some columns, all rows."""
        f = self.found
        s, paired = f.weighted[k], self._pairs_weights(k)
        count = 2 if paired else 1
        points = Axis("point", -(-part.size // count))
        states: list[Statement] = []
        updates: list[Statement] = []
        puts: list[Statement] = []
        starts: list[Statement] = []
        for j in range(tile.size):
            for u in range(self.packs):
                name, lane = f"sum{k}_{j}_{u}", of_atom(self.local) + self.pack * u
                states.append(State(name, F32, const(0.0, F32), self.local, self.pack))
                terms: list[Expr] = []
                for n in range(count):
                    if paired:
                        power: Expr = cast(Load("powers", (of_atom(points), lane * 2 + n), BF16), F32)
                        weight: Expr = cast(
                            Load(f"weights{k}", (part.first // 2 + of_atom(points), (tile.first + j) * 2 + n), BF16),
                            F32,
                        )
                    else:
                        power = Load("values", (of_atom(points), lane), F32)
                        weight = Rewriter({f.along: part.first + of_atom(points), f.columns: tile.first + j})(s.args[1])
                    terms.append(op("mul", power, weight))
                own, place = Load(name, (), F32), (tile.first + j, lane)
                old = op("mul", Load(self._result(k), place, F32), Load("scale", (lane,), F32))
                starts.append(Update((name,), (old,)))
                updates.append(Update((name,), (op("add", own, add_up(terms)),)))
                puts.append(Put(self._result(k), place, own))
        start, point, keep = (Loop("lanes", self.local, tuple(b), self.pack) for b in (starts, updates, puts))
        return [*states, start, Loop("serial", points, (point,)), keep]
