"""Products of tiles as C++: two loops over tiles, with the dots inside them, as instructions for tile registers.

    tiles n in 32 by 16: tiles t in 32 by 16:             tiles.shape(16, 16);
      state y = 0                                   ->    tiles.zero<0>(); .. tiles.zero<3>();
      lanes c in 64 by 16: dot y of w[..], x[..]          for (c = 0; c + 16 <= 64; c += 16) {
                                                            tiles.load<4>(w ..); tiles.load<6>(x ..);
                                                            tiles.dot_bf16<0, 4, 6>(); ..
                                                          }
      y_cols[n, t] <- y                                   tiles.store<0>(y_cols ..); ..

Registers 0 to 3 hold sums, 4 and 5 rows of the left operands, 6 and 7 columns of the right ones. Points that do not
fill a register's words are a product of another shape, to which the sums go through memory: a new shape clears all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.errors import LoweringError
from ...ir.expr import Const, Expr, Load, Rewriter
from ...ir.index import ZERO, Axis, Index, axes_of, axis_coefficient, substitute
from ...ir.tiles import Dot, Loop, Put, State, Statement
from ...ir.types import BF16, I8, U8
from ..parts import writes_of
from .printer_memory import Memory
from .printer_values import Values

SIDE = 16  # rows of a register, and its words of 32 bits
COUNTS = {BF16: 2, I8: 4, U8: 4}  # elements of a word
SUMS, LEFT, RIGHT = 4, (4, 5), (6, 7)  # how many registers hold sums; those of the operands
NAME = "tiles"  # of the registers in C++


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
        return min(SIDE, _extent(self.columns.axis))

    @property
    def shapes(self) -> list[int]:
        """Words of the left operands: of whole registers, and of the points that are left at the end of the axis."""
        count = _extent(self.points.axis)
        return [n for n in (SIDE * (count >= SIDE), count % SIDE) if n]

    def corners(self) -> list[tuple[State, Put, int, int]]:
        """The registers of sums: each with its state, its store, and where it starts."""
        return [
            (s, p, i, j)
            for s, p in zip(self.states, self.puts, strict=True)
            for i in range(0, _extent(self.columns.axis), SIDE)
            for j in range(0, _extent(self.rows.axis), SIDE)
        ]


class TilePrinter:
    """Prints such loops; `limits` gives the first point of a loop and the one after the last."""

    def __init__(self, values: Values, memory: Memory, limits: Callable[[Loop], tuple[str, str]]) -> None:
        self.values = values
        self.memory = memory
        self.stack = values.stack
        self.limits = limits

    def loop(self, s: Loop) -> None:
        nest = read_nest(s)
        self.values.need("Tiles")
        self.stack.open({}, writes_of(s) | {p.target for p in nest.puts}, False)
        for words in nest.shapes:
            self.stack.emit(f"{NAME}.shape({nest.height}, {words});")
            self._start(nest, again=words != nest.shapes[0])
            self._points(nest, nest.around, words)
            for k, (_, put, i, j) in enumerate(nest.corners()):
                self._move("store", nest, k, put, i, j)
        self.stack.emit_all(["{", *self.stack.close(), "}"])
        for p in nest.puts:
            self.stack.forget(p.target)

    def _start(self, nest: Nest, again: bool) -> None:
        """The first values of the sums, or those that they were left with."""
        for k, (state, put, i, j) in enumerate(nest.corners()):
            first = put if again else state.init
            if isinstance(first, Const):
                self.stack.emit(f"{NAME}.zero<{k}>();")
            else:
                self._move("load", nest, k, first, i, j)

    def _points(self, nest: Nest, around: Sequence[Loop], words: int) -> None:
        """The loops over the points of the sums: over those that fill so many words of registers."""
        loop = around[0] if around else nest.points
        first, last = self.limits(loop)
        self.stack.open({}, writes_of(loop), False)
        var = self.stack.scopes[-1].axes[loop.axis] = self.stack.fresh(loop.axis.name)
        if around:
            self._points(nest, around[1:], words)
            head = f"for (long {var} = {first}; {var} < {last}; {var}++) {{"
        else:
            self._dots(nest)
            head = f"for (long {var} = {first}; {var} + {SIDE} <= {last}; {var} += {SIDE}) {{"
            if words < SIDE:
                head = f"if (const long {var} = {last} / {SIDE} * {SIDE}; {var} < {last}) {{"
        lines = self.stack.close()
        self.stack.emit_all([head, *lines, "}"])

    def _dots(self, nest: Nest) -> None:
        """The products of some points: operands are loaded where no register holds them yet."""
        held: dict[int, tuple[Load, int]] = {}
        numbers = {(s.name, i, j): k for k, (s, _, i, j) in enumerate(nest.corners())}
        for p in nest.products:
            for i in range(0, _extent(nest.columns.axis), SIDE):
                for j in range(0, _extent(nest.rows.axis), SIDE):
                    a = self._operand(nest, p.left, i, 0, LEFT, held)
                    b = self._operand(nest, p.right, 0, j, RIGHT, held)
                    self.stack.emit(f"{NAME}.{_instruction(p)}<{numbers[p.name, i, j]}, {a}, {b}>();")

    def _operand(
        self, nest: Nest, e: Load, i: int, j: int, registers: tuple[int, int], held: dict[int, tuple[Load, int]]
    ) -> int:  # fmt: skip
        """The register of an operand: the one that was loaded first makes room."""
        for register in registers:
            if held.get(register) == (e, i + j):
                return register
        free = next((r for r in registers if r not in held), None)
        register = next(r for r in held if r in registers) if free is None else free
        held.pop(register, None)
        held[register] = e, i + j
        self._move("load", nest, register, e, i, j)
        return register

    def _move(self, what: str, nest: Nest, register: int, e: Expr | Put, i: int, j: int) -> None:
        """Loads or stores a register: 64 bytes of rows that lie evenly apart."""
        assert isinstance(e, Load | Put)
        name = e.name if isinstance(e, Load) else e.target
        flat = self.memory.flat(e.index, self.memory.places[name])
        along = nest.points.axis if register in RIGHT else nest.columns.axis
        step = axis_coefficient(flat, along)
        corner = {nest.columns.axis: Index((), i), nest.rows.axis: Index((), j)}
        at = substitute(flat, corner, Rewriter(corner))
        assert isinstance(step, int)
        stride = step * self.memory.size_of(name)
        self.stack.emit(f"{NAME}.{what}<{register}>({self.memory.pointer_to(name, at)}, {stride});")


def _instruction(p: Product) -> str:
    if p.left.dtype is BF16:
        return "dot_bf16"
    return "dot_" + "".join("s" if e.dtype is I8 else "u" for e in (p.left, p.right))


# --- what is printed ---------------------------------------------------------------------------------------------


def read_nest(s: Loop) -> Nest:
    """The parts of two loops over tiles. Raises LoweringError for what tile registers do not compute."""
    rows = s.body[0] if len(s.body) == 1 else None
    if not isinstance(rows, Loop) or rows.kind != "tiles":
        raise _refused("a loop over tiles of rows inside that of the columns", s)
    states = tuple(x for x in rows.body if isinstance(x, State))
    puts = tuple(x for x in rows.body if isinstance(x, Put))
    loops = [x for x in rows.body if isinstance(x, Loop)]
    around: list[Loop] = []
    while len(loops) == 1 and loops[0].kind == "serial" and not loops[0].reverse:
        around.append(loops[0])
        loops = [x for x in loops[0].body if isinstance(x, Loop)]
    if len(loops) != 1 or loops[0].kind != "lanes":
        raise _refused("one loop of lanes", s)
    dots = [x for x in loops[0].body if isinstance(x, Dot)]
    nest = Nest(s, rows, states, tuple(around), loops[0], _read_products(dots, s, rows, loops[0]), puts)
    _check(nest)
    return nest


def _check(nest: Nest) -> None:
    s = nest.columns
    columns, rows = _extent(s.axis), _extent(nest.rows.axis)
    whole = (columns < SIDE or columns % SIDE == 0) and rows % SIDE == 0
    if not whole or len(nest.states) * -(-columns // SIDE) * (rows // SIDE) > SUMS:
        raise _refused(f"whole tiles, at most {SUMS} of them", s)
    own = [p.value.name if isinstance(p.value, Load) and not p.value.index else "" for p in nest.puts]
    if own != [x.name for x in nest.states]:
        raise _refused("a store of each sum as it is", s)
    begin = nest.points.begin or ZERO
    if any(not isinstance(c, int) or c % SIDE for c in (begin.const, *(c for _, c in begin.terms))):
        raise _refused(f"sums that start at multiples of {SIDE}", s)


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
            raise _refused("dots of what is loaded", columns)
        for k, d in enumerate(group):
            if d.name != first.name or not (_is_next(left, d.left, k) and _is_next(right, d.right, k)):
                raise _refused("dots of neighbours in memory", columns)
        steps = [
            axis_coefficient(e.index[-1], a) for e, a in ((left, points.axis), (left, rows.axis), (right, rows.axis))
        ]
        if steps != [count, 0, count] or any(columns.axis in axes_of(i) for i in right.index):
            raise _refused("operands that are dense along the sum, and along the rows", columns)
        found.append(Product(first.name, left, right))
        done += count
    return tuple(found)


def _is_next(first: Load, e: Expr, k: int) -> bool:
    """True for a load `k` elements behind another one."""
    same = isinstance(e, Load) and e.name == first.name and e.index[:-1] == first.index[:-1]
    return same and isinstance(e, Load) and e.guard is None and e.index[-1] == first.index[-1] + k


def _extent(a: Axis) -> int:
    assert isinstance(a.extent, int)
    return a.extent


def _refused(expected: str, s: Statement) -> LoweringError:
    axis = s.axis.name if isinstance(s, Loop) else ""
    return LoweringError("products that tile registers do not compute", where=f"tiles {axis}", expected=expected)
