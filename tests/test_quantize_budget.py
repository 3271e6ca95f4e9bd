"""Schemes by budget: the integer program's choice against all choices, and what errors it is made from."""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import treadle
from treadle.compiler.quantize import measure, name_scheme, parse_scheme
from treadle.compiler.quantize.budget import CANDIDATES, Choice, solve
from treadle.ir.errors import BadInput

SCHEME = parse_scheme("w8a16")


def best_of_all(choices: list[list[Choice]], budget: float) -> float:
    fitting = (row for row in product(*choices) if sum(c.bits for c in row) <= budget)
    return min(sum(c.error for c in row) for row in fitting)


@pytest.mark.parametrize("case", range(20))
def test_the_choice_is_the_best(case: int, rng: np.random.Generator):
    """Errors over eight magnitudes, as those of 2 and 8 bits are; any budget between all small and all large."""
    del case
    layers, candidates = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    choices = [
        [Choice(SCHEME, float(10 ** rng.uniform(-8, 0)), int(rng.integers(1, 10**6))) for _ in range(candidates)]
        for _ in range(layers)
    ]
    least, most = (sum(f(c.bits for c in row) for row in choices) for f in (min, max))
    for budget in (least, rng.uniform(least, most), most):
        places = solve(choices, budget, 1000)
        chosen = [row[p] for row, p in zip(choices, places, strict=True)]
        assert sum(c.bits for c in chosen) <= budget
        assert sum(c.error for c in chosen) <= best_of_all(choices, budget) * (1 + 1e-9) + 1e-13


def test_a_budget_that_is_met_to_the_bit():
    """The solver's own tolerance would take a millionth more."""
    choices = [[Choice(SCHEME, 1.0, 1), Choice(SCHEME, 0.0, 10**9 + 1)]]
    assert solve(choices, 10**9, 1) == [0] and solve(choices, 10**9 + 1, 1) == [1]
    assert solve(choices, 1, 1) == [0]


def test_a_budget_too_small_says_what_would_do():
    choices = [[Choice(SCHEME, 1.0, 300)], [Choice(SCHEME, 1.0, 500)]]
    with pytest.raises(BadInput, match=r"at least 4.000, got 3.900"):
        solve(choices, 780, 200)


@pytest.fixture
def model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("bits", [2.5, 3.5, 5.0])
def test_models_keep_to_the_budget(model: nn.Sequential, bits: float, calibrated: bool):
    x = torch.randn(64, 128)
    small: Any = treadle.quantize(model, budget_bits=bits, calibration=x if calibrated else None)
    report = measure(model, small, x)
    assert bits - 1 < report.bits <= bits
    assert {layer.scheme for layer in report.layers} <= set(CANDIDATES)


def test_more_bits_are_less_error(model: nn.Sequential):
    x = torch.randn(64, 128)
    with torch.no_grad():
        errors = [
            float((treadle.quantize(model, budget_bits=b, calibration=x)(x) - model(x)).norm()) for b in (2.5, 4.5, 8.5)
        ]
    assert errors[0] > 2 * errors[1] > 10 * errors[2]


def test_errors_are_measured_on_what_the_layers_see(model: nn.Sequential):
    """Weights of channels that no input reaches cost nothing: the layer that has them gets fewer bits."""
    linears = [m for m in model if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for layer in linears:
            layer.weight.copy_(torch.randn_like(layer.weight))
    candidates = ("w4a16-g32", "w8a16")
    silent = torch.randn(64, 128)
    silent[:, 32:] = 0
    with torch.no_grad():
        linears[0].weight[:, :32] = torch.randint(-7, 8, (256, 32)) / 7.0  # which four bits hold exactly
        linears[0].weight[:, 0] = 1.0
        linears[0].weight[:, 32:] = 0.49  # which they hold badly, beside
        linears[0].weight[:, 32::32] = 7.0
    small: Any = treadle.quantize(model, budget_bits=7.5, calibration=silent, candidates=candidates)
    assert [name_scheme(small[i].scheme) for i in (0, 2, 4)] == ["w4a16-g32", "w8a16", "w8a16"]


def test_tied_layers_count_once():
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second, nn.Linear(64, 64))
    small: Any = treadle.quantize(model, budget_bits=8.5)
    assert small[0].codes is small[1].codes and [name_scheme(m.scheme) for m in small] == ["w8a16"] * 3


def test_candidates_that_do_not_fit_a_layer_are_left_out():
    model = nn.Sequential(nn.Linear(65, 64), nn.Linear(64, 64))
    small: Any = treadle.quantize(model, budget_bits=8, candidates=("planes6", "w4a16-g64", "w8a16"))
    assert name_scheme(small[0].scheme) == "planes6" or name_scheme(small[0].scheme) == "w8a16"
    with pytest.raises(BadInput, match=r"layer '0'.*does not divide"):
        treadle.quantize(model, budget_bits=8, candidates=("w4a16-g64",))
    with pytest.raises(BadInput, match="no candidates"):
        treadle.quantize(model, budget_bits=8, candidates=())


def test_a_missing_scipy_is_named(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(BadInput, match=r"pip install 'treadle\[quantize\]'"):
        treadle.quantize(model, budget_bits=4)
