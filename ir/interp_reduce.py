"""Evaluating one equation over a box of its kept axes: pointwise, reduced or scanned, in pieces where the grid is
large.

Plain states take torch's reductions. The others run on their rows: lift, then `combine` of neighbours (the left one
holds the lower indices) until one is left, or doubling for scans.
"""

from __future__ import annotations

import torch

from .expr import Expr, Load, Op
from .index import Axis
from .interp_eval import Evaluation, Grid, Ranges, World, evaluate_on, select
from .interp_numbers import Numbers, Planes
from .loops import Equation
from .scalar import cast
from .states import STATES
from .types import DType

CHUNK = 2**21  # points evaluated at once: bounds the memory and keeps temporaries near the caches


def evaluate_equation(world: World, eq: Equation, position: int, kept: Ranges) -> tuple[Planes, ...]:
    """One tensor per component, of the shape of `kept` (the ranges of the equation's axes)."""
    if not eq.state:
        return (_pointwise(world, eq, position, kept),)
    states = _StateArithmetic(world.numbers, eq)
    components = _reduced(world, eq, states, position, kept, tuple(range(world.size(a.extent)) for a in _folded(eq)))
    return states.finish(components)


def _folded(eq: Equation) -> tuple[Axis, ...]:
    return () if eq.scan else eq.reduce


def halve(ranges: Ranges, fixed: frozenset[int] = frozenset()) -> tuple[int, Ranges, Ranges] | None:
    """The ranges cut in two at the first dimension that has more than one value (and is not fixed), else None."""
    for k, r in enumerate(ranges):
        if len(r) > 1 and k not in fixed:
            middle = r.start + len(r) // 2
            low, high = range(r.start, middle), range(middle, r.stop)
            return k, (*ranges[:k], low, *ranges[k + 1 :]), (*ranges[:k], high, *ranges[k + 1 :])
    return None


def _joined(low: Planes, high: Planes, dim: int) -> Planes:
    return tuple(torch.cat([a, b], dim) for a, b in zip(low, high, strict=True))


def _pointwise(world: World, eq: Equation, position: int, kept: Ranges) -> Planes:
    grid = Grid(eq.axes, kept)
    cut = halve(kept) if grid.points > CHUNK else None
    if cut is not None:
        k, low, high = cut
        return _joined(_pointwise(world, eq, position, low), _pointwise(world, eq, position, high), k)
    value = Evaluation(world, grid, position).evaluate(eq.args[0])[0]
    return tuple(p.expand(grid.shape) for p in world.numbers.round(value, eq.dtypes[0]))


def _reduced(
    world: World, eq: Equation, states: _StateArithmetic, position: int, kept: Ranges, folded: Ranges
) -> list[Planes]:
    """The unprojected components over a box; large boxes are cut along kept axes first, then along reduced ones."""
    grid = Grid((*eq.axes, *_folded(eq)), (*kept, *folded))
    product = _contraction(eq)
    if grid.points > CHUNK and product is None:
        scanned = frozenset(k for k, a in enumerate(eq.axes) if eq.scan and a in eq.reduce)
        cut = halve(kept, scanned)
        if cut is not None:
            k, *parts = cut
            low, high = (_reduced(world, eq, states, position, part, folded) for part in parts)
            return [_joined(a, b, k) for a, b in zip(low, high, strict=True)]
        cut = halve(folded)
        if cut is not None:
            low, high = (_reduced(world, eq, states, position, kept, part) for part in cut[1:])
            return states.combine(low, high)
    evaluation = Evaluation(world, grid, position)
    if product is not None and evaluation.exists is None:
        return [_contract(evaluation, product, len(eq.axes))]
    args = [_operand(a, eq.operand_dtype) for a in eq.args]
    components = states.lift(evaluation.evaluate(*args), grid.shape)
    if evaluation.exists is not None:
        components = [
            select(evaluation.exists, c, i) for c, i in zip(components, states.identity(grid.shape), strict=True)
        ]
    if eq.scan:
        return states.scan(components, eq.axes.index(eq.reduce[0]))
    return states.reduce(components, len(eq.axes))


# --- contractions ------------------------------------------------------------------------------------------------


def _operand(e: Expr, dtype: DType | None) -> Expr:
    """The factors of a contraction's product, rounded to its operand type."""
    if dtype is None or not e.dtype.is_float:
        return e
    if isinstance(e, Op) and e.name == "mul":
        return Op("mul", tuple(cast(cast(a, dtype), e.dtype) for a in e.args), e.dtype)
    return cast(cast(e, dtype), e.dtype)


def _contraction(eq: Equation) -> Op | None:
    """The product whose factors each lack an axis, so that the sum need not visit the whole grid elementwise."""
    if eq.state != "sum" or eq.scan or len(eq.args) != 1:
        return None
    product = _operand(eq.args[0], eq.operand_dtype)
    if not (isinstance(product, Op) and product.name == "mul" and product.dtype.is_float):
        return None
    axes = {a for a in (*eq.axes, *eq.reduce) if a.extent != 1}
    left, right = (set(a.axes) for a in product.args)
    return product if left < axes and right < axes and left | right == axes else None


def _contract(evaluation: Evaluation, product: Op, kept: int) -> Planes:
    rank = len(evaluation.grid.axes)
    pairs = []
    for value in evaluation.evaluate(*product.args):
        value = tuple(p.reshape((1,) * (rank - p.dim()) + tuple(p.shape)) for p in value)
        dims = [d for d in range(rank) if value[0].shape[d] != 1 or evaluation.grid.shape[d] == 1]
        pairs.append((tuple(p.reshape([p.shape[d] for d in dims]) for p in value), dims))
    (a, left), (b, right) = pairs
    return evaluation.numbers.contract(a, b, (left, right, list(range(kept))), product.dtype)


# --- states ------------------------------------------------------------------------------------------------------


class _StateArithmetic:
    """A row of the state table on tensors. Floating components are float64 until `finish` rounds what they project
    to."""

    def __init__(self, numbers: Numbers, eq: Equation) -> None:
        self.numbers = numbers
        self.row = STATES[eq.state]
        self.eq = eq
        declared = tuple(a.dtype for a in eq.args)
        self.declared = self.row.dtypes(declared)
        wide = tuple(numbers.wide(d) for d in declared)
        self.inputs = tuple(Load(f"x{k}", (), d) for k, d in enumerate(wide))
        self.dtypes = self.row.dtypes(wide)
        self.left = tuple(Load(f"a{k}", (), d) for k, d in enumerate(self.dtypes))
        self.right = tuple(Load(f"b{k}", (), d) for k, d in enumerate(self.dtypes))

    def _apply(self, exprs: tuple[Expr, ...], *operands: tuple[tuple[Load, ...], list[Planes]]) -> list[Planes]:
        loads = {n.name: v for names, values in operands for n, v in zip(names, values, strict=True)}
        return evaluate_on(self.numbers, exprs, loads)

    def lift(self, args: list[Planes], shape: tuple[int, ...]) -> list[Planes]:
        wide = [self.numbers.widen(a) for a in args]
        return [_expanded(c, shape) for c in self._apply(self.row.lift(self.inputs), (self.inputs, wide))]

    def identity(self, shape: tuple[int, ...]) -> list[Planes]:
        return [_expanded(c, shape) for c in self._apply(self.row.identity(self.dtypes))]

    def combine(self, left: list[Planes], right: list[Planes]) -> list[Planes]:
        return self._apply(self.row.combine(self.left, self.right), (self.left, left), (self.right, right))

    def reduce(self, components: list[Planes], kept: int) -> list[Planes]:
        """Folds all dimensions after the first `kept`."""
        shape = tuple(components[0][0].shape)
        if kept == len(shape):
            return components
        if 0 in shape[kept:]:
            return self.identity(shape[:kept])
        short = self.numbers.fold(self.row.name, components[0], tuple(range(kept, len(shape))), self.declared[0])
        if short is not None:
            return [short]
        count = 1
        for n in shape[kept:]:
            count *= n
        flat = [tuple(p.reshape(*shape[:kept], count) for p in c) for c in components]
        while (n := flat[0][0].shape[-1]) > 1:
            even, odd = ([_step(c, start, n - n % 2, 2) for c in flat] for start in (0, 1))
            joined = self.combine(even, odd)
            last = [_step(c, n - n % 2, n, 1) for c in flat]
            flat = [_joined(c, rest, -1) for c, rest in zip(joined, last, strict=True)] if n % 2 else joined
        return [tuple(p.squeeze(-1) for p in c) for c in flat]

    def scan(self, components: list[Planes], dim: int) -> list[Planes]:
        """Running states along `dim`, as the equation's `scan` and `reverse` say."""
        n = components[0][0].shape[dim]
        if n:
            components = self._inclusive(components, dim)
        if self.eq.scan == "inclusive" or not n:
            return components
        one = tuple(1 if d == dim else size for d, size in enumerate(components[0][0].shape))
        edge = self.identity(one)
        if self.eq.reverse:
            return [_joined(_narrow(c, dim, 1, n - 1), e, dim) for c, e in zip(components, edge, strict=True)]
        return [_joined(e, _narrow(c, dim, 0, n - 1), dim) for c, e in zip(components, edge, strict=True)]

    def _inclusive(self, components: list[Planes], dim: int) -> list[Planes]:
        flipped = _flip(components[0], dim) if self.eq.reverse else components[0]
        short = self.numbers.scan(self.row.name, flipped, dim, self.declared[0])
        if short is not None:
            return [_flip(short, dim) if self.eq.reverse else short]
        n, reach = components[0][0].shape[dim], 1
        while reach < n:
            low = [_narrow(c, dim, 0, n - reach) for c in components]
            high = [_narrow(c, dim, reach, n - reach) for c in components]
            joined = self.combine(low, high)
            start = n - reach if self.eq.reverse else 0
            edge = [_narrow(c, dim, start, reach) for c in components]
            pairs = zip(joined, edge, strict=True)
            components = [_joined(j, e, dim) if self.eq.reverse else _joined(e, j, dim) for j, e in pairs]
            reach *= 2
        return components

    def finish(self, components: list[Planes]) -> tuple[Planes, ...]:
        projected = self._apply(self.row.project(self.left), (self.left, components))
        return tuple(self.numbers.round(p, d) for p, d in zip(projected, self.eq.dtypes, strict=True))


def _expanded(planes: Planes, shape: tuple[int, ...]) -> Planes:
    return tuple(p.expand(shape) for p in planes)


def _step(planes: Planes, start: int, stop: int, step: int) -> Planes:
    return tuple(p[..., start:stop:step] for p in planes)


def _narrow(planes: Planes, dim: int, start: int, length: int) -> Planes:
    return tuple(p.narrow(dim, start, length) for p in planes)


def _flip(planes: Planes, dim: int) -> Planes:
    return tuple(p.flip(dim) for p in planes)
