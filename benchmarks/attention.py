"""Attention against eager and Inductor: ATen's fused kernel in its forms, and the same in plain PyTorch.

Targets: causal 1x8x1024x64 and 1x32x2048x128 at least 1.6x over ATen's kernel and Inductor in bf16, 1.4x in fp32; plain
code with grouped heads, softcap and a window at least 5x over Inductor on that code. A window of 256 in 8192 keys costs
at most 1/12 of no mask, and 1/6 of a causal one (`window_shares` in the summary). One query of 32 heads (8 of keys, of
4096 keys with 128 numbers) at least 2.2x over ATen's kernel, with keys and values of int8 1.5x more (`int8_gain`).
Gradients at least 1.3x over ATen's.

Cases with "gradients" are ATen's operator for those alone, with "step" a call forward and backward. For errors, results
and gradients are compared with float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from harness import bind, compile_for, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from steps import bind_step, draw_gradients, run_exactly
from summary import describe, summarize_rows
from targets import DTYPES
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treadle.compiler.check import compare

Function = Callable[..., Any]
Shape = tuple[int, int, int, int, int]  # batch, heads, heads of keys, queries and keys, numbers of a head
SMALL, LARGE, LONG = (1, 8, 8, 1024, 64), (1, 32, 32, 2048, 128), (1, 2, 2, 8192, 64)
GROUPED, DECODE = (1, 16, 4, 2048, 64), (1, 32, 8, 4096, 128)
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


def query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, enable_gqa=True)


def query_plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x[:, :, None].expand(-1, -1, q.shape[1] // x.shape[1], -1, -1).flatten(1, 2) for x in (k, v))
    return plain(q, k, v)


def query_int8(q: Tensor, k: Tensor, v: Tensor, of_k: Tensor, of_v: Tensor) -> Tensor:
    """Keys and values as bytes, with a scale for each of their numbers' channels."""
    return query_plain(q, k.to(q.dtype) * of_k, v.to(q.dtype) * of_v)


def gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor) -> tuple[Tensor, ...]:
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    found: tuple[Tensor, ...] = operator(grad, q, k, v, out, sums, 0.0, True)
    return found


FORWARD: dict[str, tuple[Function, Shape]] = {
    "sdpa small": (sdpa, SMALL),
    "causal small": (causal, SMALL),
    "plain small": (plain, SMALL),
    "causal large": (causal, LARGE),
    "softcap grouped": (softcap, GROUPED),
    "sdpa long": (sdpa, LONG),
    "causal long": (causal, LONG),
    "window long": (window, LONG),
}
QUERIES: dict[str, Function] = {"query": query, "query plain": query_plain, "query int8": query_int8}
STEPS: dict[str, tuple[Function, Shape]] = {
    "causal small step": (causal, SMALL),
    "plain small step": (plain, SMALL),
    "softcap grouped step": (softcap, GROUPED),
}
GRADIENTS: dict[str, Shape] = {"gradients small": SMALL, "gradients large": LARGE}
CASES = (*FORWARD, *QUERIES, *STEPS, *GRADIENTS)
QUICK = ("causal small", "softcap grouped", "query", "plain small step")


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    cases = QUICK if args.quick else CASES
    plans = {f"{case} {dtype}": (case, dtype) for dtype in DTYPES for case in cases}
    record = Record("attention", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(*plans[name], contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:24} {describe(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def make_inputs(shape: Shape, dtype: torch.dtype, queries: int = 0) -> list[Tensor]:
    batch, heads, groups, length, width = shape
    generator = torch.Generator().manual_seed(length + width)
    sizes = ((heads, queries or length), (groups, length), (groups, length))
    return [torch.randn(batch, *n, width, generator=generator).to(dtype) for n in sizes]


def measure_row(case: str, dtype: str, names: list[str], ours: str, pairs: int) -> dict[str, Any]:
    torch._dynamo.reset()
    calls, eager, exact = make_case(case, DTYPES[dtype], names)
    results = {name: call() for name, call in calls.items()}
    wrong = [name for name, got in results.items() if not compare(got, eager, exact).ok]
    timing = measure(calls, pairs=pairs)
    return {"times": timing.summary(), "wrong": wrong} | verdict(timing, ours, names)


def make_case(case: str, dtype: torch.dtype, names: list[str]) -> tuple[dict[str, Callable[[], Any]], Any, Any]:
    """(the calls of each contestant, eager's results, those in float64)"""
    if case in STEPS:
        function, shape = STEPS[case]
        leaves = tuple(x.requires_grad_() for x in make_inputs(shape, dtype))
        given = draw_gradients(function, leaves)
        steps = {name: bind_step(compile_for(name, function), leaves, given) for name in names}
        return steps, bind_step(function, leaves, given)(), run_exactly(function, leaves, given)
    if case in GRADIENTS:
        return of_operator(GRADIENTS[case], dtype, names)
    if case in QUERIES:
        function, inputs = QUERIES[case], make_inputs(DECODE, dtype, 1)
        if case == "query int8":
            inputs = in_bytes(inputs)
        exact = function(*(x if x.dtype is torch.int8 else x.double() for x in inputs))
    else:
        function, shape = FORWARD[case]
        inputs = make_inputs(shape, dtype)
        exact = in_pieces(function, inputs)
    calls = {name: bind(compile_for(name, function), tuple(inputs)) for name in names}
    return calls, function(*inputs), exact


def of_operator(shape: Shape, dtype: torch.dtype, names: list[str]) -> tuple[dict[str, Callable[[], Any]], Any, Any]:
    q, k, v = make_inputs(shape, dtype)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    inputs = (grad, q, k, v, *forward(q, k, v, 0.0, True))
    parts: list[tuple[Tensor, ...]] = []
    for n in range(q.shape[1]):
        wide = [x[:, n : n + 1].double().requires_grad_() for x in (q, k, v)]
        parts.append(torch.autograd.grad(causal(*wide), wide, grad[:, n : n + 1].double()))
    exact = tuple(torch.cat(x, 1) for x in zip(*parts, strict=True))
    calls = {name: bind(compile_for(name, gradients), inputs) for name in names}
    return calls, gradients(*inputs), exact


def in_bytes(inputs: list[Tensor]) -> list[Tensor]:
    q, *others = inputs
    scales = [x.float().abs().amax(2, keepdim=True) / 127 for x in others]
    held = [(x / s).round().to(torch.int8) for x, s in zip(others, scales, strict=True)]
    return [q, *held, *(s.to(q.dtype) for s in scales)]


def in_pieces(function: Function, inputs: list[Tensor]) -> Tensor:
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
    gains: dict[str, float] = {}
    for dtype in DTYPES:
        times = [rows.get(f"{c} {dtype}", {}).get("times", {}).get("treadle") for c in ("query", "query int8")]
        if all(times):
            gains[dtype] = round(times[0]["median"] / times[1]["median"], 3)
    below = sorted(name for name, row in rows.items() if "over_best" in row and row["over_best"]["high"] < LIMIT)
    return summarize_rows(rows) | {"below": below, "window_shares": shares, "int8_gain": gains}


if __name__ == "__main__":
    main()
