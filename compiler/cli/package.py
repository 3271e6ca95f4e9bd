"""`treadle package FILE[:FUNCTION] -o DIR`: a folder that runs the model without a compiler."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

from rich.text import Text

from ..model_file import describe_model, load_model
from ..package import choose_targets, package
from ..package_place import check_place
from ..runtime.manifest import Manifest, read_manifest
from .arguments import split_names
from .display import Steps, format_bytes, format_seconds, join_words, make_console


def run(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    targets = split_names(args.targets)
    choose_targets(targets)  # a wrong name is better known before the model is built
    check_place(Path(args.output).absolute(), force=args.force)
    with Steps() as steps, redirect_stdout(sys.stderr):  # what the user's file prints is not our result
        steps.begin(f"loading {args.target}")
        loaded = load_model(args.target, args.dtype, **dict(args.arguments))
        steps.begin(f"exporting and compiling for {join_words(targets)}")
        place = package(loaded.model, loaded.inputs, args.output, targets=targets, force=args.force)
    console = make_console()
    console.print(Text(loaded.name, "bold") + Text(f"  {describe_model(loaded)}", "not bold"))
    console.print(summarize(args.output, read_manifest(place), time.perf_counter() - start))
    return 0


def summarize(shown: str, manifest: Manifest, seconds: float) -> str:
    """ "llama.treadle: 221 MiB, of it 1.2 MiB code; cpu avx512, cpu avx2; 12.3 s"."""
    size = sum(file.size for file in manifest.files.values())
    code = sum(file.size for name, file in manifest.files.items() if name.startswith("targets/"))
    targets = join_words([f"{target.kind} {target.name}" for target in manifest.targets])
    return f"{shown}: {format_bytes(size)}, {format_bytes(code)} of it code; {targets}; {format_seconds(seconds)}"
