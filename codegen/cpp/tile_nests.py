"""Two loops over tiles as tile registers see them: sums, operands in words, and results. Others are refused.

tiles n in 32 by 16: tiles t in 32 by 16:
  state y = 0
  lanes c in 64 by 16: dot y of w[2*c + 64*n], x[c, 2*t]
                       dot y of w[2*c + 64*n + 1], x[c, 2*t + 1]     one product: a word of each operand
  y_cols[n, t] <- y
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.errors import LoweringError
from ...ir.expr import Const, Expr, Load
from ...ir.index import ZERO, axes_of, axis_coefficient
from ...ir.tiles import Dot, Loop, Put, State, Statement
from ...ir.types import BF16, I8, U8
from ..products.find import extent_of

SIDE = 16  # rows of a register, and its words of 32 bits
SUMS = 4  # registers of sums
COUNTS = {BF16: 2, I8: 4, U8: 4}  # elements of a word


@dataclass(frozen=True, slots=True)
class Product:
    """What is added to one sum: the elements of a word of the left operand times those of the right one."""

    name: str
    left: Load
    right: Load


@dataclass(frozen=True, slots=True)
class Nest:
    """Two loops over tiles.

    around  serial loops around the loop over the points of the sums, outermost first
    """

    columns: Loop
    rows: Loop
    states: tuple[State, ...]
    around: tuple[Loop, ...]
    points: Loop
    products: tuple[Product, ...]
    puts: tuple[Put, ...]

    @property
    def height(self) -> int:
        """Columns of a register."""
        return min(SIDE, extent_of(self.columns.axis))

    @property
    def shapes(self) -> list[int]:
        """Words of the left operands: of whole registers, and of the points that are left at the end of the axis."""
        count = extent_of(self.points.axis)
        return [n for n in (SIDE * (count >= SIDE), count % SIDE) if n]

    def corners(self) -> list[tuple[State, Put, int, int]]:
        """The registers of sums: each with its state, its store, and where it starts."""
        return [
            (s, p, i, j)
            for s, p in zip(self.states, self.puts, strict=True)
            for i in range(0, extent_of(self.columns.axis), SIDE)
            for j in range(0, extent_of(self.rows.axis), SIDE)
        ]


def read_nest(s: Loop) -> Nest:
    """The parts of two loops over tiles. Raises LoweringError for what tile registers do not compute."""
    rows = s.body[0] if len(s.body) == 1 else None
    if not isinstance(rows, Loop) or rows.kind != "tiles":
        raise refused("a loop over tiles of rows inside that of the columns", s)
    states = tuple(x for x in rows.body if isinstance(x, State))
    puts = tuple(x for x in rows.body if isinstance(x, Put))
    rest = rows.body[len(states) : len(rows.body) - len(puts)]
    loops = _loops_down(rest[0]) if len(rest) == 1 else []
    if not loops or loops[-1].kind != "lanes" or rows.body != (*states, *rest, *puts):
        raise refused("sums, a loop over lanes, and stores", s)
    *around, points = loops
    dots = [x for x in points.body if isinstance(x, Dot)]
    nest = Nest(s, rows, states, tuple(around), points, _read_products(dots, s, rows, points), puts)
    _check(nest)
    return nest


def _loops_down(s: Statement) -> list[Loop]:
    """A loop and those inside it, where each is all that the one around it does."""
    if not isinstance(s, Loop):
        return []
    return [s, *(_loops_down(s.body[0]) if s.kind == "serial" and len(s.body) == 1 and not s.reverse else [])]


def _check(nest: Nest) -> None:
    s = nest.columns
    columns, rows = extent_of(s.axis), extent_of(nest.rows.axis)
    whole = (columns < SIDE or columns % SIDE == 0) and rows % SIDE == 0
    if not whole or len(nest.states) * -(-columns // SIDE) * (rows // SIDE) > SUMS:
        raise refused(f"whole tiles, at most {SUMS} of them", s)
    if any(i is not None for loop in (s, nest.rows) for i in (loop.begin, loop.end)):
        raise refused("loops over whole axes", s)
    own = [p.value.name if isinstance(p.value, Load) and not p.value.index else "" for p in nest.puts]
    if own != [x.name for x in nest.states] or any(p.guard is not None for p in nest.puts):
        raise refused("a store of each sum as it is", s)
    if not all(_is_start(x.init) for x in nest.states):
        raise refused("sums that start at 0, or from memory", s)
    results = [e.index for e in (*nest.puts, *(x.init for x in nest.states)) if isinstance(e, Load | Put)]
    if any(axis_coefficient(i[-1], nest.rows.axis) != 1 for i in results):
        raise refused("results that are dense along the rows", s)
    begin = nest.points.begin or ZERO
    if any(not isinstance(c, int) or c % SIDE for c in (begin.const, *(c for _, c in begin.terms))):
        raise refused(f"sums that start at multiples of {SIDE}", s)


def _is_start(e: Expr) -> bool:
    return e.value == 0 if isinstance(e, Const) else isinstance(e, Load) and e.guard is None


def _read_products(dots: Sequence[Dot], columns: Loop, rows: Loop, points: Loop) -> tuple[Product, ...]:
    """Dots whose operands are neighbours in memory, together."""
    found: list[Product] = []
    done = 0
    while done < len(dots):
        first = dots[done]
        count = COUNTS.get(first.left.dtype, 0)
        group = dots[done : done + count]
        left, right = first.left, first.right
        if not isinstance(left, Load) or not isinstance(right, Load) or not count or len(group) < count:
            raise refused("dots of what is loaded", columns)
        for k, d in enumerate(group):
            if d.name != first.name or not (_is_next(left, d.left, k) and _is_next(right, d.right, k)):
                raise refused("dots of neighbours in memory", columns)
        steps = [
            axis_coefficient(e.index[-1], a) for e, a in ((left, points.axis), (left, rows.axis), (right, rows.axis))
        ]
        if steps != [count, 0, count] or any(columns.axis in axes_of(i) for i in right.index):
            raise refused("operands that are dense along the sum, and along the rows", columns)
        found.append(Product(first.name, left, right))
        done += count
    return tuple(found)


def _is_next(first: Load, e: Expr, k: int) -> bool:
    """True for a load `k` elements behind another one."""
    same = isinstance(e, Load) and e.name == first.name and e.index[:-1] == first.index[:-1]
    return same and isinstance(e, Load) and e.guard is None and e.index[-1] == first.index[-1] + k


def refused(expected: str, s: Statement) -> LoweringError:
    axis = s.axis.name if isinstance(s, Loop) else ""
    return LoweringError("products that tile registers do not compute", where=f"tiles {axis}", expected=expected)
