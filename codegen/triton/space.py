"""The schedule space of the Triton target: its knobs, a default for each kernel, and the candidates worth trying."""

from __future__ import annotations

from itertools import product as combinations

from ...ir.loops import Equation, Kernel
from ...ir.schedule import Knob, Schedule
from ..cuts import Cuts, blocks_of, cuts_of
from .dot_space import PRODUCTS, cut_dots, default_dots, dot_candidates, dots_of

POINTS = Knob("points", 1024, (256, 512, 1024, 2048, 4096, 8192), "points that a program holds at once")
RESIDENT = Knob("resident", 8192, (1024, 2048, 4096, 8192, 16384, 32768), "longest row that is held whole")
STEP = Knob("step", 2048, (512, 1024, 2048, 4096), "points of longer rows that are held at once")
WARPS = Knob("warps", 0, (0, 1, 2, 4, 8, 16), "warps of a program; 0: by the points it holds")
STAGES = Knob("stages", 2, (1, 2, 3, 4), "iterations of a loop whose loads are in flight")
KEEP = Knob("keep", "none", ("auto", "all", "none"), "values that several passes read are kept, or computed again")
PARTS = Knob("parts", 1, (1, 16, 32, 64, 128, 256, 512), "programs that long reductions are cut for")
BLOCKS = Knob("blocks", False, (False, True), "what keeps rows and what reduces them take turns over blocks of rows")
BLOCK_M = Knob("block_m", 64, (16, 32, 64, 128, 256), "rows of a product of tiles")
BLOCK_N = Knob("block_n", 64, (16, 32, 64, 128, 256), "columns of a product of tiles")
BLOCK_K = Knob("block_k", 32, (16, 32, 64, 128), "points of the sum that are multiplied at once")
SPLIT = Knob("split", 1, (1, 2, 4, 8, 16), "parts of sums of products, for programs of their own")
GROUP = Knob("group", 8, (1, 4, 8, 16), "rows of tiles whose programs run side by side, column by column")
TURNS = Knob("turns", 0, (0, 108, 132, 264), "programs that take turns over all tiles of products; 0: one a tile")
SPECIALIZE = Knob("specialize", False, (False, True), "warps that load and warps that multiply are others")
KNOBS = (
    POINTS, RESIDENT, STEP, WARPS, STAGES, KEEP, PARTS, BLOCKS,
    BLOCK_M, BLOCK_N, BLOCK_K, SPLIT, GROUP, TURNS, SPECIALIZE,
)  # fmt: skip

COLUMNS = 64  # neighbours in memory that a program takes of each row it reduces
GRAIN = 16384  # points that are worth a program of their own
ENOUGH_PROGRAMS = 256  # about two for each multiprocessor

POINTS_PER_THREAD = 8
MOST_WARPS = 16


def strategy_of(kernel: Kernel) -> str:
    """The family of a kernel: which knobs mean something for it."""
    equations = [s for s in kernel.body if isinstance(s, Equation)]
    if any(e.scan for e in equations):
        return "scan"
    return "reduce" if any(e.state for e in equations) else "points"


def default_schedule(kernel: Kernel) -> Schedule:
    """What is run where nothing was measured."""
    dots = dots_of(kernel)
    if dots is not None:
        return default_dots(dots)
    strategy = strategy_of(kernel)
    schedule = Schedule(strategy).choose(points=1024 if strategy == "points" else 2048)
    many = schedule.choose(parts=ENOUGH_PROGRAMS)
    return many if strategy == "reduce" and not all(c.whole for c in cuts_under(kernel, many)) else schedule


def cuts_under(kernel: Kernel, schedule: Schedule) -> Cuts:
    """The reductions that a schedule cuts into parts: by the law `split`, before the kernel is printed."""
    if schedule.strategy == PRODUCTS:
        return cut_dots(kernel, int(schedule.get(SPLIT)))
    parts = int(schedule.get(PARTS))
    blocks = blocks_of(kernel, ENOUGH_PROGRAMS // 2) if schedule.get(BLOCKS) else ()
    return blocks or (cuts_of(kernel, parts, GRAIN, lambda _: 1.0, COLUMNS) if parts > 1 else ())


def candidates(kernel: Kernel) -> list[Schedule]:
    """The schedules worth measuring for a kernel, the default first."""
    dots = dots_of(kernel)
    if dots is not None:
        return dot_candidates(dots)
    default = default_schedule(kernel)
    knobs = (POINTS, WARPS) if default.strategy == "points" else (POINTS, RESIDENT, WARPS, STAGES)
    tried = combinations(*(k.candidates[1:4] for k in knobs))
    found = [default, *(default.choose(**{k.name: v for k, v in zip(knobs, t, strict=True)}) for t in tried)]
    return list(dict.fromkeys(found))[:64]


def warps_for(points: int) -> int:
    """Warps of a program that holds so many points: a power of two."""
    wanted, warps = points // (32 * POINTS_PER_THREAD), 1
    while warps < min(wanted, MOST_WARPS):
        warps *= 2
    return warps
