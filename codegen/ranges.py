"""Which integer values and indices provably fit 32 bits, whatever the buffers contain.

Integer arithmetic of the loops level is in i64; where the results fit, targets compute it in 32 bits.
"""

from __future__ import annotations

from functools import lru_cache

from ..ir.expr import Const, Expr, Iota, Load, Op, data_in
from ..ir.index import Data, Div, Index, Mod, bounds
from ..ir.types import BOOL, I64, Dim, DType

Range = tuple[int, int]
MOST_STEPS = 252  # twice what the exponent of an f32 takes


def fits_32(e: Expr) -> bool:
    return _inside(value_range(e))


def index_fits_32(i: Index) -> bool:
    """True when the index, and what it is summed up from, fits 32 bits."""
    return _inside(index_range(i)) and all(index_fits_32(a.index) for a, _ in i.terms if isinstance(a, Div | Mod))


def fits_in(e: Expr, dtype: DType) -> bool:
    """True when every value of an integer expression is one of the dtype too."""
    if dtype.is_float or e.dtype.is_float or dtype is BOOL or dtype is I64:
        return False
    found, (low, high) = value_range(e), dtype.limits
    return found is not None and low <= found[0] and found[1] <= high


def is_within(data: Data) -> bool:
    """True when an index that is read from data lies in its range, whatever the buffers contain."""
    found = value_range(data.value)
    return found is not None and found[0] >= 0 and isinstance(data.size, int) and found[1] < data.size


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
        return value_range(inner) if e.dtype is I64 or fits_in(inner, e.dtype) else e.dtype.limits
    args = [value_range(a) for a in (e.args[1:] if e.name == "where" else e.args)]
    if any(a is None for a in args) or e.dtype.is_float:
        return None
    known: list[Range] = [a for a in args if a is not None]
    lows, highs = [a[0] for a in known], [a[1] for a in known]
    if e.name in ("where", "min", "max"):
        return min(lows), max(highs)
    if e.name in ("add", "sub", "neg", "mul"):
        return _arithmetic(e.name, known)
    if e.name == "and" and max(lows) >= 0:
        return 0, min(h for low, h in known if low >= 0)
    if e.name == "shl" and lows[0] >= 0 and 0 <= lows[1] <= highs[1] < 32:
        return _kept((lows[0] << lows[1], highs[0] << highs[1]))
    if e.name == "shr" and lows[0] >= 0 and 0 <= lows[1] < 32:
        return 0, highs[0] >> lows[1]
    return None


@lru_cache(maxsize=65536)
def whole_range(e: Expr) -> Range | None:
    """Bounds of a float expression that takes integer values only; None where it may take others."""
    if isinstance(e, Const):
        return (int(e.value), int(e.value)) if e.value == e.value // 1 else None
    if not isinstance(e, Op):
        return None
    if e.name == "cast":
        inner = e.args[0]
        return whole_range(inner) if inner.dtype.is_float else value_range(inner)
    args = [whole_range(a) for a in e.args] if e.name in ("add", "sub", "mul", "neg") else [None]
    known = [a for a in args if a is not None]
    return _arithmetic(e.name, known) if len(known) == len(args) else None


def is_power_of_two(e: Op) -> bool:
    """True for 2 to the power of a whole number by which a normal number can be scaled in two steps."""
    found = whole_range(e.args[0])
    return e.name == "exp2" and found is not None and found[0] >= -MOST_STEPS and found[1] <= MOST_STEPS


def _arithmetic(name: str, known: list[Range]) -> Range | None:
    lows, highs = [a[0] for a in known], [a[1] for a in known]
    if name == "add":
        return _kept((sum(lows), sum(highs)))
    if name == "sub":
        return _kept((lows[0] - highs[1], highs[0] - lows[1]))
    if name == "neg":
        return -highs[0], -lows[0]
    corners = [a * b for a in known[0] for b in known[1]]
    return _kept((min(corners), max(corners)))


def _kept(r: Range) -> Range | None:
    return r if _inside(r) else None
