"""Runs kernels before and after a law through the interpreter, in float64: what the tests of the laws compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from treadle.ir.interp import run_kernel
from treadle.ir.loops import Equation, Kernel
from treadle.ir.text_loops_read import parse_kernel
from treadle.ir.verify import verify_kernel

Tensors = dict[str, torch.Tensor]
LONG = 4  # rows of more elements count as long in these tests: the laws' own limit is far beyond what a test should run
SPECIAL = (0.0, -0.0, 1.0, -2.5, float("inf"), -float("inf"), float("nan"))


def read(text: str) -> Kernel:
    return verify_kernel(parse_kernel(text))


def inputs_of(kernel: Kernel, seed: int = 0, special: Sequence[float] = (), share: float = 0.2) -> Tensors:
    """Random numbers; `share` of the floats are special ones; integers are 0 or 1."""
    rng = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    for b in kernel.inputs:
        shape = [int(n) for n in b.shape]
        if b.dtype.is_float:
            values = torch.randn(shape, generator=rng, dtype=torch.float64)
            if special:
                chosen = torch.tensor(special, dtype=torch.float64)[
                    torch.randint(0, len(special), shape, generator=rng)
                ]
                values = torch.where(torch.rand(shape, generator=rng) < share, chosen, values)
            made[b.name] = values
        else:
            made[b.name] = torch.randint(0, 2, shape, generator=rng).to(
                torch.int64 if b.dtype.is_integer else torch.bool
            )
    return made


def assert_equal_runs(before: Kernel, after: Kernel, inputs: Tensors, tolerance: float = 1e-9) -> Tensors:
    """Both kernels give the same on these inputs, infinities and NaN included; what the first gives."""
    verify_kernel(after)
    expected = run_kernel(before, inputs, float64=True)
    for name, got in run_kernel(after, inputs, float64=True).items():
        torch.testing.assert_close(got, expected[name], rtol=tolerance, atol=tolerance, equal_nan=True)
    return expected


def states_of(kernel: Kernel) -> list[str]:
    return [s.state for s in kernel.body if isinstance(s, Equation) and s.state]
