"""Every error that treadle raises: one class per kind, the message built from fields.

A message says where it happened, what is wrong, what was expected, what came, and what to do. The fields stay readable
on the exception, so callers decide by them and never by parsing text.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

STDERR_LINES = 20  # of a compiler's output: the first errors explain, the rest repeats


class TreadleError(Exception):
    """Whatever treadle itself raises; `raise` one of the kinds below.

    problem  what is wrong, in words
    where    the node, equation, line or file it was found at
    expected, got  what would have been right, and what came instead
    hint     what to do about it
    """

    # Exception.__init__ is not called: `args` then stay the arguments given, from which copies are rebuilt.
    def __init__(self, problem: str, *, where: object = "", expected: object = "", got: object = "", hint: str = ""):
        self.problem = problem
        self.where = str(where)
        self.expected = str(expected)
        self.got = str(got)
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        wanted = [f"expected {self.expected}"] * bool(self.expected) + [f"got {self.got}"] * bool(self.got)
        contrast = f" ({', '.join(wanted)})" if wanted else ""
        advice = f"; {self.hint}" if self.hint else ""
        return f"{place}{self.problem}{contrast}{advice}"


class VerifyError(TreadleError):
    """IR that breaks a rule of its level, or a kernel whose results differ from the interpreter's."""


class ParseError(TreadleError):
    """Text that is not IR. `line` counts from 1, `column` from 0; `text` is that line, shown with a caret."""

    def __init__(
        self, problem: str, *, line: int = 0, column: int = 0, text: str = "",
        expected: object = "", got: object = "", hint: str = "",
    ):  # fmt: skip
        super().__init__(problem, where=f"line {line}" if line else "", expected=expected, got=got, hint=hint)
        self.line = line
        self.column = column
        self.text = text

    def __str__(self) -> str:
        if not self.text:
            return super().__str__()
        return f"{super().__str__()}\n  {self.text}\n  {' ' * self.column}^"


class ScheduleError(TreadleError):
    """A schedule that does not apply to a kernel. The search skips such a candidate; a user reads the reason."""


class LoweringError(TreadleError):
    """A graph, or a region of one, that cannot be taken to the next level: that region alone falls back to ATen."""


class UnsupportedOp(LoweringError):
    """An operator that treadle does not compile itself: its node becomes an ATen call, counted and explained."""

    def __init__(self, op: str, reason: str, *, where: object = ""):
        super().__init__(f"{op} is left to ATen: {reason}", where=where)
        self.op = op
        self.reason = reason


class CompileError(TreadleError):
    """A compiler that is missing, or that refused the source treadle wrote.

    command  what was run
    stderr   all it said; the message shows the first lines
    source   the path of the source text, where it was kept
    """

    def __init__(self, problem: str, *, command: str = "", stderr: str = "", source: object = "", hint: str = ""):
        super().__init__(problem, where=source, hint=hint)
        self.command = command
        self.stderr = stderr
        self.source = str(source)

    def __str__(self) -> str:
        said = self.stderr.strip().splitlines()
        left = len(said) - STDERR_LINES
        more = [f"... and {left} lines more"] if left > 0 else []
        ran = [f"$ {self.command}"] if self.command else []
        return "\n  ".join([super().__str__(), *ran, *said[:STDERR_LINES], *more])


class DeviceError(TreadleError):
    """A GPU, or its driver, that is not there or does not take what it is given."""


class StoreError(TreadleError):
    """A cache directory that cannot be used, or an entry whose digest does not match; `path` names it."""

    def __init__(self, problem: str, *, path: object = "", hint: str = ""):
        super().__init__(problem, where=path, hint=hint)
        self.path = str(path)


class SettingError(TreadleError, ValueError):
    """An option, mode or setting that does not exist, or a value that it does not take. `choices` are those that do."""

    def __init__(self, problem: str, *, got: object = "", choices: Iterable[str] = (), where: object = ""):
        self.choices = tuple(choices)
        super().__init__(problem, where=where, got=repr(got), hint=suggest(str(got), self.choices))


class BadInput(TreadleError, ValueError):
    """Something that the caller handed in and that cannot be right: a file, a function, a shape, a type."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """Say which of `choices` was probably meant and list them all: "did you mean 'debug'? one of: debug, dump"."""
    listed = [str(choice) for choice in choices]
    if not listed:
        return ""
    close = get_close_matches(name, listed, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}one of: {', '.join(listed)}"
