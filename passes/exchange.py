"""Law: exchange (Fubini). Two nested sums change places where the new inner one is computed already.

    o[i, e] = sum(j) a[i, j] * c[j, e]                            o[i, e] = sum(j) a[i, j] * c[j, e]
    p[i, j] = sum(e) b[i, e] * c[j, e]                   ->       p[i, j] = sum(e) b[i, e] * c[j, e]
    y[i]    = sum(j) a[i, j] * p[i, j]                            y[i]    = sum(e) b[i, e] * o[i, e]

"Computed already" is equality up to names of axes and the order of factors. So that nothing is exchanged to and fro, p
must have no other reader (it is gone afterwards), or the sum that is left must be shorter. It rounds in another order,
so never under numerics="strict"; all three sums run in the same type, f32 or f64. With an infinity or NaN among the
factors the result is infinite or NaN before and after, though not always the same of the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

from ..ir.expr import Expr, Load, Rewriter, product_factors
from ..ir.index import Axis, Index, of_atom
from ..ir.loops import Equation, Kernel, Statement
from ..ir.simplify import make
from ..ir.types import is_nonnegative, multiply, plus, product
from .chains import readers_of
from .reasons import Reason, Tried

MOST_AXES = 5  # kept axes of a sum that are compared in every order


def exchange(kernel: Kernel, strict: bool = False, tried: list[Tried] | None = None) -> Kernel:
    """Applies the law wherever it holds; the notes say where. A list in `tried` is told of all that was asked."""
    for outer in _sums(kernel.body):
        for load in product_factors(outer.args[0]):
            inner = _inner_of(kernel, outer, load)
            if inner is None or not isinstance(load, Load):
                continue
            found = _exchanged(kernel, outer, inner, load, strict)
            if tried is not None:
                reason = found if isinstance(found, Reason) else None
                tried.append(Tried("exchange", outer.names[0], inner.names[0], reason))
            if isinstance(found, Kernel):
                return exchange(found, strict, tried)
    return kernel


def may_exchange(kernel: Kernel) -> bool:
    """True where some sum of products has another sum for a factor."""
    return any(_inner_of(kernel, s, f) for s in _sums(kernel.body) for f in product_factors(s.args[0]))


def _sums(body: Iterable[Statement]) -> Iterator[Equation]:
    """Sums of products in a wide type, over axes that no data bound."""
    for s in body:
        wide = isinstance(s, Equation) and s.state == "sum" and not s.scan and s.dtypes[0].name in ("f32", "f64")
        if wide and isinstance(s, Equation) and not any(a.is_ragged for a in s.domain):
            yield s


def _inner_of(kernel: Kernel, outer: Equation, load: Expr) -> Equation | None:
    """The sum that a factor loads at axes of its own, if it varies along what `outer` reduces."""
    if not isinstance(load, Load) or load.guard is not None or not load.axes & set(outer.reduce):
        return None
    inner = kernel.equations.get(load.name)
    at = [i.single_axis for i in load.index]
    plain = all(a is not None for a in at) and len(set(at)) == len(at)
    return inner if plain and inner is not None and inner in list(_sums([inner])) else None


def _exchanged(kernel: Kernel, outer: Equation, inner: Equation, load: Load, strict: bool) -> Kernel | Reason:
    """The kernel in which `outer` reads the sum that is there already, or why it does not."""
    renamed, left = _renamed_apart(kernel, outer, inner, load)
    over = set(outer.reduce)
    factors = [f for f in product_factors(outer.args[0]) if f is not load]
    if len(factors) + 1 != len(product_factors(outer.args[0])):
        return Reason.ABSENT  # the square of the inner sum
    swapped = [*factors, *product_factors(renamed)]
    new_inner = [f for f in swapped if f.axes & over]
    rest = [f for f in swapped if not f.axes & over]
    found = _find_equal(kernel, outer, inner, new_inner)
    if found is None:
        return Reason.ABSENT
    if strict:
        return Reason.STRICT
    if readers_of(kernel, inner.names) != [outer] and not _is_shorter(left, outer.reduce):
        return Reason.LONGER
    there, at = found
    read = Load(there.names[0], tuple(of_atom(a) for a in at), there.dtypes[0])
    value = _multiplied([*rest, read])
    new = replace(outer, args=(value,), reduce=left, operand_dtype=None)
    note = f"exchange: {outer.names[0]} sums products of {there.names[0]}"
    body = [new if s is outer else s for s in kernel.body]
    if readers_of(kernel, inner.names) == [outer]:
        body.remove(inner)
    return replace(kernel, body=tuple(body), notes=(*kernel.notes, note))


def _renamed_apart(kernel: Kernel, outer: Equation, inner: Equation, load: Load) -> tuple[Expr, tuple[Axis, ...]]:
    """The inner sum's value at the outer's axes; its reduced axes under names that the outer has not."""
    taken = {a.name for a in kernel.axes}
    left: list[Axis] = []
    for a in inner.reduce:
        if a in outer.domain:
            name = next(n for k in range(len(taken) + 1) if (n := f"{a.name}x{k}") not in taken)
            a = Axis(name, a.extent)
            taken.add(name)
        left.append(a)
    moved: dict[Axis, Index] = dict(zip(inner.axes, load.index, strict=True))
    moved.update({old: of_atom(new) for old, new in zip(inner.reduce, left, strict=True)})
    return Rewriter(moved)(inner.args[0]), tuple(left)


def _is_shorter(left: tuple[Axis, ...], now: tuple[Axis, ...]) -> bool:
    sizes = [product(a.extent for a in axes) for axes in (now, left)]
    return is_nonnegative(plus(plus(sizes[0], multiply(sizes[1], -1)), -1))


def _multiplied(factors: Sequence[Expr]) -> Expr:
    total, *rest = factors
    for f in rest:
        total = make("mul", total, f)
    return total


# --- equality up to names ----------------------------------------------------------------------------------------


def _find_equal(
    kernel: Kernel, outer: Equation, inner: Equation, factors: list[Expr]
) -> tuple[Equation, tuple[Axis, ...]] | None:
    """An earlier equation that sums these factors over the outer's reduced axes, and the axes to read it at."""
    over = outer.reduce
    kept = tuple(sorted(frozenset().union(*(f.axes for f in factors)) - set(over), key=lambda a: a.name))
    if len(kept) > MOST_AXES:
        return None
    for s in _sums(kernel.body[: kernel.body.index(outer)]):
        fits = s is not inner and s.dtypes == outer.dtypes and len(s.reduce) == len(over) and len(s.axes) == len(kept)
        at = _match(s, factors, over, kept) if fits else None
        if at is not None:
            return s, at
    return None


def _match(s: Equation, factors: list[Expr], over: tuple[Axis, ...], kept: tuple[Axis, ...]) -> tuple[Axis, ...] | None:
    """The axes at which `s` is the sum of the factors, one for each of its own; None where it is another sum."""
    mine = product_factors(s.args[0])
    if len(mine) != len(factors):
        return None
    for reduce in permutations(over):
        for at in permutations(kept):
            pairs = list(zip((*s.reduce, *s.axes), (*reduce, *at), strict=True))
            if any(a.extent != b.extent for a, b in pairs):
                continue
            rename = Rewriter({a: of_atom(b) for a, b in pairs})
            if Counter(rename(f) for f in mine) == Counter(factors):
                return at
    return None
