"""Whole models (the examples) against eager and Inductor, checked against float64, timed in turn.

Target: not below 0.97x of the better of eager and Inductor. `treadle run FILE` does the same for one file.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from harness import bind, compile_for, geomean, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from targets import DTYPES, EXAMPLES, MAIN_JOB, load_target, short_name

from treadle.compiler.reference import check

LIMIT = 0.97


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    targets = (MAIN_JOB,) if args.quick else EXAMPLES
    plans = {f"{short_name(target)} {dtype}": (target, dtype) for target in targets for dtype in DTYPES}
    record = Record("models", args)
    for name in record.missing(plans, args.only):
        row = measure_model(name, *plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def measure_model(name: str, target: str, dtype: str, names: list[str], ours: str, pairs: int) -> dict[str, Any]:
    torch._dynamo.reset()
    model, inputs = load_target(target, dtype)
    compiled = {who: compile_for(who, model) for who in names}
    accuracy: dict[str, dict[str, Any]] = {}
    for who, function in compiled.items():
        start = time.process_time()
        report = check(model, inputs, function) if who != "eager" else None
        if report:
            accuracy[who] = {"ok": report.ok, "worst_ratio": round(report.worst_ratio, 3)}
            say(f"{name:16} {who:10} first call and check {time.process_time() - start:.1f} CPU s; {accuracy[who]}")
    timing = measure({who: bind(function, inputs) for who, function in compiled.items()}, pairs=pairs)
    row = {"times": timing.summary(), "accuracy": accuracy} | verdict(timing, ours, names)
    for who, values in row["times"].items():
        over = row["over"][who] if who in row.get("over", {}) else None
        shown = f"  {over['median']:.2f} [{over['low']:.2f}, {over['high']:.2f}]" if over else ""
        say(f"{name:16} {who:10} {values['median_us'] / 1000:9.2f} ms{shown}")
    return row


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    judged = {name: row["over_best"] for name, row in rows.items() if "over_best" in row}
    wrong = [
        f"{name}: {who}" for name, row in rows.items() for who, found in row["accuracy"].items() if not found["ok"]
    ]
    return {
        "geomean_over_best": round(geomean(over["median"] for over in judged.values()), 3) if judged else None,
        "below": sorted(name for name, over in judged.items() if over["high"] < LIMIT),
        "wrong": wrong,
    }


if __name__ == "__main__":
    main()
