"""Norms of language models and what stands beside them, in bfloat16, spelled as in the models' own code."""

from __future__ import annotations

import torch
from kernel_cases import Tensors
from module_case import HEADS, HIDDEN, SEQUENCES, STREAMS, Case, Draw, one, two
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6
GROUPS = 8
VOCABULARY = 8192


class LlamaRMSNorm(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = EPSILON

    def forward(self, hidden_states: Tensor) -> Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class GemmaRMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        output = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
        return (output * (1.0 + self.weight.float())).type_as(x)


class AddRMSNorm(LlamaRMSNorm):
    """The residual sum and its norm, both of which go on."""

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensors:  # type: ignore[override]
        residual = residual + hidden_states
        return super().forward(residual), residual


class AddLayerNorm(nn.LayerNorm):
    """BERT's output block without its matmul."""

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(hidden_states + residual)


class QKNorm(nn.Module):
    """Queries and keys normalised within each head (Qwen 3)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.q_norm = LlamaRMSNorm(head_dim)
        self.k_norm = LlamaRMSNorm(head_dim)

    def forward(self, q: Tensor, k: Tensor) -> Tensors:
        return self.q_norm(q), self.k_norm(k)


class GatedRMSNorm(LlamaRMSNorm):
    """Mamba 2: the gate goes first."""

    def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(hidden_states.float() * functional.silu(gate.float())).to(gate.dtype)


class GroupRMSNorm(nn.Module):
    """Each group of features has a norm of its own."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.float().view(*x.shape[:-1], GROUPS, -1)
        groups = groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + EPSILON)
        return self.weight * groups.view(x.shape).to(x.dtype)


class DynamicTanh(nn.Module):
    """DyT: a norm without statistics."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.weight + self.bias


class PolyNorm(nn.Module):
    """A weighted sum of the normalised third, second and first powers."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3) / 3)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        third, second, first = (
            power * torch.rsqrt(power.pow(2).mean(-1, keepdim=True) + EPSILON) for power in (wide**3, wide**2, wide)
        )
        return (self.weight[0] * third + self.weight[1] * second + self.weight[2] * first + self.bias).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm of diffusion transformers: shift and scale are those of the sequence."""
    normed = functional.layer_norm(x, x.shape[-1:], eps=EPSILON)
    return normed * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class EmbeddingNorm(nn.Module):
    """Rows of a table, normalised."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = LlamaRMSNorm(hidden_size)

    def forward(self, ids: Tensor, table: Tensor) -> Tensor:
        return self.norm(functional.embedding(ids, table))


class LayerScale(nn.Module):
    """A residual whose branch is scaled for each feature (CaiT)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((hidden_size,), 0.1))

    def forward(self, residual: Tensor, branch: Tensor) -> Tensor:
        return residual + self.gamma * branch


class TokenShift(nn.Module):
    """RWKV: each token mixed with the one before it, for keys, values and receptance."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(torch.full((hidden_size,), 0.5)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensors:
        before = functional.pad(x, (0, 0, 1, 0))[:, :-1]
        return tuple(x * mix + before * (1 - mix) for mix in (self.mix_k, self.mix_v, self.mix_r))


class HyperConnection(nn.Module):
    """Parallel residual streams mixed with each other, and a layer's output written to each of them."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.eye(streams))
        self.write = nn.Parameter(torch.ones(streams))

    def forward(self, streams: Tensor, output: Tensor) -> Tensor:
        mixing = torch.softmax(self.mixing.float(), -1).to(streams.dtype)
        mixed = (mixing[:, :, None] * streams.unsqueeze(-3)).sum(-2)
        return mixed + torch.sigmoid(self.write)[:, None] * output.unsqueeze(-2)


def with_modulation(draw: Draw) -> Tensors:
    batch, _, features = draw.shape
    return draw.learned(), draw.learned(batch, features), draw.learned(batch, features)


def with_ids(draw: Draw) -> Tensors:
    tokens, features = draw.shape
    ids = torch.randint(min(VOCABULARY, 2 * tokens), (tokens,), generator=draw.generator)
    return ids, draw.learned(min(VOCABULARY, 2 * tokens), features)


def with_output(draw: Draw) -> Tensors:
    tokens, _, features = draw.shape
    return draw.learned(), draw.learned(tokens, features)


NORMS = (
    Case("llama_rms_norm", LlamaRMSNorm, one, HIDDEN),
    Case("gemma_rms_norm", GemmaRMSNorm, one, HIDDEN),
    Case("add_rms_norm", AddRMSNorm, two, HIDDEN),
    Case("layer_norm", nn.LayerNorm, one, HIDDEN),
    Case("add_layer_norm", AddLayerNorm, two, HIDDEN),
    Case("qk_norm", QKNorm, two, HEADS),
    Case("gated_rms_norm", GatedRMSNorm, two, HIDDEN),
    Case("group_rms_norm", GroupRMSNorm, one, HIDDEN),
    Case("dynamic_tanh", DynamicTanh, one, HIDDEN),
    Case("poly_norm", PolyNorm, one, HIDDEN),
    Case("adaptive_layer_norm", modulate, with_modulation, SEQUENCES),
    Case("embedding_rms_norm", EmbeddingNorm, with_ids, HIDDEN),
    Case("layer_scale", LayerScale, two, HIDDEN),
    Case("token_shift", TokenShift, one, SEQUENCES),
    Case("hyper_connection", HyperConnection, with_output, STREAMS, features=1),
)
