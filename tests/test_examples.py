"""The examples: each runs as a script; what 06 and 07 teach (an op, a law) is proved here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sources import ROOT

from treadle.compiler.frontend.context import LOWERINGS
from treadle.compiler.model_file import load_file
from treadle.compiler.reference import check
from treadle.ir.expr import Const, Load, Op, const
from treadle.ir.index import Axis, of_atom
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Equation, Kernel, Store, contiguous
from treadle.ir.types import F32
from treadle.ir.verify import verify_kernel

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
    assert counted["kernels"] == 1


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
