"""What `treadle.explain` tells: the kernels of every graph, what each computes, where from, why it is cut there.

    graph inference0: 27 launches of 9 kernels, 33 library calls
      arena 4.8 MB, at least 4.7 MB is needed
      ...
    kernel 3 of 9, k1f2e3d4c5b6a: 8 launches, each reads 1.5 MB and writes 0.5 MB, 2.1 Mflop, about 40 us
      from     model.py:20 (layers.0.norm)
      law      stream: ...
      stores   v56, an operand of aten.mm.default
      kernel v56(...)
        ...

Plain data, so that the command line can lay it out in its own way; `str()` of it is readable too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..codegen.cpp.isa import Isa
from ..costmodel.roofline import TYPICAL_SIZE, estimate
from ..ir.expr import Op, walk
from ..ir.graph import Graph
from ..ir.loops import Kernel, statement_expressions
from ..ir.text import print_kernel
from ..ir.types import evaluate, product
from ..passes.fuse import Call, Fused, Launch
from ..passes.memory import MemoryPlan
from ..passes.partition import Partition
from .frontend.importer import Imported
from .kernels import Built, print_kernel_source
from .places import cut_out
from .watch import Watch


@dataclass(frozen=True, slots=True)
class KernelReport:
    """One distinct kernel. Bytes, operations, seconds are of one launch by the roofline; a dynamic size counts as 512.

    equations  the kernel under the names of its first launch
    sources    lines of the program whose ops it computes
    notes      which laws changed it
    stores     each value that it stores, and why that value is in memory
    problem    why ATen computes it instead; "" where treadle does
    """

    name: str
    launches: int
    equations: str
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    stores: tuple[tuple[str, str], ...]
    read: float
    written: float
    operations: float
    seconds: float
    schedule: str
    source: str
    problem: str


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
    """A region of the graph as it was cut, and the best cut that was not taken (None: there was no other)."""

    values: int
    stored: tuple[str, ...]
    seconds: float
    other_stored: tuple[str, ...] | None
    other_seconds: float


@dataclass(frozen=True, slots=True)
class GraphReport:
    """One compiled graph. `seconds` are treadle's own CPU time by phase, `compiler_seconds` the C++ compiler's."""

    name: str
    counts: dict[str, int]
    kernels: tuple[KernelReport, ...]
    calls: tuple[CallReport, ...]
    partitions: tuple[PartitionReport, ...]
    memory: MemoryPlan
    seconds: dict[str, float]
    compiler_seconds: float
    plan: str

    def __str__(self) -> str:
        return "\n".join(_graph_lines(self))


@dataclass(frozen=True, slots=True)
class Report:
    """All graphs that were compiled for one model, in the order in which they were."""

    graphs: tuple[GraphReport, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.graphs)) if self.graphs else "no graph was compiled"


def report_graph(
    imported: Imported, fused: Fused, kernels: Iterable[Built], memory: MemoryPlan, watch: Watch, isa: Isa,
    counts: dict[str, int], plan: str,
) -> GraphReport:  # fmt: skip
    """Gather what is known of a graph just compiled; kernels that were in the store are printed again."""
    launches = [s for s in fused.steps if isinstance(s, Launch)]
    reasons = find_reasons_to_store(fused)
    return GraphReport(
        name=watch.name,
        counts=counts,
        kernels=tuple(_report_kernel(b, launches, fused.graph, reasons, isa) for b in kernels),
        calls=_report_calls(imported, fused),
        partitions=tuple(_report_partition(p) for p in fused.partitions),
        memory=memory,
        seconds=dict(watch.seconds),
        compiler_seconds=watch.compiler_seconds,
        plan=plan,
    )


def _report_kernel(
    built: Built, launches: list[Launch], graph: Graph, reasons: dict[str, str], isa: Isa
) -> KernelReport:  # fmt: skip
    same = [launch for launch in launches if launch.digest == built.digest]
    schedule, source, problem = print_kernel_source(built.kernel, built.digest, isa)
    cost = estimate(built.kernel)
    sources = dict.fromkeys(n.source for launch in same for n in cut_out(graph, launch).nodes if n.source)
    return KernelReport(
        name=f"k{built.digest[:12]}",
        launches=len(same),
        equations=print_kernel(same[0].original),
        sources=tuple(sources),
        notes=tuple(dict.fromkeys((*same[0].original.notes, *built.kernel.notes))),
        stores=tuple((n, reasons.get(n, "")) for n in same[0].writes),
        read=cost.read,
        written=cost.written,
        operations=count_operations(built.kernel),
        seconds=cost.seconds,
        schedule=str(schedule) if schedule is not None else "",
        source=source.text if source is not None else "",
        problem=built.problem or problem,
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


def find_reasons_to_store(fused: Fused) -> dict[str, str]:
    """Why each stored value is in memory rather than inside a kernel."""
    graph = fused.graph
    found = [(o, "an output") for o in graph.outputs if isinstance(o, str)]
    for target, value in graph.mutations:
        how = "in place" if value in fused.in_place else "copied at the end"
        found.append((value, f"the new value of {target}, {how}"))
    for step in fused.steps:
        if isinstance(step, Call):
            node = graph.by_name[step.node]
            found += [(name, f"an operand of {node.attr('target')}") for name in node.inputs]
    readers = Counter(name for step in fused.steps if isinstance(step, Launch) for name in step.reads)
    for name, count in readers.items():
        kernels = "another kernel" if count == 1 else f"{count} kernels"
        found.append((name, f"read by {kernels}, cheaper than computing it there"))
    reasons: dict[str, str] = {}
    for name, reason in found:
        while name in fused.views:
            name = fused.views[name].base
        reasons.setdefault(name, reason)
    return reasons


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


def _report_partition(partition: Partition) -> PartitionReport:
    groups = partition.groups
    second = partition.second
    return PartitionReport(
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
    for number, k in enumerate(g.kernels, 1):
        lines += ["", *_kernel_lines(k, number, len(g.kernels))]
    if g.calls:
        lines += ["", "calls"]
        lines += [f"  {c.count:4} {c.target}  {c.kind}: {c.reason}" for c in g.calls]
    cut = [p for p in g.partitions if p.other_stored is not None]
    if cut:
        lines += ["", "other ways to cut the graph"]
        lines += [f"  {_partition_line(p)}" for p in cut]
    return lines


def _kernel_lines(k: KernelReport, number: int, count: int) -> list[str]:
    times = "1 launch" if k.launches == 1 else f"{k.launches} launches, each"
    lines = [
        f"kernel {number} of {count}, {k.name}: {times} reads {format_bytes(k.read)} and writes "
        f"{format_bytes(k.written)}, {format_count(k.operations)} operations, about {k.seconds * 1e6:.0f} us"
    ]
    if k.problem:
        lines.append(f"  ATen     {k.problem}")
    lines += [f"  from     {source}" for source in _shortened(k.sources)]
    lines += [f"  law      {note}" for note in k.notes]
    lines += [f"  stores   {name}, {reason}" for name, reason in k.stores if reason]
    if k.schedule:
        lines.append(f"  schedule {k.schedule}")
    return [*lines, *(f"    {line}" for line in k.equations.splitlines())]


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
