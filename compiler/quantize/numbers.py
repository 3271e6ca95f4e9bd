"""Rounding to narrow numbers: every function takes and returns plain tensors, and none knows of layers.

x -> elements * scale: a scale is found from the largest magnitude along the last axis, the elements are x / scale
rounded to the nearest number of the format, ties to even, and held to its range.

A scale is never less than the smallest normal f32, so rows of zeros give zeros. NaN in x makes the scale NaN, and an
infinity makes it infinite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny
E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # and the same with a sign, the fourth bit
LARGEST_POWER = {"e4m3": 8, "e2m1": 2}  # of the format itself: 448 = 1.75 * 2^8, 6 = 1.5 * 2^2
BIAS = 127  # of a stored exponent


def widen(x: Tensor) -> Tensor:
    """f32, or f64 where x is: what scales are found and applied in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def find_scale(x: Tensor, limit: float | Tensor) -> Tensor:
    """[..., n] -> [..., 1]: the scale that takes the largest magnitude of a row to `limit`, f32 or wider."""
    return (widen(x.abs().amax(-1, keepdim=True)) / limit).clamp(min=TINY)


def round_int(x: Tensor, scale: Tensor, limit: Any) -> Tensor:
    """Whole numbers from -limit to limit, still floats; the limit is a number, or a tensor of them."""
    return (x / scale).round().clamp(-limit, limit)


def round_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """FP8 e4m3; what is beyond 448 becomes 448, as the clamp says: casts differ in it."""
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def round_e2m1(x: Tensor, scale: Tensor) -> Tensor:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with the sign of x, as floats; what is beyond 6 becomes 6."""
    scaled = x / scale
    size = scaled.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return ((scaled / step).round() * step).clamp(-6.0, 6.0)


def find_exponent(x: Tensor, largest: int) -> Tensor:
    """[..., n] -> i32[..., 1]: of the power of two that a block shares, such that 2^largest is the top of its elements.

    By `frexp`, which is exact: a logarithm rounds 2^k (1 - eps) up to k. Not below -126, so that the power is normal.
    """
    _, exponent = torch.frexp(widen(x.abs().amax(-1, keepdim=True)))
    return (exponent - 1 - largest).clamp(1 - BIAS, BIAS)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in f32, exactly."""
    return torch.exp2(exponent.float())


def find_power(x: Tensor, largest: int) -> Tensor:
    """[..., n] -> f32[..., 1]: the power of `find_exponent`, or NaN for a block that is not finite."""
    finite = x.abs().amax(-1, keepdim=True).isfinite()
    return torch.where(finite, power_of_two(find_exponent(x, largest)), torch.nan)


def round_to_table(x: Tensor, table: Tensor) -> Tensor:
    """The place in `table` [n], or in the row's own table [rows, n], of the value nearest to each of x [rows, m]."""
    ordered, places = table.expand(x.shape[0], -1).sort(-1)
    between = (ordered[:, 1:] + ordered[:, :-1]) / 2
    return places.gather(1, torch.searchsorted(between.contiguous(), x.contiguous()))


def find_clusters(x: Tensor, count: int, rounds: int = 25) -> Tensor:
    """k-means of each row by itself: [rows, m] -> [rows, count], ascending. Lloyd's rounds, from quantiles."""
    ordered = x.sort(-1).values
    middles = (torch.arange(count, device=x.device) * 2 + 1) * x.shape[1] // (2 * count)
    centres = ordered[:, middles]
    for _ in range(rounds):
        nearest = round_to_table(x, centres)
        total = torch.zeros_like(centres).scatter_add_(1, nearest, x)
        members = torch.zeros_like(centres).scatter_add_(1, nearest, torch.ones_like(x))
        moved = torch.where(members > 0, total / members.clamp(min=1), centres).sort(-1).values
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
