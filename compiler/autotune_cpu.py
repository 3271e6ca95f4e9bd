"""Candidates of the C++ target: compiled several to a library, and run on this machine's processor."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..codegen.cpp.emit import KernelSource
from ..codegen.cpp.space import KNOBS
from ..ir.errors import CompileError, ScheduleError
from ..ir.loops import Kernel
from ..ir.schedule import Knob, Schedule
from .autotune import Candidate
from .kernels import Toolchain, choose_default, compile_sources, describe, print_kernel_source
from .runtime.build import load_library
from .runtime.cpu import identify_machine
from .settings import settings
from .timing import time_once


def make_bench(tools: Toolchain) -> CpuBench:
    return CpuBench(tools)


@dataclass(frozen=True, slots=True)
class CpuBench:
    """See `autotune.Bench`."""

    tools: Toolchain
    printed: dict[str, KernelSource] = field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        t = self.tools
        return t.isa.name, t.isa.features, t.flags, t.compiler, t.key, self.last(), identify_machine()

    def default(self, kernel: Kernel) -> Schedule:
        return choose_default(kernel, self.tools.isa)

    def knobs(self, kernel: Kernel) -> Sequence[Knob]:
        return KNOBS

    def print(self, kernel: Kernel, digest: str, schedule: Schedule) -> str:
        _, source, problem = print_kernel_source(kernel, digest, self.tools.isa, schedule)
        if source is None:
            raise ScheduleError(problem, where=str(schedule))
        self.printed[digest] = source
        return source.text

    def compile(self, wanted: Mapping[str, tuple[Kernel, Schedule]]) -> Mapping[str, Candidate | str]:
        sources = {name: self.printed.pop(name) for name in wanted}
        return {name: self._load(sources[name], r) for name, r in compile_sources(sources, self.tools).items()}

    def _load(self, source: KernelSource, result: Path | CompileError) -> Candidate | str:
        if not isinstance(result, Path):
            return describe(result)
        function = getattr(load_library(result), source.symbol)
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long)
        return Candidate(function, source.workspace, source.text)

    def empty(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.uint8)

    def last(self) -> int:
        """The threads that a call has."""
        return settings.threads or torch.get_num_threads()

    def workers(self) -> int:
        return self.last()

    def time(self, call: Callable[[], object], repeats: int) -> float:
        return time_once(call, repeats)
