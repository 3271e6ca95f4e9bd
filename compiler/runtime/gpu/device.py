"""One GPU as torch has it: its current stream, its memory, its architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

import torch

from ....codegen.triton.targets import GpuTarget, target_of
from ..arena import ALIGNMENT, Arena

T = TypeVar("T")


class DeviceGraph(Protocol):
    """Work that the device repeats."""

    def replay(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device by its number."""

    index: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", self.index)

    def target(self) -> GpuTarget:
        """What kernels are compiled for. Raises DeviceError for an architecture that has no kernels of ours."""
        return target_of(*torch.cuda.get_device_capability(self.index))

    def stream(self) -> int:
        """The handle of the stream that the caller works on."""
        return torch._C._cuda_getCurrentRawStream(self.index)

    def is_current(self) -> bool:
        return torch.cuda.current_device() == self.index

    def guard(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self.index)

    def empty_strided(self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(shape, strides, dtype=dtype, device=self.torch_device)

    def empty_bytes(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.uint8, device=self.torch_device)

    def bytes_at(self, address: int, count: int) -> torch.Tensor:
        """Memory of the device that others own, as a tensor of bytes."""
        storage = torch._C._construct_storage_from_data_pointer(address, self.torch_device, count)
        return torch.empty(0, dtype=torch.uint8, device=self.torch_device).set_(storage)

    def factories(self) -> AbstractContextManager[Any]:
        """Within it, tensors that are made without a device are made here."""
        return self.torch_device

    def is_capturing(self) -> bool:
        """Whether somebody captures what the current stream is given."""
        return torch.cuda.is_current_stream_capturing()

    def capture(self, run: Callable[[], T]) -> tuple[DeviceGraph, T]:
        """What `run` gives the device as a graph, with a memory pool of its own, and what it returns.

        Nothing runs until the graph does. Raises RuntimeError where `run` does what cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        # The library's workspace of a stream outlives the capture: each graph is to have its own, out of its own pool.
        torch._C._cuda_clearCublasWorkspaces()
        try:
            stream = torch.cuda.Stream(self.index)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                results = run()
        finally:
            torch._C._cuda_clearCublasWorkspaces()
        return graph, results

    def time(self, call: Callable[[], object], repeats: int) -> float:
        """Seconds that the device spends on a call, of so many in a row."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats

    def name(self) -> str:
        """The model that its maker sells it as."""
        return torch.cuda.get_device_name(self.index)

    def mapped_cells(self, count: int) -> torch.Tensor:
        """Zeros in memory of the host that kernels write to as well."""
        return torch.zeros(count, dtype=torch.int32).pin_memory()


@cache
def find_device(index: int) -> Device:
    return Device(index)


class DeviceArena(Arena):
    """An arena in the memory of a GPU, out of torch's caching allocator."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def reserve(self, size: int) -> None:
        if self.memory.numel() >= size + ALIGNMENT:
            return
        self.forget()
        self.memory = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
        self.memory = self.device.empty_bytes(size + ALIGNMENT)


class StreamArenas:
    """The idle arenas of a device, by stream: work on one stream is done in order, so its calls may share one.

    It is to a plan what `arena.ARENAS` is on the CPU.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.idle: dict[int, list[Arena]] = {}

    def pop(self) -> Arena:
        """Raises IndexError where none is idle."""
        return self.idle.setdefault(self.device.stream(), []).pop()

    def append(self, arena: Arena) -> None:
        self.idle.setdefault(self.device.stream(), []).append(arena)

    def __len__(self) -> int:
        return len(self.idle.get(self.device.stream(), ()))


@cache
def find_arenas(device: Device) -> StreamArenas:
    """The arenas that all graphs on a device share."""
    return StreamArenas(device)
