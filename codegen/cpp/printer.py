"""A tile program as C++: statements and loops. Lanes loops are printed twice: whole tiles, and what is left at the
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.expr import Expr, Load, Op
from ...ir.index import Axis, axis_coefficient, bounds, linearize, substitute
from ...ir.scalar import cast
from ...ir.states import STATES
from ...ir.tiles import Fetch, Fold, Let, Loop, Program, Put, Scan, Stage, State, Statement, Update, walk_statements
from ...ir.types import BF16, I16, is_nonnegative
from ..dims import print_dim
from ..parts import count_uses, expressions_of, may_be_empty, writes_of
from ..products.find import is_exact, is_small_integer
from ..text import strip
from .ahead import find_asks
from .printer_dots import Dots
from .printer_lanes import LanesPrinter, divides_axis, is_fixed
from .printer_memory import Memory
from .printer_scope import Lanes, Stack, Val
from .printer_tiles import NAME, TilePrinter
from .printer_values import Values
from .width import PACKS

STAGE_AHEAD = 128  # bytes along each row of a block that are asked for while it is turned


class Printer:
    """Prints one program for packs of `lanes`; `ahead` as the knob of that name, `strict` as `Values` has it, `pairs`
    and `quads` as `Choices`.
    """

    def __init__(
        self, program: Program, lanes: int, symbols: Sequence[str] = (), streaming: str = "true", ahead: bool = False,
        *, strict: bool = False, pairs: bool = False, quads: bool = False,
    ) -> None:  # fmt: skip
        self.program = program
        self.lanes = lanes
        self.stack = Stack()
        self.stack.taken.update(symbols)
        self.has_tiles = any(isinstance(s, Loop) and s.kind == "tiles" for s in walk_statements(program.body))
        self.stack.taken.update({NAME} if self.has_tiles else ())
        self.values = Values(self.stack, lanes, strict=strict)
        self.memory = self.values.memory = Memory(program, self.stack, self.values)
        self.dots = Dots(self.values, self.memory, pairs, quads)
        self.values.dots = self.dots
        self.states: dict[str, State] = {}
        self.slots: dict[str, str] = {}  # C names of states that are tiles of several packs
        asks = find_asks(program) if ahead else {}
        self.memory.asked = frozenset(a.buffer for found in asks.values() for a in found)
        self.lane_loops = LanesPrinter(
            self.stack, self.values, self.memory, self.statements, self._limits, self.slots, streaming, asks
        )
        self.tiles = TilePrinter(self.values, self.memory, self._limits)
        self.values.uses = count_uses(e for s in walk_statements(program.body) for e in expressions_of(s))

    def print_body(self, body: Sequence[Statement], axes: dict[Axis, str]) -> list[str]:
        """The lines of statements in a function where `axes` are known."""
        self.stack.open(axes, frozenset(), False)
        self.statements(body)
        return self.stack.close()

    def statements(self, body: Sequence[Statement]) -> None:
        done = 0
        for k, s in enumerate(body):
            if k < done:
                continue
            words = self.dots.stores(body, k)
            done = k + max(words, 1)
            if not words:
                getattr(self, f"_{type(s).__name__.lower()}")(s)

    # --- values --------------------------------------------------------------------------------------------------

    def _let(self, s: Let) -> None:
        level = self.stack.level_of(s.value)
        val = self.values.value(s.value)
        if not val.text.isidentifier() or (isinstance(s.value, Load) and s.value.name in self.states):
            val = self.values.name(val, s.name, level)
        self.stack.forget(s.name)
        self.stack.bound[s.name] = (val, level)

    def _state(self, s: State) -> None:
        self.states[s.name] = s
        packs = s.tile // self.lanes if s.lanes is not None else 1
        init = self.values.value(s.init)
        name = self.stack.fresh(s.name)
        val = Val(name, PACKS[s.dtype.name], s.lanes is None)
        kind = self.values.type_of(val)
        text = self.values.to(init, val.pack, single=val.single)
        if packs > 1:
            self.slots[s.name] = name
            self.stack.emit(f"{kind} {name}[{packs}];")
            self.stack.emit(f"for (int u = 0; u < {packs}; u++) {name}[u] = {text};")
        else:
            self.slots.pop(s.name, None)
            self.stack.emit(f"{kind} {name} = {text};")
        self.stack.forget(s.name)
        self.stack.bound[s.name] = (val, self.stack.depth)

    def _update(self, s: Update) -> None:
        state = self.states[s.names[0]]
        if state.lanes is not None and self.stack.lanes is None:
            self._over_packs(state, lambda: self._assign(s))
        else:
            self._assign(s)

    def _over_packs(self, state: State, body: object) -> None:
        """Does something for each pack of a tile of states, outside of the loop over their lanes."""
        packs = state.tile // self.lanes
        assert state.lanes is not None
        self.stack.open({}, frozenset(), False)
        self.stack.lanes = Lanes(state.lanes, "", self.stack.depth, None, "[u]" if packs > 1 else "")
        self.lane_loops.bind_slots()
        body()  # type: ignore[operator]
        self.stack.lanes = None
        lines = self.stack.close()
        self.stack.emit_all([f"for (int u = 0; u < {packs}; u++) {{", *lines, "}"] if packs > 1 else ["{", *lines, "}"])
        self.lane_loops.bind_slots()

    def _assign(self, s: Update) -> None:
        """All new values first, then the assignments; lanes past the end of the axis keep what they have."""
        old = [self.stack.bound[n][0] for n in s.names]
        live = self.memory.live() if not old[0].single else None
        texts: list[str] = []
        for name, before, value in zip(s.names, old, s.values, strict=True):
            val = self.values.value(value)
            text = self.values.to(val, before.pack, single=None if before.single else False)
            if live is not None:
                text = f"{self.values.need(f'sel_{before.pack}')}({live}, {strip(text)}, {before.text})"
            if len(s.names) > 1:
                text = self.values.name(Val(text, before.pack, before.single), f"{name}_new", self.stack.depth).text
            texts.append(text)
        for name, before, text in zip(s.names, old, texts, strict=True):
            self.stack.emit(f"{before.text} = {strip(text)};")
            self.stack.forget(name)

    def _fold(self, s: Fold) -> None:
        """The lanes of a tile of states as one value."""
        states = [self.states[n] for n in s.names]
        packs = states[0].tile // self.lanes
        packed = [
            Val(self.slots.get(n, self.stack.bound[n][0].text), PACKS[self.states[n].dtype.name], False)
            for n in s.names
        ]
        if packs > 1:
            packed = self._fold_packs(s, packed, packs)
        row = STATES[s.state]
        function = {"sum": "hsum", "prod": "hprod", "min": "hmin", "max": "hmax", "any": "hany", "all": "hall"}.get(
            row.name
        )
        if function is not None:
            call = self.values.need(f"{function}_{packed[0].pack}")
            folded = [Val(f"{call}({packed[0].text})", packed[0].pack)]
            folded = [self.values.name(folded[0], f"{s.names[0]}_all", self.stack.depth)]
        else:
            folded = self._fold_lanes(s, packed)
        for n, val in zip(s.names, folded, strict=True):
            self.stack.forget(n)
            self.stack.bound[n] = (val, self.stack.depth)
            self.slots.pop(n, None)

    def _fold_packs(self, s: Fold, packed: list[Val], packs: int) -> list[Val]:
        """Joins the packs of a tile, halves first."""
        groups = [[Val(f"{v.text}[{u}]", v.pack, False) for v in packed] for u in range(packs)]
        while len(groups) > 1:
            half = len(groups) // 2
            groups = [self._join(s, groups[u], groups[u + half]) for u in range(half)]
        return groups[0]

    def _join(self, s: Fold, a: list[Val], b: list[Val]) -> list[Val]:
        """The states of one row combined, as values with names."""
        dtypes = [self.states[n].dtype for n in s.names]
        sides: list[tuple[Expr, ...]] = []
        for side, vals in (("left", a), ("right", b)):
            for n, v in zip(s.names, vals, strict=True):
                self.stack.forget(f"{n} {side}")
                self.stack.bound[f"{n} {side}"] = (v, self.stack.depth)
            sides.append(tuple(Load(f"{n} {side}", (), d) for n, d in zip(s.names, dtypes, strict=True)))
        axis = self.states[s.names[0]].lanes
        before, self.stack.lanes = self.stack.lanes, None
        if not a[0].single:
            assert axis is not None
            self.stack.lanes = Lanes(axis, "", self.stack.depth)
        vals = [self.values.value(v) for v in STATES[s.state].combine(*sides)]
        named = [self.values.name(v, n, self.stack.depth) for n, v in zip(s.names, vals, strict=True)]
        self.stack.lanes = before
        return named

    def _fold_lanes(self, s: Fold, packed: list[Val]) -> list[Val]:
        """Combines the lanes one by one, for states that have no function across lanes."""
        firsts: list[Val] = []
        for n, v in zip(s.names, packed, strict=True):
            at = self.values.need(f"at_{v.pack}")
            name = self.stack.fresh(f"{n}_all")
            self.stack.emit(f"{self.values.type_of(Val('', v.pack))} {name} = {at}({v.text}, 0);")
            firsts.append(Val(name, v.pack))
        self.stack.open({}, frozenset(s.names), False)
        others = [Val(f"{self.values.need(f'at_{v.pack}')}({v.text}, i)", v.pack) for v in packed]
        others = [self.values.name(v, f"{n}_lane", self.stack.depth) for n, v in zip(s.names, others, strict=True)]
        for first, new in zip(firsts, self._join(s, firsts, others), strict=True):
            self.stack.emit(f"{first.text} = {new.text};")
        lines = self.stack.close()
        self.stack.emit_all([f"for (int i = 1; i < {self.lanes}; i++) {{", *lines, "}"])
        return firsts

    def _scan(self, s: Scan) -> None:
        """Within a pack by the prelude, from pack to pack by a single carried value."""
        carry, depth = self.stack.bound[s.carry][0], self.stack.depth
        pack = PACKS[s.value.dtype.name]
        value = self.values.to(self.values.value(s.value), pack, single=False)
        short = {"sum": "add", "prod": "mul"}.get(s.state, s.state)
        within = self.values.name(
            Val(f"{self.values.need(f'scan_{short}_{pack}')}({strip(value)})", pack, False), "run", depth
        )
        start = carry.text if carry.pack == pack else f"(f32){carry.text}"
        if short in ("add", "mul"):
            sign = "+" if short == "add" else "*"
            text = f"{within.text} {sign} {start}"
        else:
            text = f"{self.values.need(f'{short}_{pack}')}({within.text}, {self.values.need(f'sp_{pack}')}({start}))"
        out = self.values.name(Val(text, pack, False), s.name, depth)
        last = self.values.need(f"last_{pack}")
        if carry.pack == "D" and pack == "F":
            self.stack.emit(f"{carry.text} += {last}({within.text});")
        else:
            self.stack.emit(f"{carry.text} = {last}({out.text});")
        self.stack.forget(s.name)
        self.stack.bound[s.name] = (out, depth)

    def _put(self, s: Put) -> None:
        value, pack = s.value, PACKS[s.value.dtype.name]
        storage = self.memory.places[s.target].storage
        found: Val | None = None
        if isinstance(value, Op) and value.name == "cast" and value.dtype.name == storage:
            inner = value.args[0]
            exact = is_small_integer(inner) or (s.target not in self.memory.buffers and is_exact(inner))
            if value.dtype is BF16 and s.guard is None and exact and self.values.varies(inner):
                text = f"{self.values.need('top_exact_F')}({strip(self.values.value(inner).text)})"
                self.memory.put(replace(s, value=cast(inner, I16)), Val(text, "I", False))
                return
            if PACKS[inner.dtype.name] == pack:  # the store rounds
                found = self.values.value_to_round(inner, value.dtype)
        flag = self.stack.lanes.streams.get(id(s)) if self.stack.lanes is not None else None
        self.memory.put(s, found or self.values.value(value), flag)

    def _fetch(self, s: Fetch) -> None:
        self.stack.emit(f"__builtin_prefetch({self.memory.pointer_to(s.name, s.index)}, 0, 2);")

    def _stage(self, s: Stage) -> None:
        """Reads a square block along its rows, turns it in registers, and writes it to its array."""
        n = self.lanes
        to, q, rows, cols = (self.stack.fresh(name) for name in ("to", "q", "rows", "cols"))
        place = self.memory.places[s.target]
        source = self.memory.place_of(s.value.name, s.value.dtype)
        pack = PACKS[s.value.dtype.name] if s.count == 1 else "I"
        storage, kept = (source.storage, place.storage) if s.count == 1 else ("i32", "i32")
        load, part = (self.values.need(f"ld_{storage}{suffix}") for suffix in ("", "_n"))
        turned = {"M": "I"}.get(pack, pack)
        at = f"{q} + {{step}}" if s.count == 1 else f"(i32*)({q} + {{step}})"
        read, read_part = f"{load}({at})", f"{part}({at}, {rows})"
        if pack == "M":
            call = self.values.need("cvt_M_I")
            read, read_part = f"{call}({read})", f"{call}({read_part})"
        flat = self.memory.flat(s.value.index, source)
        step = print_dim(axis_coefficient(flat, s.lanes) or 0)
        step = "i" if step == "1" else f"i * {step}"
        ahead = f" __builtin_prefetch((const char*)({q} + {step}) + {STAGE_AHEAD});" if self.memory.prefetch else ""
        start = self.values.index_text(substitute(flat, {s.rows: s.row, s.lanes: s.lane}))
        below = f"{print_dim(s.rows.extent)} - ({self.values.index_text(s.row)})"
        across = f"{print_dim(s.lanes.extent)} - ({self.values.index_text(s.lane)})"
        block, width = self.stack.fresh("block"), print_dim(place.strides[0])
        corner = self.values.index_text(linearize(s.at, place.strides))
        kind = self.values.type_of(Val("", turned, False))
        store = self.values.need(f"st_{kept}")
        into = f"{to} + {width} * i" if s.count == 1 else f"(i32*)({to} + {width} * i)"
        lines = [
            f"{kind} {block}[{n}];",
            f"{place.storage}* const {to} = {place.name} + {corner};",
            f"const {source.storage}* {q} = {source.at(f'{source.name} + {start}')};",
            f"const long {rows} = {below}, {cols} = {across};",
            f"if ({rows} >= {n} && {cols} >= {n}) {{",
            f"#pragma GCC unroll {n}",
            f"  for (long i = 0; i < {n}; i++) {{ {block}[i] = {read.format(step=step)};{ahead} }}",
            "} else {",
            f"#pragma GCC unroll {n}",
            f"  for (long i = 0; i < {n}; i++) {block}[i] = i < {cols} ? {read_part.format(step=step)} : {kind}{{}};",
            "}",
            f"{self.values.need(f'transpose_{turned}')}({block});",
            f"#pragma GCC unroll {n}",
            f"for (int i = 0; i < {n}; i++) {store}({into}, {block}[i]);",
        ]
        self.stack.emit_all(["{", *(line if line.startswith("#") else f"  {line}" for line in lines), "}"])
        self.stack.forget(s.target)

    # --- loops ---------------------------------------------------------------------------------------------------

    def _loop(self, s: Loop) -> None:
        if s.axis.extent == 0:
            return
        if s.kind == "lanes":
            self.lane_loops.loop(s)
        elif s.kind == "tiles":
            self.tiles.loop(s)
        else:
            self._serial_loop(s)

    def _serial_loop(self, s: Loop) -> None:
        first, last = self._limits(s)
        var = self._open(s)
        self.statements(s.body)
        lines = self.stack.close()
        if s.reverse:
            head = f"for (long {var} = {last} - 1; {var} >= {first}; {var}--) {{"
        else:
            head = f"for (long {var} = {first}; {var} < {last}; {var}++) {{"
        self.stack.emit_all([head, *lines, "}"])

    def _open(self, s: Loop) -> str:
        """A scope for the loop's body; the name of its variable."""
        self.stack.open({}, writes_of(s), may_be_empty(s))
        var = self.stack.scopes[-1].axes[s.axis] = self.stack.fresh(s.axis.name)
        return var

    def _named(self, text: str, name: str) -> str:
        if text.isidentifier() or text.isdigit():
            return text
        name = self.stack.fresh(name)
        self.stack.emit(f"const long {name} = {text};")
        return name

    def _limits(self, s: Loop) -> tuple[str, str]:
        """The first point and the one after the last."""
        begin = "0" if s.begin is None else self.values.index_text(s.begin)
        if s.begin is not None and not is_nonnegative(bounds(s.begin)[0]):
            begin = f"{begin} > 0 ? {begin} : 0"
        end = print_dim(s.axis.extent)
        if s.end is not None:
            limit = self.values.index_text(s.end)
            end = limit if divides_axis(s) or is_fixed(s) else f"{limit} < {end} ? {limit} : {end}"
        begin, end = self._named(begin, f"{s.axis.name}_begin"), self._named(end, f"{s.axis.name}_end")
        return self._within(begin, s.axis.begin, ">"), self._within(end, s.axis.end, "<")

    def _within(self, limit: str, bound: Expr | None, sign: str) -> str:
        """The limit of a loop, or what data bounds its axis by where that is narrower."""
        if bound is None:
            return limit
        data = self._named(self.values.to(self.values.value(bound), "L"), "bound")
        return self._named(f"{data} {sign} {limit} ? {data} : {limit}", "limit")
