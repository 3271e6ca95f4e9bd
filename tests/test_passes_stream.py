"""The law of streaming: long rows carry a tuple state, short ones stay as they are, and the values do not change."""

from __future__ import annotations

from fused import fuse, make_inputs, run_fused, run_graph
from torch.testing import assert_close

from treadle.ir.builder import GraphBuilder
from treadle.ir.graph import Graph
from treadle.ir.loops import Equation, Kernel
from treadle.ir.types import F32
from treadle.passes.fuse import Launch
from treadle.passes.stream import RESIDENT


def log_sum_exp(n: int) -> Graph:
    g = GraphBuilder()
    x = g.input("x", (2, n), F32, (n, 1))
    m = g.reduce("max", x, (1,), keepdim=True)
    total = g.log(g.sum(g.exp(x - m), (1,), keepdim=True)) + m
    return g.finish([total], (), [(1, 1)])


def variance(n: int) -> Graph:
    g = GraphBuilder()
    x = g.input("x", (2, n), F32, (n, 1))
    d = x - g.mean(x, (1,), keepdim=True)
    return g.finish([g.mean(d * d, (1,), keepdim=True)], (), [(1, 1)])


def kernel_of(graph: Graph) -> Kernel:
    (step,) = fuse(graph).steps
    assert isinstance(step, Launch)
    return step.kernel


def states_of(kernel: Kernel) -> list[str]:
    return [s.state for s in kernel.body if isinstance(s, Equation) and s.state]


def test_a_long_row_is_passed_over_once() -> None:
    assert states_of(kernel_of(log_sum_exp(RESIDENT + 5))) == ["max_sum_exp"]
    assert states_of(kernel_of(variance(RESIDENT + 5))) == ["moments"]


def test_a_row_that_stays_in_cache_is_passed_over_again() -> None:
    assert states_of(kernel_of(log_sum_exp(1000))) == ["max", "sum"]
    assert states_of(kernel_of(variance(1000))) == ["sum", "sum"]


def test_streaming_keeps_the_values() -> None:
    for graph in (log_sum_exp(RESIDENT + 5), variance(RESIDENT + 5)):
        inputs = make_inputs(graph, 3)
        fused = fuse(graph)
        expected = run_graph(graph, inputs)
        for name, got in run_fused(fused, inputs).items():
            assert_close(got, expected[name], rtol=1e-9, atol=1e-9)


def test_the_law_says_what_it_did() -> None:
    assert any(n.startswith("stream:") for n in kernel_of(log_sum_exp(RESIDENT + 5)).notes)
