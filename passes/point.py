"""Law: point. Of a sum in which the index says which element counts, that element is all.

    s[t] = sum(c:C) where(c == d[t], f[t, c], 0)   ->   s[t] = where(0 <= d[t] < C, f[t, d[t]], 0)
    s[t] = sum(c:C) (where(c == d[t], f, 0) + g[t])   ->   ... + C * g[t]

It is what is left of the sum over classes in the gradient of a loss that looks at one of them. f may read memory at c;
of another value of the kernel, all of the row would have to be kept until d is known. Terms that are free of the axis
count as often as the axis has points, and factors that are free of it leave the sum; what else is summed stays a sum.
It rounds in another order, and the sign of a zero may be lost: never under numerics="strict".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.expr import Expr, Load, Op, Rewriter, const, data_in, loads_in
from ..ir.index import Axis, Data, as_index, of_atom
from ..ir.loops import Equation, Kernel
from ..ir.scalar import iota
from ..ir.simplify import both, make, make_cast
from ..ir.types import I64, is_nonnegative, plus
from .chains import fresh_name, read_own, replaced
from .delay import is_zero, without
from .reasons import Reason, Tried

Term = tuple[str, Expr]  # "add" or "sub", and what is summed


def may_point(kernel: Kernel) -> bool:
    """A cheap look: False where no sum has a term that one point decides."""
    return any(isinstance(s, Equation) and _find(kernel, s) is not None for s in kernel.body)


def point(kernel: Kernel, strict: bool = False, tried: list[Tried] | None = None) -> Kernel:
    """Applies the law wherever it holds; the notes say where. A list in `tried` is told of all that was asked."""
    for s in kernel.body:
        found = _find(kernel, s) if isinstance(s, Equation) else None
        if found is None or not isinstance(s, Equation):
            continue
        if tried is not None:
            tried.append(Tried("point", s.names[0], found[0].name, Reason.STRICT if strict else None))
        if not strict:
            return point(_pointed(kernel, s, *found), strict, tried)
    return kernel


def _find(kernel: Kernel, s: Equation) -> tuple[Axis, list[Term], list[Term]] | None:
    """An axis of a sum, the terms that need no sum over it, one of them a point, and those that do."""
    if s.scan or s.state != "sum" or s.operand_dtype is not None:
        return None
    for axis in s.reduce:
        if axis.is_ragged or not is_nonnegative(plus(axis.extent, -1)):
            continue
        terms = _terms(s.args[0])
        closed = [t for t in terms if axis not in t[1].axes or _point_of(kernel, t[1], axis) is not None]
        if any(axis in e.axes for _, e in closed):
            return axis, closed, [t for t in terms if t not in closed]
    return None


def _terms(e: Expr, sign: str = "add") -> list[Term]:
    if isinstance(e, Op) and e.name in ("add", "sub"):
        first, second = e.args
        return _terms(first, sign) + _terms(second, sign if e.name == "add" else _other(sign))
    if isinstance(e, Op) and e.name == "neg":
        return _terms(e.args[0], _other(sign))
    return [(sign, e)]


def _other(sign: str) -> str:
    return "sub" if sign == "add" else "add"


@dataclass(frozen=True, slots=True)
class _Point:
    """`value` where the axis is at `place`, and 0 elsewhere; times and over the `factors`, as in `delay`."""

    place: Expr
    value: Expr
    factors: list[tuple[str, Expr | None]]


def _point_of(kernel: Kernel, e: Expr, axis: Axis) -> _Point | None:
    factors: list[tuple[str, Expr | None]] = []
    inside = without(e, frozenset((axis,)), factors) if e.dtype.is_float else e
    if not (isinstance(inside, Op) and inside.name == "where"):
        return None
    condition, value, other = inside.args
    if not is_zero(other) or not (isinstance(condition, Op) and condition.name == "eq"):
        return None
    here = iota(axis)
    place = next((d for d in condition.args if here in condition.args and axis not in d.axes), None)
    local = any(axis in load.axes and load.name in kernel.equations for load in loads_in(value))
    return None if place is None or local else _Point(place, value, factors)


def _pointed(kernel: Kernel, s: Equation, axis: Axis, closed: list[Term], rest: list[Term]) -> Kernel:
    over = tuple(a for a in s.reduce if a is not axis)
    body: list[Equation] = []
    value = _total([(sign, _closed(kernel, e, axis)) for sign, e in closed])
    if over:
        points = replace(s, names=(fresh_name(kernel, f"{s.names[0]}_points"),), args=(value,), reduce=over)
        body.append(points)
        value = read_own(points)
    if rest:
        others = replace(s, names=(fresh_name(kernel, f"{s.names[0]}_others"),), args=(_total(rest),))
        body.append(others)
        value = make("add", read_own(others), value)
    body.append(Equation(s.names, s.axes, (value,), s.dtypes, source=s.source))
    note = f"point: of what {s.names[0]} sums, an index says which element counts"
    return replace(kernel, body=replaced(kernel.body, {s: tuple(body)}), notes=(*kernel.notes, note))


def _total(terms: list[Term]) -> Expr:
    """The sum of terms, of which the first is added where any is."""
    (sign, value), *more = sorted(terms, key=lambda t: t[0])
    value = value if sign == "add" else make("neg", value)
    for sign, e in more:
        value = make(sign, value, e)
    return value


def _closed(kernel: Kernel, e: Expr, axis: Axis) -> Expr:
    """The sum over the axis of one term."""
    size = iota(as_index(axis.extent))
    found = _point_of(kernel, e, axis)
    if found is None:
        return make("mul", e, make_cast(size, e.dtype))
    inside = make("and", make("ge", found.place, const(0, I64)), make("lt", found.place, size))
    data = Data(found.place, axis.extent, wrap=False)

    def read(load: Load) -> Expr:
        here = any(d is data for i in load.index for d in data_in(i))
        return replace(load, guard=both(load.guard, inside)) if here else load

    value: Expr = make("where", inside, Rewriter({axis: of_atom(data)}, read)(found.value), const(0, e.dtype))
    for name, other in found.factors:
        value = make(name, value) if other is None else make(name, value, other)
    return value
