"""What a kernel is measured on: random inputs of its real shapes, and outputs that hold no number before a run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..costmodel.roofline import TYPICAL_SIZE
from ..ir.expr import Load, data_in, indices, walk
from ..ir.graph_interp import TORCH_DTYPES
from ..ir.index import Data
from ..ir.loops import Buffer, Kernel, expressions
from ..ir.types import evaluate
from .runtime.plan_values import span_of

ALIGNMENT = 64  # bytes
POISON = 0x7F  # of all bytes: no index, and of every float type a NaN or a number that no random input leads to
FEW = 64  # integers that are no indices lie below

Empty = Callable[[int], torch.Tensor]  # bytes of a device


@dataclass(frozen=True, slots=True)
class Memory:
    """The buffers of one kernel. `tables` are what it is called with: its pointers and its sizes."""

    kernel: Kernel
    buffers: dict[str, torch.Tensor]
    initial: dict[str, torch.Tensor]
    pointers: ctypes.Array[ctypes.c_void_p]
    sizes: ctypes.Array[ctypes.c_long]

    def restore(self) -> None:
        """Inputs that the kernel overwrites, as they were."""
        for name, value in self.initial.items():
            self.buffers[name].copy_(value)

    def poison(self) -> None:
        """As before the first run."""
        written = {b.name for b in self.kernel.outputs}
        for name in written.difference(self.initial):
            self.buffers[name].view(torch.uint8).fill_(POISON)
        self.restore()

    def results(self) -> dict[str, torch.Tensor]:
        return {b.name: self.buffers[b.name].clone() for b in self.kernel.outputs}


def sizes_of(kernel: Kernel) -> dict[str, int]:
    """What dynamic sizes are measured as."""
    return dict.fromkeys(kernel.symbols, TYPICAL_SIZE)


def count_bytes(kernel: Kernel) -> int:
    sizes = sizes_of(kernel)
    return sum(_elements(b, sizes) * b.dtype.itemsize for b in kernel.buffers.values())


def make_memory(kernel: Kernel, empty: Empty, seed: int = 0) -> Memory:
    """Buffers with random inputs; those that other data is found by are within their bounds."""
    sizes = sizes_of(kernel)
    bounds = _find_bounds(kernel, sizes)
    generator = torch.Generator().manual_seed(seed)
    buffers: dict[str, torch.Tensor] = {}
    inputs = {b.name for b in kernel.inputs}
    for name, b in kernel.buffers.items():
        buffers[name] = memory = _allocate(empty, _elements(b, sizes), TORCH_DTYPES[b.dtype])
        if name in inputs:
            memory.copy_(_draw(memory.numel(), memory.dtype, bounds.get(name, FEW), generator))
    updated = inputs.intersection(b.name for b in kernel.outputs)
    addresses = [t.data_ptr() for t in buffers.values()]
    return Memory(
        kernel, buffers, {n: buffers[n].clone() for n in updated},
        (ctypes.c_void_p * max(len(addresses), 1))(*addresses), (ctypes.c_long * max(len(sizes), 1))(*sizes.values()),
    )  # fmt: skip


def _elements(b: Buffer, sizes: dict[str, int]) -> int:
    return evaluate(span_of(b), sizes) + evaluate(b.offset, sizes)


def _allocate(empty: Empty, count: int, dtype: torch.dtype) -> torch.Tensor:
    memory = empty(count * dtype.itemsize + ALIGNMENT)
    first = -memory.data_ptr() % ALIGNMENT
    return memory[first : first + count * dtype.itemsize].view(dtype)


def _draw(count: int, dtype: torch.dtype, bound: int, generator: torch.Generator) -> torch.Tensor:
    if dtype is torch.bool:
        return torch.rand(count, generator=generator) < 0.5
    if dtype.is_floating_point:
        return (torch.rand(count, generator=generator) * 2 - 1).to(dtype)
    return torch.randint(0, max(min(bound, torch.iinfo(dtype).max), 1), (count,), generator=generator).to(dtype)


def _find_bounds(kernel: Kernel, sizes: dict[str, int]) -> dict[str, int]:
    """For each buffer that indices are computed from, the least size that one of these must stay below."""
    bounds: dict[str, int] = {}
    for data in _find_data(kernel):
        for e in walk(data.value):
            if isinstance(e, Load):
                bounds[e.name] = min(bounds.get(e.name, 1 << 31), evaluate(data.size, sizes))
    return bounds


def _find_data(kernel: Kernel) -> list[Data]:
    found = [d for e in walk(*expressions(kernel)) for i in indices(e) for d in data_in(i)]
    return found + [d for s in kernel.stores for i in s.index for d in data_in(i)]


def is_data_bounded(kernel: Kernel) -> bool:
    """Whether data says how long loops are: random numbers would say anything."""
    return any(a.is_ragged for a in kernel.axes)
