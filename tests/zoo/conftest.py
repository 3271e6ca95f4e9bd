"""`pytest tests/zoo --backend NAME`: which torch.compile backend the zoo runs through."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of a shared machine would starve each other
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

DEFAULT_BACKEND = "treadle"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default=DEFAULT_BACKEND, help="the torch.compile backend to check")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--backend", DEFAULT_BACKEND))
