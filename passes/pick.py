"""Law: stream, by selection. An element that data picks from a row is caught while the row passes by.

    m[t] = max(c) z[t, c]                          m[t] = max(c) z[t, c]
    y[t] <- z[t, at(d[t], C)] - m[t]       ->      p[t] = sum(c) where(c == d[t], z[t, c], 0)
                                                   y[t] <- p[t] - m[t]

z is a value of this kernel: read at an index from data, all of it would have to be kept until the index is known. A
buffer's element is just read. The law holds where every other reader of z reduces it along the row, where the row is
long, and where something else in the kernel reads memory by the same index: a sum finds nothing for a bad index, and
does not report it. Negative indices count from the end where the read says so. The sign of a picked zero is lost, so
never under numerics="strict".
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.expr import Expr, Load, Rewriter, const, data_in, loads_in
from ..ir.index import Axis, Data, as_index, of_atom
from ..ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ..ir.scalar import iota
from ..ir.simplify import make
from ..ir.types import I64
from .chains import RESIDENT, fresh_name, is_long, read_own, readers_of
from .keys import rewritten
from .reasons import Reason, Tried


def pick(
    kernel: Kernel, strict: bool = False, resident: int = RESIDENT, tried: list[Tried] | None = None
) -> Kernel:  # fmt: skip
    """Applies the law wherever it holds; the notes say where. A list in `tried` is told of all that was asked."""
    for s in kernel.body:
        for load in loads_in(*statement_expressions(s)):
            found = _row_of(kernel, load)
            if found is None:
                continue
            picked = _picked(kernel, s, load, *found, strict, resident)
            if tried is not None:
                who = s.buffer if isinstance(s, Store) else s.names[0]
                tried.append(Tried("stream", who, load.name, picked if isinstance(picked, Reason) else None))
            if isinstance(picked, Kernel):
                return pick(picked, strict, resident, tried)
    return kernel


def _row_of(kernel: Kernel, load: Load) -> tuple[int, Data] | None:
    """The dimension in which a local value is read at an index from data, where all others are read at axes."""
    z = kernel.equations.get(load.name)
    if z is None or z.scan or load.guard is not None or not load.dtype.is_float:
        return None
    at = [k for k, i in enumerate(load.index) if i.single_axis is None and not i.is_constant]
    if len(at) != 1:
        return None
    index = load.index[at[0]]
    atom, coefficient = index.terms[0]
    simple = len(index.terms) == 1 and coefficient == 1 and index.const == 0
    return (at[0], atom) if simple and isinstance(atom, Data) and atom.size == z.axes[at[0]].extent else None


def _picked(
    kernel: Kernel, reader: Statement, load: Load, dim: int, data: Data, strict: bool, resident: int
) -> Kernel | Reason:
    z = kernel.equations[load.name]
    row = z.axes[dim]
    if not is_long((row,), resident):
        return Reason.SHORT
    if strict:
        return Reason.STRICT
    if not _is_streamed(kernel, z, row):
        return Reason.WHOLE
    if not _is_checked(kernel, load, data):
        return Reason.UNCHECKED
    axes = tuple(a for a in reader.domain if a in load.axes)
    if row in axes:
        return Reason.WHOLE
    caught = make("eq", iota(row), _position(data))
    point = Load(load.name, tuple(of_atom(row) if k == dim else i for k, i in enumerate(load.index)), load.dtype)
    value = make("where", caught, point, const(0.0, load.dtype))
    name = fresh_name(kernel, f"{load.name}_picked")
    caught_sum = Equation((name,), axes, (value,), (load.dtype,), "sum", (row,), source=reader.source)
    rewrite = Rewriter(load=lambda e: read_own(caught_sum) if e is load else e)
    body: list[Statement] = []
    for s in kernel.body:
        body += [caught_sum, rewritten(s, rewrite)] if s is reader else [s]
    note = f"stream: an element of {load.name} is caught as its row passes by"
    return replace(kernel, body=tuple(body), notes=(*kernel.notes, note))


def _position(data: Data) -> Expr:
    """The index from the start, as the read counts it."""
    if not data.wrap:
        return data.value
    from_end = make("add", data.value, iota(as_index(data.size)))
    return make("where", make("lt", data.value, const(0, I64)), from_end, data.value)


def _is_streamed(kernel: Kernel, z: Equation, row: Axis) -> bool:
    """True where the row is reduced, and is not needed in any other way once it has passed by."""
    reduced = False
    for s in readers_of(kernel, z.names):
        over = isinstance(s, Equation) and not s.scan and row in s.reduce
        for e in loads_in(*statement_expressions(s)):
            if e.name not in z.names or _row_of(kernel, e) is not None:
                continue
            if not over or e.index[z.axes.index(row)].single_axis is not row:
                return False
            reduced = True
    return reduced


def _is_checked(kernel: Kernel, picked: Load, data: Data) -> bool:
    """True where memory is read by the same index, with no guard: that read reports what is out of range."""
    reads = (e for s in kernel.body for e in loads_in(*statement_expressions(s)))
    checked = (e for e in reads if e is not picked and e.name in kernel.buffers and e.guard is None)
    return any(d is data for e in checked for i in e.index for d in data_in(i))
