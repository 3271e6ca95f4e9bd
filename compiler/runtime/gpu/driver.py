"""The CUDA driver, by ctypes: loading compiled kernels into the context that torch has made, and its errors in words.

Nothing here is imported before a graph has tensors on a GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

from ....ir.errors import DeviceError

LIBRARY = "libcuda.so.1"
SHARED_WITHOUT_ASKING = 48 << 10  # bytes of shared memory that any kernel may have
MOST_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
TOO_OLD = (200, 209, 218, 222)  # an image, a binary, or a PTX version that this driver or device does not take


@dataclass(frozen=True, slots=True)
class Function:
    """A kernel on a device. The module it is of lives as long as the process."""

    handle: int
    name: str


class Driver:
    """The functions of the driver that we call."""

    def __init__(self, library: str) -> None:
        try:
            self.library = ctypes.CDLL(library)
        except OSError as error:
            hint = "install the driver of your GPU; `nvidia-smi` tells whether it works"
            raise DeviceError(f"the CUDA driver does not load: {error}", hint=hint) from error

    @property
    def launch_address(self) -> int:
        """Where cuLaunchKernel is."""
        address = ctypes.cast(self.library.cuLaunchKernel, ctypes.c_void_p).value
        assert address is not None
        return address

    def load(self, code: bytes, name: str, shared: int) -> Function:
        """A function of a binary, in the current context. Raises DeviceError where this driver or device refuses it."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self.library.cuModuleLoadData(ctypes.byref(module), code), f"loading {name}")
        found = self.library.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
        self._check(found, f"finding {name}")
        if shared > SHARED_WITHOUT_ASKING:
            allowed = self.library.cuFuncSetAttribute(function, MOST_SHARED, shared)
            self._check(allowed, f"giving {name} {shared} bytes of shared memory")
        assert function.value is not None
        return Function(function.value, name)

    def version(self) -> int:
        """Of the newest CUDA that the driver knows: 12040 for 12.4."""
        number = ctypes.c_int()
        self._check(self.library.cuDriverGetVersion(ctypes.byref(number)), "asking for the driver's version")
        return number.value

    def describe_error(self, code: int) -> str:
        """The driver's own words."""
        text = ctypes.c_char_p()
        if self.library.cuGetErrorString(code, ctypes.byref(text)) or text.value is None:
            return f"CUDA error {code}"
        return f"CUDA error {code}: {text.value.decode(errors='replace')}"

    def _check(self, code: int, doing: str) -> None:
        if not code:
            return
        hint = "the driver may be older than the CUDA that Triton compiles for: update it" if code in TOO_OLD else ""
        raise DeviceError(f"{self.describe_error(code)}, while {doing}", hint=hint)


@cache
def open_driver() -> Driver:
    """The driver of this machine. Raises DeviceError where there is none."""
    return Driver(LIBRARY)
