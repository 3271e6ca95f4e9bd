"""Norms and activations of image models, without their convolutions, in float32."""

from __future__ import annotations

import torch
from module_case import FILTERS, IMAGES, Case, one
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
GROUPS = 4


class GroupNormSiLU(nn.GroupNorm):
    """The head of a residual block in diffusion models."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return functional.silu(super().forward(x))


class BatchNormReLU(nn.BatchNorm2d):
    """In training: by the statistics of the batch, which move the running ones."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return functional.relu(super().forward(x))


class InstanceNorm(nn.InstanceNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)


class EvoNorm(nn.Module):
    """EvoNorm-S0: x * sigmoid(v * x) over the deviation of its group."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias, self.v = (nn.Parameter(torch.full((1, channels, 1, 1), a)) for a in (1.0, 0.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.view(x.shape[0], GROUPS, -1, *x.shape[2:])
        deviation = torch.sqrt(groups.var((2, 3, 4), unbiased=False, keepdim=True) + EPSILON)
        deviation = deviation.expand_as(groups).reshape(x.shape)
        return x * torch.sigmoid(self.v * x) / deviation * self.weight + self.bias


class FilterResponseNorm(nn.Module):
    """FRN, and the thresholded linear unit behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta, self.tau = (nn.Parameter(torch.full((1, channels, 1, 1), a)) for a in (1.0, 0.0, -1.0))

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + EPSILON)
        return torch.maximum(self.gamma * normed + self.beta, self.tau)


def pixel_norm(x: Tensor) -> Tensor:
    """The channels of each pixel have unit mean square (progressive GANs)."""
    return x / torch.sqrt(x.square().mean(1, keepdim=True) + EPSILON)


def local_response_norm(x: Tensor) -> Tensor:
    """AlexNet: over the energy of five neighbouring channels."""
    return functional.local_response_norm(x, size=5)


def standardize_weight(weight: Tensor) -> Tensor:
    """Weight standardisation: each filter of a convolution with mean 0 and deviation 1."""
    mean = weight.mean((1, 2, 3), keepdim=True)
    deviation = weight.std((1, 2, 3), keepdim=True)
    return (weight - mean) / (deviation + EPSILON)


class ChannelAttention(nn.Module):
    """Squeeze and excitation, with a scale and a bias for each channel where SE has its matmuls."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        squeezed = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return x * torch.sigmoid(squeezed * self.weight + self.bias)[:, :, None, None]


IMAGE_NORMS = (
    Case("group_norm_silu", GroupNormSiLU, one, IMAGES, torch.float32, features=1),
    Case("batch_norm_relu", BatchNormReLU, one, IMAGES, torch.float32, features=1),
    Case("instance_norm", InstanceNorm, one, IMAGES, torch.float32, features=1),
    Case("evo_norm", EvoNorm, one, IMAGES, torch.float32, features=1),
    Case("filter_response_norm", FilterResponseNorm, one, IMAGES, torch.float32, features=1),
    Case("pixel_norm", pixel_norm, one, IMAGES, torch.float32),
    Case("local_response_norm", local_response_norm, one, IMAGES, torch.float32),
    Case("weight_standardization", standardize_weight, one, FILTERS, torch.float32),
    Case("channel_attention", ChannelAttention, one, IMAGES, torch.float32, features=1),
)
