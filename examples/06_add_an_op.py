"""Teach treadle an operator of your own: one function that says what it computes, and it fuses like any other.

    python examples/06_add_an_op.py
    treadle explain examples/06_add_an_op.py

torch.compile hands treadle whatever your program calls, custom operators included. One that treadle does not know runs
as it is, between kernels. A *lowering* says the same in terms of the op table (`ir/ops`, `ir/scalar.py`); from then on
the operator is index maths, and the laws fuse it with what stands before and after it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from treadle.compiler.frontend.context import Context, Value, lowers


@torch.library.custom_op("example::soft_clip", mutates_args=())
def soft_clip(x: Tensor, limit: float) -> Tensor:
    """limit * tanh(x / limit): nearly x where x is small, never beyond the limit."""
    return (limit * torch.tanh(x.float() / limit)).to(x.dtype)


@soft_clip.register_fake
def describe_soft_clip(x: Tensor, limit: float) -> Tensor:
    """torch's side of the matter: the result's shape and dtype, without computing it."""
    return torch.empty_like(x)


def lower_soft_clip(cx: Context, x: Value, limit: float) -> Value:
    """treadle's side: `wide` gives the type that arithmetic is done in (f32 for bf16), `round` the result's, once."""
    return cx.round(cx.g.tanh(cx.wide(x) / limit) * limit)


def register() -> None:
    lowers("example.soft_clip.default")(lower_soft_clip)


def capped_scores(q: Tensor, k: Tensor) -> Tensor:
    """Scores that a capped attention would use: contraction, clip, mask, softmax."""
    scores = soft_clip(q @ k.T, 30.0)
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, float("-inf")), dim=-1)


def build(
    dtype: torch.dtype = torch.bfloat16, *, length: int = 256
) -> tuple[Callable[..., Tensor], tuple[Tensor, Tensor]]:
    """The function and two random matrices, [length, 64]."""
    register()
    torch.manual_seed(0)
    return capped_scores, (4 * torch.randn(length, 64, dtype=dtype), torch.randn(length, 64, dtype=dtype))


def main() -> None:
    function, inputs = build()
    counters.clear()
    compiled = torch.compile(function, backend="treadle")
    rows = compiled(*inputs).float().sum(-1)
    counted = dict(counters["treadle"])
    print(f"rows sum to {rows.min():.3f} .. {rows.max():.3f}")
    print(
        f"{counted['kernels']} kernels, {counted.get('library', 0)} library calls, "
        f"{counted.get('opaque', 0)} ops left to ATen"
    )


if __name__ == "__main__":
    main()
