"""`treadle explain FILE[:FUNCTION]`: what became of a model: its kernels and calls, where they come from, and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ...ir.errors import BadInput, TreadleError, suggest
from ..doors import explain
from ..fusion_report import LawReport, describe_edges, describe_law
from ..model_file import ModelFile, blame, describe_model, load_model
from ..report import CallReport, GraphReport, KernelReport, PartitionReport, Report, describe_tuning
from .display import (
    Steps,
    describe_counts,
    format_amount,
    format_bytes,
    format_count,
    format_seconds,
    indent,
    join_words,
    make_console,
    make_grid,
    make_heading,
    make_table,
)
from .source_lines import gather_places, gather_sources

SOURCES_SHOWN = 6


class Numbered(NamedTuple):
    number: int
    kernel: KernelReport
    graph: GraphReport


def run(args: argparse.Namespace) -> int:
    with Steps() as steps, redirect_stdout(sys.stderr):  # what the user's file prints is not part of the report
        steps.begin(f"loading {args.target}")
        loaded = load_model(args.target, args.dtype, **dict(args.arguments))
        steps.begin("compiling")
        report = explain_model(loaded, train=args.train, mode=args.mode)
    numbered = number_kernels(report)
    chosen = choose_kernels(numbered, args.kernel)
    if args.json:
        print(json.dumps({"target": loaded.name, **asdict(report)}, indent=1, default=str))
    elif args.kernel:
        for item in chosen:
            show_kernel(make_console(), item, numbered, source=args.source)
    else:
        show(report, loaded, source=args.source)
    return 0


def explain_model(loaded: ModelFile, *, train: bool, mode: str | None = None) -> Report:
    """Compile the model and report on it. Raises BadInput where the model itself fails."""
    try:
        return explain(loaded.model, loaded.inputs, train=train, mode=mode)
    except TreadleError:
        raise
    except Exception as error:
        raise blame(loaded.path, "the model raised", error) from error


def number_kernels(report: Report) -> list[Numbered]:
    """All kernels, counted from 1 through all graphs."""
    kernels = ((kernel, graph) for graph in report.graphs for kernel in graph.kernels)
    return [Numbered(number, *found) for number, found in enumerate(kernels, 1)]


def choose_kernels(kernels: Sequence[Numbered], wanted: str | None) -> list[Numbered]:
    """The kernels of a number or of a name's beginning; all where nothing is asked for. Raises BadInput for others."""
    if not wanted:
        return list(kernels)
    found = [k for k in kernels if wanted == str(k.number) or (wanted[0] == "k" and k.kernel.name.startswith(wanted))]
    if not found:
        names = [k.kernel.name for k in kernels]
        hint = f"a number of 1 to {len(names)}, or {suggest(wanted, names)}" if names else "no kernel was compiled"
        raise BadInput("there is no such kernel", got=wanted, hint=hint)
    return found


def show(report: Report, loaded: ModelFile, *, source: bool) -> None:
    console = make_console()
    console.print(Text(loaded.name, "bold") + Text(f"  {describe_model(loaded)}", "not bold"))
    if not report.graphs:
        console.print("no graph was compiled: it computes nothing, or runs through ATen")
    kernels = iter(number_kernels(report))
    for graph in report.graphs:
        show_graph(console, graph, [next(kernels) for _ in graph.kernels], source=source)


def show_graph(console: Console, graph: GraphReport, kernels: Sequence[Numbered], *, source: bool) -> None:
    console.print()
    console.print(Rule(Text(f"graph {graph.name}", "bold"), align="left", style="dim"))
    console.print(make_grid(describe_graph(graph)))
    if kernels:
        console.print(make_heading("kernels"))
        console.print(indent(tabulate_kernels(kernels)))
    if graph.calls:
        console.print(make_heading("left to libraries and ATen"))
        console.print(indent(tabulate_calls(graph.calls)))
    if graph.mutations:
        console.print(make_heading("new values of inputs"))
        console.print(make_grid(describe_mutations(graph.mutations)))
    cut = [p for p in graph.partitions if p.other_stored is not None]
    if cut:
        console.print(make_heading("the two best ways to cut a part of the graph into kernels"))
        console.print(indent(tabulate_partitions(cut)))
    for kernel in kernels:
        show_kernel(console, kernel, kernels, source=source)


def describe_graph(graph: GraphReport) -> list[tuple[str, str]]:
    own = sum(graph.seconds.values())
    phases = [f"{name} {format_seconds(seconds)}" for name, seconds in graph.seconds.items() if seconds > own / 50]
    compiler = (
        format_seconds(graph.compiler_seconds) if graph.compiler_seconds else "none, all kernels were in the store"
    )
    held, needed = format_bytes(graph.memory.static), format_bytes(graph.memory.bound)
    memory = f"{held} kept between calls, of which {needed} are needed"
    slots = f", and {format_count(len(graph.memory.slots), 'slot')} of dynamic size" if graph.memory.slots else ""
    counts = {name: count for name, count in graph.counts.items() if name != "graphs"}
    return [
        ("made of", describe_counts(counts)),
        ("own CPU time", f"{format_seconds(own)} ({', '.join(phases)})"),
        ("C++ compiler", compiler),
        ("memory", memory + slots),
        *([("CUDA graph", graph.cuda_graph)] if graph.cuda_graph else []),
    ]


def tabulate_kernels(kernels: Sequence[Numbered]) -> Table:
    numbers = ("launches", "read", "written", "operations", "about")
    table = make_table("", "kernel", *numbers, "in", right=("", *numbers))
    for number, kernel, _ in kernels:
        cells = [str(kernel.launches), format_bytes(kernel.read), format_bytes(kernel.written)]
        cells += [format_amount(kernel.operations), format_seconds(kernel.seconds)]
        place = Text(", ".join(gather_places(kernel.sources)), overflow="ellipsis", no_wrap=True)
        table.add_row(str(number), kernel.name, *cells, place)
    return table


def tabulate_calls(calls: Sequence[CallReport]) -> Table:
    table = make_table("count", "what", "why", "in", right=("count",))
    for call in sorted(calls, key=lambda call: (call.kind != "opaque", call.kind, -call.count)):
        why = Text(call.kind, "yellow" if call.kind == "opaque" else "") + Text(
            f": {call.reason}" if call.reason else ""
        )
        places = Text(join_words(gather_places(call.sources)))
        table.add_row(str(call.count), call.target.removesuffix(".default"), why, places)
    return table


def tabulate_partitions(partitions: Sequence[PartitionReport]) -> Table:
    """What the search has taken, and what it has found to be second best."""
    table = make_table("parts", "taken", "about", "second best", "about ", right=("parts", "about", "about "))
    for p in partitions:
        taken, other = set(p.stored), set(p.other_stored or ())
        more = [f"{join_words(sorted(other - taken))} stored too"] if other - taken else []
        less = [f"{join_words(sorted(taken - other))} computed where read"] if taken - other else []
        change = ", ".join([*more, *less]) or "the same values in other kernels"
        best, second = format_seconds(p.seconds), format_seconds(p.other_seconds)
        table.add_row(str(p.regions), f"{join_words(sorted(taken))} stored", best, change, second)
    return table


def describe_mutations(mutations: Sequence[LawReport]) -> list[tuple[str, str | Text]]:
    """Which values are written straight into the inputs that they replace, and why others are not."""
    groups: dict[str, list[str]] = {}
    for law in mutations:
        value, target = law.operands
        groups.setdefault(law.reason, []).append(f"{value} into {target}" + (f": {law.why}" if law.why else ""))
    return [
        row
        for reason, lines in groups.items()
        for row in name_first("copied" if reason else "in place", [*lines[:3], *_and_more(len(lines) - 3)])
    ]


def show_kernel(console: Console, shown: Numbered, numbered: Sequence[Numbered], *, source: bool) -> None:
    kernel, names = shown.kernel, {k.kernel.name: f"kernel {k.number}" for k in numbered if k.graph is shown.graph}
    console.print()
    console.print(Rule(Text(f"kernel {shown.number}  {kernel.name}", "bold"), align="left", style="dim"))
    apart = name_first("not fused", describe_edges(kernel.name, shown.graph.edges, names))
    console.print(make_grid([*describe_kernel(kernel), *apart]))
    console.print()
    console.print(Padding(Text(kernel.equations.rstrip()), (0, 0, 0, 2)))
    if source and kernel.source:
        console.print()
        show_source(console, kernel.source)


def describe_kernel(kernel: KernelReport) -> list[tuple[str, str | Text]]:
    times = format_count(kernel.launches, "launch", "launches")
    cost = f"{format_bytes(kernel.read)} read, {format_bytes(kernel.written)} written, "
    cost += f"{format_amount(kernel.operations)} operations, about {format_seconds(kernel.seconds)}"
    rows: list[tuple[str, str | Text]] = [("costs", f"{times}{' of' if kernel.launches == 1 else ', each of'} {cost}")]
    if kernel.problem:
        rows.append(("runs in ATen", Text(kernel.problem, "bold red")))
    lines = gather_sources(kernel.sources)
    rows += name_first("computes", [*lines[:SOURCES_SHOWN], *_and_more(len(lines) - SOURCES_SHOWN)])
    rows += name_first("laws", [*kernel.notes, *(describe_law(law) for law in kernel.laws if law.reason)])
    rows += name_first("stores", [f"{name}: {reason}" if reason else name for name, reason in kernel.stores])
    rows += [("schedule", kernel.schedule)] if kernel.schedule else []
    return [*rows, *name_first("measured", describe_tuning(kernel.tuning))]


def _and_more(count: int) -> list[str]:
    return [f"and {count} more"] if count > 0 else []


def name_first(name: str, lines: Iterable[str]) -> list[tuple[str, str | Text]]:
    """Rows of which the first alone is named."""
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]


def show_source(console: Console, text: str) -> None:
    """C++ in colours on a terminal; lines are never broken, so that they can be copied."""
    code = Syntax("", "cpp", theme="ansi_dark", background_color="default").highlight(text.rstrip())
    console.print(code if console.is_terminal else Text(text.rstrip()), soft_wrap=True)
