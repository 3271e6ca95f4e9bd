"""Which blocks of linked sums (see `linked`) need not be computed: those where a condition makes all values 0.

    p[i, j] = where(j <= i, exp(s[i, j] - l[i]), 0)                0 where j > i
    p[i, j] = exp(where(j <= i, s[i, j], -inf) - m[i]) / l[i]      0 where j > i, as long as exp(-inf - m[i]) / l[i] is

The second kind holds for most rows, not for those whose statistics are infinite or no numbers: a kernel looks at those
first, and where one of them says otherwise it computes every block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.expr import FALSE, TRUE, Const, Expr, Load, Op, const, loads_in, walk
from ...ir.index import ZERO, Axis, Data, Index, of_atom
from ...ir.scalar import iota, is_const, op
from ...ir.simplify import exact
from ...ir.spans import Span
from ...ir.tiles import Let, Loop, Put, Statement
from ...ir.types import F32, I64
from .linked import Linked

BOUNDED = ("tanh", "sigmoid", "erf", "sin", "cos")
AWAKE = "awake"  # the array that says whether some value is not 0 where it should be


@dataclass(frozen=True, slots=True)
class Skip:
    """Values are 0 where `condition` does not hold (exponents -inf) at all points at which the `guards` are 0."""

    condition: Expr
    guards: tuple[Expr, ...]


def find_skip(f: Linked) -> Skip | None:
    """What is known of the values; None where nothing is."""
    for condition in _conditions(f):
        for holds in (False, True):
            dead = [_assuming(v, condition, holds) for v in f.values]
            guards = [_guard(e, f) for e in dead]
            if None not in guards:
                lives = op("not", condition) if holds else condition
                return Skip(lives, tuple(dict.fromkeys(g for g in guards if g is not None and not is_const(g, 0.0))))
    return None


def _conditions(f: Linked) -> Iterator[Expr]:
    """The conditions of positions that the values are chosen by."""
    found = (e.args[0] for e in walk(*f.values) if isinstance(e, Op) and e.name == "where")
    for c in dict.fromkeys(found):
        if f.along in c.axes and not any(True for _ in loads_in(c)):
            yield c


def _assuming(e: Expr, condition: Expr, holds: bool) -> Expr:
    """An expression where a condition holds, or does not."""
    if e is condition:
        return TRUE if holds else FALSE
    if not isinstance(e, Op):
        return e
    args = tuple(_assuming(a, condition, holds) for a in e.args)
    if e.name == "mul" and args != e.args and any(is_const(a, 0.0) and _is_bounded(b) for a, b in (args, args[::-1])):
        return const(0.0, e.dtype)
    return e if args == e.args else exact(e.name, args, e.dtype)


def _is_bounded(e: Expr) -> bool:
    """True for what is finite whatever the scores are, but no number where they are none: a score that is none counts
    only where its value does.
    """
    if isinstance(e, Op) and e.name in BOUNDED:
        return True
    if isinstance(e, Const):
        return math.isfinite(e.value)
    return isinstance(e, Op) and e.name in ("add", "sub", "mul", "neg", "abs") and all(map(_is_bounded, e.args))


def _guard(dead: Expr, f: Linked) -> Expr | None:
    """What has to be 0 so that a value is; None where it is not known before the sums are."""
    if f.running:
        return const(0.0, F32) if is_const(dead, -math.inf) else None
    if is_const(dead, 0.0) or is_const(dead, -0.0):
        return const(0.0, F32)
    scores = {n for s in f.scores for n in s.names}
    known = {f.rows, f.along} - dead.axes and not any(e.name in scores for e in loads_in(dead))
    return dead if known and any(True for _ in loads_in(dead)) else None


def look_at(skip: Skip, f: Linked) -> list[Statement]:
    """Sets AWAKE to 0, or to 1 where some guard is not 0."""
    place, zero, one = (ZERO,), const(0.0, F32), const(1.0, F32)
    done: list[Statement] = [Put(AWAKE, place, zero)]
    for guard in skip.guards:
        put = Put(AWAKE, place, op("where", op("eq", guard, zero), Load(AWAKE, place, F32), one))
        along = [a for a in (f.rows, f.along) if a in guard.axes]
        done.append(Loop("serial", along[0], (put,)) if along else put)
    return done


def limits(span: Span, along: Axis, count: int) -> tuple[list[Let], Span]:
    """A span that is all points where AWAKE is not 0, and the values that it is made of."""
    lets: list[Let] = []
    sleeps = op("eq", Load(AWAKE, (ZERO,), F32), const(0.0, F32))

    def choose(name: str, bound: Index | None, other: int) -> Index | None:
        if bound is None:
            return None
        low, high = const(0, I64), const(count, I64)
        inside = op("min", op("max", iota(bound), low), high)
        lets.append(Let(f"{along.name}_{name}", op("where", sleeps, inside, const(other, I64))))
        return of_atom(Data(Load(lets[-1].name, (), I64), count + 1, wrap=False))

    return lets, Span(choose("first", span.first, 0), choose("end", span.end, count))
