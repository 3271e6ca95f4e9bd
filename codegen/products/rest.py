"""Products at points of long sums that fill no group: one of 4099 points in pairs, three of 4099 in quads.

    y[t, n] = sum(c:2049) (x[t, 2*c] * w[n, 2*c] + x[t, 2*c + 1] * w[n, 2*c + 1])  +  x[t, 4098] * w[n, 4098]

Their operands lie apart in memory along rows and columns, so each is gathered once for a block, into an array of its
own; the products are added where the sums are read.
"""

from __future__ import annotations

from ...ir.expr import Expr, Load, product_factors
from ...ir.index import Axis, Index, of_atom
from ...ir.tiles import Loop, Put, Scratch, Statement
from .packs import OperandPacks


class RestOfSums(OperandPacks):
    """The arrays of those operands."""

    def pack_rest(self, first: Index, size: int) -> list[Statement]:
        """Computes the operands of a block of `size` columns from `first`."""
        f = self.found
        sides = dict.fromkeys(side for s in f.sums for term in s.rest for side in product_factors(term))
        done: list[Statement] = []
        for side in sides:
            axes = self._rest_axes(side)
            if not axes:
                continue
            name = self._rest_array(side)
            self.scratch[name] = Scratch(name, side.dtype, tuple(self._size(a) for a in axes))
            put = Put(name, tuple(self._place(a, of_atom(a), first) for a in axes), side)
            done += self._over_axes(put, axes, first, size)
        return done

    def read_rest(self, side: Expr, first: Index) -> Expr:
        """An operand at the current point of a block."""
        axes = self._rest_axes(side)
        if not axes:
            return side
        return Load(self._rest_array(side), tuple(self._place(a, of_atom(a), first) for a in axes), side.dtype)

    def _rest_axes(self, side: Expr) -> tuple[Axis, ...]:
        f = self.found
        if side.axes <= set(f.outer):
            return ()
        return tuple(a for a in (*f.outer, *self._small_axes, f.columns) if a in side.axes)

    def _rest_array(self, side: Expr) -> str:
        """The name of the array: by the place of the operand among all of them."""
        sides = dict.fromkeys(e for s in self.found.sums for term in s.rest for e in product_factors(term))
        return f"rest{list(sides).index(side)}{self.part}"

    def _over_axes(self, put: Put, axes: tuple[Axis, ...], first: Index, size: int) -> list[Statement]:
        """Lanes along the columns, or along the rows of what has no columns."""
        f = self.found
        around = [a for a in self._small_axes if a in axes]
        if f.columns in axes:
            loop: Statement = Loop("lanes", f.columns, (put,), self.pack, first, first + size)
        elif f.rows is not None and f.rows in axes:
            loop = Loop("lanes", f.rows, (put,), self.pack, *self.rows.limits)
            around.remove(f.rows)
        else:
            return self._around([put], around)
        return self._around([loop], around)
