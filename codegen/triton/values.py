"""Expressions in Triton: each distinct one is printed once, in the outermost loop where it is known.

Every value that varies is a tensor with one dimension for each tiled axis of the launch, of size 1 along those that it
does not vary along: operands of unlike shapes meet by broadcasting. Values that vary along none are scalars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.expr import Const, Expr, Iota, Load, Op
from ...ir.index import Atom, Axis, Data, Div, Index, Mod, bounds, of_atom
from ...ir.scalar import fold_constants
from ...ir.types import BF16, BOOL, DTYPES, F16, F32, I64, Dim, DType, is_nonnegative
from ..dims import PYTHON, print_dim
from ..ranges import fits_32, index_fits_32
from ..text import strip
from .ops import TYPES, print_cast, print_const, print_op
from .scope import Stack, Val

LONGEST = 70  # characters of an expression before it gets a name
NARROW = ("bf16", "f16", "i8", "u8", "i16")


class Values:
    """Prints the expressions of one function. `arrays` are the buffers and scratch arrays that it may touch."""

    def __init__(self, stack: Stack, arrays: Mapping[str, Array], helpers: set[str]) -> None:
        self.stack = stack
        self.arrays = arrays
        self.helpers = helpers
        self.uses: Counter[Expr] = Counter()
        self.checks: list[str] = []
        self.stored: set[str] = set()  # arrays that this function has stored to since its last barrier
        self.sizes: list[int] = []  # of the dimensions of tiles
        self.live: dict[int | None, str] = {}  # the condition under which the points along a dimension exist

    # --- values --------------------------------------------------------------------------------------------------

    def value(self, e: Expr) -> Val:
        """The text of a value: a name, a literal, or an expression that is used once."""
        if isinstance(e, Const):
            return Val(print_const(e), kind="const" if e.dtype.name != "f64" else "f64")
        if isinstance(e, Load) and e.name in self.stack.bound:
            return self.stack.bound[e.name][0]
        level = self.stack.level_of(e)
        found = self.stack.find(e, level)
        if found is not None:
            return found
        val = self._print(e)
        if self.uses[e] > 1 or level < self.stack.depth or len(val.text) > LONGEST or isinstance(e, Load):
            val = self.name(val, _hint(e), level)
            self.stack.keep(e, val, level)
        return val

    def name(self, val: Val, hint: str, level: int | None = None) -> Val:
        """Gives a value a name in a scope."""
        name = self.stack.fresh(hint)
        self.stack.emit(f"{name} = {strip(val.text)}", level)
        return Val(name, val.dims, val.kind)

    def _print(self, e: Expr) -> Val:
        if isinstance(e, Load):
            return self.load(e)
        if isinstance(e, Iota):
            return self.index(e.index)
        assert isinstance(e, Op)
        known = fold_constants(e.name, e.args, e.dtype)
        if known is not None:
            return self.value(known)
        vals = [self.value(a) for a in e.args]
        dims = frozenset().union(*(v.dims for v in vals))
        if e.name == "cast":
            return self._cast(e, vals[0])
        operands = vals[1:] if e.name == "where" else vals
        dtype = e.args[-1].dtype
        if dtype in (BF16, F16) and e.name != "where":  # Triton has no functions of these
            operands = [v if v.kind == "const" else Val(f"{v.text}.to(tl.float32)", v.dims, "f32") for v in operands]
            dtype = F32
        if all(v.kind == "const" for v in operands):  # literals alone have no type of Triton's
            operands[0] = self._typed_const(operands[0], dtype)
        condition = [v if v.kind != "const" else self._typed_const(v, BOOL) for v in vals[: len(vals) - len(operands)]]
        vals = [*condition, *operands]
        texts = [v.text for v in vals]
        if e.dtype is I64 and not fits_32(e):
            first = 1 if e.name == "where" else 0
            texts[first] = widen(vals[first])
            kind = "i64"
        else:
            kinds = {v.kind for v in (vals[1:] if e.name == "where" else vals)} - {"const"}
            kind = e.dtype.name if e.dtype is not I64 else "i64" if "i64" in kinds else "i32"
        text, helper = print_op(e.name, texts, dtype)
        if helper is not None:
            self.helpers.add(helper)
        if e.dtype.name in NARROW and e.name != "where":
            text = f"{text}.to({TYPES[e.dtype.name]})"
        return Val(text, dims, kind)

    def _cast(self, e: Op, val: Val) -> Val:
        """Constants take a type only from a tensor; i64 values that fit stay as narrow as they are."""
        if val.kind == "const":
            val = self._typed_const(val, e.args[0].dtype)
        if e.dtype is I64 and e.args[0].dtype.is_integer and fits_32(e.args[0]) and val.kind != "u8":
            text = val.text if val.kind in ("i32", "i64") else f"{val.text}.to(tl.int32)"
            return Val(text, val.dims, val.kind if val.kind == "i64" else "i32")
        text, source = val.text, e.args[0].dtype
        # Triton's interpreter keeps a bool's bits, and compares the bits of a bf16: both are right by way of f32
        to_half = source not in (F32, BF16, F16) and e.dtype in (BF16, F16)
        if to_half or (source in (BF16, F16) and e.dtype is BOOL):
            text = f"{text}.to(tl.float32)"
        return Val(print_cast(text, e.dtype), val.dims, e.dtype.name)

    def _typed_const(self, val: Val, dtype: DType) -> Val:
        if dtype in (BF16, F16):
            return Val(f"tl.full([], {strip(val.text)}, tl.float32).to({TYPES[dtype.name]})", val.dims, dtype.name)
        return Val(f"tl.full([], {strip(val.text)}, {TYPES[dtype.name]})", val.dims, dtype.name)

    # --- indices -------------------------------------------------------------------------------------------------

    def index(self, i: Index) -> Val:
        """An index: in 32 bits where it and all its parts fit."""
        wide = not index_fits_32(i)
        parts: list[str] = []
        dims: frozenset[int] = frozenset()
        for atom, coefficient in i.terms:
            val = self.atom(atom)
            dims |= val.dims
            text = widen(val) if wide else val.text
            parts.append(text if coefficient == 1 else f"{_size(coefficient)} * {text}")
        if i.const != 0 or not parts:
            parts.append(_size(i.const))
        text = " + ".join(parts).replace("+ -", "- ").replace("+ (-1) * ", "- ")
        return Val(f"({text})" if " " in text else text, dims, "i64" if wide else "i32")

    def atom(self, atom: Atom) -> Val:
        if isinstance(atom, Axis):
            axis = self.stack.axis(atom)
            return Val(axis.name, frozenset() if axis.dim is None else frozenset({axis.dim}), axis.kind)
        if isinstance(atom, Div | Mod):
            return self._digit(atom)
        assert isinstance(atom, Data)
        return self.data(atom)[0]

    def _digit(self, atom: Div | Mod) -> Val:
        inner = self.index(atom.index)
        if is_nonnegative(bounds(atom.index)[0]):
            sign = "//" if isinstance(atom, Div) else "%"
            return Val(f"({inner.text} {sign} {_size(atom.by)})", inner.dims, inner.kind)
        helper = "div_floor_i" if isinstance(atom, Div) else "mod_floor_i"
        self.helpers.add(helper)
        return Val(f"{helper}({strip(inner.text)}, {_size(atom.by)})", inner.dims, inner.kind)

    def data(self, atom: Data) -> tuple[Val, str]:
        """(an index that is read from data, counted from the start; the condition that it is in range)."""
        level = self.stack.level_of(atom.value)
        at, inside = self.stack.find((atom, "at"), level), self.stack.find((atom, "inside"), level)
        if at is None or inside is None:
            val = self.value(atom.value)
            size = _size(atom.size)
            at = Val(f"tl.where({val.text} < 0, {val.text} + {size}, {val.text})", val.dims, "i64")
            at = self.name(at if atom.wrap else Val(widen(val), val.dims, "i64"), "at", level)
            inside = self.name(Val(f"({at.text} >= 0) & ({at.text} < {size})", at.dims, "bool"), "inside", level)
            self.stack.keep((atom, "at"), at, level)
            self.stack.keep((atom, "inside"), inside, level)
        return at, inside.text

    # --- memory --------------------------------------------------------------------------------------------------

    def load(self, e: Load) -> Val:
        array = self.arrays[e.name]
        if e.name in self.stored:  # other threads of the program have written it
            self.stack.emit("tl.debug_barrier()")
            self.stored.clear()
        place, dims, conditions = self.place(e.name, e.index, e.guard)
        kind = array.kind
        if not conditions:
            return Val(f"tl.load({place})", dims, kind)
        return Val(f"tl.load({place}, mask={' & '.join(conditions)}, other=0)", dims, kind)

    def place(self, name: str, index: Sequence[Index], guard: Expr | None) -> tuple[str, frozenset[int], list[str]]:
        """(the pointers, the dimensions they vary along, the conditions under which they may be followed)."""
        array = self.arrays[name]
        flat = array.flat(index)
        offset = self.index(flat)
        dims, conditions = offset.dims, []
        if guard is not None:
            val = self.value(guard)
            conditions.append(val.text)
            dims |= val.dims
        live = self.masks(dims)
        for data in (a for a, _ in _datas(flat)):
            _, inside = self.data(data)
            self._check(inside, [*conditions, *live], data, dims)
            conditions.append(inside)
        text = f"{array.pointer} + {offset.text}" if offset.text != "0" else array.pointer
        if dims - offset.dims:
            text = f"{array.pointer} + tl.broadcast_to({strip(offset.text)}, {self.shape(dims)})"
            if not offset.dims:
                text = f"{array.pointer} + tl.full({self.shape(dims)}, {strip(offset.text)}, tl.int64)"
        return text, dims, [*live, *conditions]

    def _check(self, inside: str, conditions: list[str], data: Data, dims: frozenset[int]) -> None:
        """Reports an index that is out of range, where something would be read or written with it."""
        text = f"{data}"
        if text not in self.checks:
            self.checks.append(text)
        code = self.checks.index(text) + 1
        key = ("check", inside, tuple(conditions))
        if self.stack.find(key, self.stack.depth) is not None:
            return
        self.stack.keep(key, Val(""), self.stack.depth)
        outside = " & ".join([*conditions, f"({inside} ^ True)"])
        place = f"bad + tl.full({self.shape(dims)}, 0, tl.int32)" if dims else "bad"
        self.stack.emit(f"tl.store({place}, {code}, mask={outside})")

    def masks(self, dims: frozenset[int]) -> list[str]:
        """The conditions under which the points along some dimensions exist."""
        return [self.live[d] for d in sorted(dims) if self.live.get(d)]

    def shape(self, dims: frozenset[int]) -> str:
        return "[" + ", ".join(str(n if k in dims else 1) for k, n in enumerate(self.sizes)) + "]"

    def spread(self, val: Val, dims: frozenset[int], dtype: str) -> str:
        """A value of `dtype` with its full size along some dimensions."""
        if val.kind == "const" and dtype in ("bf16", "f16"):
            val = self._typed_const(val, DTYPES[dtype])
        held = val.kind if val.kind != "const" else ""
        if not dims:
            return f"tl.full([], {strip(val.text)}, {TYPES[dtype]})" if not held else _typed(val, dtype)
        if not val.dims and not held:
            return f"tl.full({self.shape(dims)}, {strip(val.text)}, {TYPES[dtype]})"
        text = _typed(val, dtype)
        if not val.dims:
            return f"{text} + tl.full({self.shape(dims)}, 0, {TYPES[dtype]})"
        return text if val.dims >= dims else f"tl.broadcast_to({strip(text)}, {self.shape(dims)})"


@dataclass(frozen=True, slots=True)
class Array:
    """A buffer or an array of the workspace: its pointer, its type, how indices become a distance.

    `points` are (axis of the grid, distance): arrays of which each point of a grid has its own stand side by side.
    """

    pointer: str
    kind: str
    strides: tuple[Dim, ...]
    points: tuple[tuple[Axis, Dim], ...] = ()

    def flat(self, index: Sequence[Index]) -> Index:
        total = Index(())
        for i, stride in zip(index, self.strides, strict=True):
            total = total + i * stride
        for axis, stride in self.points:
            total = total + of_atom(axis) * stride
        return total


def _typed(val: Val, dtype: str) -> str:
    return val.text if val.kind == dtype else f"{val.text}.to({TYPES[dtype]})"


def widen(val: Val) -> str:
    """An integer value in 64 bits."""
    if val.kind in ("i64", "const"):
        return val.text if val.kind == "i64" else f"tl.full([], {strip(val.text)}, tl.int64)"
    if not val.dims:  # may be the variable of a loop, which Triton's interpreter holds as a number
        return f"tl.cast({strip(val.text)}, tl.int64)"
    return f"{val.text}.to(tl.int64)"


def _size(dim: Dim) -> str:
    text = print_dim(dim, PYTHON)
    return f"({text})" if text.startswith("-") else text


def _datas(i: Index) -> list[tuple[Data, Dim]]:
    found: list[tuple[Data, Dim]] = []
    for atom, coefficient in i.terms:
        if isinstance(atom, Data):
            found.append((atom, coefficient))
        elif isinstance(atom, Div | Mod):
            found += _datas(atom.index)
    return found


def _hint(e: Expr) -> str:
    """What to call a value."""
    if isinstance(e, Op):
        return {"cast": "v", "add": "total", "mul": "v", "sub": "v", "div": "v", "where": "v"}.get(
            e.name, f"{e.name}_v"
        )
    return f"{e.name}_v" if isinstance(e, Load) else "at"
