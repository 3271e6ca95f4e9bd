"""`treadle.quantize`: which layers are replaced, what stays as it was, and what cannot be quantized."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.compiler.quantize import Int, QuantLinear, Scheme
from treadle.ir.errors import BadInput, SettingError


class Model(nn.Module):
    """An embedding, two blocks that are one, a head of its own."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width, bias=False)
        self.again = self.up
        self.lm_head = nn.Linear(width, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.down(self.again(self.embed(x))) + self.down(self.up(self.embed(x))))


TOKENS = torch.arange(8).view(2, 4)


@pytest.fixture
def model(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model()


def quantized(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, QuantLinear)]


def test_a_copy_is_quantized(model: Model):
    before = deepcopy(model)
    small: Any = treadle.quantize(model, "w8a16")
    assert quantized(small) == ["up", "down", "again"] and quantized(model) == []
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))
    assert small.up is small.again
    with torch.no_grad():
        error = (small(TOKENS) - model(TOKENS)).norm() / model(TOKENS).norm()
    assert 0 < error < 0.02


def test_in_place(model: Model):
    bias = model.up.bias
    assert treadle.quantize(model, "w8a16", inplace=True) is model
    assert quantized(model) and model.up.bias is bias and model.down.bias is None


def test_an_error_leaves_the_model_as_it_was(model: Model):
    model.down.weight.data[3, 4] = float("nan")
    with pytest.raises(BadInput, match=r"layer 'down'.*not finite.*1 NaN"):
        treadle.quantize(model, "w8a16", inplace=True)
    assert not quantized(model)


def test_a_layer_by_itself():
    layer = treadle.quantize(nn.Linear(8, 4), "w8a16")
    assert isinstance(layer, QuantLinear) and layer.extra_repr() == "8, 4, bias=True, scheme=w8a16"


def test_training_and_evaluation_mode_stay(model: Model):
    small: Any = treadle.quantize(model.eval(), "w8a16")
    assert not small.up.training
    small = treadle.quantize(model.train(), "w8a8", calibration=TOKENS)
    assert small.up.training and model.training


@pytest.mark.parametrize(
    ("skip", "left"), [(("lm_head",), ["up", "down", "again"]), ((), ["up", "down", "again", "lm_head"]),
                       (("u*", "lm_head"), ["down"]), (["down", "lm_*"], ["up", "again"])],
)  # fmt: skip
def test_skip(model: Model, skip: Any, left: list[str]):
    assert quantized(treadle.quantize(model, "w8a16", skip=skip)) == left


def test_schemes_by_pattern(model: Model):
    small: Any = treadle.quantize(model, {"u*": "w4a16-g32", "lm_head": Scheme(Int(8))}, skip=())
    assert small.up.scheme == Scheme(Int(4, 32)) and small.lm_head.scheme == Scheme(Int(8))
    assert quantized(small) == ["up", "again", "lm_head"]
    with pytest.raises(BadInput, match=r"no layer has a name that fits.*expected mlp"):
        treadle.quantize(model, {"mlp": "w4a16"})


def test_subclasses_are_left_alone():
    attention = nn.MultiheadAttention(16, 2)  # it reads the weight of its output layer, which is a subclass
    model = nn.Sequential(attention.out_proj, nn.Linear(16, 16))
    assert quantized(treadle.quantize(model, "w8a16")) == ["1"]


# --- tied weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulate", [False, True])
@pytest.mark.parametrize("scheme", ["w4a16-g32", "w8a8-static", "w8a8-smooth", "w4a16-nf4-r4"])
def test_tied_layers_stay_tied(scheme: str, simulate: bool):
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    model, x = nn.Sequential(first, nn.ReLU(), second), torch.randn(32, 64)
    small: Any = treadle.quantize(model, scheme, calibration=x, simulate=simulate)
    a, b = small[0], small[2]
    assert a.stored().keys() == b.stored().keys() and all(a.stored()[n] is b.stored()[n] for n in a.stored())
    assert not simulate or a.fake is b.fake
    assert not torch.equal(a.bias, b.bias)


def test_static_scales_of_tied_layers_fit_both():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    small: Any = treadle.quantize(nn.Sequential(first, second), "w8a8-static", calibration=torch.randn(9, 64) * 100)
    assert small[0].input_scale > 2  # the second alone would see far less


def test_a_head_tied_to_the_embedding_is_left_alone(model: Model):
    model.lm_head.weight = model.embed.weight
    with pytest.warns(UserWarning, match="'lm_head' is left as it is: 'embed' has its weight"):
        small: Any = treadle.quantize(model, "w8a16", skip=())
    assert small.lm_head.weight is small.embed.weight
    with pytest.warns(UserWarning), pytest.raises(BadInput, match="every layer shares"):
        treadle.quantize(nn.ModuleDict({"embed": model.embed, "head": model.lm_head}), "w8a16")


def test_tied_layers_take_one_scheme():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    with pytest.raises(BadInput, match=r"one weight take one scheme.*0, 1"):
        treadle.quantize(model, {"0": "w8a16", "1": "w8a8"})


# --- what cannot be quantized ------------------------------------------------------------------------------------


def linear_of(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.out_features, layer.in_features = weight.shape
    return layer


@pytest.mark.parametrize(
    ("layer", "scheme", "words"),
    [
        (nn.Linear(96, 8), "w4a16-g64", "group of 'w4a16-g64' does not divide K.*96, got 64.* 16, 24, 32, 48, 96$"),
        (nn.Linear(97, 8), "w4a16", "97"),
        (nn.Linear(48, 8), "mxfp4", "divisor of 48, got 32.*without groups"),
        (nn.Linear(192, 8), "fp8-block", "divisor of 192, got 128"),
        (nn.Linear(8, 8, device="meta"), "w8a16", "without values"),
        (linear_of(torch.ones(3, 4, dtype=torch.int8)), "w8a16", "no floats.*int8"),
        (linear_of(torch.ones(3, 4, dtype=torch.complex64)), "w8a16", "no floats.*complex64"),
        (linear_of(torch.ones(3, 0)), "w8a16", r"without weights.*\[3, 0\].*skip="),
        (linear_of(torch.ones(0, 3)), "w8a16", "without weights"),
        (linear_of(torch.tensor([[1.0, float("inf")]])), "w8a16", "not finite.*1 NaN or infinite"),
        (linear_of(torch.full((1, 4), 1e39, dtype=torch.float64)), "w8a16", "scale.*overflows"),
        (linear_of(torch.ones(1, 150_000)), "w8a8", "overflows i32.*133144"),
        (nn.Linear(8, 4), "w8a16-r5", "rank is above.*up to 4, got 5"),
        (nn.Linear(8, 4), "w8a8-static", "needs to see inputs.*calibration="),
        (nn.Linear(8, 4), "w8a8-smooth", "needs to see inputs"),
        (nn.Linear(128, 4), "w4ax", "needs to see inputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_layers(layer: nn.Linear, scheme: str, words: str):
    with pytest.raises(BadInput, match=words):
        treadle.quantize(nn.Sequential(layer), scheme, inplace=True)


def test_bad_calls(model: Model):
    with pytest.raises(SettingError, match=r"no such scheme.*one of: w8a8"):
        treadle.quantize(model, "int3")
    with pytest.raises(BadInput, match="a scheme or a budget"):
        treadle.quantize(model)
    with pytest.raises(BadInput, match="a scheme or a budget"):
        treadle.quantize(model, "w8a16", budget_bits=4)
    with pytest.raises(BadInput, match=r"expected a torch.nn.Module, got dict"):
        treadle.quantize({}, "w8a16")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"no torch.nn.Linear.*got ReLU"):
        treadle.quantize(nn.ReLU(), "w8a16")
    with pytest.raises(BadInput, match=r"skip= leaves no layer.*up, down, lm_head"):
        treadle.quantize(model, "w8a16", skip=("*",))
    with pytest.raises(BadInput, match="quantized already"):
        treadle.quantize(treadle.quantize(nn.Linear(3, 3), "w8a16"), "w8a16")


# --- calibration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [TOKENS, (TOKENS,), {"x": TOKENS}, [TOKENS], [(TOKENS,), {"x": TOKENS}]], ids=str)
def test_calls_in_every_form(model: Model, calls: Any):
    small: Any = treadle.quantize(model, "w8a8-static", calibration=calls)
    with torch.no_grad():
        loudest = model.embed(TOKENS).abs().max()
    torch.testing.assert_close(small.up.input_scale, (loudest / 127).reshape(1))
    assert model.training and not any(m._forward_pre_hooks for m in model.modules())


def test_calibration_that_does_not_do(model: Model):
    with pytest.raises(BadInput, match=r"not inputs of a model.*got int"):
        treadle.quantize(model, "w8a8-static", calibration=3)
    with pytest.raises(BadInput, match=r"layer 'up'.*needs to see"):
        treadle.quantize(nn.ModuleDict({"up": model.up, "down": model.down}), "w8a8-static", calibration=[])
    model.embed.weight.data[0] = float("nan")
    with pytest.raises(BadInput, match=r"calibration, layer 'up'.*not finite"):
        treadle.quantize(model, "w8a8-static", calibration=TOKENS)
