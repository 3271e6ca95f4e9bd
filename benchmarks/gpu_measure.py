"""What every slice of `gpu.py` measures with: times on the device, compilers by name, verdicts on results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import torch
from harness import Call
from record import OURS
from steps import make_step

from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64, widen
from treadle.compiler.timing import Timing

CACHE_BYTES = 256 << 20  # more than any GPU's caches hold: it is swept between samples
SAMPLES = 60
QUICK_SAMPLES = 15
WARM_UP = 3
MOST_ERROR = 1.5  # times eager's


def measure(calls: Mapping[str, Call], samples: int) -> Timing:
    """Seconds that the device spends on each call, with cold caches, in an order shuffled every round."""
    sweep = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    order, random = list(calls), Random(0)
    for _ in range(samples):
        random.shuffle(order)
        for name in order:
            sweep.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            calls[name]()
            end.record()
            end.synchronize()
            found[name].append(begin.elapsed_time(end) * 1e-3)
    return Timing(found)


def compile_on_gpu(name: str, function: Callable[..., Any], **more: str) -> Callable[..., Any]:
    """A function by a compiler's name; `more` are options of treadle's."""
    if name == "eager":
        return function
    if name == OURS:
        options: dict[str, str | int | bool | Callable[..., Any]] = {"fallback": "error", **more}
        return torch.compile(function, backend=OURS, dynamic=False, fullgraph=True, options=options)
    return torch.compile(function, backend=name, dynamic=False, fullgraph=True)


def to_gpu(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(t.cuda() for t in tensors)


def exactly(function: Callable[..., Any], tensors: tuple[torch.Tensor, ...], step: bool = False) -> Any:
    """The results in float64; with `step`, gradients too."""
    with in_float64():
        return make_step(function, widen(tensors))() if step else function(*widen(tensors))


def judge(got: Any, eager: Any, exact: Any) -> dict[str, Any]:
    """Against float64 where there is such a result (a mask's fill is another number there), else bit for bit."""
    report = compare(got, eager, eager if exact is None else exact, factor=MOST_ERROR, strides=False)
    return {
        "right": report.ok,
        "worst_ratio": round(report.worst_ratio, 3),
        "problems": [str(r) for r in report.failures],
    }
