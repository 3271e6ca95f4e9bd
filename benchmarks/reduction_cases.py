"""The functions of the reduction suites: norms, losses, statistics and scans in plain PyTorch, forward and backward.

Each takes tensors of [rows, columns]; norms over images see them as [images, channels, points].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from kernel_cases import Tensors, one, random, two
from torch.nn import functional

SHAPES = ((64, 4096), (4096, 2048), (1000, 3001), (8, 262144))
QUICK_SHAPES = ((64, 4096), (1000, 3001))
DTYPES = (torch.bfloat16, torch.float32)
IMAGES = 4
GROUPS = 32
EPSILON = 1e-5
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Reduction:
    """A function of tensors and what makes them: (rows, columns, dtype, generator) -> inputs.

    learns  False where nothing of it has a gradient
    """

    name: str
    function: Callable[..., Any]
    make: Callable[[int, int, torch.dtype, torch.Generator], Tensors]
    learns: bool = True


# --- inputs ------------------------------------------------------------------------------------------------------


def with_scale(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return (*one(rows, columns, dtype, generator), random(columns, dtype=dtype, generator=generator))


def with_scale_and_bias(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return (*with_scale(rows, columns, dtype, generator), random(columns, dtype=dtype, generator=generator))


def with_residual(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return (*two(rows, columns, dtype, generator), random(columns, dtype=dtype, generator=generator))


def as_images(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    channels = rows // gcd(rows, IMAGES)
    x = random(rows // channels, channels, columns, dtype=dtype, generator=generator)
    return x, random(channels, dtype=dtype, generator=generator), random(channels, dtype=dtype, generator=generator)


def with_targets(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    targets = torch.randint(columns, (rows,), generator=generator)
    return *one(rows, columns, dtype, generator), targets.masked_fill(torch.arange(rows) % 7 == 3, IGNORED)


def with_class_weights(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    weights = random(columns, dtype=dtype, generator=generator).abs() + 0.1
    return (*with_targets(rows, columns, dtype, generator), weights)


def with_mask(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    mask = torch.rand(rows, columns, generator=generator) < 0.7
    return (*one(rows, columns, dtype, generator), mask)


def table(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    size = min(8192, 2 * rows)
    ids = torch.randint(size, (rows,), generator=generator)
    return ids, random(size, columns, dtype=dtype, generator=generator)


# --- functions ---------------------------------------------------------------------------------------------------


def rms_norm_residual(x: torch.Tensor, residual: torch.Tensor, scale: torch.Tensor) -> Tensors:
    h = x + residual
    wide = h.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)).to(x.dtype) * scale, h


def layer_norm_gelu(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.gelu(functional.layer_norm(x, x.shape[-1:], scale, bias), approximate="tanh")


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(x, -1)


def masked_softmax(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x.masked_fill(~mask, float("-inf")), -1)


def cross_entropy(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(x.float(), target, ignore_index=IGNORED)


def cross_entropy_smoothed(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(x.float(), target, ignore_index=IGNORED, label_smoothing=0.1)


def cross_entropy_weighted(x: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(x.float(), target, weights.detach().float(), ignore_index=IGNORED, reduction="sum")


def cross_entropy_with_z_loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    z = torch.logsumexp(x.float(), -1)
    return functional.cross_entropy(x.float(), target, ignore_index=IGNORED) + 1e-4 * z.square().mean()


def group_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.group_norm(x, gcd(x.shape[1], GROUPS), scale, bias)


def batch_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(x, None, None, scale, bias, training=True)


def instance_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias)


def evo_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(x) over the deviation of its group (EvoNorm-S0)."""
    groups = x.float().unflatten(1, (gcd(x.shape[1], GROUPS), -1))
    deviation = torch.sqrt(groups.var((2, 3), unbiased=False, keepdim=True) + EPSILON)
    y = (groups * torch.sigmoid(groups) / deviation).flatten(1, 2).to(x.dtype)
    return y * scale[:, None] + bias[:, None]


def kl_divergence(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    log_p, log_q = torch.log_softmax(x.float(), -1), torch.log_softmax(y.float(), -1)
    return functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def jensen_shannon(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    p, q = torch.log_softmax(x.float(), -1), torch.log_softmax(y.float(), -1)
    m = torch.logaddexp(p, q) - 0.6931471805599453
    return 0.5 * ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)).mean()


def logsumexp(x: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(x, -1)


def normalized_embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.normalize(functional.embedding(ids, weight), dim=-1)


def clip_norm(x: torch.Tensor) -> torch.Tensor:
    norm = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)
    return x * (1.0 / (norm + 1e-6)).clamp(max=1.0).to(x.dtype)


def argmax(x: torch.Tensor) -> torch.Tensor:
    return x.argmax(-1)


def top_one(x: torch.Tensor) -> Tensors:
    return tuple(x.max(-1))


def cumulative_sum(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(-1)


REDUCTIONS = (
    Reduction("rms_norm_residual", rms_norm_residual, with_residual),
    Reduction("layer_norm_gelu", layer_norm_gelu, with_scale_and_bias),
    Reduction("softmax", softmax, one),
    Reduction("log_softmax", log_softmax, one),
    Reduction("masked_softmax", masked_softmax, with_mask),
    Reduction("cross_entropy", cross_entropy, with_targets),
    Reduction("cross_entropy_smoothed", cross_entropy_smoothed, with_targets),
    Reduction("cross_entropy_weighted", cross_entropy_weighted, with_class_weights),
    Reduction("cross_entropy_with_z_loss", cross_entropy_with_z_loss, with_targets),
    Reduction("group_norm", group_norm, as_images),
    Reduction("batch_norm", batch_norm, as_images),
    Reduction("instance_norm", instance_norm, as_images),
    Reduction("evo_norm", evo_norm, as_images),
    Reduction("kl_divergence", kl_divergence, two),
    Reduction("jensen_shannon", jensen_shannon, two),
    Reduction("logsumexp", logsumexp, one),
    Reduction("normalized_embedding", normalized_embedding, table),
    Reduction("clip_norm", clip_norm, one),
    Reduction("argmax", argmax, one, learns=False),
    Reduction("top_one", top_one, one),
    Reduction("cumsum", cumulative_sum, one),
)


def make_inputs(case: Reduction, shape: tuple[int, int], dtype: torch.dtype, seed: int = 1) -> Tensors:
    return case.make(*shape, dtype, torch.Generator().manual_seed(seed))
