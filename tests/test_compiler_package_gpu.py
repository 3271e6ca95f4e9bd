"""Packages for GPUs, made and run where there is none: on a driver that runs Triton's interpreter."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gpu_fake import FakeGpu, build_driver, install
from torch import nn
from torch.export import Dim

import treadle
from treadle.codegen.triton.targets import TARGETS
from treadle.compiler.check import compare
from treadle.compiler.package_targets import choose_targets
from treadle.compiler.runtime import package_target
from treadle.compiler.runtime.plan import move_plan, plan_from_json
from treadle.ir.errors import BadInput, DeviceError, StoreError

Tensor = torch.Tensor
BOTH = ("scalar", "sm_90", "sm_80")


class Model(nn.Module):
    """Attention over rows, a norm, positions that the graph makes, tied weights, a counter and written statistics."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.bias = torch.randn(16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls.add_(1)
        rows, length, width = x.shape
        q, k, v = self.mix(x).view(rows, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows * length, width)
        y = self.norm(F.gelu(self.out(y) + self.bias.to(x.dtype)))
        position = torch.arange(length, device=x.device)
        return {"y": y.view(x.shape) * position[:, None], "all": torch.softmax(y, -1).sum()}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, library: Path) -> FakeGpu:
    fake = install(monkeypatch, library)
    monkeypatch.setattr(package_target, "find_current_gpu", lambda: "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    return fake


@pytest.fixture
def made(gpu: FakeGpu, tmp_path: Path) -> Path:
    inputs = {"x": torch.randn(3, 6, 16)}
    sizes = {"x": {0: Dim("rows", min=2, max=64)}}
    return treadle.package(Model(), inputs, tmp_path / "model.treadle", targets=BOTH, dynamic_shapes=sizes)


def raise_errors(gpu: FakeGpu) -> None:
    if gpu.errors:
        raise gpu.errors[0]


def test_a_package_made_without_a_gpu_runs_on_one(made: Path, gpu: FakeGpu):
    call, model = treadle.load(made), Model()
    assert call.target.name == "sm_90" and call.target.kind == "cuda"
    exact = copy.deepcopy(model).double()
    for rows in (3, 2, 7):
        x = torch.randn(rows, 6, 16)
        found = call(x=x)
        raise_errors(gpu)
        report = compare(found, model(x), exact(x.double()))
        assert report.ok and len(report.rows) == 2, str(report)
    assert int(call.state["calls"]) == 3
    torch.testing.assert_close(call.state["norm.running_mean"], model.norm.running_mean)
    assert {name for name, *_ in gpu.launches} and all(stream == 7 for *_, stream, _ in gpu.launches)


def test_the_same_package_runs_on_the_processor(made: Path, gpu: FakeGpu):
    x = torch.randn(4, 6, 16)
    call, model = treadle.load(made, device="cpu"), Model()
    assert call.target.name == "scalar" and call.device == torch.device("cpu")
    torch.testing.assert_close(call(x=x)["y"], model(x)["y"], rtol=1e-4, atol=1e-5)
    assert not gpu.launches


def test_calls_are_captured_where_that_is_wanted(made: Path, gpu: FakeGpu, tmp_path: Path):
    fixed = treadle.package(Model(), {"x": torch.randn(5, 6, 16)}, tmp_path / "fixed", targets=("sm_90",))
    call, model = treadle.load(fixed, cuda_graphs=True), Model()
    for _ in range(4):
        x = torch.randn(5, 6, 16)
        found = call(x=x)["y"].clone()
        raise_errors(gpu)
        torch.testing.assert_close(found, model(x)["y"], rtol=1e-4, atol=1e-4)
    run: Any = call._run
    assert run.executable.recorder is not None and int(call.state["calls"]) == 4
    assert "captured as CUDA graphs" in call.describe()
    assert "not captured as CUDA graphs: its sizes are dynamic" in treadle.load(made, cuda_graphs=True).describe()


@pytest.mark.parametrize(
    ("capability", "name"), [((9, 0), "sm_90"), ((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 2), None), ((12, 0), None)]
)
def test_a_gpu_takes_the_binaries_of_its_own_generation(
    capability: tuple[int, int], name: str | None, made: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: capability)
    assert treadle.load(made).target.name == (name or "scalar")
    if name is None:
        with pytest.raises(StoreError, match=f"sm_90 on Linux.*with sm_{capability[0]}{capability[1]} as cuda:0"):
            treadle.load(made, device="cuda")


def test_a_driver_that_refuses_the_binaries_is_told(made: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package_target.PackageFiles, "get", lambda *_: b"refused")
    with pytest.raises(DeviceError, match="unsupported PTX"):
        treadle.load(made)


def test_a_binary_that_was_changed_is_not_loaded(made: Path, gpu: FakeGpu):
    binary = next(made.glob("targets/sm_90/*.cubin"))
    binary.write_bytes(binary.read_bytes().replace(b"tl.", b"lt."))
    with pytest.raises(StoreError, match="damaged"):
        treadle.load(made)
    assert treadle.load(made, device="cpu")


@pytest.mark.parametrize(
    ("device", "said"), [("cuda", "no such GPU here"), ("cuda:3", "no such GPU here"), ("meta", "no device that")]
)
def test_a_device_that_is_not_here(device: str, said: str, made: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package_target, "find_current_gpu", lambda: None)
    with pytest.raises(BadInput, match=said):
        treadle.load(made, device=device)
    assert treadle.load(made).target.name == "scalar"


def test_inputs_on_another_device_are_refused(made: Path, gpu: FakeGpu):
    with pytest.raises(BadInput, match=r"float32.* on the CPU"):
        treadle.load(made)(x=torch.empty(3, 6, 16, device="meta"))


def test_a_plan_is_moved_with_the_devices_that_its_calls_name(gpu: FakeGpu, tmp_path: Path):
    def shuffle(x: Tensor) -> Tensor:
        return torch.exp(x[torch.randperm(6, device=x.device)])

    made = treadle.package(shuffle, (torch.randn(6, 5),), tmp_path / "made", targets=("sm_90",))
    plan = plan_from_json(json.loads((made / "targets/sm_90/plan.json").read_text()))
    assert plan is not None and plan.device == "cuda:0" and plan.text.count("torch.device('cuda:0')") == 1
    moved = move_plan(plan, "cuda:1")
    assert moved.device == "cuda:1" and "cuda:0" not in moved.text and "torch.device('cuda:1')" in moved.text
    assert move_plan(plan, "cuda:0") is plan


def test_names_of_targets():
    assert [aim.name for aim in choose_targets(("scalar", "sm_89", "sm_90", "sm_90"))] == ["sm_90", "sm_89", "scalar"]
    assert all(aim.isa.name == "scalar" for aim in choose_targets(("sm_100", "sm_120")))
    with pytest.raises(DeviceError, match=r"compute capability 8\.0 or later"):
        choose_targets(("sm_70",))
    with pytest.raises(BadInput, match="no such target"):
        choose_targets(("gfx942",))


def test_an_operator_that_the_cpu_alone_has_is_refused(tmp_path: Path):
    attention: Callable[..., Any] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    q = torch.randn(1, 2, 8, 16)
    with pytest.raises(BadInput, match=r"the CPU alone has.*_for_cpu"):
        treadle.package(lambda q: attention(q, q, q)[0], (q,), tmp_path / "made", targets=("sm_90",))
    assert not any(tmp_path.iterdir())


def test_real_binaries_are_made_for_gpus_that_are_not_here(tmp_path: Path):
    pytest.importorskip("triton")
    names = tuple(name for name, target in TARGETS.items() if target.backend == "cuda")
    made = treadle.package(lambda x: torch.softmax(x, -1), (torch.randn(4, 100),), tmp_path / "made", targets=names)
    for name in names:
        binaries = list(made.glob(f"targets/{name}/*.cubin"))
        assert len(binaries) == 2, "for aligned pointers, and for any"
        assert all(b.read_bytes().startswith(b"\x7fELF") for b in binaries)
    with pytest.raises(StoreError, match=r"sm_120 on .*sm_80 on "):
        treadle.load(made)
