"""Hypothesis strategies of the loops level: indices with their meaning, typed expressions, and whole kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from strategies import Draw

from treadle.ir.expr import Const, Expr, Load, const
from treadle.ir.index import Axis, Data, Index, as_index, of_atom
from treadle.ir.loops import Buffer, Equation, Kernel, Statement, Store, contiguous
from treadle.ir.scalar import SCALAR_OPS, accepts, cast, iota, op
from treadle.ir.states import STATES
from treadle.ir.types import BOOL, DTYPES, F32, F64, I32, I64, DType, contiguous_strides

Env = dict[Axis, int]
Meaning = Callable[[Env], int]

AXES = (Axis("i", 4), Axis("j", 3), Axis("k", 6), Axis("l", 2), Axis("u", 1))
ROUNDED = {
    "pow",
    "shl",
    "shr",
    "div_trunc",
    "div_floor",
    "mod_trunc",
    "mod_floor",
}  # undefined or not exactly one value


@st.composite
def indices(draw: Draw, axes: tuple[Axis, ...] = AXES[:3], depth: int = 3) -> tuple[Index, Meaning]:
    """An index in normal form, and the function that it should be."""
    kind = (
        draw(st.sampled_from(("axis", "axis", "const", "add", "add", "sub", "scale", "div", "mod")))
        if depth
        else "axis"
    )
    if kind == "axis":
        axis = draw(st.sampled_from(axes))
        return of_atom(axis), lambda env: env[axis]
    if kind == "const":
        value = draw(st.integers(-9, 9))
        return as_index(value), lambda env: value
    a, f = draw(indices(axes, depth - 1))
    if kind in ("add", "sub"):
        b, g = draw(indices(axes, depth - 1))
        return (a + b, lambda env: f(env) + g(env)) if kind == "add" else (a - b, lambda env: f(env) - g(env))
    by = draw(st.integers(1, 12))
    if kind == "scale":
        by *= draw(st.sampled_from((1, -1)))
        return a * by, lambda env: f(env) * by
    return (a // by, lambda env: f(env) // by) if kind == "div" else (a % by, lambda env: f(env) % by)


def in_range(draw: Draw, axes: tuple[Axis, ...], size: int) -> Index:
    """A random index whose values are 0 .. size-1."""
    if not axes:
        return as_index(draw(st.integers(0, size - 1)))
    fitting = [a for a in axes if isinstance(a.extent, int) and a.extent <= size]
    if fitting and draw(st.booleans()):
        return of_atom(draw(st.sampled_from(fitting)))
    return draw(indices(axes, 2))[0] % size


@dataclass
class Scope:
    """What an expression may read: names with shape and type; the i64 names in `data` hold indices of a size of 5."""

    axes: tuple[Axis, ...]
    values: dict[str, tuple[tuple[int, ...], DType]]
    data: tuple[str, ...] = ()


CONSTANTS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 8.0, -4.0, 3.0, 2.0**-30, 1e30, float("inf"), -float("inf"), float("nan"))


def constants(draw: Draw, dtype: DType) -> Const:
    if dtype is BOOL:
        return const(draw(st.booleans()), dtype)
    if dtype.is_float:
        return const(draw(st.sampled_from(CONSTANTS)), dtype)
    return const(draw(st.sampled_from((0, 1, 2, 3, 7, *(-1, -2) * (dtype.kind == "i"), *dtype.limits))), dtype)


def _load(draw: Draw, scope: Scope, name: str) -> Load:
    shape, dtype = scope.values[name]
    index = tuple(in_range(draw, scope.axes, n) for n in shape)
    guarded = draw(st.integers(0, 4)) == 0
    if guarded and index:
        # Out of range where the guard is false: the guard is exactly the range.
        free = draw(indices(scope.axes, 2))[0] if scope.axes else as_index(draw(st.integers(-3, 9)))
        inside = op("and", op("ge", iota(free), iota(0)), op("lt", iota(free), iota(shape[0])))
        return Load(name, (free, *index[1:]), dtype, inside)
    if scope.data and index and shape[0] == 5 and draw(st.integers(0, 2)) == 0:
        at = _load(draw, Scope(scope.axes, {n: scope.values[n] for n in scope.data}), draw(st.sampled_from(scope.data)))
        if at.guard is None:
            return Load(name, (of_atom(Data(at, 5, draw(st.booleans()))), *index[1:]), dtype)
    return Load(name, index, dtype)


def exprs(draw: Draw, scope: Scope, dtype: DType, depth: int) -> Expr:
    """A well-typed expression, in range everywhere. Built without simplifying."""
    leaves = [n for n, (_, d) in scope.values.items() if d is dtype]
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        if leaves and draw(st.integers(0, 3)):
            return _load(draw, scope, draw(st.sampled_from(leaves)))
        if dtype is I64 and scope.axes and draw(st.booleans()):
            return iota(draw(indices(scope.axes, 2))[0])
        return constants(draw, dtype)

    def sub(wanted: DType) -> Expr:
        return exprs(draw, scope, wanted, depth - 1)

    if draw(st.integers(0, 4)) == 0:
        return _converted(draw, sub, dtype)
    names = [r.name for r in SCALAR_OPS.values() if r.name not in ROUNDED and _gives(r.name, dtype)]
    row = SCALAR_OPS[draw(st.sampled_from(names))]
    if row.name == "where":
        p, a = sub(BOOL), sub(dtype)
        return op("where", p, a, a if draw(st.integers(0, 3)) == 0 else sub(dtype))
    source = dtype
    if row.result == "bool":
        source = draw(st.sampled_from([d for d in DTYPES.values() if accepts(row, d)]))
    args = [sub(source) for _ in range(row.arity)]
    if row.arity == 2 and draw(st.integers(0, 3)) == 0:
        args[1] = constants(draw, source)
    return op(row.name, *args)


def _gives(name: str, dtype: DType) -> bool:
    row = SCALAR_OPS[name]
    if name == "cast":
        return False
    return dtype is BOOL if row.result == "bool" else accepts(row, dtype)


def _converted(draw: Draw, sub: Callable[[DType], Expr], dtype: DType) -> Expr:
    """Conversions that every machine does alike: not from floats to integers."""
    sources = [d for d in DTYPES.values() if dtype.is_float or dtype is BOOL or not d.is_float]
    value = sub(draw(st.sampled_from(sources)))
    return value if value.dtype is dtype else cast(value, dtype)


@st.composite
def kernels(draw: Draw) -> Kernel:
    """A valid kernel over small buffers: equations of every kind, then stores of some of what they define."""
    size = st.sampled_from((1, 2, 3, 5, 5))
    dtypes = st.sampled_from((F32, F32, F64, I32, I64, BOOL, *DTYPES.values()))
    inputs = [
        _buffer(draw, f"x{k}", draw(dtypes), tuple(draw(st.lists(size, max_size=3))))
        for k in range(draw(st.integers(1, 3)))
    ]
    inputs.append(contiguous("d", I64, (5,)))
    axes = tuple(Axis(f"i{k}", draw(st.sampled_from((1, 2, 3, 5)))) for k in range(draw(st.integers(1, 4))))
    values: dict[str, Any] = {b.name: (b.shape, b.dtype) for b in inputs}
    body: list[Statement] = []
    for k in range(draw(st.integers(0, 3))):
        equation = _equation(draw, f"e{k}", axes, values)
        body.append(equation)
        values.update(
            (n, (tuple(a.extent for a in equation.axes), d))
            for n, d in zip(equation.names, equation.dtypes, strict=True) if n != "_"
        )  # fmt: skip
    outputs = [_store(draw, f"y{k}", axes, values, body) for k in range(draw(st.integers(1, 2)))]
    return Kernel("random", tuple(inputs), tuple(outputs), tuple(body))


def _buffer(draw: Draw, name: str, dtype: DType, shape: tuple[int, ...]) -> Buffer:
    if draw(st.integers(0, 2)):
        return contiguous(name, dtype, shape)
    padded = tuple(n + draw(st.integers(0, 2)) for n in shape)
    return Buffer(name, dtype, shape, contiguous_strides(padded), draw(st.integers(0, 3)))


def _some(draw: Draw, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(a for a in draw(st.permutations(axes)) if draw(st.booleans()))


def _equation(draw: Draw, name: str, axes: tuple[Axis, ...], values: dict[str, Any]) -> Equation:
    kept = _some(draw, axes)
    state = draw(st.sampled_from(("", "", *STATES)))
    if not state:
        value = exprs(draw, Scope(kept, values, ("d",)), draw(st.sampled_from((F32, I64, BOOL))), 3)
        return Equation((name,), kept, (value,), (value.dtype,))
    row = STATES[state]
    scans = bool(kept) and draw(st.integers(0, 3)) == 0
    reduce = (draw(st.sampled_from(kept)),) if scans else _some(draw, tuple(a for a in axes if a not in kept))
    scope = Scope(kept if scans else kept + reduce, values, ("d",))
    floating = state in ("max_sum_exp", "max_weighted_sum", "moments")
    dtype = BOOL if state in ("any", "all") else draw(st.sampled_from((F32, F64) if floating else (F32, F64, I32, I64)))
    args = [exprs(draw, scope, dtype, 2)]
    if row.arity == 2 and not row.positional:
        args.append(exprs(draw, scope, dtype, 2))
    if row.positional:
        position = as_index(0)
        for a in reduce:
            position = position * (a.extent if isinstance(a.extent, int) else 1) + of_atom(a)
        args.append(iota(position))
    dtypes = row.dtypes(tuple(a.dtype for a in args))
    used = draw(st.integers(0, len(dtypes) - 1))
    names = tuple(f"{name}_{k}" if k >= used else "_" for k in range(len(dtypes)))
    scan = draw(st.sampled_from(("inclusive", "exclusive"))) if scans else ""
    operand = DTYPES["bf16"] if state == "sum" and dtype is F32 and not scans and draw(st.booleans()) else None
    return Equation(names, kept, tuple(args), dtypes, state, reduce, scan, scans and draw(st.booleans()), operand)


def _store(draw: Draw, name: str, axes: tuple[Axis, ...], values: dict[str, Any], body: list[Statement]) -> Buffer:
    """An output whose every element is set; sometimes more is then accumulated into it."""
    kept = _some(draw, axes)
    value = exprs(draw, Scope(kept, values, ("d",)), draw(st.sampled_from((F32, I64, BOOL, DTYPES["bf16"]))), 3)
    shape = tuple(int(a.extent) for a in kept)
    buffer = _buffer(draw, name, value.dtype, shape)
    index = tuple(of_atom(a) for a in kept)
    body.append(Store(name, index, value, kept))
    if value.dtype in (F32, I64) and draw(st.booleans()):
        over = _some(draw, axes)
        more = exprs(draw, Scope(over, values, ("d",)), value.dtype, 1)
        at = tuple(in_range(draw, over, n) for n in shape)
        guard = exprs(draw, Scope(over, values, ("d",)), BOOL, 1) if draw(st.booleans()) else None
        mode = draw(st.sampled_from(("set", "add", "max", "min")))
        body.append(Store(name, at, more, over, mode, injective=False, guard=guard))
    return buffer
