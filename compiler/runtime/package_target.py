"""Which target of a package runs here, and where: on the processor, or on a GPU that it has binaries for."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...ir.errors import BadInput, StoreError
from .build import LIBRARY
from .cpu import read_cpuinfo
from .manifest import CPU, CUDA, Manifest, Target, check_file

EXACT_FROM = 9  # from this compute capability on, Triton's binaries use what its own minor version alone has


def choose_target(manifest: Manifest, path: Path, device: str | torch.device | None = None) -> tuple[Target, str]:
    """The first target that runs here, and the device that it runs on: this one, or any.

    Raises BadInput for a device that this process does not have, StoreError, which says what is lacking, where no
    target runs.
    """
    here = (platform.system(), platform.machine())
    places = list_places(device)
    flags = {place: read_gpu_flags(place) if is_gpu(place) else read_flags() for place in places}
    known = [t for t in manifest.targets if t.kind in (CPU, CUDA)]
    for target in known:
        for place in places:
            suits = (target.kind == CUDA) is is_gpu(place) and flags[place].issuperset(target.needs)
            if suits and (target.system, target.machine) == here:
                return target, place
    made = "; ".join(_show_target(t, {p: f for p, f in flags.items() if (t.kind == CUDA) is is_gpu(p)}) for t in known)
    gpus = "".join(f" with {_show_gpu(flags[place])} as {place}" for place in places if is_gpu(place))
    hint = "package it with targets=('avx512', 'avx2', 'scalar') on a machine of this architecture"
    raise StoreError(f"the package was made for other machines ({made or 'none that this treadle knows'}), and this is "
                     f"{' '.join(here)}{gpus}", path=path, hint=hint)  # fmt: skip


def is_gpu(place: str) -> bool:
    return place.partition(":")[0] == CUDA


def list_places(device: str | torch.device | None) -> list[str]:
    """The devices that may be used, the best first. Raises BadInput for one that is not here."""
    current = find_current_gpu()
    if device is None:
        return [CPU] if current is None else [current, CPU]
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in (CPU, CUDA):
        raise BadInput("no device that packages run on", where="treadle.load", expected="cpu or cuda", got=str(device))
    if wanted.type == CPU:
        return [CPU]
    if current is None or (wanted.index is not None and wanted.index >= torch.cuda.device_count()):
        raise BadInput("there is no such GPU here", where="treadle.load", got=str(wanted))
    return [current if wanted.index is None else str(wanted)]


def find_current_gpu() -> str | None:
    """The CUDA device that torch works on now; None where there is none."""
    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    return f"{CUDA}:{torch.cuda.current_device()}"


def read_flags() -> frozenset[str]:
    """The instruction sets of this processor, as the system reports them."""
    return frozenset(read_cpuinfo().get("flags", "").split())


def read_gpu_flags(place: str) -> frozenset[str]:
    """The architectures whose binaries a GPU runs: up to Ada, those of its generation that are not newer."""
    major, minor = torch.cuda.get_device_capability(place)
    least = minor if major >= EXACT_FROM else 0
    return frozenset(f"sm_{major}{m}" for m in range(least, minor + 1))


def _show_target(target: Target, flags: Mapping[str, frozenset[str]]) -> str:
    lacks = sorted(set(target.needs) - frozenset().union(*flags.values()))
    text = f"{target.name} on {target.system} {target.machine}"
    return text + (f", which needs {' '.join(lacks)}" if lacks else "")


def _show_gpu(flags: frozenset[str]) -> str:
    return max(flags, default="a GPU")


@dataclass(frozen=True)
class PackageFiles:
    """The files of one target as plans look for them: by kind and key, like those of a store. Each is checked."""

    folder: Path
    manifest: Manifest
    target: Target

    def path(self, kind: str, key: str) -> Path | None:
        """The file, or None where the package has none."""
        name = (self.target.libraries if kind == LIBRARY else self.target.binaries).get(key)
        return None if name is None else check_file(self.folder, name, self.manifest).absolute()

    def get(self, kind: str, key: str) -> bytes | None:
        """What the file holds, or None where the package has none."""
        found = self.path(kind, key)
        return None if found is None else found.read_bytes()
