"""Weights as they are stored, and back: [N, K] floats -> tensors by name -> [N, K] elements and scales.

    codes     the elements: i8, packed u8 (see packing.py), or FP8
    scale     f32[N] or f32[1], which leaves the sum over K; or [N, K/g] in the layer's type; f32[N/128, K/128] of FP8
    zero      u8[N, K/g], the element that stands for 0 in asymmetric formats
    exponent  u8[N, K/g], a power of two as its exponent plus 127
    table     f32[values], or the rows' own tables [N, values] in the layer's type

Scales are rounded to the type they are stored in before the elements are chosen, so the elements fit what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from .numbers import (
    BIAS,
    E2M1,
    E4M3_MAX,
    LARGEST_POWER,
    find_clusters,
    find_exponent,
    find_scale,
    power_of_two,
    round_e2m1,
    round_e4m3,
    round_int,
    round_to_table,
)
from .packing import pack, pack_planes, unpack, unpack_planes
from .schemes import FP8_BLOCK, MX_BLOCK, Float8, Format, Int, Micro, Planes, Table, Ternary

Stored = dict[str, Tensor]
NAMES = ("codes", "scale", "zero", "exponent", "table")


# --- to storage --------------------------------------------------------------------------------------------------


def store_weight(weight: Tensor, form: Format, dtype: torch.dtype) -> Stored:
    """Round and pack weights [N, K], finite floats whose K the format's group divides, of a layer of that type."""
    w = weight.detach().float()
    narrow = dtype if dtype.itemsize < 4 else torch.float32
    if isinstance(form, Int):
        return _store_power(w, form) if form.power else _store_int(w, form, narrow)
    if isinstance(form, Planes):
        return _store_planes(w, form, narrow)
    if isinstance(form, Ternary):
        return _store_ternary(w)
    if isinstance(form, Float8):
        return _store_float8(w, form)
    if isinstance(form, Micro):
        return _store_micro(w, form)
    assert isinstance(form, Table)
    return _store_table(w, form, narrow)


def _store_int(w: Tensor, form: Int, narrow: torch.dtype) -> Stored:
    groups = _group(w, form.group)
    if form.symmetric:
        limit = 2 ** (form.bits - 1) - 1
        scale = _keep(groups.abs().amax(-1, keepdim=True) / limit, form.group, narrow)
        q = round_int(groups, _divisor(scale), limit).view(w.shape)
        return {"codes": _pack_int(q, form), "scale": _squeeze(scale, form.group)}
    low, high = (f(groups, -1, keepdim=True) for f in (torch.amin, torch.amax))
    low, high, top = low.clamp(max=0), high.clamp(min=0), 2**form.bits - 1
    scale = _keep((high - low) / top, 1, narrow)
    zero = (-low / _divisor(scale)).round().clamp(0, top)
    codes = ((groups / _divisor(scale)).round() + zero).clamp(0, top).view(w.shape)
    return {"codes": pack(codes.byte(), form.bits), "scale": scale[..., 0], "zero": zero[..., 0].byte()}


def _store_power(w: Tensor, form: Int) -> Stored:
    groups = _group(w, form.group)
    exponent = find_exponent(groups, form.bits - 2)  # |elements| stay below 2^(bits - 1)
    q = round_int(groups, power_of_two(exponent), 2 ** (form.bits - 1) - 1).view(w.shape)
    return {"codes": _pack_int(q, form), "exponent": (exponent[..., 0] + BIAS).byte()}


def _store_planes(w: Tensor, form: Planes, narrow: torch.dtype) -> Stored:
    """One bit is a sign, to which the mean magnitude is the scale of least squares; more are evenly spaced."""
    groups, top = _group(w, form.group).abs(), 2**form.bits - 1
    size = groups.mean(-1, keepdim=True) if form.bits == 1 else groups.amax(-1, keepdim=True) / top
    scale = _keep(size, form.group, narrow)
    codes = ((_group(w, form.group) / _divisor(scale) + top) / 2).round().clamp(0, top).view(w.shape)
    if form.bits == 1:
        codes = (w >= 0).float()  # rounding takes zero, the middle of the two, to the even one
    return {"codes": pack_planes(codes.byte(), form.bits), "scale": _squeeze(scale, form.group)}


def _store_ternary(w: Tensor) -> Stored:
    scale = w.abs().mean().reshape(1)
    return {"codes": pack((round_int(w, _divisor(scale), 1) + 1).byte(), 2), "scale": scale}


def _store_float8(w: Tensor, form: Float8) -> Stored:
    if form.grain != "block":
        scale = find_scale(w if form.grain == "row" else w.view(1, -1), E4M3_MAX)[:, 0]
        return {"codes": round_e4m3(w, scale[:, None]), "scale": scale}
    rows = -(-w.shape[0] // FP8_BLOCK)
    blocks = pad(w, (0, 0, 0, rows * FP8_BLOCK - w.shape[0])).view(rows, FP8_BLOCK, -1, FP8_BLOCK)
    scale = find_scale(blocks.transpose(1, 2).flatten(2), E4M3_MAX)[..., 0]
    spread = scale.repeat_interleave(FP8_BLOCK, 0)[: w.shape[0], :, None]
    return {"codes": round_e4m3(_group(w, FP8_BLOCK), spread).view(w.shape), "scale": scale}


def _store_micro(w: Tensor, form: Micro) -> Stored:
    groups, kind = _group(w, MX_BLOCK), "e4m3" if form.bits == 8 else "e2m1"
    exponent = find_exponent(groups, LARGEST_POWER[kind])
    stored = {"exponent": (exponent[..., 0] + BIAS).byte()}
    if form.bits == 8:
        return {"codes": round_e4m3(groups, power_of_two(exponent)).view(w.shape), **stored}
    value = round_e2m1(groups, power_of_two(exponent)).view(w.shape)
    values = torch.tensor(E2M1, device=w.device)
    code = torch.searchsorted(values, value.abs()) + 8 * (value < 0)
    return {"codes": pack(code.byte(), 4), "table": torch.cat((values, -values)), **stored}


def _store_table(w: Tensor, form: Table, narrow: torch.dtype) -> Stored:
    if not form.values:
        table = find_clusters(w, 2**form.bits).to(narrow)
        return {"codes": pack(round_to_table(w, table.float()).byte(), form.bits), "table": table}
    table = torch.tensor(form.values, device=w.device)
    scale = _keep(_group(w, form.group).abs().amax(-1, keepdim=True) / table.abs().max(), 1, narrow)
    scaled = (_group(w, form.group) / _divisor(scale)).view(w.shape)
    codes = round_to_table(scaled, table[None])
    return {"codes": pack(codes.byte(), form.bits), "scale": scale[..., 0], "table": table}


def _group(w: Tensor, group: int) -> Tensor:
    """[N, K] -> [N, K/g, g]."""
    return w.unflatten(-1, (-1, group or w.shape[-1]))


def _keep(scale: Tensor, group: int, narrow: torch.dtype) -> Tensor:
    """The scale as it is stored: a row's costs nothing in f32, a group's takes the layer's type."""
    return scale.to(narrow if group else torch.float32)


def _divisor(scale: Tensor) -> Tensor:
    """The scale, or 1 where it is 0: of a group of zeros, or of numbers that vanish beside the type's smallest."""
    return torch.where(scale == 0, 1.0, scale.float())


def _squeeze(scale: Tensor, group: int) -> Tensor:
    return scale[..., 0] if group else scale[:, 0, 0]


def _pack_int(q: Tensor, form: Int) -> Tensor:
    return q.to(torch.int8) if form.bits == 8 else pack((q + 2 ** (form.bits - 1)).byte(), form.bits)


# --- and back ----------------------------------------------------------------------------------------------------


def read_elements(form: Format, stored: Mapping[str, Tensor], columns: int, dtype: torch.dtype) -> Tensor:
    """[N, K], before the scale: whole numbers and FP8 are exact in every float type but those of 8 bits."""
    codes = stored["codes"]
    if isinstance(form, Planes):
        return (unpack_planes(codes, form.bits, columns).to(dtype) * 2) - (2**form.bits - 1)
    if isinstance(form, Ternary):
        return unpack(codes, 2, columns).to(dtype) - 1
    if isinstance(form, Float8) or form == Micro(8):
        return codes.to(dtype)
    if isinstance(form, (Table, Micro)):
        return _look_up(stored["table"].to(dtype), unpack(codes, form.bits, columns))
    assert isinstance(form, Int)
    if not form.symmetric:
        groups = _group(unpack(codes, form.bits, columns), form.group)
        return (groups.to(dtype) - stored["zero"][..., None].to(dtype)).flatten(-2)
    return codes.to(dtype) if form.bits == 8 else unpack(codes, form.bits, columns).to(dtype) - 2 ** (form.bits - 1)


def _look_up(table: Tensor, codes: Tensor) -> Tensor:
    return table[codes.long()] if table.dim() == 1 else table.gather(1, codes.long())


def read_scale(form: Format, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor | None:
    """A scale for each group, [N, K/g], [N, 1] or [1, 1]; None where the elements are the weights."""
    if "exponent" in stored:
        return power_of_two(stored["exponent"].to(torch.int32) - BIAS).to(dtype)
    if "scale" not in stored:
        return None
    scale = stored["scale"].to(dtype)
    if isinstance(form, Float8) and form.grain == "block":
        return scale[:, None].expand(-1, FP8_BLOCK, -1).flatten(0, 1)
    return scale if scale.dim() == 2 else scale[:, None]


def read_weight(form: Format, stored: Mapping[str, Tensor], columns: int, dtype: torch.dtype) -> Tensor:
    """[N, K] floats: elements times scales."""
    elements = read_elements(form, stored, columns, dtype)
    scale = read_scale(form, stored, dtype)
    if scale is None:
        return elements
    groups = _group(elements, columns // scale.shape[1])
    return (groups * scale[: elements.shape[0], :, None]).flatten(-2)


def is_per_row(form: Format) -> bool:
    """Whether the scale leaves the sum over K: one for each output channel, or for all."""
    if isinstance(form, Float8):
        return form.grain != "block"
    if isinstance(form, (Int, Planes)):
        return not form.group and not (isinstance(form, Int) and (form.power or not form.symmetric))
    return isinstance(form, Ternary)
