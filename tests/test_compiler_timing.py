"""Paired timing: rounds, early ends, first-call costs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from treadle.compiler import timing
from treadle.compiler.timing import Timing, measure, measure_cost, verdict


def test_every_contestant_is_timed_every_round():
    calls: list[str] = []
    seen: list[tuple[int, int]] = []
    found = measure(
        {"a": lambda: calls.append("a"), "b": lambda: time.sleep(1e-4)}, pairs=7, progress=lambda *at: seen.append(at)
    )
    assert found.rounds == 7 and {len(samples) for samples in found.samples.values()} == {7}
    assert seen == [(number, 7) for number in range(7)]
    assert found.best(["a", "b"]) == "a" and found.ratio("b", "a").low > 1


def test_a_slow_model_is_timed_for_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "LEAST_PAIRS", 3)
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 0.01)
    calls: list[float] = []

    def slow() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.02)

    assert measure({"slow": slow}, pairs=50, seconds=0.0).rounds == 3
    assert len(calls) <= 8, "warm-up is short too"


def test_nothing_to_time_is_no_error():
    assert measure({}, pairs=2).rounds == 0
    assert verdict(Timing({}), "a", ["b"]) == {}


def test_a_first_call_counts_the_processes_it_waits_for():
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    result, cost = measure_cost(lambda: subprocess.run([sys.executable, "-c", burn], check=True).returncode)
    assert result == 0
    assert cost.children > 0.1 and cost.cpu == cost.own + cost.children and cost.wall > 0.1
