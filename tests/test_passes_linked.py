"""Which contractions are linked, and in which order the nodes of a graph then come."""

from __future__ import annotations

import math

import pytest
from fused import assert_same

from treadle.compiler.costs import seconds_of
from treadle.costmodel.roofline import GENERIC_CPU
from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.graph import Graph
from treadle.ir.types import F32
from treadle.passes.fuse import Launch, fuse_graph
from treadle.passes.linked import SHALLOW, Link, find_links, in_order

ROWS = ((0, 1), (2, 1), (0, 2))  # q k^T
SUMS = ((0, 1), (1, 2), (0, 2))  # p v


def links_of(graph: Graph, *apart: str) -> tuple[Link, ...]:
    return find_links(graph, {n.name for n in graph.nodes}, set(apart))


def names(*values: Value) -> set[str]:
    return {v.node.name for v in values}


class Attention:
    """The parts of softmax(q k^T) v for `rows` queries and keys."""

    def __init__(self, rows: int = 300, depth: int = 16, bounded: bool = True) -> None:
        g = self.g = GraphBuilder("attention")
        self.q, self.k, self.v = (g.input(n, (rows, depth), F32) for n in "qkv")
        self.scores = g.contract(self.q, self.k, ROWS)
        self.top = g.reduce("max", self.scores, (1,), keepdim=True) if bounded else self.k
        self.power = g.exp(self.scores - self.top) if bounded else g.exp(self.scores)
        self.total = g.sum(self.power, (1,), keepdim=True)
        self.out = g.contract(self.power / self.total, self.v, SUMS)


def test_what_stands_between_two_contractions():
    a = Attention()
    (link,) = links_of(a.g.finish([a.out]))
    assert set(link.first) == names(a.scores) and set(link.last) == names(a.out)
    assert names(a.top, a.power, a.total) <= set(link.between)
    assert not names(a.q, a.k, a.v) & set(link.members)


def test_row_statistics_may_be_read_by_others():
    a = Attention()
    assert links_of(a.g.finish([a.out, a.top + a.g.log(a.total)]))


@pytest.mark.parametrize("part", ["scores", "power"])
def test_values_that_others_read_are_stored(part: str):
    a = Attention()
    assert not links_of(a.g.finish([a.out, getattr(a, part)]))
    a = Attention()
    assert not links_of(a.g.finish([a.out, a.g.sum(getattr(a, part) * 2.0, (0,))]))


def test_contractions_that_are_to_stay_apart():
    a = Attention()
    graph = a.g.finish([a.out])
    assert not links_of(graph, a.out.node.name)


def test_values_that_no_maximum_bounds_are_linked_where_they_are_little_work():
    shallow, deep = Attention(depth=16, bounded=False), Attention(depth=SHALLOW, bounded=False)
    few = Attention(rows=30, depth=16, bounded=False)
    assert links_of(shallow.g.finish([shallow.out]))
    assert not links_of(deep.g.finish([deep.out]))
    assert not links_of(few.g.finish([few.out]))  # they are fewer than what they are computed of


class Gradients(Attention):
    """Those of an attention with the logarithms of the row sums: three sums over what two contractions make."""

    def __init__(self) -> None:
        rows, depth = 300, 16
        g = self.g = GraphBuilder("gradients")
        self.q, self.k, self.v, self.dy = (g.input(n, (rows, depth), F32) for n in ("q", "k", "v", "dy"))
        logs, delta = (g.input(n, (rows, 1), F32) for n in ("logs", "delta"))
        self.scores, self.other = g.contract(self.q, self.k, ROWS), g.contract(self.dy, self.v, ROWS)
        power = g.exp(self.scores - logs)
        change = power * (self.other - delta)
        self.dv = g.contract(power, self.dy, ((1, 0), (1, 2), (0, 2)))
        self.dk = g.contract(change, self.q, ((1, 0), (1, 2), (0, 2)))
        self.dq = g.contract(change, self.k, SUMS)


def test_sums_over_the_same_values_are_one_link():
    a = Gradients()
    (link,) = links_of(a.g.finish([a.dq, a.dk, a.dv]))
    assert set(link.first) == names(a.scores, a.other) and set(link.last) == names(a.dq, a.dk, a.dv)


def test_gradients_are_two_kernels():
    """One that runs along the queries, with two sums, and one along the keys."""
    a = Gradients()
    graph = a.g.finish([a.dq, a.dk, a.dv])
    fused = fuse_graph(graph, lambda kernel: seconds_of(kernel, GENERIC_CPU))
    stored = sorted(len(s.kernel.outputs) for s in fused.steps if isinstance(s, Launch))
    assert stored == [1, 2]


def test_a_link_in_a_circle_is_none():
    """What one of its sums gives goes into another one."""
    a = Gradients()
    g = a.g
    again = g.contract(g.exp(a.scores) * g.sum(a.dv, (0, 1)), a.k, SUMS)
    assert all(names(a.dv, again) - set(x.last) for x in links_of(g.finish([a.dv, again])))


def test_nodes_come_after_what_they_read_and_links_together():
    a, b = Gradients(), Attention()
    for graph in (a.g.finish([a.dq, a.dk, a.dv]), b.g.finish([b.out])):
        links = links_of(graph)
        order = in_order(graph, links)
        flat = [n.name for nodes in order for n in nodes]
        assert sorted(flat) == sorted(n.name for n in graph.nodes)
        known = {n.name for n in graph.inputs}
        for nodes in order:
            inside = {n.name for n in nodes}
            assert len(nodes) == 1 or any(set(x.members) == inside for x in links)
            for node in nodes:
                assert known >= set(node.inputs) - inside
            known |= inside


def test_a_link_waits_for_what_comes_later_in_the_graph():
    g = GraphBuilder("late")
    q, k, v = (g.input(n, (300, 16), F32) for n in "qkv")
    scores = g.contract(q, k, ROWS)
    bias = g.exp(g.input("b", (300, 300), F32))  # after the contraction, before what reads both
    shifted = scores + bias
    power = g.exp(shifted - g.reduce("max", shifted, (1,), keepdim=True))
    out = g.contract(power, v, SUMS)
    graph = g.finish([out])
    order = [n.name for nodes in in_order(graph, links_of(graph)) for n in nodes]
    assert order.index(bias.node.name) < order.index(scores.node.name)
    assert_same(graph)


def test_masked_rows(seed: int):
    a = Attention(rows=40)
    g = a.g
    i, j = (g.reshape(g.iota(40), s) for s in ((40, 1), (1, 40)))
    scores = g.where(g.apply("le", j, i), g.contract(a.q, a.k, ROWS), -math.inf)
    power = g.exp(scores - g.reduce("max", scores, (1,), keepdim=True))
    out = g.contract(power / g.sum(power, (1,), keepdim=True), a.v, SUMS)
    assert_same(g.finish([out]), seed)
