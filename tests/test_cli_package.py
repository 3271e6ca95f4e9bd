"""`treadle package`: the folder it writes, what it prints, and bad usage."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import treadle
from treadle.compiler.cli.main import main
from treadle.compiler.model_file import load_model

MODEL = """
import torch

class Model(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, 5)

    def forward(self, x, scale=1.0):
        return {"probabilities": torch.softmax(self.linear(x) * scale, -1)}

def build(dtype=torch.float32, width=33):
    torch.manual_seed(0)
    print("the user's own words")
    return Model(width).to(dtype), {"x": torch.randn(17, width, dtype=dtype)}

def branching():
    return (lambda x: x if x.sum() > 0 else -x), (torch.randn(9),)

def slow():
    raise SystemExit("was built")
"""


def test_a_package_is_written_and_told_in_one_line(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.treadle"
    arguments = [
        "package",
        str(file),
        "-o",
        str(out),
        "--targets",
        "scalar,avx2",
        "--dtype",
        "bf16",
        "--set",
        "width=40",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    told = " ".join(printed.out.split())  # however the lines were broken
    assert "Model, 205 parameters in bf16; x bf16[17, 40]" in told
    assert re.search(r"out\.treadle: [\d.]+ KiB, [\d.]+ KiB of it code; cpu avx2, cpu scalar; [\d.]+ m?s$", told)
    assert "user's own words" in printed.err and "compiling for scalar, avx2" in printed.err
    loaded = load_model(str(file), "bf16", width=40)
    x = torch.randn(17, 40, dtype=torch.bfloat16)
    got, want = treadle.load(out)(x=x), loaded.model(x)
    torch.testing.assert_close(got, want)
    assert json.loads((out / "manifest.json").read_text())["name"] == "Model"


def test_a_package_is_replaced_by_force(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.treadle"
    assert main(["package", str(file), "-o", str(out), "--targets", "scalar"]) == 0
    before = (out / "manifest.json").read_bytes()
    assert main(["package", f"{file}:slow", "-o", str(out), "--targets", "scalar"]) == 2
    said = capsys.readouterr().err
    assert "there is a package already; force=True (--force) replaces it" in said
    assert "was built" not in said, "known before the model is built"
    assert (out / "manifest.json").read_bytes() == before
    arguments = ["package", str(file), "-o", str(out), "--targets", "scalar", "--set", "width=8", "--force"]
    assert main(arguments) == 0
    assert treadle.load(out)(x=torch.randn(17, 8))["probabilities"].shape == (17, 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--targets", "avx3"], "no such target (got avx3); did you mean 'avx2'? one of: auto, avx512, avx2, scalar"),
        (["--targets", ","], "no targets"),
        (["--forse"], "unrecognized arguments: --forse"),
    ],
)
def test_bad_usage_is_known_before_the_model_is_built(
    arguments: list[str], said: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["package", f"{file}:slow", "-o", str(tmp_path / "out"), *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "was built" not in printed.err and printed.out == ""


def test_an_output_is_required(file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["package", str(file)]) == 2
    assert "required: -o/--output" in capsys.readouterr().err


def test_a_model_that_cannot_be_exported(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["package", f"{file}:branching", "-o", str(tmp_path / "out")]) == 2
    assert "torch.export does not take this model: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_needs_a_compiler_and_says_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["package", str(file), "-o", str(tmp_path / "out")]) == 2
    assert "there is no C++ compiler: 'g++' is not found; install one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
