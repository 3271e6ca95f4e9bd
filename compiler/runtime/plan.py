"""The plan of a compiled graph: plain data that goes to the store and comes back; `executable` binds it to libraries.

A plan is a Python text with three functions and the launches of its segments (runs of kernels between calls of ATen):

    measure(sizes)   bytes of the arena and of a thread's workspace, and the offsets of the values that lie in the arena
    views(at, sizes) tensors on the arena, for the calls that read or write there
    call(args)       one run: inputs as a list that is cleared, outputs as a list
    direct(inputs)   the same with inputs one by one, where no ATen runs in between: grad mode is then of no account

Kernels find their operands through a table of machine words. A launch names the words that hold its pointers and sizes:

    word 0   address of the workspace             words 3..   pointers that each call sets, in order of need
    word 1   the most threads it has room for     then        sizes, one word a symbol
    word 2   the threads of this call             last        pointers to constants and to values in the arena
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

FORMAT = 4  # of the stored form
HEADER = 3  # words before the first pointer


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A function of a GPU: its binaries in the store (for aligned pointers, for any), its name there, and the bytes of
    shared memory that it needs.
    """

    aligned: str
    any: str
    name: str
    shared: int


@dataclass(frozen=True, slots=True)
class KernelCode:
    """A compiled kernel: its function in a library of the store ("" where Python stands in for it).

    reasons    what a bad index raises, per data-dependent index: the error's class and its text
    functions  those of the GPU that it launches, in order; none on a CPU
    """

    digest: str
    symbol: str
    library: str
    reasons: tuple[tuple[str, str], ...] = ()
    functions: tuple[DeviceCode, ...] = ()


@dataclass(frozen=True, slots=True)
class LaunchCode:
    """One launch: the kernel's number, and the table's words with its pointers and with its sizes."""

    kernel: int
    pointers: tuple[int, ...]
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor of the fx module: its attribute there, its variable in the text, its word (-1: no kernel reads it)."""

    attribute: str
    variable: str
    word: int


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module. `words` is the table's length; `symbols` the names of the sizes, `sizes` the word of the first.

    starts  the word of the first value that each segment is called with (of the first segment, the threads)
    fixed   the words of the values in the arena, in the order of `measure`'s offsets (-1: only calls use it)
    counts  what `counters["treadle"]` shows: kernels, launches, library, opaque, effect, native
    device  where its kernels run: "cpu", "cuda:0"
    written the numbers of the inputs that it writes to
    uncapturable  why it may not be captured as a CUDA graph; "" where it may
    """

    name: str
    text: str
    kernels: tuple[KernelCode, ...]
    segments: tuple[tuple[LaunchCode, ...], ...]
    starts: tuple[int, ...]
    words: int
    symbols: tuple[str, ...]
    sizes: int
    fixed: tuple[int, ...]
    constants: tuple[Constant, ...]
    counts: dict[str, int]
    device: str = "cpu"
    written: tuple[int, ...] = ()
    uncapturable: str = ""


def plan_to_json(plan: Plan) -> dict[str, Any]:
    return {"format": FORMAT, **asdict(plan)}


def plan_from_json(data: Any) -> Plan | None:
    """The plan that was stored, or None where it has another form."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        return None
    return Plan(
        name=data["name"],
        text=data["text"],
        kernels=tuple(
            KernelCode(
                k["digest"],
                k["symbol"],
                k["library"],
                tuple((c, t) for c, t in k["reasons"]),
                tuple(DeviceCode(**f) for f in k["functions"]),
            )
            for k in data["kernels"]
        ),
        segments=tuple(
            tuple(LaunchCode(c["kernel"], tuple(c["pointers"]), tuple(c["sizes"])) for c in segment)
            for segment in data["segments"]
        ),
        starts=tuple(data["starts"]),
        words=data["words"],
        symbols=tuple(data["symbols"]),
        sizes=data["sizes"],
        fixed=tuple(data["fixed"]),
        constants=tuple(Constant(**c) for c in data["constants"]),
        counts=dict(data["counts"]),
        device=data["device"],
        written=tuple(data["written"]),
        uncapturable=data["uncapturable"],
    )


def move_plan(plan: Plan, device: str) -> Plan:
    """A GPU's plan for another GPU of the same kind. The text names the device where it calls torch, and only there."""
    if device == plan.device:
        return plan
    return replace(plan, device=device, text=plan.text.replace(repr(plan.device), repr(device)))


def encode_segment(launches: tuple[LaunchCode, ...], functions: list[int]) -> list[int]:
    """The words that `runner.RUNNER_SOURCE` reads of the launches of a segment."""
    words = [len(launches)]
    for launch in launches:
        words += [functions[launch.kernel], len(launch.pointers), *launch.pointers, len(launch.sizes), *launch.sizes]
    return words
