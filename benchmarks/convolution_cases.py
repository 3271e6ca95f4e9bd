"""The convolutions of known image models, and the blocks that they stand in, written plainly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution with bias over an image of `side` x `side`, padded so that a step of 1 keeps its size."""

    channels: int
    outputs: int
    side: int
    window: int = 1
    step: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        kind = "depthwise" if self.groups > 1 else "pointwise" if self.window == 1 else "full"
        step = f"/{self.step}" if self.step > 1 else ""
        return f"{kind} {self.channels}-{self.outputs}x{self.window}{step}@{self.side}"

    def build(self) -> tuple[nn.Module, tuple[int, ...]]:
        pad = self.window // 2
        module = nn.Conv2d(self.channels, self.outputs, self.window, self.step, pad, groups=self.groups)
        return module, (1, self.channels, self.side, self.side)


def depthwise(channels: int, side: int, window: int = 3, step: int = 1) -> Conv:
    return Conv(channels, channels, side, window, step, channels)


RESNET = (
    Conv(3, 64, 224, 7, 2), Conv(64, 64, 56), Conv(64, 64, 56, 3), Conv(64, 256, 56), Conv(256, 64, 56),
    Conv(256, 512, 56, 1, 2), Conv(128, 128, 28, 3), Conv(512, 128, 28), Conv(256, 256, 14, 3), Conv(1024, 256, 14),
    Conv(512, 512, 7, 3), Conv(512, 2048, 7),
)  # fmt: skip
MOBILENET = (
    Conv(3, 32, 224, 3, 2), Conv(32, 16, 112), Conv(16, 96, 112), Conv(24, 144, 56), Conv(144, 32, 28),
    Conv(64, 384, 14), Conv(96, 576, 14), Conv(160, 960, 7), Conv(320, 1280, 7),
    depthwise(32, 112), depthwise(96, 112, 3, 2), depthwise(144, 56), depthwise(144, 56, 3, 2), depthwise(192, 28),
    depthwise(384, 14), depthwise(960, 7), depthwise(72, 56, 5, 2), depthwise(120, 28, 5), depthwise(672, 14, 5, 2),
    depthwise(576, 14, 5),
)  # fmt: skip
UNET = (Conv(320, 320, 32, 3), Conv(320, 640, 16, 3), Conv(640, 320, 16))


def layers(channels: int, outputs: int, window: int, step: int, groups: int, act: type[nn.Module]) -> list[nn.Module]:
    pad = window // 2
    conv = nn.Conv2d(channels, outputs, window, step, pad, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), act()]


class Bottleneck(nn.Module):
    """ResNet-50's block."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        narrow, full = layers(channels, inner, 1, 1, 1, nn.ReLU), layers(inner, inner, 3, 1, 1, nn.ReLU)
        self.body = nn.Sequential(*narrow, *full, *layers(inner, channels, 1, 1, 1, nn.Identity))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class InvertedResidual(nn.Module):
    """The block of MobileNetV2, and of V3 without its gate."""

    def __init__(self, channels: int, inner: int, window: int, act: type[nn.Module]) -> None:
        super().__init__()
        wide, deep = layers(channels, inner, 1, 1, 1, act), layers(inner, inner, window, 1, inner, act)
        self.body = nn.Sequential(*wide, *deep, *layers(inner, channels, 1, 1, 1, nn.Identity))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResBlock(nn.Module):
    """The block of a diffusion model's UNet, with the scale and shift that a time step gives."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.time = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.convs[0](silu(self.norms[0](x))) + self.time
        return x + self.convs[1](silu(self.norms[1](first)))


Build = Callable[[], tuple[nn.Module, tuple[int, ...]]]
BLOCKS: dict[str, Build] = {
    "block bottleneck 256@56": lambda: (Bottleneck(256, 64), (1, 256, 56, 56)),
    "block bottleneck 1024@14": lambda: (Bottleneck(1024, 256), (1, 1024, 14, 14)),
    "block inverted 24@56": lambda: (InvertedResidual(24, 144, 3, nn.ReLU6), (1, 24, 56, 56)),
    "block inverted 96@14": lambda: (InvertedResidual(96, 576, 3, nn.ReLU6), (1, 96, 14, 14)),
    "block inverted5 40@28": lambda: (InvertedResidual(40, 120, 5, nn.ReLU), (1, 40, 28, 28)),
    "block inverted5 112@14": lambda: (InvertedResidual(112, 672, 5, nn.Hardswish), (1, 112, 14, 14)),
    "block res 320@32": lambda: (ResBlock(320), (1, 320, 32, 32)),
}
CASES: dict[str, Build] = {c.name: c.build for c in (*RESNET, *MOBILENET, *UNET)} | BLOCKS


def build_case(name: str, dtype: torch.dtype, channels_last: bool) -> tuple[nn.Module, Tensor]:
    """A module in eval mode and its input, both of that layout; statistics of batch norms are random."""
    torch.manual_seed(len(name))
    module, shape = CASES[name]()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for value, low, high in (
                (m.running_mean, -1.0, 1.0), (m.running_var, 0.5, 2.0), (m.weight, 0.5, 1.5), (m.bias, -1.0, 1.0),
            ):  # fmt: skip
                assert value is not None
                value.data.uniform_(low, high)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    given: Any = module.eval().requires_grad_(False).to(dtype)  # torch's stubs lack the argument
    return given.to(memory_format=layout), torch.randn(shape).to(dtype).to(memory_format=layout)
