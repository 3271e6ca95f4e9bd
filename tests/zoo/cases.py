"""Run one architecture in one case (fp32 forward, bf16 forward, fp32 training step) through a torch.compile backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo.utils import counters

from treadle.compiler.check import Report, compare
from treadle.compiler.reference import run, run_in_float64

from .architecture import Architecture

CASES: dict[str, tuple[torch.dtype, bool]] = {
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "train": (torch.float32, True),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case showed.

    graphs          how often Dynamo called the backend
    first_call_cpu  CPU seconds, own and children's, of the first compiled call (and its backward)
    counters        what torch and the backend counted meanwhile
    """

    report: Report
    graphs: int
    first_call_cpu: float
    counters: Mapping[str, Mapping[str, int]]

    def fallbacks(self, backend: str) -> int:
        """How many regions the backend gave back to ATen because it failed: right results that it did not compute."""
        return self.counters.get(backend, {}).get("fallback", 0)


class CountingBackend:
    """A torch.compile backend that counts how often Dynamo asks it for a graph, and hands each on to `name`."""

    def __init__(self, name: str) -> None:
        self.compile_graph = torch._dynamo.lookup_backend(name)
        self.graphs = 0

    def __call__(self, graph_module: torch.fx.GraphModule, inputs: list[torch.Tensor], **options: Any) -> Any:
        self.graphs += 1
        return self.compile_graph(graph_module, inputs, **options)


def list_cases(architecture: Architecture) -> list[str]:
    return [name for name, (dtype, _) in CASES.items() if architecture.bf16 or dtype != torch.bfloat16]


def run_case(architecture: Architecture, case: str, backend: str, seed: int = 0) -> Outcome:
    """Compile from a clean slate and judge outputs and, in a training step, all gradients against float64."""
    dtype, train = CASES[case]
    model, inputs = architecture.build(seed, dtype=dtype, train=train)
    return run_model(model, inputs, backend, train=train)


def run_model(model: torch.nn.Module, inputs: Mapping[str, Any], backend: str, *, train: bool = False) -> Outcome:
    torch._dynamo.reset()
    exact = run_in_float64(model, inputs, train=train)  # first: a model that ran may not be copied any more
    eager = run(model, inputs, train=train)
    counting = CountingBackend(backend)
    counters.clear()
    compiled: Callable[..., Any] = torch.compile(model, backend=counting)
    before = cpu_seconds()
    got = run(model, inputs, runner=compiled, train=train)
    spent = cpu_seconds() - before
    counted = {name: dict(values) for name, values in counters.items()}
    return Outcome(compare(got, eager, exact), counting.graphs, spent, counted)


def cpu_seconds() -> float:
    """CPU time of this process and of those children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
