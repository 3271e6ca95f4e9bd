"""What a run of the interpreter is given: sizes by name, and buffers as tensors of their shape or as their storage."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from .errors import BadInput
from .interp_numbers import Numbers, Planes, Tensor, torch_dtype
from .loops import Buffer
from .types import Dim, evaluate, symbols_of


class Sizes:
    """Dimensions as integers, under the values of their symbols."""

    def __init__(self, given: Mapping[str, int], where: str) -> None:
        self._given = dict(given)
        self._where = where
        self._dims: dict[Dim, int] = {}

    def __call__(self, dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        found = self._dims.get(dim)
        if found is None:
            missing = [name for name in symbols_of([dim]) if name not in self._given]
            if missing:
                raise BadInput("no size given", where=self._where, expected=f"sizes[{missing[0]!r}]")
            found = self._dims[dim] = evaluate(dim, self._given)
        return found


def enter_buffer(buffer: Buffer, given: Tensor | None, numbers: Numbers, size: Sizes) -> Planes:
    """A buffer's elements before a run: what is given, or poison."""
    shape, strides = (tuple(size(d) for d in dims) for dims in (buffer.shape, buffer.strides))
    if given is None:
        return tuple(poisoned(shape, p, numbers.device, strides) for p in numbers.planes(buffer.dtype))
    if given.dtype != torch_dtype(buffer.dtype) and not (numbers.float64 and given.is_floating_point()):
        raise BadInput("wrong element type", where=buffer.name, expected=buffer.dtype, got=given.dtype)
    return numbers.enter(_seen_as(buffer, given, shape, strides, size(buffer.offset)), buffer.dtype)


def _seen_as(
    buffer: Buffer, given: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> Tensor:  # fmt: skip
    """The buffer's elements in a tensor of its shape, or in its flat storage."""
    if tuple(given.shape) == shape:
        return given
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    fits = given.dim() == 1 and (0 in shape or last < given.numel())
    if not fits:
        expected = f"{list(shape)}, or flat storage of at least {last + 1} elements"
        raise BadInput("wrong shape", where=buffer.name, expected=expected, got=list(given.shape))
    flat = given.contiguous()
    return flat.as_strided(shape, strides, flat.storage_offset() + offset)


def poisoned(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, strides: tuple[int, ...] | None = None
) -> Tensor:
    """What stands where nothing was written: NaN, an odd integer, true."""
    value = math.nan if dtype.is_floating_point else True if dtype is torch.bool else torch.iinfo(dtype).max - 5
    if strides is None:
        return torch.full(shape, value, dtype=dtype, device=device)
    return torch.empty_strided(shape, strides, dtype=dtype, device=device).fill_(value)
