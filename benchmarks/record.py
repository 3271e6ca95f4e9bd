"""The JSON that a benchmark leaves: what was run, on which machine, with which versions, and its rows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from harness import PAIRS, QUICK_PAIRS, ROOT

PACKAGES = ("torch", "transformers", "numpy", "treadle")
ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_int8")
PEERS = ("eager", "inductor")
OURS = "treadle"


def make_parser(description: str | None, *, peers: Iterable[str] = PEERS) -> argparse.ArgumentParser:
    """The options that every suite has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and samples: a look, not a result")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the JSON file has already")
    parser.add_argument("--backend", default=OURS, help="the backend in question; 'none' measures the peers alone")
    parser.add_argument("--peers", default=",".join(peers), help="what to compare with, separated by commas")
    parser.add_argument("--pairs", type=int, help=f"samples of each contestant ({PAIRS}; {QUICK_PAIRS} with --quick)")
    parser.add_argument("--note", default="", help="what a reader of the JSON should know, such as a loaded machine")
    parser.add_argument("--only", default="", help="measure the rows whose name contains this")
    return parser


def contestants(args: argparse.Namespace) -> list[str]:
    """The peers and the backend in question, in that order, each once."""
    names = [*args.peers.split(","), args.backend]
    return [name for name in dict.fromkeys(names) if name and name != "none"]


def count_pairs(args: argparse.Namespace) -> int:
    return args.pairs or (QUICK_PAIRS if args.quick else PAIRS)


class Record:
    """Rows by name, written to the file after each, so that a run that was stopped can be resumed."""

    def __init__(self, benchmark: str, args: argparse.Namespace) -> None:
        self.path: Path | None = args.out
        self.document: dict[str, Any] = {
            "benchmark": benchmark,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "note": args.note,
            "command": describe_command(),
            "machine": describe_machine(),
            "versions": describe_versions(),
            "summary": {},
            "rows": {},
        }
        if args.resume and self.path and self.path.exists():
            self.document["rows"] = json.loads(self.path.read_text())["rows"]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return self.document["rows"]

    def missing(self, names: Iterable[str], only: str = "") -> list[str]:
        return [name for name in names if name not in self.rows and only in name]

    def add(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name] = row
        self.write()

    def finish(self, summary: dict[str, Any]) -> None:
        self.document["summary"] = summary
        self.document["machine"]["load_at_end"] = os.getloadavg()[0]
        self.write()

    def write(self) -> None:
        if not self.path:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.document, indent=1) + "\n")
        draft.replace(self.path)


def describe_command() -> str:
    """The command line, relative to the repository."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return " ".join(["python", str(shown), *sys.argv[1:]])


def describe_machine() -> dict[str, Any]:
    cpu, flags = read_cpu()
    return {
        "cpu": cpu,
        "logical_cores": os.cpu_count(),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "load_at_start": os.getloadavg()[0],
    }


def read_cpu() -> tuple[str, set[str]]:
    """The model's name and the flags of the first core."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    return facts.get("model name", platform.processor()), set(facts.get("flags", "").split())


def describe_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    versions |= {name: installed_version(name) for name in PACKAGES}
    return versions | {
        "g++": first_line("g++", "--version"),
        "commit": first_line("git", "rev-parse", "--short", "HEAD"),
    }


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def first_line(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except FileNotFoundError:
        return "not installed"
    return (ran.stdout.splitlines() or [""])[0]


def say(text: str) -> None:
    """Progress: one line at once, also where the output is a file."""
    print(text, flush=True)
