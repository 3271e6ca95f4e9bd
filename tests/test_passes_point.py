"""The law of points: sums in which an index names the element that counts, and when they stay sums."""

from __future__ import annotations

import pytest
import torch
from law_runs import SPECIAL, assert_equal_runs, inputs_of, read

from treadle.ir.interp import run_kernel
from treadle.ir.loops import Equation, Kernel
from treadle.ir.verify import verify_kernel
from treadle.passes.point import may_point, point
from treadle.passes.reasons import Reason, Tried


def summed(value: str, over: str = "c", state: str = "sum", extent: str = "9") -> Kernel:
    return read(f"""
kernel k(x: f32[3, {extent}], d: i64[3], b: f32[3]) -> (y: f32[3])
  axes t:3, c:{extent}, r:4
  s[t]: f32 = {state}({over}) {value}
  y[t] <- s[t]
""")


def reduced(kernel: Kernel) -> list[tuple[str, ...]]:
    """The axes of every reduction that is left."""
    return [tuple(a.name for a in s.reduce) for s in kernel.body if isinstance(s, Equation) and s.reduce]


CLOSED = {
    "where((#(c) == d[t]), b[t], 0.0)": [],
    "where((d[t] == #(c)), b[t], 0.0)": [],
    "where((#(c) == d[t]), x[t, c], 0.0)": [],
    "where((#(c) == d[t]), exp((x[t, c] * f32(#(c)))), 0.0)": [],
    "neg(where((#(c) == d[t]), b[t], 0.0))": [],
    "(where((#(c) == d[t]), b[t], 0.0) * 0.5)": [],
    "(where((#(c) == d[t]), b[t], 0.0) / (abs(b[t]) + 1.0))": [],
    "(where((#(c) == d[t]), b[t], 0.0) - b[t])": [],
    "(b[t] - neg(where((#(c) == d[t]), x[t, c], 0.0)))": [],
    "(where((#(c) == d[t]), b[t], 0.0) + exp(x[t, c]))": [("c",)],
}
INDICES = torch.tensor([0, 8, 4])


@pytest.mark.parametrize("value", CLOSED)
def test_one_element_is_the_sum(value: str):
    before = summed(value)
    assert may_point(before)
    after = verify_kernel(point(before))
    assert reduced(after) == CLOSED[value] and any(n.startswith("point") for n in after.notes)
    for special in ((), SPECIAL):
        assert_equal_runs(before, after, inputs_of(before, 1, special) | {"d": INDICES}, tolerance=1e-12)


def test_an_index_beyond_the_row_names_nothing():
    before = summed("(where((#(c) == d[t]), x[t, c], 0.0) + where((#(c) == d[t]), b[t], 0.0))")
    after = point(before)
    inputs = inputs_of(before) | {"d": torch.tensor([-1, 9, 3])}
    expected = assert_equal_runs(before, after, inputs)["y"]
    assert expected[0] == expected[1] == 0 != expected[2]


def test_other_axes_are_summed_still():
    before = summed("where((#(c) == d[t]), (x[t, c] * f32(#(r))), 0.0)", over="c, r")
    after = point(before)
    assert reduced(after) == [("r",)]
    assert_equal_runs(before, after, inputs_of(before) | {"d": INDICES})


@pytest.mark.parametrize(
    ("value", "state", "extent"),
    [
        ("where((#(c) == d[t]), b[t], 1.0)", "sum", "9"),  # the others count too
        ("where((#(c) < d[t]), b[t], 0.0)", "sum", "9"),  # many elements
        ("where((#(c) == d[t]), b[t], 0.0)", "max", "9"),  # not a sum
        ("where((#(c) == #(c)), b[t], 0.0)", "sum", "9"),  # no element in particular
        ("where((#(c) == d[t]), b[t], 0.0)", "sum", "0"),  # a row of nothing
    ],
)
def test_what_stays_a_sum(value: str, state: str, extent: str):
    before = summed(value, state=state, extent=extent)
    assert point(before) is before


def test_a_value_of_the_kernel_is_not_kept_for_it():
    before = read("""
kernel k(x: f32[3, 9], d: i64[3]) -> (y: f32[3])
  axes t:3, c:9
  z[t, c]: f32 = exp(x[t, c])
  s[t]: f32 = sum(c) where((#(c) == d[t]), z[t, c], 0.0)
  y[t] <- s[t]
""")
    assert not may_point(before) and point(before) is before


def test_strict_numerics_keep_the_sum():
    before, tried = summed("where((#(c) == d[t]), b[t], 0.0)"), list[Tried]()
    assert point(before, strict=True, tried=tried) is before
    assert tried == [Tried("point", "s", "c", Reason.STRICT)]


def test_a_closed_term_counts_once_a_point():
    kernel = point(summed("(where((#(c) == d[t]), b[t], 0.0) + b[t])"))
    b = torch.tensor([1.0, -2.0, 0.25], dtype=torch.float64)
    got = run_kernel(kernel, inputs_of(kernel) | {"b": b, "d": INDICES}, float64=True)["y"]
    torch.testing.assert_close(got, 10 * b)
