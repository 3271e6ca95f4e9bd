"""Sums of products in parts: a grid that leaves each part's sums in memory, and a kernel that adds them up.

    s_part[k, m, n] = sum(d) x[m, 512*k + d] * w[n, 512*k + d]      ->   s_part_all[..] <- s_part[k, m, n]
    y[m, n] = f(s_part[0, m, n] + s_part[1, m, n])                  ->   y[m, n] <- f(s_part_all[..] + s_part_all[..])

The law `split` has made the parts. Few programs with long sums leave most of a GPU idle; their parts do not.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.expr import Expr, Load, Rewriter, loads_in
from ...ir.index import Index, linearize, of_atom
from ...ir.loops import Buffer, Equation, Kernel, Store, reads_of
from ...ir.tiles import Scratch
from ...ir.types import contiguous_strides, product
from ..tiling_keep import recompute
from ..tiling_prepare import rewrite_statement


def take_apart(kernel: Kernel) -> tuple[Kernel, Kernel, tuple[Scratch, ...]] | None:
    """(the sums in parts, what adds them up, the arrays between the two) of a prepared kernel; None where no statement
    reads sums elsewhere than at its own point.
    """
    kernel = recompute(kernel, lambda e: True)
    equations = [s for s in kernel.body if isinstance(s, Equation)]
    first = [s for s in equations if not reads_of(s) & kernel.equations.keys()]
    rest = [s for s in kernel.body if s not in first]
    moved = [e for s in rest for e in _loads(s) if e.name in kernel.equations]
    if not first or all(i.single_axis is not None for e in moved for i in e.index):
        return None
    sizes = {s.names[0]: (product(a.extent for a in s.axes),) for s in first}
    arrays = {s.names[0]: Scratch(f"{s.names[0]}_all", s.dtypes[0], sizes[s.names[0]]) for s in first}
    strides = {s.names[0]: contiguous_strides(tuple(a.extent for a in s.axes)) for s in first}

    def place(name: str, index: tuple[Index, ...]) -> tuple[Index, ...]:
        return (linearize(index, strides[name]),)

    def read(e: Load) -> Expr:
        return Load(arrays[e.name].name, place(e.name, e.index), e.dtype, e.guard) if e.name in arrays else e

    buffers = tuple(Buffer(a.name, a.dtype, a.shape, (1,)) for a in arrays.values())
    stores = [_keep(s, arrays[s.names[0]], place(s.names[0], tuple(map(of_atom, s.axes)))) for s in first]
    parts = replace(kernel, outputs=buffers, body=(*first, *stores))
    whole = tuple(rewrite_statement(s, Rewriter(load=read)) for s in rest)
    return parts, replace(kernel, inputs=(*kernel.inputs, *buffers), body=whole), tuple(arrays.values())


def _loads(s: Equation | Store) -> list[Load]:
    return list(loads_in(*(s.args if isinstance(s, Equation) else (s.value,))))


def _keep(s: Equation, array: Scratch, index: tuple[Index, ...]) -> Store:
    return Store(array.name, index, Load(s.names[0], tuple(map(of_atom, s.axes)), array.dtype), s.axes)
