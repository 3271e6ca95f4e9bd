"""The law of streaming: long rows carry a tuple state, short ones stay as they are, and the values do not change."""

from __future__ import annotations

import pytest
import torch
from fused import fuse, make_inputs, run_fused, run_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from law_runs import LONG, SPECIAL, assert_equal_runs, inputs_of, read, states_of
from torch.testing import assert_close

from treadle.ir.builder import GraphBuilder
from treadle.ir.expr import loads_in
from treadle.ir.graph import Graph
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Kernel
from treadle.ir.types import F32
from treadle.passes.chains import RESIDENT
from treadle.passes.fuse import Launch
from treadle.passes.reasons import Reason, Tried
from treadle.passes.stream import stream


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


# --- the law on kernels, infinities included ---------------------------------------------------------------------

INF, NAN = float("inf"), float("nan")
ROWS = {
    "numbers": [0.5, -1.0, 2.0, 3.0, -4.0, 0.25, 1.0],
    "all masked": [-INF] * 7,
    "the first masked": [-INF, -INF, -INF, -INF, 1.0, 2.0, -INF],
    "the last masked": [1.0, 2.0, -INF, -INF, -INF, -INF, -INF],
    "an infinity": [0.0, INF, 1.0, -INF, 2.0, 3.0, 4.0],
    "both infinities": [INF, -INF, INF, -INF, INF, -INF, INF],
    "NaN": [0.0, 1.0, NAN, 2.0, 3.0, 4.0, 5.0],
    "large": [1e30, -1e30, 1e30, 1e30, 0.0, 1.0, 2.0],
    "equal": [1e4] * 7,
    "zeros": [0.0, -0.0] * 3 + [0.0],
}
SHIFTS = (
    "m[t]",
    "where(isinf(m[t]), 0.0, m[t])",
    "where((m[t] == -inf), 0.0, m[t])",
    "where((abs(m[t]) == inf), 0.0, m[t])",
)


def exponentials(shift: str, value: str = "{}") -> Kernel:
    summed = value.format(f"exp((x[t, c] - {shift}))")
    return read(f"""
kernel k(x: f32[10, 7]) -> (y: f32[10], z: f32[10])
  axes t:10, c:7
  m[t]: f32 = max(c) x[t, c]
  l[t]: f32 = sum(c) {summed}
  y[t] <- l[t]
  z[t] <- (m[t] + log(l[t]))
""")


SQUARES = """
kernel k(x: f32[10, 7]) -> (y: f32[10], z: f32[10])
  axes t:10, c:7
  s[t]: f32 = sum(c) x[t, c]
  let %0 = (x[t, c] - (s[t] / 7.0))
  q[t]: f32 = sum(c) (%0 * %0)
  y[t] <- q[t]
  z[t] <- (s[t] / 7.0)
"""


def rows() -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(list(ROWS.values()), dtype=torch.float64)}


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_row_with_infinities_keeps_its_sum_of_exponentials(shift: str) -> None:
    before = exponentials(shift)
    after = stream(before, resident=LONG)
    assert states_of(after) == ["max_sum_exp"]
    assert_equal_runs(before, after, rows())


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("value", ["({} * 0.5)", "neg({})", "where((m[t] > 0.0), {}, 0.0)", "({} / (abs(m[t]) + 1.0))"])
def test_factors_are_applied_at_the_end(shift: str, value: str) -> None:
    before = exponentials(shift, value)
    after = stream(before, resident=LONG)
    assert states_of(after) == ["max_sum_exp"]
    assert_equal_runs(before, after, rows())


@pytest.mark.parametrize(
    "value",
    [
        "exp((m[t] - x[t, c]))",
        "exp((x[t, c] - where(isinf(m[t]), 1.0, m[t])))",
        "exp(((x[t, c] * 2.0) - m[t]))",
        "(exp((x[t, c] - m[t])) * x[t, c])",
        "exp(abs((x[t, c] - m[t])))",
        "exp2((x[t, c] - m[t]))",
    ],
)
def test_what_the_maximum_does_not_bound_is_left_alone(value: str) -> None:
    before = exponentials("m[t]", value.replace("{}", ""))
    assert stream(before, resident=LONG) is before


def test_squares_about_the_mean_keep_their_infinities() -> None:
    before = read(SQUARES)
    after = stream(before, resident=LONG)
    assert states_of(after) == ["moments", "sum"]
    assert_equal_runs(before, after, rows())


def test_a_chain_streams_link_by_link() -> None:
    before = read("""
kernel k(x: f32[10, 7]) -> (y: f32[10])
  axes t:10, c:7
  m[t]: f32 = max(c) x[t, c]
  l[t]: f32 = sum(c) exp((x[t, c] - m[t]))
  o[t]: f32 = sum(c) (exp((x[t, c] - m[t])) / l[t])
  y[t] <- o[t]
""")
    after = stream(before, resident=LONG)
    assert states_of(after) == ["max_sum_exp"]
    assert_equal_runs(before, after, rows())


def test_other_rows_and_other_axes_are_not_joined() -> None:
    text = """
kernel k(x: f32[7, 7]) -> (y: f32[7])
  axes t:7, c:7, e:7
  m[t]: f32 = max({}) {}
  l[t]: f32 = sum(c) exp((x[t, c] - m[{}]))
  y[t] <- l[t]
"""
    for parts in (("c", "x[c, t]", "t"), ("e", "x[t, e]", "t"), ("c", "x[t, c]", "6 - t")):
        before = read(text.format(*parts))
        assert stream(before, resident=LONG) is before


@pytest.mark.parametrize("text", [SQUARES, ""])
def test_strict_numerics_and_short_rows_are_left_alone(text: str) -> None:
    before = read(text) if text else exponentials("m[t]")
    for strict, resident, reason in ((True, LONG, Reason.STRICT), (False, 7, Reason.SHORT)):
        tried: list[Tried] = []
        assert stream(before, strict, resident, tried) is before
        assert [t.reason for t in tried] == [reason]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from((*SHIFTS, "squares")))
def test_random_rows_keep_their_values(seed: int, form: str) -> None:
    before = read(SQUARES) if form == "squares" else exponentials(form)
    inputs = inputs_of(before, seed, (*SPECIAL, 88.0, -104.0))
    assert_equal_runs(before, stream(before, resident=LONG), inputs)


# --- elements that data pick --------------------------------------------------------------------------------------

PICKED = """
kernel k(h: f32[5, 3], v: f32[7, 3], d: i64[5], w: f32[7]) -> (y: f32[5], u: f32[5])
  axes t:5, c:7, k:3
  z[t, c]: f32 = sum(k) (h[t, k] * v[c, k])
  m[t]: f32 = max(c) z[t, c]
  y[t] <- (z[t, {}] - m[t])
  u[t] <- {}
"""
AT, CHECK = "at(d[t], 7)", "w[at(d[t], 7)]"


def test_a_picked_element_is_caught_in_the_pass() -> None:
    before = read(PICKED.format(AT, CHECK))
    after = stream(before, resident=LONG)
    assert states_of(after) == ["sum", "max", "sum"]
    loads = [e for s in after.stores for e in loads_in(s.value) if e.name == "z"]
    assert not loads
    inputs = inputs_of(before, 2) | {"d": torch.tensor([0, 6, -1, -7, 3])}
    assert_equal_runs(before, after, inputs)


def test_a_picked_element_stands_beside_infinities() -> None:
    before = read(PICKED.format(AT, CHECK))
    after = stream(before, resident=LONG)
    for seed in range(20):
        assert_equal_runs(before, after, inputs_of(before, seed, (0.0, INF, -INF, NAN)))


def test_a_bad_index_is_still_reported() -> None:
    before = read(PICKED.format("at(d[t], 7, nowrap)", "w[at(d[t], 7, nowrap)]"))
    after = stream(before, resident=LONG)
    assert after is not before
    for bad in (7, -1):
        inputs = inputs_of(before, 2) | {"d": torch.tensor([0, 6, bad, 1, 3])}
        for kernel in (before, after):
            with pytest.raises(IndexError):
                run_kernel(kernel, inputs, float64=True)


@pytest.mark.parametrize(
    ("index", "other", "reason"),
    [
        (AT, "w[0]", Reason.UNCHECKED),
        (AT, "w[at(d[t], 7, nowrap)]", Reason.UNCHECKED),
        (AT, f"({CHECK} + z[t, 0])", Reason.WHOLE),
        (AT, f"({CHECK} + z[4 - t, 1])", Reason.WHOLE),
    ],
)
def test_why_an_element_is_not_caught(index: str, other: str, reason: Reason) -> None:
    before = read(PICKED.format(index, other))
    tried: list[Tried] = []
    assert stream(before, resident=LONG, tried=tried) is before
    assert {t.reason for t in tried} == {reason}


def test_rows_of_memory_are_just_read() -> None:
    before = read("""
kernel k(x: f32[5, 7], d: i64[5]) -> (y: f32[5])
  axes t:5, c:7
  m[t]: f32 = max(c) x[t, c]
  y[t] <- (x[t, at(d[t], 7)] - m[t])
""")
    assert stream(before, resident=LONG) is before


def test_short_and_strict_rows_are_kept_for_the_index() -> None:
    before = read(PICKED.format(AT, CHECK))
    for strict, resident, reason in ((True, LONG, Reason.STRICT), (False, 7, Reason.SHORT)):
        tried: list[Tried] = []
        assert stream(before, strict, resident, tried) is before
        assert {t.reason for t in tried} == {reason}
