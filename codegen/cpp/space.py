"""The schedule space of the C++ target: its knobs, a default for each kernel, and the candidates worth trying."""

from __future__ import annotations

from itertools import product as combinations

from ...ir.loops import Equation, Kernel
from ...ir.schedule import Knob, Schedule, Value
from ...ir.types import Dim, is_static, multiply, plus, product
from ..cuts import Cuts, blocks_of
from ..products import MatrixUnit
from ..tiling import Choices
from .isa import Isa
from .threads import find_cuts

STREAM_BYTES = 2 << 20  # outputs from this size on displace more from the caches than they leave there

UNROLL = Knob("unroll", 4, (1, 2, 4, 8), "packs of one tile: independent accumulators, fewer loop ends")
ROWS = Knob("rows", 8, (1, 2, 4, 8, 16), "rows that a column reduction joins at once")
CHUNK = Knob("chunk", 4096, (512, 1024, 2048, 4096, 8192), "columns whose accumulators are kept at once")
STREAM = Knob("stream", False, (False, True), "stores bypass the caches")
PREFETCH = Knob("prefetch", 0, (0, 512, 1024, 4096), "bytes that loads are asked for ahead")
AHEAD = Knob("ahead", True, (False, True), "the next row is asked for while this one is computed")
STAGE = Knob("stage", True, (False, True), "loads across the lanes are read in blocks and turned in registers")
KEEP = Knob("keep", "auto", ("auto", "all", "none"), "values that several passes read are kept, or computed again")
PARTS = Knob("parts", 1, (1, 2, 4, 8, 16, 32, 64), "points that long reductions are cut into, for threads")
BLOCKS = Knob("blocks", True, (False, True), "what keeps rows and what reduces them take turns over blocks of rows")
TILES = Knob("tiles", True, (False, True), "sums of products run as tiles of registers")
DOTS = Knob("dots", True, (False, True), "narrow products are added by instructions for several of them")
JAM = Knob("jam", True, (False, True), "points whose windows overlap are computed several at once")
MATRIX = Knob(
    "matrix", "none", ("none", "in_place", "packed"),
    "products run on tile registers: the larger operand as it lies, or in packs (so far on no hardware, but emulated)",
)  # fmt: skip
KNOBS = (UNROLL, ROWS, CHUNK, STREAM, PREFETCH, AHEAD, STAGE, JAM, KEEP, PARTS, BLOCKS, TILES, DOTS, MATRIX)


def choices_of(schedule: Schedule, lanes: int, isa: Isa) -> Choices:
    """The loop choices that a schedule makes, for packs of `lanes`."""
    schedule.check_names(KNOBS)
    dots = bool(schedule.get(DOTS)) and lanes > 1
    return Choices(
        lanes=lanes,
        unroll=int(schedule.get(UNROLL)),
        rows=int(schedule.get(ROWS)),
        chunk=int(schedule.get(CHUNK)),
        stream=bool(schedule.get(STREAM)),
        prefetch=int(schedule.get(PREFETCH)),
        stage=bool(schedule.get(STAGE)),
        jam=bool(schedule.get(JAM)) and lanes > 1,
        tiles=bool(schedule.get(TILES)),
        pairs=dots and isa.adds_pairs,
        quads=dots and isa.adds_quads,
        matrix=matrix_of(schedule, isa),
    )


def matrix_of(schedule: Schedule, isa: Isa) -> MatrixUnit | None:
    """The tile registers that a schedule makes use of; none where there are none to use."""
    matrix = str(schedule.get(MATRIX))
    return MatrixUnit(*isa.tiles, matrix == "packed") if matrix != "none" and isa.permits_tiles else None


def cuts_under(kernel: Kernel, schedule: Schedule) -> Cuts:
    """The reductions that a schedule cuts into parts: by the law `split`, before the kernel is printed."""
    blocks = blocks_of(kernel) if schedule.get(BLOCKS) else ()
    return blocks or find_cuts(kernel, int(schedule.get(PARTS)), int(schedule.get(CHUNK)))


def stored_bytes(kernel: Kernel) -> Dim:
    """How many bytes a kernel writes."""
    total: Dim = 0
    for s in kernel.stores:
        total = plus(total, multiply(product(a.extent for a in s.axes), kernel.buffers[s.buffer].dtype.itemsize))
    return total


def read_bytes(kernel: Kernel) -> Dim:
    """How many bytes the largest input of a kernel has."""
    sizes = [multiply(product(b.shape), b.dtype.itemsize) for b in kernel.inputs]
    return max((s for s in sizes if isinstance(s, int)), default=0) if is_static(sizes) else sizes[0]


def strategy_of(kernel: Kernel) -> str:
    """The family of a kernel: which knobs mean something for it."""
    equations = [s for s in kernel.body if isinstance(s, Equation)]
    if any(e.scan for e in equations):
        return "scan"
    return "reduce" if any(e.state for e in equations) else "points"


def default_schedule(kernel: Kernel, isa: Isa) -> Schedule:
    """What is run where nothing was measured."""
    strategy, size = strategy_of(kernel), stored_bytes(kernel)
    chosen: dict[str, Value] = {"unroll": 1} if strategy == "points" else {}
    if not isinstance(size, int) or size >= STREAM_BYTES:
        chosen["stream"] = True
    read = read_bytes(kernel)
    if not isinstance(read, int) or read >= STREAM_BYTES:
        chosen["prefetch"] = 1024
    schedule = Schedule(strategy).choose(**chosen)
    many = schedule.choose(parts=PARTS.candidates[-1])
    return many if strategy == "reduce" and not all(c.whole for c in cuts_under(kernel, many)) else schedule


def candidates(kernel: Kernel, isa: Isa) -> list[Schedule]:
    """The schedules worth measuring for a kernel, the default first."""
    default = default_schedule(kernel, isa)
    knobs = (UNROLL, PREFETCH, *((ROWS, CHUNK) if default.strategy == "reduce" else ()))
    found = [default]
    tried = combinations(*(k.candidates[-3:] for k in knobs))
    found += [default.choose(**{k.name: v for k, v in zip(knobs, values, strict=True)}) for values in tried]
    return list(dict.fromkeys(found))[:48]
