"""Where a package is written: a folder made beside the directory and renamed, so that it is there as a whole or not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..ir.errors import BadInput, StoreError
from .runtime.manifest import MANIFEST, read_manifest


def check_place(place: Path, *, force: bool) -> None:
    """Raises BadInput where a directory may not be written: nothing but a package is ever replaced."""
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir():
        raise BadInput("there is something else than a directory", where=place)
    if not any(place.iterdir()):
        return
    if not (place / MANIFEST).is_file():
        raise BadInput("the directory is not empty, and no treadle package", where=place, hint="name another one")
    if not force:
        raise BadInput("there is a package already", where=place, hint="force=True (--force) replaces it")
    _check_is_package(place)


def _check_is_package(place: Path) -> None:
    """A damaged package may be replaced; a folder with somebody else's manifest.json may not."""
    try:
        read_manifest(place)
    except StoreError:
        if not (place / "targets").is_dir():
            problem = "the directory has a manifest, but not of a treadle package"
            raise BadInput(problem, where=place, hint="name another one") from None


@contextmanager
def make_beside(place: Path) -> Iterator[Path]:
    """A folder on the same file system, removed at the end if it is still there."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise BadInput(f"no folder can be made there: {error.strerror}", where=place.parent) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, place: Path, *, force: bool) -> None:
    """Rename the folder into place; what was there meanwhile is checked again."""
    check_place(place, force=force)
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)  # a temporary folder is its owner's alone
    if not (place / MANIFEST).exists():
        folder.rename(place)  # also onto an empty directory
        return
    with make_beside(place) as old:
        place.rename(old / "old")
        try:
            folder.rename(place)
        except OSError:
            (old / "old").rename(place)
            raise
