"""What comes between the two kinds of linked sums (see `linked`): values of scores, for a block of rows.

Scratch arrays: `values` and `powers` have the values of a block, the latter narrow ones with neighbours side by side.
With a running maximum `values` holds exponents first, and each row has `top`, `new`, `scale`, `shifts` and `total`.
"""

from __future__ import annotations

from ...ir.expr import Expr, Load, const
from ...ir.index import Index
from ...ir.scalar import cast, op
from ...ir.states import lowest
from ...ir.tiles import Let, Put, Statement
from ...ir.types import BF16, F32
from .linked import Linked
from .linked_build import LinkedBuilder, Part

AT_ONCE = 4  # exponents whose maximum is found before the running one is read


def make_linked(found: Linked, lanes: int, pairs: bool) -> LinkedBuilder:
    """What builds a kernel of linked sums, for packs of `lanes`; `pairs` of bf16 products are added at once."""
    return RunningBuilder(found, lanes, pairs) if found.running else PlainBuilder(found, lanes, pairs)


class PlainBuilder(LinkedBuilder):
    """Values are what is computed of scores, as it stands."""

    def clear(self) -> list[Put]:
        return [self.put_row(name, const(0.0, F32)) for name in self.of_rows().values()]

    def of_rows(self) -> dict[str, str]:
        return {w.name: f"total{k}" for k, w in enumerate(self.found.weighted) if w.weight is None}

    def carried(self, old: Expr, lane: Index) -> Expr:
        return old

    def values(self, part: Part) -> list[Statement]:
        done: list[Statement] = []
        for tile, axis in self.cut("value_t", part.size, 2):
            lets: list[Statement] = []
            puts: list[Statement] = []
            for k in range(len(self.found.values)):
                own = [Load(f"value{k}_{j}", (), F32) for j in range(tile.size)]
                for j, value in enumerate(own):
                    place = tile.first + j
                    lets.append(Let(value.name, self.value(k, part.first + place, place)))
                puts += self._puts(k, tile, own)
            done += self.looped(axis, [self.over_rows([*lets, *puts])])
        return done

    def _puts(self, k: int, tile: Part, values: list[Load]) -> list[Statement]:
        """What becomes of two neighbours, of which the second is there or not."""
        users = [w for w in self.found.weighted if w.value is self.found.values[k]]
        puts: list[Statement] = []
        if any(map(self.is_paired, users)):
            powers = self.powers(k)
            for j in range(2):
                value = cast(values[j], BF16) if j < len(values) else const(0.0, BF16)
                puts.append(Put(powers, (tile.first // 2, self.row * 2 + j), value))
        if not all(w.weight is None or self.is_paired(w) for w in users):
            array = self.array(f"values{k}", F32, self.block, self.height)
            puts += [Put(array, (tile.first + j, self.row), value) for j, value in enumerate(values)]
        for name in (self.of_rows()[w.name] for w in users if w.weight is None):
            total: Expr = self.read_row(name)
            for value in values:
                total = op("add", total, value)
            puts.append(self.put_row(name, total))
        return puts


class RunningBuilder(LinkedBuilder):
    """Values are exponentials of a running maximum: what was summed before is scaled when that grows."""

    def clear(self) -> list[Put]:
        zero = const(0.0, F32)
        totals = [] if self.found.total is None else [self.put_row("total", zero)]
        return [self.put_row("top", lowest(F32)), self.put_row("scale", zero), *totals]

    def of_rows(self) -> dict[str, str]:
        total = self.found.total
        return {} if total is None else dict(zip(total.names, ("top", "total"), strict=True))

    def carried(self, old: Expr, lane: Index) -> Expr:
        return op("mul", old, Load("scale", (lane,), F32))

    def values(self, part: Part) -> list[Statement]:
        return [*self._exponents(part), *self._rescale(), *self._exponentials(part)]

    def _exponents(self, part: Part) -> list[Statement]:
        """The exponents of the block, and the new maximum of each row."""
        done: list[Statement] = [self.over_rows([self.put_row("new", self.read_row("top"))])]
        values = self.array("values0", F32, self.block, self.height)
        for tile, axis in self.cut("value_t", part.size, AT_ONCE):
            body: list[Statement] = []
            largest: Expr = self.read_row("new")
            for j in range(tile.size):
                place = tile.first + j
                own = Load(f"value{j}", (), F32)
                body += [Let(own.name, self.value(0, part.first + place, place)), Put(values, (place, self.row), own)]
                largest = op("max", largest, own)
            done += self.looped(axis, [self.over_rows([*body, self.put_row("new", largest)])])
        return done

    def _rescale(self) -> list[Statement]:
        """What the rows' sums so far are multiplied by: the shift is 0 while the maximum is -inf."""
        top, new = self.read_row("top"), self.read_row("new")
        shift = op("where", op("eq", new, lowest(F32)), const(0.0, F32), new)
        body: list[Statement] = [
            Let("shift", shift),
            self.put_row("shifts", Load("shift", (), F32)),
            self.put_row("scale", op("exp", op("sub", top, Load("shift", (), F32)))),
        ]
        if self.found.total is not None:
            body.append(self.put_row("total", op("mul", self.read_row("total"), self.read_row("scale"))))
        return [self.over_rows([*body, self.put_row("top", new)])]

    def _exponentials(self, part: Part) -> list[Statement]:
        """The exponentials: narrow ones in pairs, beside each other, others in the place of the exponents."""
        f = self.found
        paired = [self.is_paired(w) for w in f.weighted]
        done: list[Statement] = []
        for tile, axis in self.cut("power_t", part.size, 2):
            body: list[Statement] = []
            total: Expr = self.read_row("total") if f.total is not None else const(0.0, F32)
            for j in range(2 if any(paired) else tile.size):
                place = tile.first + j, self.row
                power: Expr = const(0.0, F32)  # at the point after the last one, where they are odd in number
                if j < tile.size:
                    power = op("exp", op("sub", Load("values0", place, F32), self.read_row("shifts")))
                own = Load(f"power{j}", (), F32)
                body.append(Let(own.name, power))
                total = op("add", total, own)
                if any(paired):
                    powers = self.powers(0)
                    body.append(Put(powers, (tile.first // 2, self.row * 2 + j), cast(own, BF16)))
                if not all(paired) and j < tile.size:
                    body.append(Put("values0", place, own))
            done += self.looped(axis, [self.over_rows([*body, *self._put_total(total)])])
        return done

    def _put_total(self, total: Expr) -> list[Statement]:
        return [] if self.found.total is None else [self.put_row("total", total)]
