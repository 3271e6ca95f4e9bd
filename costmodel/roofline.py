"""The roofline estimate: what a kernel costs from its bytes and its arithmetic, on a machine described by a few
numbers.

Williams, Waterman, Patterson: Roofline (CACM 52(4), 2009), with one bandwidth per level of the memory hierarchy. It is
the baseline that the learned model must beat, and the cost under which regions are partitioned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..ir.expr import Expr, Load, Op, product_factors, walk
from ..ir.index import Axis
from ..ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ..ir.scalar import SCALAR_OPS
from ..ir.types import Dim, evaluate, product, symbols_of


@dataclass(frozen=True, slots=True)
class Device:
    """One core's share of a CPU, or a whole GPU.

    hz      cycles per second
    lanes   32-bit values per vector operation, of all multiprocessors together on a GPU
    levels  (capacity in bytes, bytes per second) from the fastest to main memory, whose capacity is unbounded
    launch  seconds that starting one kernel costs
    close   bytes that a worker passes over again at no cost but that of the instructions
    """

    name: str
    hz: float
    lanes: int
    levels: tuple[tuple[float, float], ...]
    launch: float = 2e-7
    close: float = 32e3

    def bandwidth(self, working_set: float) -> float:
        return next((rate for size, rate in self.levels if working_set <= size), self.levels[-1][1])


# A server core of the AVX-512 generation, from this project's own copy measurements (`treadle doctor --measure`).
GENERIC_CPU = Device("cpu", 2.8e9, 16, ((32e3, 95e9), (1e6, 50e9), (16e6, 24e9), (float("inf"), 14e9)))
# From the datasheets of the A100 (80 GB), H100 SXM, B200, RTX 5090 and MI300X: boost clock, fp32 lanes, the last cache,
# memory. Caches and launches are this project's guesses until they are measured.
GPUS = {
    d.name: d
    for d in (
        Device("sm_80", 1.41e9, 6912, ((40e6, 4e12), (float("inf"), 2.0e12)), 3e-6, 64e3),
        Device("sm_90", 1.98e9, 16896, ((50e6, 6e12), (float("inf"), 3.35e12)), 3e-6, 64e3),
        Device("sm_100", 1.96e9, 18944, ((126e6, 1e13), (float("inf"), 8.0e12)), 3e-6, 64e3),
        Device("sm_120", 2.41e9, 21760, ((96e6, 6e12), (float("inf"), 1.79e12)), 3e-6, 64e3),
        Device("gfx942", 2.1e9, 19456, ((256e6, 1e13), (float("inf"), 5.3e12)), 4e-6, 64e3),
    )
}
TILE = 4  # results of a tile that share an operand of a product
TYPICAL_SIZE = 512  # stands for a dynamic size


def find_device(target: str) -> Device:
    """The row of a GPU target; that of the next older one of its kind where it has none of its own."""
    if target in GPUS:
        return GPUS[target]
    older = [d for name, d in GPUS.items() if name.startswith("sm_") and int(name[3:]) <= int(target[3:])]
    return older[-1] if older else GPUS["sm_80"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes moved to and from memory, vector cycles of arithmetic, and the seconds that follow."""

    read: float
    written: float
    cycles: float
    seconds: float


def estimate(kernel: Kernel, device: Device = GENERIC_CPU) -> Estimate:
    """The roofline of a kernel under a default schedule."""
    touched: dict[str, float] = {}
    written = cycles = 0.0
    for s in kernel.body:
        points = _number(product(a.extent for a in s.domain))
        if isinstance(s, Store):
            written += points * kernel.buffers[s.buffer].dtype.itemsize
        cycles += points * _pass_over(s, points, kernel, touched)
    sizes = {name: _number(product(b.shape)) * b.dtype.itemsize for name, b in kernel.buffers.items()}
    read = sum(min(n * kernel.buffers[name].dtype.itemsize, sizes[name]) for name, n in touched.items())
    cycles /= device.lanes
    memory = (read + written) / device.bandwidth(read + written) + _again(kernel, device)
    seconds = max(memory, cycles / device.hz) + 0.25 * min(memory, cycles / device.hz)
    return Estimate(read, written, cycles, seconds + device.launch)


def _again(kernel: Kernel, device: Device) -> float:
    """Seconds of passing over rows again, which wait for a reduction of the same row, where a row does not stay close.

    A row is what lies between two passes: the elements along the axes that were reduced, of all that is read again.
    """
    level: dict[str, int] = {}  # pass in which an equation is known
    waits: dict[str, frozenset[Axis]] = {}  # axes that were reduced before
    seen: dict[str, int] = {}  # last pass over a buffer
    seconds = 0.0
    for s in kernel.body:
        loads = [e for e in walk(*statement_expressions(s)) if isinstance(e, Load)]
        own, over = 0, frozenset[Axis]()
        for e in loads:
            source = kernel.equations.get(e.name)
            if source is None:
                continue
            reduced = frozenset[Axis]() if source.scan else frozenset(source.reduce)
            over |= waits[e.name] | reduced
            own = max(own, level[e.name] + bool(reduced & set(s.domain)))
        if isinstance(s, Equation):
            level.update(dict.fromkeys(s.names, own))
            waits.update(dict.fromkeys(s.names, over))
        again = {e.name: e for e in loads if e.name in kernel.buffers and seen.get(e.name, own) < own and e.axes & over}
        row = sum(_reach(e.axes & over) * kernel.buffers[n].dtype.itemsize for n, e in again.items())
        if row > device.close:
            whole = sum(_reach(e.axes) * kernel.buffers[n].dtype.itemsize for n, e in again.items())
            seconds += whole / device.bandwidth(row)
        for e in loads:
            if e.name in kernel.buffers:
                seen[e.name] = max(seen.get(e.name, 0), own)
    return seconds


def _reach(axes: Iterable[Axis]) -> float:
    return _number(product(a.extent for a in axes))


def _number(dim: Dim) -> float:
    """A size, where dynamic ones are typical."""
    return float(dim if isinstance(dim, int) else evaluate(dim, dict.fromkeys(symbols_of([dim]), TYPICAL_SIZE)))


def _pass_over(s: Statement, points: float, kernel: Kernel, touched: dict[str, float]) -> float:
    """Vector cycles per point: each distinct operation once, and one for every load and store.

    Adds the elements of buffers that the statement loads to `touched`: at most the whole buffer will count.
    """
    cycles = 1.0
    shared = _shared_operands(s)
    for e in walk(*statement_expressions(s)):
        if isinstance(e, Load) and e.name in kernel.buffers:
            reach = _reach(e.axes)
            touched[e.name] = touched.get(e.name, 0.0) + min(reach, max(points, 1.0))
        if not shared:
            cycles += _work(e)
    return cycles + sum(_work(e) for operand in shared for e in walk(operand)) / TILE


def _work(e: Expr) -> float:
    return SCALAR_OPS[e.name].cost if isinstance(e, Op) else 0.5 if isinstance(e, Load) else 0.0


def _shared_operands(s: Statement) -> list[Expr]:
    """The factors of a sum of products none of which has all kept axes: a tile of results shares them."""
    if not isinstance(s, Equation) or s.state != "sum" or s.scan:
        return []
    factors = product_factors(s.args[0])
    return factors if len(factors) > 1 and all(not frozenset(s.axes) <= f.axes for f in factors) else []
