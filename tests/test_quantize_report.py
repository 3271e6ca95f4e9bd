"""Error reports: what the figures mean, and the table."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from quantize_reference import weights64
from torch import nn

import treadle
from treadle.compiler.quantize import SCHEMES, QuantLinear, measure
from treadle.ir.errors import BadInput


@pytest.fixture
def model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(256, 96), nn.ReLU(), nn.Linear(96, 16, bias=False))


def test_figures_are_those_of_the_definition(model: nn.Sequential):
    x = torch.randn(50, 256)
    small: Any = treadle.quantize(model, {"0": "w4a16-g32"})
    [row] = measure(model, small, x).layers
    layer = small[0]
    assert isinstance(layer, QuantLinear)
    exact, rounded = model.get_parameter("0.weight").detach().double(), torch.from_numpy(weights64(layer))
    assert (row.name, row.scheme, row.rows, row.columns) == ("0", "w4a16-g32", 96, 256)
    assert row.bits == 4 + 32 / 32 == layer.bits_per_weight
    assert row.weights == pytest.approx(float((rounded - exact).norm() / exact.norm()), rel=1e-4)
    wanted = x.double() @ exact.t()
    assert row.outputs == pytest.approx(float((x.double() @ rounded.t() - wanted).norm() / wanted.norm()), rel=1e-4)
    assert 0 < row.arithmetic < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_arithmetic_is_rounding_alone(scheme: str, dtype: torch.dtype):
    """Whatever a scheme loses, its layer computes its reference: a few roundings of random sign."""
    plain = nn.Linear(256, 64).to(dtype)
    small: Any = treadle.quantize(plain, scheme, calibration=torch.randn(64, 256).to(dtype))
    [row] = measure(plain, small).layers
    assert row.arithmetic < 2 * torch.finfo(dtype).eps + 1e-6
    assert row.outputs < 0.6 and row.weights < 0.6


def test_bits_count_everything_stored():
    plain = nn.Linear(128, 64)
    expected = {
        "w8a16": 8 + 32 / 128,
        "w8a16-r4": 8 + 32 / 128 + 32 * 4 * (128 + 64) / (128 * 64),
        "w4a16-asym-g32": 4 + (32 + 8) / 32,
        "planes3": 3 + 32 / 128,
        "mxfp8": 8 + 8 / 32,
        "codebook2": 2 + 4 * 32 / 128,
        "ternary": 2 + 32 / (128 * 64),
    }
    for scheme, bits in expected.items():
        [row] = measure(plain, treadle.quantize(plain, scheme)).layers
        assert row.bits == pytest.approx(bits), scheme


def test_the_table(model: nn.Sequential):
    report = measure(model, treadle.quantize(model, {"0": "w8a16", "2": "w4a16-g32"}))
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "scheme", "shape", "bits", "weights", "outputs", "arithmetic"]
    assert lines[2].split()[:6] == ["2", "w4a16-g32", "16", "x", "96", "5.00"]
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[3] == f"2 layers, {report.bits:.3f} bits per weight"
    assert report.bits == pytest.approx((8.125 * 96 * 256 + 5 * 16 * 96) / (96 * 256 + 16 * 96))


def test_layers_that_inputs_do_not_reach_have_no_output_error(model: nn.Sequential):
    unused = nn.ModuleDict({"used": model, "unused": nn.Linear(8, 8)})
    unused.forward = model.forward
    report = measure(unused, treadle.quantize(unused, "w8a16"), torch.randn(3, 256))
    assert [math.isnan(layer.outputs) for layer in report.layers] == [False, False, True]


def test_low_rank_parts_take_up_error(seed: int):
    """More rank, less error; and what rank 0 loses is more than what any loses."""
    torch.manual_seed(seed)
    plain = nn.Linear(128, 96)
    errors = [measure(plain, treadle.quantize(plain, s)).layers[0].weights for s in ("w2a16", "w2a16-r4", "w2a16-r32")]
    assert errors[0] > 1.02 * errors[1] > 1.2 * errors[2]


def test_smoothing_helps_where_channels_are_loud(seed: int):
    torch.manual_seed(seed)
    plain, x = nn.Linear(256, 64), torch.randn(64, 256)
    x[:, :3] *= 60
    errors = [
        measure(plain, treadle.quantize(plain, s, calibration=x), x).layers[0].outputs for s in ("w8a8", "w8a8-smooth")
    ]
    assert errors[1] < errors[0] / 2


def test_models_that_differ(model: nn.Sequential):
    small: Any = treadle.quantize(model, "w8a16")
    with pytest.raises(BadInput, match="no quantized layers"):
        measure(model, model)
    with pytest.raises(BadInput, match=r"layer '0'.*the models differ.*\[96, 256\]"):
        measure(nn.Sequential(nn.Linear(3, 3)), small)
