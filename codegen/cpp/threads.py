"""Threads of a CPU kernel: what they share, how many it is worth, and which reductions are cut for them."""

from __future__ import annotations

from math import prod

from ...ir.loops import Equation, Kernel
from ...ir.tiles import Loop, Program, Statement
from ...ir.types import multiply, product
from ..cuts import Cuts, cuts_of
from ..dims import print_dim
from ..phases import Phase, find_phases, with_cells
from ..products import has_products
from ..tiling_plan import estimate, statement_cost, statement_traffic

ENOUGH_POINTS = 64  # of the outer grid axes: then inner ones need no splitting
GRAIN = 400_000  # rough vector cycles that are worth another thread
BYTES_A_CYCLE = 8  # of what one thread reads or writes, between what the caches and what memory give
LANES = 16  # of a vector, where that is not chosen yet

TEAM = """\
// Runs a grid's points lo .. hi-1 in parts, one per thread of the pool that torch has started.
typedef int part(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi);
struct team {
  part *f; void *const *args; const long *sizes; char *shared, *work; long bytes, points, count; int bad;
};
extern "C" void GOMP_parallel(void (*f)(void *), void *data, unsigned threads, unsigned flags);
extern "C" int omp_get_thread_num();
static void run_part(void *data) {
  team *t = (team *)data;
  long k = omp_get_thread_num(), lo = t->points * k / t->count, hi = t->points * (k + 1) / t->count;
  int bad = lo < hi ? t->f(t->args, t->sizes, t->shared, t->work + k * t->bytes, lo, hi) : 0;
  if (bad) t->bad = bad;
}
static int run_team(
    part *f, void *const *args, const long *sizes, char *shared, char *work, long bytes, long points, long count) {
  if (points < 1) return 0;
  if (count > points) count = points;
  if (count < 2) return f(args, sizes, shared, work, 0, points);
  team t = {f, args, sizes, shared, work, bytes, points, count, 0};
  GOMP_parallel(run_part, &t, (unsigned)count, 0);
  return t.bad;
}
"""


def count_threads(kernel: Kernel, lanes: int) -> str:
    """C++ text of how many threads a prepared kernel is worth."""
    heaviest = max(kernel.body, key=lambda s: prod(estimate(a.extent) for a in s.domain), default=None)
    if heaviest is None:
        return "1"
    traffic = sum(statement_traffic(kernel, s) for s in kernel.body) * lanes / BYTES_A_CYCLE
    cost = max(1, round(sum(statement_cost(s) for s in kernel.body) + traffic))
    points = print_dim(multiply(product(a.extent for a in heaviest.domain), cost))
    return f"1 + {points} / {max(lanes, 1)} / {GRAIN}"


def find_cuts(kernel: Kernel, parts: int, chunk: int) -> Cuts:
    """The reductions to cut so that grids have `parts` points; `chunk` columns are kept at once.

    Sums of products share their operands in tiles, whose grids have points enough.
    """

    def cycles(s: Equation) -> float:
        return statement_cost(s) / LANES + statement_traffic(kernel, s) / BYTES_A_CYCLE

    sums = [s for s in kernel.body if isinstance(s, Equation) and s.state == "sum" and len(s.axes) > 1]
    tiled = any(map(has_products, sums))
    return () if tiled or parts == 1 else cuts_of(kernel, parts, GRAIN, cycles, 2 * chunk)


def share_phases(program: Program) -> tuple[Program, tuple[Statement, ...], tuple[Phase, ...]]:
    """The program, with cells where it needs them, what each thread does first, and the phases that threads share:
    none where there is no grid.

    What little stands before a single grid is done by each thread for itself.
    """
    *before, last = find_phases(program.body) or (Phase((), ()),)
    buffers = {b.name for b in program.outputs}
    if last.grid and not any(p.grid or _is_shared(p, buffers) for p in before):
        return program, tuple(s for p in before for s in p.body), (_with_enough(last),)
    made = with_cells(program) if last.grid or any(p.grid for p in before) else None
    if made is None:
        return program, (), ()
    return made, (), tuple(_with_enough(p) for p in find_phases(made.body))


def _is_shared(phase: Phase, buffers: set[str]) -> bool:
    """True where what a phase does must not be done again, or takes a while."""
    return any(isinstance(s, Loop) or getattr(s, "target", None) in buffers for s in phase.body)


def _with_enough(phase: Phase) -> Phase:
    """The phase whose grid is as many of its outer loops as have points enough for all threads."""
    grid = phase.grid
    for k in range(1, len(grid)):
        if prod(estimate(x.axis.extent) for x in grid[:k]) >= ENOUGH_POINTS:
            return Phase(grid[:k], grid[k - 1].body)
    return phase
