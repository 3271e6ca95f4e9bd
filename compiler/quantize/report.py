"""What rounding costs: each quantized layer beside the one it replaces, in float64.

                   scheme      shape       bits   weights   outputs   arithmetic
  layers.0.up      w4a16       2752 x 1024  4.25   7.1e-02   7.0e-02   2.0e-07

All three are relative, by the root of the sum of squares: `weights` and `outputs` against the unquantized layer in
float64; `arithmetic` is the layer as it runs against its plain reference, and is rounding of its type alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...ir.errors import BadInput
from .activations import round_inputs
from .calibrate import observe
from .linear import QuantLinear
from .names import name_scheme

ROWS = 64  # of random inputs, where none are given


@dataclass(frozen=True, slots=True)
class LayerError:
    """One layer. `bits` per weight count scales, tables and low-rank parts; errors are NaN where unmeasured."""

    name: str
    scheme: str
    rows: int
    columns: int
    bits: float
    weights: float
    outputs: float
    arithmetic: float


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """All quantized layers of a model; `str()` of it is a table."""

    layers: tuple[LayerError, ...]

    @property
    def bits(self) -> float:
        """Per weight, over all the layers."""
        weights = sum(layer.rows * layer.columns for layer in self.layers)
        return sum(layer.bits * layer.rows * layer.columns for layer in self.layers) / weights

    def __str__(self) -> str:
        head = ("layer", "scheme", "shape", "bits", "weights", "outputs", "arithmetic")
        lines = [head, *map(_cells, self.layers)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [_lay_out(line, widths) for line in lines]
        return "\n".join([*texts, f"{len(self.layers)} layers, {self.bits:.3f} bits per weight"])


def _lay_out(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(padded)


def _cells(layer: LayerError) -> tuple[str, ...]:
    errors = (layer.weights, layer.outputs, layer.arithmetic)
    shape = f"{layer.rows} x {layer.columns}"
    return (layer.name, layer.scheme, shape, f"{layer.bits:.2f}", *(f"{error:.1e}" for error in errors))


def measure(model: nn.Module, quantized: nn.Module, calibration: Any = None) -> ErrorReport:
    """Compare each quantized layer with the layer of that name in the model it was made from.

    calibration  as `quantize` takes it; without any, inputs are random and normal. Layers that the inputs do not reach
                 have no output error.

    Raises BadInput where the second model has no quantized layers, or the first none of a name and shape.
    """
    found = find_quantized(quantized)
    layers = {name: _find_layer(model, name, q) for name, q in found.items()}
    if calibration is None:
        rows = {name: _make_rows(layer) for name, layer in layers.items()}
    else:
        rows = {name: seen.rows for name, seen in observe(model, layers, calibration).items()}
    with torch.no_grad():
        return ErrorReport(tuple(_measure(n, layers[n], found[n], rows.get(n)) for n in found))


def find_quantized(model: nn.Module) -> dict[str, QuantLinear]:
    """Quantized layers by name. Raises BadInput where there are none."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}
    if not found:
        raise BadInput("the model has no quantized layers", got=type(model).__name__, hint="see treadle.quantize")
    return found


def compute_reference(layer: QuantLinear, x: Tensor) -> Tensor:
    """The plain reference of every scheme: inputs as the layer rounds them, weights as stored, all else in float64."""
    prepared = layer.prepare(x)
    rounded = round_inputs(prepared, layer.scheme.activation, layer.input_scale, layer.limits).double()
    y = rounded @ layer.dequantize(torch.float64).t()
    if layer.up is not None:
        y = y + x.double() @ layer.down.double().t() @ layer.up.double().t()
    return y if layer.bias is None else y + layer.bias.double()


def _find_layer(model: nn.Module, name: str, quantized: QuantLinear) -> nn.Linear:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = None
    shape = [quantized.out_features, quantized.in_features]
    if isinstance(layer, nn.Linear) and list(layer.weight.shape) == shape:
        return layer
    raise BadInput("the models differ", where=f"layer {name!r}", expected=f"a torch.nn.Linear of {shape}",
                   got=layer, hint="pass the model that was quantized")  # fmt: skip


def _measure(name: str, layer: nn.Linear, quantized: QuantLinear, x: Tensor | None) -> LayerError:
    exact = layer.weight.double()
    outputs = arithmetic = float("nan")
    if x is not None:
        got, bias = quantized(x), 0.0 if layer.bias is None else layer.bias.double()
        wanted = x.double() @ exact.t()
        outputs = _relative(got.double() - bias, wanted)
        arithmetic = _relative(got.double(), compute_reference(quantized, x))
    return LayerError(
        name=name,
        scheme=name_scheme(quantized.scheme),
        rows=layer.out_features,
        columns=layer.in_features,
        bits=quantized.bits_per_weight,
        weights=_relative(quantized.weight.double(), exact),
        outputs=outputs,
        arithmetic=arithmetic,
    )


def _make_rows(layer: nn.Linear) -> Tensor:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, layer.in_features, generator=random)
    return x.to(layer.weight.device, layer.weight.dtype)


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm().clamp(min=1e-300))
