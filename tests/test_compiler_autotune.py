"""Mode max-autotune: candidates, what is measured of them, which one is kept, and what the store remembers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from gpu_fake import FakeGpu, build_driver, install
from torch._dynamo.utils import counters

import treadle
from treadle.compiler import autotune, autotune_data, driver
from treadle.compiler.autotune import Candidate, few_candidates, find_disagreement, tune_kernels
from treadle.compiler.modes import MODES, find_options
from treadle.compiler.runtime.store import Store
from treadle.compiler.timing import Timing
from treadle.compiler.tuning import Tried, Tuning, tuning_from_json, tuning_to_json
from treadle.ir.errors import ScheduleError, SettingError
from treadle.ir.loops import Kernel
from treadle.ir.schedule import Knob, Schedule
from treadle.ir.text import parse_kernel

Tensor = torch.Tensor
KERNEL = parse_kernel(
    """
kernel double(x: f32[40]) -> (y: f32[40])
  axes i:40
  y[i] <- (x[i] * 2)
"""
)
SPEED = Knob("speed", 2, (1, 2, 4))
TRICK = Knob("trick", "none", ("none", "wrong", "fails", "refused", "same"))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


class ToyBench:
    """Candidates are Python functions; the time of a call is 1 / speed."""

    key = ("toy",)

    def __init__(self) -> None:
        self.compiled: list[Schedule] = []
        self.now = 0.0

    def default(self, kernel: Kernel) -> Schedule:
        return Schedule("points")

    def knobs(self, kernel: Kernel) -> Sequence[Knob]:
        return (SPEED, TRICK)

    def print(self, kernel: Kernel, digest: str, schedule: Schedule) -> str:
        if schedule.get(TRICK) == "refused":
            raise ScheduleError("no such loop")
        trick = schedule.get(TRICK)
        return f"k{digest[:16]} {schedule.get(SPEED)} {'none' if trick == 'same' else trick}"

    def compile(self, wanted: Mapping[str, tuple[Kernel, Schedule]]) -> Mapping[str, Candidate | str]:
        self.compiled += [schedule for _, schedule in wanted.values()]
        return {name: Candidate(self._runner(schedule), 0, "") for name, (_, schedule) in wanted.items()}

    def _runner(self, schedule: Schedule) -> Callable[..., int]:
        def run(pointers: Any, sizes: Any, work: Any, last: int) -> int:
            x, y = (torch.frombuffer((ctypes.c_char * 160).from_address(p), dtype=torch.float32) for p in pointers)
            y.copy_(x * 2)
            if schedule.get(TRICK) == "wrong":
                y[17] = y[3]
            self.now = 1.0 / int(schedule.get(SPEED))
            return 5 if schedule.get(TRICK) == "fails" else 0

        return run

    def empty(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.uint8)

    def last(self) -> int:
        return 1

    def workers(self) -> int:
        return 1

    def time(self, call: Callable[[], object], repeats: int) -> float:
        call()
        return self.now


def tune(bench: ToyBench, store: Store) -> Tuning:
    return tune_kernels({"d" * 40: KERNEL}, bench, store)["d" * 40]


def test_the_quickest_that_is_right_is_kept(tmp_path: Path):
    tuning = tune(ToyBench(), Store(tmp_path))
    assert tuning.chosen == Schedule("points").choose(speed=4) and tuning.reason.startswith("2.00")
    problems = {str(t.schedule): t.problem for t in tuning.tried}
    assert "1 of 40 elements of y" in problems['points trick="wrong"']
    assert "code 5" in problems['points trick="fails"'] and "no such loop" in problems['points trick="refused"']
    assert 'points trick="same"' not in problems, "its source is the default's"
    seconds = {str(t.schedule): t.seconds for t in tuning.tried if t.seconds}
    assert seconds == {"points": 0.5, "points speed=1": 1.0, "points speed=4": 0.25}


@pytest.mark.parametrize(("gain", "kept"), [(0.01, "points"), (0.5, "points speed=4")])
def test_what_may_be_chance_does_not_displace_the_default(gain: float, kept: str, rng: Any):
    noise = [1 + 0.2 * rng.random((2, 15)) for _ in range(2)]
    samples = {"points": list(noise[0][0]), "points speed=4": list(noise[0][0] * (1 - gain) + noise[1][1] - 1.1)}
    tried = tuple(Tried(Schedule("points").choose(**c), float(median(v))) for c, v in
                  zip(({}, {"speed": 4}), samples.values(), strict=True))  # fmt: skip
    tuning = autotune.choose(tried[0].schedule, tried, Timing(samples))
    assert str(tuning.chosen) == kept
    assert kept != "points" or "may be chance" in tuning.reason or "default is the quickest" in tuning.reason


def test_a_record_is_measured_once(tmp_path: Path):
    first, second = ToyBench(), ToyBench()
    found = tune(first, Store(tmp_path))
    assert tune(second, Store(tmp_path)) == found and first.compiled and not second.compiled
    assert (counters["treadle"]["tuned"], counters["treadle"]["tuning_hit"]) == (1, 1)
    assert tuning_from_json(tuning_to_json(found)) == found


def test_a_kernel_too_large_to_measure_keeps_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(autotune, "MOST_BYTES", 100)
    bench = ToyBench()
    tuning = tune(bench, Store(tmp_path))
    assert tuning.chosen == Schedule("points") and "buffers take" in tuning.reason and not bench.compiled
    assert counters["treadle"]["tuned"] == 0


def test_measuring_that_breaks_is_no_failure_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(autotune, "make_memory", broken)
    bench = ToyBench()
    assert "MemoryError: no room" in tune(bench, Store(tmp_path)).reason
    monkeypatch.undo()
    assert tune(bench, Store(tmp_path)).chosen != Schedule("points"), "and nothing of it was stored"


def test_neighbours_of_the_default_in_one_knob():
    found = few_candidates(Schedule("points").choose(speed=1), (SPEED,))
    assert [str(s) for s in found] == ["points speed=1", "points speed=2"]


@pytest.mark.parametrize(
    ("got", "agrees"),
    [
        ([1.0, 2.0, float("nan")], True),
        ([1.0 + 1e-4, 2.0, float("nan")], True),
        ([1.0, 2.01, float("nan")], False),
        ([1.0, 2.0, 0.0], False),
        ([1.0, float("inf"), float("nan")], False),
    ],
)
def test_agreement_is_up_to_the_order_of_sums(got: list[float], agrees: bool):
    wanted = {"y": torch.tensor([1.0, 2.0, float("nan")])}
    assert (find_disagreement({"y": torch.tensor(got)}, wanted) == "") is agrees


def test_integers_agree_exactly():
    wanted = {"y": torch.tensor([1, 2])}
    assert "1 of 2" in find_disagreement({"y": torch.tensor([1, 3])}, wanted)


def test_inputs_that_data_is_found_by_are_in_bounds():
    kernel = parse_kernel(
        """
kernel take(w: f32[7, 5], i: i64[300]) -> (y: f32[300, 5])
  axes a:300, b:5
  y[a, b] <- w[at(i[a], 7), b]
"""
    )
    memory = autotune_data.make_memory(kernel, lambda n: torch.empty(n, dtype=torch.uint8))
    index = memory.buffers["i"]
    assert int(index.min()) == 0 and int(index.max()) == 6
    assert all(t.data_ptr() % 64 == 0 for t in memory.buffers.values())


def test_what_a_kernel_updates_is_put_back():
    kernel = parse_kernel(
        """
kernel halve(x: f32[9]) -> (x: f32[9])
  axes a:9
  x[a] <- (x[a] / 2)
"""
    )
    memory = autotune_data.make_memory(kernel, lambda n: torch.empty(n, dtype=torch.uint8))
    before = memory.buffers["x"].clone()
    memory.buffers["x"].zero_()
    memory.restore()
    assert torch.equal(memory.buffers["x"], before)


# --- modes -------------------------------------------------------------------------------------------------------


def test_modes_are_options_and_others_are_refused():
    assert find_options("max-autotune-no-cudagraphs") == {"autotune": True}
    assert find_options("reduce-overhead", {"cuda_graphs": False}) == {"cuda_graphs": False}
    assert find_options(None) == find_options("default") == {}
    with pytest.raises(SettingError, match="max-autotune-no-cudagraphs"):
        find_options("max-autotuned")


def test_torch_refuses_what_is_no_mode():
    compiled = torch.compile(lambda x: x * 2, backend="treadle", mode="fastest")
    with pytest.raises(Exception, match=r"no such mode.*fastest"):
        compiled(torch.ones(3))


def several(x: Tensor, w: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    return torch.softmax(x, -1) * w[0], x.sum(0), w[index], (x * 3).cumsum(-1)


@pytest.mark.parametrize("mode", [m for m in MODES if m != "default"])
def test_every_mode_gives_what_eager_gives(mode: str, tmp_path: Path):
    inputs = (torch.randn(60, 48), torch.randn(20, 48), torch.randint(0, 20, (33,)))
    compiled = torch.compile(several, backend="treadle", mode=mode, fullgraph=True)
    with treadle.settings.override(cache_dir=tmp_path):
        for got, want in zip(compiled(*inputs), several(*inputs), strict=True):
            torch.testing.assert_close(got, want)
    assert bool(counters["treadle"]["tuned"]) is ("autotune" in mode)
    assert counters["treadle"]["uncaptured"] == (mode in ("reduce-overhead", "max-autotune"))


def test_what_is_measured_to_be_quickest_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fake_measure(calls: Mapping[str, Any], **options: Any) -> Timing:
        return Timing({name: [1.0 if "unroll=8" in name else 2.0] * 3 for name in calls})

    monkeypatch.setattr(autotune, "measure", fake_measure)
    x = torch.randn(40, 300)
    options = {"mode": "max-autotune", "cache_dir": tmp_path}
    report = treadle.explain(lambda x: torch.softmax(x, -1), (x,), **options)
    (kernel,) = report.graphs[0].kernels
    assert "unroll=8" in kernel.schedule and "2.00" in str(report) and "1000000.00 us: reduce unroll=8" in str(report)
    monkeypatch.setattr(autotune, "_measure_all", None)  # the record is there: nobody may measure
    again = treadle.explain(lambda x: torch.softmax(x, -1), (x,), **options)
    assert again.graphs[0].kernels[0].source == kernel.source
    compiled = torch.compile(lambda x: torch.softmax(x, -1), backend="treadle", mode="max-autotune")
    with treadle.settings.override(cache_dir=tmp_path):
        torch.testing.assert_close(compiled(x), torch.softmax(x, -1))
        plain = treadle.explain(lambda x: torch.softmax(x, -1), (x,))
    assert plain.graphs[0].kernels[0].source != kernel.source and plain.graphs[0].kernels[0].tuning is None


def test_dynamic_sizes_are_measured_as_typical_ones(tmp_path: Path):
    compiled = torch.compile(lambda x: torch.softmax(x, -1), backend="treadle", mode="max-autotune", dynamic=True)
    with treadle.settings.override(cache_dir=tmp_path):
        for shape in ((9, 70), (30, 513)):
            x = torch.randn(shape)
            torch.testing.assert_close(compiled(x), torch.softmax(x, -1))
    assert counters["treadle"]["tuned"] == 1


def test_gradients_are_tuned_too(tmp_path: Path):
    x, y = (torch.linspace(-2, 2, 600).view(20, 30).requires_grad_() for _ in range(2))
    compiled = torch.compile(lambda x: torch.softmax(x, -1).square(), backend="treadle", mode="max-autotune")
    with treadle.settings.override(cache_dir=tmp_path):
        compiled(x).sum().backward()
    torch.softmax(y, -1).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert counters["treadle"]["tuned"] == 2


# --- GPUs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, library: Path) -> FakeGpu:
    return install(monkeypatch, library)


def test_a_gpu_measures_through_its_launcher(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried: list[str] = []

    def fake_measure(calls: Mapping[str, Any], *, clock: Any, **options: Any) -> Timing:
        tried.extend(calls)
        for call in calls.values():
            assert clock(call, 1) > 0
        return Timing({name: [1.0 if "warps=1" in name else 2.0] * 3 for name in calls})

    monkeypatch.setattr(autotune, "measure", fake_measure)
    x = torch.randn(6, 40)
    with driver.collect() as found:
        executable = gpu.compile(lambda x: torch.softmax(x, -1), (x,), autotune=True, cache_dir=tmp_path)
    (kernel,) = found[0].report().kernels
    assert kernel.tuning is not None and "warps=1" in kernel.schedule and len(tried) > 2
    torch.testing.assert_close(executable(x)[0], torch.softmax(x, -1))
    assert gpu.launches[-1][2] == 32, "threads of one warp"
    assert not gpu.errors
