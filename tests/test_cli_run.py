"""`treadle run`: right and wrong backends, peers that fail, models that raise, the table and the JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from treadle.compiler.cli.main import main

MODEL = """
import torch

class Model(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, 5)

    def forward(self, x, scale=1.0):
        return torch.softmax(self.linear(x) * scale, -1), x.sum()

def build(dtype=torch.float32, width=33):
    torch.manual_seed(0)
    print("the user's own words")
    return Model(width).to(dtype), {"x": torch.randn(17, width, dtype=dtype)}

def plain():
    return (lambda x: x.sin()), (torch.randn(9),)

def raising():
    def broken(x):
        return x[x.shape[0]]
    return broken, (torch.randn(3),)

def writing():
    return (lambda x: x.add_(1)), (torch.zeros(40),)
"""


def run(file: Path, *arguments: str, function: str = "build", backend: str = "aot_eager", peers: str = "eager") -> int:
    target = f"{file}:{function}"
    return main(["run", target, "--backend", backend, "--backend-peers", peers, "--pairs", "5", *arguments])


@pytest.fixture
def backends() -> Iterator[Callable[[str, Callable[..., Any]], None]]:
    """Registers backends of the test's own, for its time."""
    from torch._dynamo.backends import registry

    names: list[str] = []

    def register(name: str, compiler: Callable[..., Any]) -> None:
        names.append(name)
        torch._dynamo.register_backend(compiler, name)

    yield register
    for name in names:
        registry._BACKENDS.pop(name)
        registry._COMPILER_FNS.pop(name)


def off_by(error: float) -> Callable[..., Any]:
    """A backend whose float results are wrong by a factor of 1 + error."""

    def compile_wrongly(gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return lambda *args: [x * (1 + error) if isinstance(x, torch.Tensor) else x for x in gm(*args)]

    return aot_autograd(fw_compiler=compile_wrongly)


def fail_to_compile(gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    raise NotImplementedError("too young\nfor this")


def test_a_right_backend(file: Path, capsys: pytest.CaptureFixture[str]):
    assert run(file) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 120
    assert "Model, 170 parameters in f32; x f32[17, 33]" in lines[1] + lines[2] + lines[0].replace("\n", "")
    [ours] = [line for line in lines if line.strip().startswith("aot_eager ")]
    assert ours.endswith("right") or ours.rstrip().endswith("right")
    assert "within 3 times eager's own error against float64" in printed.out
    assert "compiling through aot_eager" in printed.err and "timing" in printed.err


@pytest.mark.parametrize("function", ["plain", "writing"])
def test_a_function_is_as_good_as_a_module(file: Path, function: str):
    assert run(file, function=function) == 0


def test_a_wrong_backend_fails_and_says_where(
    file: Path, backends: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    backends("off", off_by(1e-3))
    assert run(file, backend="off") == 1
    printed = capsys.readouterr().out
    assert "WRONG: 2 of 3 results" in printed
    assert "outputs.0" in printed and "times eager's" in printed


def test_a_wrong_peer_is_shown_and_is_not_our_failure(
    file: Path, backends: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    backends("off", off_by(1e-3))
    assert run(file, peers="eager,off") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("off ")]
    assert "WRONG" in line


def test_a_peer_that_fails_leaves_the_others(
    file: Path, backends: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    backends("young", fail_to_compile)
    out = tmp_path / "out.json"
    assert run(file, "--json", str(out), peers="young,eager") == 0
    assert "young failed: NotImplementedError: too young\n" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["contestants"]["young"] == {"error": "NotImplementedError: too young"}
    assert set(found["over"]) == {"eager"}


def test_ours_failing_is_a_failure(file: Path, backends: Callable[..., None], capsys: pytest.CaptureFixture[str]):
    backends("young", fail_to_compile)
    assert run(file, backend="young") == 1
    printed = capsys.readouterr().out
    assert "young failed: NotImplementedError: too young" in printed
    assert "right:" not in printed


def test_a_model_that_raises_is_told_by_its_line(file: Path, capsys: pytest.CaptureFixture[str]):
    assert run(file, function="raising") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "model.py:22: in float64 the model raised IndexError: index 3 is out of bounds" in printed.err
    assert "Traceback" not in printed.err


def test_an_unknown_backend_is_known_before_the_model_is_built(file: Path, capsys: pytest.CaptureFixture[str]):
    assert run(file, peers="eager,inductr") == 2
    printed = capsys.readouterr()
    assert "no such backend (got 'inductr'); did you mean 'inductor'?" in printed.err
    assert "user's own words" not in printed.out + printed.err


def test_json_says_all_and_stands_alone(file: Path, capsys: pytest.CaptureFixture[str]):
    assert run(file, "--json", "-", "--dtype", "bf16", "--set", "width=8", "--cold") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "the user's own words" in printed.err
    assert found["ok"] and found["backend"] == "aot_eager" and found["pairs"] == 5
    assert found["model"] == "Model, 45 parameters in bf16; x bf16[17, 8]"
    ours, eager = found["contestants"]["aot_eager"], found["contestants"]["eager"]
    assert ours["compile_cpu_seconds"] > 0 and eager["compile_cpu_seconds"] is None
    assert ours["accuracy"]["ok"] and ours["accuracy"]["compared"] == 3
    assert ours["times"]["median_us"] > 0
    assert found["over"]["eager"]["low"] <= found["over"]["eager"]["median"] <= found["over"]["eager"]["high"]


def test_a_mode_is_handed_to_the_backends_that_have_modes(file: Path, capsys: pytest.CaptureFixture[str]):
    peers = ("--backend", "treadle", "--backend-peers", "eager,aot_eager")
    assert main(["run", str(file), "--pairs", "3", "--json", "-", "--mode", "max-autotune-no-cudagraphs", *peers]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mode"] == "max-autotune-no-cudagraphs" and "error" not in found["contestants"]["aot_eager"]
    told = found["contestants"]["treadle"]["counters"]
    assert told.get("tuned", 0) + told.get("tuning_hit", 0) + told.get("store_hit", 0) > 0
    assert main(["run", str(file), "--mode", "fastest"]) == 2


def test_a_file_that_cannot_be_written_is_known_at_once(file: Path, capsys: pytest.CaptureFixture[str]):
    assert run(file, "--json", str(file / "below" / "a.json")) == 2
    printed = capsys.readouterr()
    assert "cannot be written" in printed.err and "user's own words" not in printed.out


def test_the_process_is_left_as_it_was(file: Path):
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    assert run(file, "--threads", "2", function="plain") == 0
    assert before == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())


def test_treadle_compiles_once_and_then_takes_from_its_store(
    file: Path, empty_cache: Path, capsys: pytest.CaptureFixture[str]
):
    def contest() -> dict[str, Any]:
        assert run(file, "--json", "-", backend="treadle") == 0
        return json.loads(capsys.readouterr().out)["contestants"]["treadle"]

    first, second = contest(), contest()
    assert first["counters"]["kernels"] >= 1 and first["counters"]["native"] >= 3 and not first["cached"]
    assert second["cached"] and second["accuracy"]["ok"]
    assert second["compile_cpu_seconds"] < first["compile_cpu_seconds"]
    assert run(file, backend="treadle") == 0
    printed = capsys.readouterr().out
    assert "treadle: 1 graph, 1 of them from the store" in printed and "(cached)" in printed


def test_without_a_compiler_the_model_runs_in_eager(
    file: Path, empty_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TREADLE_COMPILER", "no-such-compiler")
    assert run(file, backend="treadle") == 0
    printed = capsys.readouterr()
    assert "no C++ compiler" in printed.out and "fell back to ATen" in printed.out


@pytest.mark.slow
def test_as_a_process_against_inductor(file: Path, tmp_path: Path):
    command = [str(Path(sys.executable).parent / "treadle"), "run", f"{file}:plain", "--backend", "aot_eager"]
    command += ["--backend-peers", "eager,inductor", "--quick", "--cold", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["contestants"]["inductor"]["compile_cpu_seconds"] > 0.1
    assert not found["contestants"]["inductor"]["cached"]
