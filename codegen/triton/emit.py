"""Kernels as Triton source: the front of the Triton target.

    schedule = default_schedule(kernel)
    source   = emit_kernel(kernel, schedule, "rms")
    text     = emit_module([source])                      a Python module

A kernel is one or more launches, in order: each is a function whose arguments are the buffers that it touches, the
workspace, the cell that reports bad indices, and the dynamic sizes. A data index that is out of range stores 1 + k (its
number in `checks`) to that cell; what it would have read or written is left alone.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ...ir.index import Axis
from ...ir.loops import Kernel
from ...ir.schedule import Schedule
from ...ir.tiles import Dot, Loop, Program, Scratch, walk_statements
from ...ir.types import Dim, contiguous_strides, multiply, plus, product
from ..phases import Phase, find_owner, find_phases, passed_on, values_bound
from .combine import Combiners
from .dot_printer import DotPrinter, Order
from .grid import tile_kernel
from .ops import POINTERS
from .prelude import print_module
from .printer import Printer, blocks_of
from .space import GROUP, SPECIALIZE, STAGES, TURNS, WARPS, candidates, default_schedule, warps_for
from .values import Array

__all__ = ["Launch", "TritonSource", "candidates", "default_schedule", "emit_kernel", "emit_module"]

ALIGN = 64  # bytes between what two scratch arrays begin at
BAD = "bad"  # the cell that reports indices out of range


@dataclass(frozen=True, slots=True)
class Launch:
    """One function, and how it is run.

    arguments  (name, type in Triton's notation) of buffers, arrays of the workspace, `bad`, sizes
    programs   how many programs its grid has
    """

    function: str
    arguments: tuple[tuple[str, str], ...]
    programs: Dim
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class TritonSource:
    """One kernel's functions without imports and helpers.

    workspace  (scratch array, its offset in bytes) and `workspace_bytes` of global memory that launches share
    checks     the data indices that are tested, in the order of their codes
    """

    symbol: str
    text: str
    launches: tuple[Launch, ...]
    helpers: frozenset[str]
    combiners: tuple[tuple[str, str], ...]
    workspace: tuple[tuple[str, Dim], ...]
    workspace_bytes: Dim
    checks: tuple[str, ...]
    buffers: tuple[str, ...]
    symbols: tuple[str, ...]


def emit_kernel(
    kernel: Kernel, schedule: Schedule, symbol: str, check: Callable[[Program], object] | None = None,
    apart: frozenset[str] = frozenset(),
) -> TritonSource:  # fmt: skip
    """The Triton source of a kernel under a schedule. Raises ScheduleError where the schedule does not apply.

    `apart` has the axes of the parts that reductions are cut into, by name.

    `check` is shown the tile program first: `ir.verify.verify_program`, where somebody asks for that.
    """
    program = tile_kernel(kernel, schedule, apart)[1]
    if check is not None:
        check(program)
    return _Emitter(kernel, program, schedule, symbol).emit()


def emit_module(sources: Sequence[TritonSource]) -> str:
    """One Python module: imports, helpers, the combine functions, the kernels."""
    combiners = dict(pair for s in sources for pair in s.combiners)
    helpers = {h for s in sources for h in s.helpers}
    return print_module([*combiners.values(), *(s.text for s in sources)], helpers)


class _Emitter:
    def __init__(self, kernel: Kernel, program: Program, schedule: Schedule, symbol: str) -> None:
        self.kernel = kernel
        self.program = program
        self.schedule = schedule
        self.symbol = symbol
        self.buffers = {b.name: b for b in (*kernel.inputs, *kernel.outputs)}
        self.order = Order(int(schedule.get(GROUP)), int(schedule.get(TURNS)), bool(schedule.get(SPECIALIZE)))
        self.combiners = Combiners()
        self.parts = find_phases(program.body)
        self.checks: list[str] = []
        self.passed = passed_on(self.parts)
        types = {n: d for p in self.parts for n, d in values_bound(p.body).items()}
        cells = [Scratch(f"{n}_cell", types[n], ()) for n in self.passed]
        self._types = {n: d.name for n, d in types.items()}
        self.scratch = {s.name: s for s in (*program.scratch, *cells)}

    def emit(self) -> TritonSource:
        texts: list[str] = []
        launches: list[Launch] = []
        for k, part in enumerate(self.parts):
            name = self.symbol if len(self.parts) == 1 else f"{self.symbol}_{k}"
            lines = self._function(part, k, self.passed)
            arguments = self._arguments("\n".join(x for x in lines if not x.startswith("#")))
            head = f"def {name}({', '.join(n for n, _ in arguments)}):"
            texts.append("\n".join(["@triton.jit", head, *(f"    {line}" for line in lines)]) + "\n")
            warps = int(self.schedule.get(WARPS)) or warps_for(_held(part))
            programs = product(blocks_of(x) for x in part.grid)
            programs = self.order.programs(programs) if _has_dots(part) else programs
            launches.append(Launch(name, arguments, programs, warps, int(self.schedule.get(STAGES))))
        places, size = self._lay_out()
        return TritonSource(
            self.symbol, "\n\n".join(texts), tuple(launches), frozenset(self.combiners.helpers),
            tuple(self.combiners.functions.items()), places, size, tuple(self.checks), tuple(self.buffers),
            tuple(self.kernel.symbols),
        )  # fmt: skip

    # --- functions -----------------------------------------------------------------------------------------------

    def _function(self, part: Phase, number: int, passed: Mapping[str, int]) -> list[str]:
        arrays, symbols = self._arrays(part), self.kernel.symbols
        if _has_dots(part):
            printer: Printer = DotPrinter(arrays, symbols, self.combiners, self.order)
        else:
            printer = Printer(arrays, symbols, self.combiners)
        printer.values.checks = self.checks
        given = {n: (f"{n}_cell", self._types[n]) for n, k in passed.items() if k < number}
        kept = {n: f"{n}_cell" for n, k in passed.items() if k == number}
        lines = printer.print_launch(part.grid, part.body, given, kept)
        return [*self._comments(), *lines] if number == 0 else lines

    def _comments(self) -> list[str]:
        lines: list[str] = []
        for maths in self.program.maths:
            lines += textwrap.wrap(maths, 110, initial_indent="# ", subsequent_indent="#   ")
        return lines

    def _arguments(self, text: str) -> tuple[tuple[str, str], ...]:
        """What a function's text mentions, in the order of the kernel."""
        types = {n: b.dtype.name for n, b in (*self.buffers.items(), *self.scratch.items())}
        found = [(n, POINTERS[t]) for n, t in types.items() if _mentions(text, n)]
        found += [(BAD, "*i32")] if _mentions(text, BAD) else []
        return (*found, *((n, "i64") for n in self.kernel.symbols if _mentions(text, n)))

    # --- the workspace -------------------------------------------------------------------------------------------

    def _arrays(self, part: Phase) -> dict[str, Array]:
        """What a launch reads and writes; arrays that it alone uses have a part for each point of its grid."""
        arrays = {n: Array(n, b.dtype.name, (1,)) for n, b in self.buffers.items()}
        for s in self.scratch.values():
            own = find_owner(self.parts, s) is part
            arrays[s.name] = Array(s.name, s.dtype.name, contiguous_strides(s.shape), _points(part, s) if own else ())
        return arrays

    def _lay_out(self) -> tuple[tuple[tuple[str, Dim], ...], Dim]:
        """((array, its offset in bytes), ..) and the bytes of the workspace."""
        at: Dim = 0
        places: list[tuple[str, Dim]] = []
        for s in self.scratch.values():
            owner = find_owner(self.parts, s)
            points = product([*s.shape, *((x.axis.extent for x in owner.grid) if owner is not None else ())])
            places.append((s.name, at))
            size = multiply(points, s.dtype.itemsize)
            at = plus(at, -(-size // ALIGN) * ALIGN if isinstance(size, int) else multiply(plus(size, ALIGN), ALIGN))
        return tuple(places), at


def _points(part: Phase, s: Scratch) -> tuple[tuple[Axis, Dim], ...]:
    """The distance between the arrays of neighbouring points along each axis of a grid."""
    step = product(s.shape)
    found: list[tuple[Axis, Dim]] = []
    for loop in part.grid[::-1]:
        found.append((loop.axis, step))
        step = multiply(step, loop.axis.extent)
    return tuple(found)


def _has_dots(part: Phase) -> bool:
    return any(isinstance(s, Dot) for s in walk_statements(part.body))


def _held(part: Phase) -> int:
    """Points that a program holds at once."""
    lanes = [s.tile for s in walk_statements(part.body) if isinstance(s, Loop) and s.kind == "lanes"]
    return prod(x.tile for x in part.grid) * max(lanes, default=1)


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
