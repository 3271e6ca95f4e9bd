"""Hypothesis strategies of the IR: graphs by one or more random ops, with inputs that suit them.

A drawn case knows what its inputs may hold (indices must be in range, shifts small), and makes random tensors for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.graph import Graph
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.ops.pointwise import PAIRWISE
from treadle.ir.scalar import SCALAR_OPS, accepts
from treadle.ir.types import BF16, BOOL, DTYPES, F32, F64, I8, I32, I64, DType

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Operand = Callable[..., Value]
FLOATS = tuple(d for d in DTYPES.values() if d.is_float)
INTEGERS = tuple(d for d in DTYPES.values() if d.is_integer)
SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, -1e-40, 1e30, -1.0, 0.5)

sizes = st.sampled_from((0, 1, 1, 2, 3, 3, 5, 8))
positive = st.sampled_from((1, 1, 2, 3, 3, 5, 8))


def shapes(most: int = 3, least: int = 0, size: st.SearchStrategy[int] = sizes) -> st.SearchStrategy[Shape]:
    return st.lists(size, min_size=least, max_size=most).map(tuple)


def random_tensor(shape: Shape, dtype: DType, seed: int, low: float | None = None, high: float | None = None):
    """Random values, special ones among the floats; within low..high (both included) where these are given."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is BOOL:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_integer:
        least = max(dtype.limits[0] + 1, -9) if low is None else int(low)
        most = min(dtype.limits[1], 9) if high is None else int(high)
        return torch.randint(least, most + 1, shape, generator=generator).to(torch_dtype(dtype))
    if low is not None and high is not None:
        return (torch.rand(shape, generator=generator) * (high - low) + low).to(torch_dtype(dtype))
    values = torch.randn(shape, generator=generator) * 3
    special = torch.tensor(SPECIAL)[torch.randint(0, len(SPECIAL), shape, generator=generator)]
    chosen = torch.rand(shape, generator=generator) < 0.15
    return torch.where(chosen, special, values).to(torch_dtype(dtype))


class Case:
    """A graph under construction and the ranges of its inputs."""

    def __init__(self) -> None:
        self.builder = GraphBuilder("case")
        self.limits: dict[str, tuple[float | None, float | None]] = {}
        self.increasing: set[str] = set()
        self.inputs: list[Value] = []

    def input(
        self, shape: Shape, dtype: DType, low: float | None = None, high: float | None = None, increasing: bool = False
    ) -> Value:
        value = self.builder.input(f"x{len(self.inputs)}", tuple(shape), dtype)
        self.inputs.append(value)
        self.limits[value.node.name] = low, high
        self.increasing |= {value.node.name} if increasing else set()
        return value

    def __repr__(self) -> str:
        nodes = [*(v.node for v in self.inputs), *self.builder._nodes]
        return "; ".join(
            f"{n.name} = {n.op}({', '.join(n.inputs)}) {n.attrs} : {n.dtype}{list(n.shape)}" for n in nodes
        )

    def tensors(self, seed: int) -> dict[str, torch.Tensor]:
        made = {
            v.node.name: random_tensor(tuple(int(n) for n in v.shape), v.dtype, seed + k, *self.limits[v.node.name])
            for k, v in enumerate(self.inputs)
        }
        return {n: x.sort().values if n in self.increasing else x for n, x in made.items()}


def _narrowed(draw: Draw, shape: Shape) -> Shape:
    """A shape that broadcasts to `shape`."""
    start = draw(st.integers(0, len(shape)))
    return tuple(1 if draw(st.booleans()) else n for n in shape[start:])


def _scalar(name: str) -> Callable[[Draw, GraphBuilder, Operand], Value]:
    row = SCALAR_OPS[name]

    def emit(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
        dtype = draw(st.sampled_from([d for d in DTYPES.values() if accepts(row, d)]))
        shape = draw(shapes())
        wanted = [shape, *(_narrowed(draw, shape) for _ in range(row.arity - 1))]
        wanted = draw(st.permutations(wanted))
        if name == "where":
            return g.emit(name, [operand(wanted[0], BOOL), *(operand(s, dtype) for s in wanted[1:])])
        if name in ("shl", "shr"):
            return g.emit(name, [operand(wanted[0], dtype, 0, 7), operand(wanted[1], dtype, 0, 7)])
        return g.emit(PAIRWISE.get(name, name), [operand(s, dtype) for s in wanted])

    return emit


def _cast(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    source, target = draw(st.sampled_from(list(DTYPES.values()))), draw(st.sampled_from(list(DTYPES.values())))
    limits = (0, 100) if source.is_float and target.is_integer else (None, None)
    return g.emit("cast", [operand(draw(shapes()), source, *limits)], dtype=target)


def _copy(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    return g.copy(operand(draw(shapes()), _any_dtype(draw)))


def _full(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    return g.full(draw(shapes()), draw(st.sampled_from((0, 1, -2.5, 7, float("inf")))), draw(st.sampled_from(FLOATS)))


def _any_dtype(draw: Draw) -> DType:
    return draw(st.sampled_from(list(DTYPES.values())))


def _reshape(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    """A shape of small factors, and another grouping of the same factors (with ones thrown in)."""
    factors = draw(st.lists(st.sampled_from((1, 2, 2, 3, 4, 5)), max_size=5))
    if draw(st.integers(0, 9)) == 0:
        factors.append(0)

    def group() -> Shape:
        groups, cuts = [], [draw(st.booleans()) for _ in factors]
        total = 1
        for factor, cut in zip(factors, cuts, strict=True):
            total *= factor
            if cut:
                groups.append(total)
                total = 1
        return (*groups, total) if total != 1 or draw(st.booleans()) else tuple(groups)

    source, target = group(), group()
    if 0 in factors:
        source, target = (*source, 0), (0, *target)
    return g.emit("reshape", [operand(source, _any_dtype(draw))], shape=target)


def _permute(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape = draw(shapes(4))
    dims = tuple(draw(st.permutations(range(len(shape)))))
    return g.emit("permute", [operand(shape, _any_dtype(draw))], dims=dims)


def _expand(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape = draw(shapes())
    return g.emit("expand", [operand(_narrowed(draw, shape), _any_dtype(draw))], shape=shape)


def _slice(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape = draw(shapes(3, 1))
    starts, steps, out = [], [], []
    for n in shape:
        step = draw(st.sampled_from((1, 1, 2, 3, -1, -2)))
        start = draw(st.integers(0, max(n - 1, 0)))
        room = 0 if n == 0 else (n - 1 - start) // step + 1 if step > 0 else start // -step + 1
        starts.append(start)
        steps.append(step)
        out.append(draw(st.integers(0, room)))
    return g.emit(
        "slice", [operand(shape, _any_dtype(draw))], start=tuple(starts), step=tuple(steps), shape=tuple(out)
    )  # fmt: skip


def _windows(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    lead, rank = draw(shapes(1, 0)), draw(st.integers(1, 2))
    count, size, step, stride = (tuple(draw(st.integers(low, 3)) for _ in range(rank)) for low in (0, 0, 1, 1))
    reach = [max((n - 1) * s + (k - 1) * d + 1, 0) for n, k, s, d in zip(count, size, step, stride, strict=True)]
    image = tuple(n + draw(st.integers(0, 2)) for n in reach)
    return g.windows(operand((*lead, *image), _any_dtype(draw)), count, size, step, stride)


def _pad(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape = draw(shapes(3, 1))
    low = tuple(draw(st.integers(-min(n, 1), 3)) for n in shape)
    high = tuple(draw(st.integers(-max(min(n + min(lo, 0), 1), 0), 3)) for n, lo in zip(shape, low, strict=True))
    dtype = _any_dtype(draw)
    value = draw(st.sampled_from((0, 1)))
    return g.pad(operand(shape, dtype), low, high, bool(value) if dtype is BOOL else value)


def _cat(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape, dtype = draw(shapes(3, 1)), _any_dtype(draw)
    dim = draw(st.integers(0, len(shape) - 1))
    parts = draw(st.lists(sizes, min_size=1, max_size=4))
    return g.emit("cat", [operand((*shape[:dim], n, *shape[dim + 1 :]), dtype) for n in parts], dim=dim)


def _slice_scatter(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape, dtype = draw(shapes(3, 1)), _any_dtype(draw)
    dim = draw(st.integers(0, len(shape) - 1))
    n = shape[dim]
    step, start = draw(st.integers(1, 3)), draw(st.integers(0, max(n - 1, 0)))
    count = draw(st.integers(0, max((n - 1 - start) // step + 1, 0)))
    source = (*shape[:dim], count, *shape[dim + 1 :])
    return g.slice_scatter(operand(shape, dtype), operand(source, dtype), dim, start, step)


def _reduce(name: str) -> Callable[[Draw, GraphBuilder, Operand], Value]:
    def emit(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
        arg = name.startswith("arg")
        shape = draw(shapes(3, 0, positive if arg else sizes))
        dims = tuple(d for d in range(len(shape)) if draw(st.booleans()))
        dtype = BOOL if name in ("any", "all") else draw(st.sampled_from((F32, F64, I32, I64)))
        return g.emit(name, [operand(shape, dtype)], dims=dims)

    return emit


def _scan(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape = draw(shapes(3, 1, positive))
    state = draw(st.sampled_from(("sum", "prod", "max", "min", "argmax_last", "argmin_last")))
    component = draw(st.integers(0, 1)) if state.startswith("arg") else 0
    dim = draw(st.integers(0, len(shape) - 1))
    backwards = draw(st.booleans()) if not state.startswith("arg") else False
    exclusive = draw(st.booleans()) if state in ("sum", "prod") else False
    dtype = draw(st.sampled_from((F32, F64, I32, I64)))
    return g.scan(state, operand(shape, dtype), dim, component, backwards, exclusive)


def _contract(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    """Labels of which each operand alone has some, both have some that are kept, and some that are summed over."""
    sizes_of = dict(enumerate(draw(st.lists(sizes, min_size=4, max_size=6))))
    kinds = {label: draw(st.sampled_from(("left", "right", "batch", "sum"))) for label in sizes_of}
    left, right = (
        tuple(draw(st.permutations([k for k, kind in kinds.items() if kind != other]))) for other in ("right", "left")
    )
    out = tuple(draw(st.permutations([k for k, kind in kinds.items() if kind != "sum"])))
    dtype = draw(st.sampled_from((F32, F64, BF16, I8, I32)))
    a, b = (operand(tuple(sizes_of[k] for k in own), dtype, -5, 5) for own in (left, right))
    return g.contract(a, b, (left, right, out))


def _contract_groups(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    """Groups are of one operand and their points are kept, or of none and their points are summed over."""
    points, groups, n = draw(sizes), draw(positive), iter(draw(st.lists(sizes, min_size=3, max_size=3)))
    ragged, group, both, one, other = range(5)
    sizes_of = {ragged: points, group: groups, both: next(n), one: next(n), other: next(n)}
    if draw(st.booleans()):
        left, right, out = (ragged, both, one), (group, both, other), (ragged, one, other)
    else:
        left, right, out = (ragged, one), (ragged, other), (group, one, other)
    left, right, out = (tuple(draw(st.permutations(own))) for own in (left, right, out))
    if draw(st.booleans()):
        left, right = right, left
    dtype = draw(st.sampled_from((F32, F64, BF16, I8, I32)))
    a, b = (operand(tuple(sizes_of[k] for k in own), dtype, -5, 5) for own in (left, right))
    offsets = operand((groups,), draw(st.sampled_from((I32, I64))), 0, points, increasing=True)
    return g.contract_groups(a, b, offsets, (left, right, out), group, ragged)


def _gather(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape = draw(shapes(3, 1, positive))
    dim = draw(st.integers(0, len(shape) - 1))
    at = tuple(draw(sizes) if d == dim else draw(st.integers(0, n)) for d, n in enumerate(shape))
    index = operand(at, draw(st.sampled_from((I32, I64))), 0, shape[dim] - 1)
    return g.gather(operand(shape, _any_dtype(draw)), dim, index)


def _chosen(draw: Draw, operand: Operand) -> tuple[Value, tuple[int, ...], list[Value], Shape]:
    """What advanced indexing needs: a tensor, dimensions, index tensors that broadcast, the shape of the result."""
    shape = draw(shapes(4, 1, positive))
    dims = tuple(d for d in range(len(shape)) if draw(st.booleans())) or (0,)
    common = draw(shapes(2))
    wanted = [common, *(_narrowed(draw, common) for _ in dims[1:])]
    indices = [operand(s, I64, -shape[d], shape[d] - 1) for d, s in zip(dims, wanted, strict=True)]
    adjacent = dims == tuple(range(dims[0], dims[0] + len(dims)))
    rest = [n for d, n in enumerate(shape) if d not in dims]
    start = dims[0] if adjacent else 0
    dtype = draw(st.sampled_from((F32, I64, F64)))
    return operand(shape, dtype), dims, indices, (*rest[:start], *common, *rest[start:])


def _take(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    x, dims, indices, _ = _chosen(draw, operand)
    return g.take(x, dims, indices)


def _put(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    x, dims, indices, shape = _chosen(draw, operand)
    mode = draw(st.sampled_from(("set", "add")))
    limits = (-5, 5) if mode == "add" else (3, 3)  # torch writes repeated indices in any order
    return g.put(x, dims, indices, operand(_narrowed(draw, shape), x.dtype, *limits), mode)


def _scatter(draw: Draw, g: GraphBuilder, operand: Operand) -> Value:
    shape = draw(shapes(3, 1, positive))
    dim = draw(st.integers(0, len(shape) - 1))
    at = tuple(draw(sizes) if d == dim else draw(st.integers(0, n)) for d, n in enumerate(shape))
    source = tuple(n + draw(st.integers(0, 2)) for n in at)
    dtype = draw(st.sampled_from((F32, F64, I64)))
    mode = draw(st.sampled_from(("set", "add", "mul", "max", "min")))
    index = operand(at, I64, 0, shape[dim] - 1)
    return g.scatter(operand(shape, dtype), dim, index, operand(source, dtype, -5, 5), mode)


EMITTERS: dict[str, Callable[[Draw, GraphBuilder, Operand], Value]] = {
    **{PAIRWISE.get(name, name): _scalar(name) for name in SCALAR_OPS if name != "cast"},
    "cast": _cast, "copy": _copy, "full": _full, "reshape": _reshape, "permute": _permute, "expand": _expand,
    "slice": _slice,
    "iota": lambda draw, g, operand: g.iota(draw(sizes)), "dim": lambda draw, g, operand: g.dim(draw(sizes)),
    "windows": _windows, "pad": _pad, "cat": _cat, "slice_scatter": _slice_scatter, "scan": _scan,
    "gather": _gather, "take": _take,
    "put": _put, "scatter": _scatter, "contract": _contract,
    "contract_groups": _contract_groups,
    **{name: _reduce(name) for name in ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")},
}  # fmt: skip


@st.composite
def one_op(draw: Draw, name: str) -> Case:
    """A case whose one op is a row of the graph table: its builder's only node."""
    case = Case()
    EMITTERS[name](draw, case.builder, case.input)
    return case


@st.composite
def graphs(draw: Draw, most: int = 6) -> Case:
    """A case of several ops that read each other's results, pressed into the shape that they need."""
    case = Case()
    g, pool = case.builder, list[Value]()

    def operand(
        shape: Shape, dtype: DType, low: float | None = None, high: float | None = None, increasing: bool = False
    ) -> Value:
        usable = [v for v in pool if _convertible(v, dtype)] if low is None else []
        if usable and draw(st.integers(0, 3)):
            return _pressed(g, g.cast(draw(st.sampled_from(usable)), dtype), shape)
        pool.append(case.input(shape, dtype, low, high, increasing))
        return pool[-1]

    for _ in range(draw(st.integers(1, most))):
        pool.append(EMITTERS[draw(st.sampled_from(sorted(EMITTERS)))](draw, g, operand))
    return case


def _convertible(v: Value, dtype: DType) -> bool:
    return 0 not in v.shape and (v.dtype is dtype or dtype.is_float or not v.dtype.is_float)


def _pressed(g: GraphBuilder, v: Value, shape: Shape) -> Value:
    """As many elements as `shape` needs, zeros where they run out."""
    if v.shape == shape:
        return v
    have, need = math.prod(v.shape), math.prod(shape)
    flat = g.reshape(v, (have,))
    if need > have:
        flat = g.pad(flat, (0,), (need - have,), False if v.dtype is BOOL else 0)
    return g.reshape(g.slice(flat, 0, 0, need), shape)


def finished(case: Case) -> Graph:
    """The graph that gives every result that no other node reads."""
    read = {name for n in case.builder._nodes for name in n.inputs}
    last = [v for v in case.builder._unique.values() if v.node.name not in read]
    return case.builder.finish(last or case.inputs)
