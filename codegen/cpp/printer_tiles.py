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

from ...ir.expr import Const, Expr, Load, Rewriter
from ...ir.index import Index, axis_coefficient, substitute
from ...ir.tiles import Loop, Put
from ...ir.types import BF16, I8
from ..parts import writes_of
from ..products.find import extent_of
from .printer_memory import Memory
from .printer_values import Values
from .tile_nests import SIDE, SUMS, Nest, Product, read_nest, refused

LEFT, RIGHT = (4, 5), (6, 7)  # registers of the operands
NAME = "tiles"  # of the registers in C++


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
            for i in range(0, extent_of(nest.columns.axis), SIDE):
                for j in range(0, extent_of(nest.rows.axis), SIDE):
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
        step = axis_coefficient(flat, nest.points.axis if register in RIGHT else nest.columns.axis)
        corner = {nest.columns.axis: Index((), i), nest.rows.axis: Index((), j)}
        at = substitute(flat, corner, Rewriter(corner))
        if not isinstance(step, int) or (register >= SUMS and not self._is_narrow(e)):
            raise refused("narrow numbers in memory, in rows that lie evenly apart", nest.columns)
        stride = step * self.memory.size_of(name)
        self.stack.emit(f"{NAME}.{what}<{register}>({self.memory.pointer_to(name, at)}, {stride});")

    def _is_narrow(self, e: Load | Put) -> bool:
        """True where memory holds the elements as registers take them."""
        return isinstance(e, Load) and self.memory.places[e.name].storage == e.dtype.name


def _instruction(p: Product) -> str:
    if p.left.dtype is BF16:
        return "dot_bf16"
    return "dot_" + "".join("s" if e.dtype is I8 else "u" for e in (p.left, p.right))
