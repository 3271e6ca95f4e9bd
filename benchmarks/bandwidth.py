"""Kernels that only move data, into outputs that are kept, against the machine's copy bandwidth.

Each function writes to a tensor that the caller holds (`out.copy_(f(x))` in the graph), so no page of a fresh output is
faulted in; a plain `copy_` of as many bytes runs in the same rounds. Of treadle the kernels alone are timed, of its
peers the call. Target: 85% of the copy's bytes a second, for kernels that are not done before a cache is left
(`beyond_caches`: more bytes than the caches of one core hold; the others are reported too).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import Call, bind, compile_for, measure, set_up
from kernel_cases import CASES, QUICK_SHAPES, SHAPES, Case, bytes_moved, make_inputs
from parts import find_body
from record import OURS, Record, contestants, count_pairs, make_parser, say
from targets import DTYPES

COPY = "copy"
TARGET = 0.85
CACHE = 2 << 20  # bytes: about what the first two levels of a core's caches hold


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    shapes = QUICK_SHAPES if args.quick else SHAPES
    plans = {
        f"{case.name} {shape[0]}x{shape[1]} {dtype}": (case, shape, dtype)
        for case in CASES if case.copies for shape in shapes for dtype in DTYPES
    }  # fmt: skip
    record = Record("bandwidth", args)
    for name in record.missing(plans, args.only):
        row = measure_row(*plans[name], contestants(args), count_pairs(args))
        record.add(name, row)
        shares = "  ".join(f"{who} {share['median']:.2f}" for who, share in row["share_of_copy"].items())
        say(f"{name:30} copy {row['copy_gb_per_s']:.1f} GB/s  {shares}")
    record.finish(summarize(record.rows, args.backend))
    say(str(record.document["summary"]))


def summarize(rows: dict[str, dict[str, Any]], ours: str) -> dict[str, Any]:
    """The worst share, and the rows that are below the target with their whole interval."""
    shares = {name: row["share_of_copy"][ours] for name, row in rows.items() if ours in row["share_of_copy"]}
    below = sorted(name for name, share in shares.items() if share["high"] < TARGET)
    return {
        "rows": len(shares),
        "worst_share_of_copy": min((share["median"] for share in shares.values()), default=None),
        "below_beyond_caches": [name for name in below if rows[name]["beyond_caches"]],
        "below_within_caches": [name for name in below if not rows[name]["beyond_caches"]],
    }


def measure_row(case: Case, shape: tuple[int, int], dtype: str, names: list[str], pairs: int) -> dict[str, Any]:
    """Each contestant's bytes a second as a share of the copy's, paired."""
    torch._dynamo.reset()
    inputs = make_inputs(case, shape, DTYPES[dtype])
    out = case.function(*inputs)
    moved = bytes_moved(case, inputs, out)
    source, target = (torch.ones(moved // 2, dtype=torch.uint8) for _ in range(2))
    calls = {name: make_call(name, keep_output(case.function), (out, *inputs)) for name in names}
    timing = measure({COPY: bind(target.copy_, (source,))} | calls, pairs=pairs)
    shares = {name: timing.ratio(COPY, name) for name in names}
    return {
        "bytes": moved,
        "beyond_caches": moved > CACHE,
        "copy_gb_per_s": round(moved / timing.median(COPY) / 1e9, 2),
        "share_of_copy": {name: {"median": r.median, "low": r.low, "high": r.high} for name, r in shares.items()},
        "times": timing.summary(),
    }


def make_call(name: str, function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Call:
    return find_body(function, inputs) if name == OURS else bind(compile_for(name, function), inputs)


def keep_output(function: Callable[..., torch.Tensor]) -> Callable[..., None]:
    def write(out: torch.Tensor, *inputs: torch.Tensor) -> None:
        out.copy_(function(*inputs))

    return write


if __name__ == "__main__":
    main()
