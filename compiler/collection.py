"""Python's collector of cycles, out of the way while treadle imports and compiles.

What these make stays, and torch's own objects are many: a third of the time that a first small graph takes would go
into walking all of them again and again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collection() -> Iterator[None]:
    """Within the block, cycles are not looked for, unless a block around it, or the program, had seen to that."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
