"""Reading kernels from text; the format is shown in `ir.text_loops`."""

from __future__ import annotations

from .expr import Expr
from .index import Axis, Index
from .loops import Buffer, Equation, Kernel, Statement, Store
from .states import STATES
from .text_expr import ExprReader
from .text_loops import MODES, axes_of_index
from .text_tokens import KEYWORDS, Cursor
from .types import Dim, DType, contiguous_strides


def parse_kernel(text: str) -> Kernel:
    """The kernel that `print_kernel` printed. Raises ParseError."""
    cursor = Cursor(text)
    kernel = _KernelReader(cursor).kernel()
    if cursor.peek().kind != "end":
        cursor.fail("unexpected text after the kernel", "the end")
    return kernel


class BufferReader(ExprReader):
    """Reads what kernels and tile programs both declare: buffers, and the bounds of ragged axes."""

    def params(self) -> tuple[Buffer, ...]:
        return tuple(self.listed("(", self.buffer, ")"))

    def buffer(self) -> Buffer:
        cursor = self.cursor
        name = cursor.name("a buffer's name")
        cursor.expect(":")
        dtype, shape = self.dtype(), self.dims()
        strides = self.dims() if cursor.accept("strides") else contiguous_strides(shape)
        offset = self.dim() if cursor.accept("offset") else 0
        return Buffer(name, dtype, shape, strides, offset)

    def dims(self) -> tuple[Dim, ...]:
        return tuple(self.listed("[", self.dim, "]"))

    def bound(self) -> Expr | None:
        return None if self.cursor.accept("_") else self.expr()


class _KernelReader(BufferReader):
    def kernel(self) -> Kernel:
        cursor = self.cursor
        cursor.expect("kernel")
        name = cursor.name("the kernel's name")
        inputs = self.params()
        cursor.expect("->")
        outputs = self.params()
        self.dtypes = {b.name: b.dtype for b in (*inputs, *outputs)}
        if cursor.accept("axes"):
            self._axis()
            while cursor.accept(","):
                self._axis()
        body: list[Statement] = []
        while cursor.peek().kind != "end":
            if cursor.accept("let"):
                self._let()
            else:
                body.append(self._statement())
        return Kernel(name, inputs, outputs, tuple(body))

    def _axis(self) -> None:
        cursor = self.cursor
        name = cursor.name("an axis")
        cursor.expect(":")
        extent = self.dim()
        begin = end = None
        if cursor.accept("in"):
            begin = self.bound()
            cursor.expect("..")
            end = self.bound()
        self.axes[name] = Axis(name, extent, begin, end)

    def _let(self) -> None:
        name = self.cursor.name("a let name")
        self.cursor.expect("=")
        self.named[name] = self.expr()

    def _statement(self) -> Statement:
        cursor = self.cursor
        if cursor.accept("("):
            return self._equation(self.listed("", self._left, ")"))
        start = cursor.place
        cursor.name("a statement")
        cursor.expect("[")
        index = self.index_list("]")
        cursor.expect("]")
        if cursor.sees(":"):
            cursor.place = start
            return self._equation([self._left()])
        return self._store(cursor.tokens[start].text, index)

    def _left(self) -> tuple[str, tuple[Axis, ...], DType]:
        name = self.cursor.name("an equation's name")
        self.cursor.expect("[")
        axes = self._axes("]")
        self.cursor.expect(":")
        return name, axes, self.dtype()

    def _axes(self, end: str) -> tuple[Axis, ...]:
        return tuple(self.listed("", self._known_axis, end))

    def _known_axis(self) -> Axis:
        start = self.cursor.peek().at
        name = self.cursor.name("an axis")
        if name not in self.axes:
            self.cursor.fail_at(start, "an unknown axis", ", ".join(self.axes), name)
        return self.axes[name]

    def _equation(self, left: list[tuple[str, tuple[Axis, ...], DType]]) -> Equation:
        cursor = self.cursor
        names, axes, dtypes = zip(*left, strict=True)
        cursor.expect("=")
        scans = cursor.accept("scan")
        state = cursor.take().text if scans or self._sees_state() else ""
        if scans and state not in STATES:
            cursor.fail("unknown state", ", ".join(STATES), state)
        reduce: tuple[Axis, ...] = ()
        if state:
            cursor.expect("(")
            reduce = self._axes(")")
        scan = cursor.name("inclusive or exclusive") if scans else ""
        reverse = cursor.accept("reverse")
        operand = self.dtype() if cursor.accept("operands") else None
        args = [self.expr()]
        while cursor.accept(","):
            args.append(self.expr())
        self.dtypes.update((n, d) for n, d in zip(names, dtypes, strict=True) if n != "_")
        return Equation(names, axes[0], tuple(args), dtypes, state, reduce, scan, reverse, operand)

    def _sees_state(self) -> bool:
        """`max(c) ...` is a reduction over an axis, `max(a[i], b[i])` an operation."""
        cursor = self.cursor
        if cursor.peek().text not in STATES or cursor.peek(1).text != "(":
            return False
        if cursor.peek(2).text == ")":
            return True
        is_axis = cursor.peek(2).kind == "name" and cursor.peek(2).text not in KEYWORDS
        return is_axis and cursor.peek(3).text in (",", ")") and cursor.peek(2).text not in self.named

    def _store(self, buffer: str, index: tuple[Index, ...]) -> Store:
        cursor = self.cursor
        sign = cursor.take().text
        if sign in ("max", "min"):
            cursor.expect("=")
            sign += "="
        if sign not in MODES:
            cursor.fail_at(cursor.tokens[cursor.place - 1].at, "unexpected text", "one of " + " ".join(MODES), sign)
        value = self.expr()
        injective = not cursor.accept("colliding")
        axes = self._axes(")") if cursor.accept("for", "(") else None
        guard = self.expr() if cursor.accept("if") else None
        if axes is None:
            found = axes_of_index(index)
            axes = tuple(a for a in found if a is not None)
            if len(axes) != len(found):
                cursor.fail("a store whose index is not just axes must say what it runs over", "for (...)")
        return Store(buffer, index, value, axes, MODES[sign], injective, guard)
