"""Evaluating expressions over a grid: the part of an iteration domain that is computed at once, a tensor dimension
per axis.

Every value is a tensor that broadcasts against the grid, so what depends on few axes stays small. Loads by affine
maps are strided views; the others gather. Where a guard is false the index is clamped and the value is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from .expr import Const, Expr, Iota, Load, Op, children, data_in, indices, walk
from .index import Axis, Data, Div, Index, Mod
from .interp_numbers import Numbers, Planes, Tensor
from .types import I64, Dim

Ranges = tuple[range, ...]
Source = tuple[Planes, tuple[int, ...]]  # what a name holds, and the coordinates of its first element


@dataclass(frozen=True)
class Grid:
    """The box `ranges` of the domain `axes`."""

    axes: tuple[Axis, ...]
    ranges: Ranges

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(r) for r in self.ranges)

    @cached_property
    def positions(self) -> dict[Axis, int]:
        return {a: k for k, a in enumerate(self.axes)}

    @property
    def points(self) -> int:
        total = 1
        for n in self.shape:
            total *= n
        return total

    def column(self, axis: Axis, device: torch.device | str) -> Tensor:
        """The coordinate along `axis`, of full size in that dimension alone."""
        k = self.positions[axis]
        r = self.ranges[k]
        shape = [len(r) if d == k else 1 for d in range(len(self.axes))]
        return torch.arange(r.start, r.stop, device=device).view(shape)


class World(Protocol):
    """What an evaluation asks of the run that it is part of."""

    numbers: Numbers

    def size(self, dim: Dim) -> int: ...

    def source(self, name: str, position: int, needed: Callable[[], Ranges]) -> Source: ...


def below(e: Expr) -> list[Expr]:
    return [*children(e), *(d.value for i in indices(e) for d in data_in(i))]


def evaluate_dag(roots: Sequence[Expr], value: Callable[[Expr, dict[Expr, Planes]], Planes]) -> dict[Expr, Planes]:
    """The values of the roots, each distinct node computed once and dropped after its last use."""
    order = list(walk(*roots))
    uses = Counter(c for e in order for c in below(e))
    uses.update(roots)
    values: dict[Expr, Planes] = {}
    for e in order:
        values[e] = value(e, values)
        for c in below(e):
            uses[c] -= 1
            if not uses[c]:
                del values[c]
    return values


def evaluate_on(numbers: Numbers, roots: Sequence[Expr], loads: dict[str, Planes]) -> list[Planes]:
    """Expressions whose loads are whole tensors by name (the functions of a state, on placeholders)."""

    def value(e: Expr, values: dict[Expr, Planes]) -> Planes:
        if isinstance(e, Load):
            return loads[e.name]
        if isinstance(e, Const):
            return numbers.constant(e)
        assert isinstance(e, Op)
        return numbers.apply(e, [values[a] for a in e.args])

    values = evaluate_dag(roots, value)
    return [values[r] for r in roots]


class Evaluation:
    """Expressions of the statement at `position` over one grid."""

    def __init__(self, world: World, grid: Grid, position: int) -> None:
        self.world = world
        self.grid = grid
        self.position = position
        self.numbers = world.numbers
        self.exists: Tensor | None = None  # false outside the bounds of ragged axes; None: everywhere
        self._known: dict[Index, Tensor] = {}
        self._values: dict[Expr, Planes] = {}
        for axis in grid.axes:
            self._bound(axis)

    def evaluate(self, *roots: Expr) -> list[Planes]:
        self._values.update(evaluate_dag(roots, self._value))
        return [self._values[r] for r in roots]

    def _bound(self, axis: Axis) -> None:
        """Narrows `exists` to the bounds of a ragged axis."""
        if axis.begin is not None:
            begin = self.evaluate(axis.begin)[0][0]
            self.exists = conjunction(self.exists, self.grid.column(axis, self.numbers.device) >= begin)
        if axis.end is not None:
            end = self.evaluate(axis.end)[0][0]
            self.exists = conjunction(self.exists, self.grid.column(axis, self.numbers.device) < end)

    def _value(self, e: Expr, values: dict[Expr, Planes]) -> Planes:
        if isinstance(e, Op):
            return self.numbers.apply(e, [values[a] for a in e.args])
        if isinstance(e, Const):
            return self.numbers.constant(e)
        self._values.update((d.value, values[d.value]) for i in indices(e) for d in data_in(i))
        if isinstance(e, Iota):
            return self.numbers.enter(self.index(e.index), I64)
        assert isinstance(e, Load)
        return self._load(e, None if e.guard is None else values[e.guard][0])

    # --- indices -------------------------------------------------------------------------------------------------

    def index(self, i: Index) -> Tensor:
        """The values of an index whose data were evaluated before; data out of their range are left as they are."""
        found = self._known.get(i)
        if found is None:
            found = torch.tensor(self.world.size(i.const), device=self.numbers.device)
            for atom, coefficient in i.terms:
                found = found + self._atom(atom) * self.world.size(coefficient)
            self._known[i] = found
        return found

    def _atom(self, atom: object) -> Tensor:
        if isinstance(atom, Axis):
            return self.grid.column(atom, self.numbers.device)
        if isinstance(atom, Div):
            return torch.div(self.index(atom.index), self.world.size(atom.by), rounding_mode="floor")
        if isinstance(atom, Mod):
            return torch.remainder(self.index(atom.index), self.world.size(atom.by))
        assert isinstance(atom, Data)
        value = self._values[atom.value][0]
        return torch.where(value < 0, value + self.world.size(atom.size), value) if atom.wrap else value

    def affine(self, i: Index) -> tuple[int, dict[Axis, int]] | None:
        """(constant, coefficients) of an index that is linear in the axes, else None."""
        if not all(isinstance(atom, Axis) for atom, _ in i.terms):
            return None
        return self.world.size(i.const), {atom: self.world.size(c) for atom, c in i.terms}  # type: ignore[misc]

    def extremes(self, i: Index) -> tuple[int, int]:
        """The least and greatest value of an index on the grid; (0, -1) on an empty one."""
        if not self.grid.points:
            return 0, -1
        line = self.affine(i)
        if line is None:
            values = self.index(i)
            return int(values.min()), int(values.max())
        low = high = line[0]
        for axis, coefficient in line[1].items():
            r = self.grid.ranges[self.grid.positions[axis]]
            ends = coefficient * r.start, coefficient * (r.stop - 1)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def in_range(self, index: tuple[Index, ...], shape: Sequence[int]) -> Tensor | None:
        """Where all indices, and the data in them, are in range; None where that is everywhere."""
        ok: Tensor | None = None
        for i, size in zip(index, shape, strict=True):
            low, high = self.extremes(i)
            if low < 0 or high >= size:
                ok = conjunction(ok, (self.index(i) >= 0) & (self.index(i) < size))
            for data in data_in(i):
                value = self._atom(data)
                ok = conjunction(ok, (value >= 0) & (value < self.world.size(data.size)))
        return ok

    def checked(self, what: str, index: tuple[Index, ...], shape: Sequence[int], live: Tensor | None) -> list[Tensor]:
        """Index tensors clamped to the shape. Raises IndexError where a live point is out of range."""
        ok = self.in_range(index, shape)
        values = [self.index(i) for i in index]
        if ok is None:
            return values
        bad = ~ok if live is None else ~ok & live
        if self.grid.points and bool(bad.any()):
            where = ", ".join(str(i) for i in index)
            raise IndexError(f"{what}[{where}]: index out of range for the shape {list(shape)}")
        return [v.clamp(min=0).clamp(max=max(n - 1, 0)) for v, n in zip(values, shape, strict=True)]

    # --- loads ---------------------------------------------------------------------------------------------------

    def _load(self, e: Load, guard: Tensor | None) -> Planes:
        planes, start = self.world.source(e.name, self.position, lambda: self._box(e.index))
        index = tuple(i - s if s else i for i, s in zip(e.index, start, strict=True))
        found = self.strided(planes, index)
        if found is None:
            found = self._gathered(e.name, planes, index, guard)
        return found if guard is None else select(guard, found)

    def _box(self, index: tuple[Index, ...]) -> Ranges:
        extremes = [self.extremes(i) for i in index]
        return tuple(range(max(low, 0), max(high + 1, 0)) for low, high in extremes)

    def strided(self, planes: Planes, index: tuple[Index, ...]) -> Planes | None:
        """Views of the planes along the grid, where the index is affine, in range and does not walk backwards."""
        shape = planes[0].shape
        lines = [self.affine(i) for i in index]
        if any(line is None for line in lines) or not planes[0].numel() or not self.grid.points:
            return None
        for i, size in zip(index, shape, strict=True):
            low, high = self.extremes(i)
            if low < 0 or high >= size:
                return None
        return _views(planes, [line for line in lines if line is not None], self.grid)

    def _gathered(self, name: str, planes: Planes, index: tuple[Index, ...], guard: Tensor | None) -> Planes:
        shape = planes[0].shape
        at = self.checked(name, index, shape, conjunction(guard, self.exists))
        if not planes[0].numel() or not self.grid.points:
            size = torch.broadcast_shapes(*(i.shape for i in at))
            return tuple(p.new_zeros(size) for p in planes)
        return tuple(p[tuple(at)] for p in planes)


def _views(planes: Planes, lines: list[tuple[int, dict[Axis, int]]], grid: Grid) -> Planes | None:
    views: list[Tensor] = []
    for plane in planes:
        offset, steps = plane.storage_offset(), dict.fromkeys(grid.axes, 0)
        for (const, coefficients), stride in zip(lines, plane.stride(), strict=True):
            offset += const * stride
            for axis, c in coefficients.items():
                offset += c * stride * grid.ranges[grid.positions[axis]].start
                steps[axis] += c * stride
        if any(s < 0 for s in steps.values()):
            return None
        used = {a for _, coefficients in lines for a in coefficients}
        size = [n if a in used else 1 for a, n in zip(grid.axes, grid.shape, strict=True)]
        views.append(plane.as_strided(size, list(steps.values()), offset))
    return tuple(views)


def conjunction(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b


def select(mask: Tensor, planes: Planes, otherwise: Planes | None = None) -> Planes:
    """The planes where the mask holds, elsewhere `otherwise` (zeros)."""
    if otherwise is None:
        return tuple(torch.where(mask, p, p.new_zeros(())) for p in planes)
    return tuple(torch.where(mask, p, o) for p, o in zip(planes, otherwise, strict=True))
