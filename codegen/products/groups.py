"""Short groups of a sum as one row of lanes: a pack then spans several of them.

    sum(g, j:8) x[8*g + j] * q[8*g + j] * s[g]   ->   sum(c) x[c] * q[c] * s[c // 8]

The scales join the operands, each repeated for the lanes of its group.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.expr import Expr, Iota, Load, Rewriter, data_in, walk
from ...ir.index import Axis, Index, as_index, axis_coefficient, floor_divide, of_atom
from ...ir.types import multiply
from .find import Products, extent_of, is_dynamic

FEW_ROWS = 5  # for which scales are better applied to the sums of groups
TOGETHER = 2  # products of a pack's lane: groups of fewer points leave lanes empty


def join_groups(found: Products, pack: int) -> Products:
    """The sums over groups and over their points as sums over all points, where groups are shorter than packs."""
    many = found.rows is not None and (is_dynamic(found.rows) or extent_of(found.rows) > FEW_ROWS)
    if not many or not found.summed or not found.sums[0].rounds:
        return found
    groups, lanes = found.summed[-1], found.lanes
    extent, terms = extent_of(lanes), [t for s in found.sums for group in s.groups for t in group]
    if pack % extent or extent * len(terms) // len(found.sums) >= TOGETHER * pack:
        return found
    if not all(_can_join(n, groups, lanes) for n in walk(*terms)):
        return found
    points = Axis(f"{groups.name}{lanes.name}", extent_of(groups) * extent)
    join = Joiner(groups, lanes, points)
    sums = tuple(replace(s, groups=tuple(tuple(map(join, g)) for g in s.groups)) for s in found.sums)
    return replace(found, sums=sums, lanes=points, summed=found.summed[:-1])


class Joiner(Rewriter):
    """Rewrites what is read along the lanes as a row of all points, and what is read once a group as that."""

    def __init__(self, groups: Axis, lanes: Axis, points: Axis) -> None:
        super().__init__({groups: as_index(0), lanes: of_atom(points)})
        self.lanes = lanes
        self.in_groups = Rewriter({groups: floor_divide(of_atom(points), extent_of(lanes))})

    def _rewrite(self, e: Expr) -> Expr:
        if isinstance(e, Load) and self.lanes not in e.axes:
            return self.in_groups(e)
        return super()._rewrite(e)


def _can_join(e: Expr, groups: Axis, lanes: Axis) -> bool:
    if isinstance(e, Iota):
        return not e.axes & {groups, lanes}
    if not isinstance(e, Load):
        return True
    if e.guard is not None or any(list(data_in(i)) for i in e.index):
        return False
    return lanes not in e.axes or all(_takes_as_one(i, groups, lanes) for i in e.index)


def _takes_as_one(i: Index, groups: Axis, lanes: Axis) -> bool:
    outer, inner = axis_coefficient(i, groups), axis_coefficient(i, lanes)
    return inner is not None and outer == multiply(inner, extent_of(lanes))
