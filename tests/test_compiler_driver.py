"""The driver in the world: the store, other processes, threads, missing compilers, wrong options, failures inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.exc as dynamo_errors
import torch.nn.functional as F

from treadle.compiler import driver, kernels, pipeline
from treadle.compiler.runtime.build import total_stats
from treadle.compiler.settings import settings
from treadle.ir import verify
from treadle.ir.errors import LoweringError, SettingError
from treadle.ir.verify_rules import Rule

Tensor = torch.Tensor

PROGRAM = """
import json, sys, time
import torch, torch.nn.functional as F
import torch._dynamo, torch._functorch.aot_autograd
def f(x, w):
    h = F.gelu(x @ w)
    return torch.softmax(h, -1), (w * w).sum(0)
torch.manual_seed(0)
x, w = torch.randn(33, 16), torch.randn(16, 40)
with torch.no_grad():
    got = torch.compile(f, backend="treadle", options={"fallback": "error"})(x, w)
    right = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(got, f(x, w)))
from treadle.compiler.runtime.build import total_stats
print(json.dumps({
    "right": right, "started": total_stats().started, "counts": dict(torch._dynamo.utils.counters["treadle"]),
    "modules": [name for name in sys.modules if name.startswith("treadle.")],
}))
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)


def counts() -> dict[str, int]:
    return dict(torch._dynamo.utils.counters["treadle"])


def model(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    h = F.gelu(x @ w)
    return torch.softmax(h, -1), (w * w).sum(0)


def make_inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(33, 16), torch.randn(16, 40)


def assert_right(fast: Any, *inputs: Tensor) -> None:
    for got, want in zip(fast(*inputs), model(*inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def start(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | environment)  # fmt: skip


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1]) | {"stderr": errors}


# --- the store ---------------------------------------------------------------------------------------------------


def test_a_second_process_starts_without_compiler_and_passes(empty_cache: Path):
    first = finish(start())
    assert first["right"] and first["started"] == 1
    second = finish(start(TREADLE_COMPILER=settings.compiler, PATH=os.environ["PATH"]))
    assert second["right"] and second["started"] == 0
    assert second["counts"]["store_hit"] == 1
    assert {k: n for k, n in second["counts"].items() if k != "store_hit"} == first["counts"]
    cold = (
        "treadle.passes",
        "treadle.compiler.pipeline",
        "treadle.codegen.cpp.emit",
        "treadle.compiler.frontend.importer",
    )
    assert [m for m in second["modules"] if m.startswith(cold)] == []


def test_a_process_without_a_compiler_uses_what_another_one_stored(empty_cache: Path, tmp_path: Path):
    assert finish(start())["right"]
    found = finish(start(PATH=str(tmp_path)))
    assert found["right"] and found["counts"]["store_hit"] == 1 and found["stderr"] == ""


def test_two_processes_at_once(empty_cache: Path):
    for result in [finish(p) for p in [start(), start(), start()]]:
        assert result["right"] and "fallback" not in result["counts"]


def test_a_killed_process_leaves_a_store_that_works(empty_cache: Path):
    for delay in (1.5, 3.0, 4.5):
        process = start()
        time.sleep(delay)
        process.kill()
        process.wait()
    result = finish(start())
    assert result["right"] and result["stderr"] == ""


def test_equal_graphs_and_kernels_are_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "digest_sources", lambda store: "these sources, even while somebody edits them")
    x, w = make_inputs()
    assert_right(torch.compile(model, backend="treadle"), x, w)
    before = total_stats().started
    torch._dynamo.reset()
    assert_right(torch.compile(model, backend="treadle"), x, w)
    assert counts()["store_hit"] == 1
    torch._dynamo.reset()

    other_model = torch.compile(lambda x, w: (*model(x, w), torch.sort(x)[0]), backend="treadle")
    other_model(x, w)
    assert total_stats().started == before  # another graph of the same kernels
    assert counts()["graphs"] == 3 and counts()["store_hit"] == 1


@pytest.mark.parametrize("kind", ["plan", "so", "kernel", "sources"])
def test_a_damaged_entry_costs_one_recompile(kind: str, empty_cache: Path, caplog: pytest.LogCaptureFixture):
    assert finish(start())["right"]
    entries = [p for p in empty_cache.rglob("*") if p.is_file() and f"/{kind}/" in str(p)]
    assert entries
    for path in entries:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    result = finish(start())
    assert result["right"] and "Traceback" not in result["stderr"]
    if kind in ("plan", "so"):
        assert "damaged" in result["stderr"]
    again = finish(start())
    assert again["right"] and again["started"] == 0 and again["stderr"] == ""


def test_settings_that_change_code_have_plans_of_their_own(empty_cache: Path):
    x, w = make_inputs()
    choices: tuple[dict[str, Any], ...] = ({}, {"target": "scalar"}, {"target": "avx2"}, {"numerics": "strict"})
    for options in choices:
        torch._dynamo.reset()
        assert_right(torch.compile(model, backend="treadle", options=options or None), x, w)
    assert "store_hit" not in counts()


def test_an_edited_source_file_makes_another_key(empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    x, w = make_inputs()
    assert_right(torch.compile(model, backend="treadle"), x, w)
    torch._dynamo.reset()
    monkeypatch.setattr(driver, "digest_sources", lambda store: "of other sources")
    assert_right(torch.compile(model, backend="treadle"), x, w)
    assert "store_hit" not in counts()


def test_a_read_only_cache(empty_cache: Path):
    empty_cache.mkdir(parents=True)
    shutil.rmtree(empty_cache)
    empty_cache.write_text("a file where the directory should be")
    result = finish(start())
    assert result["right"] and result["stderr"].count("\n") == 1 and "cannot be used" in result["stderr"]


# --- no compiler, wrong options ----------------------------------------------------------------------------------


def test_without_a_compiler_graphs_run_eagerly_and_one_line_says_so(empty_cache: Path, tmp_path: Path):
    process = subprocess.run([sys.executable, "-c", PROGRAM.replace('"fallback": "error"', "")], capture_output=True,
                             text=True, env=os.environ | {"PATH": str(tmp_path)}, check=True)  # fmt: skip
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["right"] and result["counts"]["fallback"] == 1
    assert process.stderr.count("\n") == 1
    assert "there is no C++ compiler" in process.stderr and "run eagerly" in process.stderr


def test_a_compiler_that_does_not_exist_is_an_error_where_fallback_is(empty_cache: Path):
    fast = torch.compile(model, backend="treadle", options={"compiler": "no-such-compiler", "fallback": "error"})
    with pytest.raises(dynamo_errors.BackendCompilerFailed, match="no C\\+\\+ compiler"):
        fast(*make_inputs())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mode": "max-autotun"}, "did you mean 'max-autotune'"),
        ({"mode": "quick"}, "default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs"),
        ({"options": {"verfy": True}}, "did you mean 'verify'"),
        ({"options": {"numerics": "exact"}}, "fast | strict"),
    ],
)
def test_wrong_modes_and_options_say_what_exists(arguments: dict[str, Any], text: str):
    with pytest.raises(dynamo_errors.BackendCompilerFailed) as caught:
        torch.compile(model, backend="treadle", **arguments)(*make_inputs())
    assert text in str(caught.value)
    assert isinstance(caught.value.inner_exception, SettingError)


# --- failures inside ---------------------------------------------------------------------------------------------


def break_printing(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """Let one of the kernels fail in code generation."""
    emit, seen = kernels.emit_kernel, []

    def emit_or_fail(*args: Any, **more: Any) -> Any:
        seen.append(args)
        if len(seen) == which:
            raise LoweringError("a test breaks it")
        return emit(*args, **more)

    monkeypatch.setattr(kernels, "emit_kernel", emit_or_fail)


@pytest.mark.parametrize("which", [1, 2])
def test_a_kernel_that_cannot_be_printed_runs_through_aten(
    which: int, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    break_printing(monkeypatch, which)
    x, w = make_inputs()
    fast = torch.compile(model, backend="treadle")
    for _ in range(2):
        assert_right(fast, x, w)
    assert counts()["fallback"] == 1
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("treadle")]
    assert len(lines) == 1 and "a test breaks it" in lines[0]


def test_a_kernel_that_the_compiler_refuses_runs_through_aten(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    emit_unit = kernels.emit_unit

    def emit_nonsense(sources: Any, isa: Any) -> str:
        nonsense = "int x = ;" if any("sum" in s.text for s in sources) else ""
        return emit_unit(sources, isa) + nonsense

    monkeypatch.setattr(kernels, "emit_unit", emit_nonsense)
    assert_right(torch.compile(model, backend="treadle"), *make_inputs())
    assert counts()["fallback"] >= 1
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("treadle")]
    assert lines and all("\n" not in line for line in lines)


def test_a_graph_that_cannot_be_taken_runs_through_aten(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, caplog: pytest.LogCaptureFixture
):
    def fail(*args: Any) -> Any:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr(pipeline, "fuse_graph", fail)
    assert_right(torch.compile(model, backend="treadle"), *make_inputs())
    assert counts() == {"fallback": 1}
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("treadle")]
    assert len(lines) == 1 and "a fault of our own" in lines[0]


def test_fallback_can_be_forbidden(monkeypatch: pytest.MonkeyPatch, empty_cache: Path):
    break_printing(monkeypatch, 1)
    fast = torch.compile(model, backend="treadle", options={"fallback": "error"})
    with pytest.raises(dynamo_errors.BackendCompilerFailed, match="a test breaks it"):
        fast(*make_inputs())


# --- verify ------------------------------------------------------------------------------------------------------


def test_verify_checks_each_kernel_once(empty_cache: Path):
    fast = torch.compile(model, backend="treadle", options={"verify": True, "fallback": "error"})
    for _ in range(3):
        assert_right(fast, *make_inputs())
    assert counts()["verified"] == counts()["kernels"]


@pytest.mark.parametrize("asked", [True, False])
def test_verify_holds_every_level_against_its_rules(asked: bool, empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    seen: set[str] = set()

    def watch(name: str) -> Rule[Any]:
        return Rule(name, lambda ir: seen.add(name) or [])

    for name in ("GRAPH_RULES", "KERNEL_RULES", "PROGRAM_RULES"):
        monkeypatch.setattr(verify, name, [watch(name)])
    fast = torch.compile(model, backend="treadle", options={"verify": asked, "fallback": "error"})
    fast(*make_inputs())
    assert seen == ({"GRAPH_RULES", "KERNEL_RULES", "PROGRAM_RULES"} if asked else set())


def test_verify_replaces_a_kernel_that_is_wrong(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    emit = kernels.emit_unit
    monkeypatch.setattr(kernels, "emit_unit", lambda sources, isa: emit(sources, isa).replace("0.5", "0.625"))
    x, w = make_inputs()
    fast = torch.compile(model, backend="treadle", options={"verify": True})
    for _ in range(2):
        assert_right(fast, x, w)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("treadle")]
    assert len(lines) == counts()["fallback"] >= 1 and all("disagree" in line for line in lines)


# --- threads -----------------------------------------------------------------------------------------------------


def test_many_threads_call_one_compiled_function():
    fast = torch.compile(model, backend="treadle")
    given = [make_inputs() for _ in range(8)]
    expected = [model(*inputs) for inputs in given]
    fast(*given[0])
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(50):
            got = fast(*given[k])
            if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(got, expected[k], strict=True)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_callee_may_call_the_same_function_again():
    inner: list[Any] = []

    @torch.library.custom_op("treadle_test::again", mutates_args=())
    def again(x: Tensor) -> Tensor:
        return inner[0](x[:2]) if x.shape[0] > 2 else x.clone()

    @again.register_fake
    def _(x: Tensor) -> Tensor:
        return x.new_empty(min(x.shape[0], 2), x.shape[1])

    def f(x: Tensor) -> Tensor:
        y = (x @ x.t() @ x).relu()
        return again(y * 2) + y[:2] + 1

    inner.append(torch.compile(f, backend="treadle", dynamic=True))
    x = torch.randn(4, 4)
    got = inner[0](x)
    inner[0] = f
    torch.testing.assert_close(got, f(x))


# --- errors of the user's own ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [7, -8, 100])
def test_an_index_out_of_range_raises_as_in_eager(wrong: int):
    table, at = torch.randn(7, 3), torch.tensor([0, wrong, 2])
    functions = {
        "index": lambda t, i: t[i] * 2,
        "embedding": lambda t, i: F.embedding(i, t) * 2,
        "gather": lambda t, i: t.gather(0, i[:, None]) * 2,
        "put": lambda t, i: t.index_put((i,), torch.tensor(1.0)) * 2,
    }
    for name, function in functions.items():
        with pytest.raises((IndexError, RuntimeError)) as eager:
            function(table, at)
        torch._dynamo.reset()
        fast = torch.compile(function, backend="treadle")
        with pytest.raises(type(eager.value)) as ours:
            fast(table, at)
        assert type(ours.value) is type(eager.value), name
        fast(table, torch.tensor([0, 1, 2]))  # and the next call is as good as ever


def test_inference_mode_and_grad_mode_do_not_mix_up_what_is_kept():
    fast = torch.compile(model, backend="treadle")
    x, w = make_inputs()
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            assert_right(fast, x, w)
