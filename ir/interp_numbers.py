"""What the interpreter computes with: tensors rounded as declared, or everything floating in float64.

A value is a tuple of *planes*, equally shaped tensors: the values, and for number systems that track it, their error
bounds (`ir.interp_bounds`). Structure (gathers, selections, reshapes) acts on each plane alike; arithmetic is the
number system's.
"""

from __future__ import annotations

import torch

from .expr import Const, Op
from .scalar import SCALAR_OPS
from .types import F64, DType

Tensor = torch.Tensor
Planes = tuple[Tensor, ...]
Subscripts = tuple[list[int], list[int], list[int]]  # of the left and right factor and the result, as for torch.einsum

TORCH_DTYPES = {
    "bool": torch.bool, "u8": torch.uint8, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
}  # fmt: skip


def torch_dtype(dtype: DType) -> torch.dtype:
    return TORCH_DTYPES[dtype.name]


class Numbers:
    """Arithmetic with the declared types: each operation rounds to its type. Float sums accumulate in float64.

    With `float64` every float is a float64 and conversions between floats do nothing; integers stay as declared.
    """

    def __init__(self, float64: bool = False, device: torch.device | str = "cpu") -> None:
        self.float64 = float64
        self.device = device

    def dtype_of(self, dtype: DType) -> torch.dtype:
        return torch.float64 if self.float64 and dtype.is_float else torch_dtype(dtype)

    def enter(self, tensor: Tensor, dtype: DType) -> Planes:
        """A tensor that is exactly given: an input, an index."""
        return (tensor.to(self.dtype_of(dtype)),)

    def planes(self, dtype: DType) -> tuple[torch.dtype, ...]:
        """The tensor types of a value's planes."""
        return (self.dtype_of(dtype),)

    def constant(self, c: Const) -> Planes:
        return (torch.tensor(c.value, dtype=self.dtype_of(c.dtype), device=self.device),)

    def apply(self, e: Op, args: list[Planes]) -> Planes:
        values = [a[0] for a in args]
        dtype = self.dtype_of(e.dtype)
        if e.name == "cast":
            return (values[0].to(dtype),)
        operand = e.args[-1].dtype
        # f16 and bf16 arithmetic is f32 arithmetic rounded once, as in ATen (whose CPU kernels lack some half types).
        halves = operand.is_float and operand.itemsize == 2 and not self.float64 and e.name != "nextafter"
        if halves:
            values = [v.float() if v.is_floating_point() else v for v in values]
        return (SCALAR_OPS[e.name].reference(torch, *values).to(dtype),)

    def wide(self, dtype: DType) -> DType:
        """The type that a state of `dtype` is accumulated in."""
        return F64 if dtype.is_float else dtype

    def widen(self, x: Planes) -> Planes:
        return (x[0].double(),) if x[0].is_floating_point() else x

    def round(self, x: Planes, dtype: DType) -> Planes:
        return (x[0].to(self.dtype_of(dtype)),)

    def fold(self, state: str, x: Planes, dims: tuple[int, ...], dtype: DType) -> Planes | None:
        """A plain reduction over `dims` (not empty, all of their sizes positive), or None where there is no short way.

        `dtype` is the declared type of what is accumulated.
        """
        value = x[0]
        if state == "sum":
            return (value.sum(dims, dtype=value.dtype),)
        if state in ("max", "min"):
            return ((torch.amax if state == "max" else torch.amin)(value, dims),)
        if state in ("any", "all"):
            return ((torch.any if state == "any" else torch.all)(value, dims),)
        if state == "prod":
            for d in sorted(dims, reverse=True):
                value = value.prod(d, dtype=value.dtype)
            return (value,)
        return None

    def scan(self, state: str, x: Planes, dim: int, dtype: DType) -> Planes | None:
        """A plain inclusive scan along `dim` (its size positive), or None where there is no short way."""
        value = x[0]
        if state in ("sum", "prod"):
            return ((torch.cumsum if state == "sum" else torch.cumprod)(value, dim, dtype=value.dtype),)
        return None

    def contract(self, a: Planes, b: Planes, subscripts: Subscripts, dtype: DType) -> Planes:
        """A sum of products in float64."""
        return (einsum(a[0].double(), b[0].double(), subscripts),)

    def accumulate(self, mode: str, into: Planes, at: Tensor, x: Planes, dtype: DType) -> None:
        """into[at] mode= x along the one dimension, repeated positions included; into is as `widen` gives it."""
        scatter(mode, into[0], at, x[0])


def scatter(mode: str, into: Tensor, at: Tensor, x: Tensor) -> None:
    if mode == "add":
        into.index_add_(0, at, x)
    else:
        into.scatter_reduce_(0, at, x, {"mul": "prod", "max": "amax", "min": "amin"}[mode])


def einsum(a: Tensor, b: Tensor, subscripts: Subscripts) -> Tensor:
    left, right, out = subscripts
    return torch.einsum(a, left, b, right, out)
