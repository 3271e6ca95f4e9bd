"""The interpreter of the tiles level: the loops of a program as vectorised torch, over all points of a grid at once.

    run_program(program, {"x": x, "w": w})["y"]              each type as declared
    run_program(program, ..., float64=True)                  every float in float64
    sample_program(program, ..., sample=Sample())["y"]       some points of a large grid, and what they wrote

Buffers are flat, as their storage: tensors of one dimension. What is given is never written to. Outputs and scratch
are poison (NaN, odd integers) until they are written; each point of a grid has scratch of its own, unless statements
outside of that grid use it too. Points that may run at once and touch one element, where one of them writes, raise
VerifyError; so a program whose answer hangs on who comes first is found, whatever its answer is here.

Values are tensors that broadcast against (points of the grid, lanes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .errors import BadInput
from .expr import Expr, Load, data_in, loads_in
from .index import Axis, Index, axis_coefficient
from .interp import Sampled
from .interp_eval import Evaluator, conjunction, select
from .interp_inputs import Sizes, enter_buffer
from .interp_numbers import Numbers, Planes, Tensor
from .interp_sample import Sample, sample_boxes
from .interp_states import StateArithmetic
from .interp_tiles_memory import Array, Watch, make_scratch
from .states import STATES
from .tiles import Fold, Let, Loop, Program, Put, Scan, Stage, State, Statement, Update, walk_statements
from .types import Dim
from .verify_tiles_scope import read_by

CHUNK = 2**21  # elements of the values that are computed at once: bounds the memory

Tensors = Mapping[str, Tensor]
SizesByName = Mapping[str, int]


def run_program(
    program: Program, buffers: Tensors, sizes: SizesByName | None = None, float64: bool = False
) -> dict[str, Tensor]:
    """The storages of a program's outputs. Raises IndexError where a live index is out of range."""
    numbers = Numbers(float64, _device_of(buffers))
    return {n: a.planes[0] for n, a in _Run(program, buffers, sizes or {}, numbers).outputs().items()}


def sample_program(
    program: Program,
    buffers: Tensors,
    sizes: SizesByName | None = None,
    float64: bool = False,
    sample: Sample | None = None,
) -> dict[str, Sampled]:
    """What some points of a large grid write: corners, tails, random ones. What comes before it runs whole."""
    run = _Run(program, buffers, sizes or {}, Numbers(float64, _device_of(buffers)), sample or Sample())
    found = run.outputs()
    return {n: Sampled(a.planes[0], a.written) for n, a in found.items() if a.written is not None}


def _device_of(buffers: Tensors) -> torch.device | str:
    return next((b.device for b in buffers.values()), "cpu")


@dataclass(frozen=True)
class _Points:
    """The points at hand: coordinates of the axes that are run over, and where they exist (None: everywhere).

    `numbers` tells the points of the grid apart (points, 1); `lanes` the lanes (1 or points, lanes).
    """

    count: int
    coordinates: dict[Axis, Tensor]
    live: Tensor | None
    numbers: Tensor
    lanes: Tensor | None = None

    def narrowed(self, axis: Axis, at: Tensor, exists: Tensor | None, lanes: bool = False) -> _Points:
        live = conjunction(self.live, exists)
        return _Points(self.count, {**self.coordinates, axis: at}, live, self.numbers, at if lanes else self.lanes)


class _Here(Evaluator):
    """Expressions at the points at hand."""

    def __init__(self, run: _Run, points: _Points) -> None:
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


class _Run:
    """One execution. `names` holds the values that are bound now, `arrays` the buffers and scratch arrays."""

    def __init__(
        self, program: Program, buffers: Tensors, sizes: SizesByName, numbers: Numbers, sample: Sample | None = None
    ) -> None:
        self.program = program
        self.numbers = numbers
        self.sample = sample
        self.names: dict[str, Planes] = {}
        self.arrays: dict[str, Array] = {}
        self.states: dict[str, State] = {}
        self._size = Sizes(sizes, program.name)
        outputs = {b.name for b in program.outputs}
        for b in (*program.inputs, *program.outputs):
            if b.name not in self.arrays:
                given = buffers.get(b.name) if b in program.inputs else None
                if given is None and b in program.inputs:
                    raise BadInput("a buffer is missing", where=program.name, expected=b.name)
                planes = enter_buffer(b, given, numbers, self._size)
                planes = tuple(p.clone() for p in planes) if b.name in outputs else planes
                self.arrays[b.name] = Array(b.name, b.dtype, tuple(planes[0].shape), planes)
                if b.name in outputs:
                    self.arrays[b.name].written = torch.zeros(planes[0].shape, dtype=torch.bool, device=numbers.device)
        self._private = _private_arrays(program)

    def size(self, dim: Dim) -> int:
        return self._size(dim)

    def outputs(self) -> dict[str, Array]:
        for s in self.program.scratch:
            if s.name not in self._private:
                self._add_scratch(s.name, 0)
        one = torch.zeros((1, 1), dtype=torch.int64, device=self.numbers.device)
        for k, s in enumerate(self.program.body):
            for name in self._private_to(k):
                self._add_scratch(name, 0)
            if isinstance(s, Loop) and s.kind == "grid":
                self._grid(s, k)
            else:
                self._statement(s, _Points(1, {}, None, one))
        return {b.name: self.arrays[b.name] for b in self.program.outputs}

    def _add_scratch(self, name: str, copies: int) -> None:
        s = next(x for x in self.program.scratch if x.name == name)
        self.arrays[name] = make_scratch(name, s.dtype, tuple(map(self.size, s.shape)), self.numbers, copies)

    def _private_to(self, k: int) -> list[str]:
        return [n for n, where in self._private.items() if where == k]

    # --- the grid ------------------------------------------------------------------------------------------------

    def _grid(self, s: Loop, k: int) -> None:
        loops = [s]
        while len(loops[-1].body) == 1 and isinstance(loops[-1].body[0], Loop) and loops[-1].body[0].kind == "grid":
            loops.append(loops[-1].body[0])
        chosen = self._chosen([x.axis for x in loops], loops[-1].body, k)
        written = {x.target for x in walk_statements(s.body) if isinstance(x, Put | Stage)}
        watched = [a for n, a in self.arrays.items() if n in written and n not in self._private]
        self._begin_watch(watched, "points")
        step = max(1, CHUNK // max(1, self._memory(loops[-1].body, k)))
        for start in range(0, chosen.shape[0], step):
            part = chosen[start : start + step]
            for name in self._private_to(k):
                self._add_scratch(name, part.shape[0])
            at = {x.axis: part[:, d : d + 1] for d, x in enumerate(loops)}
            numbers = torch.arange(start, start + part.shape[0], device=part.device).view(-1, 1)
            self._block(loops[-1].body, _Points(part.shape[0], at, None, numbers))
        self._end_watch(watched)

    def _chosen(self, axes: Sequence[Axis], body: Sequence[Statement], k: int) -> Tensor:
        """The coordinates of the points that are run, one row each."""
        full = tuple(range(self.size(a.extent)) for a in axes)
        boxes = [full]
        if self.sample is not None and not self._is_read_later(k):
            each = max(1, self.sample.points // max(1, self._work(body)))
            boxes = sample_boxes(Sample(self.sample.tiles, each, self.sample.seed), full)
        ranges = [[torch.arange(r.start, r.stop, device=self.numbers.device) for r in box] for box in boxes]
        parts = [torch.cartesian_prod(*r).view(-1, len(axes)) for r in ranges]
        return parts[0] if len(parts) == 1 else torch.unique(torch.cat(parts), dim=0)

    def _is_read_later(self, k: int) -> bool:
        written = {x.target for x in walk_statements(self.program.body[k : k + 1]) if isinstance(x, Put | Stage)}
        later = walk_statements(self.program.body[k + 1 :])
        return any(e.name in written for s in later for e in loads_in(*read_by(s)))

    def _work(self, body: Sequence[Statement]) -> int:
        """About how many points the statements have in the deepest loops."""
        return max((self._count(s) * self._work(s.body) for s in body if isinstance(s, Loop)), default=1)

    def _memory(self, body: Sequence[Statement], k: int) -> int:
        """The elements that one point of the grid needs at once."""
        loops = [s for s in walk_statements(body) if isinstance(s, Loop) and s.kind == "lanes"]
        scratch = [s for s in self.program.scratch if s.name in self._private_to(k)]
        held = sum(math.prod(map(self.size, s.shape)) for s in scratch)
        return max(held, *(self._count(s) for s in loops)) if loops else held

    def _count(self, s: Loop) -> int:
        length = None if s.begin is None or s.end is None else s.end - s.begin
        if length is not None and length.is_constant:
            return self.size(length.const)
        return self.size(s.axis.extent)

    # --- who touches what ----------------------------------------------------------------------------------------

    def _begin_watch(self, arrays: list[Array], kind: str) -> None:
        for a in arrays:
            a.watches.append(Watch(a.name, a.planes[0].numel(), kind, self.numbers.device))

    def _end_watch(self, arrays: list[Array]) -> None:
        for a in arrays:
            a.watches.pop()

    def watch(self, array: Array, action: str, at: Tensor, live: Tensor | None, points: _Points) -> None:
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

    # --- statements ----------------------------------------------------------------------------------------------

    def _block(self, body: Sequence[Statement], points: _Points) -> None:
        known = set(self.names)
        for s in body:
            self._statement(s, points)
        for name in set(self.names) - known:
            del self.names[name]

    def _statement(self, s: Statement, points: _Points) -> None:
        getattr(self, f"_{type(s).__name__.lower()}")(s, points)

    def _let(self, s: Let, points: _Points) -> None:
        self.names[s.name] = self._value(s.value, points)

    def _value(self, e: Expr, points: _Points) -> Planes:
        return _Here(self, points).evaluate(e)[0]

    def _state(self, s: State, points: _Points) -> None:
        value = self.numbers.round(self._value(s.init, points), s.dtype)
        self.states[s.name] = s
        self.names[s.name] = tuple(p.expand(torch.broadcast_shapes(p.shape, (1, s.tile))) for p in value)

    def _update(self, s: Update, points: _Points) -> None:
        found = _Here(self, points).evaluate(*s.values)
        for name, value in zip(s.names, found, strict=True):
            self._assign(name, value, points.live)

    def _assign(self, name: str, value: Planes, live: Tensor | None) -> None:
        """A state where the points exist; elsewhere it keeps what it has."""
        new = self.numbers.round(value, self.states[name].dtype)
        old = self.names[name]
        kept = new if live is None else select(live, new, old)
        self.names[name] = tuple(
            p.expand(torch.broadcast_shapes(p.shape, o.shape)) for p, o in zip(kept, old, strict=True)
        )

    def _fold(self, s: Fold, points: _Points) -> None:
        dtypes = tuple(self.states[n].dtype for n in s.names)
        states = StateArithmetic(self.numbers, s.state, dtypes[: STATES[s.state].arity])
        components = [self.numbers.widen(self.names[n]) for n in s.names]
        shape = torch.broadcast_shapes(*(c[0].shape for c in components))
        whole = states.reduce([tuple(p.expand(shape) for p in c) for c in components], 1)
        for name, dtype, value in zip(s.names, dtypes, whole, strict=True):
            self.names[name] = tuple(p.unsqueeze(1) for p in self.numbers.round(value, dtype))

    def _scan(self, s: Scan, points: _Points) -> None:
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

    def _put(self, s: Put, points: _Points) -> None:
        here, array = _Here(self, points), self.arrays[s.target]
        value, *_ = here.evaluate(s.value, *(d.value for i in s.index for d in data_in(i)))
        live = points.live
        if s.guard is not None:
            live = conjunction(live, here.evaluate(s.guard)[0][0])
        at = array.positions(here.checked(s.target, s.index, array.shape, live))
        self._write(array, at, value, live, s, points)

    def _write(
        self, array: Array, at: Tensor, value: Planes, live: Tensor | None, s: Put | Stage, here: _Points
    ) -> None:
        shape = torch.broadcast_shapes(at.shape, value[0].shape, (here.count, 1))
        if live is not None and live.dim() == 2 and shape[1] == 1:
            live = live.any(1, keepdim=True)  # all lanes write one element with one value
        at = at.expand(shape)
        self.watch(array, "write", at, live, here)
        chosen = slice(None) if live is None else live.expand(shape).reshape(-1)
        flat = tuple(p.expand(shape).reshape(-1)[chosen] for p in value)
        array.write(at.reshape(-1)[chosen], flat, s.value.dtype, self.numbers)

    def _stage(self, s: Stage, points: _Points) -> None:
        """All of the block is written: beyond the axes' ends with poison, since nobody may read that."""
        here, array = _Here(self, points), self.arrays[s.target]
        row, lane = here.position(s.row), here.position(s.lane)
        corner = [here.position(i) for i in s.at]
        block = torch.arange(s.tile * s.tile, device=self.numbers.device).view(1, -1)
        down, along = block // s.tile, block % s.tile
        rows, lanes = row + down, lane + along
        exists = (rows < self.size(s.rows.extent)) & (lanes < self.size(s.lanes.extent))
        inside = points.narrowed(s.rows, rows, None).narrowed(s.lanes, lanes, exists, lanes=True)
        value = self._value(s.value, inside)
        index = [corner[0] + down, corner[1] + along]
        for i, size in zip(index, array.shape, strict=True):
            if bool(((i < 0) | (i >= size)).any()):
                raise IndexError(f"{s.target}: a staged block leaves the shape {list(array.shape)}")
        at = array.positions(index)
        unknown = make_scratch("", s.value.dtype, (), self.numbers).planes
        self._write(array, at, select(exists, value, unknown), points.live, s, inside)

    # --- loops ---------------------------------------------------------------------------------------------------

    def _loop(self, s: Loop, points: _Points) -> None:
        here = _Here(self, points)
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
            self._block(s.body, points.narrowed(s.axis, at, exists))

    def _limits(self, s: Loop, here: _Here) -> tuple[Tensor, Tensor]:
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

    def _lanes(self, s: Loop, points: _Points, first: Tensor, last: Tensor | None, steps: int) -> None:
        """By tiles where they are accumulated one after the other, else as many lanes at once as there is room for."""
        in_turn = any(isinstance(x, Update) for x in s.body)
        room = max(1, CHUNK // points.count // s.tile) * s.tile
        width = s.tile if in_turn else min(room, max(steps, 1))
        watched = [self.arrays[n] for n in _meeting(s.body, s.axis)]
        self._begin_watch(watched, "lanes")
        for start in range(0, steps, width):
            lanes = torch.arange(start, start + width, device=self.numbers.device).view(1, -1)
            at = first + lanes
            exists = at < last if last is not None else lanes < steps if start + width > steps else None
            self._block(s.body, points.narrowed(s.axis, at, exists, lanes=True))
        self._end_watch(watched)


def _private_arrays(program: Program) -> dict[str, int]:
    """The scratch arrays that one statement of the program alone uses, with its position."""
    users: dict[str, set[int]] = {s.name: set() for s in program.scratch}
    for k, outer in enumerate(program.body):
        for s in walk_statements((outer,)):
            for name in {e.name for e in loads_in(*read_by(s))} | ({s.target} if isinstance(s, Put | Stage) else set()):
                users.get(name, set()).add(k)
    return {name: next(iter(where)) for name, where in users.items() if len(where) == 1}


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
