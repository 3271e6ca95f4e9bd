"""No directory, however bad, and no crowd of processes, however rudely killed, reaches the user of a store."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from treadle.compiler.runtime import store as store_module
from treadle.compiler.runtime.store import Store, make_key
from treadle.ir.errors import StoreError

KEY = make_key("a key")
NOBODY = 65534
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can reach, which those of pytest are not."""
    path = Path(tempfile.mkdtemp(prefix="treadle-test-"))
    path.chmod(0o755)
    yield path
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o755)
    for folder, _, _ in os.walk(path):  # again: what was closed is only now seen
        os.chmod(folder, 0o755)
    shutil.rmtree(path)


@contextmanager
def plain_user() -> Iterator[None]:
    """Give up root's rights, which no mode of a file stops, for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    store_module._make_process_home.cache_clear()  # root's is not this user's
    try:
        yield
    finally:
        os.seteuid(0)
        store_module._make_process_home.cache_clear()


def files_of(root: Path | None) -> list[Path]:
    assert root is not None
    return sorted(path for path in root.rglob("*") if path.is_file())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def check_degrades(store: Store, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Do all that a compilation does with a store: nothing raises, all is found again, and one line is said."""
    for index in range(3):
        key = make_key("use", index)
        store.get("so", key)
        path = store.put("so", key, b"data")
        assert path.exists()
        assert store.get("so", key) == b"data"
        assert store.path("so", key) == path
    store.put_json("plan", KEY, [1])
    assert store.get_json("plan", KEY) == [1]
    assert len(list(store.entries())) >= 4
    assert store.verify() == []
    assert store.degraded
    assert len(warnings_of(caplog)) == 1
    line = warnings_of(caplog)[0]
    assert "kept for this process only" in line
    assert reason in line
    assert "\n" not in line


# --- directories that cannot be used ---


def test_read_only_directory(open_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    Store(open_dir / "cache").put("so", KEY, b"from the image")
    for folder, _, _ in os.walk(open_dir):
        os.chmod(folder, 0o555)
    with plain_user():
        store = Store(open_dir / "cache")
        assert store.get("so", KEY) == b"from the image"
        check_degrades(store, caplog, "Permission denied")
        assert store.get("so", KEY) == b"from the image"


def test_damage_in_a_read_only_directory(open_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Store(open_dir / "cache").put("so", KEY, b"data")
    path.write_bytes(b"")
    path.parent.chmod(0o555)
    with plain_user():
        store = Store(open_dir / "cache")
        for _ in range(3):
            assert store.get("so", KEY) is None
        store.put("so", KEY, b"data")
        assert store.get("so", KEY) == b"data"
        assert store.path("so", KEY) != path
    assert len(warnings_of(caplog)) == 2  # the damage, then the directory


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_forbidden_directory(open_dir: Path, caplog: pytest.LogCaptureFixture, depth: int) -> None:
    path = Store(open_dir / "cache").put("so", KEY, b"data")
    path.parents[depth].chmod(0o000)
    with plain_user():
        store = Store(open_dir / "cache")
        assert store.get("so", KEY) is None
        assert store.put("so", KEY, b"data").exists()
        check_degrades(store, caplog, "Permission denied")


def test_unreadable_file_in_a_good_directory_is_replaced(open_dir: Path) -> None:
    open_dir.chmod(0o777)
    with plain_user():
        store = Store(open_dir / "cache")
        path = store.put("so", KEY, b"data")
        path.chmod(0o000)
        assert store.get("so", KEY) is None
        assert store.put("so", KEY, b"data") == path
        assert store.get("so", KEY) == b"data"
        assert not store.degraded


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_failing_writes(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if store.root in Path(target).parents:
            raise OSError(code, os.strerror(code), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    check_degrades(store, caplog, os.strerror(code))
    assert files_of(store.root) == []


def test_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture, rng: np.random.Generator) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system takes root's rights")
    try:
        store = Store(mount)
        small, large = rng.bytes(1000), rng.bytes(100_000)
        store.put("so", KEY, small)
        other = make_key("large")
        path = store.put("so", other, large)
        assert mount not in path.parents
        assert (store.get("so", KEY), store.get("so", other)) == (small, large)
        check_degrades(store, caplog, "No space left on device")
        assert len(files_of(mount)) == 1
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_root_is_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a directory")
    check_degrades(Store(tmp_path / "file"), caplog, "Not a directory")


def test_no_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def raise_runtime_error(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", raise_runtime_error)
    check_degrades(Store("~/.cache/treadle"), caplog, "no home directory")


@pytest.mark.parametrize("root", [None, "/somewhere/~/.cache/treadle"])
def test_no_place(root: str | None, caplog: pytest.LogCaptureFixture) -> None:
    check_degrades(Store(root), caplog, "no home directory")


def test_no_directory_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_text("not a directory")
    store = Store(tmp_path / "file")
    monkeypatch.setattr(store_module, "_make_process_home", refuse)
    with pytest.raises(StoreError, match="set TMPDIR"):
        store.put("so", KEY, b"data")
    assert store.get("so", KEY) is None


def test_the_directory_is_removed_while_in_use(store: Store) -> None:
    assert store.root
    for _ in range(3):
        store.put("so", KEY, b"data")
        shutil.rmtree(store.root)
        assert store.get("so", KEY) is None
    assert not store.degraded


def test_the_own_directory_leaves_with_its_process() -> None:
    code = "from treadle.compiler.runtime.store import Store; print(Store(None).put('so', 'a' * 64, b'data'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    assert path.name == "a" * 64
    assert not path.parents[2].exists()
    assert path.parents[2].name.startswith("treadle-store-")
    assert len(done.stderr.strip().splitlines()) == 1


# --- many at once ---


def content_of(number: int) -> bytes:
    return bytes([number]) * (number * 30_000 + 1)


def put_and_get(root: Path, seed: int, seconds: float) -> None:
    """Write and read the same few keys as everybody else; leave with 1 at the first wrong byte."""
    choose = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        store = Store(root)
        for _ in range(50):
            number = choose.randrange(6)
            key = make_key("shared", number)
            if choose.random() < 0.4:
                store.put("so", key, content_of(number))
            data = store.get("so", key)
            if data is not None and data != content_of(number):
                os._exit(1)
        if store.degraded:
            os._exit(2)
    os._exit(0)


def test_eight_processes_with_kills(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "cache"
    choose = random.Random(seed)
    kills = 0
    running = [FORK.Process(target=put_and_get, args=(root, index, 2.0)) for index in range(8)]
    for process in running:
        process.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end or kills <= 10:  # however slow the machine is
        time.sleep(choose.random() * 0.05)
        victim = choose.randrange(8)
        pid = running[victim].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        running[victim].join()
        assert running[victim].exitcode in (0, -signal.SIGKILL)
        kills += 1
        left = max(end - time.monotonic(), 0.1)
        running[victim] = FORK.Process(target=put_and_get, args=(root, 100 + kills, left))
        running[victim].start()
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert kills > 10
    store = Store(root)
    assert store.verify() == []
    assert [store.get("so", make_key("shared", number)) for number in range(6)] == list(map(content_of, range(6)))
    for file in files_of(root / "v1" / "tmp"):
        os.utime(file, times=(0, 0))
    store.put("so", KEY, b"data")
    assert files_of(root / "v1" / "tmp") == []


def test_clearing_beside_writers(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    writers = [FORK.Process(target=put_and_get, args=(root, index, 0.6)) for index in range(3)]
    for process in writers:
        process.start()
    store = Store(root)
    while any(process.is_alive() for process in writers):
        store.clear()
        store.verify()
    for process in writers:
        process.join()
        assert process.exitcode == 0


@pytest.mark.parametrize("usable", [True, False])
def test_threads_share_a_store(tmp_path: Path, caplog: pytest.LogCaptureFixture, usable: bool) -> None:
    root = tmp_path / "cache"
    if not usable:
        root.write_text("so that all of them degrade at once")
    store = Store(root)
    wrong: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 20):
            key = make_key(number % 7)
            store.put("so", key, content_of(number % 7))
            if store.get("so", key) != content_of(number % 7) or store.path("so", key) is None:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(warnings_of(caplog)) == (0 if usable else 1)


def test_a_forked_child_leaves_its_parents_directory_alone() -> None:
    path = Store(None).put("so", KEY, b"data")
    child = os.fork()
    if child == 0:
        own = Store(None).put("so", KEY, b"data")
        shutil.rmtree(own.parents[2])
        os._exit(0 if own != path else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.exists()


def test_importing_is_cheap() -> None:
    code = "import sys, treadle.compiler.runtime.store, treadle.compiler.runtime.build; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
