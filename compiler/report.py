"""What `treadle.explain` tells: the kernels of every graph, what each computes, where from, why it is cut there.

    graph inference0: 27 launches of 9 kernels, 33 library calls
      arena 4.8 MB, at least 4.7 MB is needed
      ...
    kernel 3 of 9, k1f2e3d4c5b6a: 8 launches, each reads 1.5 MB and writes 0.5 MB, 2.1 Mflop, about 40 us
      from     model.py:20 (layers.0.norm)
      law      stream: ...
      stores   v56: aten.mm is a library call
      apart    aten.mm reads v56, 8 times: aten.mm is a library call
      kernel v56(...)
        ...

Plain data, so that the command line can lay it out in its own way; `str()` of it is readable too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..codegen.products import describe_linked
from ..costmodel.roofline import GENERIC_CPU, TYPICAL_SIZE, Device, estimate
from ..ir.expr import Op, walk
from ..ir.loops import Kernel, statement_expressions
from ..ir.text import print_kernel
from ..ir.types import evaluate, product
from ..passes.fuse import Call, Fused, Launch
from ..passes.memory import MemoryPlan
from ..passes.partition import Partition
from ..passes.refusals import Refusals, find_refusals
from .costs import seconds_of
from .frontend.importer import Imported
from .fusion_report import (
    EdgeReport,
    LawReport,
    describe_edges,
    describe_law,
    name_kernel,
    report_edges,
    report_laws,
    report_mutations,
    report_stores,
)
from .kernels import Built, Show
from .places import cut_out
from .tuning import Tuning
from .watch import Watch


@dataclass(frozen=True, slots=True)
class KernelReport:
    """One distinct kernel. Bytes, operations, seconds are of one launch by the roofline; a dynamic size counts as 512.

    equations  the kernel under the names of its first launch
    sources    lines of the program whose ops it computes
    notes      which laws changed it
    laws       every law that was tried on its first launch, legal or not
    stores     each value that it stores, and why that value is in memory
    problem    why ATen computes it instead; "" where treadle does
    tuning     the schedules that were measured, and why one was chosen; None where none were
    """

    name: str
    launches: int
    equations: str
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    laws: tuple[LawReport, ...]
    stores: tuple[tuple[str, str], ...]
    read: float
    written: float
    operations: float
    seconds: float
    schedule: str
    source: str
    problem: str
    tuning: Tuning | None = None


@dataclass(frozen=True, slots=True)
class CallReport:
    """Calls of one target for one reason, with the lines they come from."""

    target: str
    kind: str
    reason: str
    count: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """A region of the graph as it was cut, and the best cut that was not taken (None: there was no other).

    regions  how many equal regions are cut so
    values   how many values each stores
    """

    regions: int
    values: int
    stored: tuple[str, ...]
    seconds: float
    other_stored: tuple[str, ...] | None
    other_seconds: float


@dataclass(frozen=True, slots=True)
class GraphReport:
    """One compiled graph. `seconds` are treadle's own CPU time by phase, `compiler_seconds` the C++ compiler's.

    edges      the pairs of kernels and calls that were not fused, and why
    mutations  the values that replace inputs: written in place, or why not
    cuda_graph whether it is captured as one, and why not; "" where no mode asks for it
    hoisted    the values that depend on parameters and buffers alone, and whether they are kept
    """

    name: str
    counts: dict[str, int]
    kernels: tuple[KernelReport, ...]
    calls: tuple[CallReport, ...]
    edges: tuple[EdgeReport, ...]
    mutations: tuple[LawReport, ...]
    partitions: tuple[PartitionReport, ...]
    memory: MemoryPlan
    seconds: dict[str, float]
    compiler_seconds: float
    plan: str
    cuda_graph: str = ""
    hoisted: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_graph_lines(self))


@dataclass(frozen=True, slots=True)
class Report:
    """All graphs that were compiled for one model, in the order in which they were."""

    graphs: tuple[GraphReport, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.graphs)) if self.graphs else "no graph was compiled"


def report_graph(
    imported: Imported, fused: Fused, kernels: Iterable[Built], memory: MemoryPlan, watch: Watch,
    counts: dict[str, int], plan: str, show: Show, device: Device = GENERIC_CPU, cuda_graph: str = "",
    hoisted: tuple[str, ...] = (),
) -> GraphReport:  # fmt: skip
    """Gather what is known of a graph just compiled; `show` prints the kernels again, which may be from the store."""
    refusals = find_refusals(fused, lambda kernel: seconds_of(kernel, device))
    return GraphReport(
        name=watch.name,
        counts=counts,
        kernels=tuple(_report_kernel(b, fused, refusals, show, device) for b in kernels),
        calls=_report_calls(imported, fused),
        edges=report_edges(fused, refusals),
        mutations=report_mutations(refusals),
        partitions=tuple(map(_report_partition, fused.partitions, refusals.regions)),
        memory=memory,
        seconds=dict(watch.seconds),
        compiler_seconds=watch.compiler_seconds,
        plan=plan,
        cuda_graph=cuda_graph,
        hoisted=hoisted,
    )


def _report_kernel(built: Built, fused: Fused, refusals: Refusals, show: Show, device: Device) -> KernelReport:
    places = {k: s for k, s in enumerate(fused.steps) if isinstance(s, Launch) and s.digest == built.digest}
    same = list(places.values())
    reasons = report_stores(fused, refusals)
    shown = show(built, same[0].original)
    cost = estimate(built.kernel, device)
    sources = dict.fromkeys(n.source for launch in same for n in cut_out(fused.graph, launch).nodes if n.source)
    return KernelReport(
        name=name_kernel(built.digest),
        launches=len(same),
        equations=print_kernel(same[0].original),
        sources=tuple(sources),
        notes=tuple(
            dict.fromkeys((*same[0].original.notes, *built.kernel.notes, *shown.cuts, *describe_linked(built.kernel)))
        ),
        laws=report_laws(fused, refusals, next(iter(places))),
        stores=tuple((n, reasons.get(n, "")) for n in same[0].writes),
        read=cost.read,
        written=cost.written,
        operations=count_operations(built.kernel),
        seconds=cost.seconds,
        schedule=str(shown.schedule) if shown.schedule is not None else "",
        source=shown.source,
        problem=built.problem or shown.problem,
        tuning=built.tuning,
    )


def count_operations(kernel: Kernel) -> float:
    """Scalar operations of one launch: each distinct one of a statement at each point of its domain."""
    sizes = dict.fromkeys(kernel.symbols, TYPICAL_SIZE)
    total = 0.0
    for s in kernel.body:
        points = float(evaluate(product(a.extent for a in s.domain), sizes))
        ops = sum(isinstance(e, Op) and e.name != "cast" for e in walk(*statement_expressions(s)))
        total += points * (ops + (1 if getattr(s, "state", "") else 0))
    return total


def _report_calls(imported: Imported, fused: Fused) -> tuple[CallReport, ...]:
    live = {s.node for s in fused.steps if isinstance(s, Call)}
    live_targets = {fused.graph.by_name[n].attr("target") for n in live}
    groups: dict[tuple[str, str, str], list[str]] = {}
    for c in imported.calls:
        if c.target in live_targets:
            groups.setdefault((c.target, c.kind, c.reason), []).append(c.source)
    return tuple(
        CallReport(target, kind, reason, len(sources), tuple(dict.fromkeys(s for s in sources if s)))
        for (target, kind, reason), sources in groups.items()
    )


def _report_partition(partition: Partition, regions: int) -> PartitionReport:
    groups = partition.groups
    second = partition.second
    return PartitionReport(
        regions=regions,
        values=sum(len(g.members) for g in groups),
        stored=tuple(sorted(partition.stored)),
        seconds=partition.seconds,
        other_stored=None if second is None else tuple(sorted(second[0])),
        other_seconds=0.0 if second is None else second[1],
    )


# --- as text -----------------------------------------------------------------------------------------------------


def _graph_lines(g: GraphReport) -> list[str]:
    counted = ", ".join(f"{n} {name}" for name, n in g.counts.items() if name != "graphs")
    own = sum(g.seconds.values())
    phases = ", ".join(f"{name} {s:.2f}" for name, s in g.seconds.items() if s >= 0.005)
    lines = [
        f"graph {g.name}: {counted}",
        f"  arena    {format_bytes(g.memory.static)}, at least {format_bytes(g.memory.bound)} is needed"
        + (f"; {len(g.memory.slots)} slots of dynamic sizes behind it" if g.memory.slots else ""),
        f"  compiled in {own:.2f} s of CPU time ({phases}) and {g.compiler_seconds:.2f} s of the C++ compiler's",
    ]
    if g.cuda_graph:
        lines.append(f"  CUDA graph: {g.cuda_graph}")
    lines += [f"  hoisted  {line}" for line in g.hoisted]
    for number, k in enumerate(g.kernels, 1):
        apart = [f"  apart    {line}" for line in describe_edges(k.name, g.edges, {})]
        lines += ["", *_kernel_lines(k, number, len(g.kernels), apart)]
    if g.calls:
        lines += ["", "calls"]
        lines += [f"  {c.count:4} {c.target}  {c.kind}: {c.reason}" for c in g.calls]
    cut = [p for p in g.partitions if p.other_stored is not None]
    if cut:
        lines += ["", "other ways to cut the graph"]
        lines += [f"  {_partition_line(p)}" for p in cut]
    return lines


def _kernel_lines(k: KernelReport, number: int, count: int, apart: list[str]) -> list[str]:
    times = "1 launch" if k.launches == 1 else f"{k.launches} launches, each"
    lines = [
        f"kernel {number} of {count}, {k.name}: {times} reads {format_bytes(k.read)} and writes "
        f"{format_bytes(k.written)}, {format_count(k.operations)} operations, about {k.seconds * 1e6:.0f} us"
    ]
    if k.problem:
        lines.append(f"  ATen     {k.problem}")
    lines += [f"  from     {source}" for source in _shortened(k.sources)]
    lines += [f"  law      {note}" for note in k.notes]
    lines += [f"  law      {describe_law(law)}" for law in k.laws if law.reason]
    lines += [f"  stores   {name}: {reason}" for name, reason in k.stores if reason]
    lines += apart
    if k.schedule:
        lines.append(f"  schedule {k.schedule}")
    lines += [f"  measured {line}" for line in describe_tuning(k.tuning)]
    return [*lines, *(f"    {line}" for line in k.equations.splitlines())]


def describe_tuning(tuning: Tuning | None) -> list[str]:
    """The choice, then each candidate with its time, the quickest first."""
    if tuning is None:
        return []
    ordered = sorted(tuning.tried, key=lambda t: (bool(t.problem), t.seconds or math.inf))
    rows = [f"{f'{t.seconds * 1e6:.2f} us' if t.seconds else t.problem or 'not timed'}: {t.schedule}" for t in ordered]
    return [f"chosen: {tuning.reason}", *rows]


def _shortened(sources: tuple[str, ...], most: int = 4) -> list[str]:
    left = len(sources) - most
    return [*sources[:most], *([f"and {left} more"] if left > 0 else [])]


def _partition_line(p: PartitionReport) -> str:
    taken, other = set(p.stored), set(p.other_stored or ())
    more = [f"also storing {', '.join(sorted(other - taken))}"] if other - taken else []
    less = [f"not storing {', '.join(sorted(taken - other))}"] if taken - other else []
    change = " and ".join([*more, *less]) or "in other groups"
    return f"{p.seconds * 1e6:.1f} us as it is; {change}: {p.other_seconds * 1e6:.1f} us"


def format_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return ""


def format_count(count: float) -> str:
    for unit in ("", "k", "M", "G"):
        if count < 1000 or unit == "G":
            return f"{count:.3g}{unit}"
        count /= 1000
    return ""
