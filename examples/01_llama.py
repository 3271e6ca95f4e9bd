"""The main job: a Llama-style decoder at a real width, with random weights.

    treadle run examples/01_llama.py
    treadle explain examples/01_llama.py
    python examples/01_llama.py

`build` returns the model and its inputs; `treadle run FILE[:FUNCTION]` calls it. The layers are equal, so their kernels
are compiled once.
"""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY = 32_000


def build(
    dtype: torch.dtype = torch.bfloat16, *, hidden: int = 1024, layers: int = 4, length: int = 256
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A decoder of `layers` layers and one text of `length` random tokens, i64[1, length]."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=max(2048, length),
        use_cache=False,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval(), {"input_ids": torch.randint(VOCABULARY, (1, length))}


def build_fp32() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return build(torch.float32)


def main() -> None:
    model, inputs = build()
    compiled = torch.compile(model, backend="treadle")
    with torch.no_grad():
        logits = compiled(**inputs).logits
    print(f"logits {tuple(logits.shape)}; the most likely next token is {int(logits[0, -1].argmax())}")


if __name__ == "__main__":
    main()
