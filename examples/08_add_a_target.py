"""Add a target: a printer from (kernel, schedule) to source text, and the proof that the text computes the kernel.

    python examples/08_add_a_target.py

This one prints torch programs: each axis is a dimension of its own, each equation one line of whole-tensor arithmetic.
It is no fast target, but it has the parts of one: a schedule space, a printer, and a check against the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from treadle.costmodel.roofline import estimate
from treadle.ir.builder import GraphBuilder
from treadle.ir.errors import LoweringError, ScheduleError
from treadle.ir.expr import INFIX, Const, Expr, Iota, Load, Op
from treadle.ir.index import Axis, Index
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Buffer, Equation, Kernel, Store
from treadle.ir.schedule import Knob, Schedule
from treadle.ir.types import BF16, F32, DType, is_static
from treadle.passes.fuse import Launch, fuse_graph

# --- the space: what may be chosen, and what is chosen where nothing was measured ------------------------------------

DEVICE = Knob("device", "cpu", ("cpu", "cuda"), "where the tensors of the program live")


def default_schedule(kernel: Kernel) -> Schedule:
    return Schedule("torch")


# --- the printer -----------------------------------------------------------------------------------------------------

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64", "i64": "int64", "i32": "int32"}
FUNCTIONS = {"max": "maximum", "min": "minimum", "mod_floor": "remainder", "not": "logical_not"}
STATES = {"sum": "sum", "max": "amax", "min": "amin", "prod": "prod"}


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints one kernel. A value has one dimension for each of the kernel's axes, of size 1 where it does not vary."""

    kernel: Kernel
    device: str

    def print(self, symbol: str) -> str:
        if not is_static(axis.extent for axis in self.kernel.axes):
            raise LoweringError("this target prints no dynamic sizes", where=self.kernel.name)
        names = [buffer.name for buffer in self.kernel.inputs]
        lines = [*map(self.axis, self.kernel.axes), *map(self.output, self.kernel.outputs)]
        lines += [line for statement in self.kernel.body for line in self.statement(statement)]
        results = ", ".join(f"{buffer.name!r}: {buffer.name}" for buffer in self.kernel.outputs)
        body = "\n    ".join([*lines, f"return {{{results}}}"])
        return f"def {symbol}({', '.join(names)}):\n    {body}\n"

    def axis(self, axis: Axis) -> str:
        return f"{axis.name} = torch.arange({axis.extent}, device={self.device!r}).view({self.shape([axis], '-1')})"

    def output(self, buffer: Buffer) -> str:
        dtype = self.dtype(buffer.dtype)
        return f"{buffer.name} = torch.empty({list(buffer.shape)}, dtype={dtype}, device={self.device!r})"

    def statement(self, statement: Equation | Store) -> Sequence[str]:
        if isinstance(statement, Store):
            if statement.mode != "set" or statement.guard is not None:
                raise LoweringError("this target stores plainly only", where=statement.buffer, got=statement.mode)
            at = ", ".join(self.index(index) for index in statement.index)
            return [f"{statement.buffer}[{at or '...'}] = {self.expr(statement.value)}"]
        [name], [value] = statement.names, statement.args
        if not statement.state:
            return [f"{name} = {self.expr(value)}"]
        if statement.state not in STATES or statement.scan:
            raise LoweringError("this target has no such reduction", where=name, got=statement.state)
        dims = [self.kernel.axes.index(axis) for axis in statement.reduce]
        whole = f"torch.broadcast_to({self.expr(value)}, [{self.shape(statement.domain)}])"
        return [f"{name} = {whole}.{STATES[statement.state]}({dims}, keepdim=True)"]

    def expr(self, e: Expr) -> str:
        match e:
            case Const():
                value = f"float('{e.value}')" if e.dtype.is_float else e.value  # infinities have no literal
                return f"torch.tensor({value}, dtype={self.dtype(e.dtype)}, device={self.device!r})"
            case Iota():
                return self.index(e.index)
            case Load() if e.guard is None:
                return self.load(e)
            case Op("cast"):
                return f"{self.expr(e.args[0])}.to({self.dtype(e.dtype)})"
            case Op() if e.name in INFIX:
                return f"({self.expr(e.args[0])} {INFIX[e.name]} {self.expr(e.args[1])})"
            case Op():
                return f"torch.{FUNCTIONS.get(e.name, e.name)}({', '.join(self.expr(a) for a in e.args)})"
        raise LoweringError("this target has no code for this", where=self.kernel.name, got=e)

    def load(self, e: Load) -> str:
        equation = self.kernel.equations.get(e.name)
        if equation is None:
            return f"{e.name}[{', '.join(self.index(index) for index in e.index)}]" if e.index else e.name
        if any(index.single_axis is not axis for index, axis in zip(e.index, equation.axes, strict=True)):
            raise LoweringError("this target reads a value only where it was computed", where=e.name)
        return e.name

    def index(self, index: Index) -> str:
        return str(index)  # sums, // and % of axes mean the same in Python

    def shape(self, axes: Sequence[Axis], size: str = "") -> str:
        """The sizes of a value that varies along `axes`, one for each of the kernel's axes."""
        return ", ".join((size or str(axis.extent)) if axis in axes else "1" for axis in self.kernel.axes)

    def dtype(self, dtype: DType) -> str:
        return f"torch.{DTYPES.get(dtype.name, dtype.name)}"


def emit_kernel(kernel: Kernel, schedule: Schedule, symbol: str) -> str:
    """The program of a kernel. Raises ScheduleError for a choice that this target lacks, LoweringError for a kernel."""
    schedule.check_names([DEVICE])
    if schedule.strategy != "torch":
        raise ScheduleError("no such strategy", expected="torch", got=schedule.strategy)
    return Printer(kernel, str(schedule.get(DEVICE))).print(symbol)


def load(source: str, symbol: str) -> Callable[..., Mapping[str, torch.Tensor]]:
    names: dict[str, object] = {"torch": torch}
    exec(compile(source, symbol, "exec"), names)
    return names[symbol]  # type: ignore[return-value]


# --- the proof -------------------------------------------------------------------------------------------------------


def make_kernel(rows: int = 5, columns: int = 33, dtype: DType = BF16) -> Kernel:
    """A softmax over the columns, as the laws leave it."""
    g = GraphBuilder("softmax")
    x = g.cast(g.input("x", (rows, columns), dtype), F32)
    e = g.exp(x - g.reduce("max", x, (1,), keepdim=True))
    graph = g.finish([g.cast(e / g.sum(e, (1,), keepdim=True), dtype)])
    [launch] = fuse_graph(graph, lambda kernel: estimate(kernel).seconds).steps
    assert isinstance(launch, Launch)
    return launch.kernel


def main() -> None:
    kernel = make_kernel()
    source = emit_kernel(kernel, default_schedule(kernel), "softmax")
    print(source)
    torch.manual_seed(0)
    inputs = {buffer.name: torch.randn(*map(int, buffer.shape), dtype=torch.bfloat16) for buffer in kernel.inputs}
    ours, exact = load(source, "softmax")(**inputs), run_kernel(kernel, inputs, float64=True)
    worst = max(float((ours[name].double() - exact[name].double()).abs().max()) for name in exact)
    assert worst <= 2**-8, "half a unit in the last place of a bf16 below 1"
    print(f"largest error against float64: {worst:.2e}")


if __name__ == "__main__":
    main()
