"""The part of a report that tells of fusing: the laws that were tried on each kernel, and why two steps are two.

    k1f2e3d4c5b6a -> aten.mm, 4 times, by v54       library: aten.mm is a library call
    k1f2e3d4c5b6a -> kc935f8f1a083, by v7           cost: cheaper stored, 3.1 us against 5.2 us
    k1f2e3d4c5b6a and kc935f8f1a083 both read x     apart: no value leads from one to the other

Equal layers have equal kernels, so what is between these is told once and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..passes.fuse import Fused, Launch
from ..passes.reasons import Tried
from ..passes.refusals import Between, Kept, Refusals
from .places import cut_out


@dataclass(frozen=True, slots=True)
class LawReport:
    """A law that was tried on some operands: legal where `reason` (a name out of the closed list) is ""."""

    law: str
    operands: tuple[str, ...]
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """Why steps that share `values` are not one, `count` times. A step is a kernel's name or a call's target.

    law     "inline": the second reads what it could compute; "merge": two kernels could store what both store
    reads   the second reads what the first has made; else both read the values
    reason  a name out of the closed list, and `why` the sentence
    seconds, other_seconds  where cost decided: of the region as it is, and with the value computed where it is read
    """

    law: str
    first: str
    second: str
    reads: bool
    values: tuple[str, ...]
    reason: str
    why: str
    count: int
    seconds: float
    other_seconds: float


def report_edges(fused: Fused, refusals: Refusals) -> tuple[EdgeReport, ...]:
    """Every pair of steps that was not fused, like pairs as one."""
    names = [_name_step(fused, k) for k in range(len(fused.steps))]
    groups: dict[tuple[object, ...], list[Between]] = {}
    for b in refusals.between:
        key = (b.law, names[b.first], names[b.second], b.reads, b.kept.refusal.reason)
        groups.setdefault(key, []).append(b)
    return tuple(_report_edge(found, names, fused) for found in groups.values())


def _report_edge(found: list[Between], names: list[str], fused: Fused) -> EdgeReport:
    first = found[0]
    same = [b for b in found if (b.first, b.second) == (first.first, first.second)]
    return EdgeReport(
        law=first.law,
        first=names[first.first],
        second=names[first.second],
        reads=first.reads,
        values=tuple(dict.fromkeys(b.value for b in same)),
        reason=first.kept.refusal.reason.short,
        why=describe(first.value, first.kept, fused),
        count=len({(b.first, b.second) for b in found}),
        seconds=first.kept.seconds,
        other_seconds=first.kept.other_seconds,
    )


def _name_step(fused: Fused, place: int) -> str:
    step = fused.steps[place]
    return name_kernel(step.digest) if isinstance(step, Launch) else _name_value(step.node, fused)


def name_kernel(digest: str) -> str:
    return f"k{digest[:12]}"


def _name_value(name: str, fused: Fused) -> str:
    """A value by its name, a call by what it calls."""
    node = fused.graph.by_name.get(name)
    return name if node is None or node.op != "call" else str(node.attr("target")).removesuffix(".default")


def describe(value: str, kept: Kept, fused: Fused) -> str:
    """The sentence of a reason, with both costs where these decided."""
    reason, other = kept.refusal
    sentence = reason.sentence.format(value=_name_value(value, fused), other=_name_value(other, fused))
    if not kept.other_seconds:
        return sentence
    return f"{sentence}: {kept.seconds * 1e6:.3g} us against {kept.other_seconds * 1e6:.3g} us if computed where read"


def report_stores(fused: Fused, refusals: Refusals) -> dict[str, str]:
    """Why each stored value is in memory rather than inside a kernel."""
    found = {name: describe(name, kept, fused) for name, kept in refusals.kept.items()}
    for _, value in fused.graph.mutations:
        if value in found:
            found[value] += ", in place" if value in fused.in_place else ", copied at the end"
    return found


def report_laws(fused: Fused, refusals: Refusals, place: int) -> tuple[LawReport, ...]:
    """The laws that were tried on the launch at one place of the steps; what keeps it apart from others is an edge."""
    launch = fused.steps[place]
    assert isinstance(launch, Launch)
    inner = tuple(n.name for n in cut_out(fused.graph, launch).nodes if n.name not in launch.writes)
    inlined = [LawReport("inline", inner, "", "")] if inner else []
    return (*inlined, *_report_tried(refusals.tried[place]))


def report_mutations(refusals: Refusals) -> tuple[LawReport, ...]:
    return tuple(_report_tried(refusals.mutations))


def _report_tried(tried: Iterable[Tried]) -> list[LawReport]:
    laws: dict[LawReport, None] = {}
    for t in tried:
        why = "" if t.reason is None else t.reason.sentence.format(value=t.value, other=t.other)
        laws[LawReport(t.law, (t.value, t.other), "" if t.reason is None else t.reason.short, why)] = None
    return list(laws)


# --- as text -----------------------------------------------------------------------------------------------------


def describe_law(law: LawReport) -> str:
    """merge: v3 with v7;   no stream: sum2 with max1: the row stays in cache"""
    what = f"{law.law}: {' with '.join(law.operands)}"
    return f"no {what}: {law.why}" if law.reason else what


def describe_edges(kernel: str, edges: Iterable[EdgeReport], shown: Mapping[str, str]) -> list[str]:
    """One line for each kernel or call that this one is not fused with; `shown` has other names for kernels.

    aten.mm reads v54, 4 times: aten.mm is a library call
    kernel 5 makes v7: cheaper stored: 3.1 us against 5.2 us if computed where read; they run over different axes
    kernel 4 reads v41 too, 4 times: no value leads from one to the other
    """
    pairs: dict[tuple[str, str], list[EdgeReport]] = {}
    for e in edges:
        if kernel in (e.first, e.second):
            other = e.second if e.first == kernel else e.first
            pairs.setdefault((other, _verb(kernel, e)), []).append(e)
    lines: list[str] = []
    for (other, verb), found in pairs.items():
        told = [e for e in found if e.law == "inline"] or found
        values = ", ".join(dict.fromkeys(v for e in told for v in e.values))
        name = "an equal kernel" if other == kernel else shown.get(other, other)
        count = max(e.count for e in found)
        times = f", {count} times" if count > 1 else ""
        why = "; ".join(dict.fromkeys(e.why for e in found))
        lines.append(f"{name} {verb.format(values)}{times}: {why}")
    return lines


def _verb(kernel: str, edge: EdgeReport) -> str:
    if not edge.reads:
        return "reads {} too"
    return "reads {}" if edge.first == kernel else "makes {}"
