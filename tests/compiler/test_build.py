"""Sources become loaded libraries: once, in parallel, and with a clear word where they do not."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from treadle.compiler.runtime import build as build_module
from treadle.compiler.runtime.build import (
    BuildStats,
    build_and_load,
    build_library,
    build_many,
    find_compiler,
    load_library,
    total_stats,
)
from treadle.compiler.runtime.store import Store, make_key
from treadle.ir.errors import CompileError

FLAGS = ("-O1", "-fPIC", "-shared", "-nostdlib")
GXX = "g++"
FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.skipif(shutil.which(GXX) is None, reason="needs g++")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def source_of(number: int) -> str:
    return f'extern "C" int answer() {{ return {number}; }}  // naïve\n'


def fake_compiler(folder: Path, script: str) -> str:
    """Write a program in the place of a compiler; it notes each start in `starts`."""
    path = folder / "fake-g++"
    path.write_text(f"#!/bin/sh\necho start >> {folder}/starts\n{script}\n")
    path.chmod(0o755)
    return str(path)


def starts_of(folder: Path) -> int:
    starts = folder / "starts"
    return len(starts.read_text().splitlines()) if starts.exists() else 0


# --- building ---


def test_a_library_runs(store: Store) -> None:
    path = build_library(source_of(42), FLAGS, GXX, store)
    assert load_library(path).answer() == 42
    assert load_library(path) is load_library(path)
    assert build_library(source_of(42), FLAGS, GXX, store) == path


def test_many_come_in_the_order_of_their_sources(store: Store) -> None:
    numbers = [5, 3, 5, 9, 1]
    before = total_stats()
    built = build_many([source_of(number) for number in numbers], FLAGS, GXX, store, jobs=3)
    assert [load_library(path).answer() for path in built.paths] == numbers
    assert (built.stats.started, built.stats.found) == (4, 0)
    assert 0.01 < built.stats.cpu_seconds < 10
    assert built.stats.wall_seconds > 0.01
    again = build_many([source_of(number) for number in [*numbers, 77]], FLAGS, GXX, store)
    assert again.paths[:5] == built.paths
    assert (again.stats.started, again.stats.found) == (1, 4)
    assert total_stats() == before + built.stats + again.stats


def test_nothing_to_build(store: Store) -> None:
    built = build_many([], FLAGS, GXX, store)
    assert built.paths == ()
    assert built.stats == BuildStats(wall_seconds=built.stats.wall_seconds)


def test_the_compilers_own_children_are_counted(store: Store) -> None:
    before = os.times()
    heavy = "".join(f"template <int N> struct F{i} {{ enum {{ v = F{i}<N - 1>::v + 1 }}; }};\n"
                    f"template <> struct F{i}<0> {{ enum {{ v = 0 }}; }};\n"
                    f"int f{i}() {{ return F{i}<800>::v; }}\n" for i in range(15))  # fmt: skip
    stats = build_many([heavy], FLAGS, GXX, store).stats
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert stats.cpu_seconds == pytest.approx(spent, rel=0.2, abs=0.03)


@pytest.mark.parametrize("change", ["source", "flags", "order of flags"])
def test_the_key_holds_what_the_code_depends_on(store: Store, change: str) -> None:
    source = 'extern "C" int answer() { return N; }\n'
    first = build_library(source, (*FLAGS, "-DN=1"), GXX, store)
    changed_source, flags = {
        "source": (source + "// more\n", (*FLAGS, "-DN=1")),
        "flags": (source, (*FLAGS, "-DN=2")),
        "order of flags": (source, ("-DN=1", *FLAGS)),
    }[change]
    assert build_library(changed_source, flags, GXX, store) != first


def test_native_code_is_kept_apart_by_processor(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    native = (*FLAGS, "-march=native")
    here = build_library(source_of(1), native, GXX, store), build_library(source_of(1), FLAGS, GXX, store)
    monkeypatch.setattr(build_module, "identify_cpu", lambda: "another")
    there = build_library(source_of(1), native, GXX, store), build_library(source_of(1), FLAGS, GXX, store)
    assert there[0] != here[0]
    assert there[1] == here[1]


def test_another_version_of_the_compiler_builds_anew(store: Store, tmp_path: Path) -> None:
    paths = []
    for version in ("fake 1.0", "fake 1.1.0"):
        body = f'if [ "$1" = --version ]; then echo "{version}"; else exec g++ "$@"; fi'
        paths.append(build_library(source_of(1), FLAGS, fake_compiler(tmp_path, body), store))
    assert paths[0] != paths[1]
    assert starts_of(tmp_path) == 4


def test_the_version_is_asked_for_once(store: Store, tmp_path: Path) -> None:
    name = fake_compiler(tmp_path, "echo fake 1.0")
    assert find_compiler(name, store).version == "fake 1.0"
    assert find_compiler(name, store).version == "fake 1.0"
    build_module._versions.clear()  # as in another process
    assert find_compiler(name, store).version == "fake 1.0"
    assert starts_of(tmp_path) == 1


def test_a_command_of_several_words(store: Store) -> None:
    assert load_library(build_library(source_of(6), FLAGS, "env g++", store)).answer() == 6


def test_a_second_process_starts_no_compiler(store: Store, tmp_path: Path) -> None:
    name = fake_compiler(tmp_path, 'exec g++ "$@"')
    build_library(source_of(8), FLAGS, name, store)
    done = starts_of(tmp_path)
    code = (
        "from treadle.compiler.runtime.build import *; from treadle.compiler.runtime.store import Store;"
        f"built = build_many([{source_of(8)!r}], {FLAGS!r}, {name!r}, Store({str(store.root)!r}));"
        "print(load_library(built.paths[0]).answer(), built.stats.started, built.stats.found)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["8", "0", "1"]
    assert starts_of(tmp_path) == done == 2


# --- what goes wrong ---


def test_a_missing_compiler(store: Store) -> None:
    with pytest.raises(CompileError, match=r"no-such-compiler.*not found; .*TREADLE_COMPILER"):
        build_library(source_of(1), FLAGS, "no-such-compiler", store)
    with pytest.raises(CompileError, match="there is no C"):
        build_library(source_of(1), FLAGS, " ", store)


def test_what_is_stored_outlives_its_compiler(store: Store, tmp_path: Path) -> None:
    name = fake_compiler(tmp_path, 'exec g++ "$@"')
    path = build_library(source_of(1), FLAGS, name, store)
    Path(name).unlink()
    assert build_library(source_of(1), FLAGS, name, store) == path
    with pytest.raises(CompileError, match="there is no C"):
        build_library(source_of(2), FLAGS, name, store)


def test_a_source_that_is_refused(store: Store) -> None:
    with pytest.raises(CompileError) as caught:
        build_many([source_of(1), "int f() { return missing; }\n"], FLAGS, GXX, store)
    error = caught.value
    assert "kernels.cpp:1:18: error: 'missing' was not declared" in str(error)
    assert "g++ kernels.cpp -o kernels.so -O1" in str(error)
    assert Path(error.source).read_text().startswith("int f() { return missing; }\n")
    assert subprocess.run([GXX, "-fsyntax-only", "-x", "c++", error.source], capture_output=True).returncode == 1


def test_flags_that_are_refused(store: Store) -> None:
    with pytest.raises(CompileError, match="-mno-such-machine"):
        build_library(source_of(1), (*FLAGS, "-mno-such-machine"), GXX, store)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "does not tell its version"),
        ("kill -9 $$", "does not tell its version"),
        ('[ "$1" = --version ] && echo fake; exit 0', "ended with status 0"),
        ('[ "$1" = --version ] && echo fake && exit 0; echo out of luck; exit 3', "status 3.*\n.*\n  out of luck"),
        ('[ "$1" = --version ] && echo fake && exit 0; kill -9 $$', "killed by signal 9.*memory"),
        ('[ "$1" = --version ] && echo fake && exit 0; echo "No space left on device"; exit 1', "set TMPDIR"),
    ],
)
def test_compilers_that_fail(store: Store, tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        build_library(source_of(1), FLAGS, fake_compiler(tmp_path, script), store)


def test_a_compiler_that_cannot_be_executed(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "not-a-program"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    with pytest.raises(CompileError, match="does not run"):
        build_library(source_of(1), FLAGS, str(path), store)


def test_a_compiler_that_never_ends(store: Store, tmp_path: Path) -> None:
    script = f'[ "$1" = --version ] && echo fake && exit 0; sh -c "echo \\$\\$ > {tmp_path}/child; sleep 60"'
    begin = time.monotonic()
    with pytest.raises(CompileError, match="not done in time"):
        build_many([source_of(1)], FLAGS, fake_compiler(tmp_path, script), store, limit_seconds=0.3)
    assert time.monotonic() - begin < 10
    child, patience = int((tmp_path / "child").read_text()), time.monotonic() + 10
    while is_alive(child) and time.monotonic() < patience:  # a signal takes its time on a busy machine; sleep does 60 s
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a killed one may stay as a zombie where nobody reaps orphans."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_the_others_are_stopped_when_one_fails(store: Store, tmp_path: Path) -> None:
    script = f"""[ "$1" = --version ] && echo fake && exit 0
grep -q 'return 1;' kernels.cpp && exit 1
echo $$ > {tmp_path}/other; exec sleep 60"""
    begin = time.monotonic()
    with pytest.raises(CompileError, match="status 1"):
        build_many([source_of(1), source_of(22)], FLAGS, fake_compiler(tmp_path, script), store, jobs=2)
    assert time.monotonic() - begin < 10
    other = tmp_path / "other"
    assert not other.exists() or not is_alive(int(other.read_text() or 0))


def test_where_child_signals_are_ignored(store: Store) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert load_library(build_library(source_of(13), FLAGS, GXX, store)).answer() == 13
        with pytest.raises(CompileError, match="'missing' was not declared"):
            build_library("int f() { return missing; }\n", FLAGS, GXX, store)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_room_for_temporary_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    find_compiler(GXX, store)
    monkeypatch.setattr("tempfile.tempdir", "/no/such/directory")
    with pytest.raises(CompileError, match="set TMPDIR"):
        build_library(source_of(1), FLAGS, GXX, store)


def test_temporary_files_are_removed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    build_many([source_of(1), source_of(2)], FLAGS, GXX, store)
    with pytest.raises(CompileError):
        build_library("wrong", FLAGS, GXX, store)
    assert list(scratch.iterdir()) == []


# --- loading ---


def test_a_damaged_library_is_built_again(store: Store) -> None:
    path = build_library(source_of(4), FLAGS, GXX, store)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], bytes([whole[0] ^ 1]) + whole[1:], whole[:-1]):
        path.unlink()  # never written to in place: it may be mapped
        path.write_bytes(damaged)
        built = build_many([source_of(4)], FLAGS, GXX, store)
        assert built.stats.started == 1
        assert ctypes.CDLL(str(built.paths[0])).answer() == 4


def test_a_library_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"nonsense")
    for name in ("lib.so", "none.so"):
        with pytest.raises(CompileError, match="does not load"):
            load_library(tmp_path / name)


def test_an_undefined_symbol_is_found_at_load(store: Store) -> None:
    source = 'extern "C" int treadle_no_such_symbol(); extern "C" int f() { return treadle_no_such_symbol(); }\n'
    with pytest.raises(CompileError, match="undefined symbol: treadle_no_such_symbol"):
        build_and_load(source, FLAGS, GXX, store)


def test_two_libraries_keep_their_names_apart(store: Store) -> None:
    libraries = [build_and_load(source_of(number), FLAGS, GXX, store) for number in (1, 2)]
    assert [library.answer() for library in libraries] == [1, 2]


def test_a_library_that_vanishes_before_it_is_loaded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_and_lose(source: str, flags: Sequence[str], compiler: str, store: Store) -> Path:
        path = build_library(source, flags, compiler, store)
        monkeypatch.setattr(build_module, "build_library", build_library)
        store.clear()
        return path

    monkeypatch.setattr(build_module, "build_library", build_and_lose)
    assert build_and_load(source_of(31), FLAGS, GXX, store).answer() == 31


def test_loaded_libraries_survive_clearing(store: Store) -> None:
    library = build_and_load(source_of(32), FLAGS, GXX, store)
    store.clear()
    assert library.answer() == 32


def test_a_file_system_that_forbids_programs(tmp_path: Path) -> None:
    mount = tmp_path / "noexec"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting takes root's rights")
    try:
        store = Store(mount)
        for number in (1, 2):
            path = build_library(source_of(number), FLAGS, GXX, store)
            with pytest.raises(OSError, match="failed to map"):
                ctypes.CDLL(str(path))
            assert load_library(path).answer() == number
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


# --- many at once ---


def build_some(root: Path, seed: int) -> None:
    store = Store(root)
    for number in (1, 2):
        if build_and_load(source_of(number), FLAGS, GXX, store).answer() != number:
            os._exit(1)
    os._exit(0)


def test_processes_build_the_same_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # the killed one leaves its files there
    running = [FORK.Process(target=build_some, args=(tmp_path / "cache", index)) for index in range(6)]
    for process in running:
        process.start()
    running[0].kill()
    for process in running:
        process.join()
    assert [process.exitcode for process in running[1:]] == [0] * 5
    store = Store(tmp_path / "cache")
    assert store.verify() == []
    assert make_key("last", GXX) in [entry.key for entry in store.entries()]
    assert build_many([source_of(1), source_of(2)], FLAGS, GXX, store).stats.started == 0
