"""The facts on the machine are those of its system, and the copy rates are those of a kernel that copies rightly."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from treadle.compiler.runtime import cpu
from treadle.compiler.runtime.bandwidth import (
    FLAGS,
    MEMCPY,
    NORMAL,
    ORDERS,
    SOURCE,
    STREAMING,
    choose_working_sets,
    load_bandwidth,
)
from treadle.compiler.runtime.build import build_and_load
from treadle.compiler.runtime.cpu import count_cores, identify_cpu, identify_machine, list_caches, measure_memory
from treadle.compiler.runtime.machine import describe_machine, find_torch_version, measure_copy_bandwidth
from treadle.compiler.runtime.store import Store
from treadle.ir.errors import BadInput, CompileError

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads the files of Linux")
PORTABLE = tuple(flag for flag in FLAGS if flag != "-march=native")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def fresh_facts() -> Iterator[None]:
    """Read the machine's files anew in this test, and again after it."""
    facts = (cpu.read_cpuinfo, cpu.identify_cpu, cpu.identify_machine, cpu.list_caches)
    for fact in facts:
        fact.cache_clear()
    yield
    for fact in facts:
        fact.cache_clear()


# --- facts ---


@linux_only
def test_caches_are_those_the_c_library_knows(fresh_facts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list_caches()
    monkeypatch.setattr(cpu, "CACHES", Path("/no/such/folder"))
    cpu.list_caches.cache_clear()
    asked = list_caches()
    if not listed or not asked:
        pytest.skip("this machine does not show its caches")
    assert [(item.level, item.line) for item in listed] == [(item.level, item.line) for item in asked]
    own = [(a.size, b.size) for a, b in zip(listed, asked, strict=True) if a.level < 3]
    assert own and all(a == b for a, b in own)  # of a shared cache, virtual machines tell one or the other a part


def test_a_cache_folder_is_read(fresh_facts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("2", "Unified", "2M", "0-1"), ("1", "Instruction", "32K", "0"), ("1", "Data", "48K", "0"),
            ("3", "Unified", "1G", "0-3,8,10-11")]  # fmt: skip
    for index, row in enumerate(rows):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), row, strict=True):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()  # says nothing
    monkeypatch.setattr(cpu, "CACHES", tmp_path)
    assert [(item.level, item.size, item.shared_by, item.line) for item in list_caches()] == [
        (1, 48 << 10, 1, 64), (2, 2 << 20, 2, 64), (3, 1 << 30, 7, 64),
    ]  # fmt: skip


@linux_only
def test_cores_follow_affinity_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CGROUP", tmp_path)
    allowed = os.sched_getaffinity(0)
    assert count_cores() == len(allowed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for text, cores in [("max 100000", 8), ("250000 100000", 2), ("20000 100000", 1), ("nonsense", 8)]:
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert count_cores() == cores
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("50000\n")
    for text, cores in [("-1", 8), ("150000", 3)]:
        (tmp_path / "cpu/cpu.cfs_quota_us").write_text(text + "\n")
        assert count_cores() == cores


@linux_only
def test_memory_follows_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CGROUP", tmp_path)
    total = measure_memory()
    stated = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert total == pytest.approx(stated, rel=0.05)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert measure_memory() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert measure_memory() == total


def test_identities_follow_the_instruction_sets(
    fresh_facts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for text in ("vendor_id : A\nflags : sse avx\n\n", "vendor_id : A\nflags : sse\n\n", "Features : neon\n", ""):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
        for fact in (cpu.read_cpuinfo, cpu.identify_cpu, cpu.identify_machine):
            fact.cache_clear()
        seen |= {identify_cpu(), identify_machine()}
    assert len(seen) == 8
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "none")
    cpu.read_cpuinfo.cache_clear()
    assert cpu.name_cpu()


def test_a_description_is_plain_data(store: Store) -> None:
    machine = describe_machine("g++", store, gpus=False)
    assert json.loads(json.dumps(asdict(machine)))["cpu"] == machine.cpu
    assert machine.isa in ("avx512", "avx2", "scalar")
    assert machine.cores >= 1
    assert machine.torch == find_torch_version() != ""


def test_a_description_without_a_compiler(store: Store) -> None:
    machine = describe_machine("no-such-compiler", store, gpus=False)
    assert (machine.compiler, machine.compiler_path, machine.compiler_version) == ("no-such-compiler", "", "")


def test_a_description_imports_no_torch() -> None:
    code = (
        "import sys; from treadle.compiler.runtime.machine import describe_machine, find_torch_version;"
        "from treadle.compiler.runtime.store import Store;"
        "describe_machine('g++', Store(None), gpus=False); print('torch' in sys.modules, find_torch_version())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["False", version("torch")]


# --- copying ---


@needs_compiler
@pytest.mark.parametrize("flags", [(), ("-mavx",), ("-march=native",)])
@pytest.mark.parametrize("size", [256, 512, 4096 + 768, 9 * 4096 + 256])
def test_every_variant_copies(store: Store, rng: np.random.Generator, flags: tuple[str, ...], size: int) -> None:
    if flags == ("-mavx",) and " avx " not in f" {cpu.read_cpuinfo().get('flags', '')} ":
        pytest.skip("needs AVX")
    library = build_and_load(SOURCE, (*PORTABLE, *flags), "g++", store)
    for how in (NORMAL, STREAMING, MEMCPY):
        for order in ORDERS:
            memory = rng.integers(0, 256, 4 * size + 256, dtype=np.uint8)
            offset = -memory.ctypes.data % 64
            before = memory.copy()
            dst, src = (memory.ctypes.data + offset + place for place in (0, 2 * size))
            library.copy_bytes(*map(ctypes.c_void_p, (dst, src)), *map(ctypes.c_long, (size, 2)),
                               ctypes.c_int(how), *map(ctypes.c_long, order))  # fmt: skip
            before[offset : offset + size] = before[offset + 2 * size : offset + 3 * size]
            np.testing.assert_array_equal(memory, before)


@needs_compiler
def test_rates_are_measured_and_kept(store: Store) -> None:
    assert load_bandwidth(store) is None
    steps: list[tuple[int, int, str]] = []
    found = measure_copy_bandwidth(store, "g++", megabytes=16, samples=2, progress=lambda *step: steps.append(step))
    assert load_bandwidth(store) == found
    assert load_bandwidth(Store(store.root)) == found
    assert found.rates[-1].level == "memory"
    assert found.rates[-1].working_set == 16 << 20
    for rate in found.rates:
        assert 1e7 < rate.normal < 1e13
        assert rate.streaming == 0.0 or 1e7 < rate.streaming < 1e13
        assert 1e7 < rate.memcpy < 1e13
        assert rate.best == max(rate.normal, rate.streaming, rate.memcpy)
    assert [step[0] for step in steps] == list(range(len(steps)))
    assert steps[-1][0] == steps[-1][1]


@needs_compiler
def test_rates_by_working_set(store: Store) -> None:
    found = measure_copy_bandwidth(store, "g++", megabytes=1, samples=1)
    levels = [replace(found.rates[0], level=name, working_set=size) for name, size in (("L1", 100), ("memory", 9000))]
    found = replace(found, rates=(levels[0], levels[1]))
    assert [found.at(size).level for size in (0, 100, 101, 9000, 10**12)] == ["L1", "L1", "memory", "memory", "memory"]


def test_working_sets_grow() -> None:
    sizes = [size for _, size in choose_working_sets()]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] <= max(measure_memory() // 4, 16 << 20)


def test_what_cannot_be_measured(store: Store) -> None:
    for samples, megabytes in ((0, None), (1, 0), (1, -1), (1, 1e12), (1, float("nan"))):
        with pytest.raises(BadInput, match="cannot be measured"):
            measure_copy_bandwidth(store, "g++", megabytes=megabytes, samples=samples)
    with pytest.raises(CompileError, match="there is no C"):
        measure_copy_bandwidth(store, "no-such-compiler")
