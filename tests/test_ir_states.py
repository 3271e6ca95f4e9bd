"""The state table: identities are neutral, combining is associative, and folding is what torch computes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treadle.ir.expr import Expr, Load
from treadle.ir.interp_eval import evaluate_on
from treadle.ir.interp_numbers import Numbers, torch_dtype
from treadle.ir.states import STATES, State
from treadle.ir.types import BOOL, F64, I64, DType

Values = list[torch.Tensor]
NUMBERS = Numbers()
COUNT = 64  # triples of states that one example combines
EXACT = {"max", "min", "any", "all", "argmax", "argmin", "argmax_last", "argmin_last"}
FLOATS = (float("nan"), -math.inf, 0.0, -0.0, 1.0, 1.0, 2.5, -3.0, 1e3)


def apply(exprs: tuple[Expr, ...], **operands: Values) -> Values:
    loads = {f"{side}{k}": (v,) for side, values in operands.items() for k, v in enumerate(values)}
    return [planes[0].expand(COUNT) for planes in evaluate_on(NUMBERS, exprs, loads)]


def placeholders(side: str, dtypes: tuple[DType, ...]) -> tuple[Load, ...]:
    return tuple(Load(f"{side}{k}", (), d) for k, d in enumerate(dtypes))


def inputs_of(row: State, draw, position: int) -> tuple[tuple[DType, ...], Values]:
    """One element per triple; positions grow from state to state."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = BOOL if row.name in ("any", "all") else F64
    if dtype is BOOL:
        return (BOOL,), [torch.randint(0, 2, (COUNT,), generator=generator).bool()]
    # Moments of what is not finite are NaN, sooner or later.
    pool = torch.tensor([v for v in FLOATS if math.isfinite(v) or row.name != "moments"], dtype=torch.float64)
    special = pool[torch.randint(0, len(pool), (COUNT,), generator=generator)]
    plain = torch.randint(-4, 5, (COUNT,), generator=generator) * 0.75
    value = torch.where(torch.rand(COUNT, generator=generator) < 0.5, special, plain).to(torch_dtype(dtype))
    if row.positional:
        return (F64, I64), [value, torch.full((COUNT,), position)]
    weights = torch.randint(-4, 5, (COUNT,), generator=generator) * 0.75
    return ((F64,), [value]) if row.arity == 1 else ((F64, F64), [value, weights.to(torch_dtype(F64))])


def lifted(row: State, draw, position: int) -> tuple[tuple[DType, ...], Values]:
    dtypes, values = inputs_of(row, draw, position)
    return row.dtypes(dtypes), apply(row.lift(placeholders("x", dtypes)), x=values)


def combine(row: State, dtypes: tuple[DType, ...], a: Values, b: Values) -> Values:
    return apply(row.combine(placeholders("a", dtypes), placeholders("b", dtypes)), a=a, b=b)


def assert_equal(row: State, got: Values, expected: Values) -> None:
    if row.name in (
        "max_sum_exp",
        "max_weighted_sum",
    ):  # beside a maximum of -inf or NaN, any sum leads to the same results
        live = expected[0].isfinite()
        got, expected = [got[0], torch.where(live, got[1], 0)], [expected[0], torch.where(live, expected[1], 0)]
    tolerance = 0.0 if row.name in EXACT else 1e-9
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("row", STATES.values(), ids=STATES)
def test_the_identity_is_neutral(row: State):
    @given(st.data())
    def check(data: st.DataObject) -> None:
        dtypes, state = lifted(row, data.draw, 3)
        identity = apply(row.identity(dtypes))
        assert_equal(row, combine(row, dtypes, identity, state), state)
        assert_equal(row, combine(row, dtypes, state, identity), state)
        assert_equal(row, combine(row, dtypes, identity, identity), identity)

    check()


@pytest.mark.parametrize("row", STATES.values(), ids=STATES)
def test_combining_is_associative(row: State):
    @given(st.data())
    def check(data: st.DataObject) -> None:
        dtypes, a = lifted(row, data.draw, 1)
        b, c = (lifted(row, data.draw, p)[1] for p in (2, 3))
        left = combine(row, dtypes, combine(row, dtypes, a, b), c)
        right = combine(row, dtypes, a, combine(row, dtypes, b, c))
        assert_equal(row, left, right)
        if row.idempotent:
            assert_equal(row, combine(row, dtypes, a, a), a)

    check()


@pytest.mark.parametrize("row", STATES.values(), ids=STATES)
def test_types_are_kept(row: State):
    dtypes = row.dtypes((BOOL,) if row.name in ("any", "all") else (F64, I64 if row.positional else F64)[: row.arity])
    left, right = placeholders("a", dtypes), placeholders("b", dtypes)
    assert tuple(e.dtype for e in row.combine(left, right)) == dtypes
    assert tuple(e.dtype for e in row.identity(dtypes)) == dtypes
    assert len(row.project(left)) == len(dtypes)
