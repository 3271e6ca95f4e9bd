"""A kernel as its schedule has it: long reductions cut into parts by the law `split`, for threads and grids, and what
keeps rows and what reduces them in blocks of rows.

The parts run along axes of their own, apart from what else the kernel does: the printers are told which those are.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..codegen.cuts import Cut
from ..ir.loops import Equation, Kernel
from ..passes.block import block, may_block
from ..passes.split import may_split, split_along


def describe_cuts(kernel: Kernel, cuts: Iterable[Cut]) -> tuple[str, ...]:
    """What `cut_reductions` does to a kernel, a line for each law applied."""
    return cut_reductions(kernel, cuts)[0].notes[len(kernel.notes) :]


def cut_reductions(kernel: Kernel, cuts: Iterable[Cut]) -> tuple[Kernel, frozenset[str]]:
    """The kernel with each axis cut, and the names of the axes along the parts.

    Where the law has a reason against one of the reductions over an axis, that axis stays as it is.
    """
    along: set[str] = set()
    for axis, parts, whole in cuts:
        over = [s for s in kernel.body if isinstance(s, Equation) and axis in s.reduce]
        if whole and may_block(kernel, axis, parts) is None:
            kernel, outer = block(kernel, axis, parts)
            along.add(outer.name)
        elif over and not whole and all(may_split(kernel, e, axis, parts) is None for e in over):
            kernel, axes = split_along(kernel, axis, parts)
            along.update(a.name for a in axes)
    return kernel, frozenset(along)
