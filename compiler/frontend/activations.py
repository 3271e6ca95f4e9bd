"""Lowerings of activation functions and their derivatives, computed in the compute type and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .context import Context, Operand, Value, lowers

SQRT_HALF = math.sqrt(0.5)
SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715  # of the tanh form of gelu


def _widened(function: Callable[..., Value]) -> Callable[..., Value]:
    """Give the function its tensors in the compute type, and round what it returns."""

    def lower(cx: Context, *args: Any, **kwargs: Any) -> Value:
        wide = [cx.wide(a) if isinstance(a, Value) else a for a in args]
        named = {k: cx.wide(a) if isinstance(a, Value) else a for k, a in kwargs.items()}
        return cx.round(function(cx, *wide, **named))

    return lower


@lowers("relu.default")
def _relu(cx: Context, x: Value) -> Value:
    return cx.choose("max", x, 0)


@lowers("relu6.default")
def _relu6(cx: Context, x: Value) -> Value:
    return cx.choose("min", cx.choose("max", x, 0), 6)


@lowers("hardtanh.default")
def _hardtanh(cx: Context, x: Value, low: Any = -1, high: Any = 1) -> Value:
    return cx.choose("min", cx.choose("max", x, low), high)


@lowers("hardtanh_backward.default")
def _hardtanh_backward(cx: Context, grad: Value, x: Value, low: Any, high: Any) -> Value:
    outside = cx.compare("le", x, low) | cx.compare("ge", x, high)
    return cx.g.where(outside, 0, grad)


@lowers("threshold.default")
def _threshold(cx: Context, x: Value, threshold: Any, value: Any) -> Value:
    return cx.g.where(cx.compare("le", x, cx.operand(threshold, x.dtype)), cx.operand(value, x.dtype), x)


@lowers("threshold_backward.default")
def _threshold_backward(cx: Context, grad: Value, x: Value, threshold: Any) -> Value:
    below = cx.g.apply("le", x, cx.operand(threshold, x.dtype))
    return cx.g.where(below, 0, cx.operand(grad, cx.dtype))


@lowers("leaky_relu.default")
@_widened
def _leaky_relu(cx: Context, x: Value, slope: Any = 0.01) -> Value:
    return cx.g.where(x > 0, x, x * slope)


@lowers("leaky_relu_backward.default")
@_widened
def _leaky_relu_backward(cx: Context, grad: Value, x: Value, slope: Any, is_result: bool) -> Value:
    return cx.g.where(x > 0, grad, grad * slope)


@lowers("_prelu_kernel.default")
@_widened
def _prelu(cx: Context, x: Value, weight: Value) -> Value:
    return cx.g.where(x > 0, x, weight * x)


@lowers("elu.default")
@_widened
def _elu(cx: Context, x: Value, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Value:
    below = cx.g.expm1(_times(x, input_scale)) * (alpha * scale)
    return cx.g.where(x <= 0, below, _times(x, scale))


@lowers("elu_backward.default")
@_widened
def _elu_backward(
    cx: Context, grad: Value, alpha: Any, scale: Any, input_scale: Any, is_result: bool, x: Value
) -> Value:
    if is_result:
        below = grad * (x + alpha * scale) * input_scale
    else:
        below = grad * cx.g.exp(x * input_scale) * (input_scale * alpha * scale)
    return cx.g.where(x <= 0, below, grad * scale)


def _times(x: Value, factor: Any) -> Value:
    return x if factor == 1 else x * factor


@lowers("gelu.default")
@_widened
def _gelu(cx: Context, x: Value, approximate: str = "none") -> Value:
    if approximate == "tanh":
        inner = (x + x * x * x * CUBIC) * SQRT_2_OVER_PI
        return x * 0.5 * (cx.g.tanh(inner) + 1.0)
    return x * 0.5 * (cx.g.erf(x * SQRT_HALF) + 1.0)


@lowers("gelu_backward.default")
@_widened
def _gelu_backward(cx: Context, grad: Value, x: Value, approximate: str = "none") -> Value:
    g = cx.g
    if approximate == "tanh":
        t = g.tanh((x + x * x * x * CUBIC) * SQRT_2_OVER_PI)
        slope = (x * x * (3 * CUBIC) + 1.0) * SQRT_2_OVER_PI
        return grad * ((t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * slope)
    cdf = (g.erf(x * SQRT_HALF) + 1.0) * 0.5
    pdf = g.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return grad * (cdf + x * pdf)


@lowers("silu.default")
@_widened
def _silu(cx: Context, x: Value) -> Value:
    return x / (cx.g.exp(-x) + 1.0)


@lowers("silu_backward.default")
@_widened
def _silu_backward(cx: Context, grad: Value, x: Value) -> Value:
    s = cx.g.sigmoid(x)
    return grad * (s * (x * (1.0 - s) + 1.0))


@lowers("sigmoid_backward.default")
@_widened
def _sigmoid_backward(cx: Context, grad: Value, y: Value) -> Value:
    return grad * ((1.0 - y) * y)


@lowers("tanh_backward.default")
@_widened
def _tanh_backward(cx: Context, grad: Value, y: Value) -> Value:
    return grad * (1.0 - y * y)


@lowers("hardsigmoid.default")
@_widened
def _hardsigmoid(cx: Context, x: Value) -> Value:
    return _clipped(cx, x) / 6.0


@lowers("hardsigmoid_backward.default")
@_widened
def _hardsigmoid_backward(cx: Context, grad: Value, x: Value) -> Value:
    return cx.g.where((x > -3.0) & (x < 3.0), grad * (1 / 6), 0)


@lowers("hardswish.default")
@_widened
def _hardswish(cx: Context, x: Value) -> Value:
    return x * _clipped(cx, x) / 6.0


@lowers("hardswish_backward.default")
@_widened
def _hardswish_backward(cx: Context, grad: Value, x: Value) -> Value:
    middle = grad * (x / 3.0 + 0.5)
    return cx.g.where(x <= -3.0, 0, cx.g.where(x < 3.0, middle, grad))


def _clipped(cx: Context, x: Value) -> Value:
    return cx.g.apply("min", cx.g.apply("max", x + 3.0, 0.0), 6.0)


@lowers("softplus.default")
@_widened
def _softplus(cx: Context, x: Value, beta: Any = 1, threshold: Any = 20) -> Value:
    scaled = _times(x, beta)
    soft = cx.g.log1p(cx.g.exp(scaled))
    return cx.g.where(scaled > threshold, x, soft if beta == 1 else soft / beta)


@lowers("softplus_backward.default")
@_widened
def _softplus_backward(cx: Context, grad: Value, x: Value, beta: Any, threshold: Any) -> Value:
    z = cx.g.exp(_times(x, beta))
    return cx.g.where(_times(x, beta) > threshold, grad, grad * z / (z + 1.0))


@lowers("mish.default")
@_widened
def _mish(cx: Context, x: Value) -> Value:
    return x * cx.g.tanh(cx.g.log1p(cx.g.exp(x)))


@lowers("log_sigmoid.default")
@_widened
def _log_sigmoid(cx: Context, x: Value) -> Value:
    return cx.g.apply("min", x, 0.0) - cx.g.log1p(cx.g.exp(-cx.g.abs(x)))


@lowers("glu.default")
@_widened
def _glu(cx: Context, x: Value, dim: int = -1) -> Value:
    dim %= x.rank
    half = cx.shape[dim]
    return cx.g.slice(x, dim, 0, half) * cx.g.sigmoid(cx.g.slice(x, dim, half, half))


@lowers("native_dropout_backward.default")
@_widened
def _dropout_backward(cx: Context, grad: Value, mask: Operand, scale: Any) -> Value:
    return grad * mask * scale
