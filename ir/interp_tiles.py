"""The interpreter of the tiles level: the loops of a program as vectorised torch, over all points of a grid at once.

    run_program(program, {"x": x, "w": w})["y"]              each type as declared
    run_program(program, ..., float64=True)                  every float in float64
    sample_program(program, ..., sample=Sample())["y"]       some points of a large grid, and what they wrote

Buffers are flat, as their storage: tensors of one dimension. What is given is never written to. Outputs and scratch
are poison (NaN, odd integers) until they are written; each point of a grid has scratch of its own, unless statements
outside of that grid use it too. Points that may run at once and touch one element, where one of them writes, raise
VerifyError; so a program whose answer hangs on who comes first is found, whatever its answer is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from .errors import BadInput
from .expr import loads_in
from .index import Axis
from .interp import Sampled
from .interp_inputs import Sizes, enter_buffer
from .interp_numbers import Numbers, Tensor
from .interp_sample import Sample, sample_boxes
from .interp_tiles_memory import Array, make_scratch
from .interp_tiles_steps import CHUNK, Points, Steps
from .tiles import Loop, Program, Put, Stage, Statement, walk_statements
from .verify_tiles_scope import read_by

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


class _Run(Steps):
    """One execution: the arrays of a program, and the points of its grids."""

    def __init__(
        self, program: Program, buffers: Tensors, sizes: SizesByName, numbers: Numbers, sample: Sample | None = None
    ) -> None:
        super().__init__(numbers, Sizes(sizes, program.name))
        self.program = program
        self.sample = sample
        outputs = {b.name for b in program.outputs}
        for b in (*program.inputs, *program.outputs):
            if b.name not in self.arrays:
                given = buffers.get(b.name) if b in program.inputs else None
                if given is None and b in program.inputs:
                    raise BadInput("a buffer is missing", where=program.name, expected=b.name)
                planes = enter_buffer(b, given, numbers, self._sizes)
                planes = tuple(p.clone() for p in planes) if b.name in outputs else planes
                self.arrays[b.name] = Array(b.name, b.dtype, tuple(planes[0].shape), planes)
                if b.name in outputs:
                    self.arrays[b.name].written = torch.zeros(planes[0].shape, dtype=torch.bool, device=numbers.device)
        self._private = _private_arrays(program)

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
                self.statement(s, Points(1, {}, None, one))
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
        self.begin_watch(watched, "points")
        step = max(1, CHUNK // max(1, self._memory(loops[-1].body, k)))
        for start in range(0, chosen.shape[0], step):
            part = chosen[start : start + step]
            for name in self._private_to(k):
                self._add_scratch(name, part.shape[0])
            at = {x.axis: part[:, d : d + 1] for d, x in enumerate(loops)}
            numbers = torch.arange(start, start + part.shape[0], device=part.device).view(-1, 1)
            self.block(loops[-1].body, Points(part.shape[0], at, None, numbers))
        self.end_watch(watched)

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


def _private_arrays(program: Program) -> dict[str, int]:
    """The scratch arrays that one statement of the program alone uses, with its position."""
    users: dict[str, set[int]] = {s.name: set() for s in program.scratch}
    for k, outer in enumerate(program.body):
        for s in walk_statements((outer,)):
            for name in {e.name for e in loads_in(*read_by(s))} | ({s.target} if isinstance(s, Put | Stage) else set()):
                users.get(name, set()).add(k)
    return {name: next(iter(where)) for name, where in users.items() if len(where) == 1}
