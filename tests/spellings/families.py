"""Families of computations and the ways people spell them.

Each family is a function of a `Speller`, which answers every choice (how to scale, where to cast, how to write a mask,
which views to go through) at random. All spellings of one family compute the same function of the same inputs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
B, T, C = 2, 24, 40


class Speller:
    """Answers the choices of one spelling."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def pick(self, *ways: Callable[[], Tensor]) -> Tensor:
        return self.rng.choice(ways)()

    def noise(self, x: Tensor) -> Tensor:
        """Something that changes nothing: a clone, a view and back, a transpose and back, a cast and back."""
        return self.pick(
            lambda: x,
            lambda: x.clone(),
            lambda: x.contiguous(),
            lambda: x.reshape(-1).reshape(x.shape),
            lambda: x.flatten(0, 1).unflatten(0, x.shape[:2]) if x.dim() > 1 else x,
            lambda: x.transpose(0, -1).transpose(0, -1),
            lambda: x.unsqueeze(0).squeeze(0),
            lambda: x.to(torch.float32),
            lambda: F.dropout(x, 0.0, training=True),
            lambda: torch.einsum("...i->...i", x),
        )

    def scale(self, x: Tensor, by: float) -> Tensor:
        return self.pick(
            lambda: x * by,
            lambda: by * x,
            lambda: x / (1.0 / by),
            lambda: torch.mul(x, torch.full((), by)),
            lambda: x * math.sqrt(by) * math.sqrt(by) if by > 0 else x * by,
        )

    def product(self, *factors: Tensor) -> Tensor:
        """The factors in any order and grouping."""
        left = list(factors)
        self.rng.shuffle(left)
        while len(left) > 1:
            k = self.rng.randrange(len(left) - 1)
            left[k : k + 2] = [left[k] * left[k + 1]]
        return left[0]

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.pick(lambda: a + b, lambda: b + a, lambda: torch.add(a, b))

    def square(self, x: Tensor) -> Tensor:
        return self.pick(lambda: x * x, lambda: x**2, lambda: x.pow(2), lambda: torch.square(x))

    def mean(self, x: Tensor, keepdim: bool = True) -> Tensor:
        n = x.shape[-1]
        return self.pick(
            lambda: x.mean(-1, keepdim=keepdim),
            lambda: x.sum(-1, keepdim=keepdim) / n,
            lambda: x.sum(dim=-1, keepdim=keepdim) * (1.0 / n),
            lambda: torch.mean(x, dim=x.dim() - 1, keepdim=keepdim),
        )


def softmax_like(s: Speller, x: Tensor, g: Tensor) -> Tensor:
    """softmax(0.25 x) over the last dimension."""
    z = s.noise(s.scale(s.noise(x), 0.25))

    def by_hand() -> Tensor:
        m = s.pick(
            lambda: z.amax(-1, keepdim=True), lambda: z.max(-1, keepdim=True).values, lambda: z.max(-1)[0][..., None]
        )
        e = s.pick(lambda: torch.exp(z - m), lambda: (z - m).exp())
        return e / s.pick(lambda: e.sum(-1, keepdim=True), lambda: e.sum(-1).unsqueeze(-1))

    return s.noise(
        s.pick(
            lambda: F.softmax(z, dim=-1),
            lambda: torch.softmax(z, z.dim() - 1),
            lambda: z.transpose(1, 2).softmax(1).transpose(1, 2),
            lambda: F.softmax(z.reshape(B * T, C), dim=1).view(B, T, C),
            lambda: F.softmax(z, dim=-1, dtype=torch.float32),
            by_hand,
        )
    )


def norm_like(s: Speller, x: Tensor, g: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * g."""
    x = s.noise(x)
    v = s.add(s.mean(s.square(x)), torch.full((), 1e-6)) if s.rng.random() < 0.3 else s.mean(s.square(x)) + 1e-6
    weight = s.pick(lambda: g, lambda: g.view(1, 1, C), lambda: g.expand(B, T, C), lambda: g[None, None])
    r = s.pick(lambda: torch.rsqrt(v), lambda: v.rsqrt(), lambda: 1.0 / torch.sqrt(v), lambda: v.pow(-0.5))
    return s.noise(
        s.pick(
            lambda: s.product(x, r, weight),
            lambda: s.product(x / v.sqrt(), weight),
            lambda: x * weight / torch.sqrt(v),
            lambda: torch.einsum("btc,c->btc", s.product(x, r), g),
            lambda: s.product(s.noise(x), r, weight),
        )
    )


def causal(s: Speller) -> Tensor:
    """True where position j may be seen from position i: one (T, T) mask in many spellings."""
    i, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
    return s.pick(
        lambda: i >= j,
        lambda: j <= i,
        lambda: ~(j > i),
        lambda: torch.tril(torch.ones(T, T, dtype=torch.bool)),
        lambda: ~torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1),
        lambda: torch.ones(T, T).tril() != 0,
        lambda: (i - j) >= 0,
        lambda: torch.logical_not(torch.gt(j, i)),
    )


def masked_score(s: Speller, x: Tensor, g: Tensor) -> Tensor:
    """softmax of 0.5 x where position j <= i, -inf elsewhere; x is (B, T, T)."""
    z = s.scale(s.noise(x), 0.5)
    ok = causal(s)
    masked = s.pick(
        lambda: torch.where(ok, z, float("-inf")),
        lambda: z.masked_fill(~ok, float("-inf")),
        lambda: torch.where(~ok, torch.full((), float("-inf")), z),
        lambda: z + torch.where(ok, 0.0, float("-inf")),
        lambda: z + torch.zeros(T, T).masked_fill(~ok, float("-inf")),
        lambda: z + torch.triu(torch.full((T, T), float("-inf")), diagonal=1),
    )
    return s.noise(F.softmax(s.noise(masked), -1))


def loss_like(s: Speller, x: Tensor, g: Tensor) -> Tensor:
    """Half the mean square of x - g plus the logsumexp of x: one number a row."""
    y = g
    d = s.pick(lambda: x - y, lambda: x - y.view(1, 1, C), lambda: torch.sub(x, y))
    row = s.mean(s.square(s.noise(d)), keepdim=False)
    z = s.noise(x)
    lse = s.pick(
        lambda: torch.logsumexp(z, -1),
        lambda: torch.logsumexp(z, dim=2, keepdim=True).squeeze(-1),
        lambda: z.logsumexp(-1),
    )
    return s.noise(s.add(s.scale(row, 0.5), lse))


FAMILIES = {"softmax": softmax_like, "norm": norm_like, "masked score": masked_score, "loss": loss_like}


def inputs_of(family: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    shape = (B, T, T) if family == "masked score" else (B, T, C)
    rng = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=rng).to(dtype), torch.randn(C, generator=rng).to(dtype)
