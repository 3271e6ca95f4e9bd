"""What a case of the module suite is, its sizes, and what draws its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from kernel_cases import Tensors, random
from torch import nn

Shape = tuple[int, ...]
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Sizes:
    """The shape of the main input: as it is measured, and a tiny one of the same rank for tests."""

    full: Shape
    tiny: Shape


HIDDEN = Sizes((2048, 4096), (6, 32))  # tokens, features
WIDE = Sizes((1024, 11008), (6, 32))  # tokens, features between the projections
SEQUENCES = Sizes((4, 512, 4096), (2, 5, 32))  # sequences, tokens, features
STREAMS = Sizes((2048, 4, 1024), (6, 4, 8))  # tokens, parallel residual streams, features
HEADS = Sizes((1, 32, 2048, 128), (2, 2, 5, 8))  # batch, heads, tokens, features of a head
SCORES = Sizes((1, 8, 1024, 1024), (2, 2, 5, 5))  # batch, heads, queries, keys
LOGITS = Sizes((512, 32000), (7, 19))  # tokens, vocabulary
MANY_LOGITS = Sizes((256, 128256), (7, 19))
ANSWERS = Sizes((8, 64, 32000), (4, 5, 19))  # sequences (chosen, then rejected), tokens, vocabulary
IMAGES = Sizes((16, 64, 56, 56), (2, 8, 5, 5))  # images, channels, height, width
FILTERS = Sizes((1024, 512, 3, 3), (8, 4, 3, 3))  # filters, channels, height, width
VECTORS = Sizes((16384, 512), (6, 16))  # samples, features
FORECASTS = Sizes((262144, 32), (6, 4))  # samples, quantiles
SIMILARITIES = Sizes((4096, 4096), (6, 6))  # images, texts


class Draw:
    """Draws tensors of one dtype for a main input of this shape; the same seed gives the same numbers."""

    def __init__(self, shape: Shape, dtype: torch.dtype, seed: int = 1) -> None:
        self.shape = shape
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)

    def fixed(self, *shape: int) -> torch.Tensor:
        """Normal numbers, of the main input's shape by default, that have no gradient."""
        return random(*(shape or self.shape), dtype=self.dtype, generator=self.generator)

    def learned(self, *shape: int) -> torch.Tensor:
        """The same with a gradient."""
        return self.fixed(*shape).requires_grad_()

    def classes(self, *shape: int, ignored: bool = False) -> torch.Tensor:
        """Numbers of columns of the main input, for each of its rows by default; some are IGNORED where asked."""
        shape = shape or self.shape[:-1]
        drawn = torch.randint(self.shape[-1], shape, generator=self.generator)
        return drawn.masked_fill(self.chosen(*shape, share=0.15), IGNORED) if ignored else drawn

    def chosen(self, *shape: int, share: float = 0.5) -> torch.Tensor:
        """True for about this share of the elements, but never for the first."""
        drawn = torch.rand(shape or self.shape, generator=self.generator) < share
        drawn.view(-1)[0] = False
        return drawn


@dataclass(frozen=True, slots=True)
class Case:
    """A function, or a class of modules that is made for the features on one axis; and what draws its inputs.

    features  the axis of the main input whose size the class is made with
    """

    name: str
    module: Callable[..., Any]
    inputs: Callable[[Draw], Tensors]
    sizes: Sizes
    dtype: torch.dtype = torch.bfloat16
    features: int = -1

    def make(self, shape: Shape | None = None) -> tuple[Callable[..., Any], Tensors]:
        """The function or module and its inputs, of the size that is measured by default."""
        draw = Draw(shape or self.sizes.full, self.dtype)
        if not isinstance(self.module, type):
            return self.module, self.inputs(draw)
        module: nn.Module = self.module(draw.shape[self.features])
        with torch.no_grad():
            for parameter in module.parameters():  # no ones and zeros, which would hide an error
                parameter += 0.2 * torch.randn(parameter.shape, generator=draw.generator)
        return module.to(self.dtype), self.inputs(draw)


def one(draw: Draw) -> Tensors:
    return (draw.learned(),)


def two(draw: Draw) -> Tensors:
    return draw.learned(), draw.learned()


def three(draw: Draw) -> Tensors:
    return draw.learned(), draw.learned(), draw.learned()


def with_other(draw: Draw) -> Tensors:
    """The main input and another of its shape that has no gradient."""
    return draw.learned(), draw.fixed()


def with_classes(draw: Draw) -> Tensors:
    return draw.learned(), draw.classes()


def with_targets(draw: Draw) -> Tensors:
    """Classes of which some are ignored."""
    return draw.learned(), draw.classes(ignored=True)
