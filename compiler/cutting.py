"""A kernel as its schedule has it: long reductions cut into parts by the law `split`, for threads and grids.

The parts run along axes of their own, apart from what else the kernel does: the printers are told which those are.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..ir.index import Axis
from ..ir.loops import Equation, Kernel
from ..passes.split import may_split, split


def describe_cuts(kernel: Kernel, cuts: Iterable[tuple[Axis, int]]) -> tuple[str, ...]:
    """What `cut_reductions` does to a kernel, a line for each reduction."""
    return cut_reductions(kernel, cuts)[0].notes[len(kernel.notes) :]


def cut_reductions(kernel: Kernel, cuts: Iterable[tuple[Axis, int]]) -> tuple[Kernel, frozenset[str]]:
    """The kernel with the reductions over each axis in so many parts, and the names of the axes along the parts.

    Where the law has a reason against one of the reductions over an axis, that axis stays whole.
    """
    known = kernel.axes
    for axis, parts in cuts:
        over = [s for s in kernel.body if isinstance(s, Equation) and axis in s.reduce]
        if over and all(may_split(kernel, e, axis, parts) is None for e in over):
            kernel = split(kernel, axis, parts)
    kept = (a for s in kernel.body if isinstance(s, Equation) and s.state for a in s.axes if a not in s.reduce)
    return kernel, frozenset(a.name for a in kept if a not in known)
