"""The functions of the kernel suites: what memory-bound parts of real models spend their time in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import embedding, gelu, silu

SHAPES = ((64, 4096), (4096, 2048), (1000, 3001))
QUICK_SHAPES = ((64, 4096), (1000, 3001))
VOCABULARY = 8192
HEAD = 128
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A function of tensors and what makes them: (rows, columns, dtype, generator) -> inputs.

    copies  True where the function only moves data, so that copy bandwidth is its bound
    """

    name: str
    function: Callable[..., torch.Tensor]
    make: Callable[[int, int, torch.dtype, torch.Generator], Tensors]
    copies: bool = False


def random(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def one(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return (random(rows, columns, dtype=dtype, generator=generator),)


def two(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return one(rows, columns, dtype, generator) + one(rows, columns, dtype, generator)


def with_bias(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return (*two(rows, columns, dtype, generator), random(columns, dtype=dtype, generator=generator))


def with_angles(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    """Projected queries [rows, columns] and the cosines and sines of their positions, [rows, 128]."""
    angles = torch.arange(rows)[:, None] * torch.logspace(0, -4, HEAD // 2).repeat(2)
    return (*one(rows, columns, dtype, generator), angles.cos().to(dtype), angles.sin().to(dtype))


def table(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    ids = torch.randint(VOCABULARY, (rows,), generator=generator)
    return ids, random(VOCABULARY, columns, dtype=dtype, generator=generator)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return silu(gate) * up


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return gelu(x, approximate="tanh")


def rotary(q: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the heads of 128; columns beyond the last whole head stay as they are."""
    whole = q.shape[1] // HEAD * HEAD
    heads = q[:, :whole].unflatten(1, (-1, HEAD))
    turned = torch.cat([-heads[..., HEAD // 2 :], heads[..., : HEAD // 2]], dim=-1)
    rotated = (heads * cos[:, None] + turned * sin[:, None]).flatten(1)
    return torch.cat([rotated, q[:, whole:]], dim=1) if whole < q.shape[1] else rotated


def masked_scores(scores: torch.Tensor) -> torch.Tensor:
    """Scaled attention scores under a causal mask."""
    rows, columns = scores.shape
    future = torch.arange(columns)[None, :] > torch.arange(rows)[:, None] + (columns - rows)
    return (scores * 0.125).masked_fill(future, torch.finfo(scores.dtype).min)


def transpose(x: torch.Tensor) -> torch.Tensor:
    return x.t().contiguous()


def column_sum(x: torch.Tensor) -> torch.Tensor:
    return x.sum(0)


def residual_add(x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x + (y + bias)


def cast(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float32 if x.dtype == torch.bfloat16 else torch.bfloat16)


def tanh_chain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gated activations with a soft cap."""
    return 30 * torch.tanh(torch.tanh(x) * torch.sigmoid(y) / 30)


def cumulative_sum(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(-1)


CASES = (
    Case("swiglu", swiglu, two),
    Case("gelu_tanh", gelu_tanh, one),
    Case("rotary", rotary, with_angles),
    Case("masked_scores", masked_scores, one),
    Case("transpose", transpose, one, copies=True),
    Case("embedding", embedding, table, copies=True),
    Case("column_sum", column_sum, one),
    Case("residual_add", residual_add, with_bias, copies=True),
    Case("cast", cast, one, copies=True),
    Case("tanh_chain", tanh_chain, two),
    Case("cumsum", cumulative_sum, one),
)


def make_inputs(case: Case, shape: tuple[int, int], dtype: torch.dtype) -> Tensors:
    return case.make(*shape, dtype, torch.Generator().manual_seed(0))


def bytes_moved(case: Case, inputs: Tensors, output: Any) -> int:
    """What must be read and written at least: every input and output once; of an embedding table the rows used."""
    read = inputs if case.make is not table else (inputs[0], output)
    return sum(tensor.numel() * tensor.element_size() for tensor in (*read, output))
