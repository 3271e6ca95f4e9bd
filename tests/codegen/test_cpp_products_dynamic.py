"""Sums of products whose rows are counted at run time only: one kernel, right for every count."""

from __future__ import annotations

import pytest
from cpp_run import HERE, Case, check_cases
from cpp_texts import inputs_of
from law_runs import read
from product_texts import PRODUCTS
from tiled import assert_computes, tile

from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.products import find_products
from treadle.codegen.tiling_prepare import prepare
from treadle.ir.loops import Kernel
from treadle.ir.tiles import Dot, State, walk_statements

ROWS = "s0"
COUNTS = (2, 3, 7, 8, 17, 33, 129)
MORE = {
    "batched": """
kernel batched(x: {d}[3, {m}, {k}], w: {d}[{n}, {k}], b: {d}[{n}]) -> (y: {d}[{m}, 3, {n}])
  axes a:3, m:{m}, n:{n}, k:{k}
  s[a, m, n]: f32 = sum(k) operands {d} (f32(x[a, m, k]) * f32(w[n, k]))
  y[m, a, n] <- {d}((s[a, m, n] + f32(b[n])))
""",
}
NAMES = [name for name in PRODUCTS if name != "heads"]


def kernel_of(name: str, d: str, n: int, k: int, rows: str = ROWS) -> Kernel:
    return read((PRODUCTS | MORE)[name].format(d=d, m=rows, n=n, k=k))


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_counts(name: str, dtype: str, isa: str):
    kernel = kernel_of(name, dtype, 67, 33)
    sizes = [{ROWS: m} for m in COUNTS]
    check_cases([Case(f"{s}", kernel, inputs_of(kernel, 3, s), s, threads=1 + s[ROWS] % 3) for s in sizes], ISAS[isa])


@pytest.mark.parametrize("name", [*NAMES, *MORE])
@pytest.mark.parametrize("isa", list(ISAS))
def test_programs(name: str, isa: str):
    kernel = kernel_of(name, "f32", 9, 7)
    program = tile(kernel, isa)
    assert find_products(prepare(kernel)) is not None
    assert any(isinstance(s, State) for s in walk_statements(program.body))
    assert not any(isinstance(s, Dot) for s in walk_statements(program.body))
    for m in (3, 26):
        assert_computes(program, kernel, inputs_of(kernel, 7, {ROWS: m}), {ROWS: m})


@pytest.mark.parametrize("name", ["linear", "packed"])
def test_none_and_one(name: str):
    """Sizes may be less than a size that is given: `s0 - 2` may be 0."""
    kernel = kernel_of(name, "bf16", 70, 100, "s0-2")
    cases = [Case(f"{m}", kernel, inputs_of(kernel, 3, {ROWS: m + 2}), {ROWS: m + 2}) for m in (0, 1, 2, 9, 35)]
    check_cases(cases, ISAS[HERE[0]])
