"""From C++ source text to a loaded library: looked up in the store first, compiled otherwise, in parallel.

    build_many(sources, flags, "g++", store)    libraries and what they cost: a translation unit per process
    build_library(source, flags, "g++", store)  the file of one
    load_library(path)                          its symbols
    build_and_load(...)                         both, and once more where the file vanished in between

A library's key holds all that its code depends on: source, flags, compiler, and the processor where a flag says
"native". The compiler is asked for its version once per file it is: the answer is stored, so that a process which finds
all its libraries starts no compiler, and needs none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ...ir.errors import CompileError, StoreError
from .cpu import count_cores, identify_cpu
from .store import Store, make_key

LIBRARY = "so"  # kinds of entries in the store
COMPILER = "compiler"
FAILED = "failed"
LIMIT_SECONDS = 600.0  # for one translation unit
POLL_SECONDS = 0.001
LOAD_MODE = os.RTLD_NOW | os.RTLD_LOCAL


@dataclass(frozen=True, slots=True)
class BuildStats:
    """What builds cost: libraries found in the store, compilers started, their CPU seconds, our wall seconds."""

    found: int = 0
    started: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def __add__(self, other: BuildStats) -> BuildStats:
        return BuildStats(*[getattr(self, item.name) + getattr(other, item.name) for item in fields(BuildStats)])


@dataclass(frozen=True, slots=True)
class Build:
    """The libraries of `build_many`, in the order of its sources, and what they cost."""

    paths: tuple[Path, ...]
    stats: BuildStats


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler. `command` is empty where there is none; `version` may then be that of the one there was."""

    name: str
    command: tuple[str, ...]
    version: str


@dataclass(slots=True)
class _Job:
    """One compiler at work in a folder of its own, which holds its source, its output and what it says."""

    key: str
    source: str
    folder: Path
    command: list[str]
    process: subprocess.Popen[bytes]
    deadline: float
    cpu_seconds: float = 0.0
    late: bool = False

    @property
    def output(self) -> Path:
        return self.folder / "kernels.so"

    @property
    def messages(self) -> Path:
        return self.folder / "messages.txt"


_lock = threading.Lock()
_total = BuildStats()
_versions: dict[tuple[Path | None, str, int, int], str] = {}
_libraries: dict[Path, ctypes.CDLL] = {}


def build_library(source: str, flags: Sequence[str], compiler: str, store: Store) -> Path:
    """Return the shared object of one C++ source; see `build_many`."""
    return build_many([source], flags, compiler, store).paths[0]


def build_many(
    sources: Sequence[str], flags: Sequence[str], compiler: str, store: Store, *,
    jobs: int = 0, limit_seconds: float = LIMIT_SECONDS,
) -> Build:  # fmt: skip
    """Return the shared objects of C++ sources, compiling those that the store lacks, `jobs` at once (0: one a core).

    `flags` must make a shared object (-shared -fPIC). Raises CompileError where there is no compiler, or it refuses a
    source (kept in the store then, as the error says), or is not done with one in `limit_seconds`. What had been built
    by then stays in the store.
    """
    begin = time.perf_counter()
    found = find_compiler(compiler, store)
    keys = [_make_library_key(source, flags, found) for source in sources]
    paths = {key: path for key in keys if (path := store.path(LIBRARY, key)) is not None}
    missing = {key: source for key, source in zip(keys, sources, strict=True) if key not in paths}
    stats = BuildStats(found=len(paths))
    # The largest first: a small one fills the gap at the end.
    waiting = sorted(missing.items(), key=lambda item: -len(item[1]))
    try:
        with contextlib.closing(_run_compilers(waiting, flags, found, jobs or count_cores(), limit_seconds)) as ended:
            for job in ended:
                stats += BuildStats(started=1, cpu_seconds=job.cpu_seconds)
                paths[job.key] = _keep_output(job, store)
    finally:
        stats += BuildStats(wall_seconds=time.perf_counter() - begin)
        _add_to_total(stats)
    return Build(tuple(paths[key] for key in keys), stats)


def total_stats() -> BuildStats:
    """Return what all builds of this process cost so far."""
    return _total


def load_library(path: Path) -> ctypes.CDLL:
    """Load a shared object, once per process; its undefined symbols bind to those torch has loaded globally.

    Raises CompileError, with the loader's words, where it cannot be loaded.
    """
    library = _libraries.get(path)
    if library is None:
        library = _libraries[path] = _load(path)
    return library


def build_and_load(source: str, flags: Sequence[str], compiler: str, store: Store) -> ctypes.CDLL:
    """Build and load one source. Another process may clear the store in between: then it is built once more."""
    path = build_library(source, flags, compiler, store)
    try:
        return load_library(path)
    except CompileError:
        if path.exists():
            raise
        return load_library(build_library(source, flags, compiler, store))


def find_compiler(name: str, store: Store) -> Compiler:
    """Find a compiler (a name on PATH, a path, or such with arguments: "ccache g++") and its version.

    Where there is none, the version is that of the last one of this name which the store knows, so that its libraries
    are found all the same; "" if it knows none.
    """
    words = shlex.split(name)
    path = shutil.which(words[0]) if words else None
    last = make_key("last", name)
    if path is None:
        return Compiler(name, (), (store.get_json(COMPILER, last) or {}).get("version", ""))
    stat = os.stat(path)
    file = (path, stat.st_mtime_ns, stat.st_size)
    command = (path, *words[1:])
    version = _versions.get((store.root, *file))
    if version is None:
        key = make_key("version", *file)
        version = (store.get_json(COMPILER, key) or {}).get("version")
        if version is None:
            version = _ask_version(command)
            for entry in (key, last):
                store.put_json(COMPILER, entry, {"name": name, "path": path, "version": version})
        _versions[store.root, *file] = version
    return Compiler(name, command, version)


def _ask_version(command: tuple[str, ...]) -> str:
    try:
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, env=_environment())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CompileError(f"the C++ compiler does not run: {error}", command=shlex.join(command)) from error
    lines = asked.stdout.splitlines()
    if asked.returncode != 0 or not lines:
        raise CompileError("the C++ compiler does not tell its version", command=shlex.join([*command, "--version"]),
                           stderr=asked.stderr, hint="set TREADLE_COMPILER to g++ or clang++")  # fmt: skip
    return lines[0]


def _make_library_key(source: str, flags: Sequence[str], compiler: Compiler) -> str:
    processor = identify_cpu() if any("native" in flag for flag in flags) else ""
    return make_key("library", source, tuple(flags), compiler.name, compiler.version, processor)


def _run_compilers(
    waiting: list[tuple[str, str]], flags: Sequence[str], compiler: Compiler, jobs: int, limit_seconds: float
) -> Generator[_Job, None, None]:
    """Yield the compilers of (key, source) pairs as they end, with their folders; closing it stops those at work."""
    if not waiting:
        return
    if not compiler.command:
        hint = "install one (Debian, Ubuntu: apt install g++) or set TREADLE_COMPILER to its name or path"
        raise CompileError(f"there is no C++ compiler: {compiler.name!r} is not found", hint=hint)
    running: list[_Job] = []
    try:
        with tempfile.TemporaryDirectory(prefix="treadle-build-") as folder:
            try:
                while waiting or running:
                    while waiting and len(running) < jobs:
                        running.append(_start(*waiting.pop(0), flags, compiler, Path(folder), limit_seconds))
                    job = _wait_any(running)
                    running.remove(job)
                    yield job
            finally:
                _stop(running)
    except OSError as error:
        hint = "the directory for temporary files may be full, or forbidden: set TMPDIR to another"
        raise CompileError(f"the C++ compiler cannot be started: {error}", hint=hint) from error


def _start(key: str, source: str, flags: Sequence[str], compiler: Compiler, parent: Path, limit_seconds: float) -> _Job:
    folder = parent / key
    folder.mkdir()
    (folder / "kernels.cpp").write_text(source, encoding="utf-8")
    command = [*compiler.command, "kernels.cpp", "-o", "kernels.so", *flags]
    with open(folder / "messages.txt", "wb") as messages:
        # A process group of its own: the driver's children (cc1plus, as, ld) stop with it.
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
                                   env=_environment(folder), process_group=0)  # fmt: skip
    return _Job(key, source, folder, command, process, time.monotonic() + limit_seconds)


def _environment(scratch: Path | None = None) -> dict[str, str]:
    """Return our environment with messages in English; the compiler's temporary files go to `scratch`, and with it."""
    return {**os.environ, "LC_ALL": "C", **({"TMPDIR": str(scratch)} if scratch else {})}


def _wait_any(running: list[_Job]) -> _Job:
    while True:
        for job in running:
            if _has_ended(job):
                return job
        time.sleep(POLL_SECONDS)


def _has_ended(job: _Job) -> bool:
    try:
        # Not Popen.wait: wait4 tells what this one cost, its own children included.
        pid, status, usage = os.wait4(job.process.pid, os.WNOHANG)
    except ChildProcessError:  # SIGCHLD is ignored in this program, so nobody knows its status: its output tells
        job.process.returncode = 0
        return True
    if pid == 0:
        if time.monotonic() > job.deadline:
            job.late = True
            _kill(job)
        return False
    job.process.returncode = os.waitstatus_to_exitcode(status)
    job.cpu_seconds = usage.ru_utime + usage.ru_stime
    return True


def _kill(job: _Job) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.process.pid, signal.SIGKILL)


def _stop(running: list[_Job]) -> None:
    for job in running:
        _kill(job)
    for job in running:
        job.process.wait()


def _keep_output(job: _Job, store: Store) -> Path:
    if job.process.returncode != 0 or not job.output.exists():
        raise _explain_failure(job, store)
    return store.put(LIBRARY, job.key, job.output.read_bytes())


def _explain_failure(job: _Job, store: Store) -> CompileError:
    code = job.process.returncode
    problem, hint = f"the C++ compiler ended with status {code}", "report it, with this source: treadle wrote it"
    if job.late:
        problem, hint = "the C++ compiler was not done in time", "the kernel may be too large for it"
    elif code < 0:
        problem = f"the C++ compiler was killed by signal {-code} ({signal.strsignal(-code)})"
        hint = "memory may have run out: compile fewer at once"
    said = job.messages.read_text(encoding="utf-8", errors="replace")
    if "No space left on device" in said:
        hint = "set TMPDIR to a directory with free space"
    source = ""
    with contextlib.suppress(StoreError):
        source = str(store.put(FAILED, job.key, job.source.encode()))
    return CompileError(problem, command=shlex.join(job.command), stderr=said, source=source, hint=hint)


def _add_to_total(stats: BuildStats) -> None:
    global _total
    with _lock:
        _total += stats


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(os.fspath(path), mode=LOAD_MODE)
    except OSError as error:
        if "failed to map segment" in str(error):
            return _load_copy(path)
        threads = re.search("undefined symbol: (GOMP|omp)_", str(error))
        hint = "import torch first: kernels share its threads" if threads else ""
        raise CompileError(f"the library does not load: {error}", hint=hint) from error


def _load_copy(path: Path) -> ctypes.CDLL:
    """Load from memory what stands on a file system that forbids running code (mounted noexec)."""
    descriptor = os.memfd_create(path.name[:16])
    # Stays open: the loader knows a library by its path, and another one must never get this number.
    with open(descriptor, "wb", closefd=False) as memory:
        memory.write(path.read_bytes())
    try:
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}", mode=LOAD_MODE)
    except OSError as error:
        hint = "set TREADLE_CACHE_DIR to a directory that may hold programs (not mounted noexec)"
        raise CompileError(f"{path} does not load, nor does a copy of it: {error}", hint=hint) from error
