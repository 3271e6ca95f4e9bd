"""The laws that change what a kernel's reductions are, run to a fixed point: skip, point, exchange, delay, stream.

    refine, inline, merge  ->  a kernel and its normal form  ->  skip, point, exchange, delay, stream, while one holds

Each law has its own file and its own conditions. The result does not hang on the order in which they are tried. The
search over what is stored costs the kernels that come out here, not those that go in: a chain over a long row is worth
one kernel because it will be one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir.loops import Equation, Kernel
from ..ir.simplify import Simplifier
from . import delay, exchange, point, skip, stream
from .chains import RESIDENT, is_long, is_made, reductions_before
from .reasons import Tried

Law = Callable[[Kernel, bool, list[Tried] | None], Kernel]
ORDER = ("skip", "point", "exchange", "delay", "stream")


def find_laws(simplify: Simplifier, resident: int = RESIDENT) -> dict[str, Law]:
    """The laws by name."""
    return {
        "skip": lambda k, strict, tried: skip.skip(k, simplify),
        "point": lambda k, strict, tried: point.point(k, strict, tried),
        "exchange": lambda k, strict, tried: exchange.exchange(k, strict, tried),
        "delay": lambda k, strict, tried: delay.delay(k, strict, resident, tried),
        "stream": lambda k, strict, tried: stream.stream(k, strict, resident, tried),
    }


def apply_laws(
    kernel: Kernel, simplify: Simplifier, resident: int = RESIDENT, tried: list[Tried] | None = None,
    order: Sequence[str] = ORDER,
) -> Kernel:  # fmt: skip
    """The kernel after all laws; the very object where none holds. A list in `tried` is told of all that was asked."""
    laws = find_laws(simplify, resident)
    strict = not simplify.is_fast
    before = None
    while before is not kernel:
        before = kernel
        for name in order:
            kernel = laws[name](kernel, strict, tried)
    return kernel


def may_change(kernel: Kernel, resident: int = RESIDENT) -> bool:
    """A cheap look: False where no reduction of a long row reads another, and no sum has points or products."""
    return (
        exchange.may_exchange(kernel)
        or point.may_point(kernel)
        or skip.may_skip(kernel)
        or any(
            isinstance(s, Equation)
            and (is_long(s.reduce, resident) or is_made(kernel, s.args, s.reduce))
            and reductions_before(kernel, s.args, s.reduce)
            for s in kernel.body
        )
    )
