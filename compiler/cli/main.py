"""The command `treadle`. A command's module is imported when it is called: help and errors take no second.

Exit status: 0 all is well; 1 a result is wrong, or something is broken; 2 bad usage or input; 3 a fault of treadle's
own; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from ...ir.errors import TreadleError
from ..settings import settings
from .arguments import make_parser

BAD_USAGE, OWN_FAULT, INTERRUPTED = 2, 3, 130
ISSUES = "please report it, with the output of TREADLE_DEBUG=1 and `treadle doctor`"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (sys.argv by default) and return the exit status."""
    try:
        return run_command(arguments)
    except SystemExit as error:  # argparse, after --help or --version
        return error.code if isinstance(error.code, int) else BAD_USAGE
    except TreadleError as error:
        return fail(str(error), BAD_USAGE)
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # `treadle explain ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line and not our stack
        said = (str(error).splitlines() or [""])[0]
        return fail(f"internal error: {type(error).__name__}: {said}; {ISSUES}", OWN_FAULT)


def run_command(arguments: Sequence[str] | None) -> int:
    parser = make_parser(import_module("treadle").__version__)
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return BAD_USAGE
    return import_module(f"{__package__}.{args.command}").run(args)


def fail(message: str, status: int) -> int:
    """Print one line on stderr, the stack too where `debug` is set, and return the status."""
    if is_debugging() and sys.exc_info()[1] is not None:
        traceback.print_exc()
    print(f"treadle: {message}", file=sys.stderr)
    return status


def is_debugging() -> bool:
    """Whether the stack is wanted. A setting that cannot be read must not hide the error that is being told."""
    try:
        return settings.debug > 0
    except TreadleError:
        return False


if __name__ == "__main__":
    sys.exit(main())
