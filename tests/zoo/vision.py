"""Vision models and models of images with text."""

from __future__ import annotations

from typing import Any

import torch

from .architecture import (
    BATCH,
    LABELS,
    VOCABULARY,
    Architecture,
    Inputs,
    one_class,
    padded_text,
    pixels,
)

IMAGE = {"image_size": 32, "num_channels": 3, "num_labels": LABELS}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VIT = IMAGE | NO_DROPOUT | {
    "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 112,
}  # fmt: skip
STAGES = IMAGE | {"hidden_sizes": [16, 32], "depths": [1, 2]}
TOWER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 112}
TEXT_TOWER = TOWER | {
    "vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION_TOWER = TOWER | {"image_size": 32, "patch_size": 8}


def vision(name: str, model: str, config: dict[str, Any], **more: Any) -> Architecture:
    facts = {"family": "vision", "inputs": pixels, "labels": one_class} | more
    return Architecture(name, **facts, model=model, config=config)


def image_and_text(generator: torch.Generator, config: Any) -> Inputs:
    shape = (BATCH, 3, config.vision_config.image_size, config.vision_config.image_size)
    return padded_text(generator, config) | {"pixel_values": torch.randn(shape, generator=generator)}


def return_loss(generator: torch.Generator, inputs: Inputs) -> Inputs:
    """The contrastive loss has no labels."""
    return {"return_loss": True}


def segments(generator: torch.Generator, inputs: Inputs) -> Inputs:
    """One class a pixel."""
    return {"labels": torch.randint(0, LABELS, (BATCH, 32, 32), generator=generator)}


VISION = (
    vision("vit", "ViTForImageClassification", VIT),
    vision("deit", "DeiTForImageClassification", VIT),
    vision("beit", "BeitForImageClassification", VIT | {"use_relative_position_bias": True, "drop_path_rate": 0.0}),
    vision("dinov2", "Dinov2ForImageClassification", VIT | {"mlp_ratio": 2, "drop_path_rate": 0.0}),
    vision("swin", "SwinForImageClassification", IMAGE | NO_DROPOUT | {
        "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
        "drop_path_rate": 0.0}),
    vision("convnext", "ConvNextForImageClassification", STAGES | {
        "num_stages": 2, "patch_size": 2, "drop_path_rate": 0.0}),
    vision("resnet", "ResNetForImageClassification", STAGES | {"embedding_size": 16, "layer_type": "basic"}),
    vision("poolformer", "PoolFormerForImageClassification", STAGES | {
        "num_encoder_blocks": 2, "patch_sizes": [3, 3], "strides": [2, 2], "padding": [1, 1], "drop_path_rate": 0.0}),
    vision("segformer", "SegformerForSemanticSegmentation", STAGES | NO_DROPOUT | {
        "num_encoder_blocks": 2, "patch_sizes": [7, 3], "strides": [4, 2], "sr_ratios": [2, 1], "mlp_ratios": [2, 2],
        "num_attention_heads": [2, 4], "decoder_hidden_size": 32, "classifier_dropout_prob": 0.0,
        "drop_path_rate": 0.0}, labels=segments),
    Architecture("clip", "image-text", "CLIPModel", {
        "text_config": TEXT_TOWER, "vision_config": VISION_TOWER, "projection_dim": 48}, image_and_text, return_loss),
    Architecture("siglip", "image-text", "SiglipModel", {
        "text_config": TEXT_TOWER, "vision_config": VISION_TOWER}, image_and_text, return_loss),
)  # fmt: skip
