"""The roofline estimate: what a kernel costs from its bytes and its arithmetic, on a machine described by a few
numbers.

Williams, Waterman, Patterson: Roofline (CACM 52(4), 2009), with one bandwidth per level of the memory hierarchy. It is
the baseline that the learned model must beat, and the cost under which regions are partitioned.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.expr import Load, Op, walk
from ..ir.loops import Kernel, Statement, Store, statement_expressions
from ..ir.scalar import SCALAR_OPS
from ..ir.types import Dim, evaluate, product


@dataclass(frozen=True, slots=True)
class Device:
    """One core's share of a machine.

    hz      cycles per second
    lanes   32-bit values per vector operation
    levels  (capacity in bytes, bytes per second) from the fastest to main memory, whose capacity is unbounded
    launch  seconds that starting one kernel costs
    """

    name: str
    hz: float
    lanes: int
    levels: tuple[tuple[float, float], ...]
    launch: float = 2e-7

    def bandwidth(self, working_set: float) -> float:
        return next((rate for size, rate in self.levels if working_set <= size), self.levels[-1][1])


# A server core of the AVX-512 generation, from this project's own copy measurements (`treadle doctor --measure`).
GENERIC_CPU = Device("cpu", 2.8e9, 16, ((32e3, 95e9), (1e6, 50e9), (16e6, 24e9), (float("inf"), 14e9)))
TYPICAL_SIZE = 512  # stands for a dynamic size


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes moved to and from memory, vector cycles of arithmetic, and the seconds that follow."""

    read: float
    written: float
    cycles: float
    seconds: float


def estimate(kernel: Kernel, device: Device = GENERIC_CPU) -> Estimate:
    """The roofline of a kernel under a default schedule."""
    sizes = dict.fromkeys(kernel.symbols, TYPICAL_SIZE)
    points = [float(_number(product(a.extent for a in s.domain), sizes)) for s in kernel.body]
    read = _bytes_read(kernel, points, sizes)
    written = float(sum(_buffer_bytes(kernel, s, p) for s, p in zip(kernel.body, points, strict=True)))
    cycles = sum(p * _cycles(s) for s, p in zip(kernel.body, points, strict=True)) / device.lanes
    rate = device.bandwidth(read + written)
    seconds = max((read + written) / rate, cycles / device.hz) + 0.25 * min((read + written) / rate, cycles / device.hz)
    return Estimate(read, written, cycles, seconds + device.launch)


def _number(dim: Dim, sizes: dict[str, int]) -> int:
    return evaluate(dim, sizes)


def _bytes_read(kernel: Kernel, points: list[float], sizes: dict[str, int]) -> float:
    """Each buffer once: the elements that are touched, at most the whole buffer."""
    touched: dict[str, float] = {}
    for s, count in zip(kernel.body, points, strict=True):
        for e in walk(*statement_expressions(s)):
            if isinstance(e, Load) and e.name in kernel.buffers:
                reach = float(_number(product(a.extent for a in e.axes), sizes)) if e.axes else 1.0
                touched[e.name] = touched.get(e.name, 0.0) + min(reach, max(count, 1.0))
    total = 0.0
    for name, count in touched.items():
        buffer = kernel.buffers[name]
        total += min(count, float(_number(product(buffer.shape), sizes))) * buffer.dtype.itemsize
    return total


def _buffer_bytes(kernel: Kernel, s: Statement, points: float) -> float:
    return points * kernel.buffers[s.buffer].dtype.itemsize if isinstance(s, Store) else 0.0


def _cycles(s: Statement) -> float:
    """Vector cycles per point: each distinct operation once, and one for every load and store."""
    total = 1.0
    for e in walk(*statement_expressions(s)):
        if isinstance(e, Op):
            total += SCALAR_OPS[e.name].cost
        elif isinstance(e, Load):
            total += 0.5
    return total
