"""Linear layers with bias and GELU against eager and Inductor: few rows, as a model decodes, and many.

Targets: no row below 0.97x of the best of eager, Inductor and its max-autotune; geometric mean at least 1.3x in bf16,
in fp32 1.3x at up to 16 rows and 1.02x above. `--peers eager,inductor,max` adds Inductor's max-autotune with frozen
weights, which compiles for half a minute a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch._inductor.config as inductor
from harness import bind, compile_for, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from summary import describe, judged_rows, mean_ratios, summarize_rows
from targets import DTYPES

from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64, widen

Shape = tuple[int, int, int]  # rows, features in, features out
ROWS = (1, 4, 16, 128, 512, 4096)
FEATURES = (1024, 4096, 11008)
ODD = ((3, 1001, 777), (13, 4099, 1003), (37, 515, 4097))
QUICK = ((1, 4096, 4096), (4, 4096, 4096), (16, 4096, 4096), (13, 4099, 1003))
MOST = 1 << 34  # products of a row: beyond, a sample takes seconds on one core
FEW = 16
LIMIT = 0.97
MAX = "max"


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    shapes = QUICK if args.quick else plan_shapes()
    plans = {f"linear {rows}x{k}x{n} {dtype}": ((rows, k, n), dtype) for dtype in DTYPES for rows, k, n in shapes}
    record = Record("linears", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(*plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:30} {describe(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def plan_shapes() -> list[Shape]:
    whole = [(rows, k, n) for rows in ROWS for k in FEATURES for n in FEATURES if rows * k * n <= MOST]
    return [*whole, *ODD]


def layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(torch.nn.functional.linear(x, weight, bias))


def make_inputs(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    rows, k, n = shape
    generator = torch.Generator().manual_seed(rows + k + n)
    made = (torch.randn(s, generator=generator) for s in ((rows, k), (n, k), (n,)))
    x, weight, bias = made
    return x.to(dtype), (weight * k**-0.5).to(dtype), bias.to(dtype)


class Layer(torch.nn.Module):
    """The layer with parameters of its own, which compilers may treat as constants."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = torch.nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return layer(x, self.weight, self.bias)


def measure_row(shape: Shape, dtype: str, names: list[str], ours: str, pairs: int) -> dict[str, Any]:
    torch._dynamo.reset()
    x, weight, bias = make_inputs(shape, DTYPES[dtype])
    calls = {name: bind(compile_layer(name, weight, bias), (x,)) for name in names}
    results = {}
    for name, call in calls.items():
        with inductor.patch(freezing=name == MAX):
            results[name] = call()
    eager = layer(x, weight, bias)
    with in_float64():
        exact = layer(*widen((x, weight, bias)))
    wrong = [name for name, got in results.items() if not compare(got, eager, exact).ok]
    timing = measure(calls, pairs=pairs)
    moved = sum(t.numel() * t.element_size() for t in (x, weight, bias, eager))
    speed = {name: round(moved / timing.median(name) / 1e9, 2) for name in names}
    rate = {name: round(2e-9 * shape[0] * shape[1] * shape[2] / timing.median(name), 1) for name in names}
    found = {"times": timing.summary(), "bytes": moved, "gb_per_s": speed, "gflop_per_s": rate, "wrong": wrong}
    return found | verdict(timing, ours, names)


def compile_layer(name: str, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    own = Layer(weight, bias)
    if name == MAX:
        return torch.compile(own, backend="inductor", mode="max-autotune", dynamic=False)
    return compile_for(name, own)


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all suites say, with this one's limit, and the means of each dtype at few rows and at many."""
    judged = judged_rows(rows)
    parts: dict[str, dict[str, Any]] = {}
    for name, row in judged.items():
        _, shape, dtype = name.split()
        few = int(shape.partition("x")[0]) <= FEW
        parts.setdefault(f"{dtype} {'few' if few else 'many'} rows", {})[name] = row
    return summarize_rows(rows) | {
        "below": sorted(name for name, row in judged.items() if row["over_best"]["high"] < LIMIT),
        "geomean_over_by_part": {part: mean_ratios(members) for part, members in sorted(parts.items())},
    }


if __name__ == "__main__":
    main()
