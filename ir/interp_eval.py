"""Evaluating expressions at many points at once.

Every value is a tensor that broadcasts against the points, so what depends on few axes stays small. Where a guard is
false the index is clamped and the value is 0. `ir.interp_grid` does it over boxes of a domain, `ir.interp_tiles` at the
points of running loops.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .expr import Const, Expr, Iota, Load, Op, children, data_in, indices, walk
from .index import Axis, Data, Div, Index, Mod
from .interp_numbers import Numbers, Planes, Tensor
from .types import I64, Dim


class World(Protocol):
    """What an evaluation asks of the run that it is part of."""

    numbers: Numbers

    def size(self, dim: Dim) -> int: ...


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


class Evaluator(ABC):
    """Expressions at the points whose coordinates `column` gives; `load` reads what a name holds."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.numbers = world.numbers
        self._known: dict[Index, Tensor] = {}
        self._values: dict[Expr, Planes] = {}

    @property
    def is_empty(self) -> bool:
        """True where there is no point at all."""
        return False

    @abstractmethod
    def column(self, axis: Axis) -> Tensor:
        """The coordinates along an axis."""

    @abstractmethod
    def load(self, e: Load, guard: Tensor | None) -> Planes:
        """What a load gives; the guard's values are known already."""

    def evaluate(self, *roots: Expr) -> list[Planes]:
        self._values.update(evaluate_dag(roots, self._value))
        return [self._values[r] for r in roots]

    def _value(self, e: Expr, values: dict[Expr, Planes]) -> Planes:
        if isinstance(e, Op):
            return self.numbers.apply(e, [values[a] for a in e.args])
        if isinstance(e, Const):
            return self.numbers.constant(e)
        self._values.update((d.value, values[d.value]) for i in indices(e) for d in data_in(i))
        if isinstance(e, Iota):
            return self.numbers.enter(self.index(e.index), I64)
        assert isinstance(e, Load)
        return self.load(e, None if e.guard is None else values[e.guard][0])

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
            return self.column(atom)
        if isinstance(atom, Div):
            return torch.div(self.index(atom.index), self.world.size(atom.by), rounding_mode="floor")
        if isinstance(atom, Mod):
            return torch.remainder(self.index(atom.index), self.world.size(atom.by))
        assert isinstance(atom, Data)
        value = self._values[atom.value][0]
        return torch.where(value < 0, value + self.world.size(atom.size), value) if atom.wrap else value

    def extremes(self, i: Index) -> tuple[int, int]:
        """The least and greatest value of an index at the points; (0, -1) where there are none."""
        values = self.index(i)
        return (int(values.min()), int(values.max())) if values.numel() and not self.is_empty else (0, -1)

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
        if not self.is_empty and bool(bad.any()):
            where = ", ".join(str(i) for i in index)
            raise IndexError(f"{what}[{where}]: index out of range for the shape {list(shape)}")
        return [v.clamp(min=0).clamp(max=max(n - 1, 0)) for v, n in zip(values, shape, strict=True)]


def conjunction(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b


def select(mask: Tensor, planes: Planes, otherwise: Planes | None = None) -> Planes:
    """The planes where the mask holds, elsewhere `otherwise` (zeros)."""
    if otherwise is None:
        return tuple(torch.where(mask, p, p.new_zeros(())) for p in planes)
    return tuple(torch.where(mask, p, o) for p, o in zip(planes, otherwise, strict=True))
