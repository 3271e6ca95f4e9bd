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
from ..codegen.cpp.space import cuts_under
from ..ir.errors import CompileError, TreadleError
from ..ir.loops import Kernel
from ..ir.schedule import Schedule
from ..ir.text import parse_dim
from ..ir.types import Dim
from .cutting import cut_reductions
from .runtime.build import LIBRARY, build_many, find_compiler
from .runtime.cpu import count_cores
from .runtime.plan import DeviceCode
from .runtime.runner import RUNNER_SOURCE
from .runtime.store import Store, make_key
from .settings import settings
from .tuning import Tuning

KIND = "kernel"  # of entries in the store
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
    tuning     what was measured of it; None where its schedule is the default
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
    tuning: Tuning | None = None

    @property
    def wanted(self) -> Schedule | None:
        """The schedule that was measured to be the quickest."""
        return None if self.tuning is None else self.tuning.chosen


@dataclass(frozen=True, slots=True)
class Shown:
    """How a kernel is run, for reports: its schedule, the cuts that this makes of it, its source, or the problem."""

    schedule: Schedule | None
    cuts: tuple[str, ...] = ()
    source: str = ""
    problem: str = ""


Show = Callable[[Built, Kernel], Shown]  # of a kernel, and the same one with the names that its graph has


def build_kernels(
    kernels: Mapping[str, Kernel], tools: Toolchain, tunings: Mapping[str, Tuning] | None = None
) -> list[Built]:  # fmt: skip
    """A function, or the reason why there is none, for each kernel (by digest), in their order.

    `tunings` have the schedules of kernels that were measured; the others get their default.
    Raises CompileError only where there is no compiler, and a kernel that is not in the store.
    """
    chosen = {d: t.chosen for d, t in (tunings or {}).items()}
    built = {d: _find(k, d, tools, chosen.get(d)) for d, k in kernels.items()}
    sources: dict[str, KernelSource] = {}
    for digest, kernel in kernels.items():
        if built[digest] is not None:
            continue
        schedule, source, problem = print_kernel_source(kernel, digest, tools.isa, chosen.get(digest))
        if source is None:
            built[digest] = Built(kernel, digest, problem=problem)
        else:
            sources[digest] = source
            built[digest] = Built(kernel, digest, source.symbol, "", source.workspace, source.checks, schedule)
    for digest, result in compile_sources(sources, tools).items():
        printed = built[digest]
        assert printed is not None
        if isinstance(result, Path):
            printed = replace(printed, library=result.name)
            _keep(printed, tools, chosen.get(digest))
        else:
            printed = replace(printed, problem=describe(result))
        built[digest] = printed
    return [with_tuning(built[d], tunings) for d in kernels]  # type: ignore[arg-type]


def with_tuning(built: Built, tunings: Mapping[str, Tuning] | None) -> Built:
    tuning = (tunings or {}).get(built.digest)
    return built if tuning is None else replace(built, tuning=tuning)


def print_kernel_source(
    kernel: Kernel, digest: str, isa: Isa, schedule: Schedule | None = None
) -> tuple[Schedule | None, KernelSource | None, str]:  # fmt: skip
    """The schedule (the default where none is given) and the source of a kernel, or the reason why there is none."""
    try:
        schedule = schedule or choose_default(kernel, isa)
        check = import_module("..ir.verify", __package__).verify_program if settings.verify else None
        strict = settings.numerics == "strict"
        cut, apart = cut_reductions(kernel, cuts_under(kernel, schedule))
        return schedule, emit_kernel(cut, schedule, isa, f"k{digest[:16]}", check, strict=strict, apart=apart), ""
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here, ATen computes the region instead
        return None, None, describe(error)


def choose_default(kernel: Kernel, isa: Isa) -> Schedule:
    """The schedule of a kernel that was not measured: tile registers only where the settings ask for them."""
    schedule = default_schedule(kernel, isa)
    wanted = settings.amx == "always" and isa.permits_tiles and schedule.strategy == "reduce"
    return schedule.choose(matrix="in_place") if wanted else schedule


def describe(error: BaseException) -> str:
    """One line that says what went wrong; for an error that is not treadle's own, where."""
    text = str(error).split("\n", 1)[0]
    if isinstance(error, TreadleError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


def _find(kernel: Kernel, digest: str, tools: Toolchain, chosen: Schedule | None) -> Built | None:
    """The kernel as it stands in the store."""
    entry = tools.store.get_json(KIND, _entry_key(digest, tools, chosen))
    if entry is None or tools.store.path(LIBRARY, entry["library"]) is None:
        return None
    return Built(kernel, digest, entry["symbol"], entry["library"], parse_dim(entry["workspace"]),
                 tuple(entry["checks"]))  # fmt: skip


def _keep(built: Built, tools: Toolchain, chosen: Schedule | None) -> None:
    entry = {
        "symbol": built.symbol, "library": built.library, "workspace": str(built.workspace), "checks": built.checks,
    }  # fmt: skip
    tools.store.put_json(KIND, _entry_key(built.digest, tools, chosen), entry)


def _entry_key(digest: str, tools: Toolchain, chosen: Schedule | None) -> str:
    schedule = () if chosen is None else (str(chosen),)
    return make_key(
        "kernel", digest, tools.isa.name, tools.isa.features, tools.flags, tools.compiler, tools.key, *schedule
    )  # fmt: skip


def compile_sources(sources: Mapping[str, KernelSource], tools: Toolchain) -> dict[str, Path | CompileError]:
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
