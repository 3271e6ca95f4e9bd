"""Triton kernels compiled for GPUs that need not be there, in processes of their own.

found = compile_launches([Request(text, launch, TARGETS["sm_90"])], jobs=2)
found[0].registers, found[0].stack, found[0].shared            what one program takes of the GPU
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ....codegen.triton.emit import Launch
from ....codegen.triton.targets import GpuTarget
from ....ir.errors import CompileError

UNSET = ("TRITON_INTERPRET",)  # a worker compiles, whatever this process does


@dataclass(frozen=True, slots=True)
class Request:
    """One function of a module for one GPU. `aligned`: its pointers are multiples of 16 bytes, its sizes of 16."""

    module: str
    launch: Launch
    target: GpuTarget
    aligned: bool = True
    fuse: bool = True  # a product and a sum rounded once


@dataclass(frozen=True, slots=True)
class Binary:
    """What the compiler made. `stack` bytes of each thread beyond its registers: where there are any, it spills."""

    name: str
    code: bytes
    registers: int
    stack: int
    shared: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no binary."""

    kind: str
    error: str


def compile_launches(requests: Sequence[Request], jobs: int | None = None) -> list[Binary | Failed]:
    """The binaries, in the order of the requests. Raises CompileError where Triton is not installed."""
    if not requests:
        return []
    count = min(len(requests), jobs or len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="treadle-triton-") as folder:
        files = _write_modules(requests, Path(folder))
        workers: SimpleQueue[_Worker] = SimpleQueue()
        started = [_Worker(Path(folder) / f"cache{k}") for k in range(count)]
        for worker in started:
            workers.put(worker)

        def one(k: int) -> Binary | Failed:
            worker = workers.get()
            try:
                return worker.compile(requests[k], files[requests[k].module], Path(folder) / f"{k}.bin")
            finally:
                workers.put(worker)

        try:
            with ThreadPoolExecutor(count) as pool:
                return list(pool.map(one, range(len(requests))))
        finally:
            for worker in started:
                worker.stop()


def _write_modules(requests: Sequence[Request], folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for r in requests:
        if r.module not in files:
            files[r.module] = folder / f"module{len(files)}.py"
            files[r.module].write_text(r.module)
    return files


class _Worker:
    """A process that compiles one function after the other."""

    def __init__(self, cache: Path) -> None:
        env = {k: v for k, v in os.environ.items() if k not in UNSET} | {"TRITON_CACHE_DIR": str(cache)}
        # As a file, and without its folder on the path: it needs Triton alone, and nothing of treadle's.
        command = [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )

    def compile(self, r: Request, file: Path, output: Path) -> Binary | Failed:
        request = {
            "file": str(file), "output": str(output), "function": r.launch.function, "arguments": r.launch.arguments,
            "aligned": r.aligned, "warps": r.launch.warps, "stages": r.launch.stages, "fuse": r.fuse,
            "backend": r.target.backend, "arch": r.target.arch, "warp": r.target.warp,
        }  # fmt: skip
        answer = self._ask(json.dumps(request))
        if "error" in answer:
            if answer["kind"] == "ModuleNotFoundError":
                hint = "pip install 'treadle[triton]'"
                raise CompileError("Triton is not installed", stderr=str(answer["error"]), hint=hint)
            return Failed(answer["kind"], answer["error"])
        told = (answer[key] for key in ("registers", "stack", "shared", "parameters"))
        return Binary(answer["name"], output.read_bytes(), *told)  # fmt: skip

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            text = self.process.stdout.readline()
        except BrokenPipeError:
            text = ""
        if not text:
            assert self.process.stderr is not None
            return {"kind": "Crash", "error": self.process.stderr.read()[-2000:]}
        return json.loads(text)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def describe(found: Binary | Failed) -> dict[str, object]:
    """A row of a report."""
    if isinstance(found, Failed):
        return {"error": f"{found.kind}: {found.error.splitlines()[-1] if found.error else ''}"}
    return {k: v for k, v in asdict(found).items() if k != "code"}
