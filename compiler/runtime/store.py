"""A content-addressed store in a directory: what one process compiled, every later process finds.

    root/v1/<kind>/<first two digits of key>/<key>    one file per entry
    root/v1/tmp/                                      files being written

An entry is its content followed by one trailer line with the SHA-256 of kind, key and content. One file instead of an
entry and a side file, so a single rename publishes both; at the end instead of the front, because a loader reads a
shared object from its header on and never looks past its last segment: the same file is checked here and loaded there.

Entries are written to `tmp` and renamed into place: a reader sees a whole entry or none, a mapped library keeps its
pages, and writers of one key replace each other's equal bytes. There is no fsync: what a power cut damages, the digest
finds, and a damaged entry is removed and costs one recompile.

A store may have a limit. Every file's access time is when an entry was last used, which we set ourselves, whatever the
file system is mounted with. Now and then a write is followed by a sweep, which removes what was used longest ago: never
what this process uses, nor what any process used a moment ago, and who finds an entry gone makes it again. Two sweeps
at once remove the same files. Which writes sweep is drawn by lot, so that on average there is one for each sixteenth
of the limit that all processes together have written, and none needs to know of the others.

Nothing that a directory can do to us reaches the user. Read-only, full, forbidden or absent: the store says so once, as
one logged line, and goes on in a directory of this process, which leaves with it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from ...ir.errors import StoreError

log = logging.getLogger(__name__)

FORMAT = "v1"  # a folder of its own: an older or newer treadle beside this one never sees what it cannot read
TRAILER_START = b"\n// treadle entry sha256 "  # a comment, so that a kept source still compiles
TRAILER_BYTES = len(TRAILER_START) + 64 + 1
STALE_SECONDS = 3600.0  # older files in tmp belong to a writer that was killed
KIND = re.compile(r"(?!tmp$)[a-z][a-z0-9_]*")
KEY = re.compile(r"[0-9a-f]{16,128}")
GRACE_SECONDS = 600.0  # an entry that was used this lately may be about to be loaded: no sweep removes it
MARK_SECONDS = 60.0  # how exactly the last use is known
SWEEPS = 16  # for as many bytes as the limit; a sweep leaves that part of it free
WRITE_ATTEMPTS = 3  # somebody may remove the folders between our making them and our writing there


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored file. `size` is in bytes, without the trailer; `modified`, `used`: in seconds since the epoch."""

    kind: str
    key: str
    path: Path
    size: int
    modified: float
    used: float


class Entries(Protocol):
    """Where plans find their libraries and binaries: a store, or a package."""

    def path(self, kind: str, key: str) -> Path | None:
        """The file of an entry; None where there is none."""

    def get(self, kind: str, key: str) -> bytes | None:
        """An entry's content; None where there is none."""


class Store:
    """Bytes by kind ("so", "json", ...) and key (see `make_key`), for many threads and processes at once.

    root   the directory, made when first written to; None where there is no place for one (no home directory)
    limit  bytes beyond which what was used longest ago is removed, about; 0: everything stays
    """

    def __init__(self, root: str | os.PathLike[str] | None, limit: int = 0):
        self.root = _resolve_root(root)
        self.limit = limit
        self._home = self.root / FORMAT if self.root else None
        self._degraded = False
        self._tidied = False
        self._lock = threading.Lock()
        self._verified: dict[Path, tuple[int, int, int]] = {}  # what path() has checked, by inode, time and size
        self._distrusted: set[Path] = set()  # damaged, but not ours to remove
        self._in_use: set[Path] = set()  # what this process has read or written

    def put(self, kind: str, key: str, data: bytes) -> Path:
        """Write an entry and return its file. Raises StoreError only where no directory at all takes it."""
        _check_name(kind, key)
        sealed = data + _make_trailer(kind, key, data)
        home = self._writable_home()
        if home is not None:
            try:
                path = self._write(home, kind, key, sealed)
            except OSError as error:
                self._degrade(error)
            else:
                self._in_use.add(path)
                if self.limit and _draw(len(sealed) * SWEEPS / self.limit):
                    self.sweep()
                return path
        try:
            return self._write(_make_process_home(os.getpid()), kind, key, sealed)
        except OSError as error:
            hint = "free some space there, or set TMPDIR to a directory that can be written"
            raise StoreError(f"cannot keep {len(data)} bytes: {error}", path=tempfile.tempdir, hint=hint) from error

    def get(self, kind: str, key: str) -> bytes | None:
        """Return an entry's content, or None where there is none that is whole."""
        _check_name(kind, key)
        for home in self._homes():
            path = _place(home, kind, key)
            data = self._read(path, kind, key)
            if data is not None:
                self._mark(path)
                return data
        return None

    def path(self, kind: str, key: str) -> Path | None:
        """Return the file of an entry, to be loaded in place; checked once per process, and again when it changed."""
        _check_name(kind, key)
        for home in self._homes():
            path = _place(home, kind, key)
            stamp = _stamp(path)
            if stamp is not None and self._verified.get(path) == stamp:
                return path
            if self._read(path, kind, key) is None:
                continue
            if stamp is not None:
                self._verified[path] = stamp
            self._mark(path)
            return path
        return None

    def put_json(self, kind: str, key: str, value: Any) -> Path:
        """Write a value of plain JSON types. Raises StoreError for others."""
        try:
            text = json.dumps(value, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise StoreError(f"{kind} {key} is no JSON: {error}", path=self.root, hint="make it plain data") from error
        return self.put(kind, key, text.encode())

    def get_json(self, kind: str, key: str) -> Any | None:
        """Return a value written by `put_json`, or None."""
        data = self.get(kind, key)
        if data is None:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(f"{kind} {key} is no JSON: {error}", path=self.root, hint="read it with get()") from error

    def entries(self) -> Iterator[Entry]:
        """List what is stored, unchecked, in the order of kind and key."""
        for home in self._homes():
            for path in [path for kind in _list(home) for shelf in _list(kind) for path in _list(shelf)]:
                kind, key = path.parts[-3], path.name
                stat = _stat(path)
                if stat is not None and _is_name(kind, key) and path == _place(home, kind, key):
                    size = max(stat.st_size - TRAILER_BYTES, 0)
                    yield Entry(kind, key, path, size, stat.st_mtime, max(stat.st_atime, stat.st_mtime))

    def verify(self) -> list[Entry]:
        """Check every entry; remove the damaged ones and return them."""
        return [entry for entry in self.entries() if self._read(entry.path, entry.kind, entry.key) is None]

    def measure_size(self) -> dict[str, int]:
        """Return the bytes stored of each kind."""
        sizes: dict[str, int] = {}
        for entry in self.entries():
            sizes[entry.kind] = sizes.get(entry.kind, 0) + entry.size
        return sizes

    def clear(self, kind: str | None = None) -> int:
        """Remove all entries (of one kind) and return how many went. Libraries that are loaded stay usable."""
        removed = [_remove(entry.path) for entry in list(self.entries()) if kind in (None, entry.kind)]
        if self._home is not None:
            _remove_stale(self._home / "tmp")
        return sum(removed)

    def sweep(self) -> int:
        """Remove what was used longest ago until the store is within its limit; return how many entries went."""
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        excess = sum(entry.size + TRAILER_BYTES for entry in entries) - self.limit
        if excess <= 0:
            return 0
        excess += self.limit // SWEEPS
        removed = 0
        for entry in entries:
            if excess <= 0 or entry.used > time.time() - GRACE_SECONDS:
                break
            if entry.path in self._in_use:
                continue
            stat = _stat(entry.path)
            if stat is not None and max(stat.st_atime, stat.st_mtime) != entry.used:
                continue  # somebody uses it now, or has written it again
            if stat is None or _remove(entry.path):  # gone already: another sweep is at work
                excess -= entry.size + TRAILER_BYTES
                removed += stat is not None
        return removed

    @property
    def degraded(self) -> bool:
        """Whether the directory has failed us, so that what is written leaves with this process."""
        return self._degraded

    def _homes(self) -> list[Path]:
        """List where to look: the directory, also when it cannot be written, then this process's own."""
        homes = [self._home] if self._home else []
        if not self._degraded:
            return homes
        try:
            return [*homes, _make_process_home(os.getpid())]
        except OSError:  # no place for it either; put says so
            return homes

    def _writable_home(self) -> Path | None:
        """Return the directory while it serves. The first call of all removes what killed writers left behind."""
        if self._home is None:
            self._degrade(OSError("there is no home directory; set TREADLE_CACHE_DIR"))
            return None
        if not self._tidied:
            self._tidied = True
            _remove_stale(self._home / "tmp")
        return None if self._degraded else self._home

    def _write(self, home: Path, kind: str, key: str, sealed: bytes) -> Path:
        path = _place(home, kind, key)
        for attempt in range(WRITE_ATTEMPTS):
            try:
                _write_atomic(home / "tmp", path, sealed)
                break
            except FileNotFoundError:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
        self._distrusted.discard(path)
        return path

    def _read(self, path: Path, kind: str, key: str) -> bytes | None:
        """Read and check one file; remove it where it is damaged."""
        if path in self._distrusted:
            return None
        try:
            with open(path, "rb") as file:
                sealed, inode = file.read(), os.fstat(file.fileno()).st_ino
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if not _remove(path):
                self._distrusted.add(path)
                self._degrade(error)
            return None
        data = sealed[:-TRAILER_BYTES]
        if sealed[-TRAILER_BYTES:] == _make_trailer(kind, key, data):
            return data
        self._discard(path, inode)
        return None

    def _mark(self, path: Path) -> None:
        """Note that an entry is in use: here, and for the other processes at its file."""
        if path in self._in_use:
            return
        self._in_use.add(path)
        stat, now = _stat(path), time.time_ns()
        if stat is not None and now - stat.st_atime_ns > MARK_SECONDS * 1e9:
            with contextlib.suppress(OSError):  # a store that others keep
                os.utime(path, ns=(now, stat.st_mtime_ns))

    def _discard(self, path: Path, inode: int) -> None:
        # A writer may have put a whole entry there meanwhile: that one is not the file we read.
        stamp = _stamp(path)
        if stamp is None or stamp[0] != inode:
            return
        removed = _remove(path)
        if not removed:
            self._distrusted.add(path)
        log.warning("treadle: %s is damaged (its digest does not match): %s, and made again when needed",
                    path, "removed" if removed else "ignored")  # fmt: skip

    def _degrade(self, error: OSError) -> None:
        with self._lock:
            if self._degraded:
                return
            self._degraded = True
        reason = error.strerror or str(error)
        log.warning("treadle: the cache %s cannot be used (%s): what is compiled is kept for this process only",
                    self.root or "directory", reason)  # fmt: skip


def make_key(*parts: object) -> str:
    """Return the SHA-256, as 64 hex digits, of texts, bytes, numbers, None, and of tuples, lists and dicts of these.

    Types and lengths are part of it: ("ab", "c"), ("a", "bc"), ("a", ("bc",)) and (1, True) all differ. Raises
    StoreError for other types, whose text need not say all that they are.
    """
    hasher = hashlib.sha256()
    _feed(hasher, parts)
    return hasher.hexdigest()


def _feed(hasher: Any, part: object) -> None:
    match part:
        case str():
            tag, data = "s", part.encode(errors="surrogatepass")
        case bytes():
            tag, data = "y", part
        case None | bool() | int():
            tag, data = type(part).__name__, str(part).encode()
        case float():
            tag, data = "f", part.hex().encode()
        case tuple() | list():
            hasher.update(f"({len(part)}:".encode())
            for item in part:
                _feed(hasher, item)
            return
        case dict() if all(isinstance(name, str) for name in part):
            hasher.update(b"{")
            _feed(hasher, sorted(part.items()))
            return
        case _:
            hint = "turn it into text, numbers or tuples that say all that matters"
            raise StoreError(f"no key from a {type(part).__name__}: {part!r}", path="make_key", hint=hint)
    hasher.update(f"{tag}{len(data)}:".encode())
    hasher.update(data)


def _resolve_root(root: str | os.PathLike[str] | None) -> Path | None:
    """Return the directory, or None where it stands in a home directory and there is none."""
    if root is None:
        return None
    try:
        path = Path(root).expanduser().absolute()
    except (RuntimeError, OSError):  # no home directory is known, or the working directory is gone
        return None
    return None if "~" in path.parts else path


@cache
def _make_process_home(pid: int) -> Path:
    """Make the directory of one process. A forked child makes its own, since its parent's leaves with the parent."""
    home = Path(tempfile.mkdtemp(prefix="treadle-store-"))

    def remove() -> None:
        if os.getpid() == pid:
            shutil.rmtree(home, ignore_errors=True)

    atexit.register(remove)
    return home


def _is_name(kind: str, key: str) -> bool:
    return KIND.fullmatch(kind) is not None and KEY.fullmatch(key) is not None


def _check_name(kind: str, key: str) -> None:
    if not _is_name(kind, key):
        hint = "a kind is a lower-case word other than tmp, a key comes from make_key"
        raise StoreError(f"no such entry name: kind {kind!r}, key {key!r}", path="store", hint=hint)


def _place(home: Path, kind: str, key: str) -> Path:
    return home / kind / key[:2] / key


def _make_trailer(kind: str, key: str, data: bytes) -> bytes:
    hasher = hashlib.sha256(f"{kind}\0{key}\0{len(data)}\0".encode())
    hasher.update(data)
    return TRAILER_START + hasher.hexdigest().encode() + b"\n"


def _list(folder: Path) -> list[Path]:
    """List a folder in order; empty where it is none, or cannot be read (Path.glob would raise)."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return (inode, modification time in ns, size in bytes), which every rewriting changes; None if unreadable."""
    stat = _stat(path)
    return None if stat is None else (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _draw(chance: float) -> bool:
    """Win by lot; the generators that the user's program draws from stay as they are."""
    return int.from_bytes(os.urandom(4)) < chance * 2**32


def _write_atomic(scratch: Path, path: Path, data: bytes) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = scratch / f"{os.getpid()}-{os.urandom(8).hex()}"
    try:
        # "x" and the usual umask: a cache filled while an image is built serves other users of that image.
        with open(partial, "xb") as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _remove_stale(scratch: Path) -> None:
    """Remove files that no writer has touched for an hour."""
    oldest = (time.time() - STALE_SECONDS) * 1e9
    for path in _list(scratch):
        stamp = _stamp(path)
        if stamp is not None and stamp[1] < oldest:
            _remove(path)
