"""Mode reduce-overhead: plans captured once and replayed, on a driver that runs Triton's interpreter."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_fake import FakeDevice, FakeGpu, build_driver, install
from torch._dynamo.utils import counters

import treadle
from treadle.compiler import driver
from treadle.compiler.capture import ON_CPU
from treadle.compiler.runtime.gpu import graphs

Tensor = torch.Tensor


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, library: Path) -> FakeGpu:
    counters.clear()
    return install(monkeypatch, library)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compiled(gpu: FakeGpu, function: Callable[..., Any], *inputs: Tensor, **options: Any) -> Any:
    return gpu.compile(function, inputs, cuda_graphs=True, **options)


def two_kernels(x: Tensor, w: Tensor) -> Tensor:
    return torch.softmax(torch.softmax(x, -1) @ w, -1)


def close(gpu: FakeGpu, found: Tensor, wanted: Tensor) -> None:
    if gpu.errors:
        raise gpu.errors[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_second_call_captures_and_the_others_replay(gpu: FakeGpu):
    w = random(8, 8, seed=9)
    executable = compiled(gpu, two_kernels, random(4, 8), w)
    given = [random(4, 8, seed=k) for k in range(5)]  # all alive, so each lies elsewhere
    for x in given:
        close(gpu, executable(x, w)[0], two_kernels(x, w))
    recorder = executable.recorder
    assert (recorder.captures, recorder.replays, recorder.problem) == (1, 4, "")
    launched = len(gpu.launches)
    executable(random(4, 8), w)
    assert len(gpu.launches) == launched, "a replay launches nothing by itself"


def test_results_that_a_caller_holds_are_not_overwritten(gpu: FakeGpu):
    w = random(8, 8, seed=9)
    executable = compiled(gpu, two_kernels, random(4, 8), w)
    given = [random(4, 8, seed=k) for k in range(7)]
    held: list[Any] = []
    for k, x in enumerate(given):
        out = executable(x, w)[0]
        if k >= 3:  # the first ones are let go, so the graph first gives out its own memory
            held.append(out)
        del out
    for x, out in zip(given[3:], held, strict=True):
        close(gpu, out, two_kernels(x, w))
    assert executable.recorder.captures == 2 and executable.recorder.kept == {0}


def test_a_view_of_a_result_holds_it(gpu: FakeGpu):
    executable = compiled(gpu, lambda x: x * 2, random(4, 8))
    parts = [executable(random(4, 8, seed=k))[0][1:2].t() for k in range(4)]
    for k, part in enumerate(parts):
        close(gpu, part, (random(4, 8, seed=k) * 2)[1:2].t())


def test_inputs_in_place_are_used_there_until_they_move(gpu: FakeGpu):
    x, w = random(4, 8), random(8, 8, seed=9)
    executable = compiled(gpu, two_kernels, x, w)
    for k in range(3):
        x.copy_(random(4, 8, seed=k))
        close(gpu, executable(x, w)[0], two_kernels(x, w))
    assert not executable.recorder.copied, "both lay still"
    other = random(8, 8, seed=5)
    close(gpu, executable(x, other)[0], two_kernels(x, other))
    close(gpu, executable(x, w)[0], two_kernels(x, w))
    assert executable.recorder.copied == {1} and executable.recorder.captures == 2


def test_inputs_that_are_strided_or_expanded(gpu: FakeGpu):
    def run(args: list[Tensor]) -> list[Tensor]:
        return [args[0] * 2 + args[1], args[0][1:, ::2]]

    recorder = graphs.Recorder(FakeDevice(0), run, lambda arenas, args: run(args), lambda: None, ())
    whole, others = random(40, 6), random(5, 4, seed=1)
    for k in range(5):
        x, y = whole[k::10, 1:5], others[k].expand(4, 4)
        sum_, view = recorder([x, y])
        close(gpu, sum_, x * 2 + y)
        close(gpu, view, x[1:, ::2])
        assert view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert recorder.copied == {0, 1} and recorder.replays == 4


def test_inputs_that_are_written_to(gpu: FakeGpu):
    def step(x: Tensor, g: Tensor) -> Tensor:
        x.add_(g, alpha=-0.5)
        return x.square().sum(-1)

    executable = compiled(gpu, step, random(4, 33), random(4, 33))
    assert executable.plan.written == (0,)
    fixed, several, grads = random(4, 33, seed=7), random(6, 4, 33), random(6, 4, 33, seed=1)
    for k in range(6):
        mine, g = fixed if k in (0, 1, 2) else several[k], grads[k]
        theirs = mine.clone()
        want = step(theirs, g)
        close(gpu, executable(mine, g)[0], want)
        close(gpu, mine, theirs)
    assert executable.recorder.copied == {0, 1}


def test_results_that_are_inputs_or_views_of_them(gpu: FakeGpu):
    def function(x: Tensor) -> tuple[Any, ...]:
        y = x + 1
        return x, x.t(), y, y.t(), None, 3

    executable = compiled(gpu, function, random(4, 8))
    for k in range(4):
        x = random(4, 8, seed=k)
        same, turned, y, yt, nothing, three = executable(x)
        assert same is x and turned.data_ptr() == x.data_ptr() and (nothing, three) == (None, 3)
        close(gpu, turned, x.t())
        close(gpu, yt, (x + 1).t())
        assert y.untyped_storage().data_ptr() == yt.untyped_storage().data_ptr()


def test_calls_of_aten_are_replayed_too(gpu: FakeGpu):
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.softmax(x @ w, -1)
        return torch.sort(y)[0] * 2, y.sum()

    executable = compiled(gpu, function, random(4, 8), random(8, 8))
    for k in range(4):
        x, w = random(4, 8, seed=k), random(8, 8, seed=k + 30)
        for got, want in zip(executable(x, w), function(x, w), strict=True):
            close(gpu, got, want)
    assert executable.recorder.replays == 3


def test_another_stream_runs_the_plan_as_it_is(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    executable = compiled(gpu, lambda x: x * 3, random(4, 8))
    for _ in range(3):
        executable(random(4, 8))
    replays = executable.recorder.replays
    monkeypatch.setattr(type(executable.device), "stream_now", 8)
    close(gpu, executable(random(4, 8))[0], random(4, 8) * 3)
    assert executable.recorder.replays == replays and gpu.launches[-1][4] == 8


def test_while_somebody_else_captures_the_plan_is_part_of_it(gpu: FakeGpu):
    executable = compiled(gpu, lambda x: x * 3, random(4, 8))
    x = random(4, 8)
    for _ in range(3):
        executable(x)
    outer, (out,) = executable.device.capture(lambda: executable(x))
    x.fill_(2)
    outer.replay()
    close(gpu, out, torch.full((4, 8), 6.0))


def test_a_bad_index_of_a_replay_raises_at_the_next_call(gpu: FakeGpu):
    w, index = random(7, 5), torch.tensor([0, 6, 2])
    executable = compiled(gpu, lambda w, i: torch.index_select(w, 0, i), w, index)
    for _ in range(3):
        close(gpu, executable(w, index)[0], w[index])
    index[1] = 7
    executable(w, index)
    index[1] = 6
    with pytest.raises(IndexError, match="index"):
        executable(w, index)
    close(gpu, executable(w, index)[0], w[index])


def test_a_capture_that_fails_leaves_the_plan(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    executable = compiled(gpu, lambda x: x * 3, random(4, 8))

    def refuse(self: Any, run: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(type(executable.device), "capture", refuse)
    for k in range(4):
        close(gpu, executable(random(4, 8, seed=k))[0], random(4, 8, seed=k) * 3)
    assert executable.recorder.captures == 1 and "not permitted" in executable.recorder.problem
    assert caplog.text.count("no longer captured") == 1 and counters["treadle"]["uncaptured"] == 1


def test_callers_that_never_settle_end_the_attempts(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graphs, "MOST_CAPTURES", 2)
    inputs = [random(4, 8, seed=k) for k in range(4)]
    executable = compiled(gpu, lambda a, b, c, d: a + b + c + d, *inputs)
    moving = [x.clone() for x in inputs]
    for k in range(6):
        if 1 < k < 6:
            moving[k - 2] = inputs[k - 2].clone() if k < 6 else moving[k - 2]
        close(gpu, executable(*moving)[0], sum(inputs[1:], inputs[0]))
    assert "other memory in every call" in executable.recorder.problem


def test_what_is_not_captured_says_why(gpu: FakeGpu):
    def problem(function: Callable[..., Any], *inputs: Tensor, **options: Any) -> str:
        with driver.collect() as found:
            executable = compiled(gpu, function, *inputs, **options)
        assert executable.recorder is None
        assert f"CUDA graph: no: {executable.plan.uncapturable}" in str(found[0].report())
        return executable.plan.uncapturable

    assert "dynamic" in problem(lambda x: x * 2, random(5), dynamic=True)
    assert "host wait" in problem(lambda x: torch.linalg.inv(x.exp()) + 1, random(5, 5))
    assert "launches nothing" in problem(lambda x: x, random(5))
    assert counters["treadle"]["uncaptured"] == 3


def test_what_is_captured_says_so_and_default_does_not_ask(gpu: FakeGpu):
    with driver.collect() as found:
        compiled(gpu, lambda x: x * 2, random(5))
        gpu.compile(lambda x: x * 2, (random(5),))
    reports = [str(f.report()) for f in found]
    assert "CUDA graph: captured at the second call" in reports[0] and "CUDA graph" not in reports[1]
    plain: Any = found[1].executable
    assert plain.recorder is None


def test_a_stored_plan_is_captured_too(gpu: FakeGpu):
    function, x = (lambda x: torch.tanh(x) * 7), random(3, 5)
    compiled(gpu, function, x)
    executable = compiled(gpu, function, x)
    assert counters["treadle"]["store_hit"] == 1
    for _ in range(3):
        close(gpu, executable(x)[0], function(x))
    assert executable.recorder.replays == 2


def test_memory_goes_with_the_executable(gpu: FakeGpu):
    x, w = random(4, 8), random(8, 8)
    executable = compiled(gpu, two_kernels, x, w)
    for _ in range(3):
        executable(x, w)
    graph = weakref.ref(executable.recorder.recording.keep[0])
    captured = graph()
    assert captured is not None and captured.replays == 2
    del captured
    del executable
    gc.collect()
    assert graph() is None


def test_on_a_cpu_it_is_the_code_of_default():
    torch._dynamo.reset()
    x = random(6, 7)
    report = treadle.explain(two_kernels, (x, random(7, 7)), mode="reduce-overhead")
    plain = treadle.explain(two_kernels, (x, random(7, 7)))
    assert ON_CPU in str(report) and [g.plan for g in report.graphs] != []
    assert [k.source for g in report.graphs for k in g.kernels] == [k.source for g in plain.graphs for k in g.kernels]
