"""The golden fixture itself: what differs fails, what is missing fails, what is updated is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import GOLDEN_DIR, Golden


def test_equal_texts_pass_but_for_trailing_blanks(tmp_path: Path):
    (tmp_path / "row.txt").write_text("a\n  b\n")
    Golden(tmp_path, "row", update=False)("a  \n  b\n\n")


def test_a_difference_fails_and_shows_the_lines(tmp_path: Path):
    (tmp_path / "row.cpp").write_text("a\nb\n")
    with pytest.raises(pytest.fail.Exception, match=r"-b\n\+c"):
        Golden(tmp_path, "row", update=False)("a\nc\n", "cpp")


def test_a_missing_file_fails(tmp_path: Path):
    with pytest.raises(pytest.fail.Exception, match="no golden file"):
        Golden(tmp_path, "row", update=False)("a")


def test_update_writes_the_file(tmp_path: Path):
    Golden(tmp_path / "new", "row", update=True)("a \n")
    assert (tmp_path / "new" / "row.txt").read_text() == "a\n"


def test_one_suffix_is_one_file(tmp_path: Path):
    golden = Golden(tmp_path, "row", update=True)
    golden("a")
    golden("a", "tail.txt")
    with pytest.raises(ValueError, match="twice"):
        golden("b")


@pytest.mark.parametrize("case", ["a/b", "[x: 1]"])
def test_file_names_are_plain(request: pytest.FixtureRequest, golden: Golden, case: str):
    assert golden.folder == GOLDEN_DIR / "golden"
    assert "/" not in golden.stem
    assert golden.stem.startswith("file_names_are_plain")


def test_every_golden_file_has_its_test():
    """A renamed test leaves its old file behind, which nobody would ever compare with again."""
    stale = []
    for path in GOLDEN_DIR.glob("*/*"):
        homes = list(GOLDEN_DIR.parent.rglob(f"test_{path.parent.name}.py"))
        name = path.name.split(".")[0].split("-")[0]
        if not any(f"def test_{name}" in home.read_text(encoding="utf-8") for home in homes):
            stale.append(path.relative_to(GOLDEN_DIR).as_posix())
    assert not stale, f"no test writes these any more: {stale}"
