"""Quantized models in files: every bit comes back, and a file that is not one is one error."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import treadle
from treadle.compiler.quantize import SCHEMES, load, save
from treadle.ir.errors import BadInput


class Model(nn.Module):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.tied = nn.Linear(width, width)
        self.tied.weight = self.second.weight
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.norm(self.tied(self.second(self.first(x)))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small.safetensors"


@pytest.fixture
def model(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", [*SCHEMES, "w4a16-asym-g32", "mxfp4-a8", "bfp8-a8"])
def test_every_bit_comes_back(model: Model, scheme: str, dtype: torch.dtype, path: Path):
    model, x = model.to(dtype), torch.randn(5, 256).to(dtype)
    small: Any = treadle.quantize(model, scheme, calibration=x)
    save(small, path)
    again: Any = load(Model().to(dtype), path)
    state, other = small.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    for name, t in state.items():
        assert t.dtype == other[name].dtype and torch.equal(t.view(torch.uint8), other[name].view(torch.uint8)), name
    assert again.first.scheme == small.first.scheme and type(again.first) is type(small.first)
    assert again.tied.codes is again.second.codes
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


def test_a_model_without_memory_is_filled(model: Model, path: Path):
    small, x = treadle.quantize(model, "w4a16-g32"), torch.randn(3, 256)
    save(small, path)
    with torch.device("meta"):
        empty = Model()
    with torch.no_grad():
        assert torch.equal(load(empty, path)(x), small(x))


def test_a_layer_by_itself(path: Path):
    small, x = treadle.quantize(nn.Linear(64, 9), "w8a8"), torch.randn(3, 64)
    save(small, path)
    assert torch.equal(load(nn.Linear(64, 9), path)(x), small(x))


def test_a_shared_layer_is_one_again(path: Path):
    layer = nn.Linear(64, 64)
    save(treadle.quantize(nn.Sequential(layer, nn.ReLU(), layer), "w8a16"), path)
    other = nn.Linear(64, 64)
    again: Any = load(nn.Sequential(other, nn.ReLU(), other), path)
    assert again[0] is again[2]


def test_tied_tensors_are_stored_once(model: Model, path: Path):
    save(treadle.quantize(model, "w8a16"), path)
    names = set(load_file(path))
    assert "second.codes" in names and "tied.codes" not in names and "tied.bias" in names
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["treadle.quantize"])
    assert about["same"]["tied.codes"] == "second.codes"
    assert about["schemes"]["tied"]["weight"] == {
        "format": "Int", "bits": 8, "group": 0, "symmetric": True, "power": False,
    }  # fmt: skip


# --- what is no such file ----------------------------------------------------------------------------------------


def change(path: Path, **tensors: torch.Tensor) -> None:
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file({**load_file(path), **tensors}, path, metadata=about)


def test_only_quantized_models_are_saved(model: Model, path: Path):
    with pytest.raises(BadInput, match=r"no quantized layers.*Model"):
        save(model, path)
    with pytest.raises(BadInput, match=r"layer 'first'.*a simulation is not saved"):
        save(treadle.quantize(model, "w8a16", simulate=True), path)
    assert not path.exists()


def test_damaged_files(model: Model, path: Path):
    with pytest.raises(BadInput, match="not a file of tensors"):
        load(model, path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput, match="not a file of tensors"):
        load(model, path)
    save_file({"x": torch.ones(3)}, path)
    with pytest.raises(BadInput, match="no quantized model"):
        load(model, path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("first.scale", torch.full((256,), float("nan")), "first.scale.*not finite"),
        ("first.scale", torch.ones(7), "layer 'first'.*not those of the scheme"),
        ("first.codes", torch.zeros(256, 64, dtype=torch.int8), "layer 'first'"),
        ("extra", torch.ones(2), "not the one that was saved.*extra"),
    ],
)
def test_changed_files(model: Model, path: Path, name: str, value: torch.Tensor, words: str):
    save(treadle.quantize(model, "w8a16"), path)
    change(path, **{name: value})
    with pytest.raises(BadInput, match=f"(?s){words}"):
        load(deepcopy(model), path)


def test_another_model(model: Model, path: Path):
    save(treadle.quantize(model, "w8a16"), path)
    with pytest.raises(BadInput, match=r"layer 'first'.*the model lacks"):
        load(nn.Sequential(nn.Linear(256, 256)), path)
    with pytest.raises(BadInput, match="layer 'first'"):
        load(Model(128), path)
