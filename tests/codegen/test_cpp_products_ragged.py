"""Sums of products of rows in groups, whose ends are data: one kernel, right for all offsets."""

from __future__ import annotations

import pytest
import torch
from cpp_run import HERE, Case, check_cases
from cpp_texts import inputs_of
from law_runs import read
from product_texts import GROUPS
from tiled import assert_computes, tile

from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.products import find_products
from treadle.codegen.tiling_prepare import prepare
from treadle.ir.loops import Kernel
from treadle.ir.text_tiles import print_program
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.tiles import State, walk_statements

COUNTS = {  # rows of each group, and those of none
    "none": [[0, 0, 0, 0], 0],
    "rows of no group": [[0, 0, 0, 0], 9],
    "few": [[1, 0, 4, 1], 1],
    "many": [[0, 129, 7, 1], 3],
    "blocks": [[33, 0, 128, 263], 0],
}


def kernel_of(name: str, d: str, rows: object, n: int = 67, k: int = 33) -> Kernel:
    return read(GROUPS[name].format(d=d, m=rows, n=n, k=k, g=4))


def with_offsets(kernel: Kernel, counts: list[int], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    inputs = inputs_of(kernel, 3, sizes)
    return inputs | {"o": torch.tensor(counts).cumsum(0).to(inputs["o"].dtype)}


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", GROUPS)
def test_counts(name: str, dtype: str, isa: str):
    cases: list[Case] = []
    for label, (counts, rest) in COUNTS.items():
        kernel = kernel_of(name, dtype, sum(counts) + rest)
        cases.append(Case(label, kernel, with_offsets(kernel, counts, {}), threads=1 + len(cases) % 3))
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
def test_dynamic_rows(isa: str):
    kernel, cases = kernel_of("plain", "bf16", "s0", 130, 100), list[Case]()
    for label, (counts, rest) in COUNTS.items():
        sizes = {"s0": sum(counts) + rest}
        if sizes["s0"] > 1:
            cases.append(Case(label, kernel, with_offsets(kernel, counts, sizes), sizes, threads=2))
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
def test_long_sums(isa: str):
    kernel = kernel_of("plain", "bf16", 310, 200, 2500)
    check_cases([Case("long", kernel, with_offsets(kernel, [150, 5, 0, 140], {}))], ISAS[isa])


@pytest.mark.parametrize(
    "counts", [[-1, 0, 0, 3], [4, 900, 0, 1], [30, 0, 0, 12], [9, -4, 2, 1], [2**30, 2**30, 2**30, 0]], ids=str
)
def test_offsets_that_are_none_touch_nothing_else(counts: list[int]):
    kernel = kernel_of("plain", "f32", 40)
    check_cases([Case("wrong", kernel, with_offsets(kernel, counts, {}), error=-1)], ISAS[HERE[0]])


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("isa", list(ISAS))
def test_programs(name: str, isa: str):
    for counts, rest in ([3, 0, 26, 1], 2), ([1, 1, 0, 0], 0):
        kernel = kernel_of(name, "f32", sum(counts) + rest, 9, 7)
        assert find_products(prepare(kernel)) is not None
        program = tile(kernel, isa)
        assert parse_program(print_program(program)).body == program.body
        assert any(isinstance(s, State) for s in walk_statements(program.body))
        assert_computes(program, kernel, with_offsets(kernel, counts, {}))
