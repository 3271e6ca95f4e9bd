"""Values with error bounds: what rounding at the declared types may make of each value, to first order.

A value is (float64 value, absolute error). An operation's error is how far its result moves when each operand moves
by its own error, one at a time, plus one unit of rounding (`epsilon` of the type, relative). Sums add rounding for 1
+ log2(n) additions on the sum of absolute values, whatever their order. Doubtful bools (error 1) and integers count
too: a comparison that rounding can turn makes everything that it selects uncertain by the difference. Indices and
guards of loads are taken as exact.
"""

from __future__ import annotations

import math

import torch

from .expr import Const, Op
from .interp_numbers import Numbers, Planes, Subscripts, Tensor, einsum, scatter
from .scalar import SCALAR_OPS, round_to
from .types import DTYPES, DType

EXACT = {
    "neg", "abs", "sign", "min", "max", "where", "floor", "ceil", "trunc", "round", "copysign", "mod_trunc",
}  # fmt: skip
LEAST = {"f16": 2.0**-24, "bf16": 2.0**-126, "f32": 2.0**-126, "f64": 2.0**-1022}  # rounding below the normal range
GREATEST = {"f16": 65504.0, "bf16": 3.3895313892515355e38, "f32": 3.4028234663852886e38, "f64": math.inf}
DIGITS = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}


class BoundedNumbers(Numbers):
    """Everything floating in float64, with a second plane: the error bound."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(float64=True, device=device)

    def planes(self, dtype: DType) -> tuple[torch.dtype, ...]:
        return self.dtype_of(dtype), torch.float64

    def enter(self, tensor: Tensor, dtype: DType) -> Planes:
        value = tensor.to(self.dtype_of(dtype))
        return value, torch.zeros((), dtype=torch.float64, device=self.device).expand(value.shape)

    def constant(self, c: Const) -> Planes:
        value = super().constant(c)[0]
        exact = not c.dtype.is_float or not math.isfinite(c.value) or round_to(c.value, c.dtype) == c.value
        return value, torch.zeros_like(value, dtype=torch.float64) if exact else _rounding(value, c.dtype)

    def apply(self, e: Op, args: list[Planes]) -> Planes:
        dtype = self.dtype_of(e.dtype)

        def f(values: list[Tensor]) -> Tensor:
            return values[0].to(dtype) if e.name == "cast" else SCALAR_OPS[e.name].reference(torch, *values).to(dtype)

        values = [a[0] for a in args]
        result = f(values)
        error = torch.zeros_like(result, dtype=torch.float64)
        for k, (value, doubt) in enumerate(args):
            if not bool((doubt != 0).any()):
                continue
            moved = [f([*values[:k], m, *values[k + 1 :]]) for m in _moved(value, doubt)]
            error = error + torch.stack([_distance(m, result) for m in moved]).amax(0)
        if e.name in ("copysign", "signbit"):  # the sign of a NaN is anybody's
            error = torch.where(values[-1].isnan(), 1.0 if e.name == "signbit" else math.inf, error)
        return result, self._rounded(e, args, result, error)

    def _rounded(self, e: Op, args: list[Planes], result: Tensor, error: Tensor) -> Tensor:
        if not e.dtype.is_float or e.name in EXACT:
            return error
        if e.name != "cast":
            return error + _rounding(result, e.dtype)
        source = e.args[0].dtype
        if source.is_float:
            narrows = DIGITS[e.dtype.name] < DIGITS[source.name] or GREATEST[e.dtype.name] < GREATEST[source.name]
            return error + _rounding(result, e.dtype) if narrows else error
        inexact = result.abs() > 2.0 ** DIGITS[e.dtype.name]
        return torch.where(inexact, error + _rounding(result, e.dtype), error)

    # --- states --------------------------------------------------------------------------------------------------

    def wide(self, dtype: DType) -> DType:
        return dtype

    def widen(self, x: Planes) -> Planes:
        return x

    def round(self, x: Planes, dtype: DType) -> Planes:
        return x[0].to(self.dtype_of(dtype)), x[1]

    def fold(self, state: str, x: Planes, dims: tuple[int, ...], dtype: DType) -> Planes | None:
        if state == "prod":
            return None
        value, error = super().fold(state, x[:1], dims, dtype), x[1]
        if value is None:
            return None
        if state != "sum":
            moved = [super(BoundedNumbers, self).fold(state, (m,), dims, dtype) for m in _moved(*x)]
            return value[0], torch.stack([_distance(m[0], value[0]) for m in moved if m is not None]).amax(0)
        count = math.prod(x[0].shape[d] for d in dims)
        magnitude = x[0].abs().sum(dims)
        return value[0], error.sum(dims) + _sum_rounding(magnitude, count, dtype)

    def scan(self, state: str, x: Planes, dim: int, dtype: DType) -> Planes | None:
        if state != "sum":
            return None
        value = super().scan(state, x[:1], dim, dtype)
        assert value is not None
        magnitude = x[0].abs().cumsum(dim)
        return value[0], x[1].cumsum(dim) + _sum_rounding(magnitude, x[0].shape[dim], dtype)

    def contract(self, a: Planes, b: Planes, subscripts: Subscripts, dtype: DType) -> Planes:
        left, right = a[0].abs(), b[0].abs()
        magnitude = einsum(left, right, subscripts)
        moved = einsum(left, b[1], subscripts) + einsum(a[1], right + b[1], subscripts)
        count = max(a[0].numel() * b[0].numel() // max(magnitude.numel(), 1), 1)
        return einsum(a[0], b[0], subscripts), moved + _sum_rounding(magnitude, count, dtype)

    def accumulate(self, mode: str, into: Planes, at: Tensor, x: Planes, dtype: DType) -> None:
        value, error = into
        touched = torch.zeros_like(value, dtype=torch.bool)
        touched[at] = True
        if mode == "mul":
            total, relative = value.abs().double() + error, error / value.abs().clamp(min=1e-300)
            scatter(mode, total, at, x[0].abs() + x[1])
            scatter("add", relative, at, x[1] / x[0].abs().clamp(min=1e-300) + dtype.epsilon)
            error.copy_(torch.where(touched, total * relative, error))
        elif mode == "add":
            magnitude = value.abs().double()
            scatter(mode, magnitude, at, x[0].abs().double())
            scatter(mode, error, at, x[1])
            error += torch.where(touched, _sum_rounding(magnitude, at.numel() + 1, dtype), 0.0)
        else:
            scatter("max", error, at, x[1])
        scatter(mode, value, at, x[0])


def _rounding(value: Tensor, dtype: DType) -> Tensor:
    """One unit of relative rounding; infinite where the type overflows."""
    size = value.abs().double()
    unit = size * dtype.epsilon + LEAST[dtype.name]
    unit = torch.where(torch.isfinite(size), unit, torch.zeros_like(unit))
    return torch.where(torch.isfinite(size) & (size > GREATEST[dtype.name]), math.inf, unit)


def _sum_rounding(magnitude: Tensor, count: int, dtype: DType) -> Tensor:
    if not dtype.is_float:
        return torch.zeros_like(magnitude, dtype=torch.float64)
    return _rounding(magnitude, dtype) * (1 + math.log2(max(count, 1)))


def _moved(value: Tensor, error: Tensor) -> list[Tensor]:
    if value.dtype is torch.bool:
        return [value ^ (error != 0)]
    if not value.is_floating_point():
        error = error.clamp(max=2.0**31).ceil().to(value.dtype)
    return [value + error, value - error]


def _distance(moved: Tensor, result: Tensor) -> Tensor:
    """|moved - result|: 0 between equal infinities and NaNs, infinite between a number and one of those."""
    a, b = moved.double(), result.double()
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs().nan_to_num(nan=math.inf, posinf=math.inf))


assert set(LEAST) == {d.name for d in DTYPES.values() if d.is_float}
