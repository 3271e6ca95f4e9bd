"""Convolutions of image models and the blocks that they stand in against eager and Inductor, in both memory layouts.

Target: no row below 0.97x of the best of eager and Inductor. Rows end in the element type and in `first` or `last`,
where the channels are.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from convolution_cases import CASES, build_case
from harness import bind, compile_for, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from summary import Row, describe, judged_rows, mean_ratios, summarize_rows
from targets import DTYPES

from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64

LAYOUTS = ("first", "last")
QUICK = (
    "depthwise 144-144x3@56", "pointwise 24-144x1@56", "full 64-64x3@56", "block inverted 24@56",
    "block bottleneck 256@56",
)  # fmt: skip
LIMIT = 0.97


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    cases = QUICK if args.quick else tuple(CASES)
    plans = {
        f"{case} {dtype} {layout}": (case, dtype, layout) for dtype in DTYPES for case in cases for layout in LAYOUTS
    }
    record = Record("convolutions", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(*plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:42} {describe(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def measure_row(case: str, dtype: str, layout: str, names: list[str], ours: str, pairs: int) -> Row:
    torch._dynamo.reset()
    module, x = build_case(case, DTYPES[dtype], layout == "last")
    calls = {name: bind(compile_for(name, module), (x,)) for name in names}
    results = {name: call() for name, call in calls.items()}
    eager = module(x)
    with in_float64():
        exact = deepcopy(module).double()(x.double())
    wrong = [name for name, got in results.items() if not compare(got, eager, exact).ok]
    timing = measure(calls, pairs=pairs)
    found: dict[str, Any] = {"times": timing.summary(), "wrong": wrong}
    return found | verdict(timing, ours, names)


def summarize(rows: dict[str, Row]) -> dict[str, Any]:
    """What all suites say, with this one's limit, and the means of each kind of row, element type and layout."""
    judged = judged_rows(rows)
    parts: dict[str, dict[str, Row]] = {}
    for name, row in judged.items():
        kind, *_, dtype, layout = name.split()
        parts.setdefault(f"{kind} {dtype} {layout}", {})[name] = row
    return summarize_rows(rows) | {
        "below": sorted(name for name, row in judged.items() if row["over_best"]["high"] < LIMIT),
        "geomean_over_by_part": {part: mean_ratios(members) for part, members in sorted(parts.items())},
    }


if __name__ == "__main__":
    main()
