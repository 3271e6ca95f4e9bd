"""Inputs as a layer rounds them, anew for each call: x [..., K] -> elements and scales.

Rows that hold NaN or an infinity give no finite result (the scale carries it); where the scale is static, NaN becomes 0
and infinities the largest number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .numbers import E4M3_MAX, LARGEST_POWER, find_power, find_scale, round_e4m3, round_int, widen
from .schemes import Float8, Format, Int, Micro, group_of

MIXED_LIMITS = (127.0, 7.0)  # of loud blocks, and of the others


def is_in_rows(form: Format | None) -> bool:
    """Whether the inputs' scale leaves the sum over K."""
    if isinstance(form, Float8):
        return form.grain != "block"
    return isinstance(form, Int) and not form.group


def round_rows(x: Tensor, form: Format, static_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """[..., K] -> elements (i8 or FP8) and their scales, [..., 1] or one for all."""
    if isinstance(form, Float8):
        scale = find_scale(x if form.grain == "row" else x.reshape(1, -1), E4M3_MAX)
        scale = scale if form.grain == "row" else scale[0]
        return round_e4m3(x, scale), scale
    assert isinstance(form, Int)
    limit = 2 ** (form.bits - 1) - 1
    scale = find_scale(x, limit) if static_scale is None else static_scale
    return round_int(x, scale, limit).to(torch.int8), scale


def round_groups(x: Tensor, form: Format, limits: Tensor | None) -> Tensor:
    """[..., K] -> the same, every block of it rounded by its own scale; f32 or wider."""
    groups = x.unflatten(-1, (-1, group_of(form)))
    if isinstance(form, Micro):
        scale = find_power(groups, LARGEST_POWER["e4m3"])
        return (round_e4m3(groups, scale).to(scale.dtype) * scale).flatten(-2)
    if isinstance(form, Float8):
        scale = find_scale(groups, E4M3_MAX)
        return (round_e4m3(groups, scale).to(scale.dtype) * scale).flatten(-2)
    if isinstance(form, Int) and form.power:
        scale = find_power(groups, form.bits - 2)
        return (round_int(groups, scale, 2 ** (form.bits - 1) - 1) * scale).flatten(-2)
    limit = limits if limits is not None else 2 ** (getattr(form, "bits", 0) - 1) - 1
    scale = find_scale(groups, limit)
    return (round_int(groups, scale, limit) * scale).flatten(-2)


def round_inputs(x: Tensor, form: Format | None, static_scale: Tensor | None, limits: Tensor | None) -> Tensor:
    """What the layer makes of its inputs, as floats of f32 or wider: for simulation and references."""
    if form is None:
        return widen(x)
    if not is_in_rows(form):
        return round_groups(x, form, limits)
    if not x.numel():
        return widen(x)
    elements, scale = round_rows(x, form, static_scale)
    return elements.to(scale.dtype) * scale
