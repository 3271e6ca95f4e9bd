"""Expressions in C++: each distinct one is printed once per loop body, in the outermost loop where it is known."""

from __future__ import annotations

from collections import Counter

from ...ir.expr import Const, Expr, Iota, Load, Op
from ...ir.index import Axis, Data, Div, Index, Mod, axis_coefficient, bounds
from ...ir.types import BF16, BOOL, F16, F32, I64, DType, is_nonnegative
from ..dims import print_dim
from ..ranges import fits_in, index_fits_32, is_power_of_two
from ..text import strip
from .printer_dots import Dots
from .printer_memory import Memory
from .printer_names import TYPES, print_const
from .printer_ops import COMPARE, EXACT, print_cast, print_op
from .printer_scope import Stack, Val, names_in
from .width import PACKS, compares_indices, compares_with_wide, pack_of

LONGEST = 90  # characters of an expression before it gets a name
NARROW = ("bf16", "f16", "i8", "u8", "i16")


class Values:
    """Prints expressions; `needs` collects (lanes, name) of the prelude's functions.

    strict  each operation rounds as IEEE arithmetic says, also before its result is rounded to fewer bits
    """

    def __init__(self, stack: Stack, lanes: int, *, strict: bool = False) -> None:
        self.stack = stack
        self.lanes = lanes
        self.strict = strict
        self.needs: set[tuple[int, str]] = set()
        self.uses: Counter[Expr] = Counter()
        self._here = 1 << 30
        self.memory: Memory  # set by the printer: the two know each other
        self.dots: Dots | None = None  # where the processor has such instructions

    def need(self, name: str, single: bool = False) -> str:
        """The call name of a prelude function."""
        self.needs.add((1 if single else self.lanes, name))
        return f"w1::{name}" if single else name

    # --- values --------------------------------------------------------------------------------------------------

    def value(self, e: Expr) -> Val:
        """The C++ of a value: a name, a literal, or an expression that is used once."""
        if isinstance(e, Const):
            pack = PACKS[e.dtype.name]
            return Val(print_const(e, pack), pack)
        if isinstance(e, Load) and e.name in self.stack.bound:
            return self.stack.bound[e.name][0]
        level = self.stack.level_of(e)
        found = self.stack.find(e, level)
        if found is not None:
            return found
        before, named = self._here, self.uses[e] > 1 or level < self.here
        self._here = level if named else before
        val = self._print(e)
        if named or len(val.text) > LONGEST:
            val = self.name(val, _hint(e), level)
            self.stack.keep(e, val, level, names_in(e))
        self._here = before
        return val

    def inline(self, e: Expr, level: int) -> Val:
        """The C++ of a value that is printed once, in a scope: without a name of its own."""
        if isinstance(e, Const) or (isinstance(e, Load) and e.name in self.stack.bound):
            return self.value(e)
        found = self.stack.find(e, level)
        if found is not None:
            return found
        before, self._here = self._here, level
        val = self._print(e)
        self._here = before
        return val

    @property
    def here(self) -> int:
        """The level of the scope that the text being printed goes to."""
        return min(self._here, self.stack.depth)

    def name(self, val: Val, hint: str, level: int) -> Val:
        """Gives a value a name in a scope."""
        name = self.stack.fresh(hint, level)
        self.stack.emit(f"const {self.type_of(val)} {name} = {strip(val.text)};", level)
        return Val(name, val.pack, val.single)

    def type_of(self, val: Val) -> str:
        if val.single:
            return TYPES[val.pack]
        self.needs.add((self.lanes, val.pack))
        return val.pack

    def to(self, val: Val, pack: str, single: bool | None = None) -> str:
        """The text of a value as another type: converted, and spread over the lanes where `single` is False."""
        text = val.text
        if val.pack != pack:
            if val.single:
                text = f"({TYPES[pack]})({strip(text)})" if not text.lstrip("-").isdigit() else text
            else:
                text = f"{self.need(f'cvt_{val.pack}_{pack}')}({strip(text)})"
        if val.single and single is False:
            text = f"{self.need(f'sp_{pack}')}({strip(text)})"
        return text

    def _print(self, e: Expr) -> Val:
        if isinstance(e, Load):
            return self.memory.load(e)
        if isinstance(e, Iota):
            return self.index_value(e.index, pack_of(e))
        assert isinstance(e, Op)
        if e.name == "cast":
            return self._cast(e)
        known = self._in_words(e)
        if known is not None:
            return known
        if e.dtype is F32 and is_power_of_two(e):
            n = self.value(e.args[0])
            one = self.to(Val("1.0f", "F"), "F", single=n.single)
            return Val(f"{self.need('scale2_F', n.single)}({one}, {self.to(n, 'F', n.single)})", "F", n.single)
        if e.name in COMPARE and self.stack.lanes is not None and self.stack.varies(e):
            affine = not self.stack.reads_pack(e)
            if affine and compares_indices(e, self.stack.lanes.axis):
                return self._compare_indices(e)
            if affine and compares_with_wide(e, self.stack.lanes.axis):
                return self._compare_with_wide(e)
        return self._apply(e)

    def _in_words(self, e: Op) -> Val | None:
        """A sum of narrow products, or bits of memory; None for all else."""
        if self.dots is None:
            return None
        return self.dots.sum(e) if e.name == "add" else self.dots.bit(e) if e.name == "and" else None

    def _compare_with_wide(self, e: Op) -> Val:
        """A pack that fits 32 bits beside one i64 value: that value is brought to the nearest one of 32 bits."""
        sides: list[str] = []
        for a in e.args:
            val = self.value(a)
            if val.single and val.pack == "L":
                low, high = "(-2147483647L - 1)", "2147483647L"
                near = f"({val.text} < {low} ? {low} : {val.text} > {high} ? {high} : {val.text})"
                val = Val(f"(i32){near}", "I", True)
            sides.append(self.to(val, "I", single=False))
        text, needed = print_op(e.name, "I", sides, False)
        if needed is not None:
            self.need(needed, False)
        return Val(text, "M", False)

    def _apply(self, e: Op) -> Val:
        e = self._divided_early(e)
        vals = [self.value(a) for a in e.args]
        single = all(v.single for v in vals)
        result = "M" if e.dtype is BOOL else PACKS[e.dtype.name] if single else pack_of(e)
        if e.name == "div" and vals[1].single and not single and vals[1].text.isidentifier():
            return self._divide(e, vals[0], vals[1], "divide")
        values = vals[1:] if e.name == "where" else vals
        pack = self._common(e, values, single)
        if e.name == "where" and vals[0].single and not single:
            sides = [self.to(v, pack, single=False) for v in values]
            return Val(f"({vals[0].text} ? {sides[0]} : {sides[1]})", pack, False)
        operator = not single and pack != "M" and e.name in ("add", "sub", "mul", "div") and len(vals) == 2
        args = [
            self.to(v, pack, None if single or (operator and not _is_all_single(values)) else False) for v in values
        ]
        if e.name == "where":
            args = [self.to(vals[0], "M", None if single else False), *args]
        text, needed = print_op(e.name, pack, args, single)
        if needed is not None:
            self.need(needed, single)
        exact = e.name in EXACT if e.dtype.is_float else e.name in EXACT and e.name not in ("neg", "abs")
        if e.dtype.name in NARROW and not exact:
            text = self._rounded(text, result, e.dtype, single)
        return Val(text, result if e.name not in COMPARE else "M", single)

    def _divide(self, e: Op, x: Val, y: Val, function: str) -> Val:
        """A pack by one value: times the reciprocal. `divide` corrects it by the remainder, which rounds as division
        does; `quotient` does not.
        """
        level, key = self.stack.level_of(e.args[1]), ("reciprocal", e.args[1])
        found = self.stack.find(key, level)
        if found is None:
            found = self.name(Val(f"1 / {y.text}", y.pack), "inverse", level)
            self.stack.keep(key, found, level, names_in(e.args[1]))
        return Val(f"{self.need(f'{function}_{y.pack}')}({strip(x.text)}, {y.text}, {found.text})", y.pack, False)

    def _divided_early(self, e: Op) -> Op:
        """(a * x) / d as (a / d) * x where a and d are single values: they are divided once, not for each pack."""
        product = e.args[0]
        if self.strict or e.name != "div" or not e.dtype.is_float or e.dtype.name in NARROW:
            return e
        if not (isinstance(product, Op) and product.name == "mul" and self.uses[product] <= 1):
            return e
        a, x = product.args
        if isinstance(a, Const) or not self._is_single(a) or not self._is_single(e.args[1]) or self._is_single(x):
            return e
        return Op("mul", (Op("div", (a, e.args[1]), e.dtype), x), e.dtype)

    def varies(self, e: Expr) -> bool:
        """True for a value that is a pack of floats, not one for all lanes."""
        return self.lanes > 1 and self.stack.lanes is not None and self.stack.varies(e)

    def _is_single(self, e: Expr) -> bool:
        """True for one value for all lanes."""
        return self.stack.lanes is None or not self.stack.varies(e)

    def value_to_round(self, e: Expr, dtype: DType) -> Val:
        """A value that is rounded to `dtype` at once: to 16 bits, a quotient needs no correction."""
        near = not self.strict and dtype in (BF16, F16) and e.dtype is F32 and self.uses[e] == 1
        if near and isinstance(e, Op) and e.name == "div" and self._divided_early(e) is e:
            x, y = (self.value(a) for a in e.args)
            if not x.single and y.single and y.text.isidentifier():
                return self._divide(e, x, y, "quotient")
        return self.value(e)

    def _common(self, e: Op, values: list[Val], single: bool) -> str:
        """The type that the operands of an op are computed in."""
        if single:
            return PACKS[e.args[-1].dtype.name]
        operands = e.args[1:] if e.name == "where" else e.args
        packs = {pack_of(a) for a in operands}
        if e.dtype is I64:
            packs.add(pack_of(e))
        return "L" if packs == {"I", "L"} else next(iter(packs))

    def _rounded(self, text: str, pack: str, dtype: DType, single: bool) -> str:
        rounded, needed = print_cast(strip(text), pack, pack, dtype, single)
        for name in needed:
            self.need(name, single)
        return rounded

    def _cast(self, e: Op) -> Val:
        inner = e.args[0]
        val = self.value_to_round(inner, e.dtype)
        target = PACKS[e.dtype.name] if val.single else pack_of(e)
        exact = inner.dtype is BOOL or inner.dtype is e.dtype or fits_in(inner, e.dtype)
        dtype = F32 if exact and e.dtype.is_float else e.dtype if not exact else I64
        text, needed = print_cast(val.text, val.pack, target, dtype, val.single)
        for name in needed:
            self.need(name, val.single)
        return Val(text, target, val.single)

    # --- indices -------------------------------------------------------------------------------------------------

    def index_text(self, i: Index) -> str:
        """A single index as an expression of type long (at the first lane, where it varies with them)."""
        parts = [self.term(a, c) for a, c in i.terms]
        if i.const != 0 or not parts:
            parts.append(print_dim(i.const))
        return " + ".join(parts).replace("+ -", "- ")

    def term(self, atom: object, coefficient: object) -> str:
        text = self.atom(atom)
        if coefficient == 1:
            return text
        return f"{print_dim(coefficient)} * {text}"  # type: ignore[arg-type]

    def atom(self, atom: object) -> str:
        if isinstance(atom, Axis):
            return self.stack.scopes[self.stack.level_of_axis(atom)].axes[atom]
        if isinstance(atom, Div | Mod):
            return self._digit(atom)
        assert isinstance(atom, Data)
        return self.memory.data(atom).text

    def _digit(self, atom: Div | Mod) -> str:
        inner, by = self.index_text(atom.index), print_dim(atom.by)
        sign = "/" if isinstance(atom, Div) else "%"
        if is_nonnegative(bounds(atom.index)[0]):
            return f"(({inner}) {sign} {by})"
        name = "div_floor_L" if isinstance(atom, Div) else "mod_floor_L"
        return f"{self.need(name, single=True)}({inner}, {by})"

    def index_value(self, i: Index, pack: str) -> Val:
        """An index as a value."""
        lanes = self.stack.lanes
        if lanes is None or not self.stack.index_varies(i):
            return Val(f"({self.index_text(i)})", "L")
        return Val(self.index_pack(i, pack), pack, False)

    def index_pack(self, i: Index, pack: str) -> str:
        """An index with its lanes in a pack of I or L."""
        assert self.stack.lanes is not None
        single, stride, varying = self.memory.split(i)
        parts = [self.varying_term(a, c, pack) for a, c in varying]
        if stride != 0:
            iota = f"{self.need(f'iota_{pack}')}()"
            parts.append(iota if stride == 1 else f"{iota} * {self._scalar(print_dim(stride), pack)}")
        if single.terms or single.const != 0:
            parts.append(self._scalar(self.index_text(single), pack))
        return f"({' + '.join(parts)})"

    def _scalar(self, text: str, pack: str) -> str:
        if text.isdigit():
            return text
        return f"(i32)({text})" if pack == "I" else f"({text})"

    def varying_term(self, atom: object, coefficient: object, pack: str) -> str:
        """coefficient * atom, for atoms that differ between lanes in no regular way."""
        if isinstance(atom, Data):
            text = self.to(self.memory.data(atom), pack)
        else:
            assert isinstance(atom, Div | Mod)
            text = self._digit_pack(atom, pack)
        if coefficient == 1:
            return text
        return f"{text} * {self._scalar(print_dim(coefficient), pack)}"  # type: ignore[arg-type]

    def _digit_pack(self, atom: Div | Mod, pack: str) -> str:
        inner_pack = "I" if index_fits_32(atom.index) else "L"
        inner = self.index_pack(atom.index, inner_pack)
        by = f"{self.need(f'sp_{inner_pack}')}({self._scalar(print_dim(atom.by), inner_pack)})"
        kind = "div" if isinstance(atom, Div) else "mod"
        way = "trunc" if is_nonnegative(bounds(atom.index)[0]) else "floor"
        text = f"{self.need(f'{kind}_{way}_{inner_pack}')}({inner}, {by})"
        return text if pack == inner_pack else f"{self.need(f'cvt_{inner_pack}_{pack}')}({text})"

    def _compare_indices(self, e: Op) -> Val:
        """i < j for indices affine in the lanes: a mask made from the distance at the first lane, without a pack."""
        assert self.stack.lanes is not None
        sides = [a.index if isinstance(a, Iota) else Index((), int(a.value)) for a in e.args]  # type: ignore[union-attr]
        difference = sides[0] - sides[1]
        stride = axis_coefficient(difference, self.stack.lanes.axis)
        assert stride is not None
        if stride == 0:
            return Val(f"({self.index_text(difference)} {COMPARE[e.name]} 0)", "M")
        if stride in (1, -1) and e.name not in ("eq", "ne"):
            return Val(self._prefix_mask(difference, int(stride), e.name), "M", False)
        distance = f"(i32){self._clamped(self.index_text(difference))}"
        lanes = f"{self.need('iota_I')}() * {self._scalar(print_dim(stride), 'I')}"
        text = f"{self.need(f'{e.name}_I')}({lanes} + {distance}, {self.need('sp_I')}(0))"
        return Val(text, "M", False)

    def _clamped(self, text: str) -> str:
        """A distance cut to what 32 bits hold: far beyond the lanes on either side it makes no difference."""
        return f"(({text}) < -(1L << 30) ? -(1L << 30) : ({text}) > (1L << 30) ? (1L << 30) : ({text}))"

    def _prefix_mask(self, difference: Index, stride: int, name: str) -> str:
        """The lanes before (or from) the one where the difference changes its sign."""
        at = self.index_text(difference)
        # with stride 1: d + lane < 0 for the first -d lanes, <= 0 for the first 1 - d; with -1 the sides change places
        below = f"-({at})" if name in ("lt", "ge") else f"1 - ({at})"
        above = f"({at}) + 1" if name in ("lt", "ge") else f"({at})"
        if stride == 1:
            mask, negated = f"{self.need('first_n_M')}({below})", name in ("gt", "ge")
        else:
            mask, negated = f"{self.need('first_n_M')}({above})", name in ("lt", "le")
        return f"{self.need('not_M')}({mask})" if negated else mask


def _is_all_single(vals: list[Val]) -> bool:
    return all(v.single for v in vals)


def _hint(e: Expr) -> str:
    """What to call a value."""
    if isinstance(e, Op):
        return {"cast": "v", "add": "sum", "mul": "v", "sub": "v", "div": "v", "where": "v"}.get(e.name, f"{e.name}_")
    return f"{e.name}_v" if isinstance(e, Load) else "at"
