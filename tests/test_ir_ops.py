"""Every row of the graph op table: its lowering, run by the loops interpreter, is its reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering import kernel_of_graph, run_reference
from strategies import EMITTERS, Case, one_op

from treadle.ir.interp import error_bound, run_kernel
from treadle.ir.ops import OPS

DECLARED = {"input", "size", "call", "result"}
ROUNDED = {  # torch's vector and scalar code differ in the last bits of these
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
    "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf", "erfc", "erfinv", "lgamma", "digamma", "pow", "atan2",
    "hypot", "rsqrt", "sum", "prod", "scan", "put", "scatter",
}  # fmt: skip


def assert_same(got: torch.Tensor, expected: torch.Tensor, exact: bool) -> None:
    assert got.dtype is expected.dtype and got.shape == expected.shape
    if exact or not got.is_floating_point():
        same = (got == expected) | ((got != got) & (expected != expected))
        if got.is_floating_point():
            same &= (torch.signbit(got) == torch.signbit(expected)) | (got != got)
        assert bool(same.all()), (got, expected)
        return
    tolerance = 8 * torch.finfo(got.dtype).eps
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_every_row_is_tested():
    assert set(EMITTERS) == set(OPS) - DECLARED


@pytest.mark.parametrize("name", sorted(EMITTERS))
def test_lowering_is_reference(name: str):
    @settings(max_examples=30 if OPS[name].kind != "pointwise" else 12)
    @given(one_op(name), st.integers(0, 2**31), st.booleans())
    def check(case: Case, seed: int, float64: bool) -> None:
        graph = case.builder.finish([case.builder._value_of("v1")])
        tensors = case.tensors(seed)
        kernel = kernel_of_graph(graph)
        got = run_kernel(kernel, tensors, float64=float64)["out_v1"]
        (expected,) = run_reference(graph, tensors, float64).values()
        if OPS[name].kind == "contract" and got.is_floating_point():  # what cancels has the error of what was added
            room = 2 * error_bound(kernel, tensors)["out_v1"]
            assert bool(((got.double() - expected.double()).abs() <= room).all()), (got, expected)
        else:
            assert_same(got, expected, name not in ROUNDED)

    check()
