"""How many lanes a kernel's packs have, and which i64 values fit 32 bits.

A pack of 8-byte elements (D of f64, L of i64) has half the lanes of one of 4 bytes. i64 values that provably fit 32
bits are computed in I, so index arithmetic and masks alone do not cost a kernel half its width.
"""

from __future__ import annotations

from functools import lru_cache

from ...ir.expr import Const, Expr, Iota, Load, Op, data_in, walk
from ...ir.index import Axis, Div, Index, Mod, axes_of, axis_coefficient, bounds
from ...ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ...ir.states import STATES
from ...ir.types import I64, Dim
from ..tiling import Planned
from ..tiling_plan import Nest, nests_of
from .isa import Isa

Range = tuple[int, int]
PACKS = {
    "bool": "M",
    "u8": "I",
    "i8": "I",
    "i16": "I",
    "i32": "I",
    "i64": "L",
    "f16": "F",
    "bf16": "F",
    "f32": "F",
    "f64": "D",
}
COMPARES = ("lt", "le", "gt", "ge", "eq", "ne")


def choose_lanes(planned: Planned, isa: Isa) -> int:
    """Lanes of a kernel's packs: fewer where something is computed per lane in 64 bits."""
    return isa.lanes(8 if any(_is_wide(planned.kernel, n) for n in nests_of(planned.parts)) else 4)


def pack_of(e: Expr) -> str:
    """The pack that computes `e` per lane."""
    return "I" if e.dtype is I64 and fits_32(e) else PACKS[e.dtype.name]


def fits_32(e: Expr) -> bool:
    return _inside(value_range(e))


def index_fits_32(i: Index) -> bool:
    """True when the index, and what it is summed up from, fits 32 bits."""
    return _inside(index_range(i)) and all(index_fits_32(a.index) for a, _ in i.terms if isinstance(a, Div | Mod))


def _inside(r: Range | None) -> bool:
    return r is not None and r[0] > -(2**31) and r[1] < 2**31


@lru_cache(maxsize=65536)
def index_range(i: Index) -> Range | None:
    """Bounds of an index, and of every partial sum of its terms; None where sizes are dynamic."""
    low, high = bounds(i)
    reach = [_size(c) for _, c in i.terms]
    if not isinstance(low, int) or not isinstance(high, int) or None in reach:
        return None
    return min(low, 0), max(high, 0)


def _size(dim: Dim) -> int | None:
    return dim if isinstance(dim, int) else None


@lru_cache(maxsize=65536)
def value_range(e: Expr) -> Range | None:
    """Bounds of an integer expression that hold whatever the buffers contain; None: as wide as its type."""
    if isinstance(e, Const):
        return (int(e.value), int(e.value)) if not isinstance(e.value, float) else None
    if isinstance(e, Iota):
        return index_range(e.index) if index_fits_32(e.index) and not any(data_in(e.index)) else None
    if isinstance(e, Load):
        return e.dtype.limits if e.dtype.kind in "uib" and e.dtype is not I64 else None
    assert isinstance(e, Op)
    return _op_range(e)


def _op_range(e: Op) -> Range | None:
    if e.name == "cast":
        inner = e.args[0]
        if inner.dtype.is_float or e.dtype.is_float:
            return None
        return value_range(inner) if e.dtype is I64 else e.dtype.limits
    args = [value_range(a) for a in (e.args[1:] if e.name == "where" else e.args)]
    if any(a is None for a in args) or e.dtype.is_float:
        return None
    known: list[Range] = [a for a in args if a is not None]
    lows, highs = [a[0] for a in known], [a[1] for a in known]
    if e.name in ("where", "min", "max"):
        return min(lows), max(highs)
    if e.name == "add":
        return _kept((sum(lows), sum(highs)))
    if e.name == "sub":
        return _kept((lows[0] - highs[1], highs[0] - lows[1]))
    if e.name == "neg":
        return -highs[0], -lows[0]
    if e.name == "mul":
        corners = [a * b for a in known[0] for b in known[1]]
        return _kept((min(corners), max(corners)))
    return None


def _kept(r: Range) -> Range | None:
    return r if _inside(r) else None


# --- kernels -----------------------------------------------------------------------------------------------------


def _is_wide(kernel: Kernel, nest: Nest) -> bool:
    if nest.lanes is None:
        return False
    return any(_statement_is_wide(kernel, kernel.body[k], nest.lanes) for k in nest.members)


def _statement_is_wide(kernel: Kernel, s: Statement, lanes: Axis) -> bool:
    if isinstance(s, Equation) and s.state and (lanes in s.reduce or lanes in s.axes):
        dtypes = STATES[s.state].dtypes(tuple(a.dtype for a in s.args))
        if any(d.itemsize == 8 for d in dtypes):
            return True
    if isinstance(s, Equation) and s.is_pointwise and lanes in s.axes and s.dtypes[0].itemsize == 8:
        return True
    if isinstance(s, Store) and kernel.buffers[s.buffer].dtype.itemsize == 8:
        return True
    if isinstance(s, Store) and any(_offset_is_wide(i, lanes) for i in s.index):
        return True
    return any(_value_is_wide(e, lanes) for e in walk(*statement_expressions(s)) if lanes in e.axes)


def _value_is_wide(e: Expr, lanes: Axis) -> bool:
    if isinstance(e, Load):
        return e.dtype.itemsize == 8 or any(_offset_is_wide(i, lanes) for i in e.index)
    if not isinstance(e, Op):
        return False  # an index: its readers tell how it is computed
    if compares_indices(e, lanes):
        return False
    return any(lanes in a.axes and pack_of(a) in "LD" for a in (e, *e.args))


def compares_indices(e: Op, lanes: Axis) -> bool:
    """True for comparisons of indices that are affine in the lanes: those need no pack of indices at all."""
    return e.name in COMPARES and e.args[0].dtype is I64 and all(_is_plain_index(a, lanes) for a in e.args)


def compares_with_wide(e: Op, lanes: Axis) -> bool:
    """True for a comparison of a 32-bit pack with one i64 value that may be larger: `target[t] == c` over c."""
    if e.name not in COMPARES or e.args[0].dtype is not I64:
        return False
    varying = [a for a in e.args if lanes in a.axes]
    ranges = [value_range(a) for a in varying]
    return len(varying) == 1 and all(r is not None and r[0] > -(2**31) and r[1] < 2**31 - 1 for r in ranges)


def _is_plain_index(e: Expr, lanes: Axis) -> bool:
    if isinstance(e, Const):
        return True
    if not isinstance(e, Iota) or not is_affine_in(e.index, lanes):
        return False
    stride = axis_coefficient(e.index, lanes)
    return isinstance(stride, int) and abs(stride) < 2**20


def is_affine_in(i: Index, lanes: Axis) -> bool:
    return all(a is lanes or lanes not in axes_of(Index(((a, 1),))) for a, _ in i.terms)


def _offset_is_wide(i: Index, lanes: Axis) -> bool:
    """True when lanes stand at distances that 32 bits may not hold."""
    varying = Index(tuple((a, c) for a, c in i.terms if a is not lanes and lanes in axes_of(Index(((a, 1),)))))
    if not varying.terms:
        return False
    datas = list(data_in(varying))
    return not index_fits_32(varying) or any(not fits_32(d.value) for d in datas if lanes in d.value.axes)
