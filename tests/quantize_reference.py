"""What a quantized layer computes, by NumPy in float64 from its stored tensors: nothing of the package is called.

Inputs are rounded in float32, as the layer rounds them: a quotient that differs in its last bit may round to another
number of the format, and is no error of the layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from treadle.compiler.quantize import Float8, Int, Micro, Mixed, Planes, QuantLinear, Table, Ternary

Array = np.ndarray
F32 = np.float32
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
TINY = np.finfo(F32).tiny


def numpy_of(t: torch.Tensor) -> Array:
    return (t.detach().float() if t.is_floating_point() else t.detach()).numpy()


def read_bits(packed: Array, bits: int, columns: int) -> Array:
    """Codes, one bit at a time: bit i of element j."""
    if bits in (3, 5, 6, 7):
        return np.sum([read_bits(plane, 1, columns) << i for i, plane in enumerate(packed)], 0)
    codes = np.zeros((packed.shape[0], columns), int)
    for j in range(columns):
        byte, low = divmod(j * bits, 8)
        codes[:, j] = (packed[:, byte].astype(int) >> low) & (2**bits - 1)
    return codes


def weights64(layer: QuantLinear) -> Array:
    """[N, K], as they meet the inputs that the layer has smoothed and reordered."""
    form, columns = layer.scheme.weight, layer.in_features
    stored = {name: numpy_of(t) for name, t in layer.stored().items()}
    values = read_values(form, stored, columns)
    if "exponent" in stored:
        return spread(values, 2.0 ** (stored["exponent"].astype(float) - 127))
    if "scale" not in stored:
        return values
    scale = stored["scale"].astype(float)
    if isinstance(form, Float8) and form.grain == "block":
        return values * np.kron(scale, np.ones((128, 128)))[: len(values)]
    return spread(values, scale.reshape(len(scale), -1))


def read_values(form: Any, stored: dict[str, Array], columns: int) -> Array:
    codes = stored["codes"]
    if isinstance(form, Float8) or form == Micro(8):
        return codes.astype(float)
    if isinstance(form, Planes):
        return np.sum([(2.0 * read_bits(codes[i], 1, columns) - 1) * 2**i for i in range(form.bits)], 0)
    if isinstance(form, Ternary):
        return read_bits(codes, 2, columns) - 1.0
    if isinstance(form, Micro):
        found = read_bits(codes, 4, columns)
        return E2M1[found & 7] * np.where(found & 8, -1, 1)
    if isinstance(form, Table):
        table, found = stored["table"].astype(float), read_bits(codes, form.bits, columns)
        return table[found] if table.ndim == 1 else np.take_along_axis(table, found, 1)
    assert isinstance(form, Int)
    if codes.dtype == np.int8:
        return codes.astype(float)
    found = read_bits(codes, form.bits, columns).astype(float)
    zero = stored["zero"].astype(float) if "zero" in stored else np.full((len(found), 1), 2.0 ** (form.bits - 1))
    return found - np.repeat(zero, columns // zero.shape[1], 1)


def spread(values: Array, scale: Array) -> Array:
    return values * np.repeat(scale, values.shape[1] // scale.shape[1], 1)


def inputs64(layer: QuantLinear, x: torch.Tensor) -> Array:
    """[..., K], smoothed, reordered and rounded."""
    rows, form = numpy_of(x), layer.scheme.activation
    if layer.smoother is not None:
        rows = rows * numpy_of(layer.smoother)
    if layer.order is not None:
        rows = rows[..., layer.order.numpy()]
    if form is None or not rows.size:
        return rows.astype(float)
    group = {Micro: 32, Float8: 128 if form == Float8("block") else 0}.get(type(form), getattr(form, "group", 0))
    groups = rows.reshape(*rows.shape[:-1], -1, group or rows.shape[-1])
    rounded = round64(form, groups, layer)
    return rounded.reshape(rows.shape)


def round64(form: Any, groups: Array, layer: QuantLinear) -> Array:
    axis = None if form == Float8("tensor") else -1
    amax = np.abs(groups).max(axis, keepdims=True)
    if isinstance(form, Micro) or (isinstance(form, Int) and form.power):
        top = 8 if isinstance(form, Micro) else form.bits - 2
        floor = np.floor(
            np.log2(np.maximum(amax, TINY).astype(float))
        )  # exact enough: float64 tells f32 neighbours apart
        scale = np.maximum(2.0 ** (floor - top), 2.0**-126).astype(F32)
    elif layer.input_scale is not None:
        scale = numpy_of(layer.input_scale)
    else:
        scale = np.maximum(amax / limit_of(form, layer), F32(TINY))
    quotient = groups / scale
    if isinstance(form, (Float8, Micro)):
        rounded = torch.from_numpy(np.clip(quotient, -448, 448)).to(torch.float8_e4m3fn).double().numpy()
    else:
        limit = limit_of(form, layer)
        rounded = np.clip(np.rint(quotient), -limit, limit).astype(float)
    return rounded * scale.astype(float)


def limit_of(form: Any, layer: QuantLinear) -> Any:
    if isinstance(form, Mixed):
        assert layer.limits is not None
        return numpy_of(layer.limits)
    return F32(448) if isinstance(form, Float8) else F32(2 ** (form.bits - 1) - 1)


def compute64(layer: QuantLinear, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The result, and the sum of magnitudes that its rounding errors are in proportion to; both [..., N] in f64."""
    a, w = inputs64(layer, x), weights64(layer)
    bias = np.zeros(len(w)) if layer.bias is None else numpy_of(layer.bias).astype(float)
    y, size = a @ w.T + bias, np.abs(a) @ np.abs(w).T + np.abs(bias)
    if layer.up is not None:
        thin, up, down = numpy_of(x).astype(float), numpy_of(layer.up).astype(float), numpy_of(layer.down).astype(float)
        y, size = y + thin @ down.T @ up.T, size + np.abs(thin) @ np.abs(down).T @ np.abs(up).T
    return torch.from_numpy(y), torch.from_numpy(size)


def bound_error(layer: QuantLinear, size: torch.Tensor, dtype: torch.dtype, roundings: int = 4) -> torch.Tensor:
    """What rounding to `dtype` may cost: a table's value, its product with a scale, the sum, the result (and one more
    for each of the three sums of a low-rank part); sums are accumulated in f32, over K terms."""
    count = roundings + 3 * (layer.up is not None)
    return size * (count * torch.finfo(dtype).eps / 2 + (layer.in_features + 4) * 2.0**-24) + 1e-30
