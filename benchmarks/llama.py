"""The parts of a Llama layer around its products, and a decode step with INT4 weights, against eager and Inductor.

Rows: `inputs` is RMSNorm, QKV and rotary embedding, `feed_forward` is RMSNorm, gate and up, SwiGLU, down and the
residual, both of hidden size 4096 at several numbers of tokens; `decode` is one token through 8 layers of hidden size
2048 with 512 tokens in the cache, in bf16 and with the weights of each scheme. Targets: 1.25x over Inductor for the
parts; 3x over bf16 eager for decoding with w4a16.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from harness import bind, compile_for, measure, set_up, verdict
from record import Record, contestants, count_pairs, make_parser, say
from summary import describe, summarize_rows
from targets import DTYPES
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

import treadle
from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64, widen

HIDDEN, INNER, HEADS, KV_HEADS, WIDTH = 4096, 11008, 32, 8, 128
TOKENS = (1, 4, 16, 128, 512)
DECODED = ("bf16", "w4a16", "w8a16", "w8a8")
LAYERS, SMALL, PAST = 8, 2048, 512
EPSILON = 1e-5
EAGER = "eager"
Measure = Callable[[list[str], str, int], dict[str, Any]]


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    plans = plan_rows(args.quick)
    record = Record("llama", args)
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = plans[name](contestants(args), args.backend, count_pairs(args))
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:28} {describe(row)}")
    record.finish(summarize_rows(record.rows))
    say(str(record.document["summary"]))


def plan_rows(quick: bool) -> dict[str, Measure]:
    """The rows by name: what measures each, given the contestants, our name and the number of samples."""
    plans: dict[str, Measure] = {}
    for part, make in PARTS.items():
        for tokens in (1, 16) if quick else TOKENS:
            for name, dtype in DTYPES.items():
                plans[f"{part} {tokens} {name}"] = partial(measure_part, make, tokens, dtype)
    for scheme in DECODED[:2] if quick else DECODED:
        plans[f"decode {scheme}"] = partial(measure_decode, scheme)
    return plans


# --- parts of a layer --------------------------------------------------------------------------------------------


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


def attention_inputs(
    x: Tensor, norm: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    h = rms_norm(x, (x.shape[-1],), norm, EPSILON)
    heads = [linear(h, w).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for w in (q, k, v)]
    return rotate(heads[0], cos, sin), rotate(heads[1], cos, sin), heads[2]


def feed_forward(x: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    h = rms_norm(x, (x.shape[-1],), norm, EPSILON)
    return x + linear(silu(linear(h, gate)) * linear(h, up), down)


def draw(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal numbers; matrices such that products keep their size."""
    generator = torch.Generator().manual_seed(len(shapes))
    made = (torch.randn(s, generator=generator) for s in shapes)
    return [(t * t.shape[-1] ** -0.5 if t.ndim == 2 else t).to(dtype) for t in made]


def make_attention_inputs(tokens: int, dtype: torch.dtype) -> tuple[Any, tuple[Tensor, ...]]:
    shapes = (1, tokens, HIDDEN), (HIDDEN,), *((heads * WIDTH, HIDDEN) for heads in (HEADS, KV_HEADS, KV_HEADS))
    angles = torch.arange(tokens)[:, None] * 10000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    turned = [f(angles).repeat(1, 2).to(dtype) for f in (torch.cos, torch.sin)]
    return attention_inputs, (*draw(dtype, *shapes), *turned)


def make_feed_forward(tokens: int, dtype: torch.dtype) -> tuple[Any, tuple[Tensor, ...]]:
    shapes = (1, tokens, HIDDEN), (HIDDEN,), (INNER, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)
    return feed_forward, tuple(draw(dtype, *shapes))


PARTS = {"inputs": make_attention_inputs, "feed_forward": make_feed_forward}


def measure_part(
    make: Any, tokens: int, dtype: torch.dtype, names: list[str], ours: str, pairs: int
) -> dict[str, Any]:  # fmt: skip
    torch._dynamo.reset()
    function, inputs = make(tokens, dtype)
    calls = {name: bind(compile_for(name, function), inputs) for name in names}
    with in_float64():
        exact = function(*widen(inputs))
    eager = function(*inputs)
    wrong = [name for name, call in calls.items() if not compare(call(), eager, exact).ok]
    timing = measure(calls, pairs=pairs)
    return {"times": timing.summary(), "wrong": wrong} | verdict(timing, ours, names)


# --- decoding ----------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """One layer for one token, with a cache of keys and values that the token's own are written to."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ParameterList(nn.Parameter(torch.rand(SMALL) + 0.5) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(SMALL, SMALL, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(SMALL, 4 * SMALL, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * SMALL, SMALL, bias=False)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, at: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = rms_norm(x, (SMALL,), self.norms[0], EPSILON)
        q, k, v = (w(h).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for w in (self.q, self.k, self.v))
        keys.index_copy_(2, at, rotate(k, cos, sin))
        values.index_copy_(2, at, v)
        seen = scaled_dot_product_attention(rotate(q, cos, sin), keys, values)
        x = x + self.o(seen.transpose(1, 2).flatten(-2))
        h = rms_norm(x, (SMALL,), self.norms[1], EPSILON)
        return x + self.down(silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """A step of decoding: the last layer's output of one token."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(
        self, x: Tensor, keys: list[Tensor], values: list[Tensor], at: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:  # fmt: skip
        for layer, k, v in zip(self.layers, keys, values, strict=True):
            x = layer(x, k, v, at, cos, sin)
        return x


def measure_decode(scheme: str, names: list[str], ours: str, pairs: int) -> dict[str, Any]:
    """The plain bf16 model is `eager`, whatever the scheme; the others run the quantized one."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Decoder().bfloat16().eval()
    small = model if scheme == "bf16" else treadle.quantize(model, scheme)
    inputs = decode_inputs()
    calls = {name: bind(model if name == EAGER else compile_for(name, small), inputs) for name in names}
    got = {name: call() for name, call in calls.items()}
    plain, exact = small(*inputs), in_wide(small, inputs)
    wrong = [name for name, y in got.items() if name != EAGER and not compare(y, plain, exact, factor=2).ok]
    timing = measure(calls, pairs=pairs)
    return {"times": timing.summary(), "wrong": wrong} | verdict(timing, ours, names)


def decode_inputs() -> tuple[Any, ...]:
    heads = SMALL // WIDTH
    generator = torch.Generator().manual_seed(1)
    shapes = (1, 1, SMALL), *([(1, heads, PAST, WIDTH)] * (2 * LAYERS))
    x, *held = (torch.randn(s, generator=generator).bfloat16() for s in shapes)
    turned = (torch.rand(1, WIDTH, generator=generator).bfloat16() for _ in range(2))
    return x, held[:LAYERS], held[LAYERS:], torch.tensor([PAST - 1]), *turned


def in_wide(model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    """What the model computes in float32: quantized layers multiply in the type of their input."""
    wide = deepcopy(model).float()

    def widened(x: Any) -> Any:
        if isinstance(x, list):
            return [widened(t) for t in x]
        return x.float() if x.is_floating_point() else x

    return wide(*map(widened, inputs))


if __name__ == "__main__":
    main()
