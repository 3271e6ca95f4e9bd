"""Sums whose weights are exponentials of other sums of products, in one pass over what both run along.

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
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...ir.expr import Const, Expr, Load, Op, loads_in, product_factors
from ...ir.index import Axis, axis_coefficient
from ...ir.loops import Equation, Kernel, Store, statement_expressions
from ...ir.scalar import op
from ...ir.types import BF16, F16, F32
from ..tiling_keep import recompute
from ..tiling_prepare import prepare
from .find import extent_of, has_products, is_dynamic

WIDEST = 512  # results of a row


@dataclass(frozen=True, slots=True)
class Linked:
    """A kernel of such sums.

    scores   the sums of products that the exponents are computed of; value: the exponent
    total    the sum of the exponentials (None: nobody reads it); weighted: the sums with weights
    rows     kept by all, along is what the latter run along, columns are those that only they keep; outer: all others
    """

    kernel: Kernel
    scores: tuple[Equation, ...]
    value: Expr
    total: Equation | None
    weighted: tuple[Equation, ...]
    stores: tuple[Store, ...]
    rows: Axis
    along: Axis
    columns: Axis
    outer: tuple[Axis, ...]


def may_link(kernel: Kernel) -> bool:
    """A cheap look at a kernel: False where it has no sums with weights."""
    return any(isinstance(s, Equation) and s.state == "max_weighted_sum" for s in kernel.body)


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
    return not links or find_linked(prepare(kernel, 0)) is None


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
    scores = tuple(s for s in equations if s.state == "sum")
    weighted = tuple(s for s in equations if s.state == "max_weighted_sum")
    totals = [s for s in equations if s.state == "max_sum_exp"]
    known = len(scores) + len(weighted) + len(totals) == len(equations) and not any(s.scan for s in equations)
    first = weighted[0] if weighted else None
    if not known or first is None or len(totals) > 1 or len(first.reduce) != 1:
        return None
    (along,) = first.reduce
    columns = [a for a in first.axes if a in first.args[1].axes and a not in first.args[0].axes]
    if len(columns) != 1:
        return None
    kept = tuple(a for a in first.axes if a is not columns[0])
    rows = _find_rows(scores, along, kept, first.args[1])
    if rows is None:
        return None
    outer = tuple(a for a in kept if a is not rows)
    total = totals[0] if totals else None
    stores = kernel.stores
    found = Linked(kernel, scores, first.args[0], total, weighted, stores, rows, along, columns[0], outer)
    return found if _fits(found) else None


def _find_rows(scores: tuple[Equation, ...], along: Axis, kept: tuple[Axis, ...], weight: Expr) -> Axis | None:
    """The longest axis that one side of the first products has, and neither the other side nor the weights."""
    for s in scores[:1]:
        sides = product_factors(s.args[0])
        other = [f for f in sides if along in f.axes]
        own = [f for f in sides if along not in f.axes]
        if len(sides) == 2 and len(other) == len(own) == 1:
            free = [a for a in kept if a in own[0].axes and a not in other[0].axes and a not in weight.axes]
            return max(free, key=lambda a: a.extent if isinstance(a.extent, int) else 0, default=None)
    return None


def _fits(f: Linked) -> bool:
    kept, whole = {*f.outer, f.rows}, {*f.outer, f.rows, f.columns}
    everything = (*f.outer, f.rows, f.along, f.columns, *(a for s in f.scores for a in s.reduce))
    if any(is_dynamic(a) or a.is_ragged or a.extent == 0 for a in everything) or extent_of(f.columns) > WIDEST:
        return False
    if not all(_is_score(s, f) for s in f.scores) or f.value.dtype is not F32:
        return False
    if f.total is not None and (
        set(f.total.axes) != kept or f.total.args[0] is not f.value or f.total.reduce != (f.along,)
    ):
        return False
    for s in f.weighted:
        if set(s.axes) != whole or s.args[0] is not f.value or s.reduce != (f.along,) or not _is_weight(s.args[1], f):
            return False
    sums = {n for s in (*f.scores, *f.weighted, *((f.total,) if f.total else ())) for n in s.names}
    if not all(set(s.axes) in (whole, kept) and s.mode == "set" and s.guard is None and s.injective for s in f.stores):
        return False
    if any(
        e.name in {n for s in f.scores for n in s.names} for s in f.stores for e in loads_in(*statement_expressions(s))
    ):
        return False
    written = {s.buffer for s in f.stores}
    loads = [e for s in f.kernel.body for e in loads_in(*statement_expressions(s))]
    return all(_reads_own(e, f) for e in loads if e.name in sums) and not any(e.name in written for e in loads)


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


def _is_weight(e: Expr, f: Linked) -> bool:
    held = stored(e)
    return held is not None and {f.along, f.columns} <= e.axes and f.rows not in e.axes


def condition_of(value: Expr) -> Expr | None:
    """Where an exponent is not -inf; None: nothing says where."""
    if not (isinstance(value, Op) and value.name == "where"):
        return None
    condition, this, other = value.args
    if _is_lowest(other):
        return condition
    return op("not", condition) if _is_lowest(this) else None


def _is_lowest(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == -math.inf


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
