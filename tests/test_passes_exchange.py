"""The law of exchange: nested sums change places where the inner one is there already, and the values do not change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_runs import assert_equal_runs, inputs_of, read, states_of

from treadle.ir.interp import run_kernel
from treadle.ir.loops import Kernel
from treadle.passes.exchange import exchange
from treadle.passes.reasons import Reason, Tried


def nested(
    there: str = "(a[i, j] * c[j, e])", inner: str = "(b[i, e] * c[j, e])", outer: str = "(a[i, j] * p[i, j])",
    other: str = "0.0", sizes: tuple[int, int] = (5, 3), extra: str = "",
) -> Kernel:  # fmt: skip
    """y sums `outer`, which reads p, the sum of `inner`; o sums `there`. `other` is what the last store has."""
    j, e = sizes
    return read(f"""
kernel k(a: f32[4, {j}], b: f32[4, {e}], c: f32[{j}, {e}], s: f32[4]) -> (y: f32[4], z: f32[4, {e}], u: f32[4, {j}])
  axes i:4, j:{j}, e:{e}, q:{j}, r:{e}
  o[i, e]: f32 = sum(j) {there}
  p[i, j]: f32 = sum(e) {inner}
  t[i]: f32 = sum(j) {outer}
  y[i] <- t[i]
  z[i, e] <- o[i, e]
  u[i, j] <- {other}
{extra}""")


def ask(kernel: Kernel, strict: bool = False) -> tuple[Kernel, list[Tried]]:
    tried: list[Tried] = []
    return exchange(kernel, strict, tried), tried


def test_the_sum_that_is_there_is_read() -> None:
    before = nested()
    after, tried = ask(before)
    assert tried[0] == Tried("exchange", "t", "p", None)
    assert "p" not in after.equations and states_of(after) == ["sum", "sum"]
    assert [a.name for a in after.equations["t"].reduce] == ["e"]
    assert_equal_runs(before, after, inputs_of(before, 3))


@pytest.mark.parametrize(
    "parts",
    [
        {"there": "(c[j, e] * a[i, j])"},
        {"outer": "(p[i, j] * a[i, j])"},
        {"outer": "((s[i] * a[i, j]) * p[i, j])"},
        {"inner": "((s[i] * b[i, e]) * c[j, e])"},
        {"there": "((a[i, j] * exp(c[j, e])) * a[i, j])", "inner": "(b[i, e] * exp(c[j, e]))",
         "outer": "((a[i, j] * p[i, j]) * a[i, j])"},
        {"there": "c[j, e]", "outer": "p[i, j]", "inner": "(b[i, e] * c[j, e])"},
        {"other": "p[i, j]"},
    ],
)  # fmt: skip
def test_other_orders_and_other_factors(parts: dict[str, str]) -> None:
    if parts.get("there") == "c[j, e]":
        before = read("""
kernel k(b: f32[4, 3], c: f32[5, 3]) -> (y: f32[4], z: f32[3])
  axes i:4, j:5, e:3
  o[e]: f32 = sum(j) c[j, e]
  p[i, j]: f32 = sum(e) (b[i, e] * c[j, e])
  t[i]: f32 = sum(j) p[i, j]
  y[i] <- t[i]
  z[e] <- o[e]
""")
    else:
        before = nested(**parts)  # type: ignore[arg-type]
    after, _ = ask(before)
    assert after is not before
    assert ("p" in after.equations) == ("other" in parts)
    assert_equal_runs(before, after, inputs_of(before, 3))


def test_names_of_axes_do_not_count() -> None:
    before = read("""
kernel k(a: f32[4, 5], b: f32[4, 3], c: f32[5, 3]) -> (y: f32[4], z: f32[3, 4])
  axes i:4, j:5, e:3, q:5, r:3
  o[r, i]: f32 = sum(q) (a[i, q] * c[q, r])
  p[j, i]: f32 = sum(e) (b[i, e] * c[j, e])
  t[i]: f32 = sum(j) (a[i, j] * p[j, i])
  y[i] <- t[i]
  z[r, i] <- o[r, i]
""")
    after, _ = ask(before)
    assert states_of(after) == ["sum", "sum"]
    assert_equal_runs(before, after, inputs_of(before, 3))


def test_an_axis_that_both_sums_reduce_keeps_its_meaning() -> None:
    """The inner sum runs over an axis that the outer one keeps: one of the two needs another name."""
    before = read("""
kernel k(a: f32[4, 5], b: f32[4, 4], c: f32[5, 4]) -> (y: f32[4], z: f32[4, 4])
  axes i:4, j:5, e:4
  o[i, e]: f32 = sum(j) (a[i, j] * c[j, e])
  p[e, j]: f32 = sum(i) (b[e, i] * c[j, i])
  t[i]: f32 = sum(j) (a[i, j] * p[i, j])
  y[i] <- t[i]
  z[i, e] <- o[i, e]
""")
    after, _ = ask(before)
    assert after is not before
    assert_equal_runs(before, after, inputs_of(before, 3))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"there": "(a[i, j] * exp(c[j, e]))"}, Reason.ABSENT),
        ({"there": "((a[i, j] * c[j, e]) * c[j, e])"}, Reason.ABSENT),
        ({"there": "(a[i, j] * c[4 - j, e])"}, Reason.ABSENT),
        ({"outer": "(p[i, j] * p[i, j])"}, Reason.ABSENT),
        ({"other": "p[i, j]", "sizes": (3, 3)}, Reason.LONGER),
        ({"other": "p[i, j]", "sizes": (3, 5)}, Reason.LONGER),
    ],
)
def test_why_sums_keep_their_places(parts: dict[str, object], reason: Reason) -> None:
    before = nested(**parts)  # type: ignore[arg-type]
    after, tried = ask(before)
    assert after is before and {t.reason for t in tried} == {reason}


def test_strict_numerics_keep_the_order() -> None:
    before = nested()
    assert ask(before, strict=True) == (before, [Tried("exchange", "t", "p", Reason.STRICT)])


def test_a_maximum_is_no_sum() -> None:
    for line in ("o[i, e]: f32 = sum(j)", "p[i, j]: f32 = sum(e)", "t[i]: f32 = sum(j)"):
        text = """
kernel k(a: f32[4, 5], b: f32[4, 3], c: f32[5, 3]) -> (y: f32[4], z: f32[4, 3])
  axes i:4, j:5, e:3
  o[i, e]: f32 = sum(j) (a[i, j] * c[j, e])
  p[i, j]: f32 = sum(e) (b[i, e] * c[j, e])
  t[i]: f32 = sum(j) (a[i, j] * p[i, j])
  y[i] <- t[i]
  z[i, e] <- o[i, e]
"""
        before = read(text.replace(line, line.replace("sum", "max")))
        assert ask(before)[0] is before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_products(data: st.DataObject) -> None:
    """What the law needs is there, its factors in some order: the law holds, and the values stay."""
    of_j = ["a[i, j]", *data.draw(st.lists(st.sampled_from(("s[i]", "abs(a[i, j])")), max_size=2))]
    of_e = ["c[j, e]", *data.draw(st.lists(st.sampled_from(("b[i, e]", "s[i]", "abs(c[j, e])")), max_size=2))]
    there = [f for f in (*of_j, *of_e) if "j" in f]
    orders = [data.draw(st.permutations(f)) for f in (there, of_e, [*of_j, "p[i, j]"])]
    there_now, inner, outer = (product(o) for o in orders)
    before = nested(there_now, inner, outer)
    after, _ = ask(before)
    assert after is not before
    assert_equal_runs(before, after, inputs_of(before, data.draw(st.integers(0, 99))))


@pytest.mark.parametrize("seed", range(30))
def test_what_is_no_number_stays_no_number(seed: int) -> None:
    before = nested()
    inputs = inputs_of(before, seed, (float("inf"), -float("inf"), float("nan"), 0.0), share=0.1)
    one, two = (run_kernel(k, inputs, float64=True)["y"] for k in (before, ask(before)[0]))
    assert torch.equal(one.isfinite(), two.isfinite())


def product(factors: list[str]) -> str:
    total, *rest = factors
    for f in rest:
        total = f"({total} * {f})"
    return total
