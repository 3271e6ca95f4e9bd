"""Law: split. A reduction is cut into parts whose states are combined in a fixed order.

    s[t] = sum(c:C) x[t, c]     ->     p[k, t] = sum(d:L) where(k*L + d < C, x[t, k*L + d], 0)      L = ceil(C / parts)
                                       s[t]    = sum(k) p[k, t]

What lies beyond the end is the state's identity. Moments have no value that is theirs, so the parts that are whole are
one equation and the rest is another:

    (n, a, q)[t] = moments(c) x[t, c]    ->    (_, pa, pq)[k, t] = moments(d:L) x[t, k*L + d]       L = floor(C / parts)
                                               (_, ra, rq)[t]    = moments(e)   x[t, parts*L + e]
                                               a = sum(k) pa*L/C + ra*R/C
                                               q = sum(k) (pq + L*(pa - a)^2) + (rq + R*(ra - a)^2)

Running maxima with sums of exponentials are combined with the shift 0 where the maximum is -inf:

    m[t] = max(k) pm[k, t]          l[t] = sum(k) pl[k, t] * exp(pm[k, t] - (m[t] if m[t] > -inf else 0))

A schedule calls this, for grids, threads and long rows; the search does not. Sums round in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..ir.errors import ScheduleError
from ..ir.expr import Expr, Load, Rewriter, const
from ..ir.index import Axis, Index, add, of_atom, scale
from ..ir.loops import Equation, Kernel, Statement
from ..ir.scalar import iota, op
from ..ir.simplify import make
from ..ir.states import STATES, Values, lowest
from ..ir.types import DType
from .chains import fresh_name, read_own, replaced
from .reasons import Reason


def split(kernel: Kernel, what: Axis | Equation | str, parts: int) -> Kernel:
    """The kernel in which the reductions over an axis, or one reduction, are cut into `parts`.

    Reductions over one axis share the axes of their parts, so that they still make one pass. Of an equation (or the
    name of one of its results) the longest reduced axis is cut. Raises ScheduleError where `may_split` has a reason
    against it.
    """
    return split_along(kernel, what, parts)[0]


def split_along(kernel: Kernel, what: Axis | Equation | str, parts: int) -> tuple[Kernel, tuple[Axis, ...]]:
    """What `split` gives, and the axes along the parts."""
    if isinstance(what, Axis):
        chosen = [s for s in kernel.body if isinstance(s, Equation) and what in s.reduce]
        if not chosen:
            raise _refusal(Reason.UNREDUCED, what.name)
        axis = what
    else:
        chosen = [kernel.equations[what] if isinstance(what, str) else what]
        axis = _longest(chosen[0])
    shared: dict[int, tuple[Axis, Axis]] = {}
    for equation in chosen:
        reason = may_split(kernel, equation, axis, parts)
        if reason is not None:
            raise _refusal(reason, equation.names[-1])
        kernel = _split(kernel, equation, axis, parts, shared)
    return kernel, tuple(k for k, _ in shared.values())


def may_split(kernel: Kernel, equation: Equation, axis: Axis | None = None, parts: int = 2) -> Reason | None:
    """Why an equation cannot be cut along an axis (its longest if none is given); None where it can."""
    if not equation.state or not equation.reduce or (axis is not None and axis not in equation.reduce):
        return Reason.UNREDUCED
    if equation.scan:
        return Reason.SCANS
    axis = axis or _longest(equation)
    if not isinstance(axis.extent, int) or any(axis in _bound_axes(a) for a in equation.domain) or axis.is_ragged:
        return Reason.UNSIZED
    if equation.state == "moments" and not all(isinstance(a.extent, int) for a in equation.reduce):
        return Reason.UNSIZED
    return None if 2 <= parts <= axis.extent else Reason.PARTS


def _refusal(reason: Reason, name: str) -> ScheduleError:
    return ScheduleError(f"cannot be split: {reason.sentence.format(value=name, other='')}", where=name)


def _bound_axes(a: Axis) -> frozenset[Axis]:
    return frozenset().union(*(e.axes for e in (a.begin, a.end) if e is not None))


def _longest(equation: Equation) -> Axis:
    if not equation.reduce:
        raise _refusal(Reason.UNREDUCED, equation.names[-1])
    return max(equation.reduce, key=lambda a: a.extent if isinstance(a.extent, int) else float("inf"))


@dataclass(frozen=True, slots=True)
class _Cut:
    """An axis of `extent` points as `parts` of `length`; what a part has beyond the end does not count.

    `shared` are the axes of earlier cuts of the same axis into as many parts, by the length of a part.
    """

    kernel: Kernel
    equation: Equation
    axis: Axis
    extent: int
    parts: int
    shared: dict[int, tuple[Axis, Axis]]

    def axes(self, length: int) -> tuple[Axis, Axis]:
        """The axis of the parts, and the one of the points of a part."""
        if length not in self.shared:
            block, at = self.fresh(f"{self.axis.name}_block"), self.fresh(f"{self.axis.name}_at")
            self.shared[length] = Axis(block, self.parts), Axis(at, length)
        return self.shared[length]

    def fresh(self, wish: str) -> str:
        return fresh_name(self.kernel, wish)

    def name(self, suffix: str) -> str:
        return _name(self.kernel, self.equation, suffix)

    def part(self, suffix: str, moved: Index, axes: tuple[Axis, ...], inner: Axis, beyond: Expr | None) -> Equation:
        """The equation over `inner` in the axis's place, at `moved` of the axis; its names are new."""
        e = self.equation
        rewrite = Rewriter({self.axis: moved})
        args = tuple(rewrite(a) for a in e.args)
        if beyond is not None:
            neutral = _neutral_arguments(e.state, tuple(a.dtype for a in args))
            args = tuple(make("where", beyond, a, n) for a, n in zip(args, neutral, strict=True))
        reduce = tuple(inner if a is self.axis else a for a in e.reduce)
        return replace(e, names=named_part(self.kernel, e, suffix), axes=(*axes, *e.axes), args=args, reduce=reduce)


def _split(
    kernel: Kernel, equation: Equation, axis: Axis, parts: int, shared: dict[int, tuple[Axis, Axis]]
) -> Kernel:  # fmt: skip
    assert isinstance(axis.extent, int)
    cut = _Cut(kernel, equation, axis, axis.extent, parts, shared)
    made = _split_moments(cut) if equation.state == "moments" else _split_even(cut)
    note = f"split: {equation.names[-1]} in {parts} parts of {axis.name}"
    return replace(kernel, body=replaced(kernel.body, {equation: made}), notes=(*kernel.notes, note))


def _split_even(cut: _Cut) -> tuple[Statement, ...]:
    """Parts of equal length, the last of them guarded where the length does not divide the extent."""
    length = -(-cut.extent // cut.parts)
    k, d = cut.axes(length)
    moved = add(scale(of_atom(k), length), of_atom(d))
    guard = None if length * cut.parts == cut.extent else make("lt", iota(moved), iota(cut.extent))
    partial = cut.part("part", moved, (k,), d, guard)
    if guard is not None:
        partial = replace(partial, args=tuple(_guard_loads(a, guard, cut.axis, moved) for a in partial.args))
    return (partial, *combine_parts(cut.kernel, cut.equation, partial, k))


def _guard_loads(e: Expr, guard: Expr, axis: Axis, moved: Index) -> Expr:
    """Nothing is loaded beyond the end: loads that the new index can take there have the guard."""
    beyond = frozenset(a for a, _ in moved.terms if isinstance(a, Axis))

    def load(x: Load) -> Expr:
        if not x.axes & beyond:
            return x
        return Load(x.name, x.index, x.dtype, guard if x.guard is None else make("and", guard, x.guard))

    return Rewriter(load=load)(e)


def _neutral_arguments(state: str, dtypes: tuple[DType, ...]) -> Values:
    """The arguments that change no state: exp(-inf) is 0 under every maximum."""
    return (lowest(dtypes[0]),) if state == "max_sum_exp" else STATES[state].identity(dtypes)


def named_part(kernel: Kernel, e: Equation, suffix: str = "part") -> tuple[str, ...]:
    """Names for all components of a part of an equation."""
    return tuple(_name(kernel, e, f"{suffix}{k}" if k else suffix) for k in range(len(e.names)))


def _name(kernel: Kernel, e: Equation, suffix: str) -> str:
    known = next(n for n in e.names if n != "_")
    return fresh_name(kernel, f"{known}_{suffix}")


def combine_parts(kernel: Kernel, e: Equation, partial: Equation, k: Axis) -> tuple[Statement, ...]:
    """The equations that combine the parts of an equation, in the order of k. Moments are combined otherwise."""
    reads = tuple(read_own(partial, n) for n in range(len(partial.names)))
    if e.state != "max_sum_exp":
        return (replace(e, args=reads, reduce=(k,), operand_dtype=None),)
    top_name = e.names[0] if e.names[0] != "_" else _name(kernel, e, "top")
    top = replace(e, names=(top_name,), args=(reads[0],), dtypes=e.dtypes[:1], state="max", reduce=(k,))
    if e.names[1] == "_":
        return (top,)
    m = read_own(top)
    shift = make("where", make("eq", m, lowest(m.dtype)), const(0.0, m.dtype), m)
    scaled = op("mul", reads[1], op("exp", op("sub", reads[0], shift)))
    return top, replace(e, names=e.names[1:], args=(scaled,), dtypes=e.dtypes[1:], state="sum", reduce=(k,))


# --- moments -----------------------------------------------------------------------------------------------------


def _split_moments(cut: _Cut) -> tuple[Statement, ...]:
    length, e = cut.extent // cut.parts, cut.equation
    k, d = cut.axes(length)
    partial = cut.part("part", add(scale(of_atom(k), length), of_atom(d)), (k,), d, None)
    rest_length = cut.extent - length * cut.parts
    pieces: list[tuple[Equation, int]] = [(partial, length)]
    if rest_length:
        r = Axis(cut.fresh(f"{cut.axis.name}_tail"), rest_length)
        pieces.append((cut.part("rest", add(of_atom(r), Index((), length * cut.parts)), (), r, None), rest_length))
    others = 1
    for a in e.reduce:
        others *= a.extent if a is not cut.axis and isinstance(a.extent, int) else 1
    counts = [float(n * others) for _, n in pieces]
    total = float(cut.extent * others)
    made: list[Statement] = [p for p, _ in pieces]
    dtype = e.dtypes[0]

    def together(name: str, value: Callable[[Equation, float], Expr]) -> Equation:
        """The sum over the parts, and the rest."""
        inner = replace(
            e, names=(name if len(pieces) == 1 else cut.fresh(f"{name}_parts"),), args=(value(partial, counts[0]),),
            dtypes=(dtype,), state="sum", reduce=(k,),
        )  # fmt: skip
        made.append(inner)
        if len(pieces) == 1:
            return inner
        both = make("add", read_own(inner), value(pieces[1][0], counts[1]))
        made.append(Equation((name,), e.axes, (both,), (dtype,), source=e.source))
        return made[-1]  # type: ignore[return-value]

    if e.names[0] != "_":
        made.append(Equation(e.names[:1], e.axes, (const(total, dtype),), (dtype,), source=e.source))
    mean = together(
        e.names[1] if e.names[1] != "_" else cut.name("mean"),
        lambda p, n: make("mul", read_own(p, 1), const(n / total, dtype)),
    )

    def squares(p: Equation, n: float) -> Expr:
        away = op("sub", read_own(p, 1), read_own(mean))
        return make("add", read_own(p, 2), make("mul", op("mul", away, away), const(n, dtype)))

    if e.names[2] != "_":
        together(e.names[2], squares)
    return tuple(made)
