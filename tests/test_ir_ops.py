"""Every row of the graph op table: its lowering, run by the loops interpreter, is its reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import EMITTERS, Case, one_op

from treadle.ir.expr import Load
from treadle.ir.graph import Node
from treadle.ir.index import Axis
from treadle.ir.interp import run_kernel
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.loops import Kernel, Statement, Store, contiguous
from treadle.ir.ops import OPS
from treadle.ir.ops.row import point

DECLARED = {"input", "size", "call", "result"}
ROUNDED = {  # torch's vector and scalar code differ in the last bits of these
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf", "erfc", "erfinv", "lgamma", "digamma", "pow", "atan2", "hypot",
    "rsqrt", "sum", "prod", "scan", "put", "scatter",
}  # fmt: skip


def kernel_of(case: Case, node: Node) -> Kernel:
    """One op as a kernel of its own."""
    inputs = tuple(v.node for v in case.inputs)
    operands = tuple(case.builder._by_name[name] for name in node.inputs)
    axes = tuple(Axis(f"i{d}", n) for d, n in enumerate(node.shape))
    row = OPS[node.op]
    assert row.lower is not None
    body: tuple[Statement, ...] = row.lower(node, operands, axes)
    name = node.name
    if not any(isinstance(s, Store) for s in body):
        name = "out"
        body = (*body, Store(name, point(axes), Load(node.name, point(axes), node.element), axes))
    buffers = tuple(contiguous(n.name, n.element, n.shape) for n in inputs)
    return Kernel("one", buffers, (contiguous(name, node.element, node.shape),), body)


def reference_of(node: Node, tensors: list[torch.Tensor], float64: bool) -> torch.Tensor:
    row = OPS[node.op]
    assert row.reference is not None
    dtype = torch.float64 if float64 and node.element.is_float else torch_dtype(node.element)
    return row.reference(torch, tensors, node).to(dtype)


def in_compute_type(x: torch.Tensor, node: Node, float64: bool) -> torch.Tensor:
    if float64 and node.element.is_float:
        return x.double()
    return x.to(torch_dtype(node.element.compute))


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
        node = case.builder._nodes[-1]
        kernel = kernel_of(case, node)
        tensors = case.tensors(seed)
        (got,) = run_kernel(kernel, tensors, float64=float64).values()
        by_name = {v.node.name: in_compute_type(tensors[v.node.name], v.node, float64) for v in case.inputs}
        expected = reference_of(node, [by_name[n] for n in node.inputs], float64)
        assert_same(got, expected, name not in ROUNDED)

    check()
