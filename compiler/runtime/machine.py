"""What treadle runs on, for `treadle doctor`, the roofline and the records of the tuner."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from dataclasses import dataclass

from ...codegen.cpp.isa import detect_isa
from .bandwidth import load_bandwidth as load_bandwidth
from .bandwidth import measure_copy_bandwidth as measure_copy_bandwidth
from .build import find_compiler
from .cpu import CpuCache, count_cores, identify_cpu, list_caches, measure_memory, name_cpu
from .store import Store


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that need no measuring. `memory` in bytes; `isa` as the C++ target names it; "" is what is not there."""

    cpu: str
    cpu_key: str
    architecture: str
    system: str
    cores: int
    caches: tuple[CpuCache, ...]
    memory: int
    isa: str
    compiler: str
    compiler_path: str
    compiler_version: str
    python: str
    torch: str
    gpus: tuple[str, ...]


def describe_machine(compiler: str, store: Store, *, gpus: bool = True) -> Machine:
    """Gather the facts. Imports torch for the names of the GPUs, unless they are not asked for."""
    found = find_compiler(compiler, store)
    return Machine(
        cpu=name_cpu(),
        cpu_key=identify_cpu()[:16],
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=count_cores(),
        caches=list_caches(),
        memory=measure_memory(),
        isa=detect_isa().name,
        compiler=found.name,
        compiler_path=found.command[0] if found.command else "",
        compiler_version=found.version,
        python=platform.python_version(),
        torch=find_torch_version(),
        gpus=list_gpus() if gpus else (),
    )


def find_torch_version() -> str:
    """Return torch's version without importing it; "" where it is not installed."""
    if "torch" in sys.modules:
        return str(sys.modules["torch"].__version__)
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def list_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that torch sees. Imports torch: seconds, where nothing has imported it yet."""
    try:
        import torch  # heavy, and only this function needs it
    except ImportError:
        return ()
    if not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
