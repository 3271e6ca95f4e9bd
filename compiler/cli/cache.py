"""`treadle cache list | verify | clear`: what is stored, whether it is whole, and a fresh start."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from ...ir.errors import BadInput, StoreError, suggest
from ..runtime.store import Entry, Store
from ..settings import settings
from .display import Steps, format_bytes, format_count, make_console, make_table

KEY_SHOWN = 16
MEANINGS = {
    "plan": "whole graphs: what to launch and where its buffers lie",
    "kernel": "which library a kernel is in",
    "so": "compiled kernels",
    "sources": "digests of treadle's own code",
    "compiler": "compilers' versions",
    "bandwidth": "measured copy bandwidth",
    "failed": "sources that a compiler refused",
}


def run(args: argparse.Namespace) -> int:
    store = Store(settings.cache_dir, settings.cache_size)
    actions = {"list": list_entries, "verify": verify_entries, "clear": clear_entries}
    return actions[args.action](store, args)


def list_entries(store: Store, args: argparse.Namespace) -> int:
    entries = sorted(store.entries(), key=lambda entry: -entry.modified)
    if args.json:
        print(json.dumps([describe_entry(entry) for entry in entries], indent=1))
        return 0
    console = make_console()
    console.print(Text(str(store.root or "no directory"), "bold"))
    if not entries:
        console.print("nothing is stored yet")
        return 0
    table = _tabulate_each(entries) if args.all else _tabulate_kinds(entries)
    console.print(table)
    limit = f" of {format_bytes(store.limit)}" if store.limit else ", without a limit"
    console.print(f"{format_bytes(sum(entry.size for entry in entries))}{limit}")
    return 0


def verify_entries(store: Store, args: argparse.Namespace) -> int:
    with Steps() as steps:
        steps.begin(f"reading {store.root}")
        count = sum(1 for _ in store.entries())
        damaged = store.verify()
    console = make_console()
    for entry in damaged:
        console.print(f"{entry.kind} {entry.key[:KEY_SHOWN]} was damaged: removed, and made again when needed")
    whole = format_count(count - len(damaged), "entry is", "entries are")
    console.print(f"{whole} whole, {len(damaged)} damaged")
    return 1 if damaged else 0


def clear_entries(store: Store, args: argparse.Namespace) -> int:
    found = [entry for entry in store.entries() if args.kind in (None, entry.kind)]
    if args.kind is not None and not found:
        hint = suggest(args.kind, sorted(store.measure_size())) or "the store is empty"
        raise BadInput("nothing of this kind is stored", got=args.kind, hint=hint)
    with Steps() as steps:
        steps.begin(f"clearing {store.root}")
        removed = store.clear(args.kind)
    left = [entry for entry in store.entries() if args.kind in (None, entry.kind)]
    if left:
        entries = format_count(len(left), "entry", "entries")
        raise StoreError(f"{entries} could not be removed", path=store.root, hint="they may belong to another user")
    freed = format_bytes(sum(entry.size for entry in found))
    make_console().print(f"{format_count(removed, 'entry', 'entries')} removed, {freed}")
    return 0


def describe_entry(entry: Entry) -> dict[str, object]:
    return {"kind": entry.kind, "key": entry.key, "path": str(entry.path), "bytes": entry.size,
            "modified": _format_moment(entry.modified), "used": _format_moment(entry.used)}  # fmt: skip


def _format_moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _tabulate_kinds(entries: Iterable[Entry]) -> Table:
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry)
    table = make_table("kind", "entries", "size", "newest", "what it is", right=("entries", "size"))
    for kind, found in sorted(kinds.items()):
        newest = format_age(max(entry.modified for entry in found))
        size = format_bytes(sum(entry.size for entry in found))
        table.add_row(kind, str(len(found)), size, newest, MEANINGS.get(kind, ""))
    return table


def _tabulate_each(entries: Iterable[Entry]) -> Table:
    table = make_table("kind", "key", "size", "written", "used", right=("size",))
    for entry in entries:
        ages = format_age(entry.modified), format_age(entry.used)
        table.add_row(entry.kind, entry.key[:KEY_SHOWN], format_bytes(entry.size), *ages)
    return table


def format_age(moment: float) -> str:
    """Seconds since the epoch -> "12 min ago"."""
    age = max(0.0, time.time() - moment)
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if age >= 2 * size:
            return f"{age / size:.0f} {unit} ago"
    return "just now"
