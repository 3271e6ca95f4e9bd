"""The cold half of the driver: from an fx graph to an executable that is not in the store yet.

    import -> fuse -> schedule, print, compile -> plan

Nothing here is imported by a process that finds its graphs in the store.
"""

from __future__ import annotations

import ctypes
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ..codegen.cpp.isa import Isa
from ..codegen.cpp.space import cuts_under
from ..costmodel.roofline import GENERIC_CPU, find_device
from ..ir.errors import LoweringError, StoreError
from ..ir.graph import Graph
from ..ir.loops import Kernel
from ..ir.text import print_graph
from ..passes.fuse import Call, Fused, Launch, fuse_graph
from ..passes.memory import MemoryPlan
from .capture import find_capture_problem
from .contractions import judge_product
from .costs import seconds_of
from .cutting import describe_cuts
from .frontend.calls import find_target
from .frontend.importer import Imported, import_graph
from .frontend.results import UNSAFE_VIEW
from .kernels import Built, Shown, Toolchain, build_kernels, build_runner, print_kernel_source
from .places import cut_out, describe_place
from .runtime.build import LIBRARY, load_library, total_stats
from .runtime.executable import Executable, address_of, read_attribute
from .runtime.plan import KernelCode, Plan
from .runtime.plan_values import Values
from .runtime.plan_writer import Choices, write_plan
from .runtime.runner import bind_runner
from .runtime.store import Store
from .settings import settings
from .tuning import Tuning
from .watch import Watch

if TYPE_CHECKING:
    from .gpu_kernels import GpuTools
    from .report import GraphReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A graph with all that was found out on the way to its plan; nothing of it is loaded.

    values      where the plan has its values
    storable    whether another process can start from the plan
    cuda_graph  whether it is captured as one, and why not; "" where nobody asked
    hoisted     what `hoist` judged of the graph
    """

    plan: Plan
    imported: Imported
    fused: Fused
    kernels: tuple[Built, ...]
    memory: MemoryPlan
    values: Values
    watch: Watch
    isa: Isa
    storable: bool
    cuda_graph: str = ""
    hoisted: tuple[str, ...] = ()

    def report(self) -> GraphReport:
        """What `explain` tells of it."""
        plan = self.plan
        show, device = _gpu().describe_gpu(plan) if plan.device != "cpu" else (self._show, GENERIC_CPU)
        report: GraphReport = import_module(".report", __package__).report_graph(
            self.imported, self.fused, self.kernels, self.memory, self.watch, plan.counts, plan.text, show, device,
            self.cuda_graph, self.hoisted,
        )  # fmt: skip
        return report

    def _show(self, built: Built, original: Kernel) -> Shown:
        schedule, source, problem = print_kernel_source(built.kernel, built.digest, self.isa, built.wanted)
        if schedule is None or source is None:
            return Shown(schedule, problem=problem)
        return Shown(schedule, describe_cuts(original, cuts_under(original, schedule)), source.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled(Planned):
    """A planned graph that is loaded."""

    executable: Executable


def compile_graph(
    gm: fx.GraphModule, watch: Watch, store: Store, isa: Isa, sources: str, device: str = "cpu"
) -> Compiled:  # fmt: skip
    """Compile an aten graph whose nodes carry fake tensors, and load it; see `plan_graph`."""
    tools = Toolchain(isa, settings.compiler, store, (sources, settings.cache_key()))
    gpu = None if device == "cpu" else _gpu().find_gpu(device, tools)
    planned = plan_graph(gm, watch, tools, gpu)
    with watch.phase("load"):
        binder = bind if gpu is None else _gpu().bind_gpu
        executable = binder(planned.plan, planned.kernels, planned.values, planned.imported, tools)
    parts = {f.name: getattr(planned, f.name) for f in fields(Planned)}
    return Compiled(**parts, executable=executable)


def plan_graph(gm: fx.GraphModule, watch: Watch, tools: Toolchain, gpu: GpuTools | None = None) -> Planned:
    """The plan of an aten graph, with its kernels in the store. Kernels that cannot be made are left to ATen.

    gpu  what kernels for a GPU are made with; nodes elsewhere than on its device, or the CPU, are left to ATen

    Raises LoweringError for a graph that cannot be taken, CompileError where there is no compiler.
    """
    device = "cpu" if gpu is None else gpu.device
    tiles, links = settings.amx == "always", settings.numerics == "fast"
    own = partial(judge_product, isa=tools.isa, gemm=settings.gemm, tiles=tiles, links=links)
    judge = own if gpu is None else _gpu().judge
    with watch.phase("import"):
        imported = import_graph(gm, watch.name, device, settings.rng, judge)
        graph = with_output_strides(imported.graph)
    watch.show(5, "graph", lambda: print_graph(graph))
    with watch.phase("fuse"):
        row = GENERIC_CPU if gpu is None else find_device(gpu.target.name)
        fused = fuse_graph(graph, lambda kernel: seconds_of(kernel, row), settings.numerics)
    if settings.verify:
        _stand_ins().verify_levels(graph, fused)
    with watch.phase("kernels"):
        launches = [s for s in fused.steps if isinstance(s, Launch)]
        begin = total_stats().cpu_seconds
        distinct = {s.digest: s.kernel for s in launches}
        tunings = _tune(distinct, tools, gpu) if settings.autotune and not (gpu and gpu.absent) else {}
        build: Any = build_kernels if gpu is None else _gpu().build_gpu_kernels
        kernels: list[Built] = build(distinct, gpu or tools, tunings)
        watch.compiler_seconds += total_stats().cpu_seconds - begin
    report_problems(kernels, fused)
    with watch.phase("plan"):
        values = Values(fused, len(imported.constants), find_keepers(fused, imported))
        codes = tuple(_code_of(b, fused) for b in kernels)
        counts = count_steps(fused, imported, kernels)
        workspaces = tuple(b.workspace for b in kernels)
        attributes = tuple(find_attribute(gm, c) for c in imported.constants)
        problem = find_capture_problem(gm, imported, values, device)
        written = write_plan(values, Choices(codes, workspaces, attributes, settings.threads, counts, device, problem))
    watch.show(4, "plan", lambda: written.plan.text, "py")
    told = f"no: {problem}" if problem else "captured at the second call, then replayed"
    return Planned(
        plan=written.plan, imported=imported, fused=fused, kernels=tuple(kernels), memory=written.memory, values=values,
        watch=watch, isa=tools.isa, storable=not imported.objects and not any(b.problem for b in kernels),
        cuda_graph=told if settings.cuda_graphs else "", hoisted=tuple(gm.meta.get("hoisted", ())),
    )  # fmt: skip


def _tune(kernels: Mapping[str, Kernel], tools: Toolchain, gpu: Any) -> dict[str, Tuning]:
    """What measuring says of the kernels' schedules."""
    where = "cpu" if gpu is None else "gpu"
    bench = import_module(f".autotune_{where}", __package__).make_bench(gpu or tools)
    tunings: dict[str, Tuning] = import_module(".autotune", __package__).tune_kernels(kernels, bench, tools.store)
    return tunings


def report_problems(kernels: list[Built], fused: Fused) -> None:
    """One line for each kernel that ATen computes instead. Raises LoweringError where that is forbidden."""
    for b in kernels:
        if not b.problem:
            continue
        if settings.fallback == "error":
            raise LoweringError(b.problem, where=describe_place(b, fused))
        log.warning("treadle: %s runs through ATen: %s", describe_place(b, fused), b.problem)


def with_output_strides(graph: Graph) -> Graph:
    """The graph with the layouts that its outputs were traced with, which stand at their nodes."""
    nodes = (graph.by_name[o] if isinstance(o, str) else None for o in graph.outputs)
    return replace(graph, output_strides=tuple(None if n is None else n.strides for n in nodes))


def bind(plan: Plan, kernels: Sequence[Built], values: Values, imported: Imported, tools: Toolchain) -> Executable:
    """The executable of a plan just made; kernels without a library run through ATen."""
    stash: list[BaseException] = []
    first = {s.digest: s for s in reversed(values.fused.steps) if isinstance(s, Launch)}
    functions: list[Any] = []
    runner = None
    for b in kernels:
        if b.problem:
            functions.append(_stand_ins().aten_function(b.kernel, values, first[b.digest], stash))
            continue
        library = load_kernels(b.library, tools.store)
        runner = bind_runner(library)
        functions.append(getattr(library, b.symbol))
    if runner is None and kernels:
        runner = bind_runner(load_library(build_runner(tools)))
    addresses = [address_of(f) for f in functions]
    executable = Executable(plan, addresses, runner, imported.constants, imported.objects, stash, tuple(functions))
    if settings.verify:
        for k, b in enumerate(kernels):
            if not b.problem:
                _stand_ins().watch_kernel(executable, k, b, values, first[b.digest])
    return executable


def _gpu() -> Any:
    """Imported for graphs on a GPU alone."""
    return import_module(".gpu_pipeline", __package__)


def _stand_ins() -> Any:
    """Imported for kernels that need another beside them: the interpreter costs as much as a small graph."""
    return import_module(".watched", __package__)


def load_kernels(library: str, store: Store) -> ctypes.CDLL:
    path = store.path(LIBRARY, library)
    if path is None:
        raise StoreError("a library just made is gone", path=store.root, hint="another process clears the cache")
    return load_library(path)


def count_steps(fused: Fused, imported: Imported, kernels: Sequence[Built]) -> dict[str, int]:
    """What `torch._dynamo.utils.counters["treadle"]` shows of a graph."""
    counts = Counter(graphs=1, kernels=len(kernels), native=imported.native)
    failed = {b.digest for b in kernels if b.problem}
    for step in fused.steps:
        if isinstance(step, Launch):
            counts["launches"] += 1
            counts["fallback"] += step.digest in failed
        else:
            counts[fused.graph.by_name[step.node].attr("kind")] += 1
    return {k: n for k, n in counts.items() if n and k != "view"}


def find_attribute(gm: fx.GraphModule, tensor: torch.Tensor) -> str:
    """The name under which a module holds one of its graph's constants."""
    names = (str(n.target) for n in gm.graph.nodes if n.op == "get_attr")
    return next(name for name in names if read_attribute(gm, name) is tensor)


def _code_of(built: Built, fused: Fused) -> KernelCode:
    return KernelCode(built.digest, built.symbol, built.library, find_reasons(built, fused), built.functions)


def find_reasons(built: Built, fused: Fused) -> tuple[tuple[str, str], ...]:
    """The class and text of the error for each index that data gives: eager's own, but for the index itself."""
    if not built.checks:
        return ()
    launch = next(s for s in fused.steps if isinstance(s, Launch) and s.digest == built.digest)
    ops = {n.op for n in cut_out(fused.graph, launch).nodes}
    name = "IndexError" if ops & {"take", "put"} else "RuntimeError"
    return tuple((name, _describe_index(check, name)) for check in built.checks)


def _describe_index(check: str, error: str) -> str:
    """`at(i, 100, nowrap)` is how a kernel names the index."""
    parts = check.removesuffix(")").rsplit(", ", 2)
    if parts[-1] != "nowrap":
        return f"index is out of bounds for dimension with size {parts[-1]}"
    if error == "IndexError":
        return "index out of range in self"
    return f"index is out of bounds for dimension with size {parts[-2]}"


def find_keepers(fused: Fused, imported: Imported) -> frozenset[str]:
    """Calls whose results may lie in their operands' memory, or that may keep an operand beyond the call."""
    graph = fused.graph
    steps = [s for s in fused.steps if isinstance(s, Call)]
    return frozenset(s.node for s in steps if _may_keep(graph.by_name[s.node].attr("target"), imported))


def _may_keep(target: str, imported: Imported) -> bool:
    if target == UNSAFE_VIEW:  # its schema says nothing of it
        return True
    function = find_target(target, imported.objects)
    if not isinstance(function, torch._ops.OpOverload):
        return True
    schema = function._schema
    return schema.is_mutable or any(r.alias_info is not None for r in schema.returns)
