"""The store keeps what it is given and notices all damage."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.compiler.runtime import store as store_module
from treadle.compiler.runtime.store import STALE_SECONDS, TRAILER_BYTES, Store, make_key
from treadle.ir.errors import StoreError

KEY = make_key("a key")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def files_of(root: Path | None) -> list[Path]:
    assert root is not None
    return sorted(path for path in root.rglob("*") if path.is_file())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- what is put in comes out ---


@pytest.mark.parametrize("size", [0, 1, TRAILER_BYTES - 1, TRAILER_BYTES, TRAILER_BYTES + 1, 1 << 20])
def test_bytes_come_back(store: Store, rng: np.random.Generator, size: int) -> None:
    data = rng.bytes(size)
    path = store.put("so", KEY, data)
    assert store.get("so", KEY) == data
    assert store.path("so", KEY) == path
    assert Store(store.root).get("so", KEY) == data


def test_an_entry_within_an_entry_comes_back(store: Store) -> None:
    sealed = store.put("so", KEY, b"inner").read_bytes()
    other = make_key("other")
    store.put("so", other, sealed)
    assert store.get("so", other) == sealed


def test_a_file_is_checked_once_per_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    make_trailer = store_module._make_trailer

    def count(kind: str, key: str, data: bytes) -> bytes:
        checked.append(key)
        return make_trailer(kind, key, data)

    path = store.put("so", KEY, b"data")
    monkeypatch.setattr(store_module, "_make_trailer", count)
    assert [store.path("so", KEY) for _ in range(3)] == [path] * 3
    assert checked == [KEY]


def test_kinds_and_keys_are_apart(store: Store) -> None:
    store.put("so", KEY, b"1")
    store.put("plan", KEY, b"2")
    assert (store.get("so", KEY), store.get("plan", KEY)) == (b"1", b"2")
    assert store.get("so", make_key("no such")) is None
    assert store.path("plan", make_key("no such")) is None


def test_json_comes_back(store: Store) -> None:
    value = {"names": ["a", "é"], "n": 3, "x": 0.1, "none": None, "deep": {"er": [True]}}
    store.put_json("plan", KEY, value)
    assert store.get_json("plan", KEY) == value
    assert store.get_json("plan", make_key("no such")) is None


def test_bytes_that_are_no_json_are_refused(store: Store) -> None:
    store.put("plan", KEY, b"{")
    with pytest.raises(StoreError, match="no JSON"):
        store.get_json("plan", KEY)


def test_values_that_are_no_json_are_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no JSON"):
        store.put_json("plan", KEY, {"a": object()})


def test_writing_again_replaces(store: Store) -> None:
    for data in (b"1", b"22", b""):
        store.put("so", KEY, data)
        assert store.get("so", KEY) == data
    assert len(list(store.entries())) == 1


BAD_NAMES = [("so", "../../etc"), ("..", KEY), ("tmp", KEY), ("so", KEY.upper()), ("", KEY), ("so", KEY + "\n")]


@pytest.mark.parametrize(("kind", "key"), BAD_NAMES)
def test_names_cannot_leave_the_store(store: Store, kind: str, key: str) -> None:
    for use in (store.get, store.path, lambda kind, key: store.put(kind, key, b"")):
        with pytest.raises(StoreError, match="entry name"):
            use(kind, key)


def test_entries_sizes_verify_clear(store: Store) -> None:
    keys = sorted(make_key(index) for index in range(5))
    for index, key in enumerate(keys):
        store.put("so" if index % 2 else "plan", key, b"x" * (index + 10))
    entries = list(store.entries())
    assert [entry.kind for entry in entries] == ["plan"] * 3 + ["so"] * 2
    assert all(abs(entry.modified - time.time()) < 60 for entry in entries)
    assert store.measure_size() == {"plan": 10 + 12 + 14, "so": 11 + 13}
    assert store.verify() == []
    assert store.clear("so") == 2
    assert store.measure_size() == {"plan": 36}
    assert store.clear() == 3
    assert list(store.entries()) == []


def test_reading_makes_no_directory(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.get("so", KEY) is None
    assert store.path("so", KEY) is None
    assert (list(store.entries()), store.verify(), store.clear()) == ([], [], 0)
    assert not (tmp_path / "none").exists()


def test_foreign_files_are_left_alone(store: Store) -> None:
    path = store.put("so", KEY, b"data")
    foreign = [path.parent / "README", path.parent.parent / "note.txt", path.parent / ("f" * 64)]
    assert not KEY.startswith("ff")
    for file in foreign:
        file.write_text("mine")
    assert [entry.path for entry in store.entries()] == [path]
    assert store.verify() == []
    assert store.clear() == 1
    assert all(file.read_text() == "mine" for file in foreign)


# --- keys ---

PARTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def write_out(part: object) -> str:
    """Tell apart what == does not: True and 1, 0.0 and -0.0; dicts in the order of their keys."""
    if isinstance(part, dict):
        return "{" + ",".join(f"{key!r}:{write_out(part[key])}" for key in sorted(part)) + "}"
    if isinstance(part, tuple):
        return "(" + ",".join(map(write_out, part)) + ")"
    return repr(part)


@given(PARTS, PARTS)
def test_keys_differ_where_parts_do(left: object, right: object) -> None:
    assert (make_key(left) == make_key(right)) == (write_out(left) == write_out(right))


def test_keys_know_boundaries_and_order() -> None:
    spellings = [("ab", "c"), ("a", "bc"), ("abc",), (("ab", "c"),), ("c", "ab"), (b"ab", b"c"), ("ab", "c", ""), ()]
    assert len({make_key(*parts) for parts in spellings}) == len(spellings)
    assert make_key({"a": 1, "b": 2}) == make_key({"b": 2, "a": 1})
    assert make_key([1, 2]) == make_key((1, 2))


@pytest.mark.parametrize("part", [object(), {1, 2}, np.float32(1), Path("x"), {1: "a", "b": 2}])
def test_keys_refuse_what_has_no_one_text(part: object) -> None:
    with pytest.raises(StoreError, match="no key from"):
        make_key("a", part)


def test_keys_are_the_same_in_another_process() -> None:
    code = "from treadle.compiler.runtime.store import make_key; print(make_key({'b': 1, 'a': (2.5, None)}, b'x'))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == make_key({"a": (2.5, None), "b": 1}, b"x")


# --- damage ---


def flip_bit(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    return bytes(damaged)


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "flip": flip_bit,
    "truncate": lambda data, rng: data[: rng.integers(1, len(data))],
    "lose the end": lambda data, rng: data[:-1],
    "lose the content": lambda data, rng: data[-TRAILER_BYTES:],
    "empty": lambda data, rng: b"",
    "garbage": lambda data, rng: rng.bytes(len(data)),
    "zeros": lambda data, rng: b"\0" * len(data),
    "append": lambda data, rng: data + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_is_noticed_removed_and_made_again(
    store: Store, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    kept = {make_key(index): rng.bytes(int(rng.integers(1, 500))) for index in range(8)}
    for key, data in kept.items():
        store.put("so", key, data)
        assert store.path("so", key)  # found good before: the damage comes later in the same process
    for path in files_of(store.root):
        path.write_bytes(DAMAGES[damage](path.read_bytes(), rng))
    for number, (key, data) in enumerate(kept.items(), start=1):
        read = store.path if number % 2 else store.get
        assert read("so", key) is None
        assert len(warnings_of(caplog)) == number
        assert "\n" not in warnings_of(caplog)[-1]
        assert store.get("so", key) is None
        store.put("so", key, data)
        assert store.get("so", key) == data
    assert len(warnings_of(caplog)) == len(kept)
    assert store.verify() == []


def test_a_whole_entry_under_another_name_is_damage(store: Store) -> None:
    path = store.put("so", KEY, b"data")
    assert store.root
    other = make_key("other")
    for kind, key in (("so", other), ("plan", KEY)):
        target = store.root / "v1" / kind / key[:2] / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        assert store.get(kind, key) is None
        assert not target.exists()


def test_verify_finds_and_removes_the_damaged(store: Store) -> None:
    paths = [store.put("so", make_key(index), b"data") for index in range(6)]
    for path in paths[:2]:
        path.write_bytes(b"")
    assert {entry.path for entry in store.verify()} == set(paths[:2])
    assert {entry.path for entry in store.entries()} == set(paths[2:])


def test_a_directory_in_the_place_of_an_entry(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = store.put("so", KEY, b"data")
    path.unlink()
    path.mkdir()
    assert store.get("so", KEY) is None
    store.put("so", KEY, b"data")
    assert store.get("so", KEY) == b"data"
    assert len(warnings_of(caplog)) == 1


def test_files_of_killed_writers_are_ignored_and_leave_in_time(store: Store) -> None:
    store.put("so", KEY, b"data")
    assert store.root
    scratch = store.root / "v1" / "tmp"
    assert files_of(scratch) == []
    old, fresh = scratch / "1-old", scratch / "1-fresh"
    for file in (old, fresh):
        file.write_bytes(b"half")
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(old, times=(long_ago, long_ago))
    assert [entry.key for entry in store.entries()] == [KEY]
    again = Store(store.root)
    assert again.get("so", KEY) == b"data"
    again.put("so", KEY, b"data")
    assert files_of(scratch) == [fresh]
