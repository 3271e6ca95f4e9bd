"""What the operating system says of this machine's processor: read from its files, nothing measured or run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .store import make_key

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")
CPUINFO_BYTES = 8192  # holds the first processor; a large machine's whole file costs milliseconds
# What glibc's sysconf answers where /sys does not: (level, kind, _SC_LEVEL.._CACHE_SIZE, _SC_LEVEL.._CACHE_LINESIZE)
SYSCONF_CACHES = ((1, "Data", 188, 190), (2, "Unified", 191, 193), (3, "Unified", 194, 196))
IDENTITY_FIELDS = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")


@dataclass(frozen=True, slots=True)
class CpuCache:
    """One cache. `size` and `line` in bytes; `shared_by` counts the logical processors that it serves."""

    level: int
    kind: str  # "Data" or "Unified"
    size: int
    line: int
    shared_by: int


@cache
def read_cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as file:
            text = file.read(CPUINFO_BYTES)
    except OSError:
        return {}
    rows = [line.partition(":") for line in text.split("\n\n")[0].splitlines()]
    return {name.strip(): value.strip() for name, _, value in rows}


def name_cpu() -> str:
    """Return the processor's name as its maker writes it."""
    return read_cpuinfo().get("model name") or platform.processor() or platform.machine()


@cache
def identify_cpu() -> str:
    """Return a key of what code may rely on: maker, model and instruction sets. Equal processors have equal keys."""
    facts = read_cpuinfo()
    return make_key("cpu", platform.machine(), *[facts.get(field, "") for field in IDENTITY_FIELDS])


@cache
def identify_machine() -> str:
    """Return a key of all that measured speeds depend on: processor, caches, cores, memory in GiB."""
    caches = [(item.level, item.size, item.shared_by) for item in list_caches()]
    return make_key("machine", identify_cpu(), caches, count_cores(), measure_memory() >> 30)


@cache
def list_caches() -> tuple[CpuCache, ...]:
    """Return the data caches of one core, nearest first. A virtual machine may show its host's."""
    found = [_read_cache(folder) for folder in sorted(CACHES.glob("index*"))]
    caches = [item for item in found if item is not None and item.kind != "Instruction"] or _ask_sysconf()
    return tuple(sorted(caches, key=lambda item: item.level))


def count_cores() -> int:
    """Return how many processors this process may keep busy: its affinity, and its container's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        allowed = os.cpu_count() or 1
    quota = _read_cpu_quota()
    return max(1, allowed if quota is None else min(allowed, round(quota)))


def measure_memory() -> int:
    """Return the bytes of memory this process may use: the machine's, or its container's limit."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
    limits = [_read_number(CGROUP / "memory.max"), _read_number(CGROUP / "memory/memory.limit_in_bytes")]
    return min([total, *[int(limit) for limit in limits if limit]])


def _read_cache(folder: Path) -> CpuCache | None:
    try:
        level, kind, size = [(folder / name).read_text().strip() for name in ("level", "type", "size")]
        sharers = _count_listed((folder / "shared_cpu_list").read_text())
        line = int(_read_number(folder / "coherency_line_size") or 64)
        return CpuCache(int(level), kind, _parse_size(size), line, sharers)
    except (OSError, ValueError):
        return None


def _ask_sysconf() -> list[CpuCache]:
    caches = []
    for level, kind, size_name, line_name in SYSCONF_CACHES:
        try:
            size, line = os.sysconf(size_name), os.sysconf(line_name)
        except (ValueError, OSError):
            continue
        if size > 0:
            caches.append(CpuCache(level, kind, size, line if line > 0 else 64, 1))
    return caches


def _read_cpu_quota() -> float | None:
    """Return the processors' worth of time that the container may use (cgroup v2, then v1); None: no limit."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota = str(_read_number(CGROUP / "cpu/cpu.cfs_quota_us") or "max")
        period = str(_read_number(CGROUP / "cpu/cpu.cfs_period_us") or 100_000)
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except ValueError:  # "max"
        return None


def _read_number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _parse_size(text: str) -> int:
    """Return "48K" or "2M" in bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _count_listed(text: str) -> int:
    """Return how many numbers a list such as "0-3,8" names."""
    ranges = [part.split("-") for part in text.strip().split(",")]
    return sum(int(bounds[-1]) - int(bounds[0]) + 1 for bounds in ranges)
