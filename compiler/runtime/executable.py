"""A plan bound to its libraries: what a call of a compiled graph runs."""

from __future__ import annotations

import ctypes
import itertools
import math
import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._C._dynamo import guards

from ...ir.errors import CompileError
from .arena import ALIGNMENT, ARENAS, USERS, Arena, Fit
from .build import LIBRARY, load_library
from .cpu import count_cores
from .large import empty_large
from .plan import KernelCode, Plan, encode_segment
from .runner import Runner, Segment, bind_runner, encode
from .store import Store

MOST_THREADS = 1 << 20  # of a plan whose kernels need no workspace
_numbers = itertools.count(1)
ERRORS: dict[str, type[Exception]] = {"IndexError": IndexError, "RuntimeError": RuntimeError}


def _empty_strided(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype)


def _reinterpret(x: torch.Tensor, shape: Sequence[int], strides: Sequence[int], offset: int) -> torch.Tensor:
    return torch.as_strided(x, shape, strides, x.storage_offset() + offset)


# Quicker than torch.empty_strided and torch.as_strided, where this torch has them: Inductor's plans call them too.
_empty_strided_cpu = getattr(guards, "_empty_strided_cpu", _empty_strided)
reinterpret_tensor = getattr(guards, "_reinterpret_tensor", _reinterpret)


@dataclass
class Executable:
    """A compiled graph. `call` takes a list of inputs, which it empties, and returns the list of outputs.

    functions  the address of each kernel of the plan
    runner     binds the C function that runs a segment; None where there are no kernels
    direct     takes the inputs one by one; None where ATen runs too, which would see the caller's grad mode
    constants  the tensors of the fx module, as the plan lists them
    objects    Python objects that the plan's calls name
    stash      errors of Python functions that stand in for kernels, to be raised when the segment ends
    """

    plan: Plan
    functions: list[int]
    runner: Callable[[Segment], Runner] | None
    constants: Sequence[torch.Tensor] = ()
    objects: Mapping[str, Any] = field(default_factory=dict)
    stash: list[BaseException] = field(default_factory=list)
    keep_alive: tuple[Any, ...] = ()
    report: Any = None
    call: Callable[[list[Any]], list[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.segments = self._encode_segments()
        self.number = next(_numbers)
        USERS.enter()
        weakref.finalize(self, USERS.leave)
        namespace = self._namespace()
        exec(compile(self.plan.text, f"<treadle plan {self.plan.name}>", "exec"), namespace)
        self.measure, self.views = namespace["measure"], namespace["views"]
        self.direct: Callable[..., list[Any]] | None = namespace.get("direct")
        self.call = namespace["call"]
        self.call._boxed_call = True  # type: ignore[attr-defined]
        self.call.executable = self  # type: ignore[attr-defined]

    def __call__(self, *inputs: Any) -> list[Any]:
        return self.call(list(inputs))

    def set_function(self, kernel: int, address: int) -> None:
        """Let other code stand for a kernel from now on."""
        self.functions[kernel] = address
        for segment, launches in zip(self.segments, self.plan.segments, strict=True):
            segment.set_launches(encode_segment(launches, self.functions))

    def make_fit(self, arena: Arena, *sizes: int) -> Fit:
        """Prepare a table and tensors on an arena for these sizes."""
        plan = self.plan
        used, workspace, offsets = self.measure(*sizes)
        workspace = -(-workspace // ALIGNMENT) * ALIGNMENT
        workers = self.count_workers()
        # Grad and inference mode are the caller's; what outlives the call must not take part in either.
        with torch.inference_mode(False), torch.no_grad():
            arena.reserve(used + workspace * workers)
            base = arena.base
            table = self._make_table(self.room(workers))
            table[0] = base + used
            for k, size in enumerate(sizes):
                table[plan.sizes + k] = size
            for word, offset in zip(plan.fixed, offsets, strict=True):
                if word >= 0:
                    table[word] = base + offset
            tensors = self.views(_make_at(arena, offsets), *sizes)
        return arena.keep((self.number, *sizes) if sizes else self.number, (ctypes.addressof(table), table, *tensors))

    def count_workers(self) -> int:
        """How many threads of a kernel have a workspace of their own."""
        return max(torch.get_num_threads(), count_cores())

    def room(self, workers: int = MOST_THREADS) -> int:
        """The greatest value that word 2 of a table may pass on."""
        return workers

    def _make_table(self, room: int) -> Any:
        table = (ctypes.c_void_p * self.plan.words)()
        table[1] = room
        for constant, tensor in zip(self.plan.constants, self.constants, strict=True):
            if constant.word >= 0:
                table[constant.word] = tensor.data_ptr()
        return table

    def _encode_segments(self) -> list[Segment]:
        template = self._make_table(self.room())
        return [
            encode(template, start, encode_segment(launches, self.functions), is_first=number == 0)
            for number, (start, launches) in enumerate(zip(self.plan.starts, self.plan.segments, strict=True))
        ]

    def _namespace(self) -> dict[str, Any]:
        runner = self.runner
        names: dict[str, Any] = {f"_s{k}": runner(s) for k, s in enumerate(self.segments)} if runner else {}
        names |= {c.variable: t for c, t in zip(self.plan.constants, self.constants, strict=True)}
        return names | {
            "_fail": self._fail, "_me": self.number, "_fit": self.make_fit,
            "_arenas": ARENAS, "_new_arena": Arena,
            "_threads": torch.get_num_threads,
            "_empty": _empty_strided_cpu, "_large": empty_large, "_view": reinterpret_tensor,
            "_copy": copy_as,
            "objects": self.objects, "aten": torch.ops.aten, "ops": torch.ops,
            "torch": torch, "operator": operator, "math": math,
        }  # fmt: skip

    def _fail(self, segment: int, code: int) -> None:
        """Raise what the kernel met: a bad index, or the error of a Python function that stands in for it."""
        if self.stash:
            raise self.stash.pop()
        launch = self.plan.segments[segment][(code >> 16) - 1]
        raise make_error(self.plan.kernels[launch.kernel], (code & 0xFFFF) - 1)


def make_error(kernel: KernelCode, which: int) -> Exception:
    """What eager raises where data index number `which` of a kernel is out of range."""
    name, text = kernel.reasons[which] if 0 <= which < len(kernel.reasons) else ("IndexError", "index out of range")
    return ERRORS[name](text)


def _make_at(arena: Arena, offsets: Sequence[int]) -> Callable[..., torch.Tensor]:
    """Makes tensors on an arena: `at(number of the value, dtype, shape, strides, offset in elements)`."""
    storage = arena.memory.untyped_storage()
    first = arena.base - arena.memory.data_ptr()

    def at(number: int, dtype: torch.dtype, shape: Any, strides: Any, offset: int) -> torch.Tensor:
        start = (first + offsets[number]) // dtype.itemsize + offset
        return torch.empty(0, dtype=dtype, device=storage.device).set_(storage, start, shape, strides)

    return at


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
