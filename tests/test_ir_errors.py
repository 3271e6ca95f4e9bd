"""Errors say where, what, what was expected, what came and what to do, and keep their fields."""

from __future__ import annotations

import copy

import pytest

from treadle.ir.errors import (
    STDERR_LINES,
    BadInput,
    CompileError,
    LoweringError,
    ParseError,
    ScheduleError,
    SettingError,
    StoreError,
    TreadleError,
    UnsupportedOp,
    VerifyError,
    suggest,
)

EXAMPLES = [
    (
        VerifyError("the types differ", where="%3 = add", expected="f32", got="bf16", hint="insert a cast"),
        "%3 = add: the types differ (expected f32, got bf16); insert a cast",
    ),
    (ScheduleError("the tile does not divide the axis", got=0), "the tile does not divide the axis (got 0)"),
    (LoweringError("an axis has no extent", where="%2"), "%2: an axis has no extent"),
    (UnsupportedOp("aten.fft", "complex numbers"), "aten.fft is left to ATen: complex numbers"),
    (
        ParseError("unknown op", line=3, column=5, text="%3 = frob %2", expected="an op"),
        "line 3: unknown op (expected an op)\n  %3 = frob %2\n       ^",
    ),
    (
        CompileError("the compiler failed", command="g++ -O3 k.cpp", stderr="k.cpp:1: error: no\n", source="k.cpp"),
        "k.cpp: the compiler failed\n  $ g++ -O3 k.cpp\n  k.cpp:1: error: no",
    ),
    (StoreError("the digest differs", path="a/b", hint="rebuilt"), "a/b: the digest differs; rebuilt"),
    (
        SettingError("no such option", got="debgu", choices=["dump", "debug"]),
        "no such option (got 'debgu'); did you mean 'debug'? one of: dump, debug",
    ),
    (BadInput("no function of that name", where="m.py", got="f"), "m.py: no function of that name (got f)"),
]


@pytest.mark.parametrize(("error", "message"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_message_is_built_from_the_fields(error: TreadleError, message: str):
    assert str(error) == message


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES], ids=lambda value: type(value).__name__)
def test_a_copy_says_the_same(error: TreadleError):
    """Copies are rebuilt from `args`, which break errors whose constructor takes other arguments than the message."""
    assert str(copy.copy(error)) == str(error)
    assert vars(copy.copy(error)) == vars(error)


def test_a_long_compiler_output_is_cut_after_its_first_lines():
    error = CompileError("failed", stderr="\n".join(f"line{n}." for n in range(STDERR_LINES + 5)))
    assert "line0." in str(error)
    assert f"line{STDERR_LINES}." not in str(error)
    assert "5 lines more" in str(error)
    assert f"line{STDERR_LINES + 4}." in error.stderr


def test_kinds_are_caught_as_what_they_are():
    assert issubclass(UnsupportedOp, LoweringError)
    assert issubclass(SettingError, ValueError)
    assert issubclass(BadInput, ValueError)


def test_suggest_lists_what_exists_also_when_nothing_is_near():
    assert suggest("qqq", ["fast", "strict"]) == "one of: fast, strict"
    assert suggest("fats", ["fast", "strict"]) == "did you mean 'fast'? one of: fast, strict"
    assert suggest("x", []) == ""
