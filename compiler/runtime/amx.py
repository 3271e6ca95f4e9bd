"""The right of this process to tile registers (AMX): Linux keeps them from processes that did not ask for them.

The memory that signals need grows with it, so nobody asks who does not mean to use them. See the kernel's
Documentation/arch/x86/xstate.rst.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

ARCH_PRCTL = 158  # the number of this system call
REQUEST = 0x1023  # ARCH_REQ_XCOMP_PERM
TILE_DATA = 18  # XFEATURE_XTILEDATA


@cache
def allow_tiles() -> bool:
    """Ask for the right, once; False where the system has none to give, or refuses."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    return ctypes.CDLL(None).syscall(*map(ctypes.c_long, (ARCH_PRCTL, REQUEST, TILE_DATA))) == 0
