"""What every test has: golden files, seeded random numbers, and a cache directory of its own."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from golden import Golden, golden_of
from hypothesis import settings as hypothesis_settings

# Triton reads this when it is imported, which any test may do first; what is compiled for GPUs is compiled elsewhere.
os.environ["TRITON_INTERPRET"] = "1"

# Slow machines are no failures; in CI the examples are the same in every run, so that a red run is the change's doing.
hypothesis_settings.register_profile("treadle", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
hypothesis_settings.load_profile("treadle")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing with them"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The golden files of this test: golden(text) or golden(source, "cpp")."""
    return golden_of(request)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test's own, the same in every run."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Random numbers of this test's own, the same in every run."""
    return np.random.default_rng(seed)


@pytest.fixture(scope="session", autouse=True)
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the processes they start, out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TREADLE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory that nothing was stored in yet, in force for this test and the processes it starts."""
    path = tmp_path / "cache"
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(path))
    return path


@pytest.fixture
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test module's `MODEL` as a file, for commands that load one and print lines of 120 columns about it."""
    path = tmp_path / "model.py"
    path.write_text(request.module.MODEL)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")
    return path
