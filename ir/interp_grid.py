"""Evaluating expressions over a grid: the part of an iteration domain that is computed at once, a tensor dimension
per axis.

Loads by affine maps are strided views; the others gather.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from .expr import Load
from .index import Axis, Index
from .interp_eval import Evaluator, World, conjunction, select
from .interp_numbers import Planes, Tensor

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
        return torch.arange(r.start, max(r.start, r.stop), device=device).view(shape)


class GridWorld(World, Protocol):
    """A run whose names hold tensors, or boxes of them."""

    def source(self, name: str, position: int, needed: Callable[[], Ranges]) -> Source: ...


class Evaluation(Evaluator):
    """Expressions of the statement at `position` over one grid."""

    def __init__(self, world: GridWorld, grid: Grid, position: int) -> None:
        super().__init__(world)
        self.sources = world
        self.grid = grid
        self.position = position
        self.exists: Tensor | None = None  # false outside the bounds of ragged axes; None: everywhere
        for axis in grid.axes:
            self._bound(axis)

    @property
    def is_empty(self) -> bool:
        return not self.grid.points

    def column(self, axis: Axis) -> Tensor:
        return self.grid.column(axis, self.numbers.device)

    def _bound(self, axis: Axis) -> None:
        """Narrows `exists` to the bounds of a ragged axis."""
        if axis.begin is not None:
            begin = self.evaluate(axis.begin)[0][0]
            self.exists = conjunction(self.exists, self.column(axis) >= begin)
        if axis.end is not None:
            end = self.evaluate(axis.end)[0][0]
            self.exists = conjunction(self.exists, self.column(axis) < end)

    def affine(self, i: Index) -> tuple[int, dict[Axis, int]] | None:
        """(constant, coefficients) of an index that is linear in the axes, else None."""
        strides = {atom: self.world.size(c) for atom, c in i.terms if isinstance(atom, Axis)}
        return (self.world.size(i.const), strides) if len(strides) == len(i.terms) else None

    def extremes(self, i: Index) -> tuple[int, int]:
        """The least and greatest value of an index on the grid; (0, -1) on an empty one."""
        if not self.grid.points:
            return 0, -1
        line = self.affine(i)
        if line is None:
            return super().extremes(i)
        low = high = line[0]
        for axis, coefficient in line[1].items():
            r = self.grid.ranges[self.grid.positions[axis]]
            ends = coefficient * r.start, coefficient * (r.stop - 1)
            low, high = low + min(ends), high + max(ends)
        return low, high

    # --- loads ---------------------------------------------------------------------------------------------------

    def load(self, e: Load, guard: Tensor | None) -> Planes:
        planes, start = self.sources.source(e.name, self.position, lambda: self._box(e.index))
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
