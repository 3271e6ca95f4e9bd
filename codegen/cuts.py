"""Which reductions are cut into parts: those that too few points of a grid would otherwise share.

    s = sum(c:8388608) x[c]               one point: cut into 16, which threads share, and a sum of 16
    s[c] = sum(t:4096) x[t, c:2048]       one point, whose accumulators are all columns: the same
    s[t:4096] = sum(c:2048) x[t, c]       4096 points: as it is

The cut itself is the law `split`, which the compiler applies before a kernel is printed. How many parts there are does
not depend on how many threads there are: so results do not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import NamedTuple

from ..ir.expr import Load, loads_in
from ..ir.index import Axis, axes_of, axis_coefficient, linearize
from ..ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ..ir.rows import CLOSE, rows_of_block


class Cut(NamedTuple):
    """An axis in parts: what reduces it, or, where it is `whole`, all that runs along it."""

    axis: Axis
    parts: int
    whole: bool = False


Cuts = tuple[Cut, ...]

WORTH = 2  # times as much as that is read again: what is less stays close as it is


def cuts_of(kernel: Kernel, points: int, grain: float, cost: Callable[[Equation], float], columns: int) -> Cuts:
    """The axes to cut, each with its parts: so that grids have about `points` points of at least `grain` each.

    cost     of one point of an equation's domain, in the unit of `grain`
    columns  neighbours in memory that one point of a grid takes of what keeps them
    """
    found: dict[Axis, int] = {}
    for e in kernel.body:
        if not isinstance(e, Equation) or not e.state or e.scan or not e.reduce:
            continue
        extents = [a.extent for a in e.domain if isinstance(a.extent, int) and not a.is_ragged]
        if len(extents) < len(e.domain) or prod(extents) == 0:
            continue
        units = _units(kernel, e, columns)
        parts = int(min(points / units, prod(extents) * cost(e) / units / grain))
        longest = max(e.reduce, key=_extent)
        if min(parts, _extent(longest)) >= 2:
            found[longest] = max(found.get(longest, 0), min(parts, _extent(longest)))
    return tuple(Cut(a, _even(_extent(a), parts)) for a, parts in found.items())


def blocks_of(kernel: Kernel, fewest: int = 2) -> Cuts:
    """The axes to run in blocks, each with how many: at least `fewest`.

    Those that some statements keep and reductions reduce, where both read the same rows, neither waits for the other,
    and a block of rows stays close.
    """
    if any(isinstance(s, Equation) and s.scan for s in kernel.body):
        return ()
    for axis in kernel.axes:
        if not isinstance(axis.extent, int) or axis.is_ragged:
            continue
        reducers = [s for s in kernel.body if isinstance(s, Equation) and axis in s.reduce]
        waiting = _waiting_for(kernel, reducers)
        keepers = [s for s in kernel.body if axis in s.axes and s not in reducers and s not in waiting]
        shared = _rows_of(kernel, reducers, axis).keys() & _rows_of(kernel, keepers, axis).keys()
        if not shared:
            continue
        rows = _rows_of(kernel, [*reducers, *keepers], axis)
        each = sum(rows.values())
        again = sum(rows[n] for n in shared) * axis.extent
        length = rows_of_block(axis.extent, each, fewest)
        if length and again > WORTH * CLOSE:
            return (Cut(axis, axis.extent // length, whole=True),)
    return ()


def _waiting_for(kernel: Kernel, first: Sequence[Statement]) -> list[Statement]:
    """The statements that read what these give, by way of others too."""
    names = {n for s in first if isinstance(s, Equation) for n in s.names}
    found: list[Statement] = []
    for s in kernel.body:
        if any(e.name in names for e in loads_in(*statement_expressions(s))):
            found.append(s)
            names.update(s.names if isinstance(s, Equation) else ())
    return found


def _rows_of(kernel: Kernel, statements: Iterable[Statement], axis: Axis) -> dict[str, int]:
    """Bytes of a row, across an axis, of each buffer that statements load or store along it, but not densely."""
    found: dict[str, int] = {}
    for s in statements:
        touched = [(e.name, e.index) for e in loads_in(*statement_expressions(s)) if e.name in kernel.buffers]
        if isinstance(s, Store):
            touched.append((s.buffer, s.index))
        for name, index in touched:
            flat = linearize(index, kernel.buffers[name].strides)
            axes = axes_of(flat) if axis_coefficient(flat, axis) != 1 else frozenset()
            others = [a.extent for a in axes if a is not axis]
            if axis in axes and all(isinstance(n, int) for n in others):
                size = kernel.buffers[name].dtype.itemsize * prod(n for n in others if isinstance(n, int))
                found[name] = max(found.get(name, 0), size)
    return found


def _even(extent: int, parts: int) -> int:
    """About as many parts that are of equal length; where there are none, the last one is shorter, and each checks."""
    return next((k for k in range(parts, max(parts // 2, 1), -1) if extent % k == 0), parts)


def _units(kernel: Kernel, e: Equation, columns: int) -> int:
    """Points of the grid that an equation has by itself."""
    kept = [a for a in e.axes if a not in e.reduce]
    dense = _dense(kernel, loads_in(*e.args), e.domain)
    return prod(-(-_extent(a) // columns) if a is dense else _extent(a) for a in kept)


def _dense(kernel: Kernel, loads: Iterable[Load], axes: Sequence[Axis]) -> Axis | None:
    """The axis along which most of what is loaded are neighbours in memory."""
    weights: dict[Axis, int] = {}
    for e in dict.fromkeys(x for x in loads if x.name in kernel.buffers):
        flat = linearize(e.index, kernel.buffers[e.name].strides)
        for a in axes:
            if axis_coefficient(flat, a) == 1:
                weights[a] = weights.get(a, 0) + e.dtype.itemsize * prod(_extent(b) for b in axes if b in e.axes)
    return max(weights, key=weights.__getitem__, default=None)


def _extent(a: Axis) -> int:
    assert isinstance(a.extent, int)
    return a.extent
