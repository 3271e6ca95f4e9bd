"""One launch of products of tiles as the body of a Triton function.

grid m by 64, grid n by 64          every value has two dimensions: rows are the first, columns the second
lanes k by 32: dot s of a, b        a loop over blocks; k is the second dimension of `a`, and the first of `b`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.errors import ScheduleError
from ...ir.expr import Expr, Load, Op, const
from ...ir.index import Axis
from ...ir.tiles import Dot, Loop, State, Statement, Update, walk_statements
from ...ir.types import F32, Dim, product
from ..dims import PYTHON, print_dim
from ..parts import writes_of
from ..text import strip
from .combine import Combiners
from .ops import TYPES
from .printer import Printer, blocks_of, holds_all, is_short, is_whole
from .scope import Axes
from .values import Array

ROWS, COLUMNS = 0, 1
PROGRAM = "pid = tl.program_id(0)"


@dataclass(frozen=True, slots=True)
class Order:
    """How the programs of a launch go about its tiles.

    group       rows of tiles whose programs run side by side
    turns       programs that take turns over all tiles; 0: each tile has its own
    specialize  some warps load what others multiply
    """

    group: int = 1
    turns: int = 0
    specialize: bool = False

    def programs(self, tiles: Dim) -> Dim:
        return min(tiles, self.turns) if self.turns and isinstance(tiles, int) else tiles


class DotPrinter(Printer):
    """Prints one launch whose lanes loops are products, in the `order` of a schedule."""

    def __init__(self, arrays: Mapping[str, Array], symbols: Sequence[str], combiners: Combiners, order: Order) -> None:
        super().__init__(arrays, symbols, combiners)
        self.order = order
        self._dims: dict[str, frozenset[int]] = {}

    def print_launch(
        self,
        grid: Sequence[Loop],
        body: Sequence[Statement],
        given: Mapping[str, tuple[str, str]],
        kept: Mapping[str, str],
    ) -> list[str]:
        lines = super().print_launch(grid, body, given, kept)
        tiles = product(blocks_of(x) for x in grid)
        if self.order.programs(tiles) == tiles:
            return lines
        at = lines.index(PROGRAM)
        head = f"for pid in range(tl.program_id(0), {print_dim(tiles, PYTHON)}, {self.order.turns}):"
        return [*lines[:at], head, *(f"    {line}" for line in lines[at + 1 :])]

    def has_lanes(self, body: Sequence[Statement]) -> bool:
        return False

    def state_dims(self, s: State) -> frozenset[int]:
        return self._dims[s.name]

    # --- the grid ------------------------------------------------------------------------------------------------

    def open_grid(self, grid: Sequence[Loop], tiled: Sequence[Loop]) -> None:
        """Programs of `group` tiles along the rows take turns over the columns: what they load stays in the cache."""
        rows, columns = grid[-2:]
        if tiled != [rows, columns]:
            raise ScheduleError("products of tiles have rows and columns", got=[x.axis for x in tiled])
        self._find_dims(columns.body, rows.axis, columns.axis)
        across, down = (print_dim(blocks_of(x), PYTHON) for x in (columns, rows))
        self.stack.emit(PROGRAM)
        at = "pid"
        if len(grid) > 2:
            each = print_dim(product((blocks_of(rows), blocks_of(columns))), PYTHON)
            self._open_batches(grid[:-2], f"pid // {each}")
            at = self._say("at", f"pid % {each}")
        if self.order.group > 1 and down != "1" and across != "1":
            row, column = self._grouped(at, int(down), int(across))
        else:
            row, column = f"{at} // {across}", f"{at} % {across}"
        self.open_axis(rows, row, ROWS)
        self.open_axis(columns, column, COLUMNS)

    def _open_batches(self, grid: Sequence[Loop], rest: str) -> None:
        for loop in reversed(grid[1:]):
            rest = self._say("rest", rest)
            count = print_dim(blocks_of(loop), PYTHON)
            self.open_axis(loop, f"{rest} % {count}", None)
            rest = f"{rest} // {count}"
        self.open_axis(grid[0], rest, None)

    def _grouped(self, at: str, down: int, across: int) -> tuple[str, str]:
        """(the row of tiles, the column of tiles) of a program."""
        group = min(self.order.group, down)
        first = self._say("first", f"{at} // {group * across} * {group}")
        inside = self._say("inside", f"{at} % {group * across}")
        height = str(group)
        if down % group:
            height = self._say("height", f"min({down} - {first}, {group})")
        return f"{first} + {inside} % {height}", f"{inside} // {height}"

    def _say(self, hint: str, text: str) -> str:
        name = self.stack.fresh(hint)
        self.stack.emit(f"{name} = {text}")
        return name

    def _find_dims(self, body: Sequence[Statement], rows: Axis, columns: Axis) -> None:
        """What each sum varies along: the rows, the columns, both."""
        for s in walk_statements(body):
            if isinstance(s, Update):
                self._dims.update(dict.fromkeys(s.names, frozenset({ROWS, COLUMNS})))
            if isinstance(s, Dot):
                axes = s.left.axes | s.right.axes
                found = {k for k, a in ((ROWS, rows), (COLUMNS, columns)) if a in axes}
                self._dims[s.name] = self._dims.get(s.name, frozenset()) | found

    # --- products ------------------------------------------------------------------------------------------------

    def _loop(self, s: Loop) -> None:
        if s.kind != "lanes" or s.axis.extent == 0:
            super()._loop(s)
            return
        if holds_all(s):
            self._products(s, "", print_dim(s.axis.extent, PYTHON))
            return
        begin, end = self.limits(s)
        first = self.stack.fresh(f"{s.axis.name}0")
        self.stack.open({}, writes_of(s))
        self._products(s, f"{first} + ", end)
        lines = self.stack.close()
        steps = f"range({begin}, {end}, {s.tile})"
        if self.order.specialize:
            steps = f"tl.{steps[:-1]}, warp_specialize=True)"
        self.stack.emit_block(f"for {first} in {steps}:", lines)

    def _products(self, s: Loop, first: str, end: str) -> None:
        dots = [d for d in s.body if isinstance(d, Dot)]
        points = self._say(s.axis.name, f"{first}tl.arange(0, {s.tile})")
        left = self._operands(s, [d.left for d in dots], points, end, COLUMNS)
        right = self._operands(s, [d.right for d in dots], points, end, ROWS)
        for d, a, b in zip(dots, left, right, strict=True):
            self.stack.emit(self._add(d, a, b))
            self.stack.forget(d.name)

    def _add(self, d: Dot, a: str, b: str) -> str:
        """What is one on one side is a sum of the other."""
        total, dtype = self.stack.bound[d.name][0].text, self.states[d.name].dtype
        if a and b:
            exact = ', input_precision="ieee"' if d.left.dtype is F32 else ""
            return f"{total} = tl.dot({a}, {b}, {total}{exact})"
        value, dim = (a, COLUMNS) if a else (b, ROWS)
        return f"{total} += tl.sum({value}.to({TYPES[dtype.name]}), axis={dim}, keep_dims=True)"

    def _operands(self, s: Loop, values: Sequence[Expr], points: str, end: str, dim: int) -> list[str]:
        """The tiles of one side, whose dimension `dim` are the lanes; "" for those that are 1."""
        sizes, live = self.values.sizes, dict(self.values.live)
        self.values.sizes = [s.tile if k == dim else n for k, n in enumerate(sizes)]
        name = self.stack.fresh(f"{s.axis.name}_{'across' if dim == COLUMNS else 'down'}")
        self.stack.open({s.axis: Axes(name, dim, "i32" if is_short(s) else "i64")}, frozenset())
        self.stack.emit(f"{name} = {points}[{'None, :' if dim == COLUMNS else ':, None'}]")
        mask = self.mask(name, s.axis, end, is_whole(s))
        self.values.live[dim] = mask
        found = ["" if e is const(1, e.dtype) else self._operand(e, s.axis, mask) for e in values]
        lines = self.stack.close()
        for line in lines if any(found) else ():
            self.stack.emit(line)
        self.values.sizes, self.values.live = sizes, live
        return found

    def _operand(self, e: Expr, lanes: Axis, mask: str) -> str:
        """A tile of an operand, 0 beyond the end of the lanes."""
        text = strip(self.values.spread(self.values.value(e), frozenset({ROWS, COLUMNS}), e.dtype.name))
        if mask and not _is_masked(e, lanes):
            text = f"tl.where({mask}, {text}, {'0.0' if e.dtype.is_float else '0'})"
        if text.isidentifier():
            return text
        return self._say("operand", text)


def _is_masked(e: Expr, lanes: Axis) -> bool:
    """True for what is 0 where the lanes end, since loads are there."""
    if isinstance(e, Load):
        return lanes in e.axes
    return isinstance(e, Op) and e.name in ("cast", "mul") and all(_is_masked(a, lanes) for a in e.args)
