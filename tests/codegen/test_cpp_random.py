"""Random kernels and random graphs on the C++ target, against the interpreter; many to a compiled file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cpp_run import HERE, Case, check_cases
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lowering import kernel_of_graph
from strategies import EMITTERS, finished, graphs, one_op, random_tensor
from strategies_loops import kernels
from tiled import hangs_on_identity, make_blocks_small, random_schedule

from treadle.codegen.cpp.isa import ISAS
from treadle.ir.expr import Op, walk
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Kernel, expressions
from treadle.passes.fuse import Launch, fuse_graph

WIDEST_FIRST = [HERE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in HERE[1:])]
KERNELS = 40  # in one file
UNHURRIED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
INEXACT = ("digamma",)  # cancels next to its roots and in its recurrence, which no bound from its operands shows


def draw(strategy: st.SearchStrategy[Any], count: int, use: Callable[[Any, int], None]) -> None:
    """Uses `count` examples of a strategy, each with a seed."""

    @settings(max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=UNHURRIED)
    @given(strategy, st.integers(0, 2**31))
    def each(example: Any, seed: int) -> None:
        use(example, seed)

    each()


def tensors_for(kernel: Kernel, seed: int) -> dict[str, torch.Tensor]:
    """Random inputs; `d` holds indices of a dimension of 5."""
    made = {}
    for k, b in enumerate(kernel.inputs):
        low, high = (0, 4) if b.name == "d" else (None, None)
        made[b.name] = random_tensor(tuple(int(n) for n in b.shape), b.dtype, seed + k, low, high)
    return made


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    make_blocks_small(monkeypatch)


@pytest.mark.parametrize("isa", WIDEST_FIRST)
def test_random_kernels(isa: str):
    cases: list[Case] = []

    def use(kernel: Kernel, seed: int) -> None:
        if not hangs_on_identity(kernel):
            cases.append(Case(f"random {len(cases)}", kernel, tensors_for(kernel, seed)))

    draw(kernels(), KERNELS, use)
    check_cases(cases, ISAS[isa])


@pytest.mark.slow
@pytest.mark.parametrize("isa", HERE)
def test_random_kernels_in_small_blocks(isa: str, small_blocks: None):
    cases: list[Case] = []

    def use(kernel: Kernel, seed: int) -> None:
        if not hangs_on_identity(kernel):
            schedule = random_schedule(kernel, isa, seed)
            cases.append(Case(f"random {len(cases)} {schedule}", kernel, tensors_for(kernel, seed), schedule=schedule))

    draw(kernels(), 2 * KERNELS, use)
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", WIDEST_FIRST)
def test_every_op(isa: str):
    cases: list[Case] = []
    for name in sorted(EMITTERS):

        def use(case: Any, seed: int, name: str = name) -> None:
            graph = case.builder.finish([case.builder._value_of("v1")])
            cases.append(Case(name, kernel_of_graph(graph), case.tensors(seed)))

        if name not in INEXACT:
            draw(one_op(name), 2, use)
    check_cases(cases, ISAS[isa])


@pytest.mark.slow
@pytest.mark.parametrize("isa", HERE)
def test_fused_graphs(isa: str):
    cases: list[Case] = []

    def use(case: Any, seed: int) -> None:
        for step in fuse_graph(finished(case), lambda kernel: 1.0).steps:
            if isinstance(step, Launch) and not is_inexact(step.kernel):
                inputs = {b.name: random_tensor(_shape(b), b.dtype, seed, 0, 4) for b in step.kernel.inputs}
                error = -1 if leaves_its_buffers(step.kernel, inputs) else 0
                cases.append(Case(f"fused {len(cases)}", step.kernel, inputs, error=error))

    draw(graphs(), KERNELS, use)
    check_cases(cases, ISAS[isa])


def is_inexact(kernel: Kernel) -> bool:
    return any(isinstance(e, Op) and e.name in INEXACT for e in walk(*expressions(kernel)))


def leaves_its_buffers(kernel: Kernel, inputs: dict[str, torch.Tensor]) -> bool:
    """True where the drawn inputs are no indices of what they are used to index."""
    try:
        run_kernel(kernel, inputs)
    except IndexError:
        return True
    return False


def _shape(b: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in b.shape)
