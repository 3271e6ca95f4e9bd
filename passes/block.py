"""Law: split, of all that runs along an axis. What keeps the axis and what reduces it take turns over blocks of it.

    dx[t, c] <- f(x[t, c], s[t])                    dx[k, d, c] <- f(x[k*L + d, c], s[k, d])
    dw[c] = sum(t) g(x[t, c])             ->        p[k, c] = sum(d:L) g(x[k*L + d, c])
                                                    dw[c] = sum(k) p[k, c]

Once the blocks are loops around both, a block of rows that the first has read is still close when the second wants it.
A schedule calls this; sums round in another order.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.errors import ScheduleError
from ..ir.index import Axis
from ..ir.loops import Equation, Kernel, Statement, Store
from ..ir.simplify import exact
from .reasons import Reason
from .refine import split_axis
from .split import combine_parts, named_part


def block(kernel: Kernel, axis: Axis, parts: int) -> tuple[Kernel, Axis]:
    """The kernel with `axis` in so many blocks of equal length, its reductions over it in as many parts, and the axis
    along the blocks.

    Raises ScheduleError where `may_block` has a reason against it.
    """
    reason = may_block(kernel, axis, parts)
    if reason is not None:
        text = reason.sentence.format(value=axis.name, other="")
        raise ScheduleError(f"cannot run in blocks: {text}", where=axis.name)
    assert isinstance(axis.extent, int)
    known = set(kernel.axes)
    kernel = split_axis(kernel, axis, axis.extent // parts, exact)
    outer = next(a for a in kernel.axes if a not in known and a.extent == parts and a.name.startswith(f"{axis.name}o"))
    for e in [s for s in kernel.body if isinstance(s, Equation) and outer in s.reduce]:
        over = tuple(a for a in e.reduce if a is not outer)
        partial = replace(e, names=named_part(kernel, e), axes=(outer, *e.axes), reduce=over)
        made = (partial, *combine_parts(kernel, e, partial, outer))
        kernel = replace(kernel, body=_put(kernel.body, e, made))
    note = f"split: {axis.name} in {parts} blocks"
    return replace(kernel, notes=(*kernel.notes, note)), outer


def may_block(kernel: Kernel, axis: Axis, parts: int) -> Reason | None:
    """Why an axis cannot run in so many blocks; None where it can."""
    if not isinstance(axis.extent, int) or any(a.is_ragged for a in kernel.axes):
        return Reason.UNSIZED
    if not 2 <= parts < axis.extent or axis.extent % parts:
        return Reason.PARTS
    for s in kernel.body:
        if isinstance(s, Equation) and axis in s.reduce and (s.scan or s.state == "moments"):
            return Reason.SCANS
        if isinstance(s, Store) and axis in s.axes and not s.injective:
            return Reason.UNREDUCED
    return None


def _put(body: tuple[Statement, ...], old: Statement, new: tuple[Statement, ...]) -> tuple[Statement, ...]:
    return tuple(n for s in body for n in (new if s is old else (s,)))
