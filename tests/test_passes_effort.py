"""What fusing costs grows with the graph: counted in expansions and assembled kernels, which no clock disturbs."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import add

import pytest
from fused import assert_same, fuse

from treadle.ir.builder import GraphBuilder
from treadle.ir.graph import Graph, Node
from treadle.ir.types import F32, contiguous_strides
from treadle.passes import regions
from treadle.passes.fuse import Launch
from treadle.passes.inline import Assembly
from treadle.passes.merge import Merger
from treadle.passes.regions import are_disjoint


@pytest.fixture
def effort(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a value was expanded into a reader anew, and a kernel assembled."""
    counted: Counter[str] = Counter()
    expand, assemble = Assembly._expand_here, Merger._assemble

    def count_expand(self: Assembly, *args):
        counted["expansions"] += 1
        return expand(self, *args)

    def count_assemble(self: Merger, *args):
        counted["kernels"] += 1
        return assemble(self, *args)

    monkeypatch.setattr(Assembly, "_expand_here", count_expand)
    monkeypatch.setattr(Merger, "_assemble", count_assemble)
    return counted


def recurrence(steps: int) -> Graph:
    """h = tanh(h * a[t] + x[t]), a row at a time; the rows are put together at the end."""
    g = GraphBuilder(f"recurrence{steps}")
    a = g.input("a", (steps, 64), F32)
    x = g.input("x", (steps, 64), F32)
    h = g.input("h", (1, 64), F32)
    rows = []
    for t in range(steps):
        h = g.tanh(h * g.slice(a, 0, t, 1) + g.slice(x, 0, t, 1))
        rows.append(h)
    y = g.cat(rows, 0)
    return g.finish([y], (), [contiguous_strides(y.shape)])


def test_slices_of_a_recurrence_are_compared_seldom(monkeypatch: pytest.MonkeyPatch):
    """Each step reads one more slice: that they are apart is asked of few of them."""
    counted: Counter[int] = Counter()

    def count(steps: int) -> int:
        def compare(a: Node, b: Node) -> bool:
            counted[steps] += 1
            return are_disjoint(a, b)

        monkeypatch.setattr(regions, "are_disjoint", compare)
        fuse(recurrence(steps))
        return counted[steps]

    assert count(80) <= 2 * count(40) + 100


def tree(levels: int) -> Graph:
    """The products of pairs, of pairs of pairs, ...: each element at the root is made from all that are below it."""
    g = GraphBuilder(f"tree{levels}")
    x = g.exp(g.input("x", (2**levels, 64), F32))
    while x.shape[0] != 1:
        pairs = g.reshape(x, (x.shape[0] // 2, 2, 64))
        first, second = (g.reshape(g.slice(pairs, 1, k, 1), (x.shape[0] // 2, 64)) for k in (0, 1))
        x = g.tanh(first * second)
    return g.finish([x], (), [contiguous_strides(x.shape)])


def measure(graph: Graph, effort: Counter[str]) -> Counter[str]:
    effort.clear()
    fuse(graph)
    return Counter(effort)


def test_a_recurrence_is_fused_in_linear_time(effort: Counter[str]):
    graph = recurrence(128)
    short, long = measure(recurrence(32), effort), measure(graph, effort)
    assert long["expansions"] <= 5 * short["expansions"]
    assert long["kernels"] <= 5 * short["kernels"]
    assert long["expansions"] <= 12 * len(graph.nodes)  # what several kernels pull in is expanded for one of them


def test_a_tree_of_readers_is_cut_before_it_explodes(effort: Counter[str]):
    """Three more levels read eight times as much, if nothing between is stored."""
    small, large = measure(tree(7), effort), measure(tree(10), effort)
    assert large["expansions"] <= 2 * small["expansions"]


def test_a_long_recurrence_is_fused():
    """Its rows are put together by one cat: what chooses between them may not nest as deep as there are rows."""
    assert len(fuse(recurrence(300)).steps) < 60


@pytest.mark.parametrize("graph", [recurrence(40), tree(9)], ids=["recurrence", "tree"])
def test_what_is_cut_keeps_its_values(graph: Graph, seed: int):
    assert_same(graph, seed)


def test_what_is_read_twice_at_one_place_counts_once():
    """Three readers of a long sum do not make it three times as long."""
    g = GraphBuilder("gate")
    terms = [g.sin(g.input(f"x{k}", (64, 64), F32)) for k in range(100)]
    while len(terms) > 1:
        terms = [reduce(add, terms[k : k + 2]) for k in range(0, len(terms), 2)]
    total = terms[0]
    y = total * g.tanh(total) * g.exp(total)
    (step,) = fuse(g.finish([y], (), [contiguous_strides(y.shape)])).steps
    assert isinstance(step, Launch) and len(step.kernel.outputs) == 1
