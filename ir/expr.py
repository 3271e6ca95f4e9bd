"""Scalar expressions: the right sides of equations.

Four node kinds: a constant, an index used as a value, a load (of a buffer or of another equation) by an index map under
an optional guard, and an operation of the scalar table (`ir.scalar`). Nodes are interned: equal expressions are one
object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from .index import Axis, Data, Div, Index, Mod, axes_of, substitute
from .intern import Interned
from .types import BOOL, I64, DType


class Expr:
    """A scalar value at a point of the iteration domain."""

    __slots__ = ()
    dtype: DType

    @property
    def position(self) -> Index | None:
        """The index that this value is, where it is one: an index value, or an i64 constant."""
        return None

    @property
    def axes(self) -> frozenset[Axis]:
        """The axes that the value depends on."""
        return axes_in(self)

    def __str__(self) -> str:
        return print_expr(self)

    __repr__ = __str__


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True, repr=False)
class Const(Expr, metaclass=Interned):
    values_need_care: ClassVar[bool] = True

    value: bool | int | float
    dtype: DType

    def intern_key(self) -> object:
        return self.dtype, repr(self.value)

    @property
    def position(self) -> Index | None:
        return Index((), int(self.value)) if self.dtype is I64 else None


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True, repr=False)
class Iota(Expr, metaclass=Interned):
    """The i64 value of an index expression."""

    index: Index
    dtype: DType = I64

    def intern_key(self) -> object:
        return self.index

    @property
    def position(self) -> Index | None:
        return self.index


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True, repr=False)
class Load(Expr, metaclass=Interned):
    """`name[index]`; where `guard` is false nothing is read and the value is 0."""

    name: str
    index: tuple[Index, ...]
    dtype: DType
    guard: Expr | None = None

    def intern_key(self) -> object:
        return self.name, self.index, self.dtype, self.guard


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True, repr=False)
class Op(Expr, metaclass=Interned):
    """A row of the scalar table applied to arguments. Build with `ir.scalar.op`, which checks types and simplifies."""

    name: str
    args: tuple[Expr, ...]
    dtype: DType

    def intern_key(self) -> object:
        return self.name, self.args, self.dtype


def const(value: bool | int | float, dtype: DType) -> Const:
    """A constant of `dtype`; the value is converted as that type would hold it (integers wrap)."""
    if dtype is BOOL:
        return Const(bool(value), dtype)
    if dtype.is_float:
        return Const(float(value), dtype)
    low, high = dtype.limits
    return Const((int(value) - low) % (high - low + 1) + low, dtype)


TRUE = const(True, BOOL)
FALSE = const(False, BOOL)

_AXES: dict[Expr, frozenset[Axis]] = {}
_BELOW: dict[Expr, tuple[Expr, ...]] = {}
_NAMES: dict[Expr, frozenset[str]] = {}


def axes_in(e: Expr) -> frozenset[Axis]:
    found = _AXES.get(e)
    if found is None:
        if len(_AXES) > 200_000:
            _AXES.clear()
        found = frozenset().union(*(axes_in(c) for c in children(e)), *(axes_of(i) for i in indices(e)))
        _AXES[e] = found
    return found


def children(e: Expr) -> tuple[Expr, ...]:
    """The direct sub-expressions, without those inside index maps."""
    if isinstance(e, Op):
        return e.args
    if isinstance(e, Load) and e.guard is not None:
        return (e.guard,)
    return ()


def indices(e: Expr) -> tuple[Index, ...]:
    if isinstance(e, Load):
        return e.index
    return (e.index,) if isinstance(e, Iota) else ()


def data_in(index: Index) -> Iterator[Data]:
    """The data atoms of an index, also inside div and mod."""
    for atom, _ in index.terms:
        if isinstance(atom, Data):
            yield atom
        elif isinstance(atom, (Div, Mod)):
            yield from data_in(atom.index)


def below(e: Expr) -> tuple[Expr, ...]:
    """The direct sub-expressions, those inside index maps too."""
    found = _BELOW.get(e)
    if found is None:
        if len(_BELOW) > 200_000:
            _BELOW.clear()
        found = _BELOW[e] = (*children(e), *(d.value for i in indices(e) for d in data_in(i)))
    return found


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every distinct node below the roots, arguments first, including expressions inside index maps."""
    seen: set[Expr] = set()
    stack = list(reversed(roots))
    while stack:
        node = stack[-1]
        if node in seen:
            stack.pop()
            continue
        waiting = [c for c in below(node) if c not in seen]
        if waiting:
            stack += reversed(waiting)
            continue
        seen.add(stack.pop())
        yield node


def loads_in(*roots: Expr) -> Iterator[Load]:
    return (e for e in walk(*roots) if isinstance(e, Load))


def names_in(e: Expr) -> frozenset[str]:
    """The names that an expression loads."""
    found = _NAMES.get(e)
    if found is None:
        if len(_NAMES) > 200_000:
            _NAMES.clear()
        own = (e.name,) if isinstance(e, Load) else ()
        found = _NAMES[e] = frozenset(own).union(*(names_in(c) for c in below(e)))
    return found


class Rewriter:
    """Rebuilds expressions bottom-up with a memo. `axes` renames axes; `load` may replace a load (already renamed)."""

    def __init__(
        self,
        axes: Mapping[Axis, Index] | None = None,
        load: Callable[[Load], Expr] | None = None,
        rebuild: Callable[[str, tuple[Expr, ...], DType], Expr] | None = None,
    ) -> None:
        self.axes = axes or {}
        self.load = load
        self.rebuild = rebuild or Op
        self.memo: dict[Expr, Expr] = {}

    def __call__(self, e: Expr) -> Expr:
        found = self.memo.get(e)
        if found is None:
            found = self.memo[e] = self._rewrite(e)
        return found

    def index(self, i: Index) -> Index:
        return substitute(i, self.axes, self)

    def _rewrite(self, e: Expr) -> Expr:
        if isinstance(e, Op):
            args = tuple([self(a) for a in e.args])
            return e if args == e.args else self.rebuild(e.name, args, e.dtype)
        if isinstance(e, Load):
            guard = None if e.guard is None else self(e.guard)
            moved = Load(e.name, tuple([self.index(i) for i in e.index]), e.dtype, None if guard is TRUE else guard)
            return moved if self.load is None else self.load(moved)
        if isinstance(e, Iota):
            index = self.index(e.index)
            return const(index.const, I64) if index.is_constant and isinstance(index.const, int) else Iota(index)
        return e


def product_factors(e: Expr) -> list[Expr]:
    """What is multiplied to give `e`: itself, where that is no product."""
    if isinstance(e, Op) and e.name == "mul":
        return [f for a in e.args for f in product_factors(a)]
    return [e]


# --- printing ----------------------------------------------------------------------------------------------------

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne":
    "!=", "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
}  # fmt: skip


def print_const(c: Const) -> str:
    """`2.5`, `7:i64`, `true`, `-inf`; f32 is the type that needs no suffix."""
    if c.dtype is BOOL:
        return "true" if c.value else "false"
    text = repr(c.value)
    if isinstance(c.value, float) and (math.isinf(c.value) or math.isnan(c.value)):
        text = {"inf": "inf", "-inf": "-inf"}.get(text, "nan")
    return text if c.dtype.name == "f32" else f"{text}:{c.dtype}"


def print_expr(e: Expr, named: Mapping[Expr, str] | None = None) -> str:
    """One line of text that `ir.text` reads back. Those in `named` are printed by name, others in full."""
    named = named or {}
    if e in named:
        return named[e]
    if isinstance(e, Const):
        return print_const(e)
    if isinstance(e, Iota):
        return f"#({e.index})"
    if isinstance(e, Load):
        guard = "" if e.guard is None else f" if {print_expr(e.guard, named)}"
        return f"{e.name}[{', '.join(str(i) for i in e.index)}{guard}]"
    assert isinstance(e, Op)
    args = [print_expr(a, named) for a in e.args]
    if e.name in INFIX:
        return f"({args[0]} {INFIX[e.name]} {args[1]})"
    if e.name == "cast":
        return f"{e.dtype}({args[0]})"
    return f"{e.name}({', '.join(args)})"
