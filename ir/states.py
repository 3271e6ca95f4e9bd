"""The state table of reductions and scans: (identity, lift, combine, project), NaN and tie rules.

A state is a tuple of components. `lift` makes the state of one element, `combine` joins two neighbouring states (the
left one holds the lower indices), `project` gives the results. All three work on expressions, so the same rows serve
the interpreter, both printers and the proofs. An empty axis yields the projection of the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .expr import FALSE, TRUE, Expr, const
from .scalar import op
from .types import BOOL, I64, DType

Values = tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class State:
    """One row.

    `identity(dtypes)` the neutral component values; `dtypes(args)` the components' types from the lifted arguments'
    types; `linear` marks a plain sum (the laws of sums apply); `idempotent` that combining twice with the same does no
    harm. `positional`: the second argument is the element's position, an i64 expression of the reduced axes (argmax).
    """

    name: str
    arity: int
    dtypes: Callable[[tuple[DType, ...]], tuple[DType, ...]]
    identity: Callable[[tuple[DType, ...]], Values]
    combine: Callable[[Values, Values], Values]
    lift: Callable[[Values], Values] = lambda args: args
    project: Callable[[Values], Values] = lambda state: state
    linear: bool = False
    idempotent: bool = False
    positional: bool = False


def lowest(dtype: DType) -> Expr:
    """The identity of max: -inf, or the least integer."""
    if dtype is BOOL:
        return FALSE
    return const(-math.inf, dtype) if dtype.is_float else const(dtype.limits[0], dtype)


def highest(dtype: DType) -> Expr:
    if dtype is BOOL:
        return TRUE
    return const(math.inf, dtype) if dtype.is_float else const(dtype.limits[1], dtype)


def _same(dtypes: tuple[DType, ...]) -> tuple[DType, ...]:
    return dtypes


def _fold2(name: str) -> Callable[[Values, Values], Values]:
    return lambda a, b: (op(name, a[0], b[0]),)


def _better(compare: str) -> Callable[[Values, Values], Values]:
    """argmax/argmin: NaN wins over numbers, the lowest index wins ties (torch's rule)."""

    def combine(a: Values, b: Values) -> Values:
        beats = op(compare, b[0], a[0])
        if a[0].dtype.is_float:
            fresh_nan = op("and", op("isnan", b[0]), op("not", op("isnan", a[0])))
            beats = op("or", fresh_nan, op("and", beats, op("not", op("isnan", a[0]))))
            same = op("or", op("eq", b[0], a[0]), op("and", op("isnan", a[0]), op("isnan", b[0])))
        else:
            same = op("eq", b[0], a[0])
        take = op("or", beats, op("and", same, op("lt", b[1], a[1])))
        return op("where", take, b[0], a[0]), op("where", take, b[1], a[1])

    return combine


def _later(compare: str) -> Callable[[Values, Values], Values]:
    """cummax/cummin positions: the latest of equal values wins, a NaN replaces whatever came before it."""

    def combine(a: Values, b: Values) -> Values:
        take = op("and", op(compare, b[0], a[0]), op("ge", b[1], const(0, I64)))
        if a[0].dtype.is_float:
            take = op("or", op("isnan", b[0]), op("and", op("not", op("isnan", a[0])), take))
        return op("where", take, b[0], a[0]), op("where", take, b[1], a[1])

    return combine


def _combine_max_sum_exp(a: Values, b: Values) -> Values:
    """(m, l) with l = sum exp(x - m) * w. The shift is 0 while m is -inf, in both factors, so no inf - inf arises."""
    m = op("max", a[0], b[0])
    shift = op("where", op("eq", m, lowest(m.dtype)), const(0.0, m.dtype), m)
    left = op("mul", a[1], op("exp", op("sub", a[0], shift)))
    right = op("mul", b[1], op("exp", op("sub", b[0], shift)))
    return m, op("add", left, right)


def _combine_moments(a: Values, b: Values) -> Values:
    """(n, mean, m2) by Chan et al. 1983; an empty side leaves the other unchanged."""
    n = op("add", a[0], b[0])
    zero = const(0.0, n.dtype)
    share = op("where", op("eq", n, zero), zero, op("div", b[0], n))
    delta = op("sub", b[1], a[1])
    mean = op("add", a[1], op("mul", delta, share))
    m2 = op("add", op("add", a[2], b[2]), op("mul", op("mul", delta, delta), op("mul", a[0], share)))
    return n, mean, m2


def _zeros(n: int) -> Callable[[tuple[DType, ...]], Values]:
    return lambda d: tuple(const(0, d[0]) for _ in range(n))


STATES: dict[str, State] = {
    row.name: row
    for row in (
        State("sum", 1, _same, _zeros(1), _fold2("add"), linear=True),
        State("prod", 1, _same, lambda d: (const(1, d[0]),), _fold2("mul")),
        State("max", 1, _same, lambda d: (lowest(d[0]),), _fold2("max"), idempotent=True),
        State("min", 1, _same, lambda d: (highest(d[0]),), _fold2("min"), idempotent=True),
        State("any", 1, _same, lambda d: (FALSE,), _fold2("or"), idempotent=True),
        State("all", 1, _same, lambda d: (TRUE,), _fold2("and"), idempotent=True),
        State(
            "argmax",
            2,
            _same,
            lambda d: (lowest(d[0]), const(2**63 - 1, I64)),
            _better("gt"),
            idempotent=True,
            positional=True,
        ),
        State(
            "argmin",
            2,
            _same,
            lambda d: (highest(d[0]), const(2**63 - 1, I64)),
            _better("lt"),
            idempotent=True,
            positional=True,
        ),
        # A position of -1 marks the identity, which never replaces a value.
        State(
            "argmax_last",
            2,
            _same,
            lambda d: (lowest(d[0]), const(-1, I64)),
            _later("ge"),
            idempotent=True,
            positional=True,
        ),
        State(
            "argmin_last",
            2,
            _same,
            lambda d: (highest(d[0]), const(-1, I64)),
            _later("le"),
            idempotent=True,
            positional=True,
        ),
        State(
            "max_sum_exp",
            1,
            lambda d: (d[0], d[0]),
            lambda d: (lowest(d[0]), const(0.0, d[0])),
            _combine_max_sum_exp,
            lift=lambda a: (a[0], const(1.0, a[0].dtype)),
        ),
        # The second argument is a weight: (m, o) with o = sum exp(x - m) * w.
        State(
            "max_weighted_sum",
            2,
            _same,
            lambda d: (lowest(d[0]), const(0.0, d[1])),
            _combine_max_sum_exp,
        ),
        State(
            "moments",
            1,
            lambda d: (d[0], d[0], d[0]),
            _zeros(3),
            _combine_moments,
            lift=lambda a: (const(1.0, a[0].dtype), a[0], const(0.0, a[0].dtype)),
        ),
    )
}
