"""`treadle doctor`: what is here of what treadle needs, each option in force, what to do about what is missing."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ...codegen.cpp.isa import detect_isa
from ...ir.errors import CompileError, SettingError, StoreError, TreadleError
from ..runtime.bandwidth import Bandwidth
from ..runtime.build import build_and_load
from ..runtime.machine import Machine, describe_machine, load_bandwidth, measure_copy_bandwidth
from ..runtime.store import Store, make_key
from ..settings import OPTIONS, settings
from .display import (
    Steps,
    format_bytes,
    format_count,
    format_seconds,
    indent,
    make_console,
    make_grid,
    make_heading,
    make_table,
)

OK, NOTE, BAD = "ok", "note", "bad"
STYLES = {OK: "", NOTE: "yellow", BAD: "bold red"}
TORCH_FROM, TORCH_BELOW = (2, 11), (2, 16)  # as pyproject.toml says; a test compares
OPTIONAL = {"transformers": "the examples need it", "triton": "graphs on a GPU need it"}
BACKENDS = "torch_dynamo_backends"
PROBE = 'extern "C" int probe() { return 42; }\n'
LEAST_FREE = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `state`: ok, note (works, but worse than it could) or bad (something will fail); `hint`: what to do."""

    section: str
    name: str
    value: str
    state: str = OK
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """All that the doctor found."""

    findings: tuple[Finding, ...]
    machine: Machine
    bandwidth: Bandwidth | None
    settings: tuple[dict[str, object], ...]

    @property
    def ok(self) -> bool:
        return all(finding.state != BAD for finding in self.findings)


def run(args: argparse.Namespace) -> int:
    with Steps() as steps, _quiet_store():
        health = examine(steps, measure=args.measure)
    if args.json:
        print(json.dumps(asdict(health) | {"ok": health.ok}, indent=1))
    else:
        show(health)
    return 0 if health.ok else 1


def examine(steps: Steps, *, measure: bool) -> Health:
    """Look at everything; `measure` takes the copy bandwidth anew, which needs a compiler and some seconds."""
    store = Store(settings.cache_dir)
    steps.begin("asking torch for GPUs")
    machine = describe_machine(settings.compiler, store)
    rows, wrong = read_settings()
    findings = [*check_versions(machine), *describe_cpu(machine)]
    steps.begin(f"building a kernel with {settings.compiler}")
    findings += check_compiler(machine)
    steps.begin(f"checking the store {settings.cache_dir}")
    findings += check_store(store)
    if measure and machine.compiler_path:
        steps.begin("measuring copy bandwidth", total=100)

        def report(done: int, of: int, level: str) -> None:
            steps.advance(done, of, f"copying within {level}")

        measure_copy_bandwidth(store, settings.compiler, progress=report)
    return Health((*findings, *wrong), machine, load_bandwidth(store), rows)


def check_versions(machine: Machine) -> list[Finding]:
    found = [Finding("versions", "python", machine.python), _check_torch(machine.torch)]
    registered = "treadle" in importlib.metadata.entry_points(group=BACKENDS).names
    hint = "" if registered else "install treadle with pip (`pip install -e .` in its folder), not by a path alone"
    value = 'torch.compile(backend="treadle")' if registered else "torch.compile does not know it"
    found.append(Finding("versions", "backend", value, OK if registered else BAD, hint))
    return [
        *found,
        *[Finding("versions", name, _find_version(name) or f"absent: {OPTIONAL[name]}") for name in OPTIONAL],
    ]


def _check_torch(version: str) -> Finding:
    supported = f"{TORCH_FROM[0]}.{TORCH_FROM[1]} or newer, before {TORCH_BELOW[0]}.{TORCH_BELOW[1]}"
    if not version:
        return Finding("versions", "torch", "not installed", BAD, f"pip install torch: {supported}")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if TORCH_FROM <= numbers < TORCH_BELOW:
        return Finding("versions", "torch", version)
    return Finding("versions", "torch", version, NOTE, f"treadle is tested with torch {supported}")


def _find_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def describe_cpu(machine: Machine) -> list[Finding]:
    isa = detect_isa()
    vectors = f"{isa.name}: {isa.vector_bytes * 8} bits" if isa.vector_bytes > 8 else isa.name
    slow = "no AVX2 here: kernels are portable scalar code" if isa.name == "scalar" else ""
    caches = [f"L{item.level} {format_bytes(item.size)}" for item in machine.caches]
    gpus = ", ".join(machine.gpus)
    gpu_hint = "kernels for GPUs are new, and have run on none so far: check them" if gpus else ""
    return [
        Finding("machine", "cpu", f"{machine.cpu}, {format_count(machine.cores, 'core')} to use"),
        Finding("machine", "vectors", ", ".join([vectors, *isa.features]), NOTE if slow else OK, slow),
        Finding("machine", "caches", ", ".join(caches) or "unknown"),
        Finding("machine", "memory", format_bytes(machine.memory)),
        Finding("machine", "system", f"{machine.system}, {machine.architecture}"),
        Finding("machine", "gpu", gpus or "none that torch sees", NOTE if gpus else OK, gpu_hint),
    ]


def check_compiler(machine: Machine) -> list[Finding]:
    """Build and load a function that returns 42, from an empty store: what a first kernel needs."""
    name = machine.compiler
    if not machine.compiler_path:
        hint = "install one (Debian, Ubuntu: apt install g++) or set TREADLE_COMPILER; until then models run in eager"
        return [Finding("compiler", name, "not found", BAD, hint)]
    found = Finding("compiler", name, f"{machine.compiler_version}, {machine.compiler_path}")
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="treadle-doctor-") as folder:
            library = build_and_load(PROBE, detect_isa().compile_flags, name, Store(folder))
            answer = ctypes.c_int(library.probe()).value
    except (TreadleError, OSError) as error:
        problem, *rest = str(error).splitlines()
        hint = rest[-1].strip() if isinstance(error, CompileError) and rest else "set TREADLE_COMPILER to another one"
        return [found, Finding("compiler", "a kernel", problem, BAD, hint)]
    if answer != 42:
        return [found, Finding("compiler", "a kernel", f"returns {answer}, not 42", BAD, "try another compiler")]
    took = format_seconds(time.perf_counter() - start)
    return [found, Finding("compiler", "a kernel", f"builds, loads and runs: {took}")]


def check_store(store: Store) -> list[Finding]:
    """Check every entry (damaged ones are removed), write one and read it back."""
    damaged = store.verify()
    sizes, entries = store.measure_size(), sum(1 for _ in store.entries())
    listed = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in sorted(sizes.items()))
    health = f"{format_count(len(damaged), 'damaged entry', 'damaged entries')} removed" if damaged else "all whole"
    held = f"{format_count(entries, 'entry', 'entries')}, {health}" + (f"; {listed}" if listed else "")
    return [
        _check_writing(store),
        Finding("cache", "holds", held if entries or damaged else "nothing yet", NOTE if damaged else OK),
        _check_space("cache", "disk", store.root or Path.home()),
    ]


def _check_writing(store: Store) -> Finding:
    key, data = make_key("doctor"), b"probe"
    where = str(store.root or "nowhere")
    try:
        path = store.put("probe", key, data)
        whole = store.get("probe", key) == data
        path.unlink()
    except (StoreError, OSError) as error:
        return Finding("cache", "store", f"{where}: {error}", BAD, "set TREADLE_CACHE_DIR to a directory of yours")
    if store.degraded:
        hint = "make it writable, or set TREADLE_CACHE_DIR to another: until then each process compiles anew"
        return Finding("cache", "store", f"{where}: cannot be written", NOTE, hint)
    if not whole:
        return Finding("cache", "store", f"{where}: does not keep what is written", BAD, "set TREADLE_CACHE_DIR")
    return Finding("cache", "store", where)


def _check_space(section: str, name: str, path: Path) -> Finding:
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    hint = "" if free >= LEAST_FREE else "free some: kernels that cannot be kept are compiled in every process"
    return Finding(section, name, f"{format_bytes(free)} free", NOTE if hint else OK, hint)


def read_settings() -> tuple[tuple[dict[str, object], ...], list[Finding]]:
    """The table of options, and a finding for each whose value is no value, and for each stray variable."""
    rows, wrong = [], []
    for name, option in OPTIONS.items():
        try:
            value, source = option.resolve()
        except SettingError as error:
            wrong.append(Finding("settings", name, str(error), BAD, f"unset {option.variable}, or correct it"))
            value, source = "invalid", "environment"
        rows.append({"name": name, "value": str(value), "source": source, "variable": option.variable,
                     "takes": option.kind.takes, "changes_code": option.changes_code, "help": option.help})  # fmt: skip
    stray = [Finding("settings", "unknown", line, NOTE) for line in settings.check_environment()]
    return tuple(rows), [*wrong, *stray]


def show(health: Health) -> None:
    console = make_console()
    sections = [name for name in dict.fromkeys(finding.section for finding in health.findings) if name != "settings"]
    for section in sections:
        console.print(make_heading(section, first=section == sections[0]))
        rows = [finding for finding in health.findings if finding.section == section]
        console.print(make_grid((row.name, Text(row.value, STYLES[row.state])) for row in rows))
    show_bandwidth(console, health.bandwidth)
    show_settings(console, health.settings)
    show_hints(console, [finding for finding in health.findings if finding.state != OK])


def show_bandwidth(console: Console, bandwidth: Bandwidth | None) -> None:
    console.print(make_heading("copy bandwidth of one thread"))
    if bandwidth is None:
        console.print("  not measured yet: treadle doctor --measure (some seconds)")
        return
    numbers = ("working set", "normal stores", "streaming stores", "memcpy")
    table = make_table("level", *numbers, right=numbers)
    for rate in bandwidth.rates:
        speeds = [f"{speed / 1e9:.1f} GB/s" if speed else "-" for speed in (rate.normal, rate.streaming, rate.memcpy)]
        table.add_row(rate.level, format_bytes(rate.working_set), *speeds)
    console.print(indent(table))
    console.print(Text(f"  bytes read + written; measured {bandwidth.date} at load {bandwidth.load:.1f}", "dim"))


def show_settings(console: Console, rows: tuple[dict[str, object], ...]) -> None:
    console.print(make_heading("settings"))
    table = make_table("option", "value", "from", "code", "what it does")
    for row in rows:
        source = Text(str(row["source"]), "dim" if row["source"] == "default" else "cyan")
        code = "changes" if row["changes_code"] else ""
        table.add_row(str(row["name"]), str(row["value"]), source, Text(code, "dim"), str(row["help"]))
    console.print(indent(table))


def show_hints(console: Console, attention: list[Finding]) -> None:
    if not attention:
        console.print(Text("\nEverything that treadle needs is here.", "green"))
        return
    console.print(make_heading("what to do"))
    for finding in attention:
        console.print(Text("  ") + Text(f"{finding.name}: {finding.value}", STYLES[finding.state]))
        if finding.hint:
            console.print(f"      {finding.hint}")


@contextmanager
def _quiet_store() -> Iterator[None]:
    """What the store would warn of is among the findings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
