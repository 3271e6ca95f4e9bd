"""Candidates of the Triton target: cross-compiled together, launched as a plan launches them, timed by the device."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..codegen.triton.emit import TritonSource, default_schedule
from ..codegen.triton.space import KNOBS
from ..ir.loops import Kernel
from ..ir.schedule import Knob, Schedule
from .autotune import Candidate
from .gpu_kernels import GpuTools, compile_gpu_sources, print_gpu_kernel
from .kernels import Built
from .runtime.gpu.device import Device, find_device
from .runtime.gpu.executable import bind_kernels
from .runtime.plan import KernelCode

FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long)


def make_bench(tools: GpuTools) -> GpuBench:
    return GpuBench(tools, find_device(torch.device(tools.device).index or 0))


@dataclass(frozen=True, slots=True)
class GpuBench:
    """See `autotune.Bench`. `cells` take the numbers of bad indices: there are none, or a candidate is wrong."""

    tools: GpuTools
    device: Device
    printed: dict[str, TritonSource] = field(default_factory=dict)
    cells: list[torch.Tensor] = field(default_factory=list)

    @property
    def key(self) -> tuple[object, ...]:
        return *self.tools.key, self.device.name()

    def default(self, kernel: Kernel) -> Schedule:
        return default_schedule(kernel)

    def knobs(self, kernel: Kernel) -> Sequence[Knob]:
        return KNOBS

    def print(self, kernel: Kernel, digest: str, schedule: Schedule) -> str:
        source = self.printed[digest] = print_gpu_kernel(kernel, digest, schedule)
        return f"{source.text}{[(x.warps, x.stages) for x in source.launches]}"

    def compile(self, wanted: Mapping[str, tuple[Kernel, Schedule]]) -> Mapping[str, Candidate | str]:
        sources = {name: self.printed.pop(name) for name in wanted}
        if not sources:
            return {}
        made = compile_gpu_sources({name: kernel for name, (kernel, _) in wanted.items()}, sources, self.tools)
        return {name: self._bind(built, sources[name]) for name, built in made.items()}

    def _bind(self, built: Built, source: TritonSource) -> Candidate | str:
        if built.problem:
            return built.problem
        code = KernelCode(built.digest, built.symbol, built.library, functions=built.functions)
        cells = self.device.mapped_cells(1)
        self.cells.append(cells)
        (address,), _ = bind_kernels([code], self.tools.host.store, self.device, cells)
        return Candidate(FUNCTION(address), built.workspace, source.text)

    def empty(self, count: int) -> torch.Tensor:
        return self.device.empty_bytes(count)

    def last(self) -> int:
        """The stream."""
        return self.device.stream()

    def workers(self) -> int:
        return 1

    def time(self, call: Callable[[], object], repeats: int) -> float:
        return self.device.time(call, repeats)
