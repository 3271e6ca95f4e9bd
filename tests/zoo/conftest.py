"""`pytest tests/zoo --backend NAME`: which torch.compile backend the zoo runs through."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of a shared machine would starve each other
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

DEFAULT_BACKEND = "treadle"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default=DEFAULT_BACKEND, help="the torch.compile backend to check")


@pytest.fixture(autouse=True)
def _quiet_trace() -> Iterator[None]:
    """torch's trace log would put a thousand empty lines beside every failure."""
    trace = logging.getLogger("torch.__trace")
    trace.addFilter(_drop)
    yield
    trace.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--backend", DEFAULT_BACKEND))
