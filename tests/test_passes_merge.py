"""Kernels that have absorbed what they could are asked again whether they are one; and what passing again costs."""

from __future__ import annotations

from fused import fuse, make_inputs, run_fused, run_graph
from law_runs import read
from torch.testing import assert_close

from treadle.costmodel.roofline import estimate
from treadle.ir.builder import GraphBuilder
from treadle.ir.graph import Graph
from treadle.ir.loops import Kernel
from treadle.ir.types import F32
from treadle.passes.fuse import Launch


def channel_sums(rows: int = 6) -> Graph:
    """Sums by row and channel, sums of these, which read only a small value, and what reads all of the former."""
    g = GraphBuilder("sums")
    x, y = (g.input(n, (4, rows, 50), F32, (50 * rows, 50, 1)) for n in "xy")
    by_channel = [g.sum(x, (2,)), g.sum(x * y, (2,))]
    first, second = (g.unsqueeze(v, 2) for v in by_channel)
    outputs = [*by_channel, *(g.sum(v, (0,)) for v in by_channel), x * first + y * second]
    return g.finish(outputs, (), [(rows, 1), (rows, 1), (1,), (1,), (50 * rows, 50, 1)])


def test_kernels_that_absorbed_values_of_the_same_memory_are_one():
    graph = channel_sums()
    fused = fuse(graph)
    launches = [s for s in fused.steps if isinstance(s, Launch)]
    sums = [s for s in launches if len(s.writes) == 4]
    assert len(launches) == 2 and len(sums) == 1 and sorted(sums[0].reads) == ["x", "y"]
    inputs = make_inputs(graph, 2)
    expected = run_graph(graph, inputs)
    for name, got in run_fused(fused, inputs).items():
        assert_close(got, expected[name], rtol=1e-9, atol=1e-9)


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
