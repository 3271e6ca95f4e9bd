"""A store with a limit forgets what was used longest ago, and nothing that anybody uses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from treadle.compiler.runtime import store as store_module
from treadle.compiler.runtime.store import GRACE_SECONDS, SWEEPS, TRAILER_BYTES, Store, make_key

SIZE = 1000
LIMIT = 10 * (SIZE + TRAILER_BYTES)
KEYS = [make_key(number) for number in range(40)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fill(root: Path, keys: Iterable[str], hours: float = 24.0) -> None:
    """Entries that were written and used `hours` ago, each a minute after the one before, by a process that is gone."""
    store = Store(root)
    for number, key in enumerate(keys):
        set_age(store.put("so", key, bytes(SIZE)), hours * 3600 - 60 * number)


def set_age(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, times=(moment, moment))


def keys_of(root: Path) -> set[str]:
    return {entry.key for entry in Store(root).entries()}


def test_what_was_used_longest_ago_goes(root: Path):
    fill(root, KEYS[:20])
    removed = Store(root, LIMIT).sweep()
    left = keys_of(root)
    assert left == set(KEYS[20 - len(left) : 20]) and removed == 20 - len(left)
    assert LIMIT * (1 - 2 / SWEEPS) - SIZE <= len(left) * (SIZE + TRAILER_BYTES) <= LIMIT * (1 - 1 / SWEEPS)


def test_a_store_within_its_limit_keeps_everything(root: Path):
    fill(root, KEYS[:10])
    assert Store(root, LIMIT).sweep() == 0
    assert len(keys_of(root)) == 10


def test_writing_beyond_the_limit_sweeps(root: Path):
    fill(root, KEYS[:30])
    Store(root, LIMIT).put("so", KEYS[30], bytes(SIZE))  # a tenth of the limit: sweeps come more often than that
    assert KEYS[30] in keys_of(root) and len(keys_of(root)) <= 10


def test_without_a_limit_everything_stays(root: Path):
    fill(root, KEYS[:30])
    Store(root).put("so", KEYS[30], bytes(SIZE))
    assert len(keys_of(root)) == 31


@pytest.mark.parametrize("use", ["get", "path"])
def test_using_an_entry_keeps_it_for_every_process(root: Path, use: str):
    fill(root, KEYS[:20])
    written = [entry.modified for entry in Store(root).entries() if entry.key == KEYS[0]]
    assert getattr(Store(root), use)("so", KEYS[0]) is not None
    Store(root, LIMIT).sweep()
    assert KEYS[0] in keys_of(root) and KEYS[1] not in keys_of(root)
    assert [entry.modified for entry in Store(root).entries() if entry.key == KEYS[0]] == written


def test_what_this_process_uses_stays_however_old(root: Path):
    fill(root, KEYS[:20])
    store = Store(root, LIMIT)
    path = store.path("so", KEYS[0])
    assert path is not None
    set_age(path, 48 * 3600)
    store.sweep()
    assert KEYS[0] in keys_of(root) and KEYS[1] not in keys_of(root)


def test_what_anybody_used_a_moment_ago_stays_even_beyond_the_limit(root: Path):
    fill(root, KEYS[:20], hours=(GRACE_SECONDS - 5) / 3600)
    assert Store(root, LIMIT).sweep() == 0
    assert len(keys_of(root)) == 20


def test_few_writes_look_at_the_whole_store(root: Path, monkeypatch: pytest.MonkeyPatch):
    sweeps: list[Store] = []
    monkeypatch.setattr(Store, "sweep", lambda store: sweeps.append(store))
    store = Store(root, 400 * (SIZE + TRAILER_BYTES))
    for _ in range(400):
        store.put("so", KEYS[0], bytes(SIZE))
    assert 1 <= len(sweeps) <= 4 * SWEEPS  # on average SWEEPS


def test_sweeps_at_once_do_not_remove_twice_as_much(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The second has listed what the first removes in the meantime."""
    fill(root, KEYS[:20])
    other, remove = Store(root, LIMIT), store_module._remove
    others = [other]

    def remove_late(path: Path) -> bool:
        if others:
            others.pop().sweep()
        return remove(path)

    monkeypatch.setattr(store_module, "_remove", remove_late)
    Store(root, LIMIT).sweep()
    assert len(keys_of(root)) >= 8


WORKER = """
import random, sys
from treadle.compiler.runtime import store as module
from treadle.compiler.runtime.store import Store, make_key
module.GRACE_SECONDS = module.MARK_SECONDS = 0.0
root, seed = sys.argv[1], int(sys.argv[2])
draw, store = random.Random(seed), Store(root, 20_000)
for step in range(300):
    number = draw.randrange(60)
    key, data = make_key(number), bytes([number]) * 1000
    if draw.random() < 0.5:
        store.put("so", key, data)
        assert store.get("so", key) in (data, None)
    else:
        assert store.get("so", key) in (data, None)
    if step % 50 == 0:
        store = Store(root, 20_000)
"""


@pytest.mark.slow
def test_many_processes_at_once(root: Path):
    """Without the time of grace, so that they remove what the others have just written."""
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(root), str(seed)], stderr=subprocess.PIPE)
               for seed in range(4)]  # fmt: skip
    for worker in workers:
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 0, said.decode()
        assert b"damaged" not in said
    assert Store(root).verify() == []
    assert sum(entry.size for entry in Store(root).entries()) <= 60_000
