"""Reading dimensions, indices and expressions: the inverse of `str(dim)`, `str(index)` and `print_expr`.

    dimension   s0*s1 + 1, floor(s0/2), Mod(s0, 8), 4
    index       8*i + j - 1, (i // 4), 3*((i + 1) % s0), at(ids[t], 100), (s0 + 1)*i
    expression  2.5, 7:i64, #(8*i + j), x[t, c], x[t - 1 if (#(t) > 0:i64)], (a[t] + f32(b[t])), where(p[], 1.0, -inf)
                x[t as i16] reads an element in another type than it is declared with

What is read is built as written, without normalising, so text gives back the very nodes that printed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import sympy

from .errors import VerifyError
from .expr import FALSE, INFIX, TRUE, Const, Expr, Iota, Load, const
from .index import Atom, Axis, Data, Div, Index, Mod
from .scalar import SCALAR_OPS, cast, op
from .text_tokens import Cursor
from .types import BOOL, DTYPES, F32, Dim, DType, as_dim, symbol

SIZE_FUNCTIONS = {
    "floor": sympy.floor, "ceiling": sympy.ceiling, "Mod": sympy.Mod, "Max": sympy.Max, "Min": sympy.Min
}  # fmt: skip
T = TypeVar("T")
BY_SIGN = {sign: name for name, sign in INFIX.items()}


class ExprReader:
    """Reads from `cursor`, looking names up in `axes`, `dtypes` (buffers and equations) and `named` (let lines)."""

    def __init__(self, cursor: Cursor, axes: Mapping[str, Axis] | None = None) -> None:
        self.cursor = cursor
        self.axes: dict[str, Axis] = dict(axes or {})
        self.dtypes: dict[str, DType] = {}
        self.named: dict[str, Expr] = {}

    def listed(self, opening: str, item: Callable[[], T], closing: str) -> list[T]:
        """Items between commas, from `opening` (none where empty) up to and with `closing`."""
        if opening:
            self.cursor.expect(opening)
        found: list[T] = []
        while not self.cursor.accept(closing):
            if found:
                self.cursor.expect(",")
            found.append(item())
        return found

    # --- dimensions and indices ----------------------------------------------------------------------------------

    def dim(self) -> Dim:
        start = self.cursor.peek().at
        index = self.index()
        if index.terms:
            self.cursor.fail_at(start, "a size cannot depend on an axis", got=str(index))
        return index.const

    def index(self) -> Index:
        """A sum of coefficient*atom and dimensions, in the order as written."""
        terms: list[tuple[Atom, Dim]] = []
        const: Dim = 0
        negative = self.cursor.accept("-")
        while True:
            coefficient, atom = self._term()
            coefficient = -coefficient if negative else coefficient
            if atom is None:
                const = const + coefficient if const != 0 else coefficient
            else:
                terms.append((atom, as_dim(coefficient)))
            if not (self.cursor.sees("+") or self.cursor.sees("-")):
                return Index(tuple(terms), as_dim(const))
            negative = self.cursor.take().text == "-"

    def _term(self) -> tuple[Dim, Atom | None]:
        coefficient, atom = self._factor()
        while self.cursor.sees("*") or self.cursor.sees("/"):
            divides = self.cursor.take().text == "/"
            by, other = self._factor()
            if other is not None and (divides or atom is not None):
                self.cursor.fail("an index is linear in its axes", "a size")
            atom = atom or other
            coefficient = sympy.sympify(coefficient) / by if divides else coefficient * by
        return coefficient, atom

    def _factor(self) -> tuple[Dim, Atom | None]:
        base, atom = self._primary()
        if atom is None and self.cursor.accept("**"):
            power = self._primary()[0]
            return base**power, None
        return base, atom

    def _primary(self) -> tuple[Dim, Atom | None]:
        cursor = self.cursor
        if cursor.peek().text.isdigit():
            return cursor.integer(), None
        if cursor.accept("("):
            return self._parenthesised()
        if cursor.accept("at", "("):
            return 1, self._data()
        start = cursor.peek()
        name = cursor.name("a size, an axis or a parenthesis")
        if name in SIZE_FUNCTIONS and cursor.accept("("):
            return SIZE_FUNCTIONS[name](*self.listed("", self.dim, ")")), None
        if name in self.axes:
            return 1, self.axes[name]
        if not name.isidentifier():
            cursor.fail_at(start.at, "an unknown axis", ", ".join(self.axes), name)
        return symbol(name), None

    def _parenthesised(self) -> tuple[Dim, Atom | None]:
        inner = self.index()
        for sign, kind in (("//", Div), ("%", Mod)):
            if self.cursor.accept(sign):
                by = as_dim(self._factor()[0])
                self.cursor.expect(")")
                return 1, kind(inner, by)
        if inner.terms:
            self.cursor.fail("an index stands in parentheses only to be divided", "'//' or '%'")
        self.cursor.expect(")")
        return inner.const, None

    def _data(self) -> Data:
        value = self.expr()
        self.cursor.expect(",")
        size = self.dim()
        wrap = not self.cursor.accept(",", "nowrap")
        self.cursor.expect(")")
        return Data(value, size, wrap)

    # --- expressions ---------------------------------------------------------------------------------------------

    def expr(self) -> Expr:
        cursor = self.cursor
        if cursor.accept("("):
            return self._infix()
        if cursor.accept("#", "("):
            index = self.index()
            cursor.expect(")")
            return Iota(index)
        if cursor.peek().kind == "number" or cursor.peek().text in ("-", "inf", "nan", "true", "false"):
            return self._const()
        start = cursor.peek()
        name = cursor.name("an expression")
        if cursor.accept("["):
            return self._load(name, start.at)
        if cursor.accept("("):
            return self._call(name, start.at)
        if name not in self.named:
            cursor.fail_at(
                start.at, "an unknown name", "a load 'name[...]', an operation 'name(...)' or a let name", name
            )
        return self.named[name]

    def _infix(self) -> Expr:
        left = self.expr()
        sign = self.cursor.peek()
        if sign.text not in BY_SIGN:
            self.cursor.fail("unexpected text", "an operator: " + " ".join(BY_SIGN))
        self.cursor.take()
        right = self.expr()
        self.cursor.expect(")")
        return self._op(BY_SIGN[sign.text], (left, right), sign.at)

    def _const(self) -> Const:
        cursor = self.cursor
        text = "-" if cursor.accept("-") else ""
        word = cursor.take()
        if word.kind != "number" and word.text not in ("inf", "nan", "true", "false"):
            cursor.fail_at(word.at, "unexpected text", "a number", word.text)
        text += word.text
        if text in ("true", "false"):
            return TRUE if text == "true" else FALSE
        dtype = self.dtype() if cursor.accept(":") else F32
        if dtype.is_float:
            return const(float(text), dtype)
        if not word.text.isdigit() or dtype is BOOL:
            cursor.fail_at(word.at, "not a number of this type", str(dtype), text)
        return const(int(text), dtype)

    def dtype(self) -> DType:
        token = self.cursor.peek()
        if token.text not in DTYPES:
            self.cursor.fail("unknown element type", ", ".join(DTYPES))
        return DTYPES[self.cursor.take().text]

    def _load(self, name: str, at: int) -> Load:
        cursor = self.cursor
        if name not in self.dtypes:
            cursor.fail_at(at, "a load of an unknown name", ", ".join(self.dtypes), name)
        index = self.index_list("]", "if", "as")
        guard = self.expr() if cursor.accept("if") else None
        dtype = self.dtype() if cursor.accept("as") else self.dtypes[name]
        cursor.expect("]")
        return Load(name, index, dtype, guard)

    def index_list(self, *ends: str) -> tuple[Index, ...]:
        """Indices up to one of `ends`, which is left."""
        found: list[Index] = []
        while not any(self.cursor.sees(end) for end in ends):
            if found:
                self.cursor.expect(",")
            found.append(self.index())
        return tuple(found)

    def _call(self, name: str, at: int) -> Expr:
        args = self.listed("", self.expr, ")")
        if name in DTYPES and len(args) == 1:
            return cast(args[0], DTYPES[name])
        if name not in SCALAR_OPS or name == "cast":
            self.cursor.fail_at(at, "unknown operation", "a scalar op or an element type", name)
        return self._op(name, tuple(args), at)

    def _op(self, name: str, args: tuple[Expr, ...], at: int) -> Expr:
        try:
            return op(name, *args)
        except VerifyError as error:
            self.cursor.fail_at(at, f"{name}: {error.problem}", error.expected, error.got)
