"""The law of delay: factors leave a reduction where that saves a pass over a long row, and the values do not change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_runs import LONG, SPECIAL, assert_equal_runs, inputs_of, read

from treadle.ir.expr import loads_in
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Equation, Kernel
from treadle.ir.types import DTYPES
from treadle.passes.chains import reductions_before
from treadle.passes.delay import delay, take_out
from treadle.passes.ranges import find_range
from treadle.passes.reasons import Reason, Tried


def chain(value: str, state: str = "sum", length: int = 9, options: str = "") -> Kernel:
    """y reduces `value`, which may read the row x, the weights w, and s, a reduction over the same axis."""
    return read(f"""
kernel k(x: f32[3, {length}], w: f32[{length}], b: f32[3]) -> (y: f32[3])
  axes t:3, c:{length}
  s[t]: f32 = sum(c) (x[t, c] * x[t, c])
  z[t]: f32 = {state}(c) {options}{value}
  y[t] <- z[t]
""")


def passes_of(kernel: Kernel) -> int:
    """How often the row is passed over: the longest chain."""
    reductions = [s for s in kernel.body if isinstance(s, Equation) and s.reduce]
    return max(_passes(kernel, s) for s in reductions)


def _passes(kernel: Kernel, s: Equation) -> int:
    return 1 + max((_passes(kernel, e) for e in reductions_before(kernel, s.args, s.reduce)), default=0)


def ask(kernel: Kernel, strict: bool = False, resident: int = LONG) -> tuple[Kernel, list[Tried]]:
    tried: list[Tried] = []
    return delay(kernel, strict, resident, tried), tried


R = "rsqrt((s[t] + 1.0))"
LEGAL = [
    f"((x[t, c] * {R}) * w[c])",
    f"(x[t, c] / {R})",
    f"({R} / (abs(x[t, c]) + 1.0))",
    f"(-1.0 * (({R} * x[t, c]) / (s[t] + 2.0)))",
    f"neg((x[t, c] * {R}))",
    "where((s[t] > 4.0), x[t, c], 0.0)",
    f"({R} * where((s[t] > 4.0), x[t, c], 0.0))",
    "exp((tanh(s[t]) + sin(x[t, c])))",
    "exp((tanh(x[t, c]) - tanh(s[t])))",
    "exp((tanh(s[t]) - tanh(x[t, c])))",
]


@pytest.mark.parametrize("value", LEGAL)
def test_what_is_free_of_the_axis_leaves_a_sum(value: str) -> None:
    before = chain(value)
    after, tried = ask(before)
    assert (passes_of(before), passes_of(after)) == (2, 1)
    assert [(t.law, t.value, t.other, t.reason) for t in tried] == [("delay", "z", "s", None)]
    assert_equal_runs(before, after, inputs_of(before, 1))
    assert after.notes == ("delay: what z is scaled by is applied at the end",)


@pytest.mark.parametrize("value", LEGAL)
def test_what_remains_inside_has_no_factor_and_what_has_left_no_axis(value: str) -> None:
    after, _ = ask(chain(value))
    inner, outer = (
        next(s for s in after.body if isinstance(s, Equation) and s.names == (n,)) for n in ("z_inner", "z")
    )
    assert all(e.name != "s" for e in loads_in(*inner.args))
    assert not outer.args[0].axes & set(inner.reduce)


@pytest.mark.parametrize(
    ("state", "value"),
    [
        ("max", "(x[t, c] * min(max(s[t], 0.5), 8.0))"),
        ("min", "(x[t, c] / min(max(s[t], 0.5), 8.0))"),
        ("max", "where((s[t] > 4.0), x[t, c], -inf)"),
        ("min", "where((s[t] > 4.0), x[t, c], inf)"),
    ],
)
def test_positive_factors_leave_a_maximum(state: str, value: str) -> None:
    before = chain(value, state)
    after, _ = ask(before)
    assert passes_of(after) == 1
    for seed in range(20):
        assert_equal_runs(before, after, inputs_of(before, seed, SPECIAL), tolerance=0.0)


@pytest.mark.parametrize(
    "value",
    [
        "(x[t, c] * s[t])",  # may be 0: 0 * inf
        "(x[t, c] * tanh(s[t]))",  # may be negative
        "neg((x[t, c] * min(max(s[t], 0.5), 8.0)))",
        "(x[t, c] * exp(s[t]))",  # may be inf
        "where((s[t] > 4.0), x[t, c], 0.0)",  # 0 is not the identity
        "(x[t, c] + s[t])",
    ],
)
def test_other_factors_stay_in_a_maximum(value: str) -> None:
    before = chain(value, "max")
    assert ask(before) == (before, [])


@pytest.mark.parametrize(
    "value",
    [
        "exp((x[t, c] - s[t]))",  # exp(-s) may overflow alone
        "(x[t, c] - s[t])",
        "f32(bf16((x[t, c] * s[t])))",  # a cast is opaque
        "max(x[t, c], s[t])",
        "where((s[t] > x[t, c]), x[t, c], 0.0)",
        "where((s[t] > 4.0), x[t, c], 1.0)",
        "(x[t, c] * sqrt((x[t, c] + s[t])))",
    ],
)
def test_what_is_not_free_stays_in_a_sum(value: str) -> None:
    before = chain(value)
    assert ask(before) == (before, [])


def test_a_sum_of_nothing_but_factors_is_left_alone() -> None:
    before = chain("(s[t] * b[t])")
    assert ask(before) == (before, [])


def test_a_factor_that_waits_for_no_reduction_stays() -> None:
    before = chain("(x[t, c] * b[t])")
    assert ask(before) == (before, [])


def test_what_leaves_must_wait_for_another_reduction() -> None:
    before = chain("((x[t, c] - s[t]) * b[t])")
    assert ask(before) == (before, [Tried("delay", "z", "s", Reason.KNOWN)])


def test_strict_numerics_and_short_rows_keep_the_form() -> None:
    before = chain(LEGAL[0])
    assert ask(before, strict=True) == (before, [Tried("delay", "z", "s", Reason.STRICT)])
    assert ask(before, resident=9) == (before, [Tried("delay", "z", "s", Reason.SHORT)])


def test_sums_in_sixteen_bits_keep_the_factor() -> None:
    before = read("""
kernel k(x: f16[3, 9]) -> (y: f16[3])
  axes t:3, c:9
  s[t]: f16 = sum(c) x[t, c]
  z[t]: f16 = sum(c) (x[t, c] * s[t])
  y[t] <- z[t]
""")
    assert ask(before) == (before, [Tried("delay", "z", "s", Reason.OPERANDS)])


@pytest.mark.parametrize(
    ("stored", "operands", "holds"), [("bf16", "bf16", True), ("f32", "bf16", False), ("f16", "f16", False)]
)
def test_narrow_operands_must_be_exact_without_the_factor(stored: str, operands: str, holds: bool) -> None:
    widened = [f"{a}" if stored == "f32" else f"f32({a})" for a in ("x[t, c]", "w[c]")]
    before = read(f"""
kernel k(x: {stored}[3, 9], w: {stored}[9]) -> (y: f32[3])
  axes t:3, c:9
  s[t]: f32 = sum(c) {widened[0]}
  z[t]: f32 = sum(c) operands {operands} (({widened[0]} * s[t]) * {widened[1]})
  y[t] <- z[t]
""")
    after, tried = ask(before)
    assert tried[0].reason is (None if holds else Reason.OPERANDS)
    assert (after is not before) == holds


def test_a_chain_of_three_needs_one_pass() -> None:
    before = read("""
kernel k(x: f32[3, 9], w: f32[9]) -> (y: f32[3])
  axes t:3, c:9
  a[t]: f32 = sum(c) (x[t, c] * x[t, c])
  b[t]: f32 = sum(c) ((x[t, c] * w[c]) * a[t])
  z[t]: f32 = sum(c) ((w[c] / (b[t] + 100.0)) * where((a[t] > 3.0), x[t, c], 0.0))
  y[t] <- z[t]
""")
    after, _ = ask(before)
    assert (passes_of(before), passes_of(after)) == (3, 2)
    assert_equal_runs(before, after, inputs_of(before, 5))


FACTORS = (
    "x[t, c]",
    "w[c]",
    "s[t]",
    "b[t]",
    "2.0",
    "abs(w[c])",
    "rsqrt((s[t] + 1.0))",
    "where((b[t] > 0.0), x[t, c], 0.0)",
)


@st.composite
def products(draw: st.DrawFn, depth: int = 3) -> str:
    if not depth or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(FACTORS))
    left = draw(products(depth - 1))
    kind = draw(st.sampled_from(("mul", "mul", "div", "neg", "where")))
    if kind == "neg":
        return f"neg({left})"
    if kind == "div":
        return f"({left} / ({draw(st.sampled_from(('s[t]', 'abs(b[t])', 'abs(w[c])')))} + 1.0))"
    if kind == "where":
        return f"where((b[t] < 0.5), {left}, 0.0)"
    return f"({left} * {draw(products(depth - 1))})"


@settings(max_examples=60, deadline=None)
@given(products(), st.integers(0, 1000))
def test_random_products_keep_their_sums(value: str, seed: int) -> None:
    before = chain(value)
    after, _ = ask(before)
    assert_equal_runs(before, after, inputs_of(before, seed))


@settings(max_examples=60, deadline=None)
@given(products(), st.integers(0, 1000))
def test_what_is_no_number_stays_no_number(value: str, seed: int) -> None:
    """Rows with infinities: a finite result comes from finite elements alone, so it cannot change its kind."""
    before = chain(value)
    after, _ = ask(before)
    inputs = inputs_of(before, seed, (float("inf"), -float("inf"), float("nan")), share=0.1)
    one, two = (run_kernel(k, inputs, float64=True)["y"] for k in (before, after))
    assert torch.equal(one.isfinite(), two.isfinite())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ranges_hold(data: st.DataObject) -> None:
    text = data.draw(bounded_texts())
    kernel = read(f"kernel k(x: f32[40]) -> (y: f32[40])\n  axes c:40\n  y[c] <- {text}\n")
    low, high = find_range(kernel.stores[0].value)
    got = run_kernel(kernel, inputs_of(kernel, data.draw(st.integers(0, 99)), SPECIAL), float64=True)["y"]
    got = got[~got.isnan()]
    assert bool(((got >= low) & (got <= high)).all()), (text, low, high)


@st.composite
def bounded_texts(draw: st.DrawFn, depth: int = 3) -> str:
    if not depth:
        return draw(st.sampled_from(("x[c]", "1.5", "-3.0", "inf", "0.0")))
    a = draw(bounded_texts(depth - 1))
    name = draw(
        st.sampled_from(("sigmoid", "tanh", "sin", "exp", "abs", "neg", "sqrt", "min", "max", "+", "-", "where"))
    )
    if name in "+-":
        return f"({a} {name} {draw(bounded_texts(depth - 1))})"
    if name in ("min", "max"):
        return f"{name}({a}, {draw(bounded_texts(depth - 1))})"
    return f"where((x[c] > 0.0), {a}, {draw(bounded_texts(depth - 1))})" if name == "where" else f"{name}({a})"


def test_selects_leave_sums_of_integers() -> None:
    before = read("""
kernel k(x: i64[9]) -> (y: i64[])
  axes c:9
  m[]: i64 = max(c) x[c]
  z[]: i64 = sum(c) where((m[] > 0:i64), x[c], 0:i64)
  y[] <- z[]
""")
    after, _ = ask(before)
    assert passes_of(after) == 1
    assert_equal_runs(before, after, inputs_of(before))


def test_no_factor_leaves_a_sum_of_integers() -> None:
    kernel = read("kernel k(x: i64[9]) -> (y: i64[])\n  axes c:9\n  z[]: i64 = sum(c) (x[c] * 3:i64)\n  y[] <- z[]\n")
    equation = kernel.equations["z"]
    assert equation.dtypes == (DTYPES["i64"],) and take_out(equation) is None
