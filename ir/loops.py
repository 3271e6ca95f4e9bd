"""The loops level: a kernel is an iteration domain and a list of equations, free of any schedule.

    kernel rms(x: bf16[256, 1024], g: bf16[1024]) -> (y: bf16[256, 1024])
      axes t:256, c:1024
      s[t]   = sum(c) (f32(x[t, c]) * f32(x[t, c]))
      y[t,c] := bf16(...)

An `Equation` defines local values; a `Store` writes an output buffer through a store map. Statements are in dependency
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from .expr import Expr, data_in, indices, names_in, walk
from .index import Axis, Data, Div, Index, Mod
from .types import Dim, DType, contiguous_strides, symbols_of


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor in memory as a kernel sees it: element (i, j, ...) is at offset + i*strides[0] + j*strides[1] + ..."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @property
    def is_contiguous(self) -> bool:
        return self.offset == 0 and self.strides == contiguous_strides(self.shape)


def contiguous(name: str, dtype: DType, shape: tuple[Dim, ...]) -> Buffer:
    return Buffer(name, dtype, shape, contiguous_strides(shape))


@dataclass(frozen=True, slots=True)
class Equation:
    """`names[axes] = state(reduce) args`.

    axes    the kept axes, in the order in which loads of the names index them
    state   "" for a pointwise equation (one argument, one name), else a row of `ir.states.STATES`
    reduce  the reduced axes, outermost first; for a scan the one scanned axis, which is kept too
    scan    "" for a reduction; "inclusive" or "exclusive"; `reverse` scans from the end
    names   one per projected component of the state ("_" where nobody reads it)
    operand_dtype  the type to which a contraction's operands are rounded (laws.md, precision); None: as they are
    """

    names: tuple[str, ...]
    axes: tuple[Axis, ...]
    args: tuple[Expr, ...]
    dtypes: tuple[DType, ...]
    state: str = ""
    reduce: tuple[Axis, ...] = ()
    scan: str = ""
    reverse: bool = False
    operand_dtype: DType | None = None
    source: str = field(default="", compare=False)

    @property
    def is_pointwise(self) -> bool:
        return not self.state

    @property
    def domain(self) -> tuple[Axis, ...]:
        """Every axis that the equation runs over, kept ones first."""
        return self.axes if self.scan else self.axes + self.reduce


@dataclass(frozen=True, slots=True)
class Store:
    """`buffer[index] mode value` for every point of `axes` where `guard` holds.

    mode       "set", or the combining op: "add", "mul", "max", "min"
    injective  no two points write one element; else the statement runs in axis order (the last writer wins, sums are
    in order)
    """

    buffer: str
    index: tuple[Index, ...]
    value: Expr
    axes: tuple[Axis, ...]
    mode: str = "set"
    injective: bool = True
    guard: Expr | None = None
    source: str = field(default="", compare=False)

    @property
    def domain(self) -> tuple[Axis, ...]:
        return self.axes


Statement = Equation | Store


@dataclass(frozen=True)
class Kernel:
    """Inputs are read, outputs are written; a buffer in both is updated in place. `notes` say which law did what."""

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    body: tuple[Statement, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def buffers(self) -> dict[str, Buffer]:
        return {b.name: b for b in (*self.inputs, *self.outputs)}

    @cached_property
    def equations(self) -> dict[str, Equation]:
        """Local names to the equations that define them."""
        return {n: s for s in self.body if isinstance(s, Equation) for n in s.names if n != "_"}

    @cached_property
    def stores(self) -> tuple[Store, ...]:
        return tuple(s for s in self.body if isinstance(s, Store))

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """All axes in order of first appearance; the stores' order leads, since it is the order of the outputs."""
        seen = dict.fromkeys(a for s in self.stores for a in s.axes)
        seen.update(dict.fromkeys(a for s in self.body for a in s.domain))
        return tuple(seen)

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The names of the dynamic sizes that the kernel needs."""
        dims: list[Dim] = [a.extent for a in self.axes]
        for b in self.buffers.values():
            dims += [*b.shape, *b.strides, b.offset]
        for e in walk(*expressions(self)):
            for i in indices(e):
                dims += _index_dims(i)
        return symbols_of(dims)


def expressions(kernel: Kernel) -> Iterator[Expr]:
    """The right sides, guards and data-dependent store indices of a kernel."""
    for s in kernel.body:
        yield from statement_expressions(s)


def statement_expressions(s: Statement) -> tuple[Expr, ...]:
    from_index = () if isinstance(s, Equation) else tuple(data.value for i in s.index for data in data_in(i))
    if isinstance(s, Equation):
        return s.args
    return (s.value, *from_index) if s.guard is None else (s.value, s.guard, *from_index)


def reads_of(s: Statement) -> set[str]:
    """The names that a statement loads."""
    return set().union(*(names_in(e) for e in statement_expressions(s)))


def _index_dims(i: Index) -> list[Dim]:
    dims: list[Dim] = [i.const]
    for atom, coefficient in i.terms:
        dims.append(coefficient)
        if isinstance(atom, (Div, Mod)):
            dims += [atom.by, *_index_dims(atom.index)]
        elif isinstance(atom, Data):
            dims.append(atom.size)
    return dims
