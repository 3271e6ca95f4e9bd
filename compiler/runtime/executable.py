"""A plan bound to its libraries: what a call of a compiled graph runs.

A *fit* is the table of one call and its tensors on the arena: `(T, tensors...)`. A call takes one and puts it back;
where there is none (the first call, a second thread, a callee that calls again) it makes one, with an arena of its own.
With dynamic sizes the arena belongs to a `Frame`, which keeps the fits of the sizes seen last.
"""

from __future__ import annotations

import ctypes
import math
import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._C._dynamo import guards

from ...ir.errors import CompileError, LoweringError
from .build import LIBRARY, load_library
from .cpu import count_cores
from .large import empty_large, make_storage
from .plan import RUNNER, LaunchCode, Plan, encode_segment
from .store import Store

ALIGNMENT = 64
MOST_FITS = 16  # sizes whose fits a frame remembers

Fit = tuple[Any, ...]
ERRORS: dict[str, type[Exception]] = {"IndexError": IndexError, "RuntimeError": RuntimeError}


def _empty_strided(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype)


def _reinterpret(x: torch.Tensor, shape: Sequence[int], strides: Sequence[int], offset: int) -> torch.Tensor:
    return torch.as_strided(x, shape, strides, x.storage_offset() + offset)


# Quicker than torch.empty_strided and torch.as_strided, where this torch has them: Inductor's plans call them too.
_empty_strided_cpu = getattr(guards, "_empty_strided_cpu", _empty_strided)
_reinterpret_tensor = getattr(guards, "_reinterpret_tensor", _reinterpret)


@dataclass
class Executable:
    """A compiled graph. `call` takes a list of inputs, which it empties, and returns the list of outputs.

    functions  the address of each kernel of the plan
    runner     the C function that runs a segment
    constants  the tensors of the fx module, as the plan lists them
    objects    Python objects that the plan's calls name
    stash      errors of Python functions that stand in for kernels, to be raised when the segment ends
    """

    plan: Plan
    functions: list[int]
    runner: Callable[[Any, Any], int] | None
    constants: Sequence[torch.Tensor] = ()
    objects: Mapping[str, Any] = field(default_factory=dict)
    stash: list[BaseException] = field(default_factory=list)
    keep_alive: tuple[Any, ...] = ()
    report: Any = None
    call: Callable[[list[Any]], list[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = [self._encode(segment) for segment in self.plan.segments]
        self.free: list[Any] = []
        namespace = self._namespace()
        exec(compile(self.plan.text, f"<treadle plan {self.plan.name}>", "exec"), namespace)
        self.measure, self.views = namespace["measure"], namespace["views"]
        self.call = namespace["call"]
        self.call._boxed_call = True  # type: ignore[attr-defined]
        self.call.executable = self  # type: ignore[attr-defined]

    def __call__(self, *inputs: Any) -> list[Any]:
        return self.call(list(inputs))

    def set_function(self, kernel: int, address: int) -> None:
        """Let other code stand for a kernel from now on."""
        self.functions[kernel] = address
        for code, segment in zip(self.codes, self.plan.segments, strict=True):
            words = encode_segment(segment, self.functions)
            code[:] = words

    def new_fit(self) -> Any:
        frame = Frame(self)
        return frame if self.plan.symbols else frame.make(())

    def _encode(self, segment: tuple[LaunchCode, ...]) -> Any:
        words = encode_segment(segment, self.functions)
        return (ctypes.c_long * len(words))(*words)

    def _namespace(self) -> dict[str, Any]:
        names: dict[str, Any] = {f"_s{k}": code for k, code in enumerate(self.codes)}
        names |= {c.variable: t for c, t in zip(self.plan.constants, self.constants, strict=True)}
        return names | {
            "_run": self.runner, "_fail": self._fail, "_free": self.free, "_new_fit": self.new_fit,
            "_struct": struct.Struct, "_threads": torch.get_num_threads,
            "_empty": _empty_strided_cpu, "_large": empty_large, "_view": _reinterpret_tensor,
            "_copy": copy_as,
            "objects": self.objects, "aten": torch.ops.aten, "ops": torch.ops,
            "torch": torch, "operator": operator, "math": math,
        }  # fmt: skip

    def _fail(self, segment: int, code: int) -> None:
        """Raise what the kernel met: a bad index, or the error of a Python function that stands in for it."""
        if self.stash:
            raise self.stash.pop()
        launch = self.plan.segments[segment][(code >> 16) - 1]
        kernel = self.plan.kernels[launch.kernel]
        which = (code & 0xFFFF) - 1
        name, text = kernel.reasons[which] if 0 <= which < len(kernel.reasons) else ("IndexError", "index out of range")
        raise ERRORS[name](text)


class Frame(dict[tuple[int, ...], Fit]):
    """An arena, and the fits on it by sizes."""

    def __init__(self, executable: Executable) -> None:
        self.executable = executable
        self.arena = torch.empty(0, dtype=torch.uint8)

    def make(self, sizes: tuple[int, ...]) -> Fit:
        """The fit of these sizes; where the arena must grow, those on the old one go."""
        exe, plan = self.executable, self.executable.plan
        used, workspace, offsets = exe.measure(*sizes)
        workspace = -(-workspace // ALIGNMENT) * ALIGNMENT
        most_threads = max(torch.get_num_threads(), count_cores())
        # Grad and inference mode are the caller's; what outlives the call must not take part in either.
        with torch.inference_mode(False), torch.no_grad():
            self._reserve(used + workspace * most_threads)
            base = self.arena.data_ptr()
            table = (ctypes.c_void_p * plan.words)()
            table[0] = base + used
            table[1] = most_threads
            for k, size in enumerate(sizes):
                table[plan.sizes + k] = size
            for word, offset in zip(plan.fixed, offsets, strict=True):
                if word >= 0:
                    table[word] = base + offset
            for constant, tensor in zip(plan.constants, exe.constants, strict=True):
                if constant.word >= 0:
                    table[constant.word] = tensor.data_ptr()
            views = exe.views(self._make_at(offsets), *sizes)
        table.arena = self.arena  # type: ignore[attr-defined]
        fit = self[sizes] = (table, *views)
        return fit

    def _reserve(self, size: int) -> None:
        if len(self) >= MOST_FITS:
            self.clear()
        if self.arena.numel() < size:
            self.clear()
            self.arena = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
            self.arena = torch.empty(0, dtype=torch.uint8).set_(make_storage(size))
            if self.arena.data_ptr() % ALIGNMENT:
                raise LoweringError("torch's memory is not aligned", expected=f"{ALIGNMENT} bytes")

    def _make_at(self, offsets: Sequence[int]) -> Callable[..., torch.Tensor]:
        storage = self.arena.untyped_storage()

        def at(number: int, dtype: torch.dtype, shape: Any, strides: Any, offset: int) -> torch.Tensor:
            start = offsets[number] // dtype.itemsize + offset
            return torch.empty(0, dtype=dtype).set_(storage, start, shape, strides)

        return at


def bind_runner(library: ctypes.CDLL) -> Callable[[Any, Any], int]:
    """The function of a library that runs segments; it is given arrays, so no argument is converted."""
    return getattr(library, RUNNER)


def copy_as(tensor: torch.Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
    """A copy with other strides."""
    return _empty_strided_cpu(shape, strides, tensor.dtype).copy_(tensor)


def read_attribute(module: Any, path: str) -> Any:
    """The value of a dotted attribute, as `get_attr` nodes name it."""
    return operator.attrgetter(path)(module)


def bind_stored(plan: Plan, module: Any, store: Store) -> Executable | None:
    """A plan from the store with its libraries; None where one of them is gone or cannot be loaded any more."""
    libraries: dict[str, ctypes.CDLL] = {}
    for name in dict.fromkeys(k.library for k in plan.kernels):
        path = store.path(LIBRARY, name)
        if path is None:
            return None
        try:
            libraries[name] = load_library(path)
        except CompileError:
            return None
    functions = [address_of(getattr(libraries[k.library], k.symbol)) for k in plan.kernels]
    runner = bind_runner(next(iter(libraries.values()))) if libraries else None
    constants = [read_attribute(module, c.attribute) for c in plan.constants]
    return Executable(plan, functions, runner, constants, keep_alive=tuple(libraries.values()))


def address_of(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address
