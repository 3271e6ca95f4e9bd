"""A vision transformer (ViT-small at half depth) that classifies images: convolution, LayerNorm, GELU, attention.

Run it with `treadle run examples/02_vit.py`.
"""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 1000


def build(dtype: torch.dtype = torch.bfloat16, *, batch: int = 2) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model and `batch` random images, [batch, 3, 224, 224]."""
    from transformers import AutoModelForImageClassification, ViTConfig

    config = ViTConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536)
    torch.manual_seed(0)
    config.num_labels = CLASSES
    model = AutoModelForImageClassification.from_config(config, dtype=dtype)
    return model.eval(), {"pixel_values": torch.randn(batch, 3, 224, 224, dtype=dtype)}


def main() -> None:
    model, inputs = build()
    compiled = torch.compile(model, backend="treadle")
    with torch.no_grad():
        classes = compiled(**inputs).logits.argmax(-1)
    print(f"the images look like classes {classes.tolist()}")


if __name__ == "__main__":
    main()
