"""Models in Python files: FILE[:FUNCTION], what is accepted, and what is said of what is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from treadle.compiler.model_file import describe_type, load_model, name_dtype, split_target
from treadle.ir.errors import BadInput

GOOD = """
from dataclasses import dataclass
import torch
import beside

@dataclass
class Pair:
    a: int

def build(dtype=torch.float32, *, width=4):
    return torch.nn.Linear(width, 2).to(dtype), (torch.ones(3, width, dtype=dtype),)

def keywords():
    return torch.add, {"input": torch.ones(2), "other": torch.ones(2)}

def names(**anything):
    return (lambda **kw: anything), {}

def model_only():
    return torch.nn.Linear(1, 1)

def tensor_inputs():
    return torch.sin, torch.ones(2)

def falls():
    x = 1
    raise ValueError("no luck\\nat all")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "01-model.py"
    path.write_text(GOOD)
    (tmp_path / "beside.py").write_text("")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return path


def test_build_is_the_default_function(file: Path):
    loaded = load_model(str(file))
    assert loaded.name == f"{file}:build"
    assert isinstance(loaded.model, torch.nn.Linear)
    assert describe_type(next(iter(loaded.inputs))) == "f32[3, 4]"


def test_arguments_reach_the_function(file: Path):
    loaded = load_model(str(file), "bf16", width=7)
    assert describe_type(next(iter(loaded.inputs))) == "bf16[3, 7]"
    assert load_model(f"{file}:names", depth=3).model() == {"depth": 3}


def test_inputs_may_be_keywords(file: Path):
    loaded = load_model(f"{file}:keywords")
    assert isinstance(loaded.inputs, dict) and list(loaded.inputs) == ["input", "other"]


def test_a_path_with_a_colon_is_a_path(tmp_path: Path):
    path = tmp_path / "a:b.py"
    path.write_text("")
    assert split_target(str(path)) == (path, "build")
    assert split_target(f"{path}:f") == (path, "f")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{file}:bild", "no such function in this file; did you mean 'build'? one of: build, keywords"),
        ("{file}:torch", "no such function"),
        ("{file}:model_only", "expected (model, inputs): a callable, and a tuple or a mapping of its arguments, got"),
        ("{file}:tensor_inputs", "got (builtin_function_or_method, f32[2])"),
        ("{file}:falls", "01-model.py:27: falls() raised ValueError: no luck; "),
        ("{file}x", "this is not a Python file"),
        ("nowhere.py", "nowhere.py: there is no such file"),
        ("model.txt:build", "not a Python file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(file: Path, target: str, said: str):
    with pytest.raises(BadInput) as caught:
        load_model(target.format(file=file))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import torch\nimport no_such_module", "broken.py:2: it cannot be imported: ModuleNotFoundError: No module"),
        ("def build(:\n    pass", "broken.py:1: it cannot be imported: SyntaxError: "),
        ("raise SystemExit('usage')", "broken.py:1: it cannot be imported: SystemExit: usage"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, source: str, said: str):
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(BadInput) as caught:
        load_model(str(path))
    assert said in str(caught.value)


def test_wrong_arguments(file: Path):
    with pytest.raises(BadInput, match=r"no such dtype .*'bf16'"):
        load_model(str(file), "bf17")
    with pytest.raises(BadInput, match=r"no such parameter .*did you mean 'width'\? one of: dtype, width"):
        load_model(str(file), widht=3)
    with pytest.raises(BadInput, match=r"no such parameter \(got dtype\)"):
        load_model(f"{file}:keywords", "bf16")


def test_values_are_described_in_a_word():
    values = (
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.ones((), dtype=torch.bool),
        3,
        {"a": 1},
        len,
        test_wrong_arguments,
    )
    assert [describe_type(value) for value in values] == [
        "bf16[2, 3]", "bool[]", "int", "dict of 1", "builtin_function_or_method", "test_wrong_arguments",
    ]  # fmt: skip
    assert [name_dtype(d) for d in (torch.float64, torch.uint8, torch.int64, torch.complex64)] == [
        "f64",
        "u8",
        "i64",
        "c64",
    ]
