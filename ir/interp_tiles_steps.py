"""Statements of a tile program at many points at once: the part of the interpreter that knows what each kind does.

Values are tensors that broadcast against (points of the grid, lanes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .expr import Expr, Load, data_in, loads_in
from .index import Axis, Index, axis_coefficient
from .interp_eval import Evaluator, conjunction, select
from .interp_inputs import Sizes
from .interp_numbers import Numbers, Planes, Tensor
from .interp_states import StateArithmetic
from .interp_tiles_memory import Array, Watch, make_scratch
from .scalar import cast, op
from .states import STATES
from .tiles import Dot, Fetch, Fold, Let, Loop, Put, Scan, Stage, State, Statement, Update
from .types import Dim
from .verify_tiles_scope import read_by

CHUNK = 2**21  # elements of the values that are computed at once: bounds the memory


@dataclass(frozen=True)
class Points:
    """The points at hand: coordinates of the axes that are run over, and where they exist (None: everywhere).

    `numbers` tells the points of the grid apart (points, 1); `lanes` the lanes (1 or points, lanes).
    """

    count: int
    coordinates: dict[Axis, Tensor]
    live: Tensor | None
    numbers: Tensor
    lanes: Tensor | None = None

    def narrowed(self, axis: Axis, at: Tensor, exists: Tensor | None, lanes: bool = False) -> Points:
        live = conjunction(self.live, exists)
        return Points(self.count, {**self.coordinates, axis: at}, live, self.numbers, at if lanes else self.lanes)


class Here(Evaluator):
    """Expressions at the points at hand."""

    def __init__(self, run: Steps, points: Points) -> None:
        super().__init__(run)
        self.run = run
        self.points = points

    def column(self, axis: Axis) -> Tensor:
        return self.points.coordinates[axis]

    def position(self, i: Index) -> Tensor:
        self.evaluate(*(d.value for d in data_in(i)))
        return self.index(i)

    def load(self, e: Load, guard: Tensor | None) -> Planes:
        if e.name in self.run.names:
            return self.run.names[e.name]
        array = self.run.arrays[e.name]
        live = conjunction(guard, self.points.live)
        at = array.positions(self.checked(e.name, e.index, array.shape, live))
        self.run.watch(array, "read", at, live, self.points)
        found = array.read(at, e.dtype, self.numbers)
        return found if guard is None else select(guard, found)


class Steps:
    """Carries out statements. `names` holds the values that are bound now, `arrays` the buffers and scratch arrays."""

    def __init__(self, numbers: Numbers, sizes: Sizes) -> None:
        self.numbers = numbers
        self.names: dict[str, Planes] = {}
        self.arrays: dict[str, Array] = {}
        self._states: dict[str, State] = {}
        self._sizes = sizes

    def size(self, dim: Dim) -> int:
        return self._sizes(dim)

    # --- statements ----------------------------------------------------------------------------------------------

    def block(self, body: Sequence[Statement], points: Points) -> None:
        known = set(self.names)
        for s in body:
            self.statement(s, points)
        for name in set(self.names) - known:
            del self.names[name]

    def statement(self, s: Statement, points: Points) -> None:
        getattr(self, f"_{type(s).__name__.lower()}")(s, points)

    def _let(self, s: Let, points: Points) -> None:
        self.names[s.name] = self._value(s.value, points)

    def _value(self, e: Expr, points: Points) -> Planes:
        return Here(self, points).evaluate(e)[0]

    def _state(self, s: State, points: Points) -> None:
        value = self.numbers.round(self._value(s.init, points), s.dtype)
        self._states[s.name] = s
        self.names[s.name] = tuple(p.expand(torch.broadcast_shapes(p.shape, (1, s.tile))) for p in value)

    def _update(self, s: Update, points: Points) -> None:
        found = Here(self, points).evaluate(*s.values)
        for name, value in zip(s.names, found, strict=True):
            self._assign(name, value, points.live)

    def _assign(self, name: str, value: Planes, live: Tensor | None) -> None:
        """A state where the points exist; elsewhere it keeps what it has."""
        new = self.numbers.round(value, self._states[name].dtype)
        old = self.names[name]
        kept = new if live is None else select(live, new, old)
        self.names[name] = tuple(
            p.expand(torch.broadcast_shapes(p.shape, o.shape)) for p, o in zip(kept, old, strict=True)
        )

    def _fold(self, s: Fold, points: Points) -> None:
        dtypes = tuple(self._states[n].dtype for n in s.names)
        states = StateArithmetic(self.numbers, s.state, dtypes[: STATES[s.state].arity])
        components = [self.numbers.widen(self.names[n]) for n in s.names]
        shape = torch.broadcast_shapes(*(c[0].shape for c in components))
        whole = states.reduce([tuple(p.expand(shape) for p in c) for c in components], 1)
        for name, dtype, value in zip(s.names, dtypes, whole, strict=True):
            self.names[name] = tuple(p.unsqueeze(1) for p in self.numbers.round(value, dtype))

    def _dot(self, s: Dot, points: Points) -> None:
        assert points.lanes is not None
        held = self._states[s.name].dtype
        states = StateArithmetic(self.numbers, "sum", (held,))
        value = self._value(op("mul", cast(s.left, held), cast(s.right, held)), points)
        shape = torch.broadcast_shapes(value[0].shape, points.lanes.shape)
        components = states.lift([value], tuple(shape))
        if points.live is not None:
            shape = torch.broadcast_shapes(shape, points.live.shape)
            (nothing,) = states.identity(tuple(shape))
            components = [select(points.live, c, nothing) for c in components]
        (whole,) = states.reduce([tuple(p.expand(shape) for p in c) for c in components], 1)
        part = tuple(p.unsqueeze(1) for p in whole)
        (total,) = states.combine([self.numbers.widen(self.names[s.name])], [self.numbers.widen(part)])
        self._assign(s.name, total, None)

    def _scan(self, s: Scan, points: Points) -> None:
        assert points.lanes is not None
        states = StateArithmetic(self.numbers, s.state, (s.value.dtype,))
        value = self._value(s.value, points)
        shape = torch.broadcast_shapes(value[0].shape, points.lanes.shape)
        components = states.lift([value], tuple(shape))
        if points.live is not None:
            shape = torch.broadcast_shapes(shape, points.live.shape)
            rest = states.identity(tuple(shape))
            components = [select(points.live, c, i) for c, i in zip(components, rest, strict=True)]
        (run,) = states.combine([self.numbers.widen(self.names[s.carry])], states.scan(components, 1))
        self.names[s.name] = self.numbers.round(run, s.value.dtype)
        self._assign(s.carry, tuple(p[:, -1:] for p in run), None)

    def _put(self, s: Put, points: Points) -> None:
        here, array = Here(self, points), self.arrays[s.target]
        value, *_ = here.evaluate(s.value, *(d.value for i in s.index for d in data_in(i)))
        live = points.live
        if s.guard is not None:
            live = conjunction(live, here.evaluate(s.guard)[0][0])
        at = array.positions(here.checked(s.target, s.index, array.shape, live))
        self._write(array, at, value, live, s, points)

    def _write(
        self, array: Array, at: Tensor, value: Planes, live: Tensor | None, s: Put | Stage, here: Points
    ) -> None:
        shape = torch.broadcast_shapes(at.shape, value[0].shape, (here.count, 1))
        if live is not None and live.dim() == 2 and shape[1] == 1:
            live = live.any(1, keepdim=True)  # all lanes write one element with one value
        at = at.expand(shape)
        self.watch(array, "write", at, live, here)
        chosen = slice(None) if live is None else live.expand(shape).reshape(-1)
        flat = tuple(p.expand(shape).reshape(-1)[chosen] for p in value)
        array.write(at.reshape(-1)[chosen], flat, s.value.dtype, self.numbers)

    def _fetch(self, s: Fetch, points: Points) -> None:
        """A hint computes nothing."""

    def _stage(self, s: Stage, points: Points) -> None:
        """All of the block is written: beyond the axes' ends with poison, since nobody may read that."""
        here, array = Here(self, points), self.arrays[s.target]
        row, lane = here.position(s.row), here.position(s.lane)
        corner = [here.position(i) for i in s.at]
        block = torch.arange(s.tile * s.tile, device=self.numbers.device).view(1, -1)
        down, along = block // s.tile, block % s.tile
        rows, lanes = row + down, lane + along
        exists = (rows < self.size(s.rows.extent)) & (lanes < self.size(s.lanes.extent))
        inside = points.narrowed(s.rows, rows, None).narrowed(s.lanes, lanes, exists, lanes=True)
        unknown = make_scratch("", s.value.dtype, (), self.numbers).planes
        for k in range(s.count):
            element = replace(s.value, index=(*s.value.index[:-1], s.value.index[-1] + k))
            index = [corner[0] + down, corner[1] + along * s.count + k]
            for i, size in zip(index, array.shape, strict=True):
                if bool(((i < 0) | (i >= size)).any()):
                    raise IndexError(f"{s.target}: a staged block leaves the shape {list(array.shape)}")
            value = select(exists, self._value(element, inside), unknown)
            self._write(array, array.positions(index), value, points.live, s, inside)

    # --- loops ---------------------------------------------------------------------------------------------------

    def _loop(self, s: Loop, points: Points) -> None:
        here = Here(self, points)
        first, last = self._limits(s, here)
        count = (last - first).clamp(min=0)
        if points.live is not None:
            count = torch.where(points.live, count, 0)
        steps = int(count.max()) if count.numel() else 0
        even = bool((count == steps).all())
        if s.kind == "lanes":
            self._lanes(s, points, first, None if even else last, steps)
            return
        for k in range(steps):
            at = last - 1 - k if s.reverse else first + k
            exists = None if even else (at >= first) & (at < last)
            self.block(s.body, points.narrowed(s.axis, at, exists))

    def _limits(self, s: Loop, here: Here) -> tuple[Tensor, Tensor]:
        """The first point and the one after the last, for each point of the grid."""
        first = torch.zeros((1, 1), dtype=torch.int64, device=self.numbers.device)
        last = first + self.size(s.axis.extent)
        if s.axis.begin is not None:
            first = torch.maximum(first, here.evaluate(s.axis.begin)[0][0])
        if s.axis.end is not None:
            last = torch.minimum(last, here.evaluate(s.axis.end)[0][0])
        if s.begin is not None:
            first = torch.maximum(first, here.position(s.begin))
        return first, last if s.end is None else torch.minimum(last, here.position(s.end))

    def _lanes(self, s: Loop, points: Points, first: Tensor, last: Tensor | None, steps: int) -> None:
        """By tiles where they are accumulated one after the other, else as many lanes at once as there is room for."""
        in_turn = any(isinstance(x, Update) for x in s.body)
        room = max(1, CHUNK // points.count // s.tile) * s.tile
        width = s.tile if in_turn else min(room, max(steps, 1))
        watched = [self.arrays[n] for n in _meeting(s.body, s.axis)]
        self.begin_watch(watched, "lanes")
        for start in range(0, steps, width):
            lanes = torch.arange(start, start + width, device=self.numbers.device).view(1, -1)
            at = first + lanes
            exists = at < last if last is not None else lanes < steps if start + width > steps else None
            self.block(s.body, points.narrowed(s.axis, at, exists, lanes=True))
        self.end_watch(watched)

    # --- who touches what ----------------------------------------------------------------------------------------

    def begin_watch(self, arrays: list[Array], kind: str) -> None:
        for a in arrays:
            a.watches.append(Watch(a.name, a.planes[0].numel(), kind, self.numbers.device))

    def end_watch(self, arrays: list[Array]) -> None:
        for a in arrays:
            a.watches.pop()

    def watch(self, array: Array, action: str, at: Tensor, live: Tensor | None, points: Points) -> None:
        """Tells the watches of an array which points read or write which elements."""
        for w in array.watches:
            if w.kind == "lanes" and (points.lanes is None or at.dim() < 2 or at.shape[1] == 1):
                continue  # all lanes touch one element with one value
            who = points.numbers
            if w.kind == "lanes" and points.lanes is not None:
                who = who * (1 << 40) + points.lanes
            alive = torch.ones((), dtype=torch.bool, device=at.device) if live is None else live
            if w.kind == "points" and at.dim() < 2:
                at = at.expand(points.count, 1)
            shape = torch.broadcast_shapes(at.shape, who.shape, alive.shape)
            chosen = alive.expand(shape).reshape(-1)
            flat, ids = (t.expand(shape).reshape(-1)[chosen] for t in (at, who))
            (w.read if action == "read" else w.write)(flat, ids)


def _meeting(body: Sequence[Statement], lanes: Axis) -> list[str]:
    """The arrays that a lanes loop writes and touches at unlike indices: lanes might meet there."""
    touched: dict[str, set[tuple[Index, ...]]] = {}
    for s in body:
        for e in loads_in(*read_by(s)):
            touched.setdefault(e.name, set()).add(e.index)
        if isinstance(s, Put):
            touched.setdefault(s.target, set()).add(s.index)
    written = dict.fromkeys(s.target for s in body if isinstance(s, Put))
    return [n for n in written if len(touched[n]) > 1 or not any(_apart(i, lanes) for i in next(iter(touched[n])))]


def _apart(i: Index, lanes: Axis) -> bool:
    """True where lanes surely have unlike indices."""
    return axis_coefficient(i, lanes) not in (None, 0)
