"""Paired timing: every contestant once per round, in one process and thread, so that a noisy machine is noisy for all.

A ratio is the median over rounds of (their time / our time) with a bootstrapped 95% interval: above 1, ours is faster.
Single ratios scatter by 15-30% on a loaded machine; the interval says how far the median can be trusted.
"""

from __future__ import annotations

import gc
import math
import random
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch

PAIRS = 60
QUICK_PAIRS = 15
RESAMPLES = 2000
SAMPLE_SECONDS = 1e-3  # calls are repeated until one sample lasts so long: the clock and the loop cost nothing then
WARM_UP_SECONDS = 0.05
WARM_UP_CALLS = 3
ENOUGH_SECONDS = 1.0  # a call that takes so long needs no more of them to be warm
LEAST_PAIRS = 10  # of a measuring that was cut short: below, the interval says little
Call = Callable[[], object]
Progress = Callable[[int, int], None]  # rounds done, of how many
Clock = Callable[[Call, int], float]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios and its 95% interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a call, one sample a round for each contestant; the lists are parallel."""

    samples: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return float(np.median(self.samples[name]))

    @property
    def rounds(self) -> int:
        return min((len(values) for values in self.samples.values()), default=0)

    def ratio(self, theirs: str, ours: str) -> Ratio:
        """How much faster `ours` is than `theirs`."""
        return bootstrap_median(np.array(self.samples[theirs]) / np.array(self.samples[ours]))

    def best(self, names: Iterable[str]) -> str:
        """The fastest of `names`, as far as they were measured."""
        return min((name for name in names if name in self.samples), key=self.median)

    def summary(self) -> dict[str, dict[str, float]]:
        """For each contestant the median, the fastest and the 10th and 90th percentile, in microseconds."""
        return {name: summarize(values) for name, values in self.samples.items()}


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that something took: on the clock, and of processor time in this process and in those it waited for."""

    wall: float
    own: float
    children: float

    @property
    def cpu(self) -> float:
        return self.own + self.children


def summarize(seconds: list[float]) -> dict[str, float]:
    micros = np.array(seconds) * 1e6
    low, median, high = np.percentile(micros, [10, 50, 90])
    named = {"median_us": median, "min_us": micros.min(), "p10_us": low, "p90_us": high}
    return {name: round(float(value), 3) for name, value in named.items()}


def bootstrap_median(values: np.ndarray, seed: int = 0) -> Ratio:
    """The median and the 95% interval of the medians of samples drawn with replacement."""
    drawn = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Ratio(*(round(float(value), 4) for value in (np.median(values), low, high)))


def measure(
    contestants: Mapping[str, Call], *,
    pairs: int = PAIRS, seconds: float = math.inf, seed: int = 0, progress: Progress | None = None,
    clock: Clock | None = None,
) -> Timing:  # fmt: skip
    """Time all contestants `pairs` times in turn, in an order shuffled every round.

    Whatever compiles lazily does so in the warm-up. Results are dropped at once, as a caller in a loop would.
    After `seconds` it ends early, but not with fewer than LEAST_PAIRS. `progress` is called between rounds, in nobody's
    time. `clock` tells the seconds of a call, of so many in a row: this machine's, where none is given.
    """
    clock = clock or time_once
    repeats = {name: _warm_up(call) for name, call in contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    order, shuffle = list(contestants), random.Random(seed)
    gc.collect()
    gc.disable()
    start = time.monotonic()
    try:
        for number in range(pairs):
            if number >= LEAST_PAIRS and time.monotonic() - start > seconds:
                break
            if progress is not None:
                progress(number, pairs)
            shuffle.shuffle(order)
            for name in order:
                samples[name].append(clock(contestants[name], repeats[name]))
    finally:
        gc.enable()
    return Timing(samples)


def measure_cost(call: Callable[[], Any]) -> tuple[Any, Cost]:
    """Call once; return the result and what the call cost, compilers that it started and waited for included."""
    wall, own, children = time.monotonic(), time.process_time(), children_seconds()
    result = call()
    return result, Cost(time.monotonic() - wall, time.process_time() - own, children_seconds() - children)


def children_seconds() -> float:
    """CPU seconds of the processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _warm_up(call: Call) -> int:
    """Call until it runs at its pace; returns the calls that make up one sample."""
    call()
    calls, start = 0, time.perf_counter()
    spent = 0.0
    while spent < WARM_UP_SECONDS or (calls < WARM_UP_CALLS and spent < ENOUGH_SECONDS):
        call()
        calls += 1
        spent = time.perf_counter() - start
    return max(1, math.ceil(SAMPLE_SECONDS * calls / spent))


def time_once(call: Call, repeats: int) -> float:
    """Seconds of a call by this machine's clock, of so many in a row."""
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call()
    return (time.perf_counter_ns() - start) * 1e-9 / repeats


def compile_for(backend: Any, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`function` as this contestant runs it, for the shapes it is first called with; "eager" is the function itself.

    Dynamo keeps compiled code by code object and looks through all of it in every call, so each contestant compiles a
    copy of a plain function. Shapes are static, or a suite's second shape would be compiled for all shapes.
    """
    if backend == "eager":
        return function
    own = copy_function(function) if isinstance(function, FunctionType) else function
    return torch.compile(own, backend=backend, **{"dynamic": False, **options})


def copy_function(function: FunctionType) -> FunctionType:
    """The same function with a code object of its own."""
    copied = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def bind(function: Callable[..., Any], inputs: tuple[Any, ...] | list[Any] | Mapping[str, Any]) -> Call:
    """A call without arguments; a mapping is passed as keywords."""
    return partial(function, **inputs) if isinstance(inputs, Mapping) else partial(function, *inputs)


def verdict(timing: Timing, ours: str, peers: Iterable[str]) -> dict[str, Any]:
    """The ratios of `ours` over each peer and over the best of them; nothing if `ours` was not measured.

    `not_below_parity` is the rule of the project's targets: the interval over the best peer is not wholly below 1.
    """
    found = [peer for peer in peers if peer in timing.samples and peer != ours]
    if ours not in timing.samples or not found:
        return {}
    best = timing.best(found)
    over_best = timing.ratio(best, ours)
    over = {peer: asdict(timing.ratio(peer, ours)) for peer in found}
    return {"over": over, "best": best, "over_best": asdict(over_best), "not_below_parity": over_best.high >= 1}
