"""Which kernels are sums of products, and what their axes are to the tiles that compute them.

    y[t, n] = sum(c) x[t, c] * w[n, c]       columns n (of the larger operand), rows t, lanes c
    y[t, n] = sum(g, c) x[t, g, c] * (q[n, g, c] - 8) * s[n, g]
            = sum(g) s[n, g] * (sum(c) x[t, g, c] * (q[n, g, c] - 8))        the scales leave the inner sum

`narrow` finds products that one instruction adds; `tiles` and `panel` make the loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ...ir.expr import Const, Expr, Load, Op, data_in, loads_in, product_factors
from ...ir.index import Axis, axis_coefficient
from ...ir.loops import Equation, Kernel, Store, statement_expressions
from ...ir.scalar import op
from ...ir.types import DType
from ..ranges import fits_32, is_power_of_two, whole_range
from ..tiling_keep import recompute
from ..tiling_prepare import join_axes
from .fields import find_lookup
from .join import find_joint
from .ragged import Ragged, find_ragged

WASTE = (5, 4)  # room in packs of rows, to rows, beyond which those of several points of another axis are put together
EXACT = 256  # integers up to it are bf16


@dataclass(frozen=True, slots=True)
class Sum:
    """One of the sums: over its lanes, of groups of products that are added at once.

    scale  what the sum over the lanes is multiplied by, at each point of the other axes that are summed over
    shift  what is added to the operands of the rows, and is taken from the sum again
    offset what is taken from the operands of the columns: its products with the rows' sums are taken from the sum
    rest   products at points that fill no group, which are added to the sum in the end
    """

    equation: Equation
    groups: tuple[tuple[Expr, ...], ...]
    scale: Expr | None = None
    shift: int = 0
    offset: Expr | None = None
    rest: tuple[Expr, ...] = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.equation.axes

    @property
    def name(self) -> str:
        return self.equation.names[0]

    @property
    def dtype(self) -> DType:
        return self.equation.dtypes[0]

    @property
    def rounds(self) -> bool:
        """True where operands are rounded: then how they are computed is no exact prescription."""
        return self.equation.operand_dtype not in (None, self.dtype)


@dataclass(frozen=True, slots=True)
class Products:
    """The sums of a kernel, and how its axes are run.

    lanes    the axis that is summed over, along which the larger operands are dense in memory
    summed   other axes that are summed over, around the lanes
    columns  the kept axis of the larger operands that is tiled, rows that of the smaller ones (None: there is none)
    outer    other kept axes, outside of the columns; inner: others of the smaller operands, inside of them
    across   the operands of the rows are dense along those, not along the lanes: of y = x w, the rows are w's columns
    ragged   the groups that the rows are in, where all this is for one of them
    """

    kernel: Kernel
    sums: tuple[Sum, ...]
    stores: tuple[Store, ...]
    lanes: Axis
    summed: tuple[Axis, ...]
    columns: Axis
    rows: Axis | None
    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]
    across: bool = False
    ragged: Ragged | None = None


def find_products(kernel: Kernel, lanes: int = 16) -> Products | None:
    """The sums of products of a prepared kernel that is nothing else, for packs of `lanes`; None for all other
    kernels. How many rows there are may be known at run time only.
    """
    one, ragged = find_ragged(kernel) or (kernel, None)
    sums = find_sums(one, dynamic=1)
    found = None if sums is None else _with_axes(*sums, lanes)
    if found is None:
        return None
    if ragged is not None:
        return replace(found, ragged=ragged) if found.rows is ragged.rows and not found.inner else None
    if any(a.is_ragged for s in found.sums for a in s.axes):
        return None
    joint = _find_joint(found, lanes)
    return found if joint is None else find_products(join_axes(found.kernel, *joint, digits=True), lanes)


def _find_joint(found: Products, lanes: int) -> tuple[Axis, Axis] | None:
    """The axes of rows or columns that are better one, since tiles of them leave a rest at each point of the other."""
    main = next(s.equation for s in found.sums if has_products(s.equation))
    if any(map(is_dynamic, main.axes)):
        return None
    tiled = [(found.columns, found.outer), (found.rows, found.inner)]
    if found.across:
        assert found.rows is not None
        tiled[1] = found.rows, found.outer if _wastes(extent_of(found.rows), lanes) else ()
    pairs = (find_joint(found.kernel, main, a, others) for a, others in tiled if a is not None and others)
    return next((p for p in pairs if p is not None), None)


def _wastes(rows: int, lanes: int) -> bool:
    """True where packs of rows are few, or have much room left."""
    return rows <= lanes or -(-rows // lanes) * lanes * WASTE[1] > rows * WASTE[0]


def find_sums(
    kernel: Kernel, dynamic: int = 0
) -> tuple[Kernel, tuple[Equation, ...], tuple[Store, ...], Equation] | None:
    """(the kernel without pointwise equations, its sums, its stores, the first sum of products); None for a kernel
    that is anything else, or has more than `dynamic` axes whose extents are known at run time only.
    """
    if not any(isinstance(s, Equation) and s.state == "sum" and not s.scan for s in kernel.body):
        return None
    kernel = recompute(kernel, lambda e: True)
    sums = tuple(s for s in kernel.body if isinstance(s, Equation))
    stores = kernel.stores
    if any(s.state != "sum" or s.scan for s in sums):
        return None
    whole = [s for s in sums if has_products(s)]
    axes, summed = (whole[0].axes, set(whole[0].reduce)) if whole else ((), set[Axis]())
    sizes = all(a.extent != 0 for a in (*axes, *summed))
    static = not any(map(is_dynamic, summed)) and sum(map(is_dynamic, axes)) <= dynamic
    if not (whole and sizes and static) or any(set(s.reduce) != summed or not set(s.axes) <= set(axes) for s in sums):
        return None
    if any(set(s.axes) != set(axes) or not _reads_own(s, kernel) for s in (*whole, *stores)):
        return None
    if not all(s.injective and s.mode == "set" and s.guard is None for s in stores) or _feeds_itself(sums, stores):
        return None
    return kernel, sums, stores, whole[0]


def has_products(s: Equation) -> bool:
    """True for a sum of products, or of sums of them, whose operands are not all of its own: tiles share them."""
    kept, summed = frozenset(s.axes), frozenset(s.reduce)
    for term in terms_of(s.args[0]):
        operands = [f for f in product_factors(term) if f.axes & summed]
        if len(operands) < 2 or all(kept <= f.axes for f in operands):
            return False
    return True


def terms_of(e: Expr) -> list[Expr]:
    if isinstance(e, Op) and e.name == "add":
        return [t for a in e.args for t in terms_of(a)]
    return [e]


def _reads_own(s: Equation | Store, kernel: Kernel) -> bool:
    """True where sums are read at the statement's own point."""
    for e in loads_in(*statement_expressions(s)):
        equation = kernel.equations.get(e.name)
        if equation is not None and (
            e.guard is not None or not all(i.single_axis is a for i, a in zip(e.index, equation.axes, strict=True))
        ):
            return False
    return True


def _feeds_itself(sums: Iterable[Equation], stores: Iterable[Store]) -> bool:
    """True where a sum waits for another one, or reads what is stored."""
    written = {s.buffer for s in stores} | {n for s in sums for n in s.names}
    return any(e.name in written for s in sums for e in loads_in(*s.args))


def _with_axes(
    kernel: Kernel, sums: tuple[Equation, ...], stores: tuple[Store, ...], main: Equation, pack: int
) -> Products | None:  # fmt: skip
    """The roles of the axes; None where the larger operand is not dense along one that is summed over."""
    summed = frozenset(main.reduce)
    loads = [e for e in loads_in(*main.args) if e.name in kernel.buffers and e.axes & summed]
    if not loads:
        return None
    static = [e for e in loads if not any(map(is_dynamic, e.axes))]
    if not static:
        return None
    around = {*main.axes, *main.reduce}
    static = [e for e in static if e.axes - around] or static  # each group has its own
    plain = [e for e in static if not any(d.value.axes & summed for i in e.index for d in data_in(i))]
    large = max(
        plain or static,
        key=lambda e: (math.prod(extent_of(a) for a in e.axes), _dense_along(e, main.reduce) is not None),
    )
    lanes = _dense_along(large, main.reduce)
    if lanes is None or (_is_short(lanes, pack) and _dense_along(large, main.axes)):
        return _across(kernel, sums, stores, main, large)
    if _is_short(lanes, pack):
        large, lanes = _longer(static, main, pack) or (large, lanes)
    if lanes.extent == 1 or any(_is_wide(e, lanes) for e in loads):
        return None
    like = [e for e in loads if e.axes == large.axes and not any(data_in(e.index[-1]))]
    if any(axis_coefficient(e.index[-1], lanes) != 1 for e in like):
        return None
    loads = [e for e in loads if lanes in e.axes]
    own = [a for a in main.axes if a in large.axes]
    rest = [a for a in main.axes if a not in large.axes]
    alone = [a for a in own if not all(a in e.axes for e in loads)]
    if not alone:
        return None
    columns = max(alone, key=extent_of)
    rows = max(rest, key=lambda a: math.inf if is_dynamic(a) else extent_of(a)) if rest else None
    outer = tuple(a for a in own if a is not columns)
    inner = tuple(a for a in rest if a is not rows)
    around = tuple(a for a in main.reduce if a is not lanes)
    found = tuple(sum_of(s, columns) for s in sums)
    return Products(kernel, found, stores, lanes, around, columns, rows, outer, inner)


def _across(
    kernel: Kernel, sums: tuple[Equation, ...], stores: tuple[Store, ...], main: Equation, large: Load
) -> Products | None:  # fmt: skip
    """The roles where the larger operand is dense along one of its own kept axes, as that of the rows."""
    loads = [e for e in loads_in(*main.args) if e.name in kernel.buffers and e.axes & set(main.reduce)]
    others = [e for e in loads if large.axes & set(main.axes) != e.axes & set(main.axes)]
    own = [a for a in main.axes if a in large.axes and not any(a in e.axes for e in others)]
    rows = _dense_along(large, own)
    columns = max((a for a in main.axes if a not in large.axes), key=extent_of, default=None)
    lanes = next((a for e in others for a in main.reduce if axis_coefficient(e.index[-1], a) == 1), main.reduce[-1])
    if rows is None or columns is None or any(map(is_dynamic, main.axes)) or any(_is_wide(e, lanes) for e in loads):
        return None
    outer = tuple(a for a in main.axes if a not in (rows, columns))
    around = tuple(a for a in main.reduce if a is not lanes)
    found = tuple(sum_of(s, columns) for s in sums)
    return Products(kernel, found, stores, lanes, around, columns, rows, outer, (), across=True)


def _dense_along(e: Load, axes: Iterable[Axis]) -> Axis | None:
    """The axis along which neighbours lie side by side."""
    return next((a for a in axes if axis_coefficient(e.index[-1], a) == 1), None)


def _longer(loads: Iterable[Load], main: Equation, pack: int) -> tuple[Load, Axis] | None:
    """An operand of all points of the sum that is dense along an axis which fills packs."""
    found = [(e, _dense_along(e, main.reduce)) for e in loads if set(main.reduce) <= e.axes]
    return next(((e, a) for e, a in found if a is not None and not _is_short(a, pack)), None)


def _is_short(a: Axis, pack: int) -> bool:
    """True for an axis that fills no pack."""
    return extent_of(a) < pack


def _is_wide(e: Load, lanes: Axis) -> bool:
    """True for a place that depends on 64 bits of data at each point of the lanes."""
    return any(lanes in d.value.axes and not fits_32(d.value) for i in e.index for d in data_in(i))


def sum_of(s: Equation, columns: Axis) -> Sum:
    """A sum by its products. Only those of sums that round their operands are rearranged."""
    found = Sum(s, tuple((t,) for t in terms_of(s.args[0])))
    return replace(found, groups=tuple((_grouped(t, columns),) for (t,) in found.groups)) if found.rounds else found


def delay_scales(found: Products, *, offsets: bool = False) -> Products:
    """The same sums, with factors that are free of the lanes taken out of the sums over those; zero points too, where
    what they are taken from is looked up.
    """
    sums = tuple(_delayed(s, found) for s in found.sums)
    return replace(found, sums=tuple(_without_offset(s, found) for s in sums) if offsets else sums)


def _without_offset(s: Sum, found: Products) -> Sum:
    """sum(c) x[c] * (q[c] - z) as sum(c) x[c] * q[c], with z aside: q is exact in the type of the products."""
    terms = [t for (t,) in s.groups]
    sides = [t.args[1] for t in terms if isinstance(t, Op) and t.name == "mul"]
    found_in = [e for e in sides if isinstance(e, Op) and e.name == "sub" and found.lanes not in e.args[1].axes]
    offsets = {e.args[1] for e in found_in}
    if s.scale is None or len(found_in) < len(terms) or len(offsets) != 1:
        return s
    (offset,) = offsets
    exact = all(is_small_integer(e.args[0]) and find_lookup(e.args[0]) for e in found_in)
    if not exact or found.rows in offset.axes or isinstance(offset, Const):
        return s
    bare = [op("mul", t.args[0], e.args[0]) for t, e in zip(terms, found_in, strict=True) if isinstance(t, Op)]
    return replace(s, groups=tuple((t,) for t in bare), offset=offset)


def _delayed(s: Sum, found: Products) -> Sum:
    if not s.rounds:
        return s
    products = [product_factors(t) for (t,) in s.groups]
    common = [f for f in products[0] if found.lanes not in f.axes and all(f in p for p in products)]
    left = [[f for f in p if f not in common] for p in products]
    columns = [{found.columns in f.axes for f in p} for p in left]
    if not common or any(c != {False, True} for c in columns):
        return s
    groups = tuple((_grouped(multiplied(p), found.columns),) for p in left)
    return replace(s, groups=groups, scale=multiplied(common))


def _grouped(e: Expr, columns: Axis) -> Expr:
    """The same product with all factors of each operand multiplied first: once a column or row, not once a result."""
    factors = product_factors(e)
    sides = [f for f in factors if columns not in f.axes], [f for f in factors if columns in f.axes]
    return op("mul", *map(multiplied, sides)) if len(factors) > 2 and all(sides) else e


def multiplied(factors: Sequence[Expr]) -> Expr:
    value = factors[0]
    for f in factors[1:]:
        value = op("mul", value, f)
    return value


def is_small_integer(e: Expr) -> bool:
    """True for a value that is an integer which bf16 holds."""
    found = whole_range(e)
    return found is not None and max(map(abs, found)) <= EXACT


def is_exact(e: Expr) -> bool:
    """True for a value that bf16 holds: a small integer, or one times a power of two (the smallest of all are 0 in
    products of bf16).
    """
    factors = product_factors(e)
    return sum(not (isinstance(f, Op) and is_power_of_two(f)) for f in factors) <= 1 and all(
        is_small_integer(f) or (isinstance(f, Op) and is_power_of_two(f)) for f in factors
    )


def is_dynamic(a: Axis) -> bool:
    """True for an axis whose points are known at run time only."""
    return a.is_ragged or not isinstance(a.extent, int)


def extent_of(a: Axis) -> int:
    assert isinstance(a.extent, int)
    return a.extent
