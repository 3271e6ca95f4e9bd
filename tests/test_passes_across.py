"""Kernels over unlike domains that read the same rows: gradients of rows beside those of what the rows share."""

from __future__ import annotations

import pytest
import torch
from fused import fuse, make_inputs, run_fused, run_graph
from torch.nn import functional
from torch.testing import assert_close

import treadle
from treadle.compiler.reference import check
from treadle.ir.builder import GraphBuilder
from treadle.ir.graph import Graph
from treadle.ir.types import F32
from treadle.passes.fuse import Launch


def launches(graph: Graph) -> list[Launch]:
    fused = fuse(graph)
    inputs = make_inputs(graph, 1)
    expected = run_graph(graph, inputs)
    for name, got in run_fused(fused, inputs).items():
        assert_close(got, expected[name], rtol=1e-9, atol=1e-9)
    return [s for s in fused.steps if isinstance(s, Launch)]


def rows_and_columns(rows: int, columns: int, over: tuple[int, ...] = (0,), turned: bool = False) -> Graph:
    g = GraphBuilder("both")
    x, d = (g.input(n, (rows, columns), F32, (columns, 1)) for n in ("x", "d"))
    scale = g.sum(x * d, (1,), True)
    reduced = g.sum(g.permute(x * d, (1, 0)), (1,)) if turned else g.sum(x * d, over)
    return g.finish([d - x * scale, reduced], (), [(columns, 1), (1,) if over != (0, 1) else ()])


@pytest.mark.parametrize(("rows", "columns"), [(4096, 2048), (64, 64), (1000, 3001)])
def test_rows_and_columns_share_a_kernel(rows: int, columns: int):
    small = rows * columns > 10_000
    fused = fuse(rows_and_columns(rows, columns)) if small else None
    made = [s for s in fused.steps if isinstance(s, Launch)] if fused else launches(rows_and_columns(rows, columns))
    assert len(made) == 1


@pytest.mark.parametrize("over", [(0,), (0, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_values_stay(over: tuple[int, ...], turned: bool):
    if turned and over == (0, 1):
        return
    assert len(launches(rows_and_columns(40, 40, over, turned))) == 1


def test_rows_that_do_not_stay_close_stay_apart():
    made = [s for s in fuse(rows_and_columns(4099, 2048)).steps if isinstance(s, Launch)]
    assert len(made) == 2
    made = [s for s in fuse(rows_and_columns(8, 1 << 18)).steps if isinstance(s, Launch)]
    assert len(made) == 2


def test_rows_are_those_that_the_wide_kernel_does_not_sum_over():
    """Channels of few, long images: their sums go over images and pixels, the results need sums over the pixels."""
    for images, pixels, count in ((4, 1 << 16, 2), (64, 1 << 9, 1)):
        g = GraphBuilder("channels")
        shape, strides = (images, 2, pixels), (2 * pixels, pixels, 1)
        x, d = (g.input(n, shape, F32, strides) for n in ("x", "d"))
        y = d - x * g.sum(x * d, (2,), True)
        graph = g.finish([y, g.sum(x * d, (0, 2))], (), [strides, (1,)])
        assert len([s for s in fuse(graph).steps if isinstance(s, Launch)]) == count


def test_what_no_value_connects_is_one_region():
    """The rows' result and the columns' have nothing in common but what they read."""
    g = GraphBuilder("apart")
    x, d, w = g.input("x", (48, 64), F32, (64, 1)), g.input("d", (48, 64), F32, (64, 1)), g.input("w", (64,), F32, (1,))
    graph = g.finish([g.exp(d * w), g.sum(x * d, (0,))], (), [(64, 1), (1,)])
    assert len(launches(graph)) == 1


def test_what_is_written_in_place_stays_apart():
    """The rows that are replaced would be read again, by what sums them: a copy costs more than another launch."""

    def step(p: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        squares = (p * p).sum(0)
        p.mul_(0.9).add_(d)
        return squares

    p, d = torch.randn(384, 512), torch.randn(384, 512)
    expected, kept = (p * p).sum(0), p * 0.9 + d
    got = torch.compile(step, backend="treadle")(p, d)
    assert_close(got, expected)
    assert_close(p, kept)
    (graph,) = treadle.explain(step, (torch.randn(384, 512), d)).graphs
    assert len(graph.kernels) == 2 and any("reinplace" in n for k in graph.kernels for n in k.notes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(384, 512), (4, 96, 512), (97, 513)])
def test_norms_give_all_gradients_in_one_launch(dtype: torch.dtype, shape: tuple[int, ...]):
    def normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, shape[-1:], weight, bias)

    rng = torch.Generator().manual_seed(1)
    sizes = (shape, shape[-1:], shape[-1:])
    inputs = tuple(torch.randn(s, generator=rng).to(dtype).requires_grad_() for s in sizes)
    _, backward = treadle.explain(normed, inputs, train=True).graphs
    (kernel,) = backward.kernels
    assert any(n.startswith("merge: ") and n.endswith("read the same rows") for n in kernel.notes)
    assert check(normed, inputs, torch.compile(normed, backend="treadle"), train=True).ok
