"""Narrow numbers: a small decoder with INT4 weights, what that costs, and what becomes of it when compiled.

    python examples/09_quantize.py
    treadle run examples/09_quantize.py
    treadle explain examples/09_quantize.py

`treadle.quantize` replaces each `nn.Linear` by a module whose forward is ordinary arithmetic. At one token a step,
the kernels of its products read the codes themselves: unpacking them is a part of what the kernels compute.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

import treadle
from treadle.compiler.quantize import measure

HEADS = 4


class Block(nn.Module):
    """Attention over the tokens so far, then a gated MLP; [batch, time, width] -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = self.norms[1](x)
        return x + self.down(silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """`lm_head` is left as it is: the rounding of logits is what is seen most."""

    def __init__(self, vocabulary: int = 1000, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.layers(self.embed(tokens)))


def make_model(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    return Decoder().to(dtype).eval()


def build(dtype: torch.dtype = torch.bfloat16, *, scheme: str = "w4a16") -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The quantized decoder and one token, i64[1, 1]."""
    return treadle.quantize(make_model(dtype), scheme), (torch.tensor([[7]]),)


def main() -> None:
    model, (small, inputs) = make_model(), build()
    texts = torch.randint(1000, (4, 32))
    print(measure(model, small, texts))
    compiled = torch.compile(small, backend="treadle")
    with torch.no_grad():
        ours, eager, before = compiled(*inputs), small(*inputs), model(*inputs)
    agreed = float(torch.cosine_similarity(eager.float(), before.float(), dim=-1))
    print(f"compiled and eager differ by {float((ours - eager).abs().max()):.1e} at most")
    print(f"logits before and after rounding point the same way: cosine {agreed:.4f}")


if __name__ == "__main__":
    main()
