"""The manifest of a package: what `treadle.package` wrote, for which machines, and the digest of every file.

    DIR/manifest.json                   this, as JSON, sealed with its own digest
    DIR/weights.safetensors             parameters, buffers and constants
    DIR/targets/<name>/plan.json        what to launch and where its buffers lie, for one kind of processor
    DIR/targets/<name>/<digest>.so      its kernels, or for a GPU their launchers
    DIR/targets/<name>/<digest>.cubin   kernels for a GPU

A target has a kind, "cpu" or "cuda". A loader passes over kinds that it does not know, so that others can stand beside.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...ir.errors import BadInput, StoreError
from .signature import Signature, signature_from_json, signature_to_json

FORMAT = 2  # of the folder; a loader reads its own and older ones
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CPU, CUDA = "cpu", "cuda"  # kinds of targets
AGAIN = "package the model again with this treadle"
COPY_AGAIN = "copy the package here again, or package the model again"


@dataclass(frozen=True, slots=True)
class Target:
    """Code for one kind of processor.

    needs      what the processor must have, as /proc/cpuinfo names it; the architecture of a GPU: "sm_90"
    libraries  the file of each library that the plan names
    binaries   the file of each function of a GPU that the plan names
    """

    name: str
    system: str
    machine: str
    needs: tuple[str, ...]
    plan: str
    libraries: dict[str, str]
    kind: str = CPU
    binaries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class File:
    """`size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """See the module.

    name       what the model is called
    treadle, torch  the versions it was made with
    torch_from, torch_below  versions of torch whose calls it relies on
    calls      the schema of each operator of torch that the plans call
    constants  the tensors that plans read besides the inputs, by the names plans have for them
    targets    the best first
    """

    name: str
    treadle: str
    torch: str
    torch_from: str
    torch_below: str
    calls: dict[str, str]
    signature: Signature
    constants: dict[str, str]
    targets: tuple[Target, ...]
    files: dict[str, File]
    format: int = FORMAT


def write_manifest(manifest: Manifest, directory: Path) -> None:
    data = asdict(manifest) | {"signature": signature_to_json(manifest.signature)}
    text = json.dumps(data | {"digest": _digest(data)}, indent=1) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Raises BadInput where there is no package, StoreError for one that is damaged or of a newer treadle."""
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        hint = "treadle.package(model, inputs, directory) or `treadle package FILE -o DIR` makes one"
        raise BadInput(f"this is no treadle package: there is no {MANIFEST}", where=directory, hint=hint) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"the manifest cannot be read: {error}", path=path, hint=COPY_AGAIN) from None
    try:
        data = json.loads(text)
        found, digest = data["format"], data.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError("the manifest is damaged", path=path, hint=COPY_AGAIN) from None
    if isinstance(found, int) and found > FORMAT:
        made = f"treadle {data.get('treadle', '')}".strip()
        hint = "install that treadle or a newer one, or package the model again with this one"
        raise StoreError(f"the package has format {found}, made by {made}; this treadle reads up to {FORMAT}",
                         path=directory, hint=hint)  # fmt: skip
    if digest != _digest(data):
        raise StoreError("the manifest is damaged: its digest does not match", path=path, hint=COPY_AGAIN)
    try:
        return _from_json(data)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"the manifest lacks what it should say: {error}", path=path, hint=AGAIN) from None


def _from_json(data: dict[str, Any]) -> Manifest:
    targets = (t | {"needs": tuple(t["needs"])} for t in data["targets"])
    parts = {
        "signature": signature_from_json(data["signature"]),
        "targets": tuple(Target(**t) for t in targets),
        "files": {name: File(**f) for name, f in data["files"].items()},
    }
    return Manifest(**data | parts)


def _digest(data: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(data))  # as it will be read: tuples are lists by then
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def describe_file(path: Path) -> File:
    with open(path, "rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def check_file(directory: Path, name: str, manifest: Manifest) -> Path:
    """The path of a file of the package that is what was written. Raises StoreError."""
    path = directory / name
    wanted = manifest.files.get(name)
    if wanted is None:
        raise StoreError("the manifest names a file and has no digest of it", path=path, hint=AGAIN)
    try:
        found = describe_file(path)
    except FileNotFoundError:
        raise StoreError("a file of the package is missing", path=path, hint=COPY_AGAIN) from None
    except OSError as error:
        raise StoreError(f"a file of the package cannot be read: {error}", path=path, hint=COPY_AGAIN) from None
    if found.size != wanted.size:
        problem = f"a file of the package is damaged: it has {found.size} bytes of {wanted.size}"
        raise StoreError(problem, path=path, hint=COPY_AGAIN)
    if found.sha256 != wanted.sha256:
        raise StoreError("a file of the package is damaged: its digest does not match", path=path, hint=COPY_AGAIN)
    return path
