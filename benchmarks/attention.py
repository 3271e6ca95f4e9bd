"""Attention against eager and Inductor: ATen's fused kernel in its forms, and the same in plain PyTorch.

Targets: causal 1x8x1024x64 and 1x32x2048x128 at least 1.6x over ATen's kernel and Inductor in bf16, 1.4x in fp32; plain
code with grouped heads, softcap and a window at least 5x over Inductor on that code. A window of 256 in 8192 keys costs
at most 1/12 of no mask, and 1/6 of a causal one (`window_shares` in the summary).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from harness import bind, compile_for, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from summary import describe, summarize_rows
from targets import DTYPES
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treadle.compiler.check import compare

Shape = tuple[int, int, int, int, int]  # batch, heads, heads of keys, queries and keys, numbers of a head
SMALL, LARGE, LONG = (1, 8, 8, 1024, 64), (1, 32, 32, 2048, 128), (1, 2, 2, 8192, 64)
GROUPED = (1, 16, 4, 2048, 64)
LIMIT = 0.97
WINDOW = 256


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A window over the keys, in plain code."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~((j <= i) & (i - j < WINDOW)), -math.inf), -1) @ v


def softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Grouped heads, softcap and a window, in plain code."""
    k, v = (x[:, :, None].expand(-1, -1, q.shape[1] // x.shape[1], -1, -1).flatten(1, 2) for x in (k, v))
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
    scores = torch.tanh(q @ k.mT * (q.shape[-1] ** -0.5 / 30)) * 30
    return torch.softmax(torch.where((j <= i) & (i - j < WINDOW), scores, -math.inf), -1) @ v


CASES: dict[str, tuple[Callable[..., Tensor], Shape]] = {
    "sdpa small": (sdpa, SMALL),
    "causal small": (causal, SMALL),
    "plain small": (plain, SMALL),
    "causal large": (causal, LARGE),
    "softcap grouped": (softcap, GROUPED),
    "sdpa long": (sdpa, LONG),
    "causal long": (causal, LONG),
    "window long": (window, LONG),
}
QUICK = ("causal small", "plain small", "softcap grouped")


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    cases = QUICK if args.quick else tuple(CASES)
    plans = {f"{case} {dtype}": (case, dtype) for dtype in DTYPES for case in cases}
    record = Record("attention", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(*plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:24} {describe(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def make_inputs(shape: Shape, dtype: torch.dtype) -> list[Tensor]:
    batch, heads, groups, length, width = shape
    generator = torch.Generator().manual_seed(length + width)
    return [torch.randn(batch, n, length, width, generator=generator).to(dtype) for n in (heads, groups, groups)]


def measure_row(case: str, dtype: str, names: list[str], ours: str, pairs: int) -> dict[str, Any]:
    torch._dynamo.reset()
    function, shape = CASES[case]
    inputs = make_inputs(shape, DTYPES[dtype])
    calls = {name: bind(compile_for(name, function), tuple(inputs)) for name in names}
    results = {name: call() for name, call in calls.items()}
    eager, exact = function(*inputs), in_pieces(function, inputs)
    wrong = [name for name, got in results.items() if not compare(got, eager, exact).ok]
    timing = measure(calls, pairs=pairs)
    return {"times": timing.summary(), "wrong": wrong} | verdict(timing, ours, names)


def in_pieces(function: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
    """The result in float64, a head of keys at a time: the scores of all would not fit."""
    q, k, v = (x.double() for x in inputs)
    each = q.shape[1] // k.shape[1]
    parts = [function(q[:, n * each : (n + 1) * each], k[:, n : n + 1], v[:, n : n + 1]) for n in range(k.shape[1])]
    return torch.cat(parts, 1)


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all suites say, with this one's limit, and what the window costs of the other masks."""
    shares: dict[str, dict[str, float]] = {}
    for dtype in DTYPES:
        times = {c: rows[f"{c} long {dtype}"]["times"]["treadle"]["median"] for c in ("sdpa", "causal", "window")
                 if f"{c} long {dtype}" in rows and "treadle" in rows[f"{c} long {dtype}"]["times"]}  # fmt: skip
        if len(times) == 3:
            shares[dtype] = {c: round(times["window"] / times[c], 3) for c in ("sdpa", "causal")}
    below = sorted(name for name, row in rows.items() if "over_best" in row and row["over_best"]["high"] < LIMIT)
    return summarize_rows(rows) | {"below": below, "window_shares": shares}


if __name__ == "__main__":
    main()
