"""Splitting a reduction: parts whose states are combined in a fixed order give what the whole gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_runs import SPECIAL, assert_equal_runs, inputs_of, read, states_of

from treadle.ir.errors import ScheduleError
from treadle.ir.index import Axis
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Equation, Kernel
from treadle.ir.states import STATES
from treadle.passes.reasons import Reason
from treadle.passes.split import may_split, split

FORMS = {
    "sum": ("e[t]: f32 = sum({over}) {x}", "f32"),
    "prod": ("e[t]: f32 = prod({over}) {x}", "f32"),
    "max": ("e[t]: f32 = max({over}) {x}", "f32"),
    "min": ("e[t]: f32 = min({over}) {x}", "f32"),
    "any": ("e[t]: bool = any({over}) ({x} > 1.0)", "bool"),
    "all": ("e[t]: bool = all({over}) ({x} > -1.0)", "bool"),
    "argmax": ("(v[t]: f32, e[t]: i64) = argmax({over}) {x}, {at}", "i64"),
    "argmin": ("(v[t]: f32, e[t]: i64) = argmin({over}) {x}, {at}", "i64"),
    "argmax_last": ("(v[t]: f32, e[t]: i64) = argmax_last({over}) {x}, {at}", "i64"),
    "argmin_last": ("(v[t]: f32, e[t]: i64) = argmin_last({over}) {x}, {at}", "i64"),
    "max_sum_exp": ("(m[t]: f32, e[t]: f32) = max_sum_exp({over}) {x}", "f32"),
    "max_weighted_sum": ("(m[t]: f32, e[t]: f32) = max_weighted_sum({over}) {x}, ({x} + 2.0)", "f32"),
    "moments": ("(n[t]: f32, a[t]: f32, e[t]: f32) = moments({over}) {x}", "f32"),
}


def kernel_of(state: str, length: int = 7, others: int = 0) -> Kernel:
    """A reduction of each row, or of rows and columns; all its components are stored."""
    equation, dtype = FORMS[state]
    shape, over, x, at = f"3, {length}", "c", "x[t, c]", "#(c)"
    if others:
        shape, over, x, at = f"3, {length}, {others}", "c, b", "x[t, c, b]", f"#({others}*c + b)"
    first = {"max_sum_exp": "m", "max_weighted_sum": "m", "moments": "a"}.get(
        state, "v" if state.startswith("arg") else "e"
    )
    axes = f"t:3, c:{length}" + (f", b:{others}" if others else "")
    return read(f"""
kernel k(x: f32[{shape}]) -> (y: {dtype}[3], z: {dtype if first == "e" else "f32"}[3])
  axes {axes}
  {equation.format(over=over, x=x, at=at)}
  y[t] <- e[t]
  z[t] <- {first}[t]
""")


def test_every_state_is_here() -> None:
    assert FORMS.keys() == STATES.keys()


@pytest.mark.parametrize("state", FORMS)
@pytest.mark.parametrize(("length", "parts"), [(8, 2), (8, 8), (7, 2), (7, 3), (5, 4), (9, 7)])
def test_parts_give_what_the_whole_gives(state: str, length: int, parts: int) -> None:
    before = kernel_of(state, length)
    after = split(before, "e", parts)
    assert_equal_runs(before, after, inputs_of(before, length))
    assert any(a.extent == parts for a in after.axes)
    assert after.notes == (f"split: e in {parts} parts of c",)


@pytest.mark.parametrize("state", sorted(FORMS.keys() - {"moments"}))
@pytest.mark.parametrize("seed", range(10))
def test_infinities_and_nan_keep_their_places(state: str, seed: int) -> None:
    before = kernel_of(state, 7)
    inputs = inputs_of(before, seed, SPECIAL, share=(0.3, 1.0)[seed % 2])
    inputs["x"][0] = -float("inf")  # a row of which nothing is left
    assert_equal_runs(before, split(before, "e", 3), inputs)


@pytest.mark.parametrize("seed", range(5))
def test_squares_of_rows_with_infinities_are_no_numbers(seed: int) -> None:
    """The order of combination decides between an infinity and NaN, so only that it is no number is kept."""
    before = kernel_of("moments", 7)
    inputs = inputs_of(before, seed)
    inputs["x"][1, seed] = float("inf")
    one, two = (run_kernel(k, inputs, float64=True)["y"] for k in (before, split(before, "e", 3)))
    assert torch.equal(one.isfinite(), two.isfinite())


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(2, 12), st.integers(0, 3), st.integers(2, 12), st.integers(0, 99))
def test_random_cuts(state: str, length: int, others: int, parts: int, seed: int) -> None:
    before = kernel_of(state, length, others)
    axis = next(a for a in before.axes if a.name == "c")
    if parts > length:
        assert may_split(before, before.equations["e"], axis, parts) is Reason.PARTS
        return
    assert_equal_runs(before, split(before, axis, parts), inputs_of(before, seed))


def test_the_longest_axis_is_cut() -> None:
    after = split(kernel_of("sum", 3, 5), "e", 2)
    assert after.notes == ("split: e in 2 parts of b",)


def test_an_axis_is_cut_in_all_that_reduce_it() -> None:
    before = read("""
kernel k(x: f32[3, 7]) -> (y: f32[3], z: f32[7])
  axes t:3, c:7
  m[t]: f32 = max(c) x[t, c]
  l[t]: f32 = sum(c) exp((x[t, c] - m[t]))
  r[c]: f32 = sum(t) x[t, c]
  y[t] <- l[t]
  z[c] <- r[c]
""")
    axis = next(a for a in before.axes if a.name == "c")
    after = split(before, axis, 3)
    assert states_of(after) == ["max", "max", "sum", "sum", "sum"]
    assert_equal_runs(before, after, inputs_of(before, 4))


def test_a_part_of_a_part_is_cut() -> None:
    before = kernel_of("sum", 11)
    once = split(before, "e", 4)
    twice = split(once, next(s for s in once.body if isinstance(s, Equation)), 2)
    assert_equal_runs(before, twice, inputs_of(before, 4))


def test_nothing_is_loaded_beyond_the_end() -> None:
    before = read(
        """
kernel k(x: f32[3, 7], d: i64[7], g: f32[5]) -> (y: f32[3])
  axes t:3, c:7
  e[t]: f32 = sum(c) (x[t, c if (c < 6)] * g[at(d[c], 5)])
  y[t] <- e[t]
""".replace("(c < 6)", "(#(c) < 6:i64)")
    )
    assert_equal_runs(before, split(before, "e", 4), inputs_of(before, 4))


def test_unread_components_stay_unread() -> None:
    before = read("""
kernel k(x: f32[3, 7]) -> (y: f32[3], z: f32[3], u: f32[3])
  axes t:3, c:7
  (_[t]: f32, l[t]: f32) = max_sum_exp(c) x[t, c]
  (m[t]: f32, _[t]: f32) = max_sum_exp(c) x[t, c]
  (_[t]: f32, _[t]: f32, q[t]: f32) = moments(c) x[t, c]
  y[t] <- l[t]
  z[t] <- m[t]
  u[t] <- q[t]
""")
    after = before
    for name in ("l", "m", "q"):
        after = split(after, name, 3)
    assert_equal_runs(before, after, inputs_of(before, 4))


REFUSED = {
    Reason.SCANS: ("e[t, c]: f32 = scan sum(c) inclusive x[t, c]", "c:9"),
    Reason.UNSIZED: ("e[t]: f32 = sum(c) x[t, c]", "c:n"),
    Reason.PARTS: ("e[t]: f32 = sum(c) x[t, c]", "c:1"),
    Reason.UNREDUCED: ("e[t]: f32 = x[t, 0]", "c:9"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_why_a_reduction_is_not_cut(reason: Reason) -> None:
    equation, axis = REFUSED[reason]
    size = axis.split(":")[1]
    value = "e[t, 0]" if reason is Reason.SCANS else "e[t]"
    axes = "t:3" if reason is Reason.UNREDUCED else f"t:3, {axis}"
    kernel = read(f"kernel k(x: f32[3, {size}]) -> (y: f32[3])\n  axes {axes}\n  {equation}\n  y[t] <- {value}\n")
    assert may_split(kernel, kernel.equations["e"]) is reason
    with pytest.raises(ScheduleError, match="cannot be split"):
        split(kernel, "e", 2)


def test_an_axis_that_nothing_reduces() -> None:
    with pytest.raises(ScheduleError, match="does not reduce"):
        split(kernel_of("sum"), Axis("other", 4), 2)


def test_a_row_that_data_bound() -> None:
    kernel = read("""
kernel k(x: f32[9], o: i64[4]) -> (y: f32[3])
  axes b:3, t:9 in o[b]..o[b + 1]
  e[b]: f32 = sum(t) x[t]
  y[b] <- e[b]
""")
    assert may_split(kernel, kernel.equations["e"]) is Reason.UNSIZED


def test_reductions_over_one_axis_share_the_axes_of_their_parts() -> None:
    before = read("""
kernel k(x: f32[3, 8]) -> (y: f32[3], z: f32[3])
  axes t:3, c:8
  a[t]: f32 = sum(c) x[t, c]
  b[t]: f32 = sum(c) (x[t, c] * x[t, c])
  y[t] <- a[t]
  z[t] <- b[t]
""")
    (axis,) = before.equations["a"].reduce
    after = split(before, axis, 4)
    first, second = (after.equations[n] for n in ("a_part", "b_part"))
    assert first.domain == second.domain and len(after.axes) == len(before.axes) + 1
    assert_equal_runs(before, after, inputs_of(before))
