"""Law: merge, of kernels over unlike domains. What reduces rows that another kernel reads joins it.

    dx[t, c] <- f(x[t, c], dy[t, c])     dw[c] = sum(t) dy[t, c] * x[t, c]     ->     one kernel that stores dx and dw

The schedule then runs both over blocks of rows (`passes.block`), so that the second finds in the caches what the first
has read. Where no block of rows stays close, or sizes are not known, nothing would be won, and they stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ..ir.expr import Load, loads_in
from ..ir.index import Axis
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
