"""Law: delay. What is free of the reduced axes leaves a reduction, which then need not wait for it.

    s[t] = sum(c) x[t, c]^2                                 s[t] = sum(c) x[t, c]^2
    y[t] = sum(c) x[t, c] * rsqrt(s[t]) * w[c]      ->      z[t] = sum(c) x[t, c] * w[c]
                                                            y[t] = rsqrt(s[t]) * z[t]

Of a sum: factors and divisors, the factor exp(a) of exp(a + b), and a select whose condition is free of the axes and
whose other branch is 0. Of a maximum or minimum: factors that are positive and finite by their operations alone, and
selects against the identity. Casts are opaque. It is used where what leaves waits for another reduction of a long row,
which then need not be passed over for the one and again for the other; not for its own sake.

It rounds in another order, so never under numerics="strict"; and a sum of products must have been free to apply the
factor late: the sum runs in f32 or f64, and operands that are narrowed for a contraction are exact without the factor.
exp(a + b) is cut only where the operations bound both halves, or exp(a) could overflow alone. The row is not empty
(it is long): of a factor that is infinite or NaN, the result is infinite or NaN before and after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.expr import Const, Expr, Load, Op, loads_in, product_factors
from ..ir.index import Axis
from ..ir.loops import Equation, Kernel
from ..ir.simplify import make
from ..ir.states import STATES
from ..ir.types import DType
from .chains import RESIDENT, fresh_name, is_long, is_made, read_own, reductions_before, replaced
from .ranges import find_range, is_positive
from .reasons import Reason, Tried

REDUCTIONS = ("sum", "max", "min")
EXPONENT = 40.0  # exp of at most this, twice, is far from both ends of f32


@dataclass(frozen=True, slots=True)
class Delayed:
    """What stays inside a reduction; `outside` are the steps that make the result of it, the innermost first.

    A step is ("mul" | "div" | "where" | "neg", value): "where" keeps the reduction where the condition holds and is the
    state's identity elsewhere.
    """

    inside: Expr
    outside: tuple[tuple[str, Expr | None], ...]


def delay(
    kernel: Kernel, strict: bool = False, resident: int = RESIDENT, tried: list[Tried] | None = None
) -> Kernel:  # fmt: skip
    """Applies the law wherever it unties two reductions; the notes say where. A list in `tried` is told of the rest."""
    for second in kernel.body:
        found = _candidate(kernel, second)
        if found is None or not isinstance(second, Equation):
            continue
        first, part = found
        done = _delayed(kernel, second, part, strict, resident)
        if tried is not None:
            tried.append(Tried("delay", second.names[0], first.names[0], done if isinstance(done, Reason) else None))
        if isinstance(done, Kernel):
            return delay(done, strict, resident, tried)
    return kernel


def _candidate(kernel: Kernel, second: object) -> tuple[Equation, Delayed] | None:
    """An earlier reduction over the same axes for which a reduction waits, and what could leave the latter."""
    if not isinstance(second, Equation) or second.scan or second.state not in REDUCTIONS:
        return None
    before = reductions_before(kernel, second.args, second.reduce)
    part = take_out(second) if before else None
    return None if part is None else (before[0], part)


def _delayed(kernel: Kernel, second: Equation, part: Delayed, strict: bool, resident: int) -> Kernel | Reason:
    """The kernel in which the factors are applied at the end, or why it is not."""
    if not is_long(second.reduce, resident) and not is_made(kernel, second.args, second.reduce):
        return Reason.SHORT
    if strict:
        return Reason.STRICT
    if not may_delay(second, part, kernel):
        return Reason.OPERANDS
    if not reductions_before(kernel, (v for _, v in part.outside if v is not None), second.reduce):
        return Reason.KNOWN
    raw = replace(second, names=(fresh_name(kernel, f"{second.names[0]}_inner"),), args=(part.inside,))
    result = Equation(second.names, second.axes, (applied(part, raw),), second.dtypes, source=second.source)
    assert not result.args[0].axes & set(second.reduce), "what has left a reduction has its axes"
    body = replaced(kernel.body, {second: (raw, result)})
    note = f"delay: what {second.names[0]} is scaled by is applied at the end"
    return replace(kernel, body=body, notes=(*kernel.notes, note))


def may_delay(second: Equation, part: Delayed, kernel: Kernel) -> bool:
    """True where the sum is wide, and its operands are rounded no worse for the want of the factor."""
    if second.state != "sum" or second.dtypes[0].is_integer:  # of integers only a select is taken out
        return True
    if second.dtypes[0].name not in ("f32", "f64"):
        return False
    narrow = second.operand_dtype
    if narrow is None or narrow.name in ("f32", "f64"):
        return True
    return all(_fits(f, narrow) or _is_share(f, kernel) for f in product_factors(part.inside)) and (
        narrow.name == "bf16" or any(_is_share(f, kernel) for f in product_factors(part.inside))
    )


def _fits(e: Expr, narrow: DType) -> bool:
    """A stored element of that type, widened."""
    return isinstance(e, Op) and e.name == "cast" and isinstance(e.args[0], Load) and e.args[0].dtype is narrow


def _is_share(e: Expr, kernel: Kernel) -> bool:
    """An exponential of what is less by a maximum: at most 1, and 1 somewhere, so rounded no worse than its shares."""
    if not (isinstance(e, Op) and e.name == "exp" and isinstance(e.args[0], Op) and e.args[0].name == "sub"):
        return False
    shifts = [kernel.equations.get(x.name) for x in loads_in(e.args[0].args[1])]
    return any(s is not None and s.state in ("max", "max_sum_exp") and s.args[0] is e.args[0].args[0] for s in shifts)


# --- what leaves -------------------------------------------------------------------------------------------------


def take_out(equation: Equation) -> Delayed | None:
    """All that may leave a reduction; None where nothing may, or where nothing would stay."""
    axes = frozenset(equation.reduce)
    identity = STATES[equation.state].identity(equation.dtypes)[0]
    inside, steps = equation.args[0], []
    while True:
        taken = _take_select(inside, axes, identity) or _take_factors(inside, axes, equation.state)
        if taken is None:
            break
        inside, more = taken
        steps[:0] = more
    return Delayed(inside, tuple(steps)) if steps and inside.axes & axes else None


def applied(part: Delayed, raw: Equation) -> Expr:
    """The result of the reduction, from what is left of it."""
    value: Expr = read_own(raw)
    for name, other in part.outside:
        if name == "where":
            assert other is not None
            value = make("where", other, value, STATES[raw.state].identity(raw.dtypes)[0])
        else:
            value = make(name, value) if other is None else make(name, value, other)
    return value


Taken = tuple[Expr, list[tuple[str, Expr | None]]]


def _take_select(e: Expr, axes: frozenset[Axis], identity: Expr) -> Taken | None:
    """where(u, f, identity) with u free of the axes."""
    if not (isinstance(e, Op) and e.name == "where") or e.args[0].axes & axes:
        return None
    neutral = e.args[2] is identity or (is_zero(identity) and is_zero(e.args[2]))
    return (e.args[1], [("where", e.args[0])]) if neutral else None


def is_zero(e: Expr) -> bool:
    """Either zero: both are the identity of a sum."""
    return isinstance(e, Const) and e.value == 0


def _take_factors(e: Expr, axes: frozenset[Axis], state: str) -> Taken | None:
    """The factors and divisors that are free of the axes."""
    if not e.dtype.is_float:
        return None
    factors: list[tuple[str, Expr | None]] = []
    inside = without(e, axes, factors)
    if state == "sum":
        return (inside, factors) if factors and inside is not None else None
    positive = all(name != "neg" and other is not None and is_positive(other) for name, other in factors)
    return (inside, factors) if factors and inside is not None and positive else None


def without(e: Expr, axes: frozenset[Axis], left: list[tuple[str, Expr | None]]) -> Expr | None:
    """`e` without the factors that go to `left`; None stands for 1."""
    if not e.axes & axes:
        left.append(("mul", e))
        return None
    if not isinstance(e, Op):
        return e
    if e.name == "mul":
        sides = [without(a, axes, left) for a in e.args]
        kept = [s for s in sides if s is not None]
        return kept[0] if len(kept) == 1 else make("mul", *kept) if kept else None
    if e.name == "div":
        above = without(e.args[0], axes, left)
        if not e.args[1].axes & axes:
            left.append(("div", e.args[1]))
            return above
        return make("reciprocal", e.args[1]) if above is None else make("div", above, e.args[1])
    if e.name == "neg":
        left.append(("neg", None))
        return without(e.args[0], axes, left)
    return _without_exponent(e, axes, left) if e.name == "exp" else e


def _without_exponent(e: Op, axes: frozenset[Axis], left: list[tuple[str, Expr | None]]) -> Expr:
    """exp(a + b) -> exp(b), with exp(a) to the `left`, where both are bounded."""
    exponent = e.args[0]
    if not (isinstance(exponent, Op) and exponent.name in ("add", "sub")):
        return e
    bounded = all(max(map(abs, find_range(a))) <= EXPONENT for a in exponent.args)
    free = [not a.axes & axes for a in exponent.args]
    if not bounded or free[0] == free[1]:
        return e
    a, b = exponent.args
    if free[0]:
        left.append(("mul", make("exp", a)))
        return make("exp", b if exponent.name == "add" else make("neg", b))
    left.append(("mul" if exponent.name == "add" else "div", make("exp", b)))
    return make("exp", a)
