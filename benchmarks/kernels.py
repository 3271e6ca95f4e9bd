"""Memory-bound kernels against eager and Inductor: calls as users make them, outputs freshly allocated.

Targets: geometric mean at least 1.5x over Inductor, no row below 0.95x of the better of eager and Inductor (a row
counts as below when its 95% interval is wholly below). `floor` is a backend that does nothing: where even that is
slower than the best peer, guards and wrappers decide, which every backend has. `kernel` is treadle's plan without them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from harness import bind, compile_for, geomean, measure, set_up, verdict
from kernel_cases import CASES, QUICK_SHAPES, SHAPES, Case, bytes_moved, make_inputs
from parts import empty_backend, find_body
from record import OURS, Record, contestants, count_pairs, make_parser, say
from summary import LIMIT, describe, judged_rows, summarize_rows
from targets import DTYPES

from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64, widen

Plan = tuple[Case, tuple[int, int], str]
FLOOR, KERNEL = "floor", "kernel"


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    plans = plan_rows(QUICK_SHAPES if args.quick else SHAPES)
    record = Record("kernels", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(*plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:30} {describe(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def plan_rows(shapes: tuple[tuple[int, int], ...]) -> dict[str, Plan]:
    return {
        f"{case.name} {rows}x{columns} {dtype}": (case, (rows, columns), dtype)
        for case in CASES for rows, columns in shapes for dtype in DTYPES
    }  # fmt: skip


def measure_row(
    case: Case, shape: tuple[int, int], dtype: str, names: list[str], ours: str, pairs: int
) -> dict[str, Any]:
    torch._dynamo.reset()
    inputs = make_inputs(case, shape, DTYPES[dtype])
    calls = {name: bind(compile_for(name, case.function), inputs) for name in names}
    eager = case.function(*inputs)
    with in_float64():
        exact = case.function(*widen(inputs))
    wrong = [name for name, call in calls.items() if not _is_right(case, call(), eager, exact)]
    calls[FLOOR] = bind(compile_for(empty_backend(eager), case.function), inputs)
    if ours == OURS:
        calls[KERNEL] = find_body(case.function, inputs)
    timing = measure(calls, pairs=pairs)
    moved = bytes_moved(case, inputs, eager)
    speed = {name: round(moved / timing.median(name) / 1e9, 2) for name in names}
    found = {"times": timing.summary(), "bytes": moved, "gb_per_s": speed, "wrong": wrong}
    found |= verdict(timing, ours, names)
    if "best" in found and ours == OURS:
        found["floor_over_best"] = timing.ratio(found["best"], FLOOR).median
        found["kernel_over_best"] = asdict(timing.ratio(found["best"], KERNEL))
    return found


def _is_right(case: Case, got: object, eager: torch.Tensor, exact: torch.Tensor) -> bool:
    """The mask's fill is the least value of the dtype, another one in float64: compare where there is no mask."""
    if case.name == "masked_scores":
        assert isinstance(got, torch.Tensor)
        masked = eager == torch.finfo(eager.dtype).min
        same = bool(((got == torch.finfo(got.dtype).min) == masked).all())
        return same and compare(got[~masked], eager[~masked], exact[~masked]).ok
    return compare(got, eager, exact).ok


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all suites say, and where the floor or the kernel alone is below the limit too."""
    judged = judged_rows(rows)
    between = [
        row["times"]["eager"]["median_us"] / row["times"]["inductor"]["median_us"]
        for row in rows.values() if {"eager", "inductor"} <= row["times"].keys()
    ]  # fmt: skip
    return summarize_rows(rows) | {
        "floor_below_too": sorted(name for name, row in judged.items() if row.get("floor_over_best", 1.0) < LIMIT),
        "kernel_below": sorted(
            n for n, row in judged.items() if row.get("kernel_over_best", row["over_best"])["high"] < LIMIT
        ),
        "geomean_inductor_over_eager": round(geomean(between), 3) if between else None,
    }


if __name__ == "__main__":
    main()
