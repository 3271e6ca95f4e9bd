"""Lanes loops in C++: whole tiles in the main loop, and what is left before and after it, pack by pack under a mask.

Stores that bypass the caches need aligned addresses. Where a loop is long, it starts its tiles at the first aligned
one; else rows that happen to be aligned are streamed, and the others are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.expr import indices, walk
from ...ir.index import ZERO, Axis, Div, Index, Mod, axes_of, axis_coefficient, substitute
from ...ir.tiles import Loop, Put, Scan, Statement
from ...ir.types import Dim, as_dim
from ..parts import expressions_of, may_be_empty, writes_of
from .ahead import Ask
from .printer_memory import LINE, Memory
from .printer_scope import Lanes, Stack
from .printer_values import Values

WORTH_ALIGNING = 8  # tiles of a loop that starts at an aligned address


@dataclass(slots=True)
class LanesPrinter:
    """Prints lanes loops. `body` prints statements, `limits` gives the first point of a loop and the one after its
    last.
    """

    stack: Stack
    values: Values
    memory: Memory
    body: Callable[[Sequence[Statement]], None]
    limits: Callable[[Loop], tuple[str, str]]
    slots: dict[str, str]  # C names of states that are tiles of several packs
    streaming: str = "true"  # C++ condition under which stores bypass the caches
    asks: Mapping[int, Sequence[Ask]] = field(default_factory=dict)  # what loops ask for ahead, by their id
    streamed: bool = field(default=False, init=False)

    @property
    def lanes(self) -> int:
        return self.values.lanes

    def loop(self, s: Loop) -> None:
        first, last = self.limits(s)
        points = self._count(s)
        aligned = first == "0" or (s.begin is not None and not s.axis.is_ragged and self._is_multiple(s.begin))
        streams = [p for p in s.body if isinstance(p, Put) and self._may_stream(p, s)]
        if streams and self._is_worth_aligning(s, points):
            self._aligned_loop(s, streams, first, last)
            return
        flags = {id(p): self._flag(s, p) for p in streams}
        if not isinstance(points, int) or points >= s.tile:
            self._part(
                s, first, f"{last} - {s.tile}" if s.tile > 1 else last, s.tile // self.lanes, None, aligned, flags
            )
        if s.tile == 1 or (isinstance(points, int) and points % s.tile == 0):
            return
        if isinstance(points, int) and first.isdigit():
            done, whole = str(int(first) + points // s.tile * s.tile), points % self.lanes == 0
            self._part(s, done, last, 0, None if whole else last, aligned, {})
            return
        if isinstance(points, int):
            done, whole = str(points // s.tile * s.tile), points % self.lanes == 0
        else:
            length = last if first == "0" else f"({last} - {_grouped(first)})"
            done, whole = f"{length} / {s.tile} * {s.tile}", False
        start = done if first == "0" else f"{first} + {done}"
        self._part(s, start, last, 0, None if whole else last, aligned, {})

    # --- streaming -----------------------------------------------------------------------------------------------

    def _may_stream(self, p: Put, s: Loop) -> bool:
        if not p.stream or self.lanes == 1 or p.guard is not None or s.axis.is_ragged:
            return False
        line = self.memory.packs_of_line(self.memory.places[p.target].storage)
        return axis_coefficient(p.index[0], s.axis) == 1 and s.tile // self.lanes % line == 0

    def _is_worth_aligning(self, s: Loop, points: Dim | None) -> bool:
        """True for long loops whose packs may start anywhere and in any order."""
        length = points if s.begin is None or s.end is None else (s.end - s.begin).const
        if isinstance(length, int) and length < WORTH_ALIGNING * s.tile:
            return False
        if any(isinstance(p, Scan | Loop) for p in s.body):
            return False
        found = [i for p in s.body for e in walk(*expressions_of(p)) for i in indices(e)]
        found += [i for p in s.body if isinstance(p, Put) for i in p.index]
        return not any(_has_digit_of(i, s.axis) for i in found)

    def _address(self, s: Loop, p: Put) -> str:
        """Where a store of the loop starts."""
        start = ZERO if s.begin is None else s.begin
        return self.memory.pointer_to(p.target, substitute(p.index[0], {s.axis: start}))

    def _flag(self, s: Loop, p: Put) -> str:
        """The name of a flag that says whether the stores of this row are aligned, and large enough to be streamed."""
        self.streamed = True
        name = self.stack.fresh("nt")
        test = f"((long)({self._address(s, p)}) & {LINE - 1}) == 0"
        self.stack.emit(f"const bool {name} = {test if self.streaming == 'true' else f'{self.streaming} && {test}'};")
        return name

    def _aligned_loop(self, s: Loop, streams: list[Put], first: str, last: str) -> None:
        """head = points before the first aligned one; tiles from there; then the head and the tail under a mask."""
        self.streamed = True
        size = self.memory.size_of(streams[0].target)
        head, begin, done = (self.stack.fresh(f"{s.axis.name}_{n}") for n in ("head", "first", "done"))
        gap = f"-(long)({self._address(s, streams[0])}) / {size} & {LINE // size - 1}"
        if self.streaming != "true":
            gap = f"{self.streaming} ? {gap} : 0"
        length = last if first == "0" else f"{last} - {_grouped(first)}"
        self.stack.emit(f"const long {head} = {gap};")
        self.stack.emit(f"const long {begin} = {head} < {length} ? {_plus(first, head)} : {last};")
        self.stack.emit(f"const long {done} = {begin} + ({last} - {begin}) / {s.tile} * {s.tile};")
        flags = {id(streams[0]): self.streaming}
        flags.update({id(p): self._flag_after(s, p, head) for p in streams[1:]})
        self._part(s, begin, f"{last} - {s.tile}" if s.tile > 1 else last, s.tile // self.lanes, None, False, flags)
        side, stop = self.stack.fresh("side"), self.stack.fresh("stop")
        self.stack.open({}, writes_of(s), may_be_empty(s))
        self.stack.emit(f"const long {stop} = {side} ? {last} : {begin};")
        self._part(s, f"{side} ? {done} : {first}", stop, 0, stop, False, {})
        lines = self.stack.close()
        self.stack.emit_all([f"for (int {side} = 0; {side} < 2; {side}++) {{", *lines, "}"])

    def _flag_after(self, s: Loop, p: Put, head: str) -> str:
        name = self.stack.fresh("nt")
        self.stack.emit(f"const bool {name} = ((long)({self._address(s, p)} + {head}) & {LINE - 1}) == 0;")
        return name if self.streaming == "true" else f"({self.streaming} && {name})"

    # --- parts ---------------------------------------------------------------------------------------------------

    def _is_multiple(self, begin: Index) -> bool:
        return all(isinstance(c, int) and c % self.lanes == 0 for c in (*(c for _, c in begin.terms), begin.const))

    def _count(self, s: Loop) -> Dim | None:
        """How many points the loop has, where that is the same each time."""
        if s.axis.is_ragged:
            return None
        if s.begin is None and s.end is None:
            return s.axis.extent
        if s.begin is not None and s.end is not None and (divides_axis(s) or is_fixed(s)):
            return as_dim((s.end - s.begin).const)
        return None

    def _part(
        self, s: Loop, first: str, last: str, packs: int, stop: str | None, aligned: bool, streams: dict[int, str]
    ) -> None:
        """Whole tiles (packs > 0; `last` is their last start), or pack by pack (packs = 0) up to `stop`."""
        self.stack.open({}, writes_of(s), may_be_empty(s))
        var = self.stack.scopes[-1].axes[s.axis] = self.stack.fresh(s.axis.name)
        start = self.stack.fresh(f"{s.axis.name}_t") if packs > 1 else var
        slot = "[u]" if packs > 1 else "[0]" if s.tile > self.lanes else ""
        self.stack.lanes = Lanes(
            s.axis, var, self.stack.depth, None if stop is None else "n", slot, aligned, packs, streams
        )
        lanes = self.stack.lanes
        self.bind_slots()
        if packs > 1:
            self.stack.emit(f"const long {var} = {start} + {self.lanes} * u;")
        if stop is not None:
            self.stack.emit(f"const long n = {stop} - {var};")
        self.body(s.body)
        if stop is None:
            for ask in self.asks.get(id(s), ()):
                self.memory.ask(ask)
        self.stack.lanes = None
        self.bind_slots()
        lines = self.stack.close()
        step = s.tile if packs else self.lanes
        compare = "<=" if packs and s.tile > 1 else "<"
        head = f"for (long {start} = {first}; {start} {compare} {last}; {start} += {step})"
        if packs < 2:
            deferred = [f"  {line}" for line in lanes.deferred]
            self.stack.emit_all([f"{head} {{", *(f"  {line}" for line in lanes.lines), *lines, *deferred, "}"])
            return
        unroll = [f"#pragma GCC unroll {packs}", f"  for (int u = 0; u < {packs}; u++) {{"]
        tile = [*unroll, *(f"  {line}" for line in lines), "  }"]
        if lanes.deferred:
            point = f"    const long {var} = {start} + {self.lanes} * u;"
            tile += [*unroll, point, *(f"    {line}" for line in lanes.deferred), "  }"]
            tile = ["{", *(f"  {line}" for line in lanes.lines), *tile, "}"]
            head = f"{head} {{"
            tile = tile[1:]
        self.stack.emit_all([head, *tile])

    def bind_slots(self) -> None:
        """Points the names of tiled states to the accumulator of the pack at hand."""
        slot = self.stack.lanes.slot if self.stack.lanes is not None else ""
        for n, text in self.slots.items():
            self.stack.rename(n, f"{text}{slot}")


def divides_axis(s: Loop) -> bool:
    """True where the blocks of a loop divide its axis."""
    if s.begin is None or s.end is None:
        return False
    length = s.end - s.begin
    size = length.const if length.is_constant else None
    return isinstance(size, int) and isinstance(s.axis.extent, int) and s.axis.extent % size == 0


def is_fixed(s: Loop) -> bool:
    """True where the part of the axis that a loop runs over is known, and within it."""
    if s.begin is None or s.end is None or s.begin.terms or s.end.terms:
        return False
    return isinstance(s.end.const, int) and isinstance(s.axis.extent, int) and s.end.const <= s.axis.extent


def _has_digit_of(i: Index, axis: Axis) -> bool:
    return any(isinstance(a, Div | Mod) and axis in axes_of(a.index) for a, _ in i.terms)


def _grouped(text: str) -> str:
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _plus(a: str, b: str) -> str:
    return b if a == "0" else f"{a} + {b}"
