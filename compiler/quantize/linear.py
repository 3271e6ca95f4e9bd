"""Quantized linear layers: y = x W^T + b in ordinary tensor arithmetic, which is what compilers read.

    WeightOnlyLinear   inputs as they are; weights read from their codes
    IntLinear          i8 x i8 -> i32, a scale per row of x and per output channel
    RowLinear          inputs rounded by rows (or as a whole); the product is of floats
    BlockLinear        inputs rounded by blocks along K; the product is of floats
    SimulatedLinear    the same numbers, all of them floats

All take x [..., K] of any float type and give [..., N] of that type. Scales of rows are applied to the sum in f32,
with the bias, and the result is rounded once to the type of x: in bf16 the scale, its product and the bias would round
three times more. Rounded operands are exact in the type they are multiplied in, integers of 8 bits and FP8 in bf16
among them; for fp16 see `find_product_type`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.parameter import Parameter

from .activations import is_in_rows, round_groups, round_inputs, round_rows
from .names import name_scheme
from .numbers import widen
from .schemes import Int, Scheme, Ternary
from .weights import is_per_row, read_elements, read_weight

TENSORS = (
    "codes", "scale", "zero", "exponent", "table",  # the weights: weights.py
    "input_scale",  # f32[1], of static inputs
    "smoother",  # f32[K], by which inputs are multiplied before they are rounded
    "order", "limits",  # i64[K] and f32[K/g, 1] of mixed inputs: which channels stand in which block, to how many bits
    "down", "up",  # [rank, K] and [N, rank] in the layer's type
)  # fmt: skip


def find_product_type(dtype: torch.dtype) -> torch.dtype:
    """What rounded operands are multiplied in: the type of x; f32 for fp16, whose range the sum would leave."""
    return torch.float32 if dtype == torch.float16 else dtype


def multiply_int8(x: Tensor, w: Tensor) -> Tensor:
    """i8[M, K], i8[N, K] -> i32[M, N]; where CUDA's product does not take the shape, in f64, which is exact too."""
    if x.is_cuda and (len(x) <= 16 or w.shape[0] % 8 or w.shape[1] % 8):
        return (x.double() @ w.double().t()).to(torch.int32)
    product: Tensor = torch.ops.aten._int_mm(x, w.t())
    return product


class QuantLinear(nn.Module):
    """What quantized layers share: their tensors, the bias, and what happens to x before it is rounded.

    scheme   how it was quantized; `weight` is what the stored tensors stand for, made when it is asked for
    """

    scale: Tensor
    input_scale: Tensor | None
    smoother: Tensor | None
    order: Tensor | None
    limits: Tensor | None
    down: Tensor
    up: Tensor | None  # with `down` or not at all
    bias: Parameter | None

    def __init__(self, scheme: Scheme, rows: int, columns: int, tensors: Mapping[str, Tensor], bias: Parameter | None):
        super().__init__()
        self.scheme = scheme
        self.out_features, self.in_features = rows, columns
        for name in TENSORS:
            self.register_buffer(name, tensors.get(name))
        self.register_parameter("bias", bias)

    def product(self, x: Tensor) -> Tensor:
        """x [..., K], as `prepare` leaves it -> [..., N], f32 or in the type of x, with the bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(self.prepare(x)).to(x.dtype)
        if self.up is not None:
            y = y + linear(linear(x, self.down), self.up)
        return y

    def prepare(self, x: Tensor) -> Tensor:
        """Inputs with their loud channels made quieter, in the order of the weights' columns."""
        if self.smoother is not None:
            x = x * self.smoother
        return x if self.order is None else x.index_select(-1, self.order)

    def round(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Elements of the inputs and their scales, of rows or of the whole."""
        assert self.scheme.activation is not None
        return round_rows(x, self.scheme.activation, self.input_scale)

    def elements(self, dtype: torch.dtype) -> Tensor:
        """[N, K] before the scale."""
        return read_elements(self.scheme.weight, self.stored(), self.in_features, dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[N, K] as the product sees it: for smoothed and reordered inputs, without the low-rank part."""
        return read_weight(self.scheme.weight, self.stored(), self.in_features, dtype)

    def stored(self) -> dict[str, Tensor]:
        return {name: t for name in TENSORS if (t := getattr(self, name)) is not None}

    def finish(self, y: Tensor) -> Tensor:
        """The sum by its last scales, plus the bias, before it is rounded."""
        y = y * self.scale
        return y if self.bias is None else y + self.bias

    @property
    def weight(self) -> Tensor:
        """[N, K] floats that act on x itself: what `nn.Linear.weight` was, rounded; of the bias's type, or f32."""
        w = self.dequantize(torch.float32)
        if self.order is not None:
            w = w.index_select(1, self.order.argsort())
        if self.smoother is not None:
            w = w * self.smoother
        if self.up is not None:
            w = w + self.up.float() @ self.down.float()
        return w if self.bias is None else w.to(self.bias.dtype)

    @property
    def bits_per_weight(self) -> float:
        """Of all that is stored beside the bias."""
        return sum(t.nbytes for t in self.stored().values()) * 8 / (self.out_features * self.in_features)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}, scheme={name_scheme(self.scheme)}"


class WeightOnlyLinear(QuantLinear):
    """y = (x q^T) s + b where a scale belongs to a row of the weights, else y = x (q s)^T + b."""

    def product(self, x: Tensor) -> Tensor:
        if is_per_row(self.scheme.weight) and x.dtype != torch.float16:  # |q| up to 255: fp16 would overflow
            return self.finish(widen(linear(x, self.elements(x.dtype))))
        return linear(x, self.dequantize(x.dtype), self.bias)


class IntLinear(QuantLinear):
    """q = round(x / t), y = (q w^T) t s + b: the sum is of integers, and exact."""

    def product(self, x: Tensor) -> Tensor:
        q, scale = self.round(x)
        total = multiply_int8(q.reshape(-1, self.in_features), self.elements(torch.int8))
        y = total.to(scale.dtype).reshape(*x.shape[:-1], self.out_features) * scale
        return self.finish(y)


class RowLinear(QuantLinear):
    """q = round(x / t), y = (q w^T) t s + b: a sum of floats, for FP8 or where weights have groups."""

    def product(self, x: Tensor) -> Tensor:
        if not x.numel():  # a scale of the whole tensor needs an element
            return x.new_zeros(*x.shape[:-1], self.out_features)
        q, scale = self.round(x)
        if is_per_row(self.scheme.weight):
            dtype = find_product_type(x.dtype)
            return self.finish(widen(linear(q.to(dtype), self.elements(dtype))) * scale)
        y = linear(q.to(scale.dtype), self.dequantize(scale.dtype)) * scale
        return y if self.bias is None else y + self.bias


class BlockLinear(QuantLinear):
    """y = (round(x / t) t) (q s)^T + b with a t for each block along K."""

    def product(self, x: Tensor) -> Tensor:
        assert self.scheme.activation is not None
        rounded = round_groups(x, self.scheme.activation, self.limits)
        y = linear(rounded, self.dequantize(rounded.dtype))
        return y if self.bias is None else y + self.bias


class SimulatedLinear(QuantLinear):
    """Fake quantization: the weights are floats already rounded, inputs are rounded and multiplied as floats.

    `fake` [N, K] is an ordinary float parameter, in the order of the stored columns.
    """

    def __init__(self, scheme: Scheme, rows: int, columns: int, tensors: Mapping[str, Tensor], bias: Parameter | None):
        beside = {name: t for name, t in tensors.items() if name not in ("codes", "scale", "zero", "exponent", "table")}
        super().__init__(scheme, rows, columns, beside, bias)
        self.fake = Parameter(read_weight(scheme.weight, tensors, columns, torch.float32), requires_grad=False)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.fake.to(dtype)

    def product(self, x: Tensor) -> Tensor:
        rounded = round_inputs(x, self.scheme.activation, self.input_scale, self.limits)
        y = linear(rounded, self.dequantize(rounded.dtype))
        return y if self.bias is None else y + self.bias


def choose_layer(scheme: Scheme) -> type[QuantLinear]:
    """The class that computes a scheme."""
    if scheme.activation is None:
        return WeightOnlyLinear
    if not is_in_rows(scheme.activation):
        return BlockLinear
    integers = isinstance(scheme.activation, Int) and isinstance(scheme.weight, (Int, Ternary))
    return IntLinear if integers and is_per_row(scheme.weight) else RowLinear
