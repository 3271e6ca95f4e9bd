"""FP8 tensors: their bytes, and the numbers that those stand for, as arithmetic that fuses like any other.

e4m3: s eeee mmm, bias 7, no infinities, NaN is all ones; e5m2: s eeeee mm, bias 15, as f16 with fewer digits.
Micikevicius et al., FP8 formats for deep learning, arXiv:2209.05433.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...ir.builder import GraphBuilder, Value
from ...ir.types import F32, I32, U8, Dim

SIGN = 128


@dataclass(frozen=True, slots=True)
class Format:
    """`digits` bits of fraction and `bias` of the exponent; whether the largest exponent is kept for infinities."""

    digits: int
    bias: int
    has_infinity: bool


FORMATS = {torch.float8_e4m3fn: Format(3, 7, False), torch.float8_e5m2: Format(2, 15, True)}


def view_bytes(g: GraphBuilder, value: Value, shape: tuple[Dim, ...], strides: tuple[Dim, ...] | None) -> Value:
    """The bytes of an FP8 tensor, where they lie."""
    tree = ((("tensor", 0), ("dtype", "uint8")), ())
    return g.call("aten.view.dtype", tree, [value], "view", shape, U8, strides)


def decode(g: GraphBuilder, held: Value, form: Format) -> Value:
    """The numbers of u8 `held` in f32, exactly."""
    x = g.cast(held, I32)
    whole = 1 << form.digits
    exponent = g.apply("shr", x & (SIGN - 1), form.digits)
    fraction = x & (whole - 1)
    digits = fraction + g.apply("where", exponent > 0, g.full((), whole, I32), g.full((), 0, I32))
    power = g.apply("max", exponent, 1) - (form.bias + form.digits)
    size = g.cast(digits, F32) * g.apply("exp2", g.cast(power, F32))
    if form.has_infinity:
        top = (SIGN - 1) >> form.digits
        beyond = g.apply("where", fraction > 0, g.full((), math.nan, F32), g.full((), math.inf, F32))
        size = g.apply("where", exponent >= top, beyond, size)
    else:
        size = g.apply("where", (x & (SIGN - 1)) >= SIGN - 1, g.full((), math.nan, F32), size)
    return g.apply("where", x >= SIGN, -size, size)
