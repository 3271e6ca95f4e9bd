"""Losses, norms and activations in plain PyTorch, forward and backward: time, errors and peak memory.

These are modules for which others write kernels by hand. Targets: geometric mean at least 1.6x over eager and 1.2x over
Inductor, peak memory 0.6 of eager's in the geometric mean, errors against float64 at most 1.5x of eager's own.

A step makes the outputs and the gradients of every input that learns and of every parameter. The gradients of the
outputs are the same numbers for all, and in float64. Its peak is the most bytes of tensors alive beyond the inputs and
parameters, with what a backend keeps from call to call; it is measured in steps of its own (see `allocations.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from allocations import bytes_of, measure_peak
from harness import Call, compile_for, geomean, measure, set_up, verdict
from module_case import Case
from module_cases import CASES
from parts import count_calls
from record import OURS, Record, contestants, count_pairs, make_parser, say
from steps import Function, Tensors, bind_step, draw_gradients, run_exactly
from summary import Row, describe, summarize_rows
from torch._dynamo.utils import counters

from treadle.compiler.check import Report, compare
from treadle.compiler.driver import collect

EAGER = "eager"
MOST_ERROR = 1.5  # times eager's
MOST_MEMORY = 0.6  # of eager's
QUICK_STRIDE = 6


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    plans = {name_row(case): case for case in (CASES[::QUICK_STRIDE] if args.quick else CASES)}
    record = Record("modules", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:46} {describe(row)}{describe_memory(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def name_row(case: Case) -> str:
    return f"{case.name} {'x'.join(map(str, case.sizes.full))} {str(case.dtype).removeprefix('torch.')}"


def measure_row(case: Case, names: list[str], ours: str, pairs: int) -> Row:
    """One case. `peak_bytes` has eager too, whoever is timed; `left_to_aten` counts what treadle did not compile.

    `least_bytes` are those of the outputs and gradients, which no backend can do without.
    """
    torch._dynamo.reset()
    counters.clear()
    function, inputs = case.make()
    given = draw_gradients(function, inputs)
    calls = {name: bind_step(compile_for(name, function), inputs, given) for name in names}
    plain = bind_step(function, inputs, given)
    with collect() as graphs:
        reports, least = check_steps(function, inputs, given, calls)
    peaks = {name: measure_peak(call) for name, call in {EAGER: plain, **calls}.items()}
    timing = measure(calls, pairs=pairs)
    return {
        "times": timing.summary(),
        "wrong": [name for name, report in reports.items() if not report.ok],
        "problems": {name: tell_problems(report) for name, report in reports.items() if not report.ok},
        "error_over_eager": {name: round(report.worst_ratio, 3) for name, report in reports.items()},
        "peak_bytes": peaks,
        "least_bytes": least,
        "memory_over_eager": {name: round(peaks[name] / peaks[EAGER], 4) for name in names if name != EAGER},
        "counters": dict(counters[OURS]),
        "graph_breaks": sum(counters["graph_break"].values()),
        "left_to_aten": dict(sum((count_calls(graph) for graph in graphs), Counter())),
        **verdict(timing, ours, names),
    }


def check_steps(
    function: Function, inputs: Tensors, given: Sequence[torch.Tensor], calls: Mapping[str, Call]
) -> tuple[dict[str, Report], int]:
    """The verdict on each contestant but eager, and the bytes of what a step returns."""
    outputs, gradients = eager = bind_step(function, inputs, given)()
    exact = run_exactly(function, inputs, given)
    reports = {
        name: compare(call(), eager, exact, factor=MOST_ERROR, strides=False)
        for name, call in calls.items() if name != EAGER
    }  # fmt: skip
    return reports, bytes_of((*outputs, *gradients), beside=(*inputs, *given))


def tell_problems(report: Report) -> list[str]:
    """Each tensor that is wrong: "0.n" is an output, "1.n" a gradient, of inputs and then of parameters."""
    return [f"{row.name} {row.dtype}{list(row.shape)}: {row.problem}" for row in report.failures]


def describe_memory(row: Row) -> str:
    shares = ", ".join(f"{name} {share:.2f}" for name, share in row["memory_over_eager"].items())
    left = f"  LEFT TO ATEN: {', '.join(row['left_to_aten'])}" if row["left_to_aten"] else ""
    fallen = "  FELL BACK" if row["counters"].get("fallback") else ""
    return f"  memory of eager's {row['peak_bytes'][EAGER] / 2**20:.0f} MiB: {shares}{left}{fallen}"


def summarize(rows: dict[str, Row]) -> dict[str, Any]:
    """What all suites say; memory in units of eager's, at the least too; what fell back or was left to ATen."""
    left = sum((Counter(row["left_to_aten"]) for row in rows.values()), Counter())
    least = [row["least_bytes"] / row["peak_bytes"][EAGER] for row in rows.values()]
    shares = shares_of(rows)
    return summarize_rows(rows) | {
        "memory_over_eager": {name: round(geomean(each.values()), 3) for name, each in shares.items()},
        "least_memory_over_eager": round(geomean(least), 3),
        "worst_memory": {name: max((share, key) for key, share in each.items()) for name, each in shares.items()},
        "memory_above": {
            name: sorted(key for key, share in each.items() if share > MOST_MEMORY) for name, each in shares.items()
        },
        "fell_back": sorted(name for name, row in rows.items() if row["counters"].get("fallback")),
        "broken": sorted(name for name, row in rows.items() if row["graph_breaks"]),
        "left_to_aten": dict(left.most_common()),
    }


def shares_of(rows: dict[str, Row]) -> dict[str, dict[str, float]]:
    """For each contestant but eager, its memory in units of eager's, by row."""
    shares: dict[str, dict[str, float]] = {}
    for key, row in rows.items():
        for name, share in row["memory_over_eager"].items():
            shares.setdefault(name, {})[key] = share
    return shares


if __name__ == "__main__":
    main()
