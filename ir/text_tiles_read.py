"""Reading tile programs from text; the format is shown in `ir.text_tiles`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .expr import Expr, Load
from .index import Axis
from .text_loops_read import BufferReader
from .text_tokens import Cursor
from .tiles import KINDS, Dot, Fetch, Fold, Let, Loop, Program, Put, Scan, Scratch, Stage, State, Statement, Update
from .types import DType


def parse_program(text: str) -> Program:
    """The program that `print_program` printed. Raises ParseError."""
    cursor = Cursor(text)
    program = _ProgramReader(cursor).program()
    if cursor.peek().kind != "end":
        cursor.fail("a line that is not as deep as the others of its loop", "one depth for each loop")
    return program


class _ProgramReader(BufferReader):
    def program(self) -> Program:
        cursor = self.cursor
        cursor.expect("tiles")
        name = cursor.name("the program's name")
        inputs = self.params()
        cursor.expect("->")
        outputs = self.params()
        prefetch = cursor.integer() if cursor.accept("prefetch") else 0
        scratch: list[Scratch] = []
        while self._sees_word("scratch"):
            cursor.take()
            array, dtype = self._typed("a scratch array")
            scratch.append(Scratch(array, dtype, tuple(self.dims()), self._accepts_narrow()))
        self.dtypes = {b.name: b.dtype for b in (*inputs, *outputs, *scratch)}
        return Program(name, inputs, outputs, tuple(scratch), self._block(0), (), prefetch)

    def _accepts_narrow(self) -> bool:
        """`narrow` behind an array's shape, and not an array of that name in the next line."""
        return self.cursor.peek(1).text != "[" and bool(self.cursor.accept("narrow"))

    def _sees_word(self, *words: str) -> bool:
        """True where a statement starts with one of `words`: a name follows it."""
        return self.cursor.peek().text in words and self.cursor.peek(1).kind == "name"

    # --- blocks --------------------------------------------------------------------------------------------------

    def _depth(self) -> int:
        """How far the next token stands from the start of its line."""
        at = self.cursor.peek().at
        return at - self.cursor.text.rfind("\n", 0, at) - 1

    def _block(self, above: int) -> tuple[Statement, ...]:
        """The statements that stand equally deep, deeper than `above`."""
        depth = self._depth()
        body: list[Statement] = []
        while self.cursor.peek().kind != "end" and self._depth() == depth > above:
            if self.cursor.peek(1).text.startswith("%") and self.cursor.accept("let"):
                self._alias()
            else:
                body.append(self._statement())
        return tuple(body)

    def _alias(self) -> None:
        name = self.cursor.name("a let name")
        self.cursor.expect("=")
        self.named[name] = self.expr()

    def _statement(self) -> Statement:
        if self._sees_word(*KINDS):
            return self._loop()
        readers = {
            "let": self._let, "state": self._state, "fold": self._fold, "scan": self._scan, "stage": self._stage,
            "fetch": self._fetch, "dot": self._dot,
        }  # fmt: skip
        if self._sees_word(*readers):
            return readers[self.cursor.take().text]()
        name = self.cursor.name("a statement")
        return self._put(name) if self.cursor.accept("[") else self._update(name)

    @contextmanager
    def _within(self, *axes: Axis) -> Iterator[None]:
        before = self.axes
        self.axes = before | {a.name: a for a in axes}
        yield
        self.axes = before

    def _loop(self) -> Loop:
        cursor = self.cursor
        above = self._depth()
        kind, axis = cursor.take().text, self._axis()
        begin = self.index() if cursor.accept("from") else None
        end = self.index() if cursor.accept("to") else None
        tile, reverse = self._by(), cursor.accept("backwards")
        cursor.expect(":")
        with self._within(axis):
            return Loop(kind, axis, self._block(above), tile, begin, end, reverse)

    def _axis(self) -> Axis:
        cursor = self.cursor
        name = cursor.name("an axis")
        cursor.expect("in")
        extent = self.dim()
        if not cursor.accept("within"):
            return Axis(name, extent)
        begin = self.bound()
        cursor.expect("..")
        return Axis(name, extent, begin, self.bound())

    def _by(self) -> int:
        return self.cursor.integer() if self.cursor.accept("by") else 1

    # --- statements ----------------------------------------------------------------------------------------------

    def _typed(self, what: str) -> tuple[str, DType]:
        name = self.cursor.name(what)
        self.cursor.expect(":")
        return name, self.dtype()

    def _value(self, dtype: DType) -> Expr:
        start = self.cursor.peek().at
        value = self.expr()
        if value.dtype is not dtype:
            self.cursor.fail_at(start, "the value has another type", str(dtype), str(value.dtype))
        return value

    def _let(self) -> Let:
        name, dtype = self._typed("a value's name")
        self.cursor.expect("=")
        value = self._value(dtype)
        self.dtypes[name] = dtype
        return Let(name, value)

    def _state(self) -> State:
        name, dtype = self._typed("a state's name")
        self.cursor.expect("=")
        init = self._value(dtype)
        self.dtypes[name] = dtype
        if not self.cursor.accept("over"):
            return State(name, dtype, init)
        return State(name, dtype, init, self._axis(), self._by())

    def _names(self) -> tuple[str, ...]:
        names = [self.cursor.name()]
        while self.cursor.accept(","):
            names.append(self.cursor.name())
        return tuple(names)

    def _update(self, first: str) -> Update:
        cursor = self.cursor
        names = (first, *self._names()) if cursor.accept(",") else (first,)
        cursor.expect(":=")
        values = [self.expr()]
        while cursor.accept(","):
            values.append(self.expr())
        return Update(names, tuple(values))

    def _fold(self) -> Fold:
        names = self._names()
        self.cursor.expect("=")
        return Fold(names, self.cursor.name("a state"))

    def _fetch(self) -> Fetch:
        name = self.cursor.name("a buffer")
        index = self._after("[").index()
        self.cursor.expect("]")
        return Fetch(name, index)

    def _dot(self) -> Dot:
        cursor = self.cursor
        name = cursor.name("a state's name")
        cursor.expect("of")
        left = self.expr()
        cursor.expect(",")
        return Dot(name, left, self.expr())

    def _scan(self) -> Scan:
        cursor = self.cursor
        name, dtype = self._typed("a scan's name")
        cursor.expect("=")
        state = cursor.name("a state")
        cursor.expect("of")
        value = self._value(dtype)
        cursor.expect("from")
        self.dtypes[name] = dtype
        return Scan(name, state, cursor.name("a state's name"), value)

    def _put(self, target: str) -> Put:
        cursor = self.cursor
        index = self.index_list("]")
        cursor.expect("]")
        cursor.expect("<-")
        value = self.expr()
        guard = self.expr() if cursor.accept("if") else None
        return Put(target, index, value, guard, cursor.accept(",", "streamed"))

    def _stage(self) -> Stage:
        cursor = self.cursor
        target = cursor.name("a scratch array")
        cursor.expect("[")
        at = (self.index(), self._after(",").index())
        tile = self._after("]")._by()
        count = cursor.integer() if cursor.accept("of") else 1
        rows = self._after("over")._axis()
        row = self._after("from").index()
        lanes = self._after(",")._axis()
        lane = self._after("from").index()
        cursor.expect("<-")
        start = cursor.peek().at
        with self._within(rows, lanes):
            value = self.expr()
        if not isinstance(value, Load):
            cursor.fail_at(start, "only loads are staged", "a load 'name[...]'", str(value))
        return Stage(target, at, value, rows, lanes, row, lane, tile, count)

    def _after(self, text: str) -> _ProgramReader:
        self.cursor.expect(text)
        return self
