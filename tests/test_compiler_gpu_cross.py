"""Kernels compiled for GPUs that are not there, by the real Triton, in processes of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from treadle.codegen.triton.emit import default_schedule, emit_kernel, emit_module
from treadle.codegen.triton.launcher import Shape, emit_launcher
from treadle.codegen.triton.targets import TARGETS
from treadle.compiler.runtime.gpu import worker
from treadle.compiler.runtime.gpu.cross import Binary, Failed, Request, compile_launches
from treadle.ir.text import parse_kernel

pytest.importorskip("triton")

SOFTMAX = """
kernel rows(x: bf16[64, 1000]) -> (y: bf16[64, 1000])
  axes t:64, c:1000
  m[t]: f32 = max(c) f32(x[t, c])
  s[t]: f32 = sum(c) exp((f32(x[t, c]) - m[t]))
  y[t, c] <- bf16((exp((f32(x[t, c]) - m[t])) / s[t]))
"""
REPORT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "triton_resources.json"
ELF = b"\x7fELF"


def request(target: str, **changes: Any) -> Request:
    kernel = parse_kernel(SOFTMAX)
    source = emit_kernel(kernel, default_schedule(kernel), "rows")
    return replace(Request(emit_module([source]), source.launches[0], TARGETS[target]), **changes)


def test_every_target_has_a_binary_that_does_not_spill():
    found = compile_launches([request(t) for t in TARGETS])
    for target, binary in zip(TARGETS.values(), found, strict=True):
        assert isinstance(binary, Binary), f"{target.name}: {binary}"
        assert binary.code.startswith(ELF) and binary.name == "rows"
        assert 0 < binary.registers <= target.registers and binary.stack == 0


def test_a_launcher_knows_what_triton_adds_to_the_arguments():
    (binary,) = compile_launches([request("sm_90")])
    assert isinstance(binary, Binary) and binary.parameters >= 2
    kernel = parse_kernel(SOFTMAX)
    text = emit_launcher(emit_kernel(kernel, default_schedule(kernel), "rows"), [Shape(0, binary.parameters)])
    assert text.count("&nothing") == binary.parameters - 2


def test_what_triton_refuses_is_told_and_the_others_are_made():
    wrong = request("sm_90").module.replace("tl.exp", "tl.no_such_function")
    found = compile_launches([request("sm_90", module=wrong), request("sm_90")], jobs=1)
    assert isinstance(found[0], Failed) and "no_such_function" in found[0].error
    assert isinstance(found[1], Binary)


def test_the_committed_report_has_every_kernel_on_every_target():
    document = json.loads(REPORT.read_text())
    launches = [x for row in document["rows"].values() for x in row["launches"].values()]
    assert len(launches) == document["summary"]["launches"] > 500
    for target in TARGETS:
        assert all(x[target]["registers"] > 0 for x in launches)
        assert not any(x[target]["stack"] for x in launches)
    assert not any(row["unprinted"] for row in document["rows"].values())


@pytest.mark.parametrize(("needed", "limits", "kept"), [
    (40, [], {"registers": 48, "stack": 0}),  # enough as it is
    (60, [56, 64], {"registers": 64, "stack": 0}),  # some more, until all values have one
    (999, [56, 64, 80], {"registers": 48, "stack": 8}),  # no few more are enough: as it was
])  # fmt: skip
def test_values_without_a_register_get_one_where_a_few_more_are_enough(
    monkeypatch: pytest.MonkeyPatch, needed: int, limits: list[int], kept: dict[str, int]
) -> None:
    asked: list[int] = []

    def compile_it(maxnreg: int = 48) -> SimpleNamespace:
        asked.append(maxnreg)
        return SimpleNamespace(asm={"cubin": maxnreg})

    def resources(binary: int) -> dict[str, int]:
        return {"registers": binary, "stack": 0 if binary >= needed else 8}

    monkeypatch.setattr(worker, "cuda_resources", resources)
    kernel, used = worker.without_stack(compile_it)
    assert asked == [48, *limits] and used == kept == resources(kernel.asm["cubin"])
