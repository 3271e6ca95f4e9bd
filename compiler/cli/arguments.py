"""The commands of `treadle` and what each takes. Nothing heavy is imported here, so that help is there at once."""

from __future__ import annotations

import argparse
import ast
import re
from typing import NoReturn

from ...ir.errors import BadInput, suggest
from ..modes import MODES

BACKEND = "treadle"
PEERS = "eager,inductor"
STDOUT = "-"

TARGET_HELP = "a Python file whose function (build, if none is named) returns a model, or any callable, and its inputs"

EPILOG = """\
examples:
  treadle doctor                              is everything here that treadle needs?
  treadle run examples/01_llama.py            is it right, and how fast?
  treadle explain examples/01_llama.py        what became of my model, and why?
  treadle package examples/01_llama.py -o llama.treadle
                                              a folder that runs it without a compiler

exit status: 0 all is well; 1 a result is wrong, or something is broken; 2 bad usage or input
"""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage is in the help."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument (\w+): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            name, got, choices = wrong.groups()
            hint = suggest(got, [choice.strip(" '") for choice in choices.split(",")])
            raise BadInput(f"no such {name.lower()}", got=got, hint=hint)
        raise BadInput(message, hint=f"{self.prog} --help shows the usage")


def make_parser(version: str) -> argparse.ArgumentParser:
    """The parser of all commands; `args.command` names the chosen one, None where there is none."""
    parser = Parser(
        prog="treadle",
        description="A tensor compiler for PyTorch that derives its kernels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"treadle {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    _add_run(_add_command(commands, "run", "compile a model, check it against float64, time it against its peers"))
    _add_explain(_add_command(commands, "explain", "show each kernel, where it came from and what was fused, or not"))
    _add_package(_add_command(commands, "package", "compile a model into a folder that runs without a compiler"))
    _add_doctor(
        _add_command(commands, "doctor", "show the machine, compilers, cache and settings, and what is missing")
    )
    _add_cache(_add_command(commands, "cache", "list, verify or clear the store of compiled code"))
    return parser


def _add_command(commands: argparse._SubParsersAction, name: str, summary: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    _add_mode(parser, ", of treadle and of Inductor")
    parser.add_argument("--backend", default=BACKEND, metavar="NAME", help="the backend in question (default: treadle)")
    parser.add_argument(
        "--backend-peers", default=PEERS, metavar="NAMES", dest="peers",
        help=f"what it is compared with, separated by commas (default: {PEERS})",
    )  # fmt: skip
    parser.add_argument(
        "--pairs",
        type=_positive,
        metavar="N",
        help="timed rounds (default: 60, with --quick 15, fewer where they would take over a minute)",
    )
    parser.add_argument("--threads", type=_positive, default=1, metavar="N", help="CPU threads of each (default: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a result")
    parser.add_argument("--cold", action="store_true", help="compile from empty caches, which are thrown away")
    parser.add_argument("--json", metavar="OUT", help="write all that was found to a file; - for standard output")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    _add_mode(parser)
    parser.add_argument("--source", action="store_true", help="show each kernel's generated source too")
    parser.add_argument("--train", action="store_true", help="compile the backward graphs too")
    parser.add_argument("--kernel", metavar="N", help="only this kernel, by number or name")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_package(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the folder to write")
    parser.add_argument(
        "--targets", default="auto", metavar="NAMES",
        help="processors and GPUs, separated by commas: auto (what the model is on; the default), avx512, avx2, scalar,"
             " sm_80, sm_90, sm_100, sm_120",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace a package that is there")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measure", action="store_true", help="measure copy bandwidth now (some seconds) and keep it")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    listing = actions.add_parser("list", help="what is stored: how much of each kind")
    listing.add_argument("--all", action="store_true", help="each entry, the newest first")
    listing.add_argument("--json", action="store_true", help="print every entry as JSON")
    actions.add_parser("verify", help="check every entry's digest and remove the damaged ones")
    clearing = actions.add_parser("clear", help="remove what is stored; it is compiled again when needed")
    clearing.add_argument("--kind", metavar="KIND", help="only the entries of this kind")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="FILE[:FUNCTION]", help=TARGET_HELP)
    parser.add_argument("--dtype", default="", metavar="TYPE", help="passed to the function: fp32, bf16, fp16 or fp64")
    parser.add_argument(
        "--set", action="append", default=[], type=_assignment, metavar="NAME=VALUE", dest="arguments",
        help="one more argument of the function, such as layers=2 (may be repeated)",
    )  # fmt: skip


def _add_mode(parser: argparse.ArgumentParser, of: str = "") -> None:
    parser.add_argument("--mode", metavar="MODE", help=f"the mode of torch.compile{of}: {', '.join(MODES)}")


def split_names(text: str) -> list[str]:
    """ "avx512, avx2" -> ["avx512", "avx2"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _assignment(text: str) -> tuple[str, object]:
    """Read "layers=2" as ("layers", 2); what is no Python literal is a text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
