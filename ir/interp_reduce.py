"""Evaluating one equation over a box of its kept axes: pointwise, reduced or scanned, in pieces where the grid is
large.
"""

from __future__ import annotations

from .expr import Expr, Op
from .index import Axis
from .interp_eval import select
from .interp_grid import Evaluation, Grid, GridWorld, Ranges
from .interp_numbers import Planes
from .interp_states import StateArithmetic, joined
from .loops import Equation
from .scalar import cast
from .types import DType

CHUNK = 2**21  # points evaluated at once: bounds the memory and keeps temporaries near the caches


def evaluate_equation(world: GridWorld, eq: Equation, position: int, kept: Ranges) -> tuple[Planes, ...]:
    """One tensor per component, of the shape of `kept` (the ranges of the equation's axes)."""
    if not eq.state:
        return (_pointwise(world, eq, position, kept),)
    states = StateArithmetic(world.numbers, eq.state, tuple(a.dtype for a in eq.args))
    components = _reduced(world, eq, states, position, kept, tuple(range(world.size(a.extent)) for a in _folded(eq)))
    return states.finish(components, eq.dtypes)


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


def _pointwise(world: GridWorld, eq: Equation, position: int, kept: Ranges) -> Planes:
    grid = Grid(eq.axes, kept)
    cut = halve(kept) if grid.points > CHUNK else None
    if cut is not None:
        k, low, high = cut
        return joined(_pointwise(world, eq, position, low), _pointwise(world, eq, position, high), k)
    value = Evaluation(world, grid, position).evaluate(eq.args[0])[0]
    return tuple(p.expand(grid.shape) for p in world.numbers.round(value, eq.dtypes[0]))


def _reduced(
    world: GridWorld, eq: Equation, states: StateArithmetic, position: int, kept: Ranges, folded: Ranges
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
            return [joined(a, b, k) for a, b in zip(low, high, strict=True)]
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
        return states.scan(components, eq.axes.index(eq.reduce[0]), eq.scan, eq.reverse)
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
