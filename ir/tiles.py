"""The tiles level: who computes which tile, when. A block program, neutral of target; both printers walk it.

    tiles rms(x: bf16[262144], g: bf16[1024]) -> (y: bf16[262144])
      grid t in 256:
        state s: f32 = 0.0 over c in 1024 by 64
        lanes c in 1024 by 64:
          let v: f32 = f32(x[1024*t + c])
          s := (s[] + (v[] * v[]))
        fold s = sum
        lanes c in 1024 by 64:
          y[1024*t + c] <- bf16(...)

Values are expressions of the loops level. Buffers are flat: their one index is the distance from element 0 of the
storage (strides and offsets are multiplied out). A name bound by `Let` or `State` is read as a load without indices; a
scratch array is loaded like a buffer, by one index for each of its dimensions. Inside a `lanes` loop a value that
depends on the loop's axis is a tile of up to `tile` consecutive points (fewer at the end of the axis); everything else
is one scalar per point of the enclosing loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .expr import Expr, Load
from .index import Axis, Index
from .loops import Buffer
from .types import BF16, F16, F32, F64, I8, I32, U8, Dim, DType

KINDS = ("grid", "serial", "lanes", "tiles")
ACCUMULATORS = {
    BF16: F32, F16: F32, F32: F32, F64: F64, I8: I32, U8: I32, I32: I32,
}  # of dots, by the type of their operands  # fmt: skip
BYTES = (I8, U8)


@dataclass(frozen=True, slots=True)
class Scratch:
    """A private row-major array of the worker: small enough to stay in a cache, never shared.

    It holds values of `dtype`. The target chooses how they are stored, but for `narrow` arrays: those have the
    elements of a buffer of that type.
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    narrow: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """`body` for each point of `axis`.

    kind  "grid": points are independent and may run on any worker, `tile` of them together on one (which changes
          nothing of what they compute); "serial": in order; "lanes": `tile` points at once; "tiles": points are
          independent, and their dots are added up `tile` at once, as rows or columns of products of tiles
    begin, end  the part of the axis that is run (None: from its start, to its end); both are cut at the axis' ends
    reverse  from the last point to the first (serial only)
    """

    kind: str
    axis: Axis
    body: tuple[Statement, ...]
    tile: int = 1
    begin: Index | None = None
    end: Index | None = None
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Let:
    """Names a value for the statements below it in the same loop and in loops inside it."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class State:
    """A running value. `lanes` is the axis whose tiles it accumulates elementwise (of size `tile`); None: a scalar."""

    name: str
    dtype: DType
    init: Expr
    lanes: Axis | None = None
    tile: int = 1


@dataclass(frozen=True, slots=True)
class Update:
    """Assigns all `values` to the states at once (each sees the old ones)."""

    names: tuple[str, ...]
    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Combines the lanes of the states of one row of `ir.states.STATES` into scalars, which the names then are."""

    names: tuple[str, ...]
    state: str


@dataclass(frozen=True, slots=True)
class Dot:
    """`name := name + left * right`, summed over the points of the lanes loop around it.

    `name` is a scalar state, in the type that operands of this type are added up in (`ACCUMULATORS`): products are
    exact there. Both operands are of one type, or bytes. Targets compute the dots of many points of a grid, or of two
    loops over tiles, as one product of two tiles.
    """

    name: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Scan:
    """`name` = the running `state` (a row with one component) up to and with each point of the lanes loop around it.

    It starts from the scalar state `carry`, which afterwards is the value at the last point.
    """

    name: str
    state: str
    carry: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Put:
    """`target[index] <- value`, of a buffer or a scratch array; `stream` hints that nobody reads it back soon."""

    target: str
    index: tuple[Index, ...]
    value: Expr
    guard: Expr | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """`target[at + (i, j)] <- value` at (rows = row + i, lanes = lane + j), for a tile x tile block: it exchanges
    the axes.

    The load runs along `rows` in memory, so tiles of it are read along `rows` and written transposed. Points beyond the
    axes' ends are not read. Each point is `count` neighbouring elements; element k of it goes to
    `at + (i, count*j + k)`.
    """

    target: str
    at: tuple[Index, Index]
    value: Load
    rows: Axis
    lanes: Axis
    row: Index
    lane: Index
    tile: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Fetch:
    """A hint that an element of a buffer, and those around it, are read soon; it may lie beyond the buffer's end."""

    name: str
    index: Index


Statement = Loop | Let | State | Update | Fold | Dot | Scan | Put | Stage | Fetch


@dataclass(frozen=True, slots=True)
class Program:
    """What a kernel becomes under a schedule. `maths` are the equations it computes, for the reader of the printed
    source.

    `prefetch` is how far ahead of their use (in bytes) lanes loops ask for what they load; 0: not at all.
    """

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    scratch: tuple[Scratch, ...]
    body: tuple[Statement, ...]
    maths: tuple[str, ...] = field(default=(), compare=False)
    prefetch: int = 0


def walk_statements(body: Sequence[Statement]) -> Iterator[Statement]:
    """Every statement, loops before what is inside them."""
    for s in body:
        yield s
        if isinstance(s, Loop):
            yield from walk_statements(s.body)
