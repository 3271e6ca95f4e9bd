"""Sums whose weights are computed of other sums of products, in one pass over what both run along.

    s[i, j] = sum(d) q[i, d] * k[j, d]
    l[i]    = sum(j) exp(s[i, j] - max s[i])            y[i, e] <- o[i, e] / l[i]
    o[i, e] = sum(j) exp(s[i, j] - max s[i]) * v[j, e]
->
for a block of rows i, which are the lanes:
  serial blocks of j:
    s[j, i]  <- sums of products, in tiles of registers
    m'[i] = max(m[i], max s[j, i]);   a[i] = exp(m[i] - m'[i])
    p[j, i]  <- exp(s[j, i] - m'[i]); l[i] = l[i] * a[i] + sum p[j, i]
    o[e, i]  <- o[e, i] * a[i] + sums of p[j, i] * v[j, e], in tiles of registers
  y[i, e] <- ..

The largest value so far is a row's own (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018; Dao et
al., FlashAttention, 2022); while it is -inf the shift is 0. Nothing is summed across lanes.

Where the weights are no exponentials of a running maximum, several sums may have their own: those of gradients.

    s[j, i] = sum(d) k[j, d] * q[i, d]        dv[j, e] = sum(i) exp(s[j, i] - lse[i]) * do[i, e]
    t[j, i] = sum(e) v[j, e] * do[i, e]       dk[j, e] = sum(i) exp(s[j, i] - lse[i]) * (t[j, i] - delta[i]) * q[i, e]
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.expr import Expr, Load, Op, const, loads_in, product_factors
from ...ir.index import Axis, axis_coefficient
from ...ir.loops import Equation, Kernel, Store, statement_expressions
from ...ir.scalar import is_const, op
from ...ir.types import BF16, F16, F32
from ...ir.weighted import STATE
from ..tiling_keep import recompute
from ..tiling_prepare import prepare
from .find import extent_of, has_products, is_dynamic

WIDEST = 512  # results of a row


@dataclass(frozen=True, slots=True)
class Weighted:
    """A sum of `value`, which is computed of scores, times `weight`, which lies in memory (None: of the value alone).

    Where the values are exponentials of a running maximum, `value` is the exponent.
    """

    equation: Equation
    value: Expr
    weight: Expr | None

    @property
    def name(self) -> str:
        return self.equation.names[-1]


@dataclass(frozen=True, slots=True)
class Linked:
    """A kernel of such sums.

    scores   the sums of products that the values are computed of
    running  the values are exponentials of a running maximum; total: the sum of those (None: nobody reads it)
    rows     kept by all, along is what the latter run along, columns are those that only they keep (None: no sum has
             weights); outer: all others
    """

    kernel: Kernel
    scores: tuple[Equation, ...]
    total: Equation | None
    weighted: tuple[Weighted, ...]
    stores: tuple[Store, ...]
    rows: Axis
    along: Axis
    columns: Axis | None
    outer: tuple[Axis, ...]
    running: bool

    @property
    def values(self) -> tuple[Expr, ...]:
        return tuple(dict.fromkeys(w.value for w in self.weighted))


def may_link(kernel: Kernel) -> bool:
    """A cheap look at a kernel: False where no sum is computed of other sums of products."""
    sums = [s for s in kernel.body if isinstance(s, Equation) and s.state and not s.scan]
    if any(s.state == STATE for s in sums):
        return True
    made = {n for s in sums if s.state == "sum" and has_products(s) for n in s.names}
    return bool(made) and any(s.state == "sum" and _waits_for(s, made, kernel) for s in sums)


def runs_apart(kernel: Kernel, links: bool) -> bool:
    """True for a kernel that would compute sums of products anew for each reduction of them: what no builder links.
    `links`: the target has such builders.
    """
    reduced = {a for s in kernel.body if isinstance(s, Equation) for a in s.reduce}
    sums = [s for s in kernel.body if isinstance(s, Equation) and s.state == "sum" and not s.scan and has_products(s)]
    if not any(reduced & set(s.axes) for s in sums):
        return False
    names = {n for s in sums if reduced & set(s.axes) for n in s.names}
    if not any(_waits_for(s, names, kernel) for s in kernel.body if isinstance(s, Equation) and s.state):
        return False
    return not (links and is_linked(kernel))


def is_linked(kernel: Kernel) -> bool:
    """True for a kernel that a builder of linked sums takes."""
    return may_link(kernel) and find_linked(prepare(kernel, 0)) is not None


def _waits_for(s: Equation, names: set[str], kernel: Kernel) -> bool:
    """True where a reduction reads one of the names, through pointwise equations too."""
    front, seen = list(s.args), set[str]()
    while front:
        for e in loads_in(front.pop()):
            if e.name in names:
                return True
            equation = kernel.equations.get(e.name)
            if equation is not None and equation.is_pointwise and e.name not in seen:
                seen.add(e.name)
                front += equation.args
    return False


def find_linked(kernel: Kernel) -> Linked | None:
    """The kernel as such sums; None where it is anything else."""
    if not may_link(kernel):
        return None
    kernel = recompute(kernel, lambda e: True)
    equations = [s for s in kernel.body if isinstance(s, Equation)]
    if any(s.scan for s in equations):
        return None
    running = any(s.state == STATE for s in equations)
    found = _find_running(kernel, equations) if running else _find_plain(kernel, equations)
    return found if found is not None and _fits(found) else None


def _find_running(kernel: Kernel, equations: list[Equation]) -> Linked | None:
    """Sums weighted by exponentials of one running maximum."""
    scores = tuple(s for s in equations if s.state == "sum")
    weighted = tuple(Weighted(s, *s.args) for s in equations if s.state == STATE)
    totals = [s for s in equations if s.state == "max_sum_exp"]
    if len(scores) + len(weighted) + len(totals) != len(equations) or len(totals) > 1:
        return None
    return _with_axes(kernel, scores, weighted, totals[0] if totals else None)


def _find_plain(kernel: Kernel, equations: list[Equation]) -> Linked | None:
    """Sums of what is computed of others."""
    if any(s.state != "sum" for s in equations):
        return None
    sums = {n for s in equations for n in s.names}
    latter = [s for s in equations if any(e.name in sums for e in loads_in(*s.args))]
    scores = tuple(s for s in equations if s not in latter)
    weighted = tuple(_weighted(s, scores) for s in latter)
    return _with_axes(kernel, scores, weighted, None)


def _weighted(s: Equation, scores: tuple[Equation, ...]) -> Weighted:
    """A sum of products with the factor that is an element of memory, along axes that no score has, as its weight."""
    own = set(s.axes) - {a for e in scores for a in e.axes}
    value, weight = _take_out(s.args[0], own)
    return Weighted(s, s.args[0], None) if value is None else Weighted(s, value, weight)


def _take_out(e: Expr, own: set[Axis]) -> tuple[Expr | None, Expr | None]:
    """(what is left of a product or quotient without a factor along axes of its own, that factor)"""
    if stored(e) is not None and e.axes & own:
        return const(1.0, F32), e
    if isinstance(e, Op) and e.name in ("mul", "div"):
        a, b = e.args
        left, weight = _take_out(a, own)
        if left is not None:
            return (b if e.name == "mul" and is_const(left, 1.0) else op(e.name, left, b)), weight
        left, weight = _take_out(b, own) if e.name == "mul" else (None, None)
        if left is not None:
            return (a if is_const(left, 1.0) else op("mul", a, left)), weight
    return None, None


def _with_axes(
    kernel: Kernel, scores: tuple[Equation, ...], weighted: tuple[Weighted, ...], total: Equation | None
) -> Linked | None:  # fmt: skip
    """The parts that the axes play."""
    first = next((w for w in weighted if w.weight is not None), weighted[0] if weighted else None)
    if first is None or len(first.equation.reduce) != 1:
        return None
    (along,), axes = first.equation.reduce, first.equation.axes
    weight = frozenset[Axis]() if first.weight is None else first.weight.axes
    columns = [a for a in axes if a in weight and a not in first.value.axes]
    if len(columns) != (first.weight is not None):
        return None
    kept = tuple(a for a in axes if a not in columns)
    rows = _find_rows(scores, along, kept, weight)
    if rows is None:
        return None
    outer = tuple(a for a in kept if a is not rows)
    running = first.equation.state == STATE
    column = columns[0] if columns else None
    return Linked(kernel, scores, total, weighted, kernel.stores, rows, along, column, outer, running)


def _find_rows(
    scores: tuple[Equation, ...], along: Axis, kept: tuple[Axis, ...], weight: frozenset[Axis]
) -> Axis | None:  # fmt: skip
    """The longest axis that one side of the first products has, and neither the other side nor the weights."""
    for s in scores[:1]:
        sides = product_factors(s.args[0])
        other = [f for f in sides if along in f.axes]
        own = [f for f in sides if along not in f.axes]
        if len(sides) == 2 and len(other) == len(own) == 1:
            free = [a for a in kept if a in own[0].axes and a not in other[0].axes and a not in weight]
            return max(free, key=lambda a: a.extent if isinstance(a.extent, int) else 0, default=None)
    return None


def _fits(f: Linked) -> bool:
    columns = () if f.columns is None else (f.columns,)
    kept = {*f.outer, f.rows}
    whole = {*kept, *columns}
    everything = (*f.outer, f.rows, f.along, *columns, *(a for s in f.scores for a in s.reduce))
    if any(is_dynamic(a) or a.is_ragged or a.extent == 0 for a in everything):
        return False
    if f.columns is not None and extent_of(f.columns) > WIDEST:
        return False
    if not all(_is_score(s, f) for s in f.scores) or not all(_is_sum(w, f) for w in f.weighted):
        return False
    if f.total is not None and (
        set(f.total.axes) != kept or f.total.args[0] not in f.values or f.total.reduce != (f.along,)
    ):
        return False
    scores = {n for s in f.scores for n in s.names}
    latter = {*(n for w in f.weighted for n in w.equation.names), *(f.total.names if f.total else ())}
    if not all(set(s.axes) in (whole, kept) and s.mode == "set" and s.guard is None and s.injective for s in f.stores):
        return False
    if any(e.name in scores for s in f.stores for e in loads_in(*statement_expressions(s))):
        return False
    if any(e.name in latter for w in f.weighted for e in loads_in(w.value)):
        return False
    written = {s.buffer for s in f.stores}
    loads = [e for s in f.kernel.body for e in loads_in(*statement_expressions(s))]
    sums = scores | latter
    return all(_reads_own(e, f) for e in loads if e.name in sums) and not any(e.name in written for e in loads)


def _is_sum(w: Weighted, f: Linked) -> bool:
    """A sum with weights as the builders know them: one value for all where they are exponentials."""
    kept = {*f.outer, f.rows}
    if w.value.dtype is not F32 or not w.value.axes <= {*kept, f.along} or w.equation.reduce != (f.along,):
        return False
    if f.running and w.value is not f.weighted[0].value:
        return False
    if w.weight is None:
        return not f.running and set(w.equation.axes) == kept
    return f.columns is not None and set(w.equation.axes) == {*kept, f.columns} and _is_weight(w.weight, f, f.columns)


def _reads_own(e: Load, f: Linked) -> bool:
    equation = f.kernel.equations[e.name]
    return e.guard is None and all(i.single_axis is a for i, a in zip(e.index, equation.axes, strict=True))


def _is_score(s: Equation, f: Linked) -> bool:
    """A sum of products of one row's and one other's element, both of which lie dense along the sum."""
    if (
        set(s.axes) != {*f.outer, f.rows, f.along}
        or len(s.reduce) != 1
        or not has_products(s)
        or s.dtypes[0] is not F32
    ):
        return False
    sides = product_factors(s.args[0])
    plain = [stored(e) for e in sides]
    if len(sides) != 2 or any(e is None or axis_coefficient(e.index[-1], s.reduce[0]) != 1 for e in plain):
        return False
    return sum(f.rows in e.axes for e in sides) == sum(f.along in e.axes for e in sides) == 1


def _is_weight(e: Expr, f: Linked, columns: Axis) -> bool:
    held = stored(e)
    return held is not None and {f.along, columns} <= e.axes and f.rows not in e.axes


def stored(e: Expr) -> Load | None:
    """The element of memory that a value is, widened or not."""
    inner = e.args[0] if isinstance(e, Op) and e.name == "cast" else e
    return inner if isinstance(inner, Load) and inner.guard is None and inner.dtype in (F32, BF16, F16) else None


def is_paired(e: Equation, value: Expr) -> bool:
    """True where an instruction adds two products of a sum at once: both operands are bf16."""
    return e.operand_dtype is BF16 and all(_holds(x) for x in product_factors(value))


def _holds(e: Expr) -> bool:
    held = stored(e)
    return held is not None and held.dtype is BF16


def sides_of(s: Equation, f: Linked) -> tuple[Expr, Expr]:
    """(that of the rows, that of what the sums run along)"""
    a, b = product_factors(s.args[0])
    return (a, b) if f.rows in a.axes else (b, a)
