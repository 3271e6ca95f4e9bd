"""Instruction sets of the C++ target: what the CPU has, and how the compiler is told."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

COMMON_FLAGS: tuple[str, ...] = (
    "-std=c++17",
    "-O2",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fwrapv",  # integers of tensors wrap
    "-fno-strict-aliasing",  # one arena holds tensors of every dtype
    "-fPIC",
    "-shared",
    "-nostdlib",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-asynchronous-unwind-tables",
    "-Wno-psabi",
)
"""Flags of every kernel. Never -ffast-math or -fno-signed-zeros: -0.0, NaN and infinity keep their meaning."""

LINK_LIBRARIES: tuple[str, ...] = ("-lm",)
"""Goes after the source: the rare functions of the prelude call libm."""

FEATURES: tuple[str, ...] = (
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
"""CPU flags that kernels may use by choice; an `Isa` lists those present."""

TILES_PERMITTED = "amx_permitted"
"""Joins the features where the system has given this process the right to tile registers; no flag of a CPU."""


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set. `vector_bytes` is the native register width (4: packs are scalars); `vendor` made the
    processor, as its cpuid says.
    """

    name: str
    vector_bytes: int
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    vendor: str = ""

    @property
    def compile_flags(self) -> tuple[str, ...]:
        """All flags that decide on the generated code, in the order given to the compiler."""
        return COMMON_FLAGS + self.flags

    @property
    def adds_pairs(self) -> bool:
        """Whether an instruction adds two products of bf16."""
        return self.name == "avx512" and "avx512_bf16" in self.features

    @property
    def adds_quads(self) -> bool:
        """Whether an instruction adds four products of bytes."""
        return {"avx512": "avx512_vnni", "avx2": "avx_vnni"}.get(self.name, "") in self.features

    @property
    def tiles(self) -> tuple[bool, bool]:
        """Whether tile registers multiply bf16, and bytes: what the processor has, permitted or not."""
        has = self.name == "avx512" and "amx_tile" in self.features
        return has and "amx_bf16" in self.features, has and "amx_int8" in self.features

    @property
    def permits_tiles(self) -> bool:
        """Whether there are tile registers that kernels may use."""
        return TILES_PERMITTED in self.features and any(self.tiles)

    def lanes(self, element_bytes: int) -> int:
        """Lanes of a kernel whose widest pack element has `element_bytes` (4 or 8)."""
        return max(1, self.vector_bytes // element_bytes)


_AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")

ISAS: dict[str, Isa] = {
    "avx512": Isa(
        "avx512",
        64,
        (*_AVX2_FLAGS, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mtune=icelake-server"),
        ("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma", "f16c"),
    ),
    "avx2": Isa("avx2", 32, (*_AVX2_FLAGS, "-mtune=haswell"), ("avx2", "fma", "f16c")),
    "scalar": Isa("scalar", 4, ("-fopenmp-simd",)),
}
"""From best to most portable."""


CPUINFO = Path("/proc/cpuinfo")


def read_cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Flags that the kernel reports for the first CPU; empty where there is no such file.

    The operating system has already removed what it does not support (so no xgetbv is needed).
    """
    return frozenset(_read(cpuinfo, "flags").split())


def read_vendor(cpuinfo: Path = CPUINFO) -> str:
    """Who made the first CPU: "GenuineIntel", "AuthenticAMD"; "" where that is not known."""
    return _read(cpuinfo, "vendor_id")


def _read(cpuinfo: Path, wanted: str) -> str:
    """The first value of a key."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in pairs if key.strip() == wanted), "")


def choose_isa(machine: str, cpu_flags: frozenset[str]) -> Isa:
    """The best row of `ISAS` for a CPU, with the optional `FEATURES` it has."""
    if machine not in ("x86_64", "AMD64"):
        return ISAS["scalar"]
    best = next(isa for isa in ISAS.values() if cpu_flags.issuperset(isa.needs))
    return replace(best, features=tuple(f for f in FEATURES if f in cpu_flags))


@lru_cache(maxsize=1)
def detect_isa() -> Isa:
    """The instruction set of this machine."""
    return replace(choose_isa(platform.machine(), read_cpu_flags()), vendor=read_vendor())
