"""One level of a diffusion U-Net: group norm + SiLU + convolution, a time embedding, self-attention over pixels.

Run it with `treadle run examples/04_unet_block.py`. The convolutions go to the library; everything around them (norms,
activations, residuals, layout) is ours.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

GROUPS = 32


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution, twice, with the time embedding added in between."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(GROUPS, inputs)
        self.convolve_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm_out = nn.GroupNorm(GROUPS, outputs)
        self.convolve_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.convolve_in(silu(self.norm_in(x)))
        h = h + self.time(silu(time))[:, :, None, None]
        h = self.convolve_out(silu(self.norm_out(h)))
        return h + self.shortcut(x)


class PixelAttention(nn.Module):
    """Every pixel attends to every other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        split = self.qkv(pixels).view(batch, height * width, 3, self.heads, channels // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)


class UNetBlock(nn.Module):
    """Residual block, attention, residual block, and a strided convolution to the next level."""

    def __init__(self, inputs: int = 64, channels: int = 128, heads: int = 4, time: int = 256) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(torch.exp(-math.log(10_000) * torch.arange(time // 2) / (time // 2)))
        self.embed = nn.Sequential(nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time))
        self.first = ResidualBlock(inputs, channels, time)
        self.attention = PixelAttention(channels, heads)
        self.second = ResidualBlock(channels, channels, time)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = step[:, None] * self.frequencies
        time = self.embed(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype))
        skip = self.second(self.attention(self.first(x, time)), time)
        return self.down(skip), skip


def build(
    dtype: torch.dtype = torch.bfloat16, *, batch: int = 2, side: int = 32
) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """The block, `batch` noisy images [batch, 64, side, side] and their time steps, float[batch]."""
    torch.manual_seed(0)
    model = UNetBlock().to(dtype).eval()
    return model, (torch.randn(batch, 64, side, side, dtype=dtype), torch.linspace(10, 900, batch).to(dtype))


def main() -> None:
    model, inputs = build()
    compiled = torch.compile(model, backend="treadle")
    with torch.no_grad():
        down, skip = compiled(*inputs)
    print(f"to the next level {tuple(down.shape)}, across the U {tuple(skip.shape)}")


if __name__ == "__main__":
    main()
