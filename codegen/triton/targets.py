"""The GPUs that kernels are compiled for, by the names that users give."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.errors import BadInput


@dataclass(frozen=True, slots=True)
class GpuTarget:
    """A GPU architecture as Triton names it: a backend, the architecture, threads of a warp.

    `registers` are those that one thread can have.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    registers: int

    @property
    def binary(self) -> str:
        """What the backend's compiler makes."""
        return "cubin" if self.backend == "cuda" else "hsaco"


TARGETS = {
    t.name: t
    for t in (
        GpuTarget("sm_80", "cuda", 80, 32, 255),
        GpuTarget("sm_90", "cuda", 90, 32, 255),
        GpuTarget("sm_100", "cuda", 100, 32, 255),
        GpuTarget("sm_120", "cuda", 120, 32, 255),
        GpuTarget("gfx942", "hip", "gfx942", 64, 512),
    )
}


def find_target(name: str) -> GpuTarget:
    """A target by its name. Raises BadInput with those that there are."""
    found = TARGETS.get(name)
    if found is None:
        raise BadInput("no such GPU target", expected=", ".join(TARGETS), got=name)
    return found
