"""Kernels made ready for tiling: flat buffers, fewest axes, no tiny reductions, no states that two plain passes serve
better.

y[t, c] <- x[t, c] + b[t, c]     with t:64, c:4096, all contiguous     ->     y[i] <- x[i] + b[i]     with i:262144
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..ir.expr import Expr, Iota, Load, Op, Rewriter, const, indices, product_factors, walk
from ..ir.index import ZERO, Axis, Index, add, as_index, axes_of, axis_coefficient, linearize, of_atom
from ..ir.loops import Buffer, Equation, Kernel, Statement, Store, reads_of, statement_expressions
from ..ir.scalar import cast, is_const, op
from ..ir.simplify import exact
from ..ir.states import STATES, Values, lowest
from ..ir.types import BF16, BOOL, F16, I16, Dim, multiply, plus, product
from ..ir.weighted import split_weighted
from .tiling_reroll import reroll

UNROLLED_POINTS = 8  # a reduction of so few points is written out ..
UNROLLED_NODES = 96  # .. if that stays short
PLAIN = ("sum", "prod", "max", "min", "any", "all")  # states of one component whose lift is the identity


def prepare(kernel: Kernel, resident: int | None = None) -> Kernel:
    """The same computation in the form that tiling works on.

    States over rows of up to `resident` points (None: of any length) become passes over the row.
    """
    kernel = drop_units(flatten_buffers(drop_dead(kernel)))
    kernel = move_bits(split_states(kernel, resident))
    kernel = unroll_reductions(reroll(kernel))
    return collapse_axes(kernel)


def rewrite_statement(s: Statement, rewrite: Rewriter) -> Statement:
    if isinstance(s, Equation):
        return replace(s, args=tuple([rewrite(a) for a in s.args]))
    guard = None if s.guard is None else rewrite(s.guard)
    return replace(s, index=tuple([rewrite.index(i) for i in s.index]), value=rewrite(s.value), guard=guard)


def drop_dead(kernel: Kernel) -> Kernel:
    """Without the stores to no element and the equations that nothing reads: those may load from what is not there."""
    live: list[Statement] = []
    read: set[str] = set()
    for s in reversed(kernel.body):
        stores = isinstance(s, Store) and all(a.extent != 0 or a.begin is not None for a in s.axes)
        if stores or (isinstance(s, Equation) and read & set(s.names)):
            live.append(s)
            read |= reads_of(s)
    return kernel if len(live) == len(kernel.body) else replace(kernel, body=tuple(reversed(live)))


# --- buffers -----------------------------------------------------------------------------------------------------


def flatten_buffers(kernel: Kernel) -> Kernel:
    """x[t, c] of strides (4096, 1) -> x[4096*t + c]: one index, the distance from element 0 of the storage."""
    buffers = kernel.buffers

    def place(name: str, index: tuple[Index, ...]) -> tuple[Index, ...]:
        b = buffers[name]
        return (add(linearize(index, b.strides), as_index(b.offset)),)

    def load(e: Load) -> Expr:
        return Load(e.name, place(e.name, e.index), e.dtype, e.guard) if e.name in buffers else e

    rewrite = Rewriter(load=load)
    ragged = _rewrite_bounds(kernel.axes, rewrite)
    body: list[Statement] = []
    for s in kernel.body:
        new = rename_axes(rewrite_statement(s, rewrite), ragged) if ragged else rewrite_statement(s, rewrite)
        body.append(replace(new, index=place(new.buffer, new.index)) if isinstance(new, Store) else new)
    flat = {name: Buffer(name, b.dtype, (_span(b),), (1,)) for name, b in buffers.items()}
    inputs, outputs = (tuple(flat[b.name] for b in side) for side in (kernel.inputs, kernel.outputs))
    return replace(kernel, inputs=inputs, outputs=outputs, body=tuple(body))


def _rewrite_bounds(axes: Iterable[Axis], rewrite: Rewriter) -> dict[Axis, Axis]:
    """Ragged axes whose bounds become others, with what they become; `rewrite` then replaces them too."""
    renamed: dict[Axis, Axis] = {}
    for a in sorted((a for a in axes if a.is_ragged), key=_depth):
        begin, end = (None if e is None else rewrite(e) for e in (a.begin, a.end))
        if (begin, end) != (a.begin, a.end):
            renamed[a] = Axis(a.name, a.extent, begin, end)
            rewrite.axes = {**rewrite.axes, a: of_atom(renamed[a])}
    return renamed


def _depth(a: Axis) -> int:
    """Axes whose bounds read other axes come after these."""
    return max((1 + _depth(b) for b in _bounding(a)), default=0)


def _bounding(a: Axis) -> frozenset[Axis]:
    """The axes that the bounds of an axis read."""
    return frozenset().union(*(e.axes for e in (a.begin, a.end) if e is not None))


def rename_axes(s: Statement, renamed: dict[Axis, Axis]) -> Statement:
    """The statement over other axes; its expressions stay."""
    axes = tuple(renamed.get(a, a) for a in s.axes)
    if isinstance(s, Store):
        return replace(s, axes=axes)
    return replace(s, axes=axes, reduce=tuple(renamed.get(a, a) for a in s.reduce))


def _span(b: Buffer) -> Dim:
    """One more than the distance of the last element from element 0 of the storage."""
    if product(b.shape) == 0:
        return 0
    last: Dim = plus(b.offset, 1)
    for n, stride in zip(b.shape, b.strides, strict=True):
        last = plus(last, multiply(plus(n, -1), stride))
    return last


# --- axes of one point -------------------------------------------------------------------------------------------


def drop_units(kernel: Kernel) -> Kernel:
    """y[u, c] <- s[u] with u:1  ->  y[c] <- s[]; nothing is reduced or scanned over one point."""
    if not any(_is_unit(a) for s in kernel.body for a in s.domain):
        return kernel
    local = kernel.equations

    def load(e: Load) -> Expr:
        equation = local.get(e.name)
        if equation is None:
            return e
        kept = tuple(i for a, i in zip(equation.axes, e.index, strict=True) if not _is_unit(a))
        return Load(e.name, kept, e.dtype, e.guard)

    rewrite = Rewriter(load=load)
    body: list[Statement] = []
    for s in kernel.body:
        new = replace(rewrite_statement(s, rewrite), axes=_not_units(s.axes))
        if isinstance(new, Equation) and new.scan and _not_units(new.reduce) != new.reduce:
            body += _scan_of_one(new)
        else:
            body.append(replace(new, reduce=_not_units(new.reduce)) if isinstance(new, Equation) else new)
    return replace(kernel, body=tuple(body))


def _is_unit(axis: Axis) -> bool:
    return axis.extent == 1 and not axis.is_ragged


def _not_units(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if not _is_unit(a))


def _scan_of_one(e: Equation) -> list[Statement]:
    row = STATES[e.state]
    lifted = row.lift(e.args)
    state = lifted if e.scan == "inclusive" else row.identity(tuple(v.dtype for v in lifted))
    return pointwise(e, row.project(state))


def pointwise(e: Equation, values: Values) -> list[Statement]:
    """One equation for each component of `e` that is read."""
    parts = zip(e.names, values, e.dtypes, strict=False)
    return [Equation((n,), e.axes, (v,), (d,), source=e.source) for n, v, d in parts if n != "_"]


# --- states ------------------------------------------------------------------------------------------------------


def split_states(kernel: Kernel, resident: int | None = None) -> Kernel:
    """(m, l) = max_sum_exp x  ->  m = max x, l = sum exp(x - m); moments likewise: a second look beats a rescaled
    state, where what is looked at (up to `resident` points) is still close.
    """
    splitters: dict[str, Callable[[Equation], list[Statement]]] = {
        "max_sum_exp": _split_max_sum_exp,
        "max_weighted_sum": split_weighted,
        "moments": _split_moments,
    }
    body: list[Statement] = []
    for s in kernel.body:
        split = splitters.get(s.state) if isinstance(s, Equation) and s.reduce and not s.scan else None
        if split is None or not isinstance(s, Equation) or _is_beyond(s, resident):
            body.append(s)
        else:
            body += split(s)
    return replace(kernel, body=tuple(body))


def _is_beyond(e: Equation, resident: int | None) -> bool:
    """True where a second look at what is reduced is not close: on long rows, and on those that data bounds."""
    points = product(a.extent for a in e.reduce)
    far = resident is not None and not (isinstance(points, int) and points <= resident)
    return far or any(a.is_ragged for a in e.domain)


def _name(e: Equation, k: int) -> str:
    """The name of component k, also where nobody reads it."""
    known = next(n for n in e.names if n != "_")
    return e.names[k] if k < len(e.names) and e.names[k] != "_" else f"{known}_{k}"


def _read(name: str, e: Equation, k: int = 0) -> Load:
    return Load(name, tuple(of_atom(a) for a in e.axes), e.dtypes[k])


def _split_max_sum_exp(e: Equation) -> list[Statement]:
    x, dtype = e.args[0], e.args[0].dtype
    top = replace(e, names=(_name(e, 0),), state="max", dtypes=(dtype,))
    if e.names[1] == "_":
        return [top]
    m = _read(_name(e, 0), top)
    shift = op("where", op("eq", m, lowest(dtype)), const(0.0, dtype), m)
    total = replace(e, names=(e.names[1],), args=(op("exp", op("sub", x, shift)),), state="sum", dtypes=(dtype,))
    return [top, total]


def _split_moments(e: Equation) -> list[Statement]:
    x, dtype = e.args[0], e.args[0].dtype
    size = product(a.extent for a in e.reduce)
    count = const(float(size), dtype) if isinstance(size, int) else cast(Iota(Index((), size)), dtype)
    made: list[Statement] = []
    if e.names[0] != "_":
        made.append(Equation((e.names[0],), e.axes, (count,), (dtype,), source=e.source))
    total = replace(e, names=(f"{_name(e, 1)}_sum",), state="sum", dtypes=(dtype,))
    read = _read(total.names[0], total)
    quotient = const(0.0, dtype) if size == 0 else op("div", read, count)
    mean = Equation((_name(e, 1),), e.axes, (quotient,), (dtype,), source=e.source)
    made += [total, mean]
    if e.names[2] != "_":
        away = op("sub", x, _read(_name(e, 1), mean))
        made.append(replace(e, names=(e.names[2],), args=(op("mul", away, away),), state="sum", dtypes=(dtype,)))
    return made


# --- moves -------------------------------------------------------------------------------------------------------


def move_bits(kernel: Kernel) -> Kernel:
    """y[c] <- x[c] of 16-bit floats: what is only moved is read and written as i16, without a conversion."""
    buffers = kernel.buffers

    def moved(e: Expr) -> Expr | None:
        if isinstance(e, Load) and e.name in buffers:
            return Load(e.name, e.index, I16, e.guard)
        if isinstance(e, Op) and e.name == "where":
            this, other = (moved(a) for a in e.args[1:])
            return None if this is None or other is None else op("where", e.args[0], this, other)
        return const(0, I16) if is_const(e, 0.0) else None

    body: list[Statement] = []
    for s in kernel.body:
        narrow = isinstance(s, Store) and s.mode == "set" and s.value.dtype in (F16, BF16)
        value = moved(s.value) if narrow and isinstance(s, Store) else None
        body.append(replace(s, value=value) if value is not None and isinstance(s, Store) else s)
    return replace(kernel, body=tuple(body))


# --- tiny reductions ---------------------------------------------------------------------------------------------


def unroll_reductions(kernel: Kernel) -> Kernel:
    """s[c] = sum(k:3) x[k, c]  ->  s[c] = (x[0, c] + x[1, c]) + x[2, c]; axes along which memory is dense stay, and
    those of sums of products over others too, unless they choose between values (the digits of a cat or a stack).

    Pointwise values along such an axis are computed where they are read.
    """
    body: list[Statement] = []
    for s in kernel.body:
        body += unroll_equation(s, kernel) if isinstance(s, Equation) and s.state and not s.scan else [s]
    return drop_dead(replace(kernel, body=tuple(body)))


def unroll_equation(e: Equation, kernel: Kernel) -> list[Statement]:
    """Pointwise equations, one for each component that is read, or the equation itself."""
    if e.state not in PLAIN and len(e.reduce) > 1:
        return [e]
    while e.reduce and (total := _written_out(e, e.reduce[-1], kernel)) is not None:
        if len(e.reduce) == 1:
            return pointwise(e, STATES[e.state].project(total))
        e = replace(e, args=total, reduce=e.reduce[:-1])
    if not e.reduce:
        return pointwise(e, STATES[e.state].project(STATES[e.state].lift(e.args)))
    return [e]


def _written_out(e: Equation, axis: Axis, kernel: Kernel) -> Values | None:
    """The states of all points of a short axis, joined; None where that is not worth it."""
    extent = axis.extent
    if axis.is_ragged or not isinstance(extent, int) or not 1 <= extent <= UNROLLED_POINTS:
        return None
    args = _inlined(e, axis, kernel)
    dense = any(axis_coefficient(i, axis) == 1 for n in walk(*args) if isinstance(n, Load) for i in n.index[-1:])
    if (dense or _is_contraction(e)) and not any(_is_decided(n, axis) for n in walk(*args)):
        return None
    rows = [Rewriter({axis: as_index(k)}, rebuild=exact) for k in range(extent)]
    total = combine_tree(e.state, [STATES[e.state].lift(tuple(row(a) for a in args)) for row in rows])
    return total if sum(1 for _ in walk(*total)) <= UNROLLED_NODES else None


def _is_contraction(e: Equation) -> bool:
    """True for sums of products over several axes, none of whose operands are all of its own."""
    factors = product_factors(e.args[0]) if e.state == "sum" else []
    return len(e.reduce) > 1 and len(factors) > 1 and not any(frozenset(e.axes) <= f.axes for f in factors)


def _is_decided(e: Expr, axis: Axis) -> bool:
    """True for a condition that each point of the axis decides: written out, a select of two values is one of them."""
    return isinstance(e, Op) and e.dtype is BOOL and e.axes == {axis}


def _inlined(e: Equation, axis: Axis, kernel: Kernel) -> tuple[Expr, ...]:
    """The arguments with the pointwise values that they read along the axis in their places."""

    def load(found: Load) -> Expr:
        source = kernel.equations.get(found.name)
        if source is None or not source.is_pointwise or found.guard is not None or axis not in found.axes:
            return found
        return rewrite(Rewriter(dict(zip(source.axes, found.index, strict=True)))(source.args[0]))

    rewrite = Rewriter(load=load)
    return tuple(rewrite(a) for a in e.args)


def combine_tree(state: str, states: list[Values]) -> Values:
    """The states joined pairwise, neighbours first."""
    while len(states) > 1:
        pairs = [STATES[state].combine(a, b) for a, b in zip(states[::2], states[1::2], strict=False)]
        states = pairs + ([states[-1]] if len(states) % 2 else [])
    return states[0]


# --- axes --------------------------------------------------------------------------------------------------------


def collapse_axes(kernel: Kernel) -> Kernel:
    """Two axes that every index takes as one become one axis: 64*i + j with i:8, j:64 -> ij with ij:512."""
    done = False
    while not done:
        done = True
        for outer, inner in _neighbours(kernel):
            if _move_together(kernel, outer, inner):
                kernel = join_axes(kernel, outer, inner)
                done = False
                break
    return kernel


def _neighbours(kernel: Kernel) -> list[tuple[Axis, Axis]]:
    """Pairs that could be one axis: always mentioned together, one after the other, both kept or both reduced."""
    pairs: list[tuple[Axis, Axis]] = []
    for s in kernel.body:
        for order in (s.axes, *([s.reduce] if isinstance(s, Equation) and not s.scan else [])):
            pairs += [(a, b) for a, b in itertools.pairwise(order) if not a.is_ragged and not b.is_ragged]
    return [p for p in dict.fromkeys(pairs) if all(_adjacent(s, *p) for s in kernel.body)]


def _adjacent(s: Statement, outer: Axis, inner: Axis) -> bool:
    if outer not in s.domain and inner not in s.domain:
        return True
    if isinstance(s, Equation) and s.scan and (outer in s.reduce or inner in s.reduce):
        return False
    orders = (s.axes, s.reduce) if isinstance(s, Equation) and not s.scan else (s.axes,)
    return any((outer, inner) in itertools.pairwise(o) for o in orders)


def _move_together(kernel: Kernel, outer: Axis, inner: Axis) -> bool:
    local = kernel.equations
    if any({outer, inner} & _bounding(a) for a in kernel.axes):
        return False
    for s in kernel.body:
        if isinstance(s, Store) and not all(takes_as_one(i, outer, inner) for i in s.index):
            return False
        for e in walk(*statement_expressions(s)):
            if isinstance(e, Load) and e.name in local:
                if not _loads_as_one(e, local[e.name], outer, inner):
                    return False
            elif not all(takes_as_one(i, outer, inner) for i in indices(e)):
                return False
    return True


def takes_as_one(i: Index, outer: Axis, inner: Axis) -> bool:
    a, b = axis_coefficient(i, outer), axis_coefficient(i, inner)
    return a is not None and b is not None and a == multiply(b, inner.extent)


def _loads_as_one(e: Load, equation: Equation, outer: Axis, inner: Axis) -> bool:
    """A local value is read at the very point (outer, inner), or does not depend on either."""
    for axis, i in zip(equation.axes, e.index, strict=True):
        mentioned = axes_of(i) & {outer, inner}
        if axis in (outer, inner):
            if i.single_axis is not axis:
                return False
        elif mentioned:
            return False
    return outer in equation.axes or not any(axes_of(i) & {outer, inner} for i in e.index)


def join_axes(kernel: Kernel, outer: Axis, inner: Axis, digits: bool = False) -> Kernel:
    """The kernel over the points of both axes as one; local values are read at their points.

    digits  some index takes the two apart, as digits of the one
    """
    joined = Axis(f"{outer.name}{inner.name}", multiply(outer.extent, inner.extent))
    point, local = of_atom(joined), kernel.equations

    def load(e: Load) -> Expr:
        equation = local.get(e.name)
        if equation is None or outer not in equation.axes:
            return e
        at = tuple(point if a is inner else i for a, i in zip(equation.axes, e.index, strict=True) if a is not outer)
        return Load(e.name, at, e.dtype, e.guard)

    places = (point // inner.extent, point % inner.extent) if digits else (ZERO, point)
    rewrite = Rewriter(dict(zip((outer, inner), places, strict=True)), load)

    def rename(axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(joined if a is inner else a for a in axes if a is not outer)

    body: list[Statement] = []
    for s in kernel.body:
        new = replace(rewrite_statement(s, rewrite), axes=rename(s.axes))
        body.append(replace(new, reduce=rename(new.reduce)) if isinstance(new, Equation) else new)
    return replace(kernel, body=tuple(body))
