"""A BERT encoder on a padded batch: embeddings, an attention mask, LayerNorm and GELU.

Run it with `treadle run examples/03_bert.py`.
"""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY = 30_522
LENGTH = 128


def build(dtype: torch.dtype = torch.bfloat16, *, batch: int = 4) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model and `batch` texts of random tokens, i64[batch, 128], each 16 tokens shorter than the one before."""
    from transformers import AutoModel, BertConfig

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config, dtype=dtype)
    lengths = LENGTH - 16 * torch.arange(batch)
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    return model.eval(), {
        "input_ids": torch.randint(1000, VOCABULARY, (batch, LENGTH)),
        "attention_mask": mask,
    }


def main() -> None:
    model, inputs = build()
    compiled = torch.compile(model, backend="treadle")
    with torch.no_grad():
        pooled = compiled(**inputs).pooler_output.float()
    similarity = nn.functional.cosine_similarity(pooled[:1], pooled[1:])
    print(f"similarity of the first text with the others: {[round(value, 3) for value in similarity.tolist()]}")


if __name__ == "__main__":
    main()
