"""Packages that are damaged, or made for another machine, torch or treadle: each is one error that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import treadle
from treadle.codegen.cpp.isa import ISAS
from treadle.compiler.runtime import manifest as manifests
from treadle.ir.errors import BadInput, StoreError

TREE_OF_A_STRANGER = '[1, {"type": "nolib.Result", "context": "null", "children_spec": []}]'


class Model(nn.Module):
    """A product of ATen's, kernels of ours, a state, and a size that varies from 3 to 64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.softmax(torch.mm(x, self.weight), -1)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packages") / "model.treadle"
    sizes = {"x": {0: Dim("batch", min=3, max=64)}}
    return treadle.package(Model(), (torch.randn(6, 8),), directory, targets=tuple(ISAS), dynamic_shapes=sizes)


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy.treadle")


def reseal(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as another treadle might have written it: its digest is right."""
    path = directory / manifests.MANIFEST
    data = json.loads(path.read_text())
    del data["digest"]
    change(data)
    path.write_text(json.dumps(data | {"digest": manifests._digest(data)}))


def reseal_files(directory: Path, pattern: str) -> None:
    paths = {path.relative_to(directory).as_posix(): path for path in directory.glob(pattern)}
    files = {name: asdict(manifests.describe_file(path)) for name, path in paths.items()}
    reseal(directory, lambda m: m["files"].update(files))


def test_a_directory_that_is_no_package(tmp_path: Path):
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BadInput, match="this is no treadle package"):
            treadle.load(place)


@pytest.mark.parametrize("pattern", ["weights.safetensors", "targets/*/plan.json", "targets/*/*.so"])
@pytest.mark.parametrize("damage", ["bit", "cut", "missing"])
def test_a_damaged_file_is_an_error(pattern: str, damage: str, copied: Path):
    for path in copied.glob(pattern):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(data if damage == "bit" else data[:-7])
    said = {"bit": "its digest does not match", "cut": "bytes of", "missing": "is missing"}[damage]
    with pytest.raises(StoreError, match=f"{said}.*; copy the package here again, or package the model again"):
        treadle.load(copied)


def test_damage_to_the_manifest(copied: Path):
    path = copied / "manifest.json"
    text = path.read_text()
    for damaged in (text[:-20], text.replace("64", "65"), "[]", "{}", "\0"):
        path.write_text(damaged)
        with pytest.raises(StoreError, match="the manifest is damaged"):
            treadle.load(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=3, treadle="9.9"), r"format 3, made by treadle 9\.9; this treadle reads up to 2"),
        (lambda m: m.update(torch_from="2.99", torch_below="3.1", torch="2.99.1"), "was made with torch 2.99.1"),
        (lambda m: m["calls"].update({"nolib.op.default": "x"}), "nolib.op.default, which this process does not have"),
        (lambda m: m["calls"].update({"aten.mm.default": "aten::mm(Tensor self) -> Tensor[]"}), "other arguments"),
        (lambda m: [t.update(machine="riscv64") for t in m["targets"]], "avx512 on Linux riscv64.*and this is Linux"),
        (lambda m: [t.update(system="Plan9") for t in m["targets"]], "made for other machines"),
        (lambda m: [t.update(needs=["amx_fp4"]) for t in m["targets"]], "which needs amx_fp4"),
        (lambda m: [t.update(kind="npu") for t in m["targets"]], "none that this treadle knows"),
        (lambda m: [t.update(kind="cuda", needs=["sm_90"]) for t in m["targets"]], "which needs sm_90.*, and this is"),
        (lambda m: m["signature"].pop("inputs"), "lacks what it should say: 'inputs'"),
        (lambda m: m["signature"]["guards"].append("exit(1)"), "no arithmetic"),
        (lambda m: m["files"].pop("weights.safetensors"), "has no digest of it"),
        (lambda m: m["signature"].update(tree_out=TREE_OF_A_STRANGER), "have a class that is not known here"),
    ],
)  # fmt: skip
def test_a_package_for_another_world(change: Callable[[dict[str, Any]], object], said: str, copied: Path):
    reseal(copied, change)
    with pytest.raises(StoreError, match=said):
        treadle.load(copied)


def test_a_plan_of_another_form(copied: Path):
    for path in copied.glob("targets/*/plan.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    reseal_files(copied, "targets/*/plan.json")
    with pytest.raises(StoreError, match="the plan has a form that this treadle does not read"):
        treadle.load(copied)


def test_a_library_that_does_not_load(copied: Path):
    for path in copied.glob("targets/*/*.so"):
        path.write_bytes(b"no machine code")
    reseal_files(copied, "targets/*/*.so")
    with pytest.raises(StoreError, match="the kernels do not load here"):
        treadle.load(copied)


def test_targets_of_kinds_to_come_are_passed_over(copied: Path):
    cubin = {"kind": "cuda", "name": "sm_90", "system": "Linux", "machine": "x86_64", "needs": ["sm_90"], "plan": "",
             "libraries": {}}  # fmt: skip
    reseal(copied, lambda m: m["targets"].insert(0, cubin))
    call, x = treadle.load(copied), torch.randn(5, 8)
    torch.testing.assert_close(call(x), Model().eval()(x), rtol=1e-4, atol=1e-5)
    assert "target  cuda sm_90" in call.describe()
