"""The GPUs that kernels are compiled for, by the names that users give."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.errors import BadInput, DeviceError


@dataclass(frozen=True, slots=True)
class GpuTarget:
    """A GPU architecture as Triton names it: a backend, the architecture, threads of a warp.

    `registers` are those that one thread can have, `shared` the bytes of memory that the threads of a program share.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    registers: int
    shared: int

    @property
    def binary(self) -> str:
        """What the backend's compiler makes."""
        return "cubin" if self.backend == "cuda" else "hsaco"


TARGETS = {
    t.name: t
    for t in (
        GpuTarget("sm_80", "cuda", 80, 32, 255, 163 << 10),
        GpuTarget("sm_90", "cuda", 90, 32, 255, 227 << 10),
        GpuTarget("sm_100", "cuda", 100, 32, 255, 227 << 10),
        GpuTarget("sm_120", "cuda", 120, 32, 255, 99 << 10),
        GpuTarget("gfx942", "hip", "gfx942", 64, 512, 64 << 10),
    )
}


MAJORS = (8, 9, 10, 11, 12)  # of compute capabilities, which Triton generates code for


def target_of(major: int, minor: int) -> GpuTarget:
    """The target of an NVIDIA GPU by its compute capability. Raises DeviceError where Triton does not know it."""
    name = f"sm_{major}{minor}"
    if major not in MAJORS:
        known = f"compute capability {MAJORS[0]}.0 or later" if major < MAJORS[0] else "a newer treadle and Triton"
        raise DeviceError("a GPU that no kernels are generated for", where=name, expected=known)
    return TARGETS.get(name) or GpuTarget(name, "cuda", 10 * major + minor, 32, 255, 99 << 10)


def find_target(name: str) -> GpuTarget:
    """A target by its name. Raises BadInput with those that there are."""
    found = TARGETS.get(name)
    if found is None:
        raise BadInput("no such GPU target", expected=", ".join(TARGETS), got=name)
    return found
