"""Random kernels and random graphs on the Triton target under Triton's interpreter, against ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cpp_run import Case
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lowering import kernel_of_graph
from strategies import EMITTERS, finished, graphs, one_op, random_tensor
from strategies_loops import kernels
from tiled import hangs_on_identity
from triton_run import check_triton

from treadle.ir.expr import Op, walk
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Kernel, expressions
from treadle.passes.fuse import Launch, fuse_graph

UNHURRIED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
MISSING = ("digamma",)  # what the Triton target leaves to ATen


def draw(strategy: st.SearchStrategy[Any], count: int, use: Callable[[Any, int], None]) -> None:
    """Uses `count` examples of a strategy, each with a seed."""

    @settings(max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=UNHURRIED)
    @given(strategy, st.integers(0, 2**31))
    def each(example: Any, seed: int) -> None:
        use(example, seed)

    each()


def is_printed(kernel: Kernel) -> bool:
    return not any(isinstance(e, Op) and e.name in MISSING for e in walk(*expressions(kernel)))


def inputs_of(
    kernel: Kernel, seed: int, low: float | None = None, high: float | None = None
) -> dict[str, torch.Tensor]:
    """Random inputs; `d` holds indices of a dimension of 5."""
    made: dict[str, torch.Tensor] = {}
    for k, b in enumerate(kernel.inputs):
        limits = (0, 4) if b.name == "d" else (low, high)
        made[b.name] = random_tensor(tuple(int(n) for n in b.shape), b.dtype, seed + k, *limits)
    return made


def test_random_kernels():
    def use(kernel: Kernel, seed: int) -> None:
        if not hangs_on_identity(kernel) and is_printed(kernel):
            check_triton([Case("random", kernel, inputs_of(kernel, seed))])

    draw(kernels(), 80, use)


def test_every_op():
    def use(case: Any, seed: int) -> None:
        graph = case.builder.finish([case.builder._value_of("v1")])
        check_triton([Case("op", kernel_of_graph(graph), case.tensors(seed))])

    for name in sorted(EMITTERS):
        if name not in MISSING:
            draw(one_op(name), 3, use)  # the first example of a strategy is its simplest


@pytest.mark.slow
def test_fused_graphs():
    def use(case: Any, seed: int) -> None:
        for step in fuse_graph(finished(case), lambda kernel: 1.0).steps:
            if isinstance(step, Launch) and is_printed(step.kernel):
                inputs = inputs_of(step.kernel, seed, 0, 4)
                check_triton([Case("fused", step.kernel, inputs, error=error_of(step.kernel, inputs))])

    draw(graphs(), 80, use)


def error_of(kernel: Kernel, inputs: dict[str, torch.Tensor]) -> int:
    """-1 where the drawn inputs are no indices of what they are used to index."""
    try:
        run_kernel(kernel, inputs)
    except IndexError:
        return -1
    return 0
