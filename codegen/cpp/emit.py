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
from math import prod

from ...ir.index import Axis
from ...ir.loops import Buffer, Kernel
from ...ir.schedule import Schedule
from ...ir.tiles import Loop, Program, Scratch, Statement, walk_statements
from ...ir.types import Dim, multiply, plus, product
from ..dims import print_dim
from ..parts import writes_of
from ..tiling import Planned, build_program, plan_kernel
from ..tiling_plan import estimate, statement_cost
from .isa import Isa
from .prelude import prelude
from .printer import Printer
from .printer_memory import SCRATCH
from .space import AHEAD, KEEP, STREAM_BYTES, candidates, choices_of, default_schedule, stored_bytes
from .width import PACKS, choose_lanes

__all__ = ["KernelSource", "candidates", "default_schedule", "emit_kernel", "emit_unit", "tile_kernel"]

STACK_BYTES = 32768  # scratch arrays up to this size live on the stack
ALIGN = 64
ENOUGH_POINTS = 64  # of the outer grid axes: then inner ones need no splitting
GRAIN = 400_000  # rough vector cycles that are worth another thread

TEAM = """\
// Runs a kernel's grid points lo .. hi-1 in parts, one per thread of the pool that torch has started.
typedef int part(void *const *args, const long *sizes, char *work, long lo, long hi);
struct team { part *f; void *const *args; const long *sizes; char *work; long bytes, points, count; int bad; };
extern "C" void GOMP_parallel(void (*f)(void *), void *data, unsigned threads, unsigned flags);
extern "C" int omp_get_thread_num();
static void run_part(void *data) {
  team *t = (team *)data;
  long k = omp_get_thread_num(), lo = t->points * k / t->count, hi = t->points * (k + 1) / t->count;
  int bad = lo < hi ? t->f(t->args, t->sizes, t->work + k * t->bytes, lo, hi) : 0;
  if (bad) t->bad = bad;
}
static int run_team(
    part *f, void *const *args, const long *sizes, char *work, long bytes, long points, long count) {
  if (count > points) count = points;
  if (count < 2) return f(args, sizes, work, 0, points);
  team t = {f, args, sizes, work, bytes, points, count, 0};
  GOMP_parallel(run_part, &t, (unsigned)count, 0);
  return t.bad;
}
"""


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
    """A kernel as a tile program, for packs of `lanes`."""

    planned: Planned
    program: Program
    lanes: int


def tile_kernel(kernel: Kernel, schedule: Schedule, isa: Isa) -> Tiled:
    """The loops of a kernel under a schedule. Raises ScheduleError where the schedule does not apply."""
    planned, lanes = choose_lanes(plan_kernel(kernel, str(schedule.get(KEEP))), isa)
    return Tiled(planned, build_program(planned, choices_of(schedule, lanes)), lanes)


def emit_kernel(
    kernel: Kernel, schedule: Schedule, isa: Isa, symbol: str, check: Callable[[Program], object] | None = None,
    *, strict: bool = False,
) -> KernelSource:  # fmt: skip
    """The C++ of a kernel under a schedule. Raises ScheduleError where the schedule does not apply.

    check   is shown the tile program first: `ir.verify.verify_program`, where somebody asks for that
    strict  numerics="strict"
    """
    tiled = tile_kernel(kernel, schedule, isa)
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
    """Wraps the printed program in its functions."""

    def __init__(self, kernel: Kernel, tiled: Tiled, symbol: str, *, ahead: bool, strict: bool) -> None:
        self.kernel = kernel
        self.planned = tiled.planned
        self.program = program = tiled.program
        self.symbol = symbol
        self.lanes = tiled.lanes
        self.printer = Printer(program, tiled.lanes, kernel.symbols, self._streaming(), ahead, strict=strict)
        order: dict[str, Buffer] = {b.name: b for b in (*kernel.inputs, *kernel.outputs)}
        self.buffers = tuple(order.values())
        self.stack_arrays, self.offsets, self.workspace = _lay_out(program.scratch)

    def _streaming(self) -> str:
        """The condition under which outputs bypass the caches: that they are larger than those, where that is not
        known.
        """
        return "true" if isinstance(stored_bytes(self.kernel), int) else "large"

    def emit(self) -> KernelSource:
        grid = self._grid()
        lines = [*self._header(), *(self._threaded(grid) if grid else self._plain())]
        needs = frozenset(self.printer.values.needs)
        return KernelSource(
            self.symbol, self.lanes, "\n".join(lines) + "\n", needs, self.workspace,
            tuple(self.printer.memory.checks), tuple(b.name for b in self.buffers), bool(grid),
        )  # fmt: skip

    def _header(self) -> list[str]:
        shapes = ", ".join(f"{b.name}: {b.dtype}[{', '.join(map(str, b.shape))}]" for b in self.buffers)
        lines = [f"// {self.symbol}({shapes})"]
        for maths in self.program.maths:
            lines += textwrap.wrap(maths, 116, initial_indent="//   ", subsequent_indent="//     ")
        return lines

    # --- functions -----------------------------------------------------------------------------------------------

    def _plain(self) -> list[str]:
        head = f'extern "C" int {self.symbol}(void *const *args, const long *sizes, char *work, long) {{'
        return [head, *self._body(self.program.body, {}), *self._end(), "}"]

    def _end(self) -> list[str]:
        """Streamed stores are seen by others after a fence."""
        if not self.printer.lane_loops.streamed:
            return ["  return 0;"]
        return [f"  {self.printer.values.need('fence_nt')}();", "  return 0;"]

    def _threaded(self, grid: list[Loop]) -> list[str]:
        """A function for a range of grid points, and the kernel, which runs it in parts."""
        outer = list(self.program.body[:-1])
        axes = {loop.axis: self.printer.stack.fresh(loop.axis.name) for loop in grid}
        inner = grid[-1].body
        body = self._range_body(outer, axes, inner)
        head = f"static int {self.symbol}_part(void *const *args, const long *sizes, char *work, long lo, long hi) {{"
        points = print_dim(product(a.extent for a in axes))
        entry = [
            f'extern "C" int {self.symbol}(void *const *args, const long *sizes, char *work, long threads) {{',
            *self._symbols(used_in=[points, self._work()]),
            f"  const long count = 1 + {self._work()} / {GRAIN};",
            f"  return run_team({self.symbol}_part, args, sizes, work, {print_dim(self.workspace)}, {points}, "
            "count < threads ? count : threads);",
            "}",
        ]
        return [head, *body, *self._end(), "}", *entry]

    def _range_body(self, outer: list[Statement], axes: dict[Axis, str], inner: tuple[Statement, ...]) -> list[str]:
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
        size = print_dim(stored_bytes(self.kernel)) if _mentions(text, "large") else ""
        lines += self._symbols(used_in=[text, size, *(print_dim(o) for o in self.offsets.values())])
        lines += [f"  const bool large = {size} >= {STREAM_BYTES};"] if size else []
        places = self.printer.memory.places
        for k, b in enumerate(self.buffers):
            place = places[b.name]
            if _mentions(text, place.name):
                lines.append(f"  {place.storage}* const {place.name} = ({place.storage}*)args[{k}];")
        for s in self.program.scratch:
            place = places[s.name]
            if s.name in self.offsets:
                at = f"work + {print_dim(self.offsets[s.name])}"
                lines.append(f"  {place.storage}* const {place.name} = ({place.storage}*)({at});")
            else:
                lines.append(f"  alignas({ALIGN}) {place.storage} {place.name}[{self.stack_arrays[s.name]}];")
        return lines

    def _symbols(self, used_in: list[str]) -> list[str]:
        text = "\n".join(used_in)
        return [f"  const long {n} = sizes[{k}];" for k, n in enumerate(self.kernel.symbols) if _mentions(text, n)]

    # --- threads -------------------------------------------------------------------------------------------------

    def _grid(self) -> list[Loop]:
        """The grid loops whose points threads share; empty where the program is not one grid after private values."""
        body = self.program.body
        if not body or not isinstance(body[-1], Loop) or body[-1].kind != "grid":
            return []
        buffers = {b.name for b in self.buffers}
        if any(getattr(s, "target", None) in buffers for s in walk_statements(body[:-1])):
            return []
        loops = [body[-1]]
        while len(loops[-1].body) == 1 and isinstance(loops[-1].body[0], Loop) and loops[-1].body[0].kind == "grid":
            if prod(estimate(x.axis.extent) for x in loops) >= ENOUGH_POINTS:
                break
            loops.append(loops[-1].body[0])
        return loops

    def _work(self) -> str:
        """Rough vector cycles of the whole kernel."""
        statements = self.planned.kernel.body
        heaviest = max(statements, key=lambda s: prod(estimate(a.extent) for a in s.domain), default=None)
        if heaviest is None:
            return "0"
        cost = max(1, round(sum(statement_cost(s) for s in statements)))
        return print_dim(multiply(product(a.extent for a in heaviest.domain), cost)) + f" / {max(self.lanes, 1)}"


def _lay_out(arrays: tuple[Scratch, ...]) -> tuple[dict[str, int], dict[str, Dim], Dim]:
    """(sizes of arrays on the stack, offsets of those in the workspace, bytes of the workspace)."""
    on_stack: dict[str, int] = {}
    offsets: dict[str, Dim] = {}
    used, total = 0, 0
    at: Dim = 0
    for s in arrays:
        size = product(s.shape)
        each = {"f32": 4, "f64": 8, "i32": 4, "i64": 8, "b8": 1}[SCRATCH[PACKS[s.dtype.name]]]
        if isinstance(size, int) and size * each <= STACK_BYTES and used + size * each <= 2 * STACK_BYTES:
            on_stack[s.name] = max(size, 1)
            used += size * each
            continue
        offsets[s.name] = at
        space = -(-size * each // ALIGN) * ALIGN if isinstance(size, int) else plus(multiply(size, each), ALIGN)
        if not isinstance(size, int):
            space = multiply(plus(size, ALIGN), each)
        at = plus(at, space)
    del total
    return on_stack, offsets, at


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
