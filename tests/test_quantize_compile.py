"""Quantized layers under torch.compile: what treadle makes of each scheme computes what eager does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quantize_reference import bound_error, compute64
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import silu

import treadle
from treadle.compiler.quantize import SCHEMES, QuantLinear, parse_scheme

DTYPES = [torch.float32, torch.bfloat16]
WEIGHTS_ONLY = [s for s in SCHEMES if parse_scheme(s).activation is None]
WITH_INPUTS = [*(s for s in SCHEMES if parse_scheme(s).activation is not None), "bfp8-a8", "mxfp8-a8", "w4a8-g32"]
COLUMNS = 128


@pytest.fixture(autouse=True)
def fresh(seed: int) -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(seed)


def make_layer(scheme: str, dtype: torch.dtype, rows: int = 67) -> QuantLinear:
    plain = nn.Linear(COLUMNS, rows).to(dtype)
    layer = treadle.quantize(plain, scheme, calibration=torch.randn(64, COLUMNS).to(dtype))
    assert isinstance(layer, QuantLinear)
    return layer


def run(layer: nn.Module, x: torch.Tensor, **options: str) -> torch.Tensor:
    whole: dict[str, Any] = {"fallback": "error", **options}
    compiled = torch.compile(layer, backend="treadle", fullgraph=True, dynamic=False, options=whole)
    with torch.no_grad():
        return compiled(x)


def check(layer: QuantLinear, x: torch.Tensor, got: torch.Tensor) -> None:
    wanted, size = compute64(layer, x)
    assert got.dtype == x.dtype and got.shape == (*x.shape[:-1], layer.out_features)
    assert ((got.double() - wanted).abs() <= bound_error(layer, size, x.dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", WEIGHTS_ONLY)
def test_weights_only(scheme: str, dtype: torch.dtype):
    layer, x = make_layer(scheme, dtype), torch.randn(3, COLUMNS).to(dtype)
    check(layer, x, run(layer, x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", WITH_INPUTS)
def test_rounded_inputs(scheme: str, dtype: torch.dtype):
    """Under strict numerics, where scales are eager's to the last bit: at ties, that bit decides the rounding."""
    layer, x = make_layer(scheme, dtype), torch.randn(17, COLUMNS).to(dtype)
    check(layer, x, run(layer, x, numerics="strict"))


@pytest.mark.parametrize("scheme", WITH_INPUTS)
def test_rounded_inputs_under_fast_numerics(scheme: str):
    """A tie may be rounded to either side; the error against the unquantized product is eager's but for those."""
    plain, x = nn.Linear(COLUMNS, 67), torch.randn(64, COLUMNS)
    layer = treadle.quantize(plain, scheme, calibration=x)
    with torch.no_grad():
        exact = plain.double()(x.double())
        ours, eager = ((y.double() - exact).norm() for y in (run(layer, x), layer(x)))
    assert ours <= 1.02 * eager


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16-g32", "w4a16-asym", "w4a16-nf4", "w8a8", "planes3", "mxfp8-a8"])
@pytest.mark.parametrize("shape", [(0,), (1,), (2, 3)], ids=str)
def test_shapes(scheme: str, shape: tuple[int, ...]):
    layer, x = make_layer(scheme, torch.float32), torch.randn(*shape, COLUMNS)
    check(layer, x, run(layer, x, numerics="strict"))


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16", "w8a8"])
def test_sizes_that_vary(scheme: str):
    layer = make_layer(scheme, torch.float32)
    compiled = torch.compile(
        layer, backend="treadle", dynamic=True, options={"fallback": "error", "numerics": "strict"}
    )
    with torch.no_grad():
        for rows in (4, 19, 2):
            x = torch.randn(rows, COLUMNS)
            check(layer, x, compiled(x))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(COLUMNS, 96, bias=False), nn.Linear(COLUMNS, 96, bias=False)
        self.down = nn.Linear(96, COLUMNS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(silu(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", ["w8a16", "w4a16-g32", "nf4-g32"])
def test_a_block_of_layers(scheme: str, dtype: torch.dtype):
    """One row at a time: the layers are kernels of ours, with the unpacking of their weights in them."""
    model = treadle.quantize(Gated().to(dtype), scheme)
    x = torch.randn(1, COLUMNS).to(dtype)
    got = run(model, x)
    assert counters["treadle"]["library"] == 0 and counters["treadle"]["opaque"] == 0
    with torch.no_grad():
        exact = model.double()(x.double())
    assert (got.double() - exact).norm() <= 8 * torch.finfo(dtype).eps * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [*WEIGHTS_ONLY, *WITH_INPUTS])
def test_inductor(scheme: str):
    layer, x = make_layer(scheme, torch.float32), torch.randn(3, COLUMNS)
    with torch.no_grad():
        check(layer, x, torch.compile(layer, backend="inductor", fullgraph=True)(x))
