"""States on tensors: reductions and scans by the rows of `ir.states`.

Plain states take torch's reductions. The others run on their rows: lift, then `combine` of neighbours (the left one
holds the lower indices) until one is left, or doubling for scans.
"""

from __future__ import annotations

import torch

from .expr import Expr, Load
from .interp_eval import evaluate_on
from .interp_numbers import Numbers, Planes
from .states import STATES
from .types import DType


class StateArithmetic:
    """A row of the state table on tensors, for arguments declared with some types.

    Floating components are float64 until `finish` rounds what they project to.
    """

    def __init__(self, numbers: Numbers, state: str, declared: tuple[DType, ...]) -> None:
        self.numbers = numbers
        self.row = STATES[state]
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
            pairs = self.combine(even, odd)
            last = [_step(c, n - n % 2, n, 1) for c in flat]
            flat = [joined(c, rest, -1) for c, rest in zip(pairs, last, strict=True)] if n % 2 else pairs
        return [tuple(p.squeeze(-1) for p in c) for c in flat]

    def scan(self, components: list[Planes], dim: int, kind: str = "inclusive", reverse: bool = False) -> list[Planes]:
        """Running states along `dim`, inclusive or exclusive; in reverse, those of what is flipped, flipped back."""
        n = components[0][0].shape[dim]
        if n:
            components = self._inclusive(components, dim, reverse)
        if kind == "inclusive" or not n:
            return components
        one = tuple(1 if d == dim else size for d, size in enumerate(components[0][0].shape))
        edge = self.identity(one)
        if reverse:
            return [joined(_narrow(c, dim, 1, n - 1), e, dim) for c, e in zip(components, edge, strict=True)]
        return [joined(e, _narrow(c, dim, 0, n - 1), dim) for c, e in zip(components, edge, strict=True)]

    def _inclusive(self, components: list[Planes], dim: int, reverse: bool) -> list[Planes]:
        if reverse:
            return [_flip(c, dim) for c in self._inclusive([_flip(c, dim) for c in components], dim, False)]
        short = self.numbers.scan(self.row.name, components[0], dim, self.declared[0])
        if short is not None:
            return [short]
        n, reach = components[0][0].shape[dim], 1
        while reach < n:
            low = [_narrow(c, dim, 0, n - reach) for c in components]
            high = [_narrow(c, dim, reach, n - reach) for c in components]
            edge = [_narrow(c, dim, 0, reach) for c in components]
            components = [joined(e, j, dim) for j, e in zip(self.combine(low, high), edge, strict=True)]
            reach *= 2
        return components

    def finish(self, components: list[Planes], dtypes: tuple[DType, ...]) -> tuple[Planes, ...]:
        projected = self._apply(self.row.project(self.left), (self.left, components))
        return tuple(self.numbers.round(p, d) for p, d in zip(projected, dtypes, strict=True))


def _expanded(planes: Planes, shape: tuple[int, ...]) -> Planes:
    return tuple(p.expand(shape) for p in planes)


def _step(planes: Planes, start: int, stop: int, step: int) -> Planes:
    return tuple(p[..., start:stop:step] for p in planes)


def _narrow(planes: Planes, dim: int, start: int, length: int) -> Planes:
    return tuple(p.narrow(dim, start, length) for p in planes)


def _flip(planes: Planes, dim: int) -> Planes:
    return tuple(p.flip(dim) for p in planes)


def joined(low: Planes, high: Planes, dim: int) -> Planes:
    """Two parts along a dimension as one."""
    return tuple(torch.cat([a, b], dim) for a, b in zip(low, high, strict=True))
