"""Two kept axes of one operand as one, where results lie in memory as if they were.

    y[i, j, o] = sum(t, u, c) x[i + t, j + u, c] * w[o, t, u, c]    with i:14, j:14
 -> y[ij, o]   = sum(t, u, c) x[ij // 14 + t, ij % 14 + u, c] * w[o, t, u, c]    with ij:196

Tiles of an axis then leave one rest, and not one for each point of the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...ir.expr import Load, indices, loads_in, walk
from ...ir.index import Axis
from ...ir.loops import Equation, Kernel, Store, statement_expressions
from ..tiling_prepare import takes_as_one


def find_joint(kernel: Kernel, main: Equation, tiled: Axis, others: Iterable[Axis]) -> tuple[Axis, Axis] | None:
    """(outer, inner): the tiled axis and another one that the same operands of a sum have, which stores take as one;
    None where there is none.
    """
    operands = [e.axes for e in loads_in(*main.args) if e.name in kernel.buffers]
    together = [*operands, *(s.domain for s in kernel.body)]
    same = [a for a in others if all((a in axes) == (tiled in axes) for axes in together)]
    pairs = [p for a in same for p in ((a, tiled), (tiled, a))]
    return next((p for p in pairs if all(_stores_as_one(s, kernel, *p) for s in kernel.stores)), None)


def _stores_as_one(s: Store, kernel: Kernel, outer: Axis, inner: Axis) -> bool:
    own = [i for e in walk(*statement_expressions(s)) if not (isinstance(e, Load) and e.name in kernel.equations)
           for i in indices(e)]  # fmt: skip
    return all(takes_as_one(i, outer, inner) for i in (*s.index, *own))
