"""Quantized layers in eager: every scheme against float64 from its stored tensors, at every kind of shape."""

from __future__ import annotations

import pytest
import torch
from quantize_reference import bound_error, compute64, inputs64, weights64
from torch import nn

import treadle
from treadle.compiler.quantize import NF4, SCHEMES, Int, QuantLinear, Scheme, Table, compute_reference, parse_scheme
from treadle.compiler.quantize.schemes import group_of

MORE = ("w8a16-g32", "w8a16-asym", "w3a16-asym-g32", "w4a8-g32", "w4a8-fp8-g32", "w4a8-fp8-smooth",
        "w8a8-static-smooth",
        "w4ax-g32", "fp8-a16", "fp8-block-a16", "nf4-g32", "bfp8-a8", "mxfp4-a8", "mxfp8-a8", "planes3-g32", "w2a16-r3",
        "w5a16-g32", "w7a16-g32")  # fmt: skip
ALL = (*SCHEMES, *MORE)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def columns_of(scheme: str | Scheme) -> int:
    """Odd where the scheme allows: K is then no whole number of bytes."""
    parsed = parse_scheme(scheme)
    group = max(group_of(parsed.weight), group_of(parsed.activation))
    return 3 * group if group else 77


def make_layer(scheme: str | Scheme, dtype: torch.dtype, seed: int, rows: int = 131, bias: bool = True) -> QuantLinear:
    torch.manual_seed(seed)
    layer = nn.Linear(columns_of(scheme), rows, bias=bias).to(dtype)
    layer.weight.data[0] *= 20  # outputs, and inputs, of unlike magnitudes
    loud = torch.linspace(0.1, 4, layer.in_features)
    made = treadle.quantize(layer, scheme, calibration=(torch.randn(64, layer.in_features) * loud).to(dtype))
    assert isinstance(made, QuantLinear)
    return made


def check(layer: QuantLinear, x: torch.Tensor) -> None:
    with torch.no_grad():
        got = layer(x)
    wanted, size = compute64(layer, x)
    assert got.dtype == x.dtype and got.shape == (*x.shape[:-1], layer.out_features)
    assert ((got.double() - wanted).abs() <= bound_error(layer, size, x.dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", ALL)
def test_results(scheme: str, dtype: torch.dtype, seed: int):
    layer = make_layer(scheme, dtype, seed)
    for shape in ((0,), (1,), (3,), (17,), (2, 3), ()):
        check(layer, torch.randn(*shape, layer.in_features).to(dtype))


@pytest.mark.parametrize("scheme", ALL)
def test_results_without_a_bias(scheme: str, seed: int):
    layer = make_layer(scheme, torch.float32, seed, rows=16, bias=False)
    check(layer, torch.randn(5, layer.in_features))


@pytest.mark.parametrize("scheme", ALL)
def test_the_reference_of_the_package(scheme: str, seed: int):
    """`compute_reference`, which reports are made by, is the one written here."""
    layer = make_layer(scheme, torch.float32, seed)
    x = torch.randn(7, layer.in_features)
    with torch.no_grad():
        got = compute_reference(layer, x)
    wanted, size = compute64(layer, x)
    assert ((got - wanted).abs() <= size * 2.0**-20).all()  # inputs times their scale are rounded to f32


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("scheme", ALL)
def test_simulation(scheme: str, dtype: torch.dtype, seed: int):
    """The same numbers as floats: the results differ by rounding alone, and the weights are a float parameter."""
    torch.manual_seed(seed)
    plain, calibration = nn.Linear(columns_of(scheme), 67).to(dtype), torch.randn(64, columns_of(scheme)).to(dtype)
    real, fake = (treadle.quantize(plain, scheme, calibration=calibration, simulate=s) for s in (False, True))
    assert isinstance(real, QuantLinear) and isinstance(fake, QuantLinear)
    assert all(p.is_floating_point() for p in fake.parameters()) and "codes" not in fake.stored()
    x = torch.randn(9, plain.in_features).to(dtype)
    _, size = compute64(real, x)
    with torch.no_grad():
        error = (fake(x).double() - real(x).double()).abs()
    assert (error <= 2 * bound_error(real, size, dtype)).all()  # each within one bound of the exact result
    torch.testing.assert_close(fake.weight, real.weight)


NEAREST = [s for s in ALL if parse_scheme(s).activation is None and not parse_scheme(s).rank]


@pytest.mark.parametrize("scheme", NEAREST)
def test_weights_are_the_nearest(scheme: str, seed: int):
    """Of the values that a group takes, each weight takes the nearest."""
    torch.manual_seed(seed)
    plain = nn.Linear(columns_of(scheme), 8)
    layer = treadle.quantize(plain, scheme)
    assert isinstance(layer, QuantLinear)
    w, rounded = plain.weight.detach().double(), torch.from_numpy(weights64(layer))
    group = group_of(parse_scheme(scheme).weight) or plain.in_features
    for row in range(8):
        for g in range(plain.in_features // group):
            part, near = w[row, g * group :][:group], rounded[row, g * group :][:group]
            best = (part[:, None] - near[None, :]).abs().amin(1)  # the values that the group does take are a subset
            assert ((part - near).abs() <= best + 1e-6).all()


@pytest.mark.parametrize("scheme", [s for s in ALL if parse_scheme(s).activation is not None])
def test_rows_of_zeros_and_rows_that_are_not_finite(scheme: str, seed: int):
    """Zeros give the bias; NaN and infinities stay in their row, but where one scale is for all or was found before."""
    layer = make_layer(scheme, torch.float32, seed)
    x = torch.randn(4, layer.in_features)
    x[1] = 0
    with torch.no_grad():
        assert torch.equal(layer(torch.zeros(2, layer.in_features)), layer.bias.expand(2, -1))  # type: ignore[union-attr]
        x[2, 5], x[3, 6] = float("nan"), float("inf")
        got = layer(x)
    check(layer, x[:2])
    if scheme.startswith("w8a8-static"):
        assert got.isfinite().all()
    elif scheme == "fp8":
        assert got.isnan().all()
    else:
        torch.testing.assert_close(got[:2], layer(x[:2]))
        assert not got[2:].isfinite().any()


def test_subnormal_and_huge_inputs(seed: int):
    layer = make_layer("w8a8", torch.float32, seed, bias=False)
    for size in (1e-44, 1e-38, 1e30):
        x = torch.randn(3, layer.in_features) * size
        assert layer(x).isfinite().all()
    check(layer, torch.randn(3, layer.in_features) * 1e30)


def test_half_precision_does_not_overflow(seed: int):
    """Sums of whole numbers leave fp16's range where those of weights do not."""
    torch.manual_seed(seed)
    plain = nn.Linear(512, 8).half()
    x = torch.full((1, 512), 300.0).half()
    with torch.no_grad():
        plain.weight.abs_()
        for scheme in ("w8a16", "planes8", "w8a8", "fp8-row", "ternary"):
            got, wanted = treadle.quantize(plain, scheme)(x), plain(x)
            assert got.isfinite().all() and ((got - wanted).norm() < 0.7 * wanted.norm())


def test_a_table_of_ones_own(seed: int):
    torch.manual_seed(seed)
    plain, values = nn.Linear(64, 9), (-1.0, -0.25, 0.0, 1.0)
    layer = treadle.quantize(plain, Scheme(Table(2, 32, values)))
    assert isinstance(layer, QuantLinear)
    steps = weights64(layer).reshape(9, 2, 32) / layer.scale.double().numpy()[..., None]
    assert {round(v, 6) for v in steps.flatten()} <= {*values}
    check(layer, torch.randn(3, 64))
    assert len(NF4) == 16 and len(set(NF4)) == 16


def test_loud_channels_take_eight_bits(seed: int):
    """COMET's reason: one loud channel does not cost the others their bits."""
    torch.manual_seed(seed)
    plain, x = nn.Linear(256, 32), torch.randn(64, 256)
    x[:, ::37] *= 50
    errors = {}
    for scheme in ("w4ax-g32", "w4a4"):
        layer = treadle.quantize(plain, scheme, calibration=x)
        assert isinstance(layer, QuantLinear)
        exact = x.double() if layer.order is None else x[:, layer.order].double()
        errors[scheme] = float((torch.from_numpy(inputs64(layer, x)) - exact).norm() / exact.norm())
    assert errors["w4ax-g32"] < errors["w4a4"] / 8
    layer = treadle.quantize(plain, "w4ax-g32", calibration=x)
    assert set(layer.order[:7].tolist()) == set(range(0, 256, 37))  # type: ignore[index]


def test_the_integer_product_is_exact_at_its_longest():
    layer = treadle.quantize(nn.Linear(4096, 2), Scheme(Int(8), Int(8)))
    x = torch.ones(1, 4096)
    layer.codes.fill_(127)  # type: ignore[operator]
    got = layer(x) - layer.bias
    assert torch.allclose(got, 127 * 127 * 4096 * layer.scale / 127, rtol=1e-6)  # type: ignore[operator]
