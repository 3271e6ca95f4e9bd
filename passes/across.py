"""Law: merge, of kernels over unlike domains. What reduces rows that another kernel reads joins it.

    dx[t, c] <- f(x[t, c], dy[t, c])     dw[c] = sum(t) dy[t, c] * x[t, c]     ->     one kernel that stores dx and dw

    s[t] = log(sum(c) x[t, c])           y[t, e] = f(e, sum(c) x[t, c])                ->     one kernel, and one sum

The schedule then runs both over blocks of rows (`passes.block`), so that the second finds in the caches what the first
has read. Where no block of rows stays close, or sizes are not known, nothing would be won, and they stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from ..ir.expr import Load, Rewriter, loads_in
from ..ir.index import Axis, of_atom
from ..ir.loops import Equation, Kernel, Store, statement_expressions
from ..ir.rows import CLOSE, rows_of_block

Match = dict[int, int]


def match_rows(narrow: Kernel, wide: Kernel) -> Match | None:
    """The dimension of the wide kernel's result that each of the narrow one's is; None where the two stay apart.

    Some buffer is read by the wide kernel along all of its axes, and by the narrow one along those that it keeps, at
    the same places, and others, which it reduces. Both kernels are as they were assembled: one result each.
    """
    domain = tuple(a for a in wide.stores[-1].axes if a.extent != 1)
    kept = tuple(a for a in narrow.stores[-1].axes if a.extent != 1)
    if len(kept) >= len(domain) or not all(isinstance(a.extent, int) for a in (*narrow.axes, *wide.axes)):
        return None
    if any((isinstance(s, Equation) and s.scan) or (isinstance(s, Store) and not s.injective)
           for k in (narrow, wide) for s in k.body):  # fmt: skip
        return None
    found = dict.fromkeys(_matches(narrow, wide, kept, frozenset(domain)))
    if len(found) != 1:
        return None
    match = dict(next(iter(found)))
    summed = {a for s in wide.body if isinstance(s, Equation) for a in s.reduce}
    rows = prod(_size(a) for a in domain if a not in match.values() and a not in summed)
    each = _bytes(wide, len(domain)) // max(rows, 1)
    places = [dict(zip((i.single_axis for i in k.stores[-1].index), range(len(k.stores[-1].index)), strict=True))
              for k in (narrow, wide)]  # fmt: skip
    dims = {places[0][a]: places[1][b] for a, b in match.items()}
    return dims if rows > 1 and (rows * each <= 2 * CLOSE or rows_of_block(rows, each)) else None


def match_sums(narrow: Kernel, wide: Kernel) -> Match | None:
    """The dimension of the wide kernel's result that each of the narrow one's is, where all that the narrow one reduces
    the wide one reduces too; None elsewhere.
    """
    sums = [s for s in narrow.body if isinstance(s, Equation) and s.state]
    first = next((s for s in sums if not any(e.name in narrow.equations for e in loads_in(*s.args))), None)
    if first is None or any(s.scan for s in sums) or not all(isinstance(i, Axis) for i in _places(narrow)):
        return None
    for other in (s for s in wide.body if isinstance(s, Equation) and s.state == first.state):
        renamed = _renaming(first, other)
        if renamed is not None and _same_sums(narrow, wide, renamed):
            at = {a: d for d, a in enumerate(_places(wide)) if a is not None}
            found = {d: at[renamed[a]] for d, a in enumerate(_places(narrow)) if a in renamed and renamed[a] in at}
            return found if len(found) == len(_places(narrow)) else None
    return None


def _places(kernel: Kernel) -> list[Axis | None]:
    return [i.single_axis for i in kernel.stores[-1].index]


def _renaming(a: Equation, b: Equation) -> dict[Axis, Axis] | None:
    """The axes of one equation as those of another, where both read the same memory at the same places."""
    named: dict[Axis, Axis] = {}
    for e, other in zip(loads_in(*a.args), loads_in(*b.args), strict=False):
        pairs = list(zip(e.index, other.index, strict=False))
        if e.name != other.name or len(e.index) != len(other.index):
            return None
        named.update({i.single_axis: j.single_axis for i, j in pairs if i.single_axis and j.single_axis})
    return named


def _same_sums(narrow: Kernel, wide: Kernel, named: dict[Axis, Axis]) -> bool:
    """True where each reduction of the one kernel, its axes renamed, is one of the other's."""
    known: dict[str, str] = {}
    for s in (s for s in narrow.body if isinstance(s, Equation)):
        axes = {a: of_atom(named[a]) for a in (*s.axes, *s.reduce) if a in named}
        rewrite = Rewriter(axes, lambda e: replace(e, name=known.get(e.name, e.name)))
        args = tuple(map(rewrite, s.args))
        over = {named.get(a) for a in s.reduce}
        like = next((o for o in wide.body if isinstance(o, Equation) and (o.state, o.args) == (s.state, args)), None)
        if like is None or set(like.reduce) != over:
            return False
        known.update(zip(s.names, like.names, strict=True))
    return True


def _matches(
    narrow: Kernel, wide: Kernel, kept: tuple[Axis, ...], domain: frozenset[Axis]
) -> Iterator[tuple[tuple[Axis, Axis], ...]]:
    """What each buffer that both read says of the narrow kernel's axes."""
    theirs = [(e, at) for e, at in _plain_loads(wide) if {a for a in at if a is not None and a.extent != 1} == domain]
    for e, at in _plain_loads(narrow):
        reduced = {a for a in at if a is not None and a.extent != 1} - set(kept)
        for other, places in theirs:
            if other.name != e.name or not reduced:
                continue
            pairs = [(a, b) for a, b in zip(at, places, strict=True) if a is not None and b is not None]
            if len(pairs) == len(at) and all(a.extent == b.extent for a, b in pairs):
                named = dict(pairs)
                if set(kept) <= named.keys():
                    yield tuple((a, named[a]) for a in kept)


def _plain_loads(kernel: Kernel) -> Iterator[tuple[Load, list[Axis | None]]]:
    """The loads of buffers by axes alone, with the axis at each place (None for a constant)."""
    for e in dict.fromkeys(e for s in kernel.body for e in loads_in(*statement_expressions(s))):
        if e.name in kernel.buffers and e.guard is None:
            yield e, [i.single_axis for i in e.index]


def _bytes(kernel: Kernel, rank: int) -> int:
    """Bytes of the buffers that a kernel reads or writes along that many axes."""
    large = [b for b in kernel.buffers.values() if sum(n != 1 for n in b.shape) >= rank]
    return sum(b.dtype.itemsize * prod(n for n in b.shape if isinstance(n, int)) for b in large)


def _size(a: Axis) -> int:
    assert isinstance(a.extent, int)
    return a.extent
