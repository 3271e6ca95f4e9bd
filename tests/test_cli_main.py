"""The command line as such: help, versions, errors in one line, exit statuses. No command does its work here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import treadle
from treadle.compiler.cli import main as cli
from treadle.compiler.cli.display import format_bytes, format_count, format_seconds, join_words

COMMANDS = ("run", "explain", "package", "doctor", "cache")


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "treadle.compiler.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_version_is_the_packages():
    done = run_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"treadle {treadle.__version__}\n", "")


def test_help_loads_neither_torch_nor_rich():
    code = (
        "import sys; from treadle.compiler.cli.main import main\n"
        "main(['--help']); main(['run', '--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'rich', 'sympy', 'numpy')))"
    )
    start = time.process_time()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert time.process_time() - start < 1


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"    {name} " in printed for name in COMMANDS)
    assert all(cli.main([name, "--help"]) == 0 for name in COMMANDS)


def test_no_command_is_bad_usage(capsys: pytest.CaptureFixture[str]):
    assert cli.main([]) == 2
    assert "usage: treadle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["doctr"], "no such command (got doctr); did you mean 'doctor'? one of: run, explain, package, doctor, cache"),
        (["cache", "verfy"], "no such action (got verfy); did you mean 'verify'?"),
        (["run"], "the following arguments are required: FILE[:FUNCTION]; treadle run --help shows the usage"),
        (["run", "a.py", "--pairs", "0"], "0 is not at least 1"),
        (["run", "a.py", "--pairs", "many"], "argument --pairs: invalid"),
        (["run", "a.py", "--set", "layers"], "'layers' is not NAME=VALUE"),
        (["doctor", "--mesure"], "unrecognized arguments: --mesure"),
    ],
)
def test_bad_usage_is_one_line_that_says_what_to_do(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("treadle: ") and printed.err.count("\n") == 1
    assert said in printed.err


def raise_in_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(args: object) -> int:
        raise error

    load: Callable[[str], object] = cli.import_module
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(run=run) if ".cli." in name else load(name))


def test_a_fault_of_our_own_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    raise_in_command(monkeypatch, ValueError("first\nsecond"))
    assert cli.main(["doctor"]) == 3
    assert capsys.readouterr().err.startswith("treadle: internal error: ValueError: first; please report it")


def test_the_stack_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    raise_in_command(monkeypatch, ValueError("first"))
    monkeypatch.setenv("TREADLE_DEBUG", "1")
    assert cli.main(["doctor"]) == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_setting_that_cannot_be_read_hides_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TREADLE_DEBUG", "loud")
    assert cli.main(["doctr"]) == 2
    assert "no such command" in capsys.readouterr().err


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    raise_in_command(monkeypatch, KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "treadle: interrupted\n"


def test_a_reader_that_stops_is_no_error():
    code = (
        "from treadle.compiler.cli import main as cli\n"
        "cli.__version__, cli.import_module = '0', lambda name: cli\n"
        "cli.run = lambda args: print('x' * 10_000_000) or 0\n"
        "raise SystemExit(cli.main(['doctor']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_numbers_are_told_in_units():
    assert [format_bytes(n) for n in (0, 1023, 1536, 200 << 20, 5 << 40)] == [
        "0 B", "1023 B", "1.5 KiB", "200 MiB", "5120 GiB",
    ]  # fmt: skip
    assert [format_seconds(s) for s in (2e-7, 1.234e-3, 0.0567, 0.4, 12.34)] == [
        "0.20 us", "1.23 ms", "56.7 ms", "400 ms", "12.3 s",
    ]  # fmt: skip
    assert (format_count(1, "entry", "entries"), format_count(0, "entry", "entries")) == ("1 entry", "0 entries")
    assert join_words(["a", "b", "c"], most=2) == "a, b, and 1 more"
