"""Settings: precedence, validation, isolation between threads, and the cache key."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path

import pytest

import treadle
from treadle.compiler import settings as settings_module
from treadle.compiler.runtime.store import Store
from treadle.compiler.settings import OPTIONS, Option, settings
from treadle.ir.errors import SettingError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch):
    for option in OPTIONS.values():
        monkeypatch.delenv(option.variable, raising=False)


def test_the_public_settings_are_these():
    assert treadle.settings is settings


def test_argument_goes_before_environment_goes_before_default(monkeypatch: pytest.MonkeyPatch):
    assert (settings.debug, OPTIONS["debug"].resolve()) == (0, (0, "default"))
    monkeypatch.setenv("TREADLE_DEBUG", "2")
    assert (settings.debug, OPTIONS["debug"].resolve()) == (2, (2, "environment"))
    with settings.override(debug=3):
        assert (settings.debug, OPTIONS["debug"].resolve()) == (3, (3, "argument"))
        with settings.override(debug=0, verify=True):
            assert (settings.debug, settings.verify) == (0, True)
        assert (settings.debug, settings.verify) == (3, False)
    assert settings.debug == 2


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TREADLE_NUMERICS", "")
    assert settings.numerics == "fast"


def test_an_override_ends_when_its_block_raises():
    with pytest.raises(RuntimeError), settings.override(debug=4):
        raise RuntimeError
    assert settings.debug == 0


def test_overrides_of_one_thread_are_not_seen_by_another_unless_handed_over():
    seen = []

    def look(values: dict[str, object]) -> None:
        with settings.override(**values):
            seen.append(settings.debug)

    with settings.override(debug=5):
        for values in ({}, settings.snapshot()):
            thread = threading.Thread(target=look, args=[values])
            thread.start()
            thread.join()
    assert seen == [0, 5]


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("debug", "5", 5),
        ("debug", 1, 1),
        ("threads", 64, 64),
        ("verify", "YES", True),
        ("verify", "0", False),
        ("verify", 1, True),
        ("dump", None, None),
        ("dump", "~/out", Path.home() / "out"),
        ("cache_dir", Path("out"), Path.cwd() / "out"),
        ("compiler", "clang++", "clang++"),
        ("cache_size", 4096, 4096),
        ("cache_size", "0", 0),
        ("cache_size", "1.5 GiB", 3 * 2**29),
        ("cache_size", "500M", 500 * 2**20),
        ("cache_size", "64kb", 2**16),
    ],
)
def test_values_are_read(name: str, value: object, parsed: object):
    with settings.override(**{name: value}):
        assert getattr(settings, name) == parsed


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("debug", 6, "0 to 5"),
        ("debug", -1, "0 to 5"),
        ("debug", True, "0 to 5"),
        ("debug", "many", "0 to 5"),
        ("debug", 2.0, "0 to 5"),
        ("threads", -1, "at least 0"),
        ("verify", "maybe", "yes or no"),
        ("verify", 2, "yes or no"),
        ("verify", None, "yes or no"),
        ("dump", "", "a directory"),
        ("dump", 3, "a directory"),
        ("compiler", "", "a text"),
        ("cache_size", "much", "a number of bytes"),
        ("cache_size", -1, "a number of bytes"),
        ("cache_size", True, "a number of bytes"),
        ("cache_size", 1.5, "a number of bytes"),
        ("numerics", "fats", "did you mean 'fast'"),
        ("numerics", "deterministic", "fast, strict"),
        ("target", "avx-512", "did you mean 'avx512'"),
        ("debgu", 1, "did you mean 'debug'"),
    ],
)
def test_bad_values_are_refused_before_the_block_begins(name: str, value: object, said: str):
    with pytest.raises(SettingError, match=said), settings.override(**{name: value}):
        pytest.fail("the block ran")


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TREADLE_TARGET", "avx3")
    with pytest.raises(SettingError, match=r"TREADLE_TARGET.*avx2"):
        _ = settings.target


def test_variables_that_nothing_reads_are_reported(monkeypatch: pytest.MonkeyPatch):
    assert settings.check_environment() == []
    monkeypatch.setenv("TREADLE_DEBGU", "1")
    assert "did you mean 'TREADLE_DEBUG'" in settings.check_environment()[0]


def test_settings_are_neither_assigned_nor_invented():
    with pytest.raises(SettingError, match=r"override\(debug="):
        settings.debug = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="did you mean 'debug'"):
        _ = settings.debgu  # pyright: ignore[reportAttributeAccessIssue]


def test_the_cache_key_has_what_changes_code_and_nothing_else():
    plain = settings.cache_key()
    assert set(json.loads(plain)) == {name for name, option in OPTIONS.items() if option.changes_code}
    with settings.override(debug=5, verify=True, dump="out", cache_dir="cache", fallback="error"):
        assert settings.cache_key() == plain
    changed = {"numerics": "strict", "target": "scalar", "keep_casts": True, "compiler": "clang++", "threads": 1,
               "gemm": "own"}  # fmt: skip
    for name, value in changed.items():
        with settings.override(**{name: value}):
            assert settings.cache_key() != plain


def test_the_table_lists_every_option_and_where_its_value_is_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TREADLE_THREADS", "2")
    rows = {row.name: row for row in settings.rows()}
    assert list(rows) == list(OPTIONS)
    assert (rows["threads"].value, rows["threads"].source) == ("2", "environment")
    assert all(row.help and row.takes and row.variable == f"TREADLE_{row.name.upper()}" for row in rows.values())


def test_defaults_are_values_their_options_take():
    assert all(
        isinstance(option, Option) and option.parse(option.default) == option.default for option in OPTIONS.values()
    )


# --- where the cache is when no home directory is known ---


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whom the system does not know, without HOME: the directory for temporary files."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_home_the_cache_is_a_private_temporary_directory(homeless: Path):
    path = settings_module._default_cache_dir()
    assert path == homeless / f"treadle-{os.getuid()}"
    assert path.stat().st_mode & 0o777 == 0o700
    assert settings_module._default_cache_dir() == path  # found again


@pytest.mark.parametrize("trap", ["writable", "link", "file"])
def test_a_temporary_directory_that_others_can_write_to_is_not_trusted(homeless: Path, trap: str):
    path = homeless / f"treadle-{os.getuid()}"
    if trap == "writable":
        path.mkdir()
        path.chmod(0o777)
    elif trap == "link":
        (homeless / "other").mkdir()
        path.symlink_to(homeless / "other")
    else:
        path.write_text("")
    found = settings_module._default_cache_dir()
    assert Store(found).root is None, "the store takes it for no place at all"
    with settings.override(cache_dir=found):  # as a snapshot does
        assert Store(settings.cache_dir).root is None


def test_the_caches_of_the_environment_come_first(homeless: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(homeless / "caches"))
    assert settings_module._default_cache_dir() == homeless / "caches" / "treadle"
    assert not list(homeless.iterdir())
