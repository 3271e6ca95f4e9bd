"""Writing in place: what moves, and that the values stay those of the functional graph."""

from __future__ import annotations

import torch
from fused import fuse, make_inputs, run_graph

from treadle.ir.builder import GraphBuilder
from treadle.ir.graph import Graph
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Kernel
from treadle.ir.types import F32, I64
from treadle.passes.fuse import Launch

SHAPE, STRIDES = (1, 4, 64, 8), (2048, 512, 8, 1)


def written_points(kernel: Kernel) -> int:
    total = 0
    for s in kernel.stores:
        points = 1
        for a in s.axes:
            points *= int(a.extent)
        total += points
    return total


def run_in_place(graph: Graph, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Kernel]:
    """(memory of the input after the kernel, the value it should hold, the kernel)."""
    fused = fuse(graph)
    (value, target), *_ = fused.in_place.items()
    step = next(s for s in fused.steps if isinstance(s, Launch) and value in s.writes)
    inputs = make_inputs(graph, seed)
    memory = {n: t.reshape(-1) for n, t in inputs.items()}
    memory[value] = memory[target]
    given = dict(zip(step.kernel.buffers, (memory[n] for n in step.buffers), strict=True))
    result = run_kernel(step.kernel, given, float64=True)
    written = step.kernel.outputs[0]
    got = result[written.name]
    old = memory[target].as_strided(got.shape, got.stride())
    changed = torch.where(_poison(got), old, got)
    expected = run_graph(graph, inputs)[value]
    return changed.reshape(-1), expected.reshape(-1), step.kernel


def _poison(t: torch.Tensor) -> torch.Tensor:
    return t.isnan()  # the interpreter leaves poison where no store writes


def test_appending_one_token_moves_one_token() -> None:
    g = GraphBuilder()
    cache = g.input("cache", SHAPE, F32, STRIDES)
    k, p = g.input("k", (1, 4, 1, 8), F32, (32, 8, 8, 1)), g.input("p", (1,), I64, (1,))
    new = g.put(cache, (2,), [p], k)
    got, expected, kernel = run_in_place(g.finish([], [(cache, new)]))
    assert torch.equal(got, expected)
    assert written_points(kernel) == 4 * 8


def test_a_slice_is_written_as_a_slice() -> None:
    g = GraphBuilder()
    cache, k = g.input("cache", SHAPE, F32, STRIDES), g.input("k", (1, 4, 3, 8), F32, (96, 24, 8, 1))
    new = g.slice_scatter(cache, k, 2, 5)
    got, expected, kernel = run_in_place(g.finish([], [(cache, new)]))
    assert torch.equal(got, expected)
    assert written_points(kernel) == 4 * 3 * 8


def test_an_update_reads_and_writes_the_same_element() -> None:
    g = GraphBuilder()
    w, d = g.input("w", (64, 8), F32, (8, 1)), g.input("d", (64, 8), F32, (8, 1))
    got, expected, _ = run_in_place(g.finish([], [(w, w - d * 0.1)]))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_a_shifted_read_is_not_written_in_place() -> None:
    g = GraphBuilder()
    w = g.input("w", (64,), F32, (1,))
    assert not fuse(g.finish([], [(w, g.roll(w, 0, 1))])).in_place


def test_the_old_value_is_not_overwritten_while_it_is_needed() -> None:
    g = GraphBuilder()
    w = g.input("w", (64,), F32, (1,))
    new = w + 1.0
    late = g.exp(new) * w  # depends on the new value and reads the old one
    assert not fuse(g.finish([late], [(w, new)], [(1,)])).in_place


def test_earlier_readers_run_before_the_writer() -> None:
    g = GraphBuilder()
    w = g.input("w", (6, 64), F32, (64, 1))
    new = w + 1.0
    total = g.sum(g.exp(w), (0, 1))
    fused = fuse(g.finish([total], [(w, new)], [()]))
    order = [s.nodes for s in fused.steps if isinstance(s, Launch)]
    if new.node.name in fused.in_place:
        writer = next(k for k, nodes in enumerate(order) if new.node.name in nodes)
        assert all(k <= writer for k, nodes in enumerate(order) if total.node.name in nodes)


def test_a_returned_value_has_memory_of_its_own() -> None:
    g = GraphBuilder()
    w = g.input("w", (64,), F32, (1,))
    new = w + 1.0
    assert not fuse(g.finish([new], [(w, new)], [(1,)])).in_place


def test_a_view_is_copied_by_a_kernel_that_writes_in_place() -> None:
    g = GraphBuilder()
    x, out = g.input("x", (6, 10), F32, (10, 1)), g.input("out", (10, 6), F32, (6, 1))
    turned = g.permute(x, (1, 0))
    graph = g.finish([], [(out, turned)])
    got, expected, kernel = run_in_place(graph)
    assert torch.equal(got, expected)
    assert written_points(kernel) == 60
    assert [b.name for b in kernel.inputs] and len(fuse(graph).steps) == 1


def test_what_is_turned_onto_itself_is_not_written_in_place() -> None:
    g = GraphBuilder()
    x = g.input("x", (7, 7), F32, (7, 1))
    turned = g.permute(x, (1, 0))
    graph = g.finish([], [(x, turned)])
    fused = fuse(graph)
    assert not fused.in_place
    (step,) = fused.steps
    assert isinstance(step, Launch) and step.writes == (turned.node.name,)
    given = make_inputs(graph, 3)["x"]
    memory = {step.kernel.inputs[0].name: given.reshape(-1)}
    (result,) = run_kernel(step.kernel, memory, float64=True).values()
    assert torch.equal(result, given.t().to(result.dtype))
