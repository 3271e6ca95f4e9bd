"""`treadle doctor`: what it finds on this machine, and what it says where something is missing."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sources import read_pyproject

from treadle.compiler.cli import doctor
from treadle.compiler.cli.main import main
from treadle.compiler.runtime.store import Store
from treadle.compiler.settings import OPTIONS


def diagnose(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict], dict]:
    """(exit status, findings by name, everything)."""
    capsys.readouterr()
    status = main(["doctor", "--json", *arguments])
    found = json.loads(capsys.readouterr().out)
    return status, {row["name"]: row for row in found["findings"]}, found


def test_a_machine_that_can_run_the_tests_is_well(empty_cache: Path, capsys: pytest.CaptureFixture[str]):
    status, findings, found = diagnose(capsys)
    assert status == 0 and found["ok"]
    assert all(row["state"] != "bad" for row in findings.values())
    assert findings["a kernel"]["value"].startswith("builds, loads and runs")
    assert findings["store"]["value"] == str(empty_cache)
    assert found["machine"]["cores"] >= 1
    assert [row["name"] for row in found["settings"]] == list(OPTIONS)
    assert {entry.kind for entry in Store(empty_cache).entries()} <= {"compiler"}


def test_it_reads_well_on_paper(empty_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert headings[:4] == ["versions", "machine", "compiler", "cache"]
    assert lines[-1] in ("Everything that treadle needs is here.",) or "what to do" in headings


def test_a_missing_compiler_is_bad_and_says_what_to_do(
    empty_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TREADLE_COMPILER", "no-such-compiler")
    status, findings, _ = diagnose(capsys)
    assert status == 1
    assert findings["no-such-compiler"]["state"] == "bad"
    assert "apt install g++" in findings["no-such-compiler"]["hint"]
    assert main(["doctor"]) == 1
    assert "what to do" in capsys.readouterr().out


def test_a_compiler_that_builds_nothing_is_bad(
    empty_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    fake = tmp_path / "fake-g++"
    fake.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo fake 1.0 && exit 0\necho 'no licence' >&2\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("TREADLE_COMPILER", str(fake))
    status, findings, _ = diagnose(capsys)
    assert status == 1
    assert findings["a kernel"]["state"] == "bad"
    assert "status 1" in findings["a kernel"]["value"] and "no licence" in findings["a kernel"]["hint"]


def test_a_store_that_cannot_be_written_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(blocked / "cache"))
    status, findings, _ = diagnose(capsys)
    assert status == 0, "compiling works, if anew in each process"
    assert findings["store"]["state"] == "note"
    assert "TREADLE_CACHE_DIR" in findings["store"]["hint"]


def test_damaged_entries_are_counted(empty_cache: Path, capsys: pytest.CaptureFixture[str]):
    path = Store(empty_cache).put("so", "0" * 64, b"code")
    path.write_bytes(b"other")
    _, findings, _ = diagnose(capsys)
    assert findings["holds"]["state"] == "note"
    assert "1 damaged entry removed" in findings["holds"]["value"]


def test_wrong_and_stray_settings_are_told(
    empty_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TREADLE_VERIFY", "perhaps")
    monkeypatch.setenv("TREADLE_NUMERIK", "fast")
    status, findings, found = diagnose(capsys)
    assert status == 1
    assert "yes or no" in findings["verify"]["value"]
    assert "TREADLE_NUMERICS" in findings["unknown"]["value"]
    [row] = [row for row in found["settings"] if row["name"] == "verify"]
    assert (row["value"], row["source"]) == ("invalid", "environment")


def test_settings_show_where_they_come_from(
    empty_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TREADLE_NUMERICS", "strict")
    _, _, found = diagnose(capsys)
    sources = {row["name"]: (row["value"], row["source"]) for row in found["settings"]}
    assert sources["numerics"] == ("strict", "environment")
    assert sources["verify"] == ("False", "default")


def test_bandwidth_is_shown_once_it_is_measured(
    empty_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert diagnose(capsys)[2]["bandwidth"] is None
    real = doctor.measure_copy_bandwidth
    monkeypatch.setattr(doctor, "measure_copy_bandwidth", lambda *args, **kw: real(*args, megabytes=1, samples=1, **kw))
    assert main(["doctor", "--measure"]) == 0
    assert "GB/s" in capsys.readouterr().out
    rates = diagnose(capsys)[2]["bandwidth"]["rates"]
    assert all(rate["normal"] > 0 and rate["memcpy"] > 0 for rate in rates)


@pytest.mark.parametrize(
    ("version", "state"),
    [("2.13.0+cpu", "ok"), ("2.11.1", "ok"), ("2.10.2", "note"), ("2.16.0a0", "note"), ("", "bad")],
)
def test_torch_is_judged_by_its_version(version: str, state: str):
    assert doctor._check_torch(version).state == state


def test_the_range_of_torch_is_that_of_the_package():
    [needed] = [line for line in read_pyproject()["project"]["dependencies"] if line.startswith("torch")]
    assert re.findall(r"(\d+)\.(\d+)", needed) == [
        tuple(map(str, doctor.TORCH_FROM)), tuple(map(str, doctor.TORCH_BELOW)),
    ]  # fmt: skip


def test_as_a_process(empty_cache: Path):
    """The installed command: results on stdout, progress on stderr."""
    command = [str(Path(sys.executable).parent / "treadle"), "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
    assert "building a kernel" in done.stderr
