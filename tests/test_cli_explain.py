"""`treadle explain`: every kernel and call, where they come from, as text and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.compiler.cli.main import main
from treadle.compiler.cli.source_lines import gather_places, gather_sources, shorten_path
from treadle.passes.reasons import Reason

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        h = self.linear(self.norm(x))
        return x + h * torch.sigmoid(h)

class Model(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return torch.topk(x, 3).values

def build(dtype=torch.float64, width=48, layers=3):
    torch.manual_seed(0)
    print("the user's own words")
    return Model(width, layers).to(dtype), (torch.randn(300, width, dtype=dtype),)

def nothing():
    return (lambda x: x), (torch.randn(3),)

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("old", torch.zeros(64))
        self.register_buffer("seen", torch.zeros(64))
        self.linear = nn.Linear(64, 64)

    def forward(self, x, y, z):
        total = torch.logsumexp(x, 1, keepdim=True)
        self.old.copy_(torch.roll(self.old, 1))
        self.seen.mul_(0.5)
        return self.linear(y + total), z * total

def counting():
    sizes = (64, 4096), (64, 64), (64, 32)
    return Counting().double(), tuple(torch.randn(size, dtype=torch.float64) for size in sizes)

def raising():
    def broken(x):
        return x.view(4, 4)
    return broken, (torch.randn(3),)
"""


def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["explain", *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_every_kernel_and_call_is_told(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, progress = explain(capsys, str(file))
    assert status == 0
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 120
    heading = " ".join(" ".join(lines[:4]).split())  # it wraps where the path is long
    assert "Model, 7344 parameters in f64; f64[300, 48]" in heading
    assert "graph inference" in printed and "kept between calls" in printed
    numbers = [line.split()[1] for line in lines if line.startswith("kernel ")]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)] and numbers
    assert "model.py:12" in printed and "layers.*.norm" in printed
    assert "aten.addmm" in printed and "library: a contraction" in printed
    assert "aten.topk" in printed and "opaque" in printed
    assert "aten.addmm is a library call" in printed
    assert "axes " in printed and "sum(" in printed
    assert "the user's own words" in progress and "compiling" in progress


def test_a_mode_is_told_with_what_it_measured(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, _ = explain(capsys, str(file), "--kernel", "1", "--mode", "max-autotune-no-cudagraphs")
    assert status == 0 and "measured" in printed and "chosen: " in printed and " us: " in printed
    status, printed, _ = explain(capsys, str(file), "--mode", "reduce-overhead")
    assert status == 0 and "CUDA graph" in printed and "the code of mode default" in " ".join(printed.split())
    status, _, said = explain(capsys, str(file), "--mode", "fastest")
    assert status == 2 and "max-autotune-no-cudagraphs" in said


def test_one_kernel_with_its_source(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, _ = explain(capsys, str(file), "--kernel", "1", "--source")
    assert status == 0
    assert printed.count("\nkernel 1 ") == 1 and "kernel 2 " not in printed
    assert 'extern "C" int k' in printed
    name = printed.split()[2]
    assert explain(capsys, str(file), "--kernel", name)[1].split()[:3] == ["kernel", "1", name]


def test_a_kernel_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]):
    for wanted in ("99", "kxyz", "first"):
        status, printed, said = explain(capsys, str(file), "--kernel", wanted)
        assert (status, printed) == (2, "")
        assert f"there is no such kernel (got {wanted}); a number of 1 to " in said.splitlines()[-1]


def test_json_has_all_of_it(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, _ = explain(capsys, str(file), "--json", "--set", "layers=2", "--dtype", "fp64")
    found = json.loads(printed)
    assert status == 0 and found["target"] == f"{file}:build"
    [graph] = found["graphs"]
    assert {call["target"] for call in graph["calls"]} == {"aten.addmm.default", "aten.topk.default"}
    assert sum(kernel["launches"] for kernel in graph["kernels"]) == graph["counts"]["launches"]
    for kernel in graph["kernels"]:
        assert kernel["equations"] and kernel["source"] and kernel["sources"] and kernel["read"] > 0


def test_what_was_not_fused_is_told_with_its_reason(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, _ = explain(capsys, f"{file}:counting", "--json")
    [graph] = json.loads(printed)["graphs"]
    assert status == 0
    assert {edge["reason"] for edge in graph["edges"]} <= {reason.short for reason in Reason}
    steps = {kernel["name"] for kernel in graph["kernels"]} | {"aten.addmm"}
    assert all({edge["first"], edge["second"]} <= steps for edge in graph["edges"])
    [by_cost] = [edge for edge in graph["edges"] if edge["reason"] == "cost"]
    assert by_cost["reads"] and 0 < by_cost["seconds"] < by_cost["other_seconds"]
    [into_call] = [edge for edge in graph["edges"] if edge["second"] == "aten.addmm"]
    assert (into_call["law"], into_call["reason"]) == ("inline", "library")
    assert sorted(law["reason"] for law in graph["mutations"]) == ["", "moved"]
    tried = {(law["law"], law["reason"]) for kernel in graph["kernels"] for law in kernel["laws"]}
    assert {("inline", ""), ("merge", ""), ("stream", "short")} <= tried


def test_what_was_not_fused_is_told_in_words(file: Path, capsys: pytest.CaptureFixture[str]):
    words = " ".join(explain(capsys, f"{file}:counting")[1].split())
    assert "not fused" in words and "aten.addmm reads" in words and "aten.addmm is a library call" in words
    assert "cheaper stored" in words and "if computed where read; another kernel that reads" in words
    assert "no stream: sum2 with max1: the row stays in cache" in words
    assert "new values of inputs" in words and "elements are read after others take their place" in words
    assert "the two best ways to cut" in words and "computed where read" in words


def test_equal_layers_are_told_once(file: Path, capsys: pytest.CaptureFixture[str]):
    graphs = [json.loads(explain(capsys, str(file), "--json", "--set", f"layers={n}")[1])["graphs"][0] for n in (4, 6)]
    assert len(graphs[0]["edges"]) == len(graphs[1]["edges"])
    assert [max(edge["count"] for edge in graph["edges"]) for graph in graphs] == [3, 5]


def test_training_has_its_backward_graph(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, _ = explain(capsys, str(file), "--json", "--train", "--set", "layers=1")
    assert status == 0
    names = [graph["name"] for graph in json.loads(printed)["graphs"]]
    assert [name.rstrip("0123456789") for name in names] == ["forward", "backward"]


def test_nothing_to_compile_is_no_error(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, _ = explain(capsys, f"{file}:nothing")
    assert status == 0
    assert "kernel 1" not in printed


def test_a_model_that_raises_is_told_by_its_line(file: Path, capsys: pytest.CaptureFixture[str]):
    status, printed, said = explain(capsys, f"{file}:raising")
    assert (status, printed) == (2, "")
    assert "the model raised" in said and "Traceback" not in said


def test_a_process_prints_what_can_be_piped(file: Path, tmp_path: Path):
    command = [str(Path(sys.executable).parent / "treadle"), "explain", "model.py", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    [graph] = json.loads(done.stdout)["graphs"]
    assert any(source.endswith("model.py:13 (layers.0)") for kernel in graph["kernels"] for source in kernel["sources"])


def test_like_sources_are_told_once():
    sources = ["/p/a.py:3 (m.0.norm)", "/p/a.py:4 (m.0.norm)", "/p/a.py:3 (m.1.norm)", "/p/b.py:7", "odd"]
    assert gather_sources(sources) == ["/p/a.py:3, 4 (m.*.norm)", "/p/b.py:7", "odd"]
    assert gather_places(sources[:4]) == ["m.*.norm", "b.py:7"]
    assert gather_sources(["/p/a.py:3 (m.0.norm)"]) == ["/p/a.py:3 (m.0.norm)"]


def test_paths_are_told_from_the_packages_or_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert shorten_path("/usr/lib/python3/site-packages/transformers/a.py") == "transformers/a.py"
    assert shorten_path(f"{tmp_path}/models/a.py") == "models/a.py"
    assert shorten_path("/elsewhere/a.py") == "/elsewhere/a.py"
