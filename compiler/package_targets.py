"""The kinds of machines that a package has code for, and how code is made for each, whether it is here or not.

choose_targets(("sm_90", "avx2"))   ->   a GPU with the processor that launches its kernels, and a processor
plan_target(folder, program, aim)  ->   targets/sm_90/: plan.json, launchers, binaries
"""

from __future__ import annotations

import json
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram

from ..codegen.cpp.isa import ISAS, Isa, detect_isa
from ..codegen.triton import targets as gpus
from ..codegen.triton.targets import GpuTarget, target_of
from ..ir.errors import BadInput, StoreError, suggest
from .collection import pause_collection
from .driver import find_device_of, open_store
from .gpu_kernels import GpuTools, require_triton
from .graph_key import digest_sources
from .kernels import Toolchain
from .package_devices import move_module
from .package_signature import WHERE
from .pipeline import Planned, plan_graph
from .runtime.build import LIBRARY
from .runtime.gpu.device import find_device
from .runtime.gpu.executable import BINARY
from .runtime.manifest import CPU, CUDA, Target
from .runtime.plan import plan_to_json
from .runtime.store import Store
from .settings import settings
from .watch import Watch

AUTO = "auto"
TARGETS = (AUTO, *ISAS, *(name for name, gpu in gpus.TARGETS.items() if gpu.backend == "cuda"))
PORTABLE_ISA = "scalar"  # of the code that launches: it runs on every processor of this architecture
DEVICE = "cuda:0"  # that a graph is moved to: a loader puts it on the device that it is given
X86 = ("x86_64", "AMD64")


@dataclass(frozen=True, slots=True)
class Aim:
    """A kind of machine that code is made for: its processor, which launches the kernels of its GPU if it has one."""

    isa: Isa
    gpu: GpuTarget | None = None

    @property
    def name(self) -> str:
        return "+".join((self.isa.name, *self.isa.features)) if self.gpu is None else self.gpu.name

    @property
    def kind(self) -> str:
        return CPU if self.gpu is None else CUDA

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.isa.needs, *self.isa.features) if self.gpu is None else (self.gpu.name,)

    @property
    def rank(self) -> tuple[int, int]:
        """The better the lower."""
        return list(ISAS).index(self.isa.name), -len(self.isa.features) if self.gpu is None else -int(self.gpu.arch)


def choose_targets(names: Sequence[str], device: str = CPU) -> tuple[Aim, ...]:
    """What the names of targets say, the best first; `device` is the one that the model is on. Raises BadInput."""
    if isinstance(names, str) or not names:
        raise BadInput("no targets", where=WHERE, expected=f"a sequence of {', '.join(TARGETS)}", got=repr(names))
    found: dict[tuple[str, ...], Aim] = {}
    for name in names:
        aim = _choose_gpu(name, device) or _choose_isa(name)
        found.setdefault((aim.kind, *aim.needs), aim)
    return tuple(sorted(found.values(), key=lambda aim: (aim.kind == CPU, aim.rank)))


def _choose_isa(name: str) -> Aim:
    if name not in TARGETS:
        raise BadInput("no such target", where=WHERE, got=name, hint=suggest(name, TARGETS))
    isa = detect_isa() if name == AUTO else ISAS[name]
    if isa.needs and platform.machine() not in X86:
        raise BadInput("no target of this machine", where=WHERE, expected="auto or scalar", got=name)
    return Aim(isa)


def _choose_gpu(name: str, device: str) -> Aim | None:
    """None for what names no GPU. Raises DeviceError for one that no kernels are generated for."""
    architecture = re.fullmatch(r"sm_(\d+)(\d)", name)
    if architecture is not None:
        return Aim(ISAS[PORTABLE_ISA], target_of(*map(int, architecture.groups())))
    if name == AUTO and device != CPU:
        return Aim(ISAS[PORTABLE_ISA], find_device(torch.device(device).index or 0).target())
    return None


@contextmanager
def true_ranges(program: ExportedProgram) -> Iterator[None]:
    """Within the block, symbols have the ranges that the program was exported with.

    While torch traces, each size is at least 2; what was exported may be called with 0 and 1 all the same. Kernels must
    then not rely on it.
    """
    nodes = program.graph_module.graph.find_nodes(op="placeholder")
    vals = [node.meta.get("val") for node in nodes]
    sizes = [n for val in vals for n in (val.shape if isinstance(val, torch.Tensor) else (val,))]
    envs = {id(n.node.shape_env): n.node.shape_env for n in sizes if isinstance(n, torch.SymInt)}
    kept = [(env.var_to_range, dict(env.var_to_range)) for env in envs.values()]
    for ranges, _ in kept:
        ranges.update({s: r for s, r in program.range_constraints.items() if s in ranges})
    try:
        yield
    finally:
        for ranges, before in kept:
            ranges.update(before)


def plan_target(folder: Path, program: ExportedProgram, aim: Aim, *, moves: bool) -> tuple[Planned, Target]:
    """Compile into a store of its own: a library of the user's store may hold other models' kernels beside ours."""
    home = folder / "targets" / aim.name
    home.mkdir(parents=True)
    device = CPU if aim.gpu is None else DEVICE
    module = move_module(program.graph_module, device) if moves else program.graph_module
    with tempfile.TemporaryDirectory(prefix="treadle-package-") as scratch:
        options = {"cache_dir": scratch, "cache_size": 0, "fallback": "error", "verify": False}
        with settings.override(**options), true_ranges(program), pause_collection():
            store = open_store()
            tools = Toolchain(aim.isa, settings.compiler, store, (digest_sources(store), settings.cache_key()))
            gpu = None if aim.gpu is None else GpuTools(tools, aim.gpu, find_device_of(module), absent=True)
            if gpu is not None:
                require_triton(gpu)
            planned = plan_graph(module, Watch("package"), tools, gpu)
        if not planned.storable:
            hint = "higher-order operators and Python functions in the graph need the Python that they came from"
            raise BadInput("the model calls Python objects that no file can hold", where=WHERE, hint=hint)
        kernels = planned.plan.kernels
        libraries = _write_entries(store, LIBRARY, (k.library for k in kernels), home, "so")
        codes = (key for k in kernels for f in k.functions for key in (f.aligned, f.any))
        binaries = _write_entries(store, BINARY, codes, home, "cubin")
    plan = home / "plan.json"
    plan.write_text(json.dumps(plan_to_json(planned.plan), indent=1) + "\n", encoding="utf-8")
    target = Target(
        name=aim.name, system=platform.system(), machine=platform.machine(), needs=aim.needs,
        plan=plan.relative_to(folder).as_posix(), kind=aim.kind,
        libraries={key: path.relative_to(folder).as_posix() for key, path in libraries.items()},
        binaries={key: path.relative_to(folder).as_posix() for key, path in binaries.items()},
    )  # fmt: skip
    return planned, target


def _write_entries(store: Store, kind: str, keys: Iterable[str], home: Path, suffix: str) -> dict[str, Path]:
    """Entries of a store as files, by their keys."""
    written: dict[str, Path] = {}
    for key in dict.fromkeys(keys):
        data = store.get(kind, key)
        if data is None:
            raise StoreError(f"a {kind} just made is gone", path=store.root, hint="package the model again")
        written[key] = home / f"{key[:16]}.{suffix}"
        written[key].write_bytes(data)
    return written
