"""Measure in a process of its own: empty caches, fresh memory, and a crash or a time-out that ends only that process.

`run_child("cold", "measure", {...})` calls `cold.measure(...)` in a new Python process and returns what it returned.
This file is also the script that such a process runs.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = "\x1eresult "  # sets the result apart from whatever a model or compiler prints
TAIL = 2000  # characters of an error that are kept


@dataclass(frozen=True, slots=True)
class ChildResult:
    """`value` is what the function returned, None after a failure; then `error` is the end of what it printed."""

    value: Any
    error: str
    wall_seconds: float
    cpu_seconds: float  # of the whole process and of the processes that it waited for, start to end

    @property
    def ok(self) -> bool:
        return not self.error


def run_child(
    module: str, function: str, arguments: Mapping[str, Any], *,
    environment: Mapping[str, str] | None = None, timeout: float = 1800,
) -> ChildResult:  # fmt: skip
    """Call `module.function(**arguments)` (all JSON) in a new process and wait for it, at most `timeout` seconds."""
    command = [sys.executable, str(Path(__file__).resolve()), module, function, json.dumps(dict(arguments))]
    start, before = time.monotonic(), _children_cpu()
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=timeout)
        error = "" if process.returncode == 0 else f"exit status {process.returncode}\n{tell_end(printed)}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the compilers it started
        printed, _ = process.communicate()
        error = f"no result after {timeout:.0f} s\n{tell_end(printed)}"
    wall, cpu = time.monotonic() - start, _children_cpu() - before
    _, _, result = printed.rpartition(MARK)
    value = None if error or MARK not in printed else json.loads(result.splitlines()[0])
    return ChildResult(value, error, wall, cpu)


def empty_caches(directory: str | Path) -> dict[str, str]:
    """The environment in which every compiler keeps its caches under `directory` and compiles in its own process."""
    path = Path(directory)
    return {
        "TREADLE_CACHE_DIR": str(path / "treadle"),
        "TORCHINDUCTOR_CACHE_DIR": str(path / "inductor"),
        "XDG_CACHE_HOME": str(path / "xdg"),
        "TMPDIR": str(_made(path / "tmp")),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # compilers as children, whose time is counted when they end
    }


def tell_end(printed: str) -> str:
    """The end of what a process printed, without the paths of this machine: results are shared."""
    for prefix in (ROOT, sys.prefix, tempfile.gettempdir(), Path.home()):
        printed = printed.replace(f"{prefix}/", "")
    return printed[-TAIL:]


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    module, function, arguments = sys.argv[1:]
    from harness import set_up

    set_up()
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(f"\n{MARK}{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
