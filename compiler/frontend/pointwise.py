"""Lowerings of elementwise arithmetic, comparisons, bit operations, selects and conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .context import BOOL, Context, Operand, Unsupported, Value, lowers

# aten name -> scalar row; the operand is first converted to the result's type (exp of an integer is a float).
UNARY = {
    **{
        name: name
        for name in (
            "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos",
            "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf",
            "erfc", "erfinv", "lgamma", "digamma",
        )
    },
    "special_erfinv": "erfinv",
}  # fmt: skip
ROUNDING = ("floor", "ceil", "trunc", "round")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
BITS = {"bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}
SHIFTS = {"bitwise_left_shift": "shl", "bitwise_right_shift": "shr", "__lshift__": "shl", "__rshift__": "shr"}
LOGICAL = {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}
FLOAT_PAIRS = {"atan2": "atan2", "copysign": "copysign", "hypot": "hypot", "nextafter": "nextafter"}


def _bind(function: Callable[..., Value], row: str) -> Callable[..., Value]:
    def lower(cx: Context, *operands: Operand, **_: Any) -> Value:
        return function(row, cx, *operands)

    return lower


def _unary(row: str, cx: Context, x: Value) -> Value:
    return cx.pointwise(row, x)


def _rounding(row: str, cx: Context, x: Value) -> Value:
    return cx.g.apply(row, x) if x.dtype.is_float else x


def _compare(row: str, cx: Context, a: Operand, b: Operand) -> Value:
    return cx.compare(row, a, b)


def _pair(row: str, cx: Context, a: Operand, b: Operand) -> Value:
    return cx.pointwise(row, a, b)


def _logical(row: str, cx: Context, a: Operand, b: Operand) -> Value:
    return cx.g.apply(row, cx.truth(a), cx.truth(b))


for _name, _row in UNARY.items():
    lowers(f"{_name}.default")(_bind(_unary, _row))
for _name in ROUNDING:
    lowers(f"{_name}.default")(_bind(_rounding, _name))
for _name in COMPARISONS:
    lowers(f"{_name}.Tensor", f"{_name}.Scalar")(_bind(_compare, _name))
for _name, _row in {**BITS, **SHIFTS}.items():
    lowers(f"{_name}.Tensor", f"{_name}.Tensor_Scalar", f"{_name}.Scalar_Tensor", f"{_name}.Scalar")(_bind(_pair, _row))
for _name, _row in LOGICAL.items():
    lowers(f"{_name}.default")(_bind(_logical, _row))
for _name, _row in FLOAT_PAIRS.items():
    lowers(f"{_name}.default", f"{_name}.Tensor", f"{_name}.Scalar")(_bind(_pair, _row))


@lowers("add.Tensor", "add.Scalar")
def _add(cx: Context, a: Operand, b: Operand, alpha: Any = 1) -> Value:
    if cx.dtype is BOOL:
        return cx.g.apply("or", cx.truth(a), cx.truth(b)) if alpha else cx.truth(a)
    if isinstance(alpha, (int, float)) and alpha == 1:
        return cx.pointwise("add", a, b)
    return cx.round(cx.wide(a) + cx.wide(b) * cx.wide(alpha))


@lowers("sub.Tensor", "sub.Scalar")
def _sub(cx: Context, a: Operand, b: Operand, alpha: Any = 1) -> Value:
    if isinstance(alpha, (int, float)) and alpha == 1:
        return cx.pointwise("sub", a, b)
    return cx.round(cx.wide(a) - cx.wide(b) * cx.wide(alpha))


@lowers("rsub.Tensor", "rsub.Scalar")
def _rsub(cx: Context, a: Operand, b: Operand, alpha: Any = 1) -> Value:
    return _sub(cx, b, a, alpha)


@lowers("mul.Tensor", "mul.Scalar")
def _mul(cx: Context, a: Operand, b: Operand) -> Value:
    return cx.pointwise("and" if cx.dtype is BOOL else "mul", a, b)


@lowers("div.Tensor", "div.Scalar", "true_divide.Tensor")
def _div(cx: Context, a: Operand, b: Operand) -> Value:
    return cx.pointwise("div", a, b)


@lowers("div.Tensor_mode", "div.Scalar_mode")
def _div_mode(cx: Context, a: Operand, b: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode is None:
        return _div(cx, a, b)
    return _integral(cx, {"floor": "div_floor", "trunc": "div_trunc"}[rounding_mode], a, b)


@lowers("floor_divide.default", "floor_divide.Scalar")
def _floor_divide(cx: Context, a: Operand, b: Operand) -> Value:
    return _integral(cx, "div_floor", a, b)


@lowers("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor")
def _remainder(cx: Context, a: Operand, b: Operand) -> Value:
    return _integral(cx, "mod_floor", a, b)


@lowers("fmod.Tensor", "fmod.Scalar")
def _fmod(cx: Context, a: Operand, b: Operand) -> Value:
    return _integral(cx, "mod_trunc", a, b)


def _integral(cx: Context, row: str, a: Operand, b: Operand) -> Value:
    """Division whose result jumps: operands are rounded to the result's type as ATen does, and dividing integers by
    0 must raise.
    """
    if not cx.dtype.is_float and (isinstance(b, Value) or b == 0):
        raise Unsupported("dividing integers by zero raises in ATen")
    return cx.choose(row, a, b)


@lowers("pow.Tensor_Scalar")
def _pow_scalar(cx: Context, x: Value, exponent: Any) -> Value:
    if not isinstance(exponent, (int, float)):
        return _pow(cx, x, exponent)
    if not cx.dtype.is_float and exponent not in (1, 2, 3, 4):
        raise Unsupported("an integer power")
    g, w = cx.g, cx.wide(x)
    simple = {
        0: lambda: g.full(w.shape, 1.0, w.dtype),
        0.5: lambda: g.sqrt(w),
        1: lambda: w,
        2: lambda: w * w,
        3: lambda: w * w * w,
        4: lambda: (w * w) * (w * w),
        -0.5: lambda: g.rsqrt(w),
        -1: lambda: g.reciprocal(w),
        -2: lambda: g.reciprocal(w * w),
    }
    return cx.round(simple[exponent]() if exponent in simple else g.apply("pow", w, float(exponent)))


@lowers("pow.Tensor_Tensor", "pow.Scalar")
def _pow(cx: Context, x: Operand, exponent: Operand) -> Value:
    if not cx.dtype.is_float:
        raise Unsupported("an integer power")
    return cx.pointwise("pow", x, exponent)


@lowers("neg.default")
def _neg(cx: Context, x: Value) -> Value:
    return cx.g.apply("neg", x)


@lowers("abs.default")
def _abs(cx: Context, x: Value) -> Value:
    return x if x.dtype.kind in "bu" else cx.g.apply("abs", x)


@lowers("sign.default", "sgn.default")
def _sign(cx: Context, x: Value) -> Value:
    return x if x.dtype is BOOL else cx.g.apply("sign", x)


@lowers("square.default")
def _square(cx: Context, x: Value) -> Value:
    return cx.pointwise("mul", x, x)


@lowers("frac.default")
def _frac(cx: Context, x: Value) -> Value:
    return cx.g.apply("sub", x, cx.g.trunc(x))


@lowers("round.decimals")
def _round_decimals(cx: Context, x: Value, *, decimals: int) -> Value:
    if not x.dtype.is_float:
        return x
    if x.dtype.compute is not x.dtype:
        raise Unsupported("decimals of a narrow float")
    ten = 10.0 ** abs(decimals)
    return cx.g.round(x * ten) / ten if decimals >= 0 else cx.g.round(x / ten) * ten


@lowers("isnan.default")
def _isnan(cx: Context, x: Value) -> Value:
    return cx.g.isnan(x) if x.dtype.is_float else cx.g.full(x.shape, False, BOOL)


@lowers("isinf.default")
def _isinf(cx: Context, x: Value) -> Value:
    return cx.g.isinf(x) if x.dtype.is_float else cx.g.full(x.shape, False, BOOL)


@lowers("signbit.default")
def _signbit(cx: Context, x: Value) -> Value:
    if x.dtype.is_float:
        return cx.g.signbit(x)
    return cx.g.full(x.shape, False, BOOL) if x.dtype.kind in "bu" else x < 0


@lowers("bitwise_not.default")
def _bitwise_not(cx: Context, x: Value) -> Value:
    return ~x


@lowers("logical_not.default")
def _logical_not(cx: Context, x: Value) -> Value:
    return ~cx.truth(x)


@lowers("lerp.Scalar", "lerp.Tensor")
def _lerp(cx: Context, a: Value, b: Value, weight: Operand) -> Value:
    """a + w (b - a), from whichever end is nearer, as ATen has it."""
    a, b, w = cx.wide(a), cx.wide(b), cx.wide(weight)
    near = a + w * (b - a)
    far = b - (b - a) * (1.0 - w)
    return cx.round(cx.g.where(cx.g.abs(w) < 0.5, near, far))


@lowers("addcmul.default")
def _addcmul(cx: Context, x: Value, a: Value, b: Value, value: Operand = 1) -> Value:
    return cx.round(cx.wide(x) + cx.wide(value) * cx.wide(a) * cx.wide(b))


@lowers("prims.fma.default")
def _fma(cx: Context, a: Operand, b: Operand, c: Operand) -> Value:
    return cx.round(cx.wide(a) * cx.wide(b) + cx.wide(c))


@lowers("addcdiv.default")
def _addcdiv(cx: Context, x: Value, a: Value, b: Value, value: Operand = 1) -> Value:
    return cx.round(cx.wide(x) + cx.wide(value) * cx.wide(a) / cx.wide(b))


@lowers("xlogy.Tensor", "xlogy.Scalar_Other", "xlogy.Scalar_Self")
def _xlogy(cx: Context, x: Operand, y: Operand) -> Value:
    a, b = cx.wide(x), cx.wide(y)
    product = cx.g.where(a.equals(0.0), 0.0, a * cx.g.log(b))
    return cx.round(cx.g.where(cx.g.isnan(b), b, product))


@lowers("heaviside.default")
def _heaviside(cx: Context, x: Value, at_zero: Value) -> Value:
    if cx.dtype is BOOL:
        raise Unsupported("of bool")
    x, v = cx.operand(x, cx.dtype), cx.operand(at_zero, cx.dtype)
    return cx.g.where(x.equals(0), v, cx.g.cast(x > 0, cx.dtype))
