"""Arrays of a tile program that runs: buffers and scratch, read and written at many points at once.

A `Watch` finds points that may run at once and touch one element: a result would then hang on who comes first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .errors import VerifyError
from .interp_inputs import poisoned
from .interp_numbers import Numbers, Planes, Tensor, torch_dtype
from .types import BF16, F16, I16, DType

NOBODY, SEVERAL = -1, -2
BITS = (BF16, F16)  # what may be moved as i16


class Watch:
    """Who read and who wrote each element; `kind` says what of: points of a grid, lanes."""

    def __init__(self, name: str, elements: int, kind: str, device: torch.device | str) -> None:
        self.name = name
        self.kind = kind
        self.readers = torch.full((elements,), NOBODY, dtype=torch.int64, device=device)
        self.writers = self.readers.clone()

    def read(self, at: Tensor, who: Tensor) -> None:
        writers = self.writers[at]
        self._refuse((writers != NOBODY) & (writers != who), at, "reads what another writes")
        before = self.readers[at]
        self.readers[at] = who
        mixed = (before != NOBODY) & (before != who) | (self.readers[at] != who)
        self.readers[at[mixed]] = SEVERAL

    def write(self, at: Tensor, who: Tensor) -> None:
        readers, writers = self.readers[at], self.writers[at]
        self.writers[at] = who
        self._refuse((readers != NOBODY) & (readers != who), at, "writes what another reads")
        self._refuse(
            (writers != NOBODY) & (writers != who) | (self.writers[at] != who), at, "writes what another writes"
        )

    def _refuse(self, bad: Tensor, at: Tensor, problem: str) -> None:
        if bool(bad.any()):
            element = int(at[bad][0])
            raise VerifyError(f"one of the {self.kind} that run at once {problem}", where=f"{self.name}[{element}]")


@dataclass
class Array:
    """`planes` are flat: one copy for all points of the grid, or (`copies`) one for each, as long as it runs.

    `written` marks the elements that a statement wrote, where that is asked for.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    planes: Planes
    copies: int = 0
    written: Tensor | None = None
    watches: list[Watch] = field(default_factory=list)

    @property
    def elements(self) -> int:
        total = 1
        for n in self.shape:
            total *= n
        return total

    def positions(self, index: list[Tensor]) -> Tensor:
        """Row-major positions; in each point's own copy where it has one."""
        at = torch.zeros((), dtype=torch.int64, device=self.planes[0].device)
        for i, size in zip(index, self.shape, strict=True):
            at = at * size + i
        if not self.copies:
            return at
        return at + self.elements * torch.arange(self.copies, device=at.device).view(-1, 1)

    def read(self, at: Tensor, dtype: DType, numbers: Numbers) -> Planes:
        """The elements as values of `dtype`; the bits of 16-bit floats where that is i16."""
        if not self.planes[0].numel():
            return tuple(torch.zeros(at.shape, dtype=p, device=at.device) for p in numbers.planes(dtype))
        found = tuple(p[at] for p in self.planes)
        if dtype is I16 and self.dtype in BITS:
            return numbers.enter(found[0].to(torch_dtype(self.dtype)).view(torch.int16), I16)
        return found

    def write(self, at: Tensor, values: Planes, dtype: DType, numbers: Numbers) -> None:
        """Sets the elements at one-dimensional positions to values of `dtype`."""
        if dtype is I16 and self.dtype in BITS:
            values = numbers.enter(values[0].view(torch_dtype(self.dtype)), self.dtype)
        for plane, new in zip(self.planes, numbers.round(values, self.dtype), strict=True):
            plane[at] = new.to(plane.dtype)
        if self.written is not None:
            self.written[at] = True


def make_scratch(name: str, dtype: DType, shape: tuple[int, ...], numbers: Numbers, copies: int = 0) -> Array:
    """A scratch array full of poison."""
    array = Array(name, dtype, shape, (), copies)
    total = (array.elements * max(copies, 1),)
    array.planes = tuple(poisoned(total, p, numbers.device) for p in numbers.planes(dtype))
    return array
