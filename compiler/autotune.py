"""Mode max-autotune: the few schedules of a kernel that look best are compiled and measured, and the quickest is kept.

    the default, and each neighbour of it in one knob  ->  distinct sources  ->  compiled  ->  right?  ->  timed in turn

A candidate must give what the default gives, on the same random inputs of the real shapes, over poisoned outputs. It
takes the default's place only if it is quicker beyond doubt: the interval of the paired ratios lies above 1. What was
found is stored by kernel, machine and threads, so that no other process measures it again.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ..ir.errors import ScheduleError
from ..ir.loops import Kernel
from ..ir.schedule import Knob, Schedule
from ..ir.types import Dim, evaluate
from .autotune_data import Memory, count_bytes, is_data_bounded, make_memory, sizes_of
from .runtime.store import Store, make_key
from .timing import Timing, measure
from .tuning import Tried, Tuning, tuning_from_json, tuning_to_json

log = logging.getLogger(__name__)

KIND = "tuning"  # of entries in the store
MOST_CANDIDATES = 10
ROUNDS = 15
SECONDS = 1.5  # of timing a kernel, unless LEAST_PAIRS of rounds take longer
MOST_BYTES = 2 << 30  # of a kernel's buffers: beyond, it keeps its default
# Sums in another order differ by some roundings of f32 of the largest partial sum, which is some times the result:
# a wrong loop differs by far more.
ORDER = 2.0**-11
ULPS = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A compiled kernel. `run` is called with pointers, sizes, workspace and the bench's last argument."""

    run: Callable[..., int]
    workspace: Dim
    text: str


class Bench(Protocol):
    """Where candidates are compiled and run. `key` holds all that their times depend on besides the kernel."""

    @property
    def key(self) -> tuple[object, ...]: ...
    def default(self, kernel: Kernel) -> Schedule: ...
    def knobs(self, kernel: Kernel) -> Sequence[Knob]: ...
    def print(self, kernel: Kernel, digest: str, schedule: Schedule) -> str:
        """The source, by which equal candidates are found. Raises ScheduleError where there is none."""
        ...

    def compile(self, wanted: Mapping[str, tuple[Kernel, Schedule]]) -> Mapping[str, Candidate | str]:
        """The candidates by their names, or why there is none."""
        ...

    def empty(self, count: int) -> torch.Tensor: ...
    def last(self) -> int: ...
    def workers(self) -> int: ...
    def time(self, call: Callable[[], object], repeats: int) -> float:
        """Seconds of a call, of so many in a row."""
        ...


def tune_kernels(kernels: Mapping[str, Kernel], bench: Bench, store: Store) -> dict[str, Tuning]:
    """The schedule of each kernel (by digest): as it was found before, or measured now."""
    found = {digest: _read(store, _key(digest, bench)) for digest in kernels}
    new = {digest: kernels[digest] for digest, tuning in found.items() if tuning is None}
    counters["treadle"]["tuning_hit"] += len(kernels) - len(new)
    with unset_fake_temporarily(), torch.no_grad():  # AOTAutograd may call us under its fake mode
        measured = _measure_all(new, bench) if new else {}
    for digest, tuning in measured.items():
        found[digest] = tuning
        if any(t.seconds for t in tuning.tried):
            counters["treadle"]["tuned"] += 1
            store.put_json(KIND, _key(digest, bench), tuning_to_json(tuning))
    return {digest: tuning for digest, tuning in found.items() if tuning is not None}


def few_candidates(default: Schedule, knobs: Sequence[Knob]) -> list[Schedule]:
    """The default, and what differs from it in one knob by one step."""
    near = (default.choose(**{k.name: v}) for k in knobs for v in k.neighbours(default.get(k)))
    return list(dict.fromkeys([default, *near]))


def _measure_all(kernels: Mapping[str, Kernel], bench: Bench) -> dict[str, Tuning]:
    """All candidates of all kernels are compiled together, then each kernel is measured by itself."""
    tunings: dict[str, Tuning] = {}
    listed: dict[str, list[Tried]] = {}
    wanted: dict[str, tuple[Kernel, Schedule]] = {}
    names: dict[tuple[str, Schedule], str] = {}
    for digest, kernel in kernels.items():
        default = bench.default(kernel)
        problem = _find_obstacle(kernel)
        if problem:
            tunings[digest] = Tuning(default, (Tried(default),), f"the default: {problem}")
            continue
        tried, texts = [], set[str]()
        for schedule in few_candidates(default, bench.knobs(kernel)):
            name = f"{len(tried):02}x{digest}"
            try:
                text = bench.print(kernel, name, schedule).replace(f"k{name[:16]}", "")
            except ScheduleError as error:
                tried.append(Tried(schedule, problem=str(error).split("\n", 1)[0]))
                continue
            if text in texts or len(texts) == MOST_CANDIDATES:
                continue
            texts.add(text)
            tried.append(Tried(schedule))
            wanted[name], names[digest, schedule] = (kernel, schedule), name
        listed[digest] = tried
    compiled = bench.compile(wanted)
    for digest, tried in listed.items():
        made = {t.schedule: compiled[names[digest, t.schedule]] for t in tried if not t.problem}
        try:
            tunings[digest] = _measure_one(kernels[digest], tried, made, bench)
        except Exception as error:  # noqa: BLE001 - what cannot be measured keeps its default
            reason = f"the default: measuring failed: {type(error).__name__}: {str(error).split(chr(10), 1)[0]}"
            log.warning("treadle: kernel %s keeps its default schedule: %s", digest[:12], error)
            tunings[digest] = Tuning(tried[0].schedule, tuple(tried), reason)
    return tunings


def _find_obstacle(kernel: Kernel) -> str:
    if is_data_bounded(kernel):
        return "data says how long its loops are"
    size = count_bytes(kernel)
    return f"its buffers take {size >> 20} MiB" if size > MOST_BYTES else ""


def _measure_one(
    kernel: Kernel, tried: Sequence[Tried], made: Mapping[Schedule, Candidate | str], bench: Bench
) -> Tuning:  # fmt: skip
    default = tried[0].schedule
    memory = make_memory(kernel, bench.empty)
    calls: dict[Schedule, Callable[[], int]] = {}
    problems = {t.schedule: t.problem for t in tried}
    wanted: dict[str, torch.Tensor] | None = None
    for schedule, candidate in made.items():
        if isinstance(candidate, str):
            problems[schedule] = candidate
            continue
        call = _bind(candidate, memory, bench)
        memory.poison()
        code = call()
        got = memory.results()
        if code:
            problems[schedule] = f"it fails with code {code}"
        elif schedule == default:
            wanted = got
        elif wanted is not None:
            problems[schedule] = find_disagreement(got, wanted)
        if not problems[schedule]:
            calls[schedule] = call
    if wanted is None:
        return Tuning(default, _with(tried, problems, None), f"the default: {problems[default] or 'it did not run'}")
    if len(calls) < 2:
        return Tuning(default, _with(tried, problems, None), "the default: nothing else to choose from")
    timing = measure(
        {str(s): c for s, c in calls.items()}, pairs=ROUNDS, seconds=SECONDS, clock=bench.time
    )  # fmt: skip
    return choose(default, _with(tried, problems, timing), timing)


def _bind(candidate: Candidate, memory: Memory, bench: Bench) -> Callable[[], int]:
    """A call of one launch. Where the kernel updates its inputs they are put back first, for every candidate alike:
    numbers that go through it again and again end in infinities or denormals, which have other speeds.
    """
    size = evaluate(candidate.workspace, sizes_of(memory.kernel)) if candidate.workspace != 0 else 0
    each = -(-size // 64) * 64
    work = bench.empty(each * bench.workers() + 64)
    run = partial(candidate.run, memory.pointers, memory.sizes, ctypes.c_void_p(-(-work.data_ptr() // 64) * 64))
    last = bench.last()

    def call(work: Any = work) -> int:
        if memory.initial:
            memory.restore()
        return run(last)

    return call


def choose(default: Schedule, tried: tuple[Tried, ...], timing: Timing) -> Tuning:
    """The quickest, where it is quicker than the default beyond doubt. `timing` has the schedules by their texts."""
    measured = sorted((t for t in tried if t.seconds), key=lambda t: t.seconds)
    best = measured[0].schedule
    if best == default:
        return Tuning(default, tried, f"the default is the quickest of {len(measured)}")
    ratio = timing.ratio(str(default), str(best))
    if ratio.low > 1:
        return Tuning(best, tried, f"{ratio} times as quick as the default")
    return Tuning(default, tried, f"the default: the quickest, {best}, is {ratio} times as quick, which may be chance")


def _with(tried: Sequence[Tried], problems: Mapping[Schedule, str], timing: Timing | None) -> tuple[Tried, ...]:
    measured = timing.samples if timing is not None else {}
    return tuple(
        Tried(
            t.schedule,
            timing.median(str(t.schedule)) if timing is not None and str(t.schedule) in measured else 0.0,
            problems[t.schedule],
        )
        for t in tried
    )


def find_disagreement(got: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """What two candidates differ in by more than the order of their sums; "" for nothing."""
    for name, want in wanted.items():
        found = got[name]
        if not want.is_floating_point():
            wrong = found != want
        else:
            a, b = found.double(), want.double()
            finite = b[b.isfinite()]
            size = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
            room = ULPS * torch.finfo(want.dtype).eps * b.abs() + ORDER * size
            wrong = ~((a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= room))
        if bool(wrong.any()):
            return f"{int(wrong.sum())} of {want.numel()} elements of {name} are not the default's"
    return ""


# --- records -----------------------------------------------------------------------------------------------------


def _key(digest: str, bench: Bench) -> str:
    return make_key("tuning", digest, *bench.key)


def _read(store: Store, key: str) -> Tuning | None:
    data = store.get_json(KIND, key)
    try:
        return None if data is None else tuning_from_json(data)
    except (ScheduleError, KeyError, TypeError):
        return None
