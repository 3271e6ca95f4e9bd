"""Products of matrices as models have them: plain, gated, batched, of narrow weights that are unpacked on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import gelu, linear, silu

ROWS = (1, 16, 128, 4096)
QUICK_ROWS = (1, 16)
WIDTH = 4096  # columns and points of the sum
GROUP = 128  # weights that share a scale
HEADS, HEAD = 16, 64
LEAST_OF_BYTES = 32  # rows that the library takes for products of bytes
Tensors = tuple[torch.Tensor, ...]
Make = Callable[[int, int, torch.Generator], Tensors]


@dataclass(frozen=True, slots=True)
class Case:
    """A function of tensors, and what makes them: (rows, width, generator) -> inputs.

    least  rows that eager needs; `step`: what widths are multiples of
    """

    name: str
    function: Callable[..., torch.Tensor]
    make: Make
    least: int = 1
    step: int = 1


def halves(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator).bfloat16()


def whole(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


def with_weights(count: int) -> Make:
    def make(rows: int, width: int, generator: torch.Generator) -> Tensors:
        weights = [halves(width, width, generator=generator) / width**0.5 for _ in range(count)]
        return (halves(rows, width, generator=generator), *weights)

    return make


def with_bytes(rows: int, width: int, generator: torch.Generator) -> Tensors:
    scales = torch.rand(width, generator=generator).bfloat16() / 1000
    return halves(rows, width, generator=generator), whole(width, width, generator=generator), scales


def with_nibbles(rows: int, width: int, generator: torch.Generator) -> Tensors:
    packed = torch.randint(0, 256, (width, width // 2), generator=generator, dtype=torch.uint8)
    scales = torch.rand(width, width // GROUP, generator=generator).bfloat16() / 100
    return halves(rows, width, generator=generator), packed, scales


def all_bytes(rows: int, width: int, generator: torch.Generator) -> Tensors:
    both = whole(rows, width, generator=generator), whole(width, width, generator=generator)
    return *both, *(torch.rand(n, generator=generator) / 1000 for n in (rows, width))


def with_heads(rows: int, width: int, generator: torch.Generator) -> Tensors:
    return halves(HEADS, rows, HEAD, generator=generator), halves(HEADS, width, HEAD, generator=generator)


def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return gelu(linear(x, w))


def gated(x: torch.Tensor, g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return silu(linear(x, g)) * linear(x, u)


def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return torch.bmm(q, k.transpose(1, 2)) * HEAD**-0.5


def w8a16(x: torch.Tensor, q: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return linear(x, q.to(x.dtype) * s.unsqueeze(-1))


def w4a16(x: torch.Tensor, q: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    digits = torch.stack([q & 15, q >> 4], -1).view(q.shape[0], -1, GROUP)
    return linear(x, ((digits.to(x.dtype) - 8) * s.unsqueeze(-1)).view(q.shape[0], -1))


def w8a8(x: torch.Tensor, q: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return torch._int_mm(x, q.t()) * t.unsqueeze(-1) * s  # pyright: ignore[reportPrivateImportUsage]


CASES = (
    Case("mm", linear, with_weights(1)),
    Case("layer", layer, with_weights(1)),
    Case("gated", gated, with_weights(2)),
    Case("scores", scores, with_heads),
    Case("w8a16", w8a16, with_bytes),
    Case("w4a16", w4a16, with_nibbles, step=GROUP),
    Case("w8a8", w8a8, all_bytes, LEAST_OF_BYTES),
)


def make_inputs(case: Case, rows: int, width: int = WIDTH) -> Tensors:
    return case.make(rows, width, torch.Generator().manual_seed(0))
