"""Norms, losses, statistics and scans against eager and Inductor: forward alone, and forward with backward.

Targets: geometric mean at least 1.6x over Inductor, no row below 0.95x of the better of eager and Inductor (a row
counts as below when its 95% interval is wholly below), and errors against float64 at most 1.5x of eager's own.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import bind, compile_for, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from reduction_cases import DTYPES, QUICK_SHAPES, REDUCTIONS, SHAPES, Reduction, make_inputs
from steps import make_step
from summary import describe, judged_rows, mean_ratios, summarize_rows

from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64, widen

Plan = tuple[Reduction, tuple[int, int], torch.dtype, bool]
MOST_ERROR = 1.5  # times eager's


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    plans = plan_rows(QUICK_SHAPES if args.quick else SHAPES)
    record = Record("reductions", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        record.add(name, measure_row(*plans[name], contestants(args), args.backend, count_pairs(args)))
        say(f"{number:3}/{len(missing)} {name:48} {describe(record.rows[name])}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def plan_rows(shapes: tuple[tuple[int, int], ...]) -> dict[str, Plan]:
    """Every case, shape and type, forward; and those that learn, with backward too."""
    return {
        f"{case.name} {rows}x{columns} {str(dtype).removeprefix('torch.')} {'train' if train else 'forward'}":
            (case, (rows, columns), dtype, train)
        for case in REDUCTIONS for rows, columns in shapes for dtype in DTYPES for train in (False, True)
        if case.learns or not train
    }  # fmt: skip


def measure_row(
    case: Reduction, shape: tuple[int, int], dtype: torch.dtype, train: bool, names: list[str], ours: str, pairs: int
) -> dict[str, Any]:
    torch._dynamo.reset()
    inputs = make_inputs(case, shape, dtype)
    prepare = make_step if train else bind
    eager = prepare(case.function, inputs)()
    with in_float64():
        exact = prepare(case.function, widen(inputs))()
    calls = {name: prepare(compile_for(name, case.function), inputs) for name in names}
    reports = {name: compare(call(), eager, exact, factor=MOST_ERROR, strides=False) for name, call in calls.items()}
    timing = measure(calls, pairs=pairs)
    return {
        "times": timing.summary(),
        "wrong": [name for name, report in reports.items() if not report.ok],
        "error_over_eager": {name: round(report.worst_ratio, 3) for name, report in reports.items()},
        **verdict(timing, ours, names),
    }


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all suites say, and the means of forward and of training."""
    judged = judged_rows(rows)

    def means(kind: str) -> dict[str, float]:
        return mean_ratios({name: row for name, row in judged.items() if name.endswith(kind)})

    found = summarize_rows(rows)
    return found | {"geomean_over_forward": means("forward"), "geomean_over_train": means("train")}


if __name__ == "__main__":
    main()
