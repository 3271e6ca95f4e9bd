"""Law: stream. A reduction that reads an earlier one over the same axes becomes one pass with a larger state.

    m[t] = max(c) u[t, c]                               (m[t], l[t]) = max_sum_exp(c) u[t, c]
    l[t] = sum(c) exp(u[t, c] - m[t])            ->

    s[t] = sum(c) x[t, c]                               (_, a[t], q[t]) = moments(c) x[t, c]
    q[t] = sum(c) (x[t, c] - s[t]/N)^2           ->     with s as it was, in the same pass

The first is exp-affine in a maximum that bounds the exponent: partial sums are rescaled while running, with the shift 0
while the maximum is -inf. The second is quadratic in the mean: moments are carried (Chan et al. 1983), never the
cancelling form. Factors that are free of the axes are applied once at the end (`delay` says which), and an element that
is picked by an index is caught as it passes by (`pick`). A chain streams link by link.

After the loop the result is what the user's own form gives where rows have infinities: exp(u - m) is NaN where all of
the row is -inf, while a form whose shift is 0 there sums to 0; squares about the mean of a row with an infinity are
NaN.

A row that stays in cache gains nothing from this, so it is applied to axes longer than `resident` elements; and it
rounds in another order, so never under numerics="strict".
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce

from ..ir.expr import Const, Expr, Load, Op, const, product_factors
from ..ir.loops import Equation, Kernel
from ..ir.scalar import is_const
from ..ir.simplify import make
from ..ir.types import Dim, product
from .chains import RESIDENT, fresh_name, is_long, is_made, read_own, reductions_before, replaced
from .delay import applied, may_delay, take_out
from .pick import pick
from .reasons import Reason, Tried


def stream(
    kernel: Kernel, strict: bool = False, resident: int = RESIDENT, tried: list[Tried] | None = None
) -> Kernel:  # fmt: skip
    """Applies the law wherever it holds; the notes say where. A list in `tried` is told of all that was asked."""
    for second in _sums(kernel):
        streamed = _streamed(kernel, second, strict, resident)
        if tried is not None:
            tried += _told(kernel, second, streamed)
        if isinstance(streamed, Kernel):
            return stream(streamed, strict, resident, tried)
    return pick(kernel, strict, resident, tried)


def _sums(kernel: Kernel) -> list[Equation]:
    return [s for s in kernel.body if isinstance(s, Equation) and s.state == "sum" and not s.scan]


def _told(kernel: Kernel, second: Equation, streamed: Kernel | Reason) -> list[Tried]:
    """The law concerns sums that wait for a reduction over the same axes."""
    reason = streamed if isinstance(streamed, Reason) else None
    before = reductions_before(kernel, second.args, second.reduce)
    return [Tried("stream", second.names[0], first.names[0], reason) for first in before][:1]


def _streamed(kernel: Kernel, second: Equation, strict: bool, resident: int) -> Kernel | Reason:
    """The kernel in which `second` has joined an earlier reduction, or why it has not."""
    if not is_long(second.reduce, resident) and not is_made(kernel, second.args, second.reduce):
        return Reason.SHORT
    if strict:
        return Reason.STRICT
    joined = _join(kernel, second)
    if joined is not None:
        return joined
    part = take_out(second)
    if part is None or not may_delay(second, part, kernel):
        return Reason.FORM
    raw = replace(second, names=(fresh_name(kernel, f"{second.names[0]}_inner"),), args=(part.inside,))
    result = Equation(second.names, second.axes, (applied(part, raw),), second.dtypes, source=second.source)
    apart = replace(kernel, body=replaced(kernel.body, {second: (raw, result)}))
    return _join(apart, raw) or Reason.FORM


def _join(kernel: Kernel, second: Equation) -> Kernel | None:
    return _stream_exponential(kernel, second) or _stream_square(kernel, second) or _stream_weighted(kernel, second)


def _read_first(e: Expr, kernel: Kernel, states: tuple[str, ...], like: Equation) -> Equation | None:
    """The equation whose first result `e` loads at its own axes, if it reduces the same axes with one of the states."""
    if not isinstance(e, Load) or e.guard is not None:
        return None
    first = kernel.equations.get(e.name)
    if first is None or first.state not in states or first.scan or first.names[0] != e.name:
        return None
    own = all(i.single_axis is a for i, a in zip(e.index, first.axes, strict=True))
    same = set(first.reduce) == set(like.reduce) and set(first.axes) <= set(like.axes)
    return first if own and same else None


# --- exponentials of a running maximum ---------------------------------------------------------------------------


def _stream_exponential(kernel: Kernel, second: Equation) -> Kernel | None:
    found = _read_exponential(second.args[0], kernel, second)
    if found is None or found[0].axes != second.axes:
        return None
    first, safe = found
    known = first.state == "max_sum_exp" and first.names[1] != "_"
    name = first.names[1] if known else fresh_name(kernel, f"{second.names[0]}_state")
    both = replace(first, names=(first.names[0], name), dtypes=first.dtypes[:1] * 2, state="max_sum_exp")
    result = Equation(
        second.names,
        second.axes,
        (_resolve(read_own(both), read_own(both, 1), safe),),
        second.dtypes,
        source=second.source,
    )
    note = f"stream: {second.names[0]} joins {first.names[0]} (exponential of a running maximum)"
    body = replaced(kernel.body, {first: (both,), second: (result,)})
    return replace(kernel, body=body, notes=(*kernel.notes, note))


def _read_exponential(e: Expr, kernel: Kernel, second: Equation) -> tuple[Equation, str] | None:
    """(the maximum m of u, how its infinities are made safe) of exp(u - m), for a sum over what m is the maximum of."""
    if not (isinstance(e, Op) and e.name == "exp" and isinstance(e.args[0], Op) and e.args[0].name == "sub"):
        return None
    value, shift = e.args[0].args
    safe, top = _read_shift(shift)
    first = _read_first(top, kernel, ("max", "max_sum_exp"), second)
    if first is None or first.args[0] is not value or first.dtypes[0] is not second.dtypes[0]:
        return None
    return first, safe


def _stream_weighted(kernel: Kernel, second: Equation) -> Kernel | None:
    """sum(c) exp(u[t, c] - m[t]) * w[t, c, e], which may keep axes that m has not; where u is much work."""
    if not is_made(kernel, second.args, second.reduce):
        return None
    factors = product_factors(second.args[0])
    for k, e in enumerate(factors):
        found = _read_exponential(e, kernel, second)
        if found is None or len(factors) < 2:
            continue
        first, safe = found
        others = factors[:k] + factors[k + 1 :]
        if not all(f.axes & set(second.reduce) for f in others):
            return None  # what is free of the axes leaves the sum first
        weight = reduce(lambda a, b: make("mul", a, b), others)
        name = fresh_name(kernel, f"{second.names[0]}_state")
        both = replace(
            second, names=("_", name), args=(first.args[0], weight), dtypes=second.dtypes * 2, state="max_weighted_sum"
        )  # fmt: skip
        total = _resolve(read_own(first), read_own(both, 1), safe)
        result = Equation(second.names, second.axes, (total,), second.dtypes, source=second.source)
        note = f"stream: {second.names[0]} joins {first.names[0]} (weights of a running maximum)"
        return replace(kernel, body=replaced(kernel.body, {second: (both, result)}), notes=(*kernel.notes, note))
    return None


def _read_shift(shift: Expr) -> tuple[str, Expr]:
    """("", m) for the shift m; for where(m is -inf, 0, m) and where(m is infinite, 0, m) "low" and "both", and m."""
    if not (isinstance(shift, Op) and shift.name == "where" and is_const(shift.args[1], 0.0)):
        return "", shift
    condition, _, top = shift.args
    if not isinstance(condition, Op):
        return "", shift
    if condition.name == "isinf" and condition.args[0] is top:
        return "both", top
    if condition.name != "eq" or not isinstance(condition.args[1], Const):
        return "", shift
    if condition.args[0] is top and condition.args[1].value == -math.inf:
        return "low", top
    size = condition.args[0]
    whole = isinstance(size, Op) and size.name == "abs" and size.args[0] is top
    return ("both", top) if whole and condition.args[1].value == math.inf else ("", shift)


def _resolve(top: Expr, total: Expr, safe: str) -> Expr:
    """The sum as the user's own shift makes it of rows whose maximum is infinite.

    The state has 0 for a row of -inf, and NaN where the maximum is inf: as a form with the shift 0 for -inf has it.
    """
    if safe == "low":
        return total
    edge = math.inf if safe == "both" else -math.inf
    found = const(math.inf if safe == "both" else math.nan, total.dtype)
    return make("where", make("eq", top, const(edge, top.dtype)), found, total)


# --- squares about the mean --------------------------------------------------------------------------------------


def _stream_square(kernel: Kernel, second: Equation) -> Kernel | None:
    value = second.args[0]
    if not (isinstance(value, Op) and value.name == "mul" and value.args[0] is value.args[1]):
        return None
    centred = value.args[0]
    if not (isinstance(centred, Op) and centred.name == "sub"):
        return None
    mean = centred.args[1]
    if not (isinstance(mean, Op) and mean.name in ("mul", "div") and isinstance(mean.args[1], Const)):
        return None
    first = _read_first(mean.args[0], kernel, ("sum",), second)
    count = product(a.extent for a in second.reduce)
    if first is None or first.args[0] is not centred.args[0] or not _divides_by(mean, count):
        return None
    average, squares = (fresh_name(kernel, f"{second.names[0]}_{part}") for part in ("mean", "state"))
    dtype = first.dtypes[0]
    state = replace(first, names=("_", average, squares), dtypes=(dtype,) * 3, state="moments", operand_dtype=None)
    centre, total = read_own(state, 1), read_own(state, 2)
    lost = make("or", make("isnan", centre), make("isinf", centre))
    result = make("where", lost, const(math.nan, dtype), total)
    restored = Equation(second.names, second.axes, (result,), second.dtypes, source=second.source)
    note = f"stream: {second.names[0]} joins {first.names[0]} (running moments)"
    body = replaced(kernel.body, {first: (state, first), second: (restored,)})
    return replace(kernel, body=body, notes=(*kernel.notes, note))


def _divides_by(mean: Op, count: Dim) -> bool:
    """True when `mean` is its operand over `count`."""
    scale = mean.args[1]
    if not isinstance(scale, Const) or not isinstance(count, int) or not count:
        return False
    expected = 1.0 / count if mean.name == "mul" else float(count)
    return abs(scale.value - expected) <= 1e-6 * expected
