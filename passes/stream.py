"""Law: stream. A reduction that reads an earlier one over the same axes becomes one pass with a larger state.

    m[t] = max(c) u[t, c]                               (m[t], l[t]) = max_sum_exp(c) u[t, c]
    l[t] = sum(c) exp(u[t, c] - m[t])            ->

    s[t] = sum(c) x[t, c]                               (n[t], a[t], q[t]) = moments(c) x[t, c]
    q[t] = sum(c) (x[t, c] - s[t]/N)^2           ->     with s = n * a

The first is exp-affine in a maximum that bounds the exponent: partial sums are rescaled while running, with the shift 0
while the maximum is -inf. The second is quadratic in the mean: moments are carried (Chan et al. 1983), never the
cancelling form. A row that stays in cache gains nothing from this, so it is applied to axes longer than `resident`
elements; and it rounds in another order, so never under numerics="strict".
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.expr import Const, Expr, Load, Op, loads_in
from ..ir.index import Axis, of_atom
from ..ir.loops import Equation, Kernel, Statement
from ..ir.simplify import make
from ..ir.types import Dim, is_nonnegative, plus, product
from .reasons import Reason, Tried

RESIDENT = 1 << 16  # elements of a row that a core keeps close while it passes over it again


def stream(
    kernel: Kernel, strict: bool = False, resident: int = RESIDENT, tried: list[Tried] | None = None
) -> Kernel:  # fmt: skip
    """Applies the law wherever it holds; the notes say where. A list in `tried` is told of all that was asked."""
    for second in _sums(kernel):
        streamed = _streamed(kernel, second, strict, resident)
        if tried is not None:
            tried += _told(kernel, second, streamed)
        if isinstance(streamed, Kernel):
            return stream(streamed, strict, resident, tried)
    return kernel


def _sums(kernel: Kernel) -> list[Equation]:
    return [s for s in kernel.body if isinstance(s, Equation) and s.state == "sum" and not s.scan]


def _told(kernel: Kernel, second: Equation, streamed: Kernel | Reason) -> list[Tried]:
    """The law concerns sums that read a reduction over the same axes at their own place."""
    found = (_reader_of(e, kernel, "", second) for e in loads_in(*second.args))
    reason = streamed if isinstance(streamed, Reason) else None
    return [Tried("stream", second.names[0], first.names[0], reason) for first in found if first is not None][:1]


def _streamed(kernel: Kernel, second: Equation, strict: bool, resident: int) -> Kernel | Reason:
    """The kernel in which `second` has joined an earlier reduction, or why it has not."""
    if not _is_long(second.reduce, resident):
        return Reason.SHORT
    if strict:
        return Reason.STRICT
    return _stream_exponential(kernel, second) or _stream_square(kernel, second) or Reason.FORM


def _is_long(axes: tuple[Axis, ...], resident: int) -> bool:
    extent: Dim = product(a.extent for a in axes)
    return is_nonnegative(plus(extent, -resident - 1))


def _reader_of(e: Expr, kernel: Kernel, state: str, like: Equation) -> Equation | None:
    """The equation that `e` loads at its own axes, if it reduces the same axes with `state` ("" for any)."""
    if not isinstance(e, Load) or e.guard is not None:
        return None
    first = kernel.equations.get(e.name)
    if first is None or (state and first.state != state) or first.scan or set(first.reduce) != set(like.reduce):
        return None
    own = all(i.single_axis is a for i, a in zip(e.index, first.axes, strict=True))
    return first if own and first.axes == like.axes else None


def _stream_exponential(kernel: Kernel, second: Equation) -> Kernel | None:
    value = second.args[0]
    if not (isinstance(value, Op) and value.name == "exp"):
        return None
    shifted = value.args[0]
    if not (isinstance(shifted, Op) and shifted.name == "sub"):
        return None
    first = _reader_of(shifted.args[1], kernel, "max", second)
    if first is None or first.args[0] is not shifted.args[0]:
        return None
    both = replace(first, names=(*first.names, *second.names), dtypes=first.dtypes * 2, state="max_sum_exp")
    note = f"stream: {second.names[0]} joins {first.names[0]} (exponential of a running maximum)"
    return _replaced(kernel, first, second, (both,), note)


def _stream_square(kernel: Kernel, second: Equation) -> Kernel | None:
    value = second.args[0]
    if not (isinstance(value, Op) and value.name == "mul" and value.args[0] is value.args[1]):
        return None
    centred = value.args[0]
    if not (isinstance(centred, Op) and centred.name == "sub"):
        return None
    mean = centred.args[1]
    if not (isinstance(mean, Op) and mean.name in ("mul", "div") and isinstance(mean.args[1], Const)):
        return None
    first = _reader_of(mean.args[0], kernel, "sum", second)
    count = product(a.extent for a in second.reduce)
    if first is None or first.args[0] is not centred.args[0] or not _divides_by(mean, count):
        return None
    n, average = f"{first.names[0]}_n", f"{first.names[0]}_mean"
    dtype = first.dtypes[0]
    state = replace(first, names=(n, average, second.names[0]), dtypes=(dtype,) * 3, state="moments")
    own = Load(first.names[0], tuple(of_atom(a) for a in first.axes), dtype)
    total = make("mul", _renamed(own, average), _renamed(own, n))
    restored = Equation(first.names, first.axes, (total,), (dtype,), source=first.source)
    note = f"stream: {second.names[0]} joins {first.names[0]} (running moments)"
    return _replaced(kernel, first, second, (state, restored), note)


def _divides_by(mean: Op, count: Dim) -> bool:
    """True when `mean` is its operand over `count`."""
    scale = mean.args[1]
    if not isinstance(scale, Const) or not isinstance(count, int) or not count:
        return False
    expected = 1.0 / count if mean.name == "mul" else float(count)
    return abs(scale.value - expected) <= 1e-6 * expected


def _renamed(e: Load, name: str) -> Load:
    return Load(name, e.index, e.dtype, e.guard)


def _replaced(kernel: Kernel, first: Equation, second: Equation, new: tuple[Equation, ...], note: str) -> Kernel:
    """`new` stands where `first` stood; what lies between must not feed the second (it reads only the first)."""
    body: list[Statement] = []
    for s in kernel.body:
        if s is first:
            body += new
        elif s is not second:
            body.append(s)
    return replace(kernel, body=tuple(body), notes=(*kernel.notes, note))
