"""The examples: each runs as a script; what 06, 07 and 08 teach (an op, a law, a target) is proved here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sources import ROOT

from treadle.compiler.frontend.context import LOWERINGS
from treadle.compiler.model_file import load_file
from treadle.compiler.reference import check
from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.errors import LoweringError, ScheduleError
from treadle.ir.expr import Const, Load, Op, const
from treadle.ir.index import Axis, of_atom
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Equation, Kernel, Store, contiguous
from treadle.ir.schedule import Schedule
from treadle.ir.types import BF16, F32, symbol
from treadle.ir.verify import verify_kernel
from treadle.passes.fuse import Launch, fuse_graph

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))
OP = "example.soft_clip.default"


def load_example(name: str) -> ModuleType:
    return load_file(ROOT / "examples" / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_as_a_script(name: str, empty_cache: Path):
    done = subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


# --- 06: an op -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def op_example() -> ModuleType:
    return load_example("06_add_an_op.py")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("known", [True, False])
def test_an_op_fuses_once_it_has_a_lowering(
    op_example: ModuleType, dtype: torch.dtype, known: bool, monkeypatch: pytest.MonkeyPatch
):
    """Without one it is right all the same, and stands between two kernels.

    All four cases share a cache: what was compiled with a lowering is not what is found without it.
    """
    function, inputs = op_example.build(dtype, length=65)
    if not known:
        monkeypatch.delitem(LOWERINGS, OP)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(function, backend="treadle", options={"fallback": "error"})
    assert check(function, inputs, compiled).ok
    counted = torch._dynamo.utils.counters["treadle"]
    assert counted["opaque"] == (0 if known else 1)
    products = 1 - counted["library"]  # a kernel of ours where the processor does not multiply the type itself
    assert counted["kernels"] == 1 + products


# --- 07: a law -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def law() -> ModuleType:
    return load_example("07_add_a_pass.py")


def make_maximum(scale: float, rows: int, columns: int, state: str = "max") -> Kernel:
    """m[t] = max(c) (x[t, c] * scale), stored."""
    t, c = Axis("t", rows), Axis("c", columns)
    value = Op("mul", (Load("x", (of_atom(t), of_atom(c)), F32), const(scale, F32)), F32)
    body = (
        Equation(("m",), (t,), (value,), (F32,), state, (c,)),
        Store("y", (of_atom(t),), Load("m", (of_atom(t),), F32), (t,)),
    )
    return verify_kernel(Kernel("k", (contiguous("x", F32, (rows, columns)),), (contiguous("y", F32, (rows,)),), body))


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (5, 0)])
@pytest.mark.parametrize("scale", [0.125, 3.3e37, 1e-42, 0.1])
def test_the_law_keeps_every_bit(law: ModuleType, shape: tuple[int, int], scale: float, rng: np.random.Generator):
    before = make_maximum(scale, *shape)
    after = verify_kernel(law.HoistScale().run(before))
    assert after is not before and len(after.notes) == 1
    x = torch.from_numpy((rng.standard_normal(shape) * 30).astype(np.float32))
    specials = [float("nan"), float("inf"), float("-inf"), -0.0, 3e38, -3e38, 1e-40]
    x.flatten()[::3] = torch.tensor(rng.choice(specials, x.flatten()[::3].numel()), dtype=torch.float32)
    results = [run_kernel(kernel, {"x": x})["y"] for kernel in (before, after)]
    assert torch.equal(*(result.nan_to_num(nan=7.5) for result in results))


@pytest.mark.parametrize(("scale", "state"), [(-0.5, "max"), (0.0, "max"), (float("inf"), "max"), (2.0, "min")])
def test_where_the_law_does_not_hold_nothing_changes(law: ModuleType, scale: float, state: str):
    kernel = make_maximum(scale, 3, 4, state)
    assert isinstance(kernel.body[0], Equation) and isinstance(kernel.body[0].args[0].args[1], Const)  # type: ignore[union-attr]
    assert law.HoistScale().run(kernel) is kernel


def test_the_law_finds_its_case_in_a_fused_kernel(law: ModuleType):
    before = law.make_kernel(5, 9)
    after = law.HoistScale().run(before)
    assert len(after.body) == len(before.body) + 1
    assert law.HoistScale().run(after) is after


# --- 08: a target --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target() -> ModuleType:
    return load_example("08_add_a_target.py")


def fuse_one(build: Callable[[GraphBuilder, Value, Value], Value], shape: tuple = (7, 6)) -> Kernel:
    """The one kernel of a function of x [7, 6] and w [6], as the laws leave it."""
    g = GraphBuilder("k")
    graph = g.finish([build(g, g.input("x", shape, F32), g.input("w", shape[1:], BF16))])
    [launch] = fuse_graph(graph, lambda kernel: 0.0).steps
    assert isinstance(launch, Launch)
    return launch.original


CASES: dict[str, Callable[[GraphBuilder, Value, Value], Value]] = {
    "chain": lambda g, x, w: g.tanh(x * 2.0) + g.cast(w, F32),
    "mask": lambda g, x, w: g.where(x > 0.5, float("-inf"), x),
    "turned": lambda g, x, w: g.exp(g.permute(x, (1, 0))),
    "folded": lambda g, x, w: g.sum(g.reshape(x, (7, 2, 3)), (2,)),
    "columns": lambda g, x, w: g.reduce("max", x, (0,)) - g.cast(w, F32),
    "norm": lambda g, x, w: x * g.rsqrt(g.mean(x * x, (1,), keepdim=True) + 1e-6) * g.cast(w, F32),
    "scalar": lambda g, x, w: g.sum(x, (0, 1)),
    "flip": lambda g, x, w: g.cast(g.slice(x, 1, 5, 6, -1), BF16),
}


@pytest.mark.parametrize("case", CASES)
def test_a_printed_program_computes_the_kernel(target: ModuleType, case: str, rng: np.random.Generator):
    kernel = fuse_one(CASES[case])
    inputs = {
        b.name: torch.from_numpy(rng.standard_normal(tuple(map(int, b.shape))).astype(np.float32))
        for b in kernel.inputs
    }
    inputs = {b.name: inputs[b.name].to(torch.bfloat16 if b.dtype is BF16 else torch.float32) for b in kernel.inputs}
    source = target.emit_kernel(kernel, target.default_schedule(kernel), "f")
    [ours], [exact] = target.load(source, "f")(**inputs).values(), run_kernel(kernel, inputs, float64=True).values()
    torch.testing.assert_close(ours.double(), exact.double(), rtol=2**-7 if case == "flip" else 1e-6, atol=1e-6)


def test_what_the_target_lacks_it_refuses(target: ModuleType):
    kernel = fuse_one(CASES["chain"])
    with pytest.raises(ScheduleError, match="no such strategy"):
        target.emit_kernel(kernel, Schedule("cuda"), "f")
    with pytest.raises(ScheduleError, match="no such knob"):
        target.emit_kernel(kernel, Schedule("torch", (("unroll", 4),)), "f")
    with pytest.raises(LoweringError, match="no dynamic sizes"):
        target.emit_kernel(fuse_one(CASES["chain"], (symbol("n"), 6)), Schedule("torch"), "f")
    with pytest.raises(LoweringError, match="no such reduction"):
        scan = fuse_one(lambda g, x, w: g.scan("sum", x, 1))
        target.emit_kernel(scan, Schedule("torch"), "f")
