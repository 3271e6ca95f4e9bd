"""Python functions that stand in for kernels: behind one C signature, ATen computes what a kernel would.

    int kernel(void *const *pointers, const long *sizes, char *workspace, long threads)

Where a kernel cannot be generated or compiled, the graph nodes that it stands for run through ATen instead, with the
same roundings. Under `verify` a kernel first runs side by side with the interpreter, and is replaced where they differ.
Nothing else of a plan knows the difference.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.errors import LoweringError
from ..ir.graph_interp import TORCH_DTYPES, evaluate
from ..ir.loops import Buffer, Kernel
from ..ir.types import Dim
from ..ir.types import evaluate as evaluate_dim
from ..passes.fuse import Launch
from .places import cut_out
from .runtime.plan_values import Values, span_of, writes_of

FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long)
FAILED = 0xFFFF  # what a function returns whose error is in the stash


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a kernel is called with; `addresses` in the order of `kernel.buffers`."""

    pointers: int
    sizes: int
    workspace: int
    threads: int
    addresses: tuple[int, ...]
    symbols: dict[str, int]


Body = Callable[[Arguments], int]


def host_bytes(address: int, count: int) -> torch.Tensor:
    """Memory of this process as a tensor of bytes."""
    return torch.frombuffer((ctypes.c_char * count).from_address(address), dtype=torch.uint8)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stand-in finds its operands, and where what it makes besides is to be."""

    bytes_at: Callable[[int, int], torch.Tensor] = host_bytes
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext


HOST = Place()


def make_function(kernel: Kernel, body: Body, stash: list[BaseException]) -> Any:
    """A C function that hands its arguments to `body`; an error goes into `stash`, and the launch fails."""
    count = len(kernel.buffers)

    def function(pointers: int, sizes: int, workspace: int, threads: int) -> int:
        try:
            words = ctypes.cast(pointers, ctypes.POINTER(ctypes.c_long))
            values = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_long))
            symbols = {s: int(values[k]) for k, s in enumerate(kernel.symbols)}
            addresses = tuple(words[k] for k in range(count))
            with torch.no_grad():
                return body(Arguments(pointers, sizes, workspace, threads, addresses, symbols))
        except BaseException as error:  # noqa: BLE001 - it must not cross C; the plan raises it
            stash.append(error)
            return FAILED

    return FUNCTION(function)


def tensor_at(address: int, buffer: Buffer, symbols: dict[str, int], place: Place = HOST) -> torch.Tensor:
    """The memory of a buffer as a tensor of its shape and strides."""
    shape, strides = _known(buffer.shape, symbols), _known(buffer.strides, symbols)
    return flat_at(address, buffer, symbols, place).as_strided(shape, strides, evaluate_dim(buffer.offset, symbols))


def flat_at(address: int, buffer: Buffer, symbols: dict[str, int], place: Place = HOST) -> torch.Tensor:
    """The memory of a buffer from its storage's first element on, as a tensor of one dimension."""
    dtype = TORCH_DTYPES[buffer.dtype]
    count = evaluate_dim(span_of(buffer), symbols)
    if not count:
        with place.scope():
            return torch.empty(0, dtype=dtype)
    count += evaluate_dim(buffer.offset, symbols)
    return place.bytes_at(address, count * dtype.itemsize).view(dtype)


def aten_body(values: Values, launch: Launch, place: Place = HOST) -> Body:
    """Runs the graph nodes that a launch stands for, by the references of their rows."""
    part = cut_out(values.graph, launch)
    places = {values.memory_of(n): k for k, n in enumerate(launch.buffers)}
    reads = [values.buffer(n.name) for n in part.inputs]
    writes = [values.buffer(n) for n in writes_of(launch)]
    unknown = [b.name for b in (*reads, *writes) if values.memory_of(b.name) not in places]
    sizes = set(part.symbols).difference(launch.kernel.symbols)
    if unknown or sizes:
        raise LoweringError("no stand-in for a kernel", where=launch.kernel.name, got=", ".join([*unknown, *sizes]))

    def body(a: Arguments) -> int:
        def tensor(b: Buffer) -> torch.Tensor:
            return tensor_at(a.addresses[places[values.memory_of(b.name)]], b, a.symbols, place)

        with place.scope():
            results = evaluate(part, [tensor(b) for b in reads], a.symbols).outputs
        for b, result in zip(writes, results, strict=True):
            tensor(b).copy_(result)
        return 0

    return body


def _known(dims: Sequence[Dim], symbols: dict[str, int]) -> tuple[int, ...]:
    return tuple(evaluate_dim(d, symbols) for d in dims)
