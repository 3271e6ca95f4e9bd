"""Norms, losses, statistics and scans against eager and Inductor: forward alone, and forward with backward.

Targets: geometric mean at least 1.6x over Inductor, no row below 0.95x of the better of eager and Inductor (a row
counts as below when its 95% interval is wholly below), and errors against float64 at most 1.5x of eager's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import Call, bind, compile_for, geomean, measure, set_up, verdict
from kernels import LIMIT, describe
from record import Record, contestants, count_pairs, make_parser, say
from reduction_cases import DTYPES, QUICK_SHAPES, REDUCTIONS, SHAPES, Reduction, make_inputs

from treadle.compiler.check import compare

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
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    exact = prepare(case.function, wide)()
    calls = {name: prepare(compile_for(name, case.function), inputs) for name in names}
    reports = {name: compare(call(), eager, exact, factor=MOST_ERROR, strides=False) for name, call in calls.items()}
    timing = measure(calls, pairs=pairs)
    return {
        "times": timing.summary(),
        "wrong": [name for name, report in reports.items() if not report.ok],
        "error_over_eager": {name: round(report.worst_ratio, 3) for name, report in reports.items()},
        **verdict(timing, ours, names),
    }


def make_step(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Call:
    """A call that gives the outputs and every gradient, for the same random gradients of the outputs each time."""
    leaves = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs)
    learned = [x for x in leaves if x.is_floating_point()]
    with torch.enable_grad():
        first = outputs_of(function(*leaves))
    generator = torch.Generator().manual_seed(3)
    given = [torch.randn(y.shape, generator=generator).to(y.device, y.dtype) for y in first]

    def step() -> Any:
        with torch.enable_grad():
            found = outputs_of(function(*leaves))
        gradients = torch.autograd.grad(found, learned, given, allow_unused=True)
        return tuple(y.detach() for y in found), gradients

    return step


def outputs_of(result: Any) -> list[torch.Tensor]:
    """The outputs that have gradients."""
    flat = result if isinstance(result, tuple) else (result,)
    return [y for y in flat if y.requires_grad]


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Geometric means over each peer, of forward and of training; rows below the limit; rows that were wrong."""
    judged = {name: row for name, row in rows.items() if "over" in row}
    peers = sorted({peer for row in judged.values() for peer in row["over"]})

    def means(kind: str) -> dict[str, float]:
        chosen = [row for name, row in judged.items() if name.endswith(kind)]
        return {peer: round(geomean(row["over"][peer]["median"] for row in chosen), 3) for peer in peers}

    return {
        "rows": len(rows),
        "geomean_over": means(""),
        "geomean_over_forward": means("forward"),
        "geomean_over_train": means("train"),
        "below": sorted(name for name, row in judged.items() if row["over_best"]["high"] < LIMIT),
        "worst_over_best": min((row["over_best"]["median"] for row in judged.values()), default=None),
        "wrong": sorted(f"{name}: {', '.join(row['wrong'])}" for name, row in rows.items() if row["wrong"]),
    }


if __name__ == "__main__":
    main()
