"""Golden files: a test's expected text lies in tests/golden/, readable as a program and reviewable in a diff.

    def test_prints_a_row_kernel(golden):
        golden(print_kernel(kernel))                # golden/<test file>/prints_a_row_kernel.txt
        golden(emit_cpp(kernel), "cpp")             # golden/<test file>/prints_a_row_kernel.cpp

`pytest --update-golden` (or `make golden`) writes what the tests now say; read the diff before you commit it.
"""

from __future__ import annotations

import re
from difflib import unified_diff
from pathlib import Path

import pytest

GOLDEN_DIR = Path(__file__).parent / "golden"


class Golden:
    """The golden files of one test: call it with a text, and the test fails where the file says otherwise."""

    def __init__(self, folder: Path, stem: str, update: bool):
        self.folder = folder
        self.stem = stem
        self.update = update
        self.used: set[str] = set()

    def __call__(self, text: str, suffix: str = "txt") -> None:
        """Compare `text` with the file of that suffix; a test's second file takes another suffix ("tail.cpp")."""
        __tracebackhide__ = True
        if suffix in self.used:
            raise ValueError(f"golden(..., {suffix!r}) twice in one test: give the second another suffix")
        self.used.add(suffix)
        path = self.folder / f"{self.stem}.{suffix}"
        actual = _normalise(text)
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(actual, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"no golden file {path}\n{actual}\nif that is right: pytest --update-golden", pytrace=False)
        expected = path.read_text(encoding="utf-8")
        if actual != expected:
            pytest.fail(_explain_difference(path, expected, actual), pytrace=False)


def golden_of(request: pytest.FixtureRequest) -> Golden:
    """Return the golden files of the test that asks; a parametrised test has one for each case."""
    folder = GOLDEN_DIR / request.path.stem.removeprefix("test_")
    stem = re.sub(r"[^\w.=+-]+", "-", request.node.name.removeprefix("test_")).strip("-")
    return Golden(folder, stem, bool(request.config.getoption("--update-golden")))


def _normalise(text: str) -> str:
    """Drop trailing blanks, which no reviewer sees, and end in one newline."""
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"


def _explain_difference(path: Path, expected: str, actual: str) -> str:
    diff = unified_diff(expected.splitlines(), actual.splitlines(), f"golden/{path.name}", "this run", lineterm="")
    return "\n".join([*diff, "", f"{path} differs; if the new text is right: pytest --update-golden"])
