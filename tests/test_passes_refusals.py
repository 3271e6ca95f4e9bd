"""What was not fused and why: every reason of the closed list by a graph that gives it, and pairs that are fused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fused import fuse, seconds
from test_passes_fuse import RandomGraph
from test_passes_stream import log_sum_exp

from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.graph import Graph
from treadle.ir.types import F32, I64
from treadle.passes.chains import RESIDENT
from treadle.passes.fuse import Launch
from treadle.passes.reasons import Reason
from treadle.passes.refusals import Refusals, find_refusals

Case = tuple[Graph, str, Value | str]  # a graph, and the law and the value for which it gives the reason
N = 64
CASES: dict[Reason, Callable[[GraphBuilder], Case]] = {}


def gives(reason: Reason) -> Callable[[Callable[[GraphBuilder], Case]], Callable[[GraphBuilder], Case]]:
    def add(case: Callable[[GraphBuilder], Case]) -> Callable[[GraphBuilder], Case]:
        CASES[reason] = case
        return case

    return add


def vector(g: GraphBuilder, name: str = "x", size: int = N) -> Value:
    return g.input(name, (size,), F32, (1,))


def matrix(g: GraphBuilder, name: str = "x", rows: int = N, columns: int = N) -> Value:
    return g.input(name, (rows, columns), F32, (columns, 1))


def call(g: GraphBuilder, x: Value, kind: str) -> Value:
    return g.call("aten.mm.default", (0, 0), [x, x], kind, (N, N), F32, (N, 1))


def finish(g: GraphBuilder, *outputs: Value, mutations: tuple[tuple[Value, Value], ...] = ()) -> Graph:
    strides = [tuple(int(N) ** k for k in reversed(range(o.rank))) for o in outputs]
    return g.finish(outputs, mutations, strides)


def judge(graph: Graph, numerics: str = "fast") -> Refusals:
    return find_refusals(fuse(graph, numerics), seconds)


def told(found: Refusals) -> set[tuple[str, str, Reason | None]]:
    """(law, value, reason) of everything; "store" for values in memory."""
    facts = {("store", name, kept.refusal.reason) for name, kept in found.kept.items()}
    facts |= {(b.law, b.value, b.kept.refusal.reason) for b in found.between}
    facts |= {(t.law, t.value, t.reason) for tried in found.tried.values() for t in tried}
    return facts | {(t.law, t.value, t.reason) for t in found.mutations}


# --- why a value is in memory ------------------------------------------------------------------------------------


@gives(Reason.OUTPUT)
def an_output_is_read_by_another_kernel(g: GraphBuilder) -> Case:
    y = g.exp(vector(g))
    return finish(g, y, g.neg(g.roll(y, 0, 1))), "inline", y


@gives(Reason.MUTATION)
def a_new_value_of_an_input(g: GraphBuilder) -> Case:
    w = vector(g)
    new = w + 1.0
    return finish(g, mutations=((w, new),)), "store", new


@gives(Reason.LIBRARY)
def an_operand_of_a_product(g: GraphBuilder) -> Case:
    y = g.exp(matrix(g))
    return finish(g, call(g, y, "library")), "inline", y


@gives(Reason.OPAQUE)
def a_result_of_what_has_no_equations(g: GraphBuilder) -> Case:
    y = call(g, matrix(g), "opaque")
    return finish(g, g.exp(y)), "inline", y


@gives(Reason.EFFECT)
def an_operand_of_a_call_with_effects(g: GraphBuilder) -> Case:
    y = g.exp(matrix(g))
    return finish(g, call(g, y, "effect")), "inline", y


@gives(Reason.ACROSS)
def a_row_statistic_waits_for_a_product(g: GraphBuilder) -> Case:
    x = matrix(g)
    total = g.sum(x, (1,))
    return finish(g, call(g, x, "library") + g.unsqueeze(total, 1)), "inline", total


@gives(Reason.SCATTER)
def a_scatter_is_read(g: GraphBuilder) -> Case:
    x, at = vector(g), g.input("at", (4,), I64, (1,))
    y = g.put(x, (0,), [at], vector(g, "v", 4), "add")
    return finish(g, g.exp(y)), "merge", y


@gives(Reason.CHAIN)
def a_long_chain(g: GraphBuilder) -> Case:
    values = [g.sin(vector(g))]
    for _ in range(70):
        values.append(g.sin(values[-1]))
    return finish(g, values[-1]), "store", values[64]


@gives(Reason.SIZE)
def an_expression_that_doubles(g: GraphBuilder) -> Case:
    values = [g.sin(vector(g)), g.cos(vector(g, "y"))]
    for _ in range(20):
        values.append(values[-1] + values[-2])
    return finish(g, values[-1]), "store", values[15]


@gives(Reason.GUARDED)
def a_sum_is_padded(g: GraphBuilder) -> Case:
    total = g.sum(matrix(g), (1,))
    return finish(g, g.exp(g.pad(total, [1], [0], 0.0))), "inline", total


@gives(Reason.ORDER)
def a_scan_is_read_backwards(g: GraphBuilder) -> Case:
    total = g.scan("sum", vector(g), 0)
    return finish(g, g.exp(g.slice(total, 0, N - 1, N, -1))), "inline", total


@gives(Reason.COST)
def a_long_sum_is_read_by_two(g: GraphBuilder) -> Case:
    total = g.sum(g.exp(matrix(g, columns=4096)), (1,))
    row = g.unsqueeze(total, 1)
    return finish(g, matrix(g, "y") + row, matrix(g, "z", columns=32) * row), "inline", total


@gives(Reason.UNTRIED)
def a_part_too_large_to_be_searched(g: GraphBuilder) -> Case:
    y = vector(g, size=1 << 16)
    ends = [y]
    for _ in range(2):
        y = ends[0]
        for _ in range(8):
            y = g.tanh(g.exp(y))
        ends = [g.neg(y), g.roll(y, 0, 1), *ends]
    for k in range(4):
        for _ in range(6):
            ends[k] = g.neg(g.abs(ends[k]))
    return finish(g, *ends[:4]), "store", y


# --- why two kernels are two -------------------------------------------------------------------------------------


@gives(Reason.DOMAIN)
def the_elements_are_read_elsewhere(g: GraphBuilder) -> Case:
    y = g.exp(vector(g))
    return finish(g, y, g.neg(g.roll(y, 0, 1))), "merge", y


@gives(Reason.EXTENTS)
def two_sums_of_other_lengths(g: GraphBuilder) -> Case:
    x = matrix(g)
    y = x + 1.0
    return finish(g, g.sum(y, (1,)), g.sum(g.slice(y, 1, 0, 8), (1,))), "merge", "x"


@gives(Reason.FULL)
def more_values_than_a_kernel_stores(g: GraphBuilder) -> Case:
    y = vector(g) + 1.0
    return finish(g, *(y * float(k) for k in range(2, 16))), "merge", "x"


@gives(Reason.CYCLE)
def a_third_kernel_lies_between(g: GraphBuilder) -> Case:
    y = g.exp(vector(g))
    b = g.roll(y, 0, 1) * 2.0
    return finish(g, y, b, y + g.roll(b, 0, 1)), "merge", y


@gives(Reason.TAKEN)
def another_reader_has_stored_it(g: GraphBuilder) -> Case:
    y = g.exp(matrix(g))
    deep = g.unsqueeze(y, 0) + g.input("q", (3, N, N), F32, (N * N, N, 1))
    return finish(g, y, deep, y + matrix(g, "p")), "merge", y


@gives(Reason.UNSHARED)
def they_came_to_share_it_later(g: GraphBuilder) -> Case:
    x, y = vector(g) + 1.0, vector(g, "y") + 1.0
    between, alone, last = x * y, g.neg(y), g.exp(x)
    return finish(g, between, alone, last), "merge", "y"


@gives(Reason.APART)
def two_readers_of_an_input(g: GraphBuilder) -> Case:
    x = vector(g)
    return finish(g, g.exp(x), g.neg(x)), "merge", "x"


# --- why a reduction is not streamed -----------------------------------------------------------------------------


@gives(Reason.SHORT)
def a_row_in_cache(g: GraphBuilder) -> Case:
    return log_sum_exp(1000), "stream", "sum2"


@gives(Reason.FORM)
def a_sum_that_is_no_exponential(g: GraphBuilder) -> Case:
    x = matrix(g, rows=2, columns=RESIDENT + 5)
    return finish(g, g.sum(g.abs(x - g.reduce("max", x, (1,), True)), (1,))), "stream", "sum2"


@gives(Reason.STRICT)
def a_long_row_under_strict_numerics(g: GraphBuilder) -> Case:
    return log_sum_exp(RESIDENT + 5), "stream", "sum2"


@gives(Reason.KNOWN)
def a_factor_from_memory(g: GraphBuilder) -> Case:
    x = matrix(g, rows=2, columns=RESIDENT + 5)
    total = g.sum(x, (1,), True)
    return finish(g, g.sum(g.abs(x - total) * g.input("b", (2, 1), F32, (1, 1)), (1,))), "delay", "sum2"


@gives(Reason.ABSENT)
def sums_of_sums(g: GraphBuilder) -> Case:
    a, b, c = matrix(g, "a", 8, 6), g.input("b", (8, 1, 4), F32, (4, 4, 1)), g.input("c", (1, 6, 4), F32, (24, 4, 1))
    return finish(g, g.sum(a * g.sum(b * c, (2,)), (1,))), "exchange", "sum2"


# --- why a new value is copied into its input --------------------------------------------------------------------


@gives(Reason.RETURNED)
def the_new_value_is_returned(g: GraphBuilder) -> Case:
    w = vector(g)
    new = w + 1.0
    return finish(g, new, mutations=((w, new),)), "reinplace", new


@gives(Reason.TWICE)
def two_inputs_get_one_value(g: GraphBuilder) -> Case:
    w, v = vector(g), vector(g, "v")
    new = w + 1.0
    return finish(g, mutations=((w, new), (v, new))), "reinplace", new


@gives(Reason.FOREIGN)
def a_call_makes_the_new_value(g: GraphBuilder) -> Case:
    w = matrix(g)
    new = call(g, w, "opaque")
    return finish(g, mutations=((w, new),)), "reinplace", new


@gives(Reason.LAYOUT)
def elements_of_the_input_overlap(g: GraphBuilder) -> Case:
    w = g.input("w", (N, N), F32, (0, 1))
    new = w + 1.0
    return finish(g, mutations=((w, new),)), "reinplace", new


@gives(Reason.LATER)
def the_old_value_is_read_later(g: GraphBuilder) -> Case:
    w = vector(g)
    new = w + 1.0
    return finish(g, g.exp(new) * w, mutations=((w, new),)), "reinplace", new


@gives(Reason.MOVED)
def elements_change_places(g: GraphBuilder) -> Case:
    w = vector(g)
    new = g.roll(w, 0, 1)
    return finish(g, mutations=((w, new),)), "reinplace", new


@gives(Reason.UNCHANGED)
def nothing_changes(g: GraphBuilder) -> Case:
    w = vector(g)
    new = g.slice_scatter(w, g.slice(w, 0, 3, 5), 0, 3)
    return finish(g, mutations=((w, new),)), "reinplace", new


@gives(Reason.WAITING)
def two_inputs_change_places(g: GraphBuilder) -> Case:
    w, v = vector(g), vector(g, "v")
    new = v + 1.0
    return finish(g, mutations=((w, new), (v, w * 2.0))), "reinplace", new


OF_KERNELS = {  # what no graph has led to so far: the tests of these laws give them
    Reason.OPERANDS: "delay", Reason.UNCHECKED: "stream", Reason.WHOLE: "stream", Reason.LONGER: "exchange",
    Reason.SCANS: "split", Reason.UNSIZED: "split", Reason.PARTS: "split", Reason.UNREDUCED: "split",
}  # fmt: skip


@pytest.mark.parametrize("reason", OF_KERNELS)
def test_the_reasons_of_kernels_have_their_tests(reason: Reason) -> None:
    source = (Path(__file__).parent / f"test_passes_{OF_KERNELS[reason]}.py").read_text(encoding="utf-8")
    assert f"Reason.{reason.name}" in source


@pytest.mark.parametrize("reason", [r for r in Reason if r not in OF_KERNELS])
def test_every_reason_is_given(reason: Reason) -> None:
    graph, law, value = CASES[reason](GraphBuilder())
    name = value if isinstance(value, str) else value.node.name
    found = judge(graph, "strict" if reason is Reason.STRICT else "fast")
    assert (law, name, reason) in told(found), sorted(map(str, told(found)))


def test_the_names_of_reasons_are_their_own() -> None:
    assert len({r.short for r in Reason}) == len(Reason)
    for r in Reason:
        assert r.condition.endswith(".") and not r.sentence.endswith(".")
        assert r.sentence.format(value="v", other="w")


# --- pairs -------------------------------------------------------------------------------------------------------


def test_a_sum_read_by_its_own_row_is_one_kernel() -> None:
    g = GraphBuilder()
    x = matrix(g)
    found = judge(finish(g, x / g.sum(g.exp(x), (1,), True)))
    assert not found.between and list(found.tried) == [0]


def test_where_cost_decides_both_costs_are_told() -> None:
    graph, _, value = CASES[Reason.COST](GraphBuilder())
    assert isinstance(value, Value)
    (inline, merge) = judge(graph).between
    assert (inline.law, inline.reads, inline.kept.refusal.reason) == ("inline", True, Reason.COST)
    assert 0 < inline.kept.seconds < inline.kept.other_seconds
    assert (merge.law, merge.reads, merge.kept.refusal.reason) == ("merge", True, Reason.TAKEN)
    kept = judge(graph).kept[value.node.name]
    assert kept == inline.kept


def test_a_legal_merge_is_told_too() -> None:
    g = GraphBuilder()
    y = g.exp(vector(g))
    found = judge(finish(g, y, g.neg(y)))
    assert [(t.law, t.value, t.reason) for t in found.tried[0]] == [("merge", y.node.name, None)]
    assert not found.between


def test_laws_that_held_are_told_with_what_they_joined() -> None:
    g = GraphBuilder()
    x = matrix(g, rows=2, columns=RESIDENT + 5)
    found = judge(finish(g, g.sum(x * g.rsqrt(g.sum(x * x, (1,), True)), (1,))))
    assert ("delay", "sum2", None) in {(t.law, t.value, t.reason) for t in found.tried[0]}
    found = judge(log_sum_exp(RESIDENT + 5))
    assert ("stream", "sum2", "max1", None) in {tuple(t) for t in found.tried[0]}


def test_kernels_that_wait_for_each_other_are_not_compared() -> None:
    g = GraphBuilder()
    x = matrix(g)
    found = judge(finish(g, g.exp(call(g, g.neg(x), "library")) + x))
    assert {b.law for b in found.between} == {"inline"}


def test_a_chain_that_many_kernels_compute_is_no_deep_recursion() -> None:
    for length in (70, 140, 300):
        g = GraphBuilder()
        y = g.roll(g.tanh(vector(g)), 0, 1)
        for k in range(length):
            y = g.sin(y) if k % 2 else g.cos(y)
        found = judge(finish(g, g.roll(y, 0, 1)))
        assert Reason.CHAIN in {kept.refusal.reason for kept in found.kept.values()}


@pytest.mark.parametrize("seed", range(20))
def test_no_pair_of_steps_is_left_out(seed: int) -> None:
    fused = fuse(RandomGraph(seed).build(20 + seed % 11))
    found = find_refusals(fused, seconds)
    maker = {name: k for k, step in enumerate(fused.steps) if isinstance(step, Launch) for name in step.writes}
    reads = {
        (maker[n], k, n) for k, s in enumerate(fused.steps) if isinstance(s, Launch) for n in s.reads if n in maker
    }
    told_of = {(b.first, b.second, b.value, b.law) for b in found.between if b.reads}
    assert {(*r, "inline") for r in reads} <= told_of
    across = {(b.first, b.second) for b in found.between if b.kept.refusal.reason is Reason.ACROSS}
    for first, second, _ in reads:
        asked = any((b.first, b.second, b.law) == (first, second, "merge") for b in found.between)
        assert asked or (first, second) in across
    assert maker.keys() <= found.kept.keys()
