"""`treadle explain FILE[:FUNCTION]`: what became of a model: its kernels and calls, where they come from, and why."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ...ir.errors import BadInput, TreadleError, suggest
from ..doors import explain
from ..model_file import ModelFile, blame, describe_model, load_model
from ..report import CallReport, GraphReport, KernelReport, PartitionReport, Report
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

SOURCES_SHOWN = 6
SOURCE = re.compile(r"(?P<file>.*?):(?P<line>\d+)(?: \((?P<module>.*)\))?")
PACKAGES = re.compile(r"^.*/(?:site|dist)-packages/")
Numbered = tuple[int, KernelReport]


def run(args: argparse.Namespace) -> int:
    with Steps() as steps, redirect_stdout(sys.stderr):  # what the user's file prints is not part of the report
        steps.begin(f"loading {args.target}")
        loaded = load_model(args.target, args.dtype, **dict(args.arguments))
        steps.begin("compiling")
        report = explain_model(loaded, train=args.train)
    chosen = choose_kernels(number_kernels(report), args.kernel)
    if args.json:
        print(json.dumps({"target": loaded.name, **asdict(report)}, indent=1, default=str))
    elif args.kernel:
        for number, kernel in chosen:
            show_kernel(make_console(), number, kernel, source=args.source)
    else:
        show(report, loaded, source=args.source)
    return 0


def explain_model(loaded: ModelFile, *, train: bool) -> Report:
    """Compile the model and report on it. Raises BadInput where the model itself fails."""
    try:
        return explain(loaded.model, loaded.inputs, train=train)
    except TreadleError:
        raise
    except Exception as error:
        raise blame(loaded.path, "the model raised", error) from error


def number_kernels(report: Report) -> list[Numbered]:
    """All kernels, counted from 1 through all graphs."""
    return list(enumerate((kernel for graph in report.graphs for kernel in graph.kernels), 1))


def choose_kernels(kernels: Sequence[Numbered], wanted: str | None) -> list[Numbered]:
    """The kernels of a number or of a name's beginning; all where nothing is asked for. Raises BadInput for others."""
    if not wanted:
        return list(kernels)
    found = [
        item for item in kernels if wanted == str(item[0]) or (wanted[0] == "k" and item[1].name.startswith(wanted))
    ]
    if not found:
        names = [kernel.name for _, kernel in kernels]
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
    others = [line for partition in graph.partitions for line in describe_partition(partition)]
    if others:
        console.print(make_heading("other ways to cut the graph"))
        console.print(indent(make_lines(others)))
    for number, kernel in kernels:
        show_kernel(console, number, kernel, source=source)


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
    ]


def tabulate_kernels(kernels: Sequence[Numbered]) -> Table:
    numbers = ("launches", "read", "written", "operations", "about")
    table = make_table("", "kernel", *numbers, "in", right=("", *numbers))
    for number, kernel in kernels:
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


def describe_partition(partition: PartitionReport) -> list[str]:
    """What the search found to be second best; nothing where there was one way only."""
    if partition.other_stored is None:
        return []
    taken, other = set(partition.stored), set(partition.other_stored)
    more = [f"also storing {join_words(sorted(other - taken))}"] if other - taken else []
    less = [f"not storing {join_words(sorted(taken - other))}"] if taken - other else []
    change = " and ".join([*more, *less]) or "in other groups"
    best, second = format_seconds(partition.seconds), format_seconds(partition.other_seconds)
    return [f"storing {join_words(sorted(taken))}: {best}; {change}: {second}"]


def show_kernel(console: Console, number: int, kernel: KernelReport, *, source: bool) -> None:
    console.print()
    console.print(Rule(Text(f"kernel {number}  {kernel.name}", "bold"), align="left", style="dim"))
    console.print(make_grid(describe_kernel(kernel)))
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
    left = [f"and {len(lines) - SOURCES_SHOWN} more"] if len(lines) > SOURCES_SHOWN else []
    rows += name_first("computes", [*lines[:SOURCES_SHOWN], *left])
    rows += name_first("laws", kernel.notes)
    rows += name_first("stores", [f"{name}: {reason}" if reason else name for name, reason in kernel.stores])
    return [*rows, ("schedule", kernel.schedule)] if kernel.schedule else rows


def name_first(name: str, lines: Iterable[str]) -> list[tuple[str, str | Text]]:
    """Rows of which the first alone is named."""
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]


def gather_sources(sources: Iterable[str]) -> list[str]:
    """Lines of one file and of like modules become one.

    a.py:3 (layers.0.norm), a.py:4 (layers.0.norm), a.py:3 (layers.1.norm)   ->   a.py:3, 4 (layers.*.norm)
    """
    groups: dict[tuple[str, str], tuple[set[int], dict[str, None]]] = {}
    for source in sources:
        file, line, module = split_source(source)
        lines, modules = groups.setdefault((file, star_numbers(module)), (set(), {}))
        lines.update([line] if line else [])
        modules[module] = None
    return [_format_sources(file, like, *group) for (file, like), group in groups.items()]


def gather_places(sources: Iterable[str]) -> list[str]:
    """The modules that the lines are in, like ones as one; for lines outside of modules the file and line.

    a.py:3 (layers.0.norm), a.py:3 (layers.1.norm), b.py:7   ->   layers.*.norm, b.py:7
    """
    split = [split_source(source) for source in sources]
    known = {module for _, _, module in split}
    found: dict[str, None] = {}
    for file, line, module in split:
        like = star_numbers(module)
        alone = sum(star_numbers(other) == like for other in known) == 1
        found[(module if alone else like) or f"{os.path.basename(file)}:{line}"] = None
    return list(found)


def split_source(source: str) -> tuple[str, int, str]:
    """ "a.py:3 (layers.0)" -> ("a.py", 3, "layers.0"); what does not look so is a file."""
    match = SOURCE.fullmatch(source)
    if match is None:
        return source, 0, ""
    return shorten_path(match["file"]), int(match["line"]), match["module"] or ""


def star_numbers(module: str) -> str:
    return re.sub(r"\b\d+\b", "*", module)


def _format_sources(file: str, like: str, lines: set[int], modules: dict[str, None]) -> str:
    module = like if len(modules) > 1 else next(iter(modules), "")
    numbers = f":{', '.join(map(str, sorted(lines)))}" if lines else ""
    return f"{file}{numbers}" + (f" ({module})" if module else "")


def shorten_path(path: str) -> str:
    """A path as seen from the packages or from here."""
    short = PACKAGES.sub("", path)
    if short != path:
        return short
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


def show_source(console: Console, text: str) -> None:
    """C++ in colours on a terminal; lines are never broken, so that they can be copied."""
    code = Syntax("", "cpp", theme="ansi_dark", background_color="default").highlight(text.rstrip())
    console.print(code if console.is_terminal else Text(text.rstrip()), soft_wrap=True)


def make_lines(lines: Iterable[str]) -> Table:
    grid = Table.grid()
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text(line))
    return grid
