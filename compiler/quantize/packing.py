"""Codes of n bits in bytes, along the last axis.

n of 1, 2, 4, 8     fields of a byte, the first element lowest: of INT4, element 2j is the low half of byte j
n of 3, 5, 6, 7     n planes in front, [n, ..., bytes]: bit j % 8 of byte j // 8 of plane i is bit i of element j
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

FIELDS = (1, 2, 4, 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """u8[..., K] of values below 2^bits -> u8[..., ceil(K * bits / 8)], or planes."""
    if bits not in FIELDS:
        return pack_planes(codes, bits)
    per = 8 // bits
    whole = pad(codes, (0, -codes.shape[-1] % per)).unflatten(-1, (-1, per))
    return sum((whole[..., i] << (i * bits) for i in range(1, per)), whole[..., 0])


def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """The u8[..., length] that `pack` was given."""
    if bits not in FIELDS:
        return unpack_planes(packed, bits, length)
    if bits == 8:
        return packed
    parts = [_field(packed, low, bits) for low in range(0, 8, bits)]
    return torch.stack(parts, -1).flatten(-2)[..., :length]


def _field(packed: Tensor, low: int, bits: int) -> Tensor:
    shifted = packed >> low if low else packed
    return shifted if low + bits == 8 else shifted & (2**bits - 1)


def pack_planes(codes: Tensor, bits: int) -> Tensor:
    """u8[..., K] -> u8[bits, ..., ceil(K / 8)]."""
    return torch.stack([pack((codes >> i) & 1, 1) for i in range(bits)])


def unpack_planes(planes: Tensor, bits: int, length: int) -> Tensor:
    """The u8[..., length] that `pack_planes` was given."""
    places = torch.arange(8, dtype=torch.uint8, device=planes.device)
    found = (planes[..., None] >> places & 1).flatten(-2)[..., :length]
    return sum((found[i] << i for i in range(1, bits)), found[0])
