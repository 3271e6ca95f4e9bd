"""`treadle cache`: list, verify and clear, on a store of the test's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from treadle.compiler.cli.cache import format_age
from treadle.compiler.cli.main import main
from treadle.compiler.runtime.store import Store, make_key


@pytest.fixture
def filled(empty_cache: Path) -> Store:
    store = Store(empty_cache)
    for number in range(3):
        store.put("so", make_key(number), bytes(1000))
    store.put_json("compiler", make_key("g++"), {"version": "12"})
    return store


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["cache", *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_an_empty_store_is_no_error(empty_cache: Path, capsys: pytest.CaptureFixture[str]):
    assert "nothing is stored yet" in run(capsys, "list")[1]
    assert run(capsys, "list", "--json")[:2] == (0, "[]\n")
    assert run(capsys, "verify")[:2] == (0, "0 entries are whole, 0 damaged\n")
    assert run(capsys, "clear")[:2] == (0, "0 entries removed, 0 B\n")


def test_list_sums_up_by_kind(filled: Store, capsys: pytest.CaptureFixture[str]):
    status, printed, _ = run(capsys, "list")
    assert status == 0
    [line] = [line for line in printed.splitlines() if line.startswith("so ")]
    assert line.split()[:4] == ["so", "3", "2.9", "KiB"]
    assert str(filled.root) in printed.replace("\n", "")


def test_list_all_shows_each_entry(filled: Store, capsys: pytest.CaptureFixture[str]):
    printed = run(capsys, "list", "--all")[1]
    assert all(entry.key[:16] in printed for entry in filled.entries())


def test_list_as_json(filled: Store, capsys: pytest.CaptureFixture[str]):
    listed = json.loads(run(capsys, "list", "--json")[1])
    assert {(row["kind"], row["key"], row["bytes"]) for row in listed} == {
        (entry.kind, entry.key, entry.size) for entry in filled.entries()
    }
    assert all(Path(row["path"]).is_file() for row in listed)


def test_verify_finds_and_removes_what_is_damaged(filled: Store, capsys: pytest.CaptureFixture[str]):
    assert run(capsys, "verify")[:2] == (0, "4 entries are whole, 0 damaged\n")
    path = filled.path("so", make_key(1))
    assert path is not None
    path.write_bytes(b"damaged" + path.read_bytes()[7:])
    status, printed, _ = run(capsys, "verify")
    assert status == 1
    assert f"so {make_key(1)[:16]} was damaged" in printed
    assert "3 entries are whole, 1 damaged" in printed
    assert not path.exists()
    assert run(capsys, "verify")[:2] == (0, "3 entries are whole, 0 damaged\n")


def test_clear_one_kind_then_all(filled: Store, capsys: pytest.CaptureFixture[str]):
    assert run(capsys, "clear", "--kind", "compiler")[:2] == (0, "1 entry removed, 17 B\n")
    assert filled.measure_size() == {"so": 3000}
    assert run(capsys, "clear")[:2] == (0, "3 entries removed, 2.9 KiB\n")
    assert list(filled.entries()) == []


def test_clear_of_a_kind_that_is_not_there_lists_those_that_are(filled: Store, capsys: pytest.CaptureFixture[str]):
    status, printed, said = run(capsys, "clear", "--kind", "compilr")
    assert (status, printed) == (2, "")
    assert "did you mean 'compiler'? one of: compiler, so" in said
    assert len(list(filled.entries())) == 4


def test_ages_are_told_in_units(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("treadle.compiler.cli.cache.time.time", lambda: 1e6)
    ages = [format_age(1e6 - seconds) for seconds in (-5, 90, 600, 7200 * 2, 86400 * 9)]
    assert ages == ["just now", "just now", "10 min ago", "4 h ago", "9 days ago"]


def test_list_shows_the_limit(filled: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert run(capsys, "list")[1].splitlines()[-1] == "2.9 KiB of 2.0 GiB"
    monkeypatch.setenv("TREADLE_CACHE_SIZE", "64 MiB")
    assert run(capsys, "list")[1].splitlines()[-1] == "2.9 KiB of 64.0 MiB"
    monkeypatch.setenv("TREADLE_CACHE_SIZE", "0")
    assert run(capsys, "list")[1].splitlines()[-1] == "2.9 KiB, without a limit"
