"""Activations and gates of language models, rotary embeddings and the softmax of attention, in bfloat16."""

from __future__ import annotations

import math

import torch
from kernel_cases import Tensors
from module_case import HEADS, SCORES, WIDE, Case, Draw, one, two
from torch import Tensor
from torch.nn import functional


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    return functional.gelu(gate, approximate="tanh") * up


def geglu_erf(gate: Tensor, up: Tensor) -> Tensor:
    return functional.gelu(gate) * up


def relu_squared(x: Tensor) -> Tensor:
    return functional.relu(x).square()


def glu(x: Tensor) -> Tensor:
    """Both halves in one tensor, the gate last."""
    return functional.glu(x, dim=-1)


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(functional.softplus(x))


def hard_swish(x: Tensor) -> Tensor:
    return x * functional.relu6(x + 3) / 6


def softplus_gate(x: Tensor, gate: Tensor) -> Tensor:
    return x * functional.softplus(gate)


def clamped_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gpt-oss: both sides limited, a steeper sigmoid, and one added to the linear side."""
    gate, up = gate.clamp(max=7.0), up.clamp(min=-7.0, max=7.0)
    return (up + 1) * gate * torch.sigmoid(1.702 * gate)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensors:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return (q * cos) + (rotate_half(q) * sin), (k * cos) + (rotate_half(k) * sin)


def causal_softmax(scores: Tensor) -> Tensor:
    """The probabilities of attention as `transformers` spells them, without the matmuls."""
    queries, keys = scores.shape[-2:]
    future = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    masked = (scores * 0.125).masked_fill(future, float("-inf"))
    return functional.softmax(masked, dim=-1, dtype=torch.float32).to(scores.dtype)


def alibi_softmax(scores: Tensor) -> Tensor:
    """Each head prefers near keys by a slope of its own."""
    heads, queries, keys = scores.shape[1:]
    slopes = torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])
    distance = torch.arange(keys)[None, :] - torch.arange(queries)[:, None]
    biased = scores.float() / math.sqrt(64) + slopes[:, None, None] * distance
    return functional.softmax(biased.masked_fill(distance > 0, float("-inf")), dim=-1).to(scores.dtype)


def with_angles(draw: Draw) -> Tensors:
    """Queries, keys, and the cosines and sines of the positions, [batch, tokens, features]."""
    batch, _, tokens, features = draw.shape
    angles = torch.arange(tokens)[:, None] * torch.logspace(0, -4, features // 2).repeat(2)
    angles = angles.expand(batch, -1, -1)
    return *two(draw), angles.cos().to(draw.dtype), angles.sin().to(draw.dtype)


GATES = (
    Case("swiglu", swiglu, two, WIDE),
    Case("geglu_tanh", geglu_tanh, two, WIDE),
    Case("geglu_erf", geglu_erf, two, WIDE),
    Case("relu_squared", relu_squared, one, WIDE),
    Case("glu", glu, one, WIDE),
    Case("mish", mish, one, WIDE),
    Case("hard_swish", hard_swish, one, WIDE),
    Case("softplus_gate", softplus_gate, two, WIDE),
    Case("clamped_swiglu", clamped_swiglu, two, WIDE),
    Case("rotary", apply_rotary_pos_emb, with_angles, HEADS),
    Case("causal_softmax", causal_softmax, one, SCORES),
    Case("alibi_softmax", alibi_softmax, one, SCORES),
)
