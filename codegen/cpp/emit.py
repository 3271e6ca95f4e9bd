"""From a kernel and a schedule to C++ text: the front of the C++ target.

    schedule = default_schedule(kernel, isa)
    source   = emit_kernel(kernel, schedule, isa, "rms")
    text     = emit_unit([source], isa)                     one translation unit, no headers

Each kernel is `extern "C" int SYMBOL(void *const *args, const long *sizes, char *work, long threads)`:
`args` has the addresses of element 0 of each buffer's storage (inputs, then outputs that are no inputs), `sizes` the
values of `kernel.symbols`, `work` has `source.workspace` bytes for each thread, aligned to 64. It returns 0, or 1 + k
where data index k of `source.checks` was out of range: outputs are then unspecified.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.index import Axis
from ...ir.loops import Buffer, Kernel
from ...ir.schedule import Schedule
from ...ir.tiles import Loop, Program, Scratch, Statement
from ...ir.types import Dim, multiply, plus, product
from ..dims import print_dim
from ..parts import writes_of
from ..phases import find_owner
from ..tiling import Choices, Planned, build_program, plan_kernel
from .isa import Isa
from .prelude import prelude
from .printer import Printer
from .printer_memory import BYTES, storage_of
from .printer_tiles import NAME
from .space import AHEAD, KEEP, STREAM_BYTES, TILES, candidates, choices_of, default_schedule, stored_bytes
from .threads import TEAM, count_threads, share_phases
from .width import choose_lanes

__all__ = ["KernelSource", "candidates", "default_schedule", "emit_kernel", "emit_unit", "tile_kernel"]

ARGUMENTS = "void *const *args, const long *sizes"
STACK_BYTES = 32768  # scratch arrays up to this size live on the stack
ALIGN = 64


@dataclass(frozen=True, slots=True)
class KernelSource:
    """One kernel's C++ text without its prelude.

    prelude_names  the functions it calls, as (lanes, name)
    workspace      bytes that each thread needs; `checks` are the data indices it tests, in the order of its error codes
    buffers        the names of the buffers in the order of `p`
    """

    symbol: str
    lanes: int
    text: str
    prelude_names: frozenset[tuple[int, str]]
    workspace: Dim
    checks: tuple[str, ...]
    buffers: tuple[str, ...]
    threaded: bool


@dataclass(frozen=True, slots=True)
class Tiled:
    """A kernel as a tile program, and the choices it was made by."""

    planned: Planned
    program: Program
    choices: Choices

    @property
    def lanes(self) -> int:
        return self.choices.lanes


def tile_kernel(kernel: Kernel, schedule: Schedule, isa: Isa, apart: frozenset[str] = frozenset()) -> Tiled:
    """The loops of a kernel under a schedule; `apart` as for `make_plan`.

    Raises ScheduleError where the schedule does not apply.
    """
    links = bool(schedule.get(TILES)) and isa.lanes(4) > 1
    planned, lanes = choose_lanes(plan_kernel(kernel, str(schedule.get(KEEP)), apart=apart, links=links), isa)
    choices = choices_of(schedule, lanes, isa)
    return Tiled(planned, build_program(planned, choices), choices)


def emit_kernel(
    kernel: Kernel, schedule: Schedule, isa: Isa, symbol: str, check: Callable[[Program], object] | None = None,
    *, strict: bool = False, apart: frozenset[str] = frozenset(),
) -> KernelSource:  # fmt: skip
    """The C++ of a kernel under a schedule. Raises ScheduleError where the schedule does not apply.

    check   is shown the tile program first: `ir.verify.verify_program`, where somebody asks for that
    strict  numerics="strict"
    apart   the axes of the parts that reductions are cut into, by name
    """
    tiled = tile_kernel(kernel, schedule, isa, apart)
    if check is not None:
        check(tiled.program)
    ahead = bool(schedule.get(AHEAD))
    return _Emitter(kernel, tiled, symbol, ahead=ahead, strict=strict).emit()


def emit_unit(sources: Sequence[KernelSource], isa: Isa) -> str:
    """One translation unit: the prelude of each width, then the kernels."""
    names = {name for s in sources for name in s.prelude_names}
    widths = sorted({lanes for lanes, _ in names}, reverse=True)
    preludes = [prelude(isa, lanes, [n for k, n in names if k == lanes]) for lanes in widths] or [prelude(isa, 1, [])]
    team = [TEAM] if any(s.threaded for s in sources) else []
    empty = [f"namespace w{k} {{}}" for k in sorted({s.lanes for s in sources} - set(widths))]
    return "\n".join([*preludes, *empty, *team, *(s.text for s in sources)])


class _Emitter:
    """Wraps the printed program in its functions: one for all of it, or one for each phase."""

    def __init__(self, kernel: Kernel, tiled: Tiled, symbol: str, *, ahead: bool, strict: bool) -> None:
        self.kernel = kernel
        self.planned = tiled.planned
        self.program, self.prefix, self.phases = share_phases(tiled.program)
        self.symbol = symbol
        choices = tiled.choices
        self.lanes = choices.lanes
        self.printer = Printer(
            self.program, self.lanes, kernel.symbols, self._streaming(), ahead, strict=strict, pairs=choices.pairs,
            quads=choices.quads,
        )  # fmt: skip
        order: dict[str, Buffer] = {b.name: b for b in (*kernel.inputs, *kernel.outputs)}
        self.buffers = tuple(order.values())
        owned = [s for s in self.program.scratch if len(self.phases) < 2 or find_owner(self.phases, s) is not None]
        self.stack_arrays, self.offsets, self.own_bytes = _lay_out(owned, STACK_BYTES)
        _, self.shared, self.shared_bytes = _lay_out([s for s in self.program.scratch if s not in owned], 0)

    def _streaming(self) -> str:
        """The condition under which outputs bypass the caches: that they are larger than those, where that is not
        known.
        """
        return "true" if isinstance(stored_bytes(self.kernel), int) else "large"

    def emit(self) -> KernelSource:
        lines = [*self._header(), *(self._phased() if self.phases else self._plain())]
        needs = frozenset(self.printer.values.needs)
        return KernelSource(
            self.symbol, self.lanes, "\n".join(lines) + "\n", needs, plus(self.shared_bytes, self.own_bytes),
            tuple(self.printer.memory.checks), tuple(b.name for b in self.buffers), bool(self.phases),
        )  # fmt: skip

    def _header(self) -> list[str]:
        shapes = ", ".join(f"{b.name}: {b.dtype}[{', '.join(map(str, b.shape))}]" for b in self.buffers)
        lines = [f"// {self.symbol}({shapes})"]
        for maths in self.program.maths:
            lines += textwrap.wrap(maths, 116, initial_indent="//   ", subsequent_indent="//     ")
        return lines

    # --- functions -----------------------------------------------------------------------------------------------

    def _plain(self) -> list[str]:
        head = f'extern "C" int {self.symbol}({ARGUMENTS}, char *work, long) {{'
        return [head, *self._body(self.program.body, {}), *self._end(), "}"]

    def _end(self) -> list[str]:
        """Streamed stores are seen by others after a fence."""
        if not self.printer.lane_loops.streamed:
            return ["  return 0;"]
        return [f"  {self.printer.values.need('fence_nt')}();", "  return 0;"]

    def _phased(self) -> list[str]:
        """A function for a range of the points of each phase, and the kernel, which runs them in parts."""
        lines: list[str] = []
        calls: list[tuple[str, str]] = []  # a phase's function, and how many points it has
        for k, phase in enumerate(self.phases):
            name = f"{self.symbol}_part" if len(self.phases) == 1 else f"{self.symbol}_{k}"
            axes = {loop.axis: self.printer.stack.fresh(loop.axis.name) for loop in phase.grid}
            self.printer.lane_loops.streamed = False
            body = self._range_body(self.prefix, axes, phase.body) if axes else self._body(phase.body, {})
            lines += [f"static int {name}({ARGUMENTS}, char *shared, char *work, long lo, long hi) {{",
                      *body, *self._end(), "}"]  # fmt: skip
            calls.append((name, print_dim(product(a.extent for a in axes)) if axes else ""))
        return [*lines, *self._entry(calls)]

    def _entry(self, calls: list[tuple[str, str]]) -> list[str]:
        count = count_threads(self.planned.kernel, self.lanes)
        own = f"work + {print_dim(self.shared_bytes)}" if self.shared else "work"
        places = f"args, sizes, work, {own}"
        runs = [
            f"run_team({name}, {places}, {print_dim(self.own_bytes)}, {points}, many)" if points
            else f"{name}({places}, 0, 1)" for name, points in calls
        ]  # fmt: skip
        sizes = [*(points for _, points in calls), *map(print_dim, (self.own_bytes, self.shared_bytes))]
        return [
            f'extern "C" int {self.symbol}({ARGUMENTS}, char *work, long threads) {{',
            *self._symbols(used_in=[*sizes, count]),
            f"  const long count = {count};",
            "  const long many = count < threads ? count : threads;",
            *(f"  if (const int bad = {run}) return bad;" for run in runs[:-1]),
            f"  return {runs[-1]};",
            "}",
        ]

    def _range_body(self, outer: Sequence[Statement], axes: dict[Axis, str], inner: tuple[Statement, ...]) -> list[str]:
        stack = self.printer.stack
        stack.open({}, frozenset(), False)
        self.printer.statements(outer)
        loop = Loop("grid", next(iter(axes)), inner)
        if len(axes) == 1:
            ((axis, name),) = axes.items()
            stack.open({axis: name}, writes_of(loop), False)
            self.printer.statements(inner)
            lines = stack.close()
            stack.emit_all([f"for (long {name} = lo; {name} < hi; {name}++) {{", *lines, "}"])
        else:
            count = stack.fresh("point")
            for line in _first_point(axes):
                stack.emit(line)
            stack.open(dict(axes), writes_of(loop), False)
            self.printer.statements(inner)
            lines = [*stack.close(), *(f"  {line}" for line in _next_point(axes))]
            stack.emit_all([f"for (long {count} = lo; {count} < hi; {count}++) {{", *lines, "}"])
        lines = stack.close()
        return [*self._declare("\n".join(lines)), *lines]

    def _body(self, body: Sequence[Statement], axes: dict[Axis, str]) -> list[str]:
        lines = self.printer.print_body(body, axes)
        return [*self._declare("\n".join(lines)), *lines]

    def _declare(self, text: str) -> list[str]:
        """Sizes, pointers and scratch arrays that the text uses."""
        lines: list[str] = []
        if self.printer.values.needs:
            lines.append(f"  using namespace w{self.lanes};")
        lines += [f"  Tiles {NAME};"] if self.printer.has_tiles and _mentions(text, NAME) else []
        size = print_dim(stored_bytes(self.kernel)) if _mentions(text, "large") else ""
        offsets = {**self.offsets, **self.shared}
        lines += self._symbols(used_in=[text, size, *(print_dim(o) for o in offsets.values())])
        lines += [f"  const bool large = {size} >= {STREAM_BYTES};"] if size else []
        places = self.printer.memory.places
        for k, b in enumerate(self.buffers):
            place = places[b.name]
            if _mentions(text, place.name):
                lines.append(f"  {place.storage}* const {place.name} = ({place.storage}*)args[{k}];")
        for s in self.program.scratch:
            place = places[s.name]
            if self.phases and not _mentions(text, place.name):
                continue
            if s.name in offsets:
                at = f"{'shared' if s.name in self.shared else 'work'} + {print_dim(offsets[s.name])}"
                lines.append(f"  {place.storage}* const {place.name} = ({place.storage}*)({at});")
            else:
                lines.append(f"  alignas({ALIGN}) {place.storage} {place.name}[{self.stack_arrays[s.name]}];")
        return lines

    def _symbols(self, used_in: list[str]) -> list[str]:
        text = "\n".join(used_in)
        return [f"  const long {n} = sizes[{k}];" for k, n in enumerate(self.kernel.symbols) if _mentions(text, n)]


def _lay_out(arrays: Sequence[Scratch], on_stack: int) -> tuple[dict[str, int], dict[str, Dim], Dim]:
    """(sizes of the arrays of up to `on_stack` bytes, offsets of the others in memory, how many bytes those take)."""
    small: dict[str, int] = {}
    offsets: dict[str, Dim] = {}
    used = 0
    at: Dim = 0
    for s in arrays:
        size = product(s.shape)
        each = BYTES[storage_of(s)]
        if isinstance(size, int) and size * each <= on_stack and used + size * each <= 2 * on_stack:
            small[s.name] = max(size, 1)
            used += size * each
            continue
        offsets[s.name] = at
        space = -(-size * each // ALIGN) * ALIGN if isinstance(size, int) else multiply(plus(size, ALIGN), each)
        at = plus(at, space)
    return small, offsets, at


def _first_point(axes: dict[Axis, str]) -> list[str]:
    """The grid point number `lo` as its axes."""
    items = list(axes.items())
    lines: list[str] = []
    inner: Dim = 1
    for axis, name in reversed(items):
        quotient = "lo" if inner == 1 else f"lo / {print_dim(inner)}"
        rest = "" if axis is items[0][0] else f" % {print_dim(axis.extent)}"
        lines.append(f"long {name} = {quotient}{rest};")
        inner = multiply(inner, axis.extent)
    return lines[::-1]


def _next_point(axes: dict[Axis, str]) -> list[str]:
    items = list(axes.items())
    text = f"{items[0][1]}++;"
    for axis, name in items[1:]:
        text = f"if (++{name} == {print_dim(axis.extent)}) {{ {name} = 0; {text} }}"
    return [text]


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
