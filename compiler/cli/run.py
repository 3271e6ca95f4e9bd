"""`treadle run FILE[:FUNCTION]`: is the compiled model right, and how fast is it beside eager and Inductor?"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...ir.errors import BadInput
from ..model_file import ModelFile, describe_model, load_model
from ..modes import find_options
from ..runtime.machine import Machine, describe_machine
from ..runtime.store import Store
from ..settings import settings
from ..timing import PAIRS, QUICK_PAIRS, verdict
from ..trial import EAGER, Contestant, Trial, check_backends, prepare_process, try_backends
from .arguments import STDOUT, split_names
from .display import Steps, describe_counts, format_count, format_seconds, indent, make_console, make_table

PATIENCE = 60.0  # seconds of timing that nobody asked to be longer


def run(args: argparse.Namespace) -> int:
    peers = split_names(args.peers)
    pairs = args.pairs or (QUICK_PAIRS if args.quick else PAIRS)
    seconds = math.inf if args.pairs else PATIENCE
    _check_output(args.json)
    check_backends([args.backend, *peers])
    find_options(args.mode)
    out = sys.stderr if args.json == STDOUT else sys.stdout  # what the user's file prints must not mix with our JSON
    with Steps() as steps, prepare_process(args.threads, cold=args.cold), redirect_stdout(out):
        steps.begin(f"loading {args.target}")
        loaded = load_model(args.target, args.dtype, **dict(args.arguments))
        machine = describe_machine(settings.compiler, Store(settings.cache_dir))

        def say(text: str) -> None:
            steps.begin(text, total=pairs if text == "timing" else None)

        trial = try_backends(loaded, args.backend, peers, pairs=pairs, seconds=seconds, mode=args.mode, say=say,
                             progress=steps.advance)  # fmt: skip
    record = make_record(trial, loaded, machine, args)
    if args.json == STDOUT:
        print(json.dumps(record, indent=1))
    else:
        show(trial, loaded, machine, args.threads)
        if args.json:
            Path(args.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if trial.ok else 1


def _check_output(path: str | None) -> None:
    """A file that cannot be written is better known before minutes of measuring than after."""
    if not path or path == STDOUT:
        return
    try:
        open(path, "a", encoding="utf-8").close()
    except OSError as error:
        raise BadInput(f"this file cannot be written: {error.strerror}", where=path) from error


def make_record(trial: Trial, loaded: ModelFile, machine: Machine, args: argparse.Namespace) -> dict[str, Any]:
    """All that was found, as JSON."""
    return {
        "target": loaded.name,
        "model": describe_model(loaded),
        "machine": asdict(machine),
        "threads": args.threads,
        "pairs": trial.timing.rounds,
        "cold": args.cold,
        "mode": args.mode or "default",
        "backend": trial.ours,
        "ok": trial.ok,
        "contestants": {found.name: _record_contestant(found, trial) for found in trial.contestants},
        **verdict(trial.timing, trial.ours, [found.name for found in trial.contestants]),
    }


def _record_contestant(found: Contestant, trial: Trial) -> dict[str, Any]:
    if found.error:
        return {"error": found.error}
    assert found.report is not None
    return {
        "times": trial.timing.summary()[found.name],
        "first_call": asdict(found.first) if found.first else None,
        "compile_cpu_seconds": trial.compile_seconds(found.name),
        "cached": found.cached,
        "counters": dict(found.counters or {}),
        "accuracy": {
            "ok": found.report.ok,
            "worst_ratio": found.report.worst_ratio,
            "allowed_ratio": found.report.factor,
            "compared": len(found.report.rows),
            "wrong": [asdict(row) for row in found.report.failures],
        },
    }


def show(trial: Trial, loaded: ModelFile, machine: Machine, threads: int) -> None:
    console = make_console()
    console.print(Text(loaded.name, "bold") + Text(f"  {describe_model(loaded)}", "not bold"))
    setting = [machine.cpu, machine.isa, format_count(threads, "thread"), f"torch {machine.torch}"]
    setting += [shorten_version(machine.compiler_version) or "no C++ compiler", f"{trial.timing.rounds} rounds"]
    console.print(Text(", ".join(setting), "dim"))
    console.print()
    console.print(indent(make_result_table(trial)))
    for found in trial.contestants:
        if found.error:
            console.print(Text(f"  {found.name} failed: {found.error}", "red"))
    console.print()
    show_counters(console, trial)
    show_verdict(console, trial)


def make_result_table(trial: Trial) -> Table:
    ours = trial.ours
    numbers = ("median", "fastest", f"{ours} is faster by", "compiling, CPU", "error : eager's")
    table = make_table("", *numbers, "", right=numbers)
    for found in trial.contestants:
        style = "bold" if found.name == ours else ""
        if found.error or found.report is None:
            table.add_row(Text(found.name, style), *["-"] * len(numbers), Text("failed", "bold red"))
            continue
        times = trial.timing.summary()[found.name]
        beaten = found.name != ours and ours in trial.timing.samples
        ratio = str(trial.timing.ratio(found.name, ours)) if beaten else ""
        judged = Text("right", "green") if found.report.ok else Text("WRONG", "bold red")
        cells = [format_seconds(times["median_us"] * 1e-6), format_seconds(times["min_us"] * 1e-6), ratio]
        cells += [format_compiling(found, trial), f"{found.report.worst_ratio:.2f}" if found.report.rows else ""]
        table.add_row(Text(found.name, style), *cells, Text("") if found.name == EAGER else judged)
    return table


def shorten_version(text: str) -> str:
    """ "g++ (Debian 12.2.0-14) 12.2.0" -> "g++ 12.2.0"."""
    return re.sub(r" \(.*?\)", "", text)


def format_compiling(found: Contestant, trial: Trial) -> str:
    seconds = trial.compile_seconds(found.name)
    if seconds is None:
        return ""
    return format_seconds(seconds) + (" (cached)" if found.cached else "")


def show_counters(console: Console, trial: Trial) -> None:
    counted = trial.find(trial.ours).counters
    if not counted:
        return
    console.print(f"{trial.ours}: {describe_counts(counted)}")
    if counted.get("opaque"):
        console.print(Text("  `treadle explain` on the same file says which, and why", "dim"))


def show_verdict(console: Console, trial: Trial) -> None:
    report = trial.find(trial.ours).report
    if report is None:
        return
    if not report.ok:
        console.print(Text(f"WRONG: {len(report.failures)} of {len(report.rows)} results", "bold red"))
        console.print(Text(report.table(most=len(report.failures)), no_wrap=True, overflow="fold"))
        return
    results = format_count(len(report.rows), "value")
    text = f"right: {results} within {report.factor:g} times eager's own error against float64"
    judged = verdict(trial.timing, trial.ours, [found.name for found in trial.contestants])
    if judged:
        over = judged["over_best"]
        text += (
            f"; {over['median']:.2f}x [{over['low']:.2f}, {over['high']:.2f}] the speed of {judged['best']}, the best"
        )
    console.print(Text(text, "green"))
