"""Random kernels and random graphs on the Triton target under Triton's interpreter, against ours."""

from __future__ import annotations

from typing import Any

import pytest
from cpp_run import Case
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lowering import kernel_of_graph
from strategies import EMITTERS, finished, graphs, one_op, random_tensor
from strategies_loops import kernels
from tiled import hangs_on_identity
from triton_run import check_triton, run_triton

from treadle.ir.errors import ScheduleError
from treadle.ir.expr import Op, walk
from treadle.ir.loops import Kernel, expressions
from treadle.passes.fuse import Launch, fuse_graph

UNHURRIED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
MISSING = ("digamma",)  # what the Triton target leaves to ATen


def prints(kernel: Kernel) -> bool:
    return not any(isinstance(e, Op) and e.name in MISSING for e in walk(*expressions(kernel)))


def inputs_of(kernel: Kernel, seed: int, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """Random inputs; `d` holds indices of a dimension of 5."""
    made = {}
    for k, b in enumerate(kernel.inputs):
        limits = (0, 4) if b.name == "d" else (low, high)
        made[b.name] = random_tensor(tuple(int(n) for n in b.shape), b.dtype, seed + k, *limits)
    return made


@settings(max_examples=25, phases=[Phase.generate], database=None, suppress_health_check=UNHURRIED)
@given(kernels(), st.integers(0, 2**31))
def test_random_kernels(kernel: Kernel, seed: int):
    if not hangs_on_identity(kernel) and prints(kernel):
        check_triton([Case("random", kernel, inputs_of(kernel, seed))])
