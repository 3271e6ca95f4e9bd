"""Kernels that have absorbed what they could are asked again whether they are one; and what passing again costs."""

from __future__ import annotations

import torch
from fused import fuse, make_inputs, run_fused, run_graph
from law_runs import read
from torch.nn import functional
from torch.testing import assert_close

import treadle
from treadle.compiler.reference import check
from treadle.costmodel.roofline import estimate
from treadle.ir.builder import GraphBuilder
from treadle.ir.loops import Kernel
from treadle.ir.types import F32


def test_kernels_that_absorbed_values_of_the_same_memory_are_one():
    """Group norm's gradients: sums by channel, from which weight, bias and input get theirs, in one pass over both."""

    def normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.group_norm(x, 2, weight, bias)

    rng = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(s, generator=rng).requires_grad_() for s in ((4, 8, 40_000), (8,), (8,)))
    _, backward = treadle.explain(normed, inputs, train=True).graphs
    assert len(backward.kernels) == 2
    assert check(normed, inputs, torch.compile(normed, backend="treadle"), train=True).ok


def test_one_that_the_other_waits_for_stays_apart():
    g = GraphBuilder("chain")
    x = g.input("x", (4, 6, 50), F32, (300, 50, 1))
    first = g.sum(x, (2,))
    total = g.sum(first, (0,))
    second = g.sum(x * g.unsqueeze(total, 1), (2,))
    outputs = [first, total, second, g.sum(second, (0,))]
    graph = g.finish(outputs, (), [(6, 1), (1,), (6, 1), (1,)])
    inputs, fused = make_inputs(graph, 3), fuse(graph)
    expected = run_graph(graph, inputs)
    for name, got in run_fused(fused, inputs).items():
        assert_close(got, expected[name], rtol=1e-9, atol=1e-9)


def normed(rows: int, columns: int) -> Kernel:
    return read(f"""
kernel k(x: f32[{rows}, {columns}]) -> (y: f32[{rows}, {columns}])
  axes t:{rows}, c:{columns}
  s[t]: f32 = sum(c) (x[t, c] * x[t, c])
  y[t, c] <- (x[t, c] * rsqrt(s[t]))
""")


def test_rows_that_do_not_stay_close_cost_a_pass_more():
    """The same elements in short rows and in long ones: the long ones are read from memory again."""
    near, far = estimate(normed(4096, 2048)), estimate(normed(8, 1 << 20))
    assert near.read == far.read and near.written == far.written
    assert far.seconds > 1.2 * near.seconds


def test_short_rows_cost_no_more_than_a_single_pass_moves():
    kernel = normed(4096, 2048)
    single = read("""
kernel k(x: f32[4096, 2048]) -> (y: f32[4096, 2048])
  axes t:4096, c:2048
  y[t, c] <- x[t, c]
""")
    moved = estimate(single)
    assert estimate(kernel).read == moved.read
    assert estimate(kernel).seconds < 1.5 * moved.seconds
