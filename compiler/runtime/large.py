"""Large outputs: memory that the system would otherwise hand over page by page, and take back, at every call.

malloc maps fresh pages for a tensor and unmaps them when it dies: always from 32 MB on, and for smaller ones whenever
the end of its heap is free. For a kernel bound by memory, the page faults cost as much as the kernel, or several times
that. So two things are done. Fresh memory is asked for in huge pages. And the last tensors of a size are remembered:
when the caller has let go of one (nothing but this module refers to its storage), the next result of that size lies
there. What is remembered is bounded.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

LARGE = 2 << 20  # bytes: below, malloc has the block at hand, and looking here costs more than the pages do (measured)
MOST_KEPT = 256 << 20
PER_SIZE = 8  # a training step holds several, and `y = f(x)` in a loop the old result while it makes the new one
HUGE_PAGE = 2 << 20
MADV_HUGEPAGE = 14


@dataclass(frozen=True, slots=True)
class _Kept:
    """A storage, and how often C++ refers to it while no tensor does."""

    storage: torch.UntypedStorage
    uses: int

    def is_free(self) -> bool:
        """No tensor lies in it, and no name in Python is bound to it but this field (and getrefcount's argument)."""
        return _count_uses(self.storage._cdata) == self.uses and sys.getrefcount(self.storage) == 2


_count_uses: Any = getattr(torch._C, "_storage_Use_Count", None)
_lock = threading.Lock()
_kept: OrderedDict[int, list[_Kept]] = OrderedDict()  # by size in bytes, what was used last at the end


def empty_large(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Like `torch.empty_strided`, for static sizes of at least `LARGE` bytes."""
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    size = span * dtype.itemsize
    with _lock:
        storage = _find_free(size) or _make(size)
        return torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides)


def make_storage(size: int) -> torch.UntypedStorage:
    """Fresh memory, in huge pages where it is worth them."""
    with torch.inference_mode(False):
        storage = torch.empty(size, dtype=torch.uint8).untyped_storage()
    if size >= 2 * HUGE_PAGE:
        ask_for_huge_pages(storage.data_ptr(), size)
    return storage


def ask_for_huge_pages(address: int, size: int) -> None:
    """A wish: a system that cannot grant it does nothing."""
    begin = math.ceil(address / 4096) * 4096
    _madvise(ctypes.c_void_p(begin), ctypes.c_size_t((address + size - begin) // 4096 * 4096), MADV_HUGEPAGE)


def kept_bytes() -> int:
    """What is remembered, in bytes."""
    return sum(size * len(kept) for size, kept in _kept.items())


def release() -> None:
    """Forget all; what callers still hold is theirs."""
    with _lock:
        _kept.clear()


def _find_free(size: int) -> torch.UntypedStorage | None:
    """A remembered storage of this size that only this module refers to."""
    same = _kept.get(size)
    if same is None:
        return None
    _kept.move_to_end(size)
    # A storage that was resized meanwhile is of another size.
    return next((kept.storage for kept in same if kept.is_free() and kept.storage.nbytes() == size), None)


def _make(size: int) -> torch.UntypedStorage:
    storage = make_storage(size)
    if _count_uses is None or 2 * size > MOST_KEPT:
        return storage
    same = _kept.setdefault(size, [])
    del same[: max(0, len(same) - PER_SIZE + 1)]
    while kept_bytes() + size > MOST_KEPT:
        oldest = next(iter(_kept))
        del _kept[oldest][:1]
        if not _kept[oldest]:
            del _kept[oldest]
    _kept.setdefault(size, []).append(_Kept(storage, _count_uses(storage._cdata)))
    return storage


def _find_madvise() -> Any:
    return getattr(ctypes.CDLL(None), "madvise", lambda *unused: 0)


_madvise = _find_madvise()
