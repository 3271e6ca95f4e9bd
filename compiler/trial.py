"""One model through several backends: is each right, what did its compiling cost, how fast is it? (`treadle run`)

Every number comes from one process: `reference.py` runs, `check.py` judges, `timing.py` times in turn.
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from ..ir.errors import SettingError, TreadleError
from .check import Report, compare
from .model_file import ModelFile, blame
from .reference import run, run_in_float64
from .timing import PAIRS, Cost, Progress, Timing, bind, compile_for, measure, measure_cost

EAGER = "eager"
INDUCTOR = "inductor"
WITH_MODES = ("treadle", INDUCTOR)
CACHE_VARIABLES = {"TREADLE_CACHE_DIR": "treadle", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
# Counters by which a backend says that compiled code came from its cache: (group, name).
CACHE_HITS = {
    "treadle": (("treadle", "store_hit"),),
    INDUCTOR: (("inductor", "fxgraph_cache_hit"), ("aot_autograd", "autograd_cache_hit")),
}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Contestant:
    """What one backend did.

    first     cost of its first call: compiling, and one run
    second    cost of its second call: one run
    report    its results against float64, empty for eager, the measure of it; None where it failed
    counters  what it counted about itself
    cached    whether compiled code came from its cache
    error     why it gave no result, in one line; "" where it did
    """

    name: str
    first: Cost | None = None
    second: Cost | None = None
    report: Report | None = None
    counters: Mapping[str, int] | None = None
    cached: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """All contestants, ours first. `timing` has those that gave results."""

    ours: str
    contestants: tuple[Contestant, ...]
    timing: Timing

    @property
    def ok(self) -> bool:
        """Whether ours is right; a peer may be wrong."""
        report = self.find(self.ours).report
        return report is not None and report.ok

    def find(self, name: str) -> Contestant:
        return next(contestant for contestant in self.contestants if contestant.name == name)

    def compile_seconds(self, name: str) -> float | None:
        """CPU seconds of the first call beyond the second's (compilers it started included); None for eager."""
        found = self.find(name)
        if found.first is None or found.second is None or name == EAGER:
            return None
        return max(0.0, found.first.cpu - found.second.cpu)


def try_backends(
    loaded: ModelFile, ours: str, peers: Sequence[str], *,
    pairs: int = PAIRS, seconds: float = math.inf, mode: str | None = None,
    say: Say = lambda text: None, progress: Progress | None = None,
) -> Trial:  # fmt: skip
    """Run the model through every backend, judge the results, then time them in turn; nothing is differentiated.

    seconds   after which timing may end with fewer pairs
    mode      of torch.compile, for the backends that have modes
    say       is told each step before it begins
    progress  is called between rounds of timing

    The names are such as `check_backends` lets pass. Raises BadInput where the model itself fails in eager.
    """
    names = list(dict.fromkeys([ours, *peers]))
    torch._dynamo.reset()
    say("running in float64, as the reference")
    exact = _run_plainly(loaded, run_in_float64, "in float64 the model raised")
    say("running in eager")
    eager = _run_plainly(loaded, run, "the model itself raised")
    found, calls = [], {}
    for name in names:
        function = compile_for(name, loaded.model, **({"mode": mode} if mode and name in WITH_MODES else {}))
        contestant = Contestant(EAGER, report=Report(()))
        if name != EAGER:
            say(f"compiling through {name}")
            contestant = _try_backend(name, function, loaded, eager, exact)
        found.append(contestant)
        if not contestant.error:
            calls[name] = bind(function, copy.deepcopy(loaded.inputs))  # a model may write to its inputs
    say("timing")
    with torch.no_grad():
        timing = measure(calls, pairs=pairs, seconds=seconds, progress=progress)
    return Trial(ours, tuple(found), timing)


def check_backends(names: Sequence[str]) -> None:
    """Raise SettingError, which lists what there is, for a backend that torch.compile does not know."""
    known = [EAGER, *(name for name in torch._dynamo.list_backends(exclude_tags=()) if name != EAGER)]
    for name in names:
        if name not in known:
            raise SettingError("torch.compile knows no such backend", got=name, choices=known)


@contextmanager
def prepare_process(threads: int, *, cold: bool) -> Iterator[None]:
    """Within the block torch uses so many threads, and with `cold` every compiler starts from an empty cache.

    Inductor compiles in this process: its pool of workers would hide from what compiling costs.
    """
    before = torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(inductor.patch(compile_threads=1))
        if cold:
            stack.enter_context(_empty_caches())
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _empty_caches() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in CACHE_VARIABLES}
    with tempfile.TemporaryDirectory(prefix="treadle-cold-", ignore_cleanup_errors=True) as folder:
        os.environ.update({name: os.path.join(folder, part) for name, part in CACHE_VARIABLES.items()})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _try_backend(name: str, function: Callable[..., Any], loaded: ModelFile, eager: Any, exact: Any) -> Contestant:
    counters.clear()
    try:
        got, first = measure_cost(lambda: run(loaded.model, loaded.inputs, runner=function))
        _, second = measure_cost(lambda: run(loaded.model, loaded.inputs, runner=function))
    except Exception as error:  # noqa: BLE001 - a compiler may fail in any way, and the others are still to be measured
        return Contestant(name, error=_explain_failure(error))
    counted = {key: value for key, value in counters[name].items() if isinstance(value, int)}
    hit = any(counters[group][key] for group, key in CACHE_HITS.get(name, ()))
    return Contestant(name, first, second, compare(got, eager, exact), counted, hit)


def _run_plainly(loaded: ModelFile, runner: Callable[..., Any], problem: str) -> Any:
    try:
        return runner(loaded.model, loaded.inputs)
    except Exception as error:
        raise blame(loaded.path, problem, error) from error


def _explain_failure(error: Exception) -> str:
    """Return one line: treadle's own words, or the kind of the error and what it says first."""
    inner = getattr(error, "inner_exception", None) or error
    said = str(inner).strip().splitlines() or [""]
    return said[0] if isinstance(inner, TreadleError) else f"{type(inner).__name__}: {said[0]}"
