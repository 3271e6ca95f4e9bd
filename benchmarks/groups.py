"""Products of tokens grouped by expert against eager and Inductor: SwiGLU of gate and up, and all that experts do.

Targets: no row below 0.97x of the best of eager and Inductor; geometric mean at least 1.3x. The router's choice is an
input. `gb_per_s` counts the matrices of the experts that were chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import bind, compile_for, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from summary import describe, judged_rows, mean_ratios, summarize_rows
from torch import Tensor
from torch.nn.functional import grouped_mm, silu

from treadle.compiler.check import compare

Shape = tuple[int, int, int, int]  # experts, those of a token, features, features between
SHAPES: dict[str, Shape] = {"mixtral": (8, 2, 1024, 3584), "qwen3": (64, 8, 1024, 512)}
TOKENS = (1, 16, 128, 1024)
QUICK = (1, 128)
LIMIT = 0.97
Grouped = Callable[[Tensor, Tensor, Tensor], Tensor]


def aten(x: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    return grouped_mm(x, matrices.transpose(1, 2), offs=offsets)


def in_float64(x: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """An expert at a time: the matrices of all would not fit."""
    ends = offsets.tolist()
    return torch.cat([x[a:b] @ m.double().t() for a, b, m in zip([0, *ends[:-1]], ends, matrices, strict=True)])


def gated(product: Grouped, x: Tensor, offsets: Tensor, gate_up: Tensor) -> Tensor:
    gate, up = product(x, gate_up, offsets).chunk(2, -1)
    return silu(gate) * up


def experts(product: Grouped, x: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """As transformers writes it: tokens sorted by expert, and their results put back and added."""
    count, chosen = gate_up.shape[0], index.shape[1]
    expert, order = torch.sort(index.reshape(-1))
    sizes = torch.histc(expert.float(), bins=count, min=0, max=count - 1)
    offsets = sizes.cumsum(0, dtype=torch.int32)
    y = product(gated(product, x[order // chosen], offsets, gate_up), down, offsets)
    y = y * weights.reshape(-1)[order, None]
    back = torch.empty_like(order)
    back[order] = torch.arange(order.shape[0])
    return y[back].view(x.shape[0], chosen, -1).sum(1)


CASES: dict[str, Callable[..., Tensor]] = {"gated": gated, "experts": experts}


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    counts = QUICK if args.quick else TOKENS
    plans = {f"{case} {name} {n}": (case, name, n) for case in CASES for name in SHAPES for n in counts}
    record = Record("groups", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(*plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:24} {describe(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def make_inputs(case: str, shape: Shape, tokens: int) -> list[Tensor]:
    count, chosen, features, between = shape
    generator = torch.Generator().manual_seed(tokens + features)
    normal = [
        torch.randn(s, generator=generator)
        for s in ((tokens, features), (count, 2 * between, features), (count, features, between), (tokens, count))
    ]
    x, gate_up, down, scores = normal
    gate_up, down = (gate_up * features**-0.5).bfloat16(), (down * between**-0.5).bfloat16()
    weights, index = torch.topk(torch.softmax(scores, -1), chosen, -1)
    if case == "experts":
        return [x.bfloat16(), index, weights.bfloat16(), gate_up, down]
    expert, order = torch.sort(index.reshape(-1))
    offsets = torch.bincount(expert, minlength=count).cumsum(0).to(torch.int32)
    return [x.bfloat16()[order // chosen], offsets, gate_up]


def measure_row(case: str, name: str, tokens: int, names: list[str], ours: str, pairs: int) -> dict[str, Any]:
    torch._dynamo.reset()
    function, shape = CASES[case], SHAPES[name]
    inputs = make_inputs(case, shape, tokens)

    def call(*given: Tensor) -> Tensor:
        return function(aten, *given)

    calls = {name: bind(compile_for(name, call), tuple(inputs)) for name in names}
    results = {name: call() for name, call in calls.items()}
    matrices = 1 if case == "gated" else 2
    wide = [x.double() if x.is_floating_point() else x for x in inputs[:-matrices]]
    eager, exact = call(*inputs), function(in_float64, *wide, *inputs[-matrices:])
    wrong = [name for name, got in results.items() if not compare(got, eager, exact).ok]
    timing = measure(calls, pairs=pairs)
    _, chosen, features, between = shape
    each = features * between * (2 if case == "gated" else 3)
    moved = 2 * each * hit_experts(case, inputs)
    speed = {name: round(moved / timing.median(name) / 1e9, 2) for name in names}
    rate = {name: round(2e-9 * tokens * chosen * each / timing.median(name), 1) for name in names}
    found = {"times": timing.summary(), "bytes": moved, "gb_per_s": speed, "gflop_per_s": rate, "wrong": wrong}
    return found | verdict(timing, ours, names)


def hit_experts(case: str, inputs: list[Tensor]) -> int:
    """Experts that have rows."""
    if case == "experts":
        return len(inputs[1].unique())
    return int((inputs[1].diff(prepend=inputs[1].new_zeros(1)) > 0).sum())


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all suites say, with this one's limit, and the means of each case and kind of experts."""
    judged = judged_rows(rows)
    parts: dict[str, dict[str, Any]] = {}
    for name, row in judged.items():
        parts.setdefault(name.rpartition(" ")[0], {})[name] = row
    return summarize_rows(rows) | {
        "below": sorted(name for name, row in judged.items() if row["over_best"]["high"] < LIMIT),
        "geomean_over_by_part": {part: mean_ratios(members) for part, members in sorted(parts.items())},
    }


if __name__ == "__main__":
    main()
