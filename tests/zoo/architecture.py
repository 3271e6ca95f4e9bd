"""One row of the zoo: which `transformers` model, with which tiny configuration, on which random inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

VOCABULARY = 99
BATCH = 2
LENGTH = 17  # odd, so that no tile fits
LABELS = 3
Inputs = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model class of `transformers` and its tiny configuration.

    family  decoder, encoder, encoder-decoder, moe, ssm, vision, image-text or audio
    inputs  (generator, configuration) -> the keyword arguments of a forward pass
    labels  (generator, inputs) -> further arguments with which the model returns a loss; None: it knows no loss
    """

    name: str
    family: str
    model: str
    config: Mapping[str, Any]
    inputs: Callable[[torch.Generator, Any], Inputs]
    labels: Callable[[torch.Generator, Inputs], Inputs] | None = None
    attention: str = ""  # the implementation to ask for; empty: the one that the class prefers
    bf16: bool = True  # False where eager itself has no bfloat16 kernel

    def build(
        self, seed: int = 0, *, dtype: torch.dtype = torch.float32, train: bool = False
    ) -> tuple[nn.Module, Inputs]:
        """The model with random weights in train mode (no dropout) or eval mode, and its inputs (labels if train)."""
        import transformers  # slow to import, and not needed to list the zoo

        model_class = getattr(transformers, self.model)
        config = model_class.config_class(**self.config, attn_implementation=self.attention or None)
        torch.manual_seed(seed)
        model = model_class(config)
        generator = torch.Generator().manual_seed(seed)
        randomize(model, generator)
        inputs = self.inputs(generator, config)
        if train and self.labels:
            inputs |= self.labels(generator, inputs)
        inputs = {name: cast(value, dtype) for name, value in inputs.items()}
        return model.to(dtype).train(train), inputs


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter an effect: matrices of unit gain, everything else moved off its initial value.

    The usual start (deviation 0.02, norms of one, biases of zero) keeps activations so small that a wrong softmax,
    bias or norm weight would hardly show in the outputs.
    """
    matrices = {id(module.weight): module.weight for module in model.modules() if has_matrix(module)}
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if id(parameter) in matrices:
                parameter.copy_(noise / math.sqrt(max(parameter[0].numel(), 1)))
            else:
                parameter.add_(0.1 * noise)


def has_matrix(module: nn.Module) -> bool:
    kinds = nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d
    return isinstance(module, kinds) and isinstance(module._parameters.get("weight"), nn.Parameter)


def cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def tokens(generator: torch.Generator, batch: int = BATCH, length: int = LENGTH) -> torch.Tensor:
    """Token ids i64[batch, length]; ids below 4 are left out, they are padding and other special tokens."""
    return torch.randint(4, VOCABULARY, (batch, length), generator=generator)


def text(generator: torch.Generator, config: Any) -> Inputs:
    return {"input_ids": tokens(generator)}


def padded_text(generator: torch.Generator, config: Any) -> Inputs:
    """Token ids and a mask whose second row ends five tokens early."""
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[1, -5:] = 0
    return {"input_ids": tokens(generator), "attention_mask": mask}


def text_pair(generator: torch.Generator, config: Any) -> Inputs:
    """Inputs of an encoder (padded) and, of another length, of a decoder."""
    return padded_text(generator, config) | {"decoder_input_ids": tokens(generator, length=11)}


def pixels(generator: torch.Generator, config: Any) -> Inputs:
    side = config.image_size if isinstance(getattr(config, "image_size", None), int) else 32
    channels = getattr(config, "num_channels", 3)
    return {"pixel_values": torch.randn(BATCH, channels, side, side, generator=generator)}


def same_tokens(generator: torch.Generator, inputs: Inputs) -> Inputs:
    """Labels of a language model: the input itself (a causal model shifts them on its own)."""
    return {"labels": inputs["input_ids"].clone()}


def decoder_tokens(generator: torch.Generator, inputs: Inputs) -> Inputs:
    return {"labels": inputs["decoder_input_ids"].clone()}


def one_class(generator: torch.Generator, inputs: Inputs) -> Inputs:
    """One class an example."""
    return {"labels": torch.randint(0, LABELS, (BATCH,), generator=generator)}
