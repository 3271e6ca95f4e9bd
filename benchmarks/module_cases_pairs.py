"""Losses on vectors, similarities, forecasts and masks, in float32."""

from __future__ import annotations

import torch
from kernel_cases import Tensors
from module_case import FORECASTS, IMAGES, SIMILARITIES, VECTORS, Case, Draw, one, three, with_classes, with_other
from torch import Tensor, nn
from torch.nn import functional


class InfoNCE(nn.Module):
    """CLIP's loss, both ways, from the similarities of images and texts; the temperature is learned."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, similarities: Tensor) -> Tensor:
        logits = similarities * self.logit_scale.exp()
        target = torch.arange(logits.shape[0])
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.t(), target)) / 2


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return functional.triplet_margin_loss(anchor, positive, negative)


def cosine_embedding_loss(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return functional.cosine_embedding_loss(x, y, target, margin=-0.5)


def huber_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.huber_loss(prediction, target, reduction="sum")


def quantile_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """The pinball loss of forecasts [samples, quantiles] of one value a sample."""
    quantiles = (torch.arange(prediction.shape[-1]) + 1) / (prediction.shape[-1] + 1)
    error = target.unsqueeze(-1) - prediction
    return torch.maximum(quantiles * error, (quantiles - 1) * error).mean()


def hinge_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Every class but the right one should be a margin below it (Crammer and Singer's, summed)."""
    right = scores.gather(-1, target.unsqueeze(-1))
    margins = functional.relu(scores - right + 1)
    return margins.scatter(-1, target.unsqueeze(-1), 0.0).sum(-1).mean()


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the overlap of each class's mask with the right one."""
    probabilities = torch.sigmoid(logits)
    overlap = (probabilities * target).sum((2, 3))
    return (1 - (2 * overlap + 1) / (probabilities.sum((2, 3)) + target.sum((2, 3)) + 1)).mean()


def with_signs(draw: Draw) -> Tensors:
    return draw.learned(), draw.learned(), 1 - 2 * draw.chosen(draw.shape[0]).long()


def with_outcomes(draw: Draw) -> Tensors:
    return draw.learned(), draw.fixed(draw.shape[0])


def with_masks(draw: Draw) -> Tensors:
    return draw.learned(), draw.chosen(share=0.3).to(draw.dtype)


PAIR_LOSSES = (
    Case("info_nce", InfoNCE, one, SIMILARITIES, torch.float32),
    Case("triplet_loss", triplet_loss, three, VECTORS, torch.float32),
    Case("cosine_embedding_loss", cosine_embedding_loss, with_signs, VECTORS, torch.float32),
    Case("huber_loss", huber_loss, with_other, VECTORS, torch.float32),
    Case("quantile_loss", quantile_loss, with_outcomes, FORECASTS, torch.float32),
    Case("hinge_loss", hinge_loss, with_classes, VECTORS, torch.float32),
    Case("dice_loss", dice_loss, with_masks, IMAGES, torch.float32),
)
