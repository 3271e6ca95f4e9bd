"""One launch of a tile program as the body of a Triton function: statements and loops.

Points of the tiled axes of the grid, and of the lanes loops inside, are the dimensions of tensors; every other loop is
a loop. Lanes loops that take a whole axis at once are no loops at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...ir.errors import ScheduleError
from ...ir.expr import Load
from ...ir.index import Axis, Index, bounds
from ...ir.states import STATES
from ...ir.tiles import Fold, Let, Loop, Put, Scan, State, Statement, Update, walk_statements
from ...ir.types import Dim, is_nonnegative, plus
from ..dims import PYTHON, print_dim
from ..parts import count_uses, expressions_of, writes_of
from ..text import strip
from ..tiling_nest import quotient
from .combine import Combiners
from .ops import TYPES
from .scope import Axes, Stack, Val
from .values import Array, Values, widen


class Printer:
    """Prints one launch. `symbols` are the dynamic sizes, which the function takes as arguments."""

    def __init__(self, arrays: Mapping[str, Array], symbols: Sequence[str], combiners: Combiners) -> None:
        self.stack = Stack()
        self.stack.taken.update(symbols, (a.pointer for a in arrays.values()))
        self.values = Values(self.stack, arrays, combiners.helpers)
        self.combiners = combiners
        self.states: dict[str, State] = {}
        self.lanes_dim: int | None = None

    def print_launch(
        self,
        grid: Sequence[Loop],
        body: Sequence[Statement],
        given: Mapping[str, tuple[str, str]],
        kept: Mapping[str, str],
    ) -> list[str]:
        """The lines of a function that does `body` for the points of some grid loops that are its program's.

        `given` are values that launches before this one have left: by name the pointer to each, and its type; `kept`
        those that it leaves itself.
        """
        self.values.uses = count_uses(e for s in walk_statements(body) for e in expressions_of(s))
        tiled = [x for x in grid if x.tile > 1]
        has_lanes = self.has_lanes(body)
        self.lanes_dim = len(tiled) if has_lanes else None
        self.values.sizes = [x.tile for x in tiled] + ([1] if has_lanes else [])
        self.stack.open({}, frozenset())
        for name, (pointer, dtype) in given.items():
            found = self.values.name(Val(f"tl.load({pointer})", kind=dtype), name)
            self.stack.bound[name] = (found, 0)
        self.open_grid(grid, tiled)
        self.statements(body)
        for name, pointer in kept.items():
            self.stack.emit(f"tl.store({pointer}, {self.stack.bound[name][0].text})")
        return self.stack.close()

    def has_lanes(self, body: Sequence[Statement]) -> bool:
        """True where the points of lanes loops are a dimension of their own."""
        return any(isinstance(s, Loop) and s.kind == "lanes" for s in walk_statements(body))

    def state_dims(self, s: State) -> frozenset[int]:
        """The dimensions that a running value varies along."""
        dims = frozenset(range(len(self.values.sizes)))
        return dims if self.lanes_dim is None or s.lanes is not None else dims - {self.lanes_dim}

    def statements(self, body: Sequence[Statement]) -> None:
        for s in body:
            getattr(self, f"_{type(s).__name__.lower()}")(s)

    # --- the grid ------------------------------------------------------------------------------------------------

    def open_grid(self, grid: Sequence[Loop], tiled: Sequence[Loop]) -> None:
        """Names the point, or the points, of each axis that are this program's; the last axis runs fastest."""
        if not grid:
            return
        self.stack.emit("pid = tl.program_id(0)")
        rest = "pid"
        for k in reversed(range(len(grid))):
            loop, count = grid[k], print_dim(blocks_of(grid[k]), PYTHON)
            if k > 0 and count == "1":
                self.open_axis(loop, "0", tiled.index(loop) if loop in tiled else None)
                continue
            self.open_axis(loop, rest if k == 0 else f"{rest} % {count}", tiled.index(loop) if loop in tiled else None)
            if k > 1:
                above = self.stack.fresh("rest")
                self.stack.emit(f"{above} = {rest} // {count}")
                rest = above
            else:
                rest = f"{rest} // {count}"

    def open_axis(self, loop: Loop, number: str, dim: int | None) -> None:
        name = self.stack.fresh(loop.axis.name)
        wide = not is_short(loop)
        kind = "i64" if wide else "i32"
        number = f"({number})" if " " in number else number
        number = f"tl.cast({strip(number)}, tl.int64)" if wide else number
        mask = ""
        if dim is None:
            self.stack.emit(f"{name} = {strip(number)}")
        else:
            first = "" if number == "0" else f"{number} * {loop.tile} + "
            self.stack.emit(f"{name} = {first}{self._points(loop.tile, dim)}")
            mask = self.mask(name, loop.axis, print_dim(loop.axis.extent, PYTHON), is_whole(loop))
        self.stack.scopes[0].axes[loop.axis] = Axes(name, dim, kind)
        self.values.live[dim] = mask

    def _points(self, tile: int, dim: int) -> str:
        rank = len(self.values.sizes)
        where = "" if rank == 1 else "[" + ", ".join(":" if k == dim else "None" for k in range(rank)) + "]"
        return f"tl.arange(0, {tile}){where}"

    def mask(self, name: str, axis: Axis, end: str, whole: bool) -> str:
        if whole:
            return ""
        mask = self.stack.fresh(f"{axis.name}_in")
        self.stack.emit(f"{mask} = {name} < {end}")
        return mask

    # --- values --------------------------------------------------------------------------------------------------

    def _let(self, s: Let) -> None:
        level = self.stack.level_of(s.value)
        val = self.values.value(s.value)
        if not val.text.isidentifier() or (isinstance(s.value, Load) and s.value.name in self.states):
            val = self.values.name(val, s.name, level)
        self.stack.forget(s.name)
        self.stack.bound[s.name] = (val, level)

    def _state(self, s: State) -> None:
        if self.lanes_dim is not None:
            self.values.sizes[self.lanes_dim] = s.tile if s.lanes is not None else 1
        dims = self.state_dims(s)
        name = self.stack.fresh(s.name)
        self.stack.emit(f"{name} = {self.values.spread(self.values.value(s.init), dims, s.dtype.name)}")
        self.states[s.name] = s
        self.stack.forget(s.name)
        self.stack.bound[s.name] = (Val(name, dims, s.dtype.name), self.stack.depth)

    def _update(self, s: Update) -> None:
        """All new values first, then the assignments; points past the end of the lanes keep what they have."""
        old = [self.stack.bound[n][0] for n in s.names]
        lanes = frozenset() if self.lanes_dim is None else old[0].dims & {self.lanes_dim}
        live = " & ".join(self.values.masks(lanes))
        texts: list[str] = []
        for name, before, value in zip(s.names, old, s.values, strict=True):
            dtype = self.states[name].dtype.name
            text = self.values.spread(self.values.value(value), before.dims, dtype)
            if live:
                text = f"tl.where({live}, {strip(text)}, {before.text})"
            if len(s.names) > 1:
                text = self.values.name(Val(text), f"{name}_new", self.stack.depth).text
            texts.append(text)
        for name, before, text in zip(s.names, old, texts, strict=True):
            self.stack.emit(f"{before.text} = {strip(text)}")
            self.stack.forget(name)

    def _fold(self, s: Fold) -> None:
        vals = [self.stack.bound[n][0] for n in s.names]
        dtypes = [self.states[n].dtype for n in s.names]
        folded = self._reduced(s.state, vals, [d.name for d in dtypes], [f"{n}_all" for n in s.names])
        for name, val in zip(s.names, folded, strict=True):
            self.stack.forget(name)
            self.stack.bound[name] = (val, self.stack.depth)

    def _reduced(self, state: str, vals: Sequence[Val], dtypes: Sequence[str], hints: Sequence[str]) -> list[Val]:
        """Tiles of the components of a state, combined along the lanes."""
        dim = self.lanes_dim
        assert dim is not None
        rest = vals[0].dims - {dim}
        kept = ", keep_dims=True" if len(self.values.sizes) > 1 else ""
        texts = [v.text for v in vals]
        if state in ("any", "all"):
            name = "max" if state == "any" else "min"
            texts = [f"(tl.{name}({texts[0]}.to(tl.int32), axis={dim}{kept}) != 0)"]
        elif state == "sum":
            texts = [f"tl.sum({texts[0]}, axis={dim}{kept})"]
        else:
            combine = self.combiners.function(state, tuple(dtypes))
            if len(vals) > 1:
                names = [self.stack.fresh(h) for h in hints]
                self.stack.emit(f"{', '.join(names)} = tl.reduce(({', '.join(texts)}), {dim}, {combine}{kept})")
                return [Val(n, rest, d) for n, d in zip(names, dtypes, strict=True)]
            texts = [f"tl.reduce({texts[0]}, {dim}, {combine}{kept})"]
        return [self.values.name(Val(texts[0], rest, dtypes[0]), hints[0], self.stack.depth)]

    def _scan(self, s: Scan) -> None:
        """Within a tile by Triton, from tile to tile by a carried value."""
        dim, depth = self.lanes_dim, self.stack.depth
        assert dim is not None
        carry, held = self.stack.bound[s.carry][0], self.states[s.carry].dtype
        dims = carry.dims | {dim}
        live, dtype = " & ".join(self.values.masks(frozenset({dim}))), s.value.dtype
        value = self.values.spread(self.values.value(s.value), dims, dtype.name)
        if live:
            identity = self.values.value(STATES[s.state].identity((dtype,))[0])
            value = f"tl.where({live}, {strip(value)}, {identity.text})"
        item = self.values.name(Val(value, dims, dtype.name), f"{s.name}_in", depth)
        combine = self.combiners.function(s.state, (dtype.name,))
        run = self.values.name(
            Val(f"tl.associative_scan({item.text}, {dim}, {combine})", dims, dtype.name), "run", depth
        )
        wide = self.combiners.function(s.state, (held.name,))
        start = carry.text if held is dtype else f"{carry.text}.to({TYPES[dtype.name]})"
        out = self.values.name(Val(f"{combine}({run.text}, {start})", dims, dtype.name), s.name, depth)
        (last,) = self._reduced(s.state, [item], [dtype.name], [f"{s.name}_all"])
        text = last.text if held is dtype else f"{last.text}.to({TYPES[held.name]})"
        self.stack.emit(f"{carry.text} = {wide}({carry.text}, {text})")
        self.stack.forget(s.carry)
        self.stack.forget(s.name)
        self.stack.bound[s.name] = (out, depth)

    def _put(self, s: Put) -> None:
        value = self.values.value(s.value)
        place, dims, conditions = self.values.place(s.target, s.index, s.guard)
        if value.dims - dims:
            raise ScheduleError("one element for several points of a tile", where=s.target, got=s.value)
        text = widen(value) if value.kind == "i32" and self.values.arrays[s.target].kind == "i64" else value.text
        mask = f", mask={' & '.join(conditions)}" if conditions else ""
        self.stack.emit(f"tl.store({place}, {strip(text)}{mask})")
        self.values.stored.add(s.target)
        self.stack.forget(s.target)

    def _stage(self, s: Statement) -> None:
        raise ScheduleError("blocks are not staged on a GPU", got=s)

    # --- loops ---------------------------------------------------------------------------------------------------

    def _loop(self, s: Loop) -> None:
        if s.axis.extent == 0:
            return
        if s.axis.is_ragged:
            raise ScheduleError("the Triton target has no axes that data bounds yet", got=s.axis)
        if s.kind == "lanes":
            self._lanes_loop(s)
        else:
            self._serial_loop(s)

    def _serial_loop(self, s: Loop) -> None:
        begin, end = self.limits(s)
        kind = "i32" if is_short(s) else "i64"
        var = self.stack.fresh(s.axis.name)
        self.stack.open({s.axis: Axes(var, None, kind)}, writes_of(s))
        self.statements(s.body)
        lines = self.stack.close()
        steps = f"range({end} - 1, {begin} - 1, -1)" if s.reverse else f"range({begin}, {end})"
        self.stack.emit_block(f"for {var} in {steps.replace('range(0, ', 'range(')}:", lines)

    def _lanes_loop(self, s: Loop) -> None:
        dim = self.lanes_dim
        assert dim is not None
        self.values.sizes[dim] = s.tile
        if s.begin is None and s.end is None and holds_all(s):
            self._open_lanes(s, "", print_dim(s.axis.extent, PYTHON))
            self.statements(s.body)
        else:
            begin, end = self.limits(s)
            first = self.stack.fresh(f"{s.axis.name}0")
            self.stack.open({}, writes_of(s))
            self._open_lanes(s, f"{first} + ", end)
            self.statements(s.body)
            lines = self.stack.close()
            self.stack.emit_block(f"for {first} in range({begin}, {end}, {s.tile}):", lines)
        self.values.sizes[dim] = 1
        self.values.live[dim] = ""

    def _open_lanes(self, s: Loop, first: str, end: str) -> None:
        """Names the points of a tile. One that holds a whole axis stays known, for the next loop over that axis."""
        scope, dim = self.stack.scopes[-1], self.lanes_dim
        if not first and s.axis in scope.axes:
            self.values.live[dim] = scope.axes[s.axis].mask
            return
        name = self.stack.fresh(s.axis.name)
        self.stack.emit(f"{name} = {first}{self._points(s.tile, dim or 0)}")
        mask = self.mask(name, s.axis, end, is_whole(s))
        scope.axes[s.axis] = Axes(name, dim, "i32" if is_short(s) else "i64", mask)
        self.values.live[dim] = mask

    def limits(self, s: Loop) -> tuple[str, str]:
        """The first point and the one after the last."""
        begin = "0" if s.begin is None else strip(self.values.index(s.begin).text)
        if s.begin is not None and not is_nonnegative(bounds(s.begin)[0]):
            begin = f"max({begin}, 0)"
        end = print_dim(s.axis.extent, PYTHON)
        if s.end is not None and s.end != Index((), s.axis.extent):
            limit = strip(self.values.index(s.end).text)
            end = limit if _ends_inside(s) else f"min({limit}, {end})"
        return self._named(begin, f"{s.axis.name}_begin"), self._named(end, f"{s.axis.name}_end")

    def _named(self, text: str, hint: str) -> str:
        if text.isidentifier() or text.isdigit():
            return text
        name = self.stack.fresh(hint)
        self.stack.emit(f"{name} = {text}")
        return name


def blocks_of(loop: Loop) -> Dim:
    """How many programs a grid loop has."""
    return quotient(plus(loop.axis.extent, loop.tile - 1), loop.tile)


def holds_all(s: Loop) -> bool:
    return isinstance(s.axis.extent, int) and s.axis.extent <= s.tile


def is_short(s: Loop) -> bool:
    """True where 32 bits hold every point, those of the last tile beyond the axis too."""
    return isinstance(s.axis.extent, int) and s.axis.extent + s.tile < 2**31


def is_whole(s: Loop) -> bool:
    """True where every tile of a loop is full."""
    extent, tile = s.axis.extent, s.tile
    if not isinstance(extent, int) or extent % tile:
        return False
    limits = [i for i in (s.begin, s.end) if i is not None]
    return all(isinstance(c, int) and c % tile == 0 for i in limits for c in (i.const, *(k for _, k in i.terms)))


def _ends_inside(s: Loop) -> bool:
    """True where the end of a block surely is within its axis."""
    if s.end is None:
        return True
    most = bounds(s.end)[1]
    return isinstance(most, int) and isinstance(s.axis.extent, int) and most <= s.axis.extent
