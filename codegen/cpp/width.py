"""How many lanes a kernel's packs have, and which i64 values fit 32 bits.

A pack of 8-byte elements (D of f64, L of i64) has half the lanes of one of 4 bytes. i64 values that provably fit 32
bits are computed in I, so index arithmetic and masks alone do not cost a kernel half its width.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...ir.expr import Const, Expr, Iota, Load, Op, data_in, walk
from ...ir.index import Axis, Index, axes_of, axis_coefficient
from ...ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ...ir.states import STATES
from ...ir.types import I64
from ..ranges import fits_32, index_fits_32, value_range
from ..tiling import Planned
from ..tiling_plan import Block, Nest, Part, estimate, nests_of, statement_cost
from .isa import Isa

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
SCALAR_COST = 4  # a pack at once, or its points one by one: what that costs, less what the others gain
COMPARES = ("lt", "le", "gt", "ge", "eq", "ne")


def choose_lanes(planned: Planned, isa: Isa) -> tuple[Planned, int]:
    """Lanes of a kernel's packs: fewer where something is computed per lane in 64 bits.

    Passes of little work that compute so, over the targets of a loss's rows for one, run point by point instead: the
    others keep their width.
    """
    wide = [n for n in nests_of(planned.parts) if _is_wide(planned.kernel, n)]
    if not wide:
        return planned, isa.lanes(4)
    alone = {id(n) for p in planned.parts for n in _outside_of_lanes(p)}
    work = sum(_work(planned.kernel, n) for n in nests_of(planned.parts))
    least = sum(_work(planned.kernel, n) for n in wide)
    if all(id(n) in alone for n in wide) and least * SCALAR_COST * isa.lanes(4) < work - least:
        parts = tuple(_point_by_point(p, {id(n) for n in wide}) for p in planned.parts)
        return replace(planned, parts=parts), isa.lanes(4)
    return planned, isa.lanes(8)


def _work(kernel: Kernel, nest: Nest) -> float:
    """Operations at all points."""
    found = 0.0
    for k in nest.members:
        s = kernel.body[k]
        found += math.prod(float(estimate(a.extent)) for a in s.domain) * (1.0 + statement_cost(s))
    return found


def _outside_of_lanes(part: Part) -> list[Nest]:
    """The nests that choose their own lanes."""
    if isinstance(part, Nest):
        return [part]
    return [] if part.lanes is not None else [n for p in part.body for n in _outside_of_lanes(p)]


def _point_by_point(part: Part, chosen: set[int]) -> Part:
    if isinstance(part, Block):
        return replace(part, body=tuple(_point_by_point(p, chosen) for p in part.body))
    if id(part) not in chosen or part.lanes is None:
        return part
    return replace(part, serial=(*part.serial, part.lanes), lanes=None)


def pack_of(e: Expr) -> str:
    """The pack that computes `e` per lane."""
    return "I" if e.dtype is I64 and fits_32(e) else PACKS[e.dtype.name]


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
