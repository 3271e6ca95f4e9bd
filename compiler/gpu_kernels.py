"""The kernels of a graph on a GPU: each distinct one is printed as Triton, compiled in another process, and launched by
a function of its own.

What is found in the store is not made again. A kernel that cannot be made says why, and ATen computes it instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module, metadata

from ..codegen.triton.emit import TritonSource, default_schedule, emit_kernel, emit_module
from ..codegen.triton.launcher import HEAD, Shape, emit_launcher
from ..codegen.triton.space import cuts_under
from ..codegen.triton.targets import GpuTarget
from ..ir.errors import CompileError
from ..ir.loops import Kernel
from ..ir.schedule import Schedule
from ..ir.text import parse_dim
from .cutting import cut_reductions
from .kernels import KIND, Built, Toolchain, describe, with_tuning
from .runtime.build import LIBRARY, build_many
from .runtime.gpu.cross import Binary, Failed, Request, compile_launches
from .runtime.gpu.executable import BINARY
from .runtime.plan import DeviceCode
from .runtime.runner import RUNNER_SOURCE
from .runtime.store import make_key
from .settings import settings
from .tuning import Tuning


@dataclass(frozen=True, slots=True)
class GpuTools:
    """What kernels for a GPU are made with: a host's toolchain for the launchers, the architecture, the device.

    absent  whether they are made ahead of time, for a machine that has such a GPU
    """

    host: Toolchain
    target: GpuTarget
    device: str
    absent: bool = False

    @property
    def version(self) -> str:
        """Of Triton, or "" where there is none."""
        try:
            return metadata.version("triton")
        except metadata.PackageNotFoundError:
            return ""

    @property
    def key(self) -> tuple[object, ...]:
        """All that changes code and is not in the kernel itself."""
        host = self.host
        return self.target.name, self.device, self.version, host.flags, host.compiler, host.key


def build_gpu_kernels(
    kernels: Mapping[str, Kernel], tools: GpuTools, tunings: Mapping[str, Tuning] | None = None
) -> list[Built]:  # fmt: skip
    """A launcher, or the reason why there is none, for each kernel (by digest), in their order.

    `tunings` have the schedules of kernels that were measured; the others get their default.
    """
    chosen = {d: t.chosen for d, t in (tunings or {}).items()}
    built: dict[str, Built] = {}
    sources: dict[str, TritonSource] = {}
    for digest, kernel in kernels.items():
        found = _find(kernel, digest, tools, chosen.get(digest))
        if found is not None:
            built[digest] = found
            continue
        try:
            sources[digest] = print_gpu_kernel(kernel, digest, chosen.get(digest))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, ATen computes the region instead
            built[digest] = Built(kernel, digest, problem=describe(error))
    if sources:
        for digest, made in compile_gpu_sources(kernels, sources, tools).items():
            built[digest] = made
            if not made.problem:
                _keep(made, tools, chosen.get(digest))
    return [with_tuning(built[d], tunings) for d in kernels]


def print_gpu_kernel(kernel: Kernel, digest: str, schedule: Schedule | None = None) -> TritonSource:
    """The Triton source of a kernel, under its default schedule where none is given.

    Raises ScheduleError where there is none.
    """
    check = import_module("..ir.verify", __package__).verify_program if settings.verify else None
    schedule = schedule or default_schedule(kernel)
    cut, apart = cut_reductions(kernel, cuts_under(kernel, schedule))
    return emit_kernel(cut, schedule, f"k{digest[:16]}", check, apart)


def compile_gpu_sources(
    kernels: Mapping[str, Kernel], sources: Mapping[str, TritonSource], tools: GpuTools
) -> dict[str, Built]:  # fmt: skip
    """Both binaries of each launch, and a library with the launchers of all kernels that have theirs.

    A kernel that fails beside others is tried again by itself: it may be one of those that stop a whole module.
    """
    made = _compile_module(kernels, sources, tools)
    if len(sources) > 1:
        for digest in [d for d, built in made.items() if built.problem]:
            made |= _compile_module(kernels, {digest: sources[digest]}, tools)
    return made


def _compile_module(
    kernels: Mapping[str, Kernel], sources: Mapping[str, TritonSource], tools: GpuTools
) -> dict[str, Built]:  # fmt: skip
    module = emit_module(list(sources.values()))
    fuse = settings.numerics != "strict"
    requests = [
        Request(module, launch, tools.target, aligned, fuse)
        for s in sources.values() for launch in s.launches for aligned in (True, False)
    ]  # fmt: skip
    found = iter(compile_launches(requests))
    made: dict[str, Built] = {}
    launchers: dict[str, str] = {}
    for digest, source in sources.items():
        pairs = [(next(found), next(found)) for _ in source.launches]
        failed = [x for pair in pairs for x in pair if isinstance(x, Failed)]
        if failed:
            made[digest] = Built(kernels[digest], digest, problem=f"{failed[0].kind}: {_last_line(failed[0].error)}")
            continue
        binaries = [(a, b) for a, b in pairs if isinstance(a, Binary) and isinstance(b, Binary)]
        launchers[digest] = emit_launcher(source, [Shape(a.shared, a.parameters) for a, _ in binaries])
        codes = [DeviceCode(_put(a, tools), _put(b, tools), a.name, max(a.shared, b.shared)) for a, b in binaries]
        made[digest] = Built(kernels[digest], digest, source.symbol, "", source.workspace_bytes, source.checks,
                             functions=tuple(codes))  # fmt: skip
    if launchers:
        text = "\n".join([f"// Launchers for {tools.device}.", HEAD, *launchers.values(), RUNNER_SOURCE])
        host = tools.host
        library = build_many([text], host.flags, host.compiler, host.store).paths[0].name
        made |= {d: replace(made[d], library=library) for d in launchers}
    return made


def _put(binary: Binary, tools: GpuTools) -> str:
    key = make_key("cubin", binary.code)
    tools.host.store.put(BINARY, key, binary.code)
    return key


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _entry_key(digest: str, tools: GpuTools, chosen: Schedule | None) -> str:
    schedule = () if chosen is None else (str(chosen),)
    return make_key("gpu kernel", digest, *tools.key, *schedule)


def _find(kernel: Kernel, digest: str, tools: GpuTools, chosen: Schedule | None) -> Built | None:
    """The kernel as it stands in the store."""
    store = tools.host.store
    entry = store.get_json(KIND, _entry_key(digest, tools, chosen))
    if entry is None or store.path(LIBRARY, entry["library"]) is None:
        return None
    functions = tuple(DeviceCode(**f) for f in entry["functions"])
    if any(store.path(BINARY, key) is None for f in functions for key in (f.aligned, f.any)):
        return None
    return Built(kernel, digest, entry["symbol"], entry["library"], parse_dim(entry["workspace"]),
                 tuple(entry["checks"]), functions=functions)  # fmt: skip


def _keep(built: Built, tools: GpuTools, chosen: Schedule | None) -> None:
    functions = [{"aligned": f.aligned, "any": f.any, "name": f.name, "shared": f.shared} for f in built.functions]
    entry = {
        "symbol": built.symbol, "library": built.library, "workspace": str(built.workspace), "checks": built.checks,
        "functions": functions,
    }  # fmt: skip
    tools.host.store.put_json(KIND, _entry_key(built.digest, tools, chosen), entry)


def require_triton(tools: GpuTools) -> None:
    """Raises CompileError where Triton is not installed: then the graph runs eagerly, with that line."""
    if not tools.version:
        raise CompileError(
            "Triton is not installed, and kernels for GPUs need it", hint="pip install 'treadle[triton]'"
        )
