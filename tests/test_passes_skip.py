"""Interval analysis of guards: what is claimed of a tile is proved point by point, and by z3 for every origin."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product as points_of
from typing import Any

import pytest
import z3
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from law_runs import SPECIAL, assert_equal_runs, inputs_of, read
from strategies_loops import indices

from treadle.ir.expr import Expr, Op
from treadle.ir.index import Axis, Div, Index, Mod, as_index, of_atom, substitute
from treadle.ir.interp import run_kernel
from treadle.ir.scalar import iota, op
from treadle.ir.simplify import exact
from treadle.ir.spans import Holds, Span, Tile, classify, find_span, limits_in
from treadle.ir.types import BOOL
from treadle.passes.skip import skip

ROW, COL = Axis("i", 40), Axis("j", 40)
A, B = Axis("a", 5), Axis("b", 5)
BLOCKS = {ROW: Tile(of_atom(A) * 8, 8), COL: Tile(of_atom(B) * 8, 8)}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def compare(name: str, left: Index | Axis | int, right: Index | Axis | int) -> Expr:
    return op(name, iota(as_index(left)), iota(as_index(right)))


@st.composite
def conditions(draw: st.DrawFn, axes: tuple[Axis, ...] = (ROW, COL), depth: int = 2) -> Expr:
    kind = draw(st.sampled_from(("compare", "compare", "and", "or", "not"))) if depth else "compare"
    if kind == "compare":
        sides = [draw(indices(axes, 2))[0] for _ in range(2)]
        return compare(draw(st.sampled_from(COMPARISONS)), *sides)
    parts = [draw(conditions(axes, depth - 1)) for _ in range(1 if kind == "not" else 2)]
    return op(kind, *parts)


# --- the meaning: plain numbers, and z3's ------------------------------------------------------------------------


def value_of(i: Index, env: Mapping[Axis, object]) -> object:
    total: object = z3.IntVal(int(i.const)) if any(isinstance(v, z3.ArithRef) for v in env.values()) else int(i.const)
    for atom, coefficient in i.terms:
        if isinstance(atom, Axis):
            value = env[atom]
        else:
            assert isinstance(atom, (Div, Mod))
            inner, by = value_of(atom.index, env), int(atom.by)
            value = inner / by if isinstance(inner, z3.ArithRef) else inner // by  # type: ignore[operator]
            value = value if isinstance(atom, Div) else inner % by  # type: ignore[operator]
        total = total + value * int(coefficient)  # type: ignore[operator]
    return total


def holds(e: Expr, env: Mapping[Axis, object]) -> object:
    if not isinstance(e, Op):
        return bool(e.value)  # type: ignore[attr-defined]
    symbolic = any(isinstance(v, z3.ArithRef) for v in env.values())
    if e.name in ("and", "or", "not"):
        parts = [holds(a, env) for a in e.args]
        if symbolic:
            return {"and": z3.And, "or": z3.Or, "not": z3.Not}[e.name](*parts)
        return not parts[0] if e.name == "not" else all(parts) if e.name == "and" else any(parts)
    left, right = (value_of(a.position or as_index(0), env) for a in e.args)
    return {
        "lt": lambda: left < right, "le": lambda: left <= right, "gt": lambda: left > right,  # type: ignore[operator]
        "ge": lambda: left >= right, "eq": lambda: left == right, "ne": lambda: left != right,  # type: ignore[operator]
    }[e.name]()  # fmt: skip


# --- never, always, mixed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "origins", "expected"),
    [
        (compare("le", COL, ROW), (0, 8), Holds.NEVER),
        (compare("le", COL, ROW), (8, 0), Holds.ALWAYS),
        (compare("le", COL, ROW), (8, 8), Holds.MIXED),
        (compare("lt", of_atom(ROW) - of_atom(COL), 4), (32, 0), Holds.NEVER),
        (compare("eq", of_atom(ROW) // 8, of_atom(COL) // 8), (8, 8), Holds.ALWAYS),
        (compare("eq", of_atom(ROW) // 8, of_atom(COL) // 8), (8, 16), Holds.NEVER),
        (op("not", compare("le", COL, ROW)), (0, 8), Holds.ALWAYS),
        (op("and", compare("le", COL, ROW), compare("lt", ROW, 4)), (0, 8), Holds.NEVER),
        (op("or", compare("le", COL, ROW), compare("ge", ROW, 0)), (0, 8), Holds.ALWAYS),
    ],
)
def test_tiles_of_masks(condition: Expr, origins: tuple[int, int], expected: Holds) -> None:
    tiles = {a: Tile(as_index(o), 8) for a, o in zip((ROW, COL), origins, strict=True)}
    assert classify(condition, tiles) is expected


def test_one_block_of_two_axes() -> None:
    """The same symbolic origin cancels: in the blocks on a diagonal the axes are never 8 apart."""
    tiles = {ROW: Tile(of_atom(A) * 8, 8), COL: Tile(of_atom(A) * 8, 8)}
    assert classify(compare("lt", of_atom(ROW) - of_atom(COL), 8), tiles) is Holds.ALWAYS
    assert classify(compare("eq", of_atom(ROW) // 8, of_atom(COL) // 8), tiles) is Holds.ALWAYS
    assert classify(compare("eq", of_atom(ROW) // 8, of_atom(COL) // 8), BLOCKS) is Holds.MIXED


@settings(max_examples=150, deadline=None)
@given(conditions(), st.integers(0, 36), st.integers(0, 36), st.integers(1, 6), st.integers(1, 6))
def test_claims_about_tiles_are_true(condition: Expr, i: int, j: int, width: int, height: int) -> None:
    found = classify(condition, {ROW: Tile(as_index(i), width), COL: Tile(as_index(j), height)})
    seen = {
        bool(holds(condition, {ROW: i + x, COL: j + y})) for x, y in points_of(range(width), range(height))
    }  # fmt: skip
    assert found is Holds.MIXED or seen == {found is Holds.ALWAYS}


@settings(max_examples=60, deadline=None)
@given(conditions(), st.booleans())
def test_claims_about_every_origin_are_proved(condition: Expr, diagonal: bool) -> None:
    tiles = {ROW: BLOCKS[ROW], COL: Tile(of_atom(A) * 8, 8)} if diagonal else BLOCKS
    found = classify(condition, tiles)
    assume(found is not Holds.MIXED)
    numbers: list[Any] = [z3.Int(n) for n in "ijab"]
    i, j, a, b = numbers
    second = a if diagonal else b
    solver = z3.Solver()
    solver.set("timeout", 10_000)
    solver.add(a >= 0, a < 5, b >= 0, b < 5, i >= 8 * a, i < 8 * a + 8, j >= 8 * second, j < 8 * second + 8)
    solver.add(holds(condition, {ROW: i, COL: j}) != (found is Holds.ALWAYS))
    assert solver.check() == z3.unsat


@settings(max_examples=100, deadline=None)
@given(indices((ROW, COL), 3), st.integers(0, 36), st.integers(0, 36))
def test_limits_hold(made: tuple[Index, object], i: int, j: int) -> None:
    low, high = limits_in(made[0], {ROW: Tile(as_index(i), 4), COL: Tile(as_index(j), 3)})
    values = [value_of(made[0], {ROW: i + x, COL: j + y}) for x, y in points_of(range(4), range(3))]
    assert all(low <= v <= high for v in values)  # type: ignore[operator]


def test_what_data_decide_is_mixed() -> None:
    kernel = read("kernel k(p: bool[4], x: f32[4]) -> (y: f32[4])\n  axes i:4\n  y[i] <- where(p[i], x[i], 0.0)\n")
    value = kernel.stores[0].value
    assert isinstance(value, Op) and classify(value.args[0], {}) is Holds.MIXED


# --- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "first", "end"),
    [
        (compare("le", COL, ROW), None, "8*a + 8"),
        (compare("gt", COL, of_atom(ROW) - 4), "8*a - 3", None),
        (op("and", compare("le", COL, ROW), compare("gt", COL, of_atom(ROW) - 4)), "8*a - 3", "8*a + 8"),
        (compare("eq", of_atom(COL) // 16, of_atom(ROW) // 16), "16*(a // 2)", "16*(a // 2) + 16"),
        (compare("lt", of_atom(COL) // 16, as_index(2)), None, "32"),
        (compare("ge", (of_atom(COL) + 3) // 4, as_index(2)), "5", None),
        (op("not", op("or", compare("lt", COL, 5), compare("ge", COL, 9))), "5", "9"),
        (op("or", compare("lt", COL, 5), compare("ge", COL, 9)), None, None),
        (compare("lt", of_atom(COL) * 3, of_atom(A)), None, "(a + 2 // 3)"),
    ],
)
def test_where_a_condition_can_hold(condition: Expr, first: str | None, end: str | None) -> None:
    span = find_span(condition, COL, {ROW: BLOCKS[ROW]})
    found = [None if s is None else str(s) for s in (span.first, span.end)]
    assert found == [first, end]
    check_span(condition, span)


@settings(max_examples=100, deadline=None)
@given(conditions())
def test_spans_leave_out_nothing(condition: Expr) -> None:
    check_span(condition, find_span(condition, COL, {ROW: BLOCKS[ROW]}))


def check_span(condition: Expr, span: Span) -> None:
    for a in range(5):
        at = [None if s is None else int(substitute(s, {A: as_index(a)}).const) for s in (span.first, span.end)]
        for i, j in points_of(range(8 * a, 8 * a + 8), range(40)):
            inside = (at[0] is None or j >= at[0]) and (at[1] is None or j < at[1])
            assert inside or not holds(condition, {ROW: i, COL: j, A: a}), (condition, span, i, j)


# --- reductions --------------------------------------------------------------------------------------------------

GUARDED = {"sum": "0.0", "prod": "1.0", "max": "-inf", "min": "inf"}


def guarded(state: str, guard: str, other: str, value: str = "x[t, c]") -> str:
    return f"""
kernel k(x: f32[3, 9], d: i64[9]) -> (y: f32[3])
  axes t:3, c:9
  e[t]: f32 = {state}(c) where({guard}, {value}, {other})
  y[t] <- e[t]
"""


RANGES = {
    "(#(c) < 4:i64)": 4,
    "((#(c) >= 2:i64) & (#(c) < 5:i64))": 3,
    "(#(c) == 7:i64)": 1,
    "(#(c) <= #(t))": 3,
    "(#((c // 4)) == 1:i64)": 4,
    "(not((#(c) < 6:i64)) & (x[t, c] > 0.0))": 3,
}


@pytest.mark.parametrize("state", GUARDED)
@pytest.mark.parametrize("guard", RANGES)
def test_a_reduction_runs_where_its_guard_holds(state: str, guard: str) -> None:
    before = read(guarded(state, guard, GUARDED[state]))
    after = skip(before, exact)
    (axis,) = after.equations["e"].reduce
    assert axis.extent == RANGES[guard]
    for seed in range(5):
        assert_equal_runs(before, after, inputs_of(before, seed, SPECIAL))


def test_a_guard_that_never_holds_leaves_the_identity() -> None:
    before = read(guarded("max", "((#(c) >= 5:i64) & (#(c) < 3:i64))", "-inf"))
    after = skip(before, exact)
    assert not after.equations["e"].state
    assert_equal_runs(before, after, inputs_of(before))


def test_a_guarded_load_is_enough_for_a_sum() -> None:
    before = read(guarded("sum", "true", "0.0").replace("where(true, x[t, c], 0.0)", "x[t, c - 2 if (#(c) >= 2:i64)]"))
    after = skip(before, exact)
    assert after.equations["e"].reduce[0].extent == 7
    assert_equal_runs(before, after, inputs_of(before))


@pytest.mark.parametrize(
    ("state", "guard", "other", "value"),
    [
        ("sum", "(#(c) < 4:i64)", "1.0", "x[t, c]"),
        ("max", "(#(c) < 4:i64)", "0.0", "x[t, c]"),
        ("sum", "(x[t, c] > 0.0)", "0.0", "x[t, c]"),
        ("sum", "(#(c) < 4:i64)", "0.0", "x[t, at(d[c], 9)]"),
        ("sum", "((#(c) < 4:i64) | (#(c) >= 6:i64))", "0.0", "x[t, c]"),
        ("max_sum_exp", "(#(c) < 4:i64)", "-inf", "x[t, c]"),
    ],
)
def test_other_reductions_keep_their_axes(state: str, guard: str, other: str, value: str) -> None:
    text = guarded(state, guard, other, value)
    if state == "max_sum_exp":
        text = text.replace("e[t]: f32 =", "(_[t]: f32, e[t]: f32) =")
    before = read(text)
    assert skip(before, exact) is before


def test_bad_indices_are_still_reported() -> None:
    before = read(guarded("sum", "(#(c) < 4:i64)", "0.0", "x[t, at(d[c], 9)]"))
    inputs = inputs_of(before)
    inputs["d"][8] = 9
    with pytest.raises(IndexError):
        run_kernel(skip(before, exact), inputs, float64=True)


@settings(max_examples=60, deadline=None)
@given(conditions((Axis("t", 3), Axis("c", 9))), st.sampled_from(sorted(GUARDED)), st.integers(0, 99))
def test_random_guards(condition: Expr, state: str, seed: int) -> None:
    assume(condition.dtype is BOOL)
    before = read(guarded(state, str(condition), GUARDED[state]))
    assert_equal_runs(before, skip(before, exact), inputs_of(before, seed, SPECIAL))
