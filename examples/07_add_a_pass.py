"""Add a law: a function from a kernel to a kernel that computes the same, and the proof that it does.

    python examples/07_add_a_pass.py

A pass is a frozen dataclass; its fields are its options, and `run` returns the same object where nothing changes. This
one is a law over equations, so it knows no operator: whatever reduces a scaled value by a maximum profits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from treadle.costmodel.roofline import estimate
from treadle.ir.builder import GraphBuilder
from treadle.ir.expr import Const, Load, Op
from treadle.ir.index import of_atom
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Equation, Kernel, Statement
from treadle.ir.text import print_kernel
from treadle.ir.types import F32
from treadle.ir.verify import verify_kernel
from treadle.passes.fuse import Launch, fuse_graph


@dataclass(frozen=True, slots=True)
class HoistScale:
    """A positive scale leaves a maximum: one multiplication for each row instead of one for each element.

        m[t] = max(c) (x[t, c] * k)     ->     n[t] = max(c) x[t, c]
                                               m[t] = n[t] * k

    Exact, rounding included: multiplying by k > 0 and rounding never change the order of two numbers, so the largest
    product is the product of the largest. NaN stays NaN; over no elements both are -inf.
    """

    name: str = "hoist scale"

    def run(self, kernel: Kernel) -> Kernel:
        body: list[Statement] = []
        for statement in kernel.body:
            hoisted = self._hoist(statement)
            body += hoisted or (statement,)
        if len(body) == len(kernel.body):
            return kernel
        return replace(
            kernel, body=tuple(body), notes=(*kernel.notes, f"{self.name}: a product per row, not per element")
        )

    def _hoist(self, statement: Statement) -> tuple[Equation, Equation] | None:
        """The two equations that stand for one; None where the law does not hold."""
        if not isinstance(statement, Equation) or statement.state != "max" or statement.scan:
            return None
        value = statement.args[0]
        if not (isinstance(value, Op) and value.name == "mul" and is_positive(value.args[1])):
            return None
        largest = f"{statement.names[0]}_unscaled"
        first = replace(statement, names=(largest,), args=(value.args[0],))
        read = Load(largest, tuple(of_atom(axis) for axis in statement.axes), value.dtype)
        product = Op("mul", (read, value.args[1]), value.dtype)
        return first, replace(statement, args=(product,), state="", reduce=())


def is_positive(e: object) -> bool:
    return isinstance(e, Const) and e.dtype.is_float and 0 < e.value < math.inf


def make_kernel(rows: int = 64, columns: int = 1000) -> Kernel:
    """The largest scaled score of each row, as one kernel: max over c of x[t, c] * 0.125."""
    g = GraphBuilder("largest")
    x = g.input("x", (rows, columns), F32)
    graph = g.finish([g.reduce("max", x * 0.125, (1,))])
    [launch] = fuse_graph(graph, lambda kernel: estimate(kernel).seconds).steps
    assert isinstance(launch, Launch)
    return launch.original


def main() -> None:
    before = make_kernel()
    after = verify_kernel(HoistScale().run(before))
    print(f"{print_kernel(before)}\n\n{HoistScale().name}:\n\n{print_kernel(after)}")

    torch.manual_seed(0)
    inputs = {buffer.name: torch.randn(*map(int, buffer.shape)) for buffer in before.inputs}
    results = [run_kernel(kernel, inputs) for kernel in (before, after)]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    print(f"\nequal, bit for bit; {estimate(before).cycles:.0f} -> {estimate(after).cycles:.0f} vector cycles")


if __name__ == "__main__":
    main()
