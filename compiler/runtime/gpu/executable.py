"""A plan whose kernels run on a GPU: streams for threads, the device's memory for arenas, its functions in handles."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ....codegen.triton.launcher import DRIVER_ERROR
from ....ir.errors import CompileError, DeviceError
from ..build import LIBRARY, load_library
from ..executable import Executable, address_of, make_error, read_attribute
from ..plan import KernelCode, Plan
from ..runner import bind_runner
from ..store import Entries, Store
from .device import Device, DeviceArena, find_arenas, find_device
from .driver import Driver, Function, open_driver
from .graphs import Recorder

BINARY = "cubin"  # kind of the store's entries
ANY_STREAM = 1 << 62


@dataclass
class GpuExecutable(Executable):
    """See `Executable`. `device` is where it runs; `cells` has one number a kernel, for bad indices.

    replays  whether it is captured as a CUDA graph, where its plan may be: see `graphs`

    A kernel that meets an index out of range leaves what the index names alone and goes on; its next call raises, since
    asking at once would wait for the device. So does eager PyTorch, whose process can then only be ended.
    """

    device: Device = field(default_factory=lambda: find_device(0))
    cells: torch.Tensor | None = None
    replays: bool = False
    recorder: Recorder | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replays and not self.plan.uncapturable:
            self._take_recorder()
        for name in ("call", "direct"):
            function = getattr(self, name)
            if function is not None:
                setattr(self, name, self._guarded(function))

    def _take_recorder(self) -> None:
        recorder = Recorder(self.device, self.call, self._record, self._check_indices, self.plan.written)
        self.recorder = recorder
        self.call = recorder
        if self.direct is not None:
            self.direct = lambda *inputs: recorder(list(inputs))

    def _record(self, arenas: list[Any], inputs: list[Any]) -> list[Any]:
        """One run of the plan that works in arenas of the caller's."""
        namespace: dict[str, Any] = {**self._namespace(), "_arenas": arenas}
        exec(compile(self.plan.text, f"<treadle plan {self.plan.name}, captured>", "exec"), namespace)
        return namespace["call"](inputs)

    def _check_indices(self) -> None:
        """Raise what a replay has met: there, no launcher looks at the cells."""
        for k, kernel in enumerate(self.plan.kernels):
            if kernel.reasons and self.cells is not None and (bad := int(self.cells[k])):
                self.cells[k] = 0
                raise make_error(kernel, bad - 1)

    def count_workers(self) -> int:
        return 1

    def room(self, workers: int = 1) -> int:
        return ANY_STREAM

    def _namespace(self) -> dict[str, Any]:
        return super()._namespace() | {
            "_threads": self.device.stream,
            "_empty": self.device.empty_strided,
            "_arenas": find_arenas(self.device),
            "_new_arena": partial(DeviceArena, self.device),
            "_copy": partial(_copy_as, self.device),
        }

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function on the plan's device, whichever is the caller's."""
        device = self.device

        def call(*args: Any) -> Any:
            if device.is_current():
                return function(*args)
            with device.guard():
                return function(*args)

        call._boxed_call = True  # type: ignore[attr-defined]
        call.executable = self  # type: ignore[attr-defined]
        return call

    def _fail(self, segment: int, code: int) -> None:
        launch = self.plan.segments[segment][(code >> 16) - 1]
        kernel, error = self.plan.kernels[launch.kernel], code & 0xFFFF
        if self.stash:
            raise self.stash.pop()
        if error >= DRIVER_ERROR:
            raise DeviceError(open_driver().describe_error(error - DRIVER_ERROR), where=f"launching {kernel.symbol}")
        if self.cells is not None:
            self.cells[launch.kernel] = 0
        raise make_error(kernel, error - 1)


def _copy_as(device: Device, tensor: torch.Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
    """A copy with other strides."""
    return device.empty_strided(shape, strides, tensor.dtype).copy_(tensor)


def device_of(plan: Plan) -> Device:
    return find_device(torch.device(plan.device).index or 0)


StandIn = Callable[[int, DeviceError | None], Any]  # the kernel's number, and why it does not load -> its function
_functions: dict[tuple[Device, str], Function] = {}  # what this process has loaded: by device and the binary's key


def bind_kernels(
    kernels: Sequence[KernelCode], store: Entries, device: Device, cells: torch.Tensor,
    stand_in: StandIn | None = None,
) -> tuple[list[int], list[Any]]:  # fmt: skip
    """The launchers' addresses, and the libraries that they are in, with the device's functions in their handles.

    `stand_in` gives another function for a kernel that has no library, or whose binary the driver refuses; without it
    raises DeviceError where the driver refuses a binary, CompileError where a library or a binary is gone.
    """
    driver = open_driver()
    addresses: list[int] = []
    libraries: list[Any] = []
    with device.guard():
        for number, kernel in enumerate(kernels):
            if stand_in is not None and not kernel.library:
                addresses.append(address_of(stand_in(number, None)))
                continue
            path = store.path(LIBRARY, kernel.library)
            if path is None:
                raise CompileError("a library of the store is gone", source=kernel.library)
            library = load_library(path)
            libraries.append(library)
            try:
                _fill_handles(kernel, library, store, device, driver, cells[number].data_ptr())
            except DeviceError as error:
                if stand_in is None:
                    raise
                addresses.append(address_of(stand_in(number, error)))
            else:
                addresses.append(address_of(getattr(library, kernel.symbol)))
    return addresses, libraries


def _fill_handles(
    kernel: KernelCode, library: ctypes.CDLL, store: Entries, device: Device, driver: Driver, cell: int
) -> None:
    count = 2 * len(kernel.functions) + 2
    handles = (ctypes.c_long * count).in_dll(library, f"{kernel.symbol}_handles")
    handles[0], handles[count - 1] = driver.launch_address, cell
    for k, f in enumerate(kernel.functions):
        for odd, key in enumerate((f.aligned, f.any)):
            found = _functions.get((device, key))
            if found is None:
                code = store.get(BINARY, key)
                if code is None:
                    raise CompileError("a binary of the store is gone", source=key)
                found = _functions[device, key] = driver.load(code, f.name, f.shared)
            handles[1 + 2 * k + odd] = found.handle


def bind_gpu_plan(
    plan: Plan, store: Entries, constants: Sequence[torch.Tensor], objects: Mapping[str, Any] | None = None, *,
    replays: bool = False, stand_in: StandIn | None = None, runner_path: Callable[[], Path] | None = None,
    stash: list[BaseException] | None = None,
) -> GpuExecutable:  # fmt: skip
    """A plan with its libraries and binaries. Raises CompileError where one of them is gone.

    stand_in     see `bind_kernels`; its errors go into `stash`
    runner_path  the library of the runner, where no kernel has one
    """
    device = device_of(plan)
    cells = device.mapped_cells(max(len(plan.kernels), 1))
    functions, libraries = bind_kernels(plan.kernels, store, device, cells, stand_in)
    if not libraries and plan.kernels and runner_path is not None:
        libraries.append(load_library(runner_path()))
    runner = bind_runner(libraries[0]) if libraries else None
    kept = tuple(libraries)
    return GpuExecutable(
        plan, functions, runner, constants, objects or {}, [] if stash is None else stash, keep_alive=kept,
        device=device, cells=cells, replays=replays
    )  # fmt: skip


def bind_stored_gpu(plan: Plan, module: Any, store: Store, *, replays: bool = False) -> GpuExecutable | None:
    """A plan from the store; None where something that it needs is gone, or the driver refuses it."""
    try:
        constants = [read_attribute(module, c.attribute) for c in plan.constants]
        return bind_gpu_plan(plan, store, constants, replays=replays)
    except (CompileError, DeviceError):
        return None
