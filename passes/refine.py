"""Law: refine. A kernel's axes become the common mixed radix of all its index maps, and buffers get the shape that is
read.

    y[i, t] = x[i // 8, i % 8, t]    i:16         ->   y[i, j, t] = x[i, j, t]    i:2, j:8
    y[i, j] = exp(x[i, j])           i:64, j:32   ->   y[i] = exp(x[i])           i:2048

Three steps on flat (one-dimensional) buffers: split an axis wherever it is divided by a factor of its extent, drop
axes of one value, join neighbouring axes that every access walks as one. Then buffers are unfolded along the strides
that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from ..ir.expr import Expr, Iota, Load, Rewriter, data_in, walk
from ..ir.index import (
    Atom,
    Axis,
    Div,
    Index,
    Mod,
    add,
    as_index,
    axis_coefficient,
    bounds,
    floor_divide,
    linearize,
    modulo,
    of_atom,
)
from ..ir.loops import Buffer, Equation, Kernel, Statement, Store, statement_expressions
from ..ir.simplify import Simplifier
from ..ir.types import Dim, contiguous_strides, divide_exactly, is_nonnegative, multiply, plus
from .limits import bounds_where


def refine(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """The kernel in canonical axes and buffer shapes; the function it computes is the same."""
    flat = flatten_buffers(kernel, simplify)
    while (found := _splittable(flat)) is not None:
        flat = split_axis(flat, *found, simplify)
    flat = drop_unread_axes(drop_unit_axes(flat, simplify), simplify)
    while (pair := _joinable(flat)) is not None:
        flat = _join(flat, *pair, simplify)
    return unfold_buffers(flat, simplify)


# --- flat buffers ------------------------------------------------------------------------------------------------


def flatten_buffers(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """x[i, j] -> x[1024*i + j]: every buffer has one dimension of stride 1 that spans its elements."""

    def flat_index(name: str, index: tuple[Index, ...], guard: Expr | None = None) -> tuple[Index, ...]:
        buffer = kernel.buffers.get(name)
        if buffer is None:
            return index
        return (add(linearize(index, buffer.strides), as_index(buffer.offset)),)

    def load(e: Load) -> Expr:
        return Load(e.name, flat_index(e.name, e.index), e.dtype, e.guard)

    rewrite = Rewriter(load=load, rebuild=simplify)
    body = tuple(_rewritten(s, rewrite, flat_index) for s in kernel.body)
    return _with(kernel, body, {n: _flat(b) for n, b in kernel.buffers.items()})


def _flat(buffer: Buffer) -> Buffer:
    """A negative stride cannot occur in torch, so the last element is where every index is greatest."""
    last: Dim = buffer.offset
    for n, stride in zip(buffer.shape, buffer.strides, strict=True):
        last = plus(last, multiply(stride, plus(n, -1)))
    empty = any(n == 0 for n in buffer.shape)
    return Buffer(buffer.name, buffer.dtype, (0 if empty else plus(last, 1),), (1,))


def _with(kernel: Kernel, body: tuple[Statement, ...], buffers: dict[str, Buffer]) -> Kernel:
    inputs = tuple(buffers[b.name] for b in kernel.inputs)
    return replace(kernel, inputs=inputs, outputs=tuple(buffers[b.name] for b in kernel.outputs), body=body)


def _rewritten(s: Statement, rewrite: Rewriter, flat_index=lambda name, index, guard: index) -> Statement:
    if isinstance(s, Equation):
        return replace(s, args=tuple(rewrite(a) for a in s.args))
    guard = None if s.guard is None else rewrite(s.guard)
    index = flat_index(s.buffer, tuple(rewrite.index(i) for i in s.index), guard)
    return replace(s, index=index, value=rewrite(s.value), guard=guard)


# --- splitting ---------------------------------------------------------------------------------------------------


def indices_of(statements: Iterable[Statement]) -> Iterator[Index]:
    """Every index expression of the statements, those of iotas and data included."""
    for s in statements:
        if isinstance(s, Store):
            yield from s.index
        for e in walk(*statement_expressions(s)):
            if isinstance(e, Load):
                yield from e.index
            elif isinstance(e, Iota):
                yield e.index


def _atoms(index: Index) -> Iterator[Atom]:
    for atom, _ in index.terms:
        yield atom
        if isinstance(atom, (Div, Mod)):
            yield from _atoms(atom.index)


def _splittable(kernel: Kernel) -> tuple[Axis, Dim] | None:
    """An axis that is divided by a factor of its extent, and that factor (the coarsest first)."""
    best: tuple[Axis, Dim] | None = None
    for index in indices_of(kernel.body):
        for atom in _atoms(index):
            if not isinstance(atom, (Div, Mod)):
                continue
            axis = atom.index.single_axis
            if axis is None or axis.is_ragged or divide_exactly(axis.extent, atom.by) is None:
                continue
            if best is None or (axis is best[0] and is_nonnegative(plus(atom.by, multiply(best[1], -1)))):
                best = (axis, atom.by)
    return best


def split_axis(kernel: Kernel, axis: Axis, by: Dim, simplify: Simplifier) -> Kernel:
    """axis -> by*outer + inner. Local values over the axis are indexed by both parts."""
    quotient = divide_exactly(axis.extent, by)
    assert quotient is not None
    names = {a.name for a in kernel.axes}
    outer = Axis(_fresh(f"{axis.name}o", names), quotient)
    inner = Axis(_fresh(f"{axis.name}i", names), by)
    joined = add(of_atom(outer) * by, of_atom(inner))
    positions = {n: e.axes.index(axis) for n, e in kernel.equations.items() if axis in e.axes}

    def load(e: Load) -> Expr:
        if e.name not in positions:
            return e
        k = positions[e.name]
        parts = (e.index[k] // by, e.index[k] % by)
        return Load(e.name, (*e.index[:k], *parts, *e.index[k + 1 :]), e.dtype, e.guard)

    rewrite = Rewriter({axis: joined}, load, simplify)
    return replace(kernel, body=tuple(_split_statement(s, axis, (outer, inner), rewrite) for s in kernel.body))


def _split_statement(s: Statement, axis: Axis, parts: tuple[Axis, Axis], rewrite: Rewriter) -> Statement:
    new = _rewritten(s, rewrite)

    def expand(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(p for a in axes for p in (parts if a is axis else (a,)))

    if isinstance(new, Store):
        return replace(new, axes=expand(new.axes))
    return replace(new, axes=expand(new.axes), reduce=expand(new.reduce))


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


# --- axes of one value -------------------------------------------------------------------------------------------


def drop_unit_axes(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """Axes of extent 1 vanish (their index is the constant 0 already)."""
    unit = {a for a in kernel.axes if a.extent == 1 and not a.is_ragged}
    if not unit:
        return kernel
    kept = {n: [k for k, a in enumerate(e.axes) if a not in unit] for n, e in kernel.equations.items()}

    def load(e: Load) -> Expr:
        if e.name not in kept:
            return e
        return Load(e.name, tuple(e.index[k] for k in kept[e.name]), e.dtype, e.guard)

    rewrite = Rewriter({a: as_index(0) for a in unit}, load, simplify)
    body: list[Statement] = []
    for s in kernel.body:
        new = _rewritten(s, rewrite)
        axes = tuple(a for a in new.axes if a not in unit)
        if isinstance(new, Equation):
            left = tuple(a for a in new.reduce if a not in unit)
            keep_one = new.reduce[-1:] if new.state and not left else left  # a reduction over one value stays one
            if new.scan and keep_one and keep_one[0] in unit:
                axes = tuple(a for a in new.axes if a not in unit or a is keep_one[0])
            body.append(replace(new, axes=axes, reduce=keep_one))
        else:
            body.append(replace(new, axes=axes))
    return replace(kernel, body=tuple(body))


def drop_unread_axes(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """Equations without the axes that their right sides do not depend on.

        mean[n, c] = sum(i) x[n, c // 4, i]     with c split into g, k:     mean[n, g, k]     ->     mean[n, g]

    A statistic that was inlined where a finer axis reads it would else be computed anew at each of its points.
    """
    kept: dict[str, list[int]] = {}

    def load(e: Load) -> Expr:
        places = kept.get(e.name)
        return e if places is None else Load(e.name, tuple(e.index[k] for k in places), e.dtype, e.guard)

    rewrite = Rewriter(load=load, rebuild=simplify)
    body: list[Statement] = []
    for s in kernel.body:
        new = _rewritten(s, rewrite) if kept else s
        if isinstance(new, Equation) and not new.scan:
            read = frozenset(a for arg in new.args for a in arg.axes)
            places = [k for k, a in enumerate(new.axes) if a in read]
            if len(places) < len(new.axes):
                kept.update(dict.fromkeys(new.names, places))
                new = replace(new, axes=tuple(new.axes[k] for k in places))
                rewrite.memo.clear()
        body.append(new)
    return replace(kernel, body=tuple(body)) if kept else kernel


# --- joining -----------------------------------------------------------------------------------------------------


def _joinable(kernel: Kernel) -> tuple[Axis, Axis] | None:
    """Two axes (outer, inner) that every statement and every index walks as one."""
    axes = kernel.axes
    for outer in axes:
        for inner in axes:
            if outer is not inner and _can_join(kernel, outer, inner):
                return outer, inner
    return None


def _can_join(kernel: Kernel, outer: Axis, inner: Axis) -> bool:
    if outer.is_ragged or inner.is_ragged or inner.extent == 0:
        return False
    if not all(_adjacent(s, outer, inner) for s in kernel.body):
        return False
    return all(_walks_as_one(i, outer, inner) for s in kernel.body for i in _flat_indices(s, kernel))


def _flat_indices(s: Statement, kernel: Kernel) -> Iterator[Index]:
    """Indices that must walk the pair as one; loads of local values are checked by `_adjacent` and `_local_pairs`."""
    if isinstance(s, Store):
        yield from s.index
    for e in walk(*statement_expressions(s)):
        if isinstance(e, Iota):
            yield e.index
        elif isinstance(e, Load):
            if e.name in kernel.equations:
                yield from _local_index(e, kernel.equations[e.name])
            else:
                yield from e.index


def _local_index(e: Load, equation: Equation) -> Iterator[Index]:
    """A local value must be read at its own axes for them to be joined; anything else blocks by a pseudo index."""
    for axis, index in zip(equation.axes, e.index, strict=True):
        if index.single_axis is not axis:
            yield index


def _adjacent(s: Statement, outer: Axis, inner: Axis) -> bool:
    groups = (s.axes,) if isinstance(s, Store) else (s.axes, s.reduce)
    for group in groups:
        if (outer in group) != (inner in group):
            return False
        if outer in group and group.index(inner) != group.index(outer) + 1:
            return False
    return not (isinstance(s, Equation) and s.scan and (outer in s.reduce or inner in s.reduce)) and not (
        isinstance(s, Equation) and s.scan and (outer in s.axes) != (inner in s.axes)
    )


def _walks_as_one(index: Index, outer: Axis, inner: Axis) -> bool:
    big, small = axis_coefficient(index, outer), axis_coefficient(index, inner)
    if big is None or small is None:
        return False
    return big == multiply(small, inner.extent) and not any(d.value.axes & {outer, inner} for d in data_in(index))


def _join(kernel: Kernel, outer: Axis, inner: Axis, simplify: Simplifier) -> Kernel:
    """outer, inner -> one axis of the product of extents."""
    whole = Axis(_fresh(outer.name, {a.name for a in kernel.axes}), multiply(outer.extent, inner.extent))
    mapping = {outer: of_atom(whole) // inner.extent, inner: of_atom(whole) % inner.extent}
    positions = {n: e.axes.index(outer) for n, e in kernel.equations.items() if outer in e.axes}

    def load(e: Load) -> Expr:
        if e.name not in positions:
            return e
        k = positions[e.name]
        both = add(e.index[k] * inner.extent, e.index[k + 1])
        return Load(e.name, (*e.index[:k], both, *e.index[k + 2 :]), e.dtype, e.guard)

    rewrite = Rewriter(mapping, load, simplify)

    def joined(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(whole if a is outer else a for a in axes if a is not inner)

    body: list[Statement] = []
    for s in kernel.body:
        new = _rewritten(s, rewrite)
        if isinstance(new, Store):
            body.append(replace(new, axes=joined(new.axes)))
        else:
            body.append(replace(new, axes=joined(new.axes), reduce=joined(new.reduce)))
    return replace(kernel, body=tuple(body))


# --- unfolding ---------------------------------------------------------------------------------------------------


def unfold_buffers(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """x[1024*t + c] -> x[t, c]: the dimensions of a buffer are the strides that its accesses walk."""
    accesses: dict[str, list[tuple[Index, bool]]] = {n: [] for n in kernel.buffers}
    for s in kernel.body:
        if isinstance(s, Store):
            accesses[s.buffer].append((s.index[0], s.guard is not None))
        for e in walk(*statement_expressions(s)):
            if isinstance(e, Load) and e.name in accesses:
                accesses[e.name].append((e.index[0], e.guard is not None))
    shapes = {n: _unfolded(kernel.buffers[n], found) for n, found in accesses.items()}

    def split_index(name: str, index: tuple[Index, ...], guard: Expr | None = None) -> tuple[Index, ...]:
        buffer = shapes.get(name)
        return index if buffer is None else digits(index[0], buffer, guard)

    def load(e: Load) -> Expr:
        return Load(e.name, split_index(e.name, e.index, e.guard), e.dtype, e.guard) if e.name in shapes else e

    rewrite = Rewriter(load=load, rebuild=simplify)
    body = tuple(_rewritten(s, rewrite, split_index) for s in kernel.body)
    return _with(kernel, body, shapes)


def digits(index: Index, buffer: Buffer, guard: Expr | None = None) -> tuple[Index, ...]:
    """A flat index in the mixed radix of the buffer's strides; a term goes to the greatest stride that divides it.

    Where a guard holds, each digit is in its range.
    """
    parts: list[list[tuple[Atom, Dim]]] = [[] for _ in buffer.strides]
    for atom, coefficient in index.terms:
        for k, stride in enumerate(buffer.strides):
            quotient = divide_exactly(coefficient, stride)
            if quotient is not None:
                parts[k].append((atom, quotient))
                break
    constants, _ = _constant_digits(plus(index.const, multiply(buffer.offset, -1)), buffer.strides)
    found = [Index(tuple(p), c) for p, c in zip(parts, constants, strict=True)]
    return tuple(found) if guard is None else _carried(found, buffer, guard)


def _carried(found: list[Index], buffer: Buffer, guard: Expr) -> tuple[Index, ...]:
    """x[t + 3, c + 8 if c >= 8] -> x[t + 4, c - 8 if c >= 8], with 16 columns: the same address, in range.

    What runs over several rows is divided: x[0, i if i < 40] -> x[i // 16, i % 16 if i < 40].
    """
    for k in range(len(found) - 1, 0, -1):
        extent, stride, above = buffer.shape[k], buffer.strides[k], buffer.strides[k - 1]
        least, most = bounds_where(found[k], guard)
        if isinstance(least, int) and isinstance(extent, int) and extent and multiply(stride, extent) == above:
            carry = least // extent
            if not isinstance(most, int) or most // extent == carry:
                found[k], found[k - 1] = found[k] + (-carry * extent), found[k - 1] + carry
            else:
                found[k - 1] = add(found[k - 1], floor_divide(found[k], extent))
                found[k] = modulo(found[k], extent)
    return tuple(found)


def _constant_digits(rest: Dim, strides: tuple[Dim, ...]) -> tuple[list[Dim], Dim]:
    """A constant in the radix of the strides, and what is left of it."""
    constants: list[Dim] = []
    for stride in strides:
        if isinstance(rest, int) and isinstance(stride, int):
            whole: Dim = int(rest / stride)  # toward zero: a shift of -3 stays in the dimension it belongs to
        else:
            exact = divide_exactly(rest, stride)
            whole = 0 if exact is None else exact
        constants.append(whole)
        rest = plus(rest, multiply(multiply(whole, stride), -1))
    return constants, rest


def _unfolded(flat: Buffer, found: list[tuple[Index, bool]]) -> Buffer:
    """The buffer in the dimensions of its accesses, or as it is where they do not nest.

    The address is the same either way; only what is read without a guard decides how long the dimensions are.
    """
    strides = _nested_strides([i for i, _ in found])
    accesses = [i for i, guarded in found if not guarded]
    if strides is None or flat.shape[0] == 0 or not accesses:
        return flat
    offsets = {_constant_digits(i.const, strides)[1] for i, _ in found}
    if len(offsets) != 1:
        return flat
    offset = offsets.pop()
    trial = Buffer(flat.name, flat.dtype, (0,) * len(strides), strides, offset)
    limits = [_reach(digits(i, trial), k) for k in range(len(strides)) for i in accesses]
    if any(low is None for low, _ in limits):
        return flat
    count = len(accesses)
    shape: list[Dim] = []
    for k, stride in enumerate(strides):
        highs = [high for _, high in limits[k * count : (k + 1) * count]]
        extent = _greatest(highs)
        if k > 0:
            room = divide_exactly(strides[k - 1], stride)
            if room is None or extent is None or not is_nonnegative(plus(room, multiply(extent, -1))):
                return flat
        if extent is None or (isinstance(extent, int) and extent < 0):  # less than nothing: no point is read
            return flat
        shape.append(extent)
    guarded = len(accesses) < len(found)
    for k in range(1, len(shape)):
        room = divide_exactly(strides[k - 1], strides[k])
        if room is not None and (guarded or contiguous_strides(tuple(shape)) != strides):
            shape[k] = room  # a partial read of a row: the row's own length keeps the buffer contiguous
    if guarded:
        rows = _rows(flat.shape[0], offset, strides[0])
        if rows is None:
            return flat
        shape[0] = rows
    return Buffer(flat.name, flat.dtype, tuple(shape), strides, offset)


def _rows(span: Dim, offset: Dim, stride: Dim) -> Dim | None:
    """How many rows of `stride` elements begin within the first `span` elements."""
    length = plus(span, multiply(offset, -1))
    if isinstance(length, int) and isinstance(stride, int):
        return -(-length // stride)
    return divide_exactly(length, stride)


def _reach(parts: tuple[Index, ...], k: int) -> tuple[Dim | None, Dim]:
    """(0 when the digit stays in range from below, else None; its greatest value plus 1)."""
    low, high = bounds(parts[k])
    return (0 if is_nonnegative(low) else None), plus(high, 1)


def _greatest(values: list[Dim]) -> Dim | None:
    best = values[0]
    for v in values[1:]:
        if is_nonnegative(plus(v, multiply(best, -1))):
            best = v
        elif not is_nonnegative(plus(best, multiply(v, -1))):
            return None
    return best


def _nested_strides(accesses: list[Index]) -> tuple[Dim, ...] | None:
    """All strides, greatest first, each dividing the one before; None when they do not nest or there is none."""
    found: dict[Dim, None] = {}
    for index in accesses:
        for _, coefficient in index.terms:
            found[coefficient if is_nonnegative(coefficient) else multiply(coefficient, -1)] = None
    ordered: list[Dim] = []
    for stride in found:
        at = next((k for k, s in enumerate(ordered) if divide_exactly(stride, s) is not None), len(ordered))
        if any(divide_exactly(s, stride) is None for s in ordered[:at] if s != stride):
            at = next((k for k, s in enumerate(ordered) if is_nonnegative(plus(stride, multiply(s, -1)))), len(ordered))
        ordered.insert(at, stride)
    if not ordered:
        return (1,)
    for big, small in pairwise(ordered):
        if divide_exactly(big, small) is None:
            return None
    return tuple(ordered)
