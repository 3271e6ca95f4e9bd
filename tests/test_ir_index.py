"""Index expressions: the normal form means what it was built from, proved by trying every point, and a few by z3."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import z3
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive import evaluate_index
from strategies_loops import AXES, Env, indices

from treadle.ir.expr import Load
from treadle.ir.index import (
    ZERO,
    Axis,
    Data,
    Div,
    Index,
    Mod,
    as_index,
    axes_of,
    axis_coefficient,
    bounds,
    of_atom,
    substitute,
)
from treadle.ir.types import I64, divide_exactly, is_nonnegative, symbol

FEW = AXES[:3]


def points(axes: tuple[Axis, ...] = FEW) -> Iterator[Env]:
    for values in itertools.product(*(range(int(a.extent)) for a in axes)):
        yield dict(zip(axes, values, strict=True))


@settings(max_examples=300)
@given(indices(FEW, 4))
def test_the_normal_form_means_the_same(drawn):
    index, meaning = drawn
    for env in points():
        assert evaluate_index(index, env) == meaning(env), (index, env)


@settings(max_examples=300)
@given(indices(FEW, 4))
def test_bounds_hold(drawn):
    index, meaning = drawn
    low, high = bounds(index)
    values = [meaning(env) for env in points()]
    assert low <= min(values) and max(values) <= high, (index, low, high)


@given(indices(FEW, 2), st.integers(1, 12))
def test_what_is_in_range_needs_no_division(drawn, by: int):
    index, _ = drawn
    low, high = bounds(index)
    assume(low >= 0 and high < by)
    assert index // by is ZERO and index % by is index


@given(indices(FEW, 3), st.integers(1, 12))
def test_quotient_and_remainder_rejoin(drawn, by: int):
    index, _ = drawn
    assert (index // by) * by + index % by is index


@given(indices(FEW, 3), indices(FEW, 3))
def test_sums_have_one_form(a, b):
    assert a[0] + b[0] is b[0] + a[0]
    assert (a[0] + b[0]) - b[0] is a[0]


@given(indices(FEW, 3), st.tuples(*(indices(AXES[:2], 2) for _ in FEW)))
def test_substitution_means_substitution(drawn, targets):
    index, meaning = drawn
    mapping = {axis: new % int(axis.extent) for axis, (new, _) in zip(FEW, targets, strict=True)}
    replaced = substitute(index, mapping)
    for env in points(AXES[:2]):
        inner = {axis: evaluate_index(new, env) for axis, new in mapping.items()}
        assert evaluate_index(replaced, env) == meaning(inner)


@given(indices(FEW, 3))
def test_coefficients_are_differences(drawn):
    index, meaning = drawn
    for axis in FEW:
        step = axis_coefficient(index, axis)
        if step is None:
            continue
        for env in points():
            if env[axis] + 1 < axis.extent:
                assert meaning({**env, axis: env[axis] + 1}) - meaning(env) == step


@given(indices(FEW, 3))
def test_axes_are_those_it_depends_on(drawn):
    index, meaning = drawn
    for axis in set(FEW) - axes_of(index):
        for env in points():
            assert meaning(env) == meaning({**env, axis: 0})


# --- the rules of the docstrings ---------------------------------------------------------------------------------

N = symbol("n")


@pytest.mark.parametrize("extent", [1, 5, N, N * 3])
def test_digits_vanish(extent):
    high, low = Axis("a", extent), Axis("b", 8)
    a, b = of_atom(high), of_atom(low)
    assert (a * 8 + b) // 8 is a
    assert (a * 8 + b) % 8 is b
    assert (a * 8 + b) % 4 is of_atom(low) % 4
    assert ((a * 8 + b) // 4) % 2 is b // 4


def test_digits_of_a_dynamic_size_vanish():
    a, b = of_atom(Axis("a", 6)), of_atom(Axis("b", N))
    joined = a * N + b
    assert joined // N is a and joined % N is b
    assert joined // (N * 6) is ZERO


def test_digits_rejoin():
    k = of_atom(Axis("k", 100))
    assert (k // 8) * 8 + k % 8 is k
    assert (k // 24) * 24 + (k // 8 % 3) * 8 + k % 8 is k
    assert (k // 4) // 6 is k // 24 and (k % 24) % 8 is k % 8


def test_an_axis_of_one_is_nothing():
    assert of_atom(Axis("one", 1)) is ZERO


def test_data_stay_in_their_range():
    data = of_atom(Data(Load("d", (of_atom(FEW[0]),), I64), 10))
    assert bounds(data) == (0, 9)
    assert data // 10 is ZERO and axes_of(data) == {FEW[0]}


@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 9))
def test_division_of_sizes_is_exact_or_nothing(a: int, b: int, c: int):
    quotient = divide_exactly(a * N + b, c)
    assert (quotient is not None) == (a % c == 0 and b % c == 0)
    assert quotient is None or quotient * c == a * N + b


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=3))
def test_what_is_proved_nonnegative_is(c: list[int]):
    m = symbol("m")
    value = c[0] + c[1] * N + c[2] * N * m
    if is_nonnegative(value):
        assert all(c[0] + c[1] * n + c[2] * n * k >= 0 for n in range(2, 9) for k in range(2, 9))


# --- proofs for every size ---------------------------------------------------------------------------------------


def as_z3(index: Index, axes: dict[Axis, Any]) -> Any:
    total: Any = z3.IntVal(int(index.const))
    for atom, coefficient in index.terms:
        if isinstance(atom, Axis):
            value = axes[atom]
        else:
            assert isinstance(atom, (Div, Mod))
            inner = as_z3(atom.index, axes)
            value = inner / int(atom.by) if isinstance(atom, Div) else inner % int(atom.by)
        total = total + int(coefficient) * value
    return total


BIG = (Axis("p", 4096), Axis("q", 60), Axis("r", 7))
CASES = {
    "split": lambda p, q, r: ((p * 60 + q) // 12, lambda p, q, r: (p * 60 + q) / 12),
    "nested": lambda p, q, r: (((p * 60 + q) % 240) // 20, lambda p, q, r: ((p * 60 + q) % 240) / 20),
    "backwards": lambda p, q, r: ((as_index(4095) - p) // 8, lambda p, q, r: (4095 - p) / 8),
    "backwards, below": lambda p, q, r: ((p - q) % 8 + (p - q) // 8 * 8, lambda p, q, r: p - q),
    "rotated": lambda p, q, r: ((p + 17) % 4096, lambda p, q, r: (p + 17) % 4096),
    "three digits": lambda p, q, r: ((p * 420 + q * 7 + r) // 7 % 60, lambda p, q, r: q),
    "strided": lambda p, q, r: ((p * 6 + r * 2) % 4, lambda p, q, r: (p * 6 + r * 2) % 4),
    "twice": lambda p, q, r: ((p // 6) // 7 + (p % 42) % 6, lambda p, q, r: p / 42 + p % 6),
}


@pytest.mark.parametrize("name", CASES)
def test_a_normal_form_is_proved(name: str):
    index, meaning = CASES[name](*map(of_atom, BIG))
    variables = z3.Ints("p q r")
    solver = z3.Solver()
    solver.set("timeout", 60_000)
    solver.add(*(z3.And(v >= 0, v < int(a.extent)) for v, a in zip(variables, BIG, strict=True)))
    low, high = bounds(index)
    value = as_z3(index, dict(zip(BIG, variables, strict=True)))
    solver.add(z3.Or(value != meaning(*variables), value < low, value > high))
    assert solver.check() == z3.unsat, solver
