"""The most bytes that tensors take during a call, told by the allocator.

torch's profiler sees every block that the CPU allocator hands out and takes back, whoever asks: ATen, Inductor's code,
treadle's plans with their arena and their kept outputs. Only what is allocated under the meter counts, so inputs and
parameters do not. What a backend keeps between calls does: treadle's memory is released first, the call then runs
twice in a row, and the peak is that of both, so that all that the first call left behind is held during the second.
Blocks are counted as they were asked for, without what malloc adds. Constants made in compiling are not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from harness import Call
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from treadle.compiler.runtime import large
from treadle.compiler.runtime.arena import ARENAS

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr whenever it starts and stops
CALLS = 2  # the first makes what is kept, the second holds it


def measure_peak(call: Call) -> int:
    """The most bytes alive at a time within two calls, beyond what was there before. The call must have compiled."""
    release_kept()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for _ in range(CALLS):
            call()
    kineto: Any = seen.profiler
    return find_peak(changes_of(kineto.kineto_results.experimental_event_tree()))


def bytes_of(tensors: Iterable[torch.Tensor | None], beside: Iterable[torch.Tensor] = ()) -> int:
    """What the tensors take together, without those that share their memory with one of `beside`."""
    given = {tensor.untyped_storage()._cdata for tensor in beside}
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors if tensor is not None}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in given)


def release_kept() -> None:
    """Give back what treadle keeps between calls: its arenas and its large outputs."""
    ARENAS.clear()
    large.release()


def changes_of(events: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """(address, bytes) of every block allocated, and (address, -bytes) of every block freed, in the order of time."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event.extra_fields.ptr, event.extra_fields.alloc_size
        yield from changes_of(event.children)


def find_peak(changes: Iterable[tuple[int, int]]) -> int:
    """The largest sum of the blocks alive. Blocks that were there before may be freed, which counts for nothing."""
    alive: dict[int, int] = {}
    total = peak = 0
    for address, size in changes:
        total -= alive.pop(address, 0)
        if size > 0:
            alive[address] = size
            total += size
        peak = max(peak, total)
    return peak
