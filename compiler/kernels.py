"""The kernels of a graph, from loops to functions in libraries: each distinct one is generated and compiled once.

A kernel that was compiled before, for any graph, is found in the store by its digest; only those that are new are
printed and compiled, several to a translation unit. One that cannot be made says why, and the others go on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from ..codegen.cpp.emit import KernelSource, default_schedule, emit_kernel, emit_unit
from ..codegen.cpp.isa import LINK_LIBRARIES, Isa
from ..ir.errors import CompileError, TreadleError
from ..ir.loops import Kernel
from ..ir.schedule import Schedule
from ..ir.text import parse_dim
from ..ir.types import Dim
from .runtime.build import LIBRARY, build_many, find_compiler
from .runtime.cpu import count_cores
from .runtime.plan import DeviceCode
from .runtime.runner import RUNNER_SOURCE
from .runtime.store import Store, make_key
from .settings import settings

KIND = "kernel"  # of entries in the store
Show = Callable[[Kernel, str], tuple[Schedule | None, str, str]]  # kernel, digest -> schedule, source, problem
LEAST_PER_UNIT = 8  # kernels that are worth a compiler process of their own


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What kernels are made with. `key` holds all that changes code and is not in the kernel itself."""

    isa: Isa
    compiler: str
    store: Store
    key: tuple[object, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        return (*self.isa.compile_flags, *LINK_LIBRARIES)


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel and its function. `library` is its key in the store; `problem` says why there is none.

    checks     the indices read from data that it tests, in the order of its error codes
    functions  those of a GPU that it launches
    """

    kernel: Kernel
    digest: str
    symbol: str = ""
    library: str = ""
    workspace: Dim = 0
    checks: tuple[str, ...] = ()
    schedule: Schedule | None = None
    problem: str = ""
    functions: tuple[DeviceCode, ...] = ()


def build_kernels(kernels: Mapping[str, Kernel], tools: Toolchain) -> list[Built]:
    """A function, or the reason why there is none, for each kernel (by digest), in their order.

    Raises CompileError only where there is no compiler, and a kernel that is not in the store.
    """
    built = {d: _find(k, d, tools) for d, k in kernels.items()}
    sources: dict[str, KernelSource] = {}
    for digest, kernel in kernels.items():
        if built[digest] is not None:
            continue
        schedule, source, problem = print_kernel_source(kernel, digest, tools.isa)
        if source is None:
            built[digest] = Built(kernel, digest, problem=problem)
        else:
            sources[digest] = source
            built[digest] = Built(kernel, digest, source.symbol, "", source.workspace, source.checks, schedule)
    for digest, result in _compile(sources, tools).items():
        printed = built[digest]
        assert printed is not None
        if isinstance(result, Path):
            printed = replace(printed, library=result.name)
            _keep(printed, tools)
        else:
            printed = replace(printed, problem=describe(result))
        built[digest] = printed
    return [built[d] for d in kernels]  # type: ignore[misc]


def print_kernel_source(
    kernel: Kernel, digest: str, isa: Isa
) -> tuple[Schedule | None, KernelSource | None, str]:  # fmt: skip
    """The schedule and the source of a kernel, or the reason why there is none."""
    try:
        schedule = default_schedule(kernel, isa)
        check = import_module("..ir.verify", __package__).verify_program if settings.verify else None
        return schedule, emit_kernel(kernel, schedule, isa, f"k{digest[:16]}", check), ""
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here, ATen computes the region instead
        return None, None, describe(error)


def describe(error: BaseException) -> str:
    """One line that says what went wrong; for an error that is not treadle's own, where."""
    text = str(error).split("\n", 1)[0]
    if isinstance(error, TreadleError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


def _find(kernel: Kernel, digest: str, tools: Toolchain) -> Built | None:
    """The kernel as it stands in the store."""
    entry = tools.store.get_json(KIND, _entry_key(digest, tools))
    if entry is None or tools.store.path(LIBRARY, entry["library"]) is None:
        return None
    return Built(kernel, digest, entry["symbol"], entry["library"], parse_dim(entry["workspace"]),
                 tuple(entry["checks"]))  # fmt: skip


def _keep(built: Built, tools: Toolchain) -> None:
    entry = {
        "symbol": built.symbol, "library": built.library, "workspace": str(built.workspace), "checks": built.checks,
    }  # fmt: skip
    tools.store.put_json(KIND, _entry_key(built.digest, tools), entry)


def _entry_key(digest: str, tools: Toolchain) -> str:
    return make_key("kernel", digest, tools.isa.name, tools.isa.features, tools.flags, tools.compiler, tools.key)


def _compile(sources: Mapping[str, KernelSource], tools: Toolchain) -> dict[str, Path | CompileError]:
    """The library of each source; where a unit is refused, its kernels are tried one by one."""
    units = split_units(list(sources), {d: len(s.text) for d, s in sources.items()}, count_cores())
    try:
        return _compile_units(units, sources, tools)
    except CompileError:
        if not find_compiler(tools.compiler, tools.store).command:
            raise
    results: dict[str, Path | CompileError] = {}
    for digest in sources:
        try:
            results |= _compile_units([[digest]], sources, tools)
        except CompileError as error:
            results[digest] = error
    return results


def _compile_units(
    units: Sequence[Sequence[str]], sources: Mapping[str, KernelSource], tools: Toolchain
) -> dict[str, Path | CompileError]:
    texts = [emit_unit([sources[d] for d in unit], tools.isa) + "\n" + RUNNER_SOURCE for unit in units]
    paths = build_many(texts, tools.flags, tools.compiler, tools.store).paths if texts else ()
    return {d: path for unit, path in zip(units, paths, strict=True) for d in unit}


def split_units(digests: Sequence[str], sizes: Mapping[str, int], cores: int) -> list[list[str]]:
    """Kernels over translation units of about equal length; starting a compiler costs as much as a kernel or two."""
    count = max(1, min(cores, len(digests) // LEAST_PER_UNIT))
    units: list[list[str]] = [[] for _ in range(count)]
    filled = [0] * count
    for digest in sorted(digests, key=lambda d: (-sizes[d], d)):
        k = filled.index(min(filled))
        units[k].append(digest)
        filled[k] += sizes[digest]
    return [sorted(unit) for unit in units if unit]


def build_runner(tools: Toolchain) -> Path:
    """A library with the runner alone, for a plan none of whose kernels was compiled."""
    return build_many([RUNNER_SOURCE], tools.flags, tools.compiler, tools.store).paths[0]
