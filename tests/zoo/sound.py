"""Audio models: they read waveforms or spectrograms."""

from __future__ import annotations

from typing import Any

import torch

from .architecture import BATCH, LABELS, VOCABULARY, Architecture, Inputs, one_class, tokens

SAMPLES = 801
FRAMES = 60  # of a spectrogram
WAVE_DROPOUT = {
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0,
    "final_dropout": 0.0, "layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0,
}  # fmt: skip
WAVE = WAVE_DROPOUT | {
    "vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 112,
    "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 2), "num_conv_pos_embeddings": 15,
    "num_conv_pos_embedding_groups": 4, "pad_token_id": 0, "ctc_loss_reduction": "mean",
}  # fmt: skip
WHISPER = {
    "vocab_size": VOCABULARY, "num_mel_bins": 16, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 112, "decoder_ffn_dim": 112,
    "max_source_positions": FRAMES // 2, "max_target_positions": 64, "dropout": 0.0, "use_cache": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None,
    "begin_suppress_tokens": None,
}  # fmt: skip
SPECTROGRAM = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 112, "patch_size": 8,
    "frequency_stride": 6, "time_stride": 7, "max_length": FRAMES, "num_mel_bins": 16, "num_labels": LABELS,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def wave(generator: torch.Generator, config: Any) -> Inputs:
    return {"input_values": torch.randn(BATCH, SAMPLES, generator=generator)}


def spectrogram(generator: torch.Generator, config: Any) -> Inputs:
    return {"input_values": torch.randn(BATCH, FRAMES, config.num_mel_bins, generator=generator)}


def speech(generator: torch.Generator, config: Any) -> Inputs:
    features = torch.randn(BATCH, config.num_mel_bins, FRAMES, generator=generator)
    return {"input_features": features, "decoder_input_ids": tokens(generator, length=11)}


def spoken_tokens(generator: torch.Generator, inputs: Inputs) -> Inputs:
    return {"labels": inputs["decoder_input_ids"].clone()}


def transcript(generator: torch.Generator, inputs: Inputs) -> Inputs:
    """Targets of the CTC loss."""
    return {"labels": torch.randint(1, 32, (BATCH, 5), generator=generator)}


SOUND = (
    Architecture("wav2vec2", "audio", "Wav2Vec2ForCTC", WAVE, wave, transcript),
    Architecture("hubert", "audio", "HubertForCTC", WAVE, wave, transcript),
    Architecture("wav2vec2_layer_norm", "audio", "Wav2Vec2ForCTC", WAVE | {
        "feat_extract_norm": "layer", "do_stable_layer_norm": True}, wave, transcript),
    Architecture("whisper", "audio", "WhisperForConditionalGeneration", WHISPER, speech, spoken_tokens),
    Architecture("audio_spectrogram", "audio", "ASTForAudioClassification", SPECTROGRAM, spectrogram, one_class),
)  # fmt: skip
