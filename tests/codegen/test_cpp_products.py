"""Sums of products as register tiles: what they compute, when they are made, and that no worker waits for another."""

from __future__ import annotations

from math import prod

import pytest
from cpp_run import HERE, Case, check_cases
from cpp_texts import inputs_of
from law_runs import read
from product_texts import ACROSS, GATED, IMAGES, LINEAR, PACKED, STATIC, WINDOWS
from tiled import assert_computes, make_blocks_small, tile

from treadle.codegen.cpp.emit import default_schedule, emit_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.products import find_products
from treadle.codegen.products import tiles as product_tiles
from treadle.codegen.products.tiles import choose_tile
from treadle.codegen.tiling_prepare import prepare
from treadle.ir.expr import loads_in
from treadle.ir.index import Axis
from treadle.ir.interp import run_kernel
from treadle.ir.loops import Kernel
from treadle.ir.tiles import Let, Loop, Program, Put, Stage, State, Statement, Update, walk_statements
from treadle.ir.verify_tiles_scope import read_by

SIZES = ((1, 1, 1), (1, 8, 40), (2, 70, 33), (3, 129, 64), (4, 5, 17), (7, 67, 100), (11, 130, 16), (16, 64, 129))


def kernel_of(text: str, d: str, m: int, n: int, k: int) -> Kernel:
    return read(text.format(d=d, m=m, n=n, k=k))


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_sizes(isa: str, dtype: str):
    kernels = [(f"{name} {size}", kernel_of(text, dtype, *size)) for name, text in STATIC.items() for size in SIZES]
    check_cases([Case(name, k, inputs_of(k, 3)) for name, k in kernels], ISAS[isa])


def test_every_type():
    kernels = {f"{n} {d}": kernel_of(STATIC[n], d, 5, 21, 50) for n in ("linear", "heads") for d in ("f16", "bf16")}
    check_cases([Case(name, k, inputs_of(k, 5)) for name, k in kernels.items()], ISAS[HERE[0]])


def test_empty_sums():
    kernels = {size: kernel_of(LINEAR, "f32", *size) for size in ((0, 4, 4), (4, 0, 4), (4, 70, 0))}
    check_cases([Case(str(size), k, inputs_of(k, 5)) for size, k in kernels.items()], ISAS[HERE[0]])


@pytest.mark.parametrize("isa", list(ISAS))
@pytest.mark.parametrize("name", list(STATIC))
def test_programs_of_small_blocks(isa: str, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(product_tiles, "BLOCK", 8)
    monkeypatch.setattr(product_tiles, "DEEP", 8)
    monkeypatch.setattr(product_tiles, "MANY", 6)
    make_blocks_small(monkeypatch)
    for size in ((14, 19, 9), (1, 9, 7)) if isa == "avx512" else ((7, 11, 10),):
        kernel = kernel_of(STATIC[name], "f32", *size)
        program = tile(kernel, isa)
        tiled = name not in ("across", "batched", "images") or (isa != "scalar" and size[0] > 1)
        assert not tiled or any(isinstance(s, State) for s in walk_statements(program.body))
        assert_computes(program, kernel, inputs_of(kernel, 7))


@pytest.mark.parametrize("text, joined", [(WINDOWS, 14 * 3), (IMAGES, 3 * 14)], ids=["windows", "images"])
def test_axes_of_an_image_are_one_where_tiles_leave_rests(text: str, joined: int):
    found = find_products(prepare(kernel_of(text, "f32", 14, 40, 32)), 16)
    assert found is not None and joined in (extent(found.columns), extent(found.rows)) and not found.outer
    wide = find_products(prepare(kernel_of(IMAGES, "f32", 60, 40, 32)), 16)
    assert wide is not None and extent(wide.rows) == 60 and [a.extent for a in wide.outer] == [3]


def extent(a: Axis | None) -> int:
    assert a is not None and isinstance(a.extent, int)
    return a.extent


def test_long_work_has_blocks_for_several_workers():
    """Of 196 positions and 256 outputs there would else be one block of columns for each block of rows."""
    program = tile(kernel_of(LINEAR, "f32", 196, 256, 300), "avx512")
    points = [prod(extent(a) for a in grid_of(s)) for s in program.body if isinstance(s, Loop)]
    assert min(points) >= 2


def grid_of(s: Statement) -> list[Axis]:
    if not isinstance(s, Loop) or s.kind != "grid":
        return []
    return [s.axis, *(grid_of(s.body[0]) if s.body else [])]


def test_threads_give_the_same_bits():
    kernel = kernel_of(GATED, "bf16", 6, 1003, 600)
    check_cases([Case(f"{n}", kernel, inputs_of(kernel, 1), threads=n) for n in (1, 2, 5)], ISAS[HERE[0]])


def test_parts_share_no_scratch():
    program = tile(kernel_of(LINEAR, "f32", 5, 127, 64), "avx512")
    users: dict[str, int] = {}
    for k, loop in enumerate(program.body):
        assert isinstance(loop, Loop) and loop.kind == "grid"
        for s in walk_statements([loop]):
            if isinstance(s, Put) and s.target.startswith("s_"):
                assert users.setdefault(s.target, k) == k
    assert len(program.body) == len(users) == 3  # a block, whole tiles, the columns that are left


def _reads_of_larger(program: Program) -> int:
    lets = [s for s in walk_statements(program.body) if isinstance(s, Let)]
    return sum(e.name == "w" for s in lets for e in loads_in(s.value))


def test_operands_are_loaded_once_a_tile():
    program = tile(kernel_of(LINEAR, "f32", 4, 64, 64), "avx512")
    assert choose_tile(4, 1, 16) == (4, 4) and _reads_of_larger(program) == 4


def test_digits_are_written_out_and_bits_need_no_rounding():
    kernel = kernel_of(PACKED, "bf16", 4, 64, 16)
    found = find_products(prepare(kernel))
    assert found is not None and [a.extent for a in (found.lanes, *found.summed)] == [16, 3]
    source = emit_kernel(kernel, default_schedule(kernel, ISAS["avx512"]), ISAS["avx512"], "packed")
    assert "ld_u8" in source.text and "wrap_u8" not in source.text and "sel_" not in source.text


def _scaled(program: Program) -> list[Statement]:
    """The statements that multiply by a scale."""
    found = [s for s in walk_statements(program.body) if isinstance(s, Let | Update | Put)]
    return [s for s in found if "s" in {e.name for e in loads_in(*read_by(s))}]


def test_scales_leave_the_sums_of_few_rows():
    """One multiplication a group and result; where operands are kept for several tiles, once when they are made."""
    program = tile(kernel_of(PACKED, "bf16", 2, 64, 16), "avx512")
    assert all(isinstance(s, Update) for s in _scaled(program)) and len(_scaled(program)) == 2 * 4
    shared = tile(kernel_of(PACKED, "bf16", 7, 64, 16), "avx512")
    assert _scaled(shared) and all(isinstance(s, Put) for s in _scaled(shared))


def test_sums_of_f32_are_taken_as_they_were_written():
    assert not any(isinstance(s, Update) for s in _scaled(tile(kernel_of(PACKED, "f32", 2, 64, 16), "avx512")))


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("sums", [1, 2, 3, 6])
def test_tiles_fit_registers(lanes: int, sums: int):
    for rows in range(1, 40):
        height, width = choose_tile(rows, sums, lanes)
        assert 1 <= height <= rows and width >= 1
        room = 30 if lanes == 16 else 14
        assert (height, width) == (1, 1) or sums * height * width + height + 2 <= room
    assert sums > 1 or choose_tile(1, 1, 16)[1] == 8


OTHERS = {
    "apart": """
kernel apart(x: f32[4, 64], w: f32[64, 32, 2]) -> (y: f32[4, 32])
  axes m:4, n:32, k:64
  s[m, n]: f32 = sum(k) (x[m, k] * w[k, n, 1])
  y[m, n] <- s[m, n]
""",
    "waits": """
kernel waits(x: f32[4, 64], w: f32[32, 64]) -> (y: f32[4, 32])
  axes m:4, n:32, k:64
  s[m, n]: f32 = sum(k) (x[m, k] * w[n, k])
  t[m]: f32 = max(n) s[m, n]
  y[m, n] <- (s[m, n] - t[m])
""",
    "turned": """
kernel turned(x: f32[8, 64], w: f32[8, 64]) -> (y: f32[8, 8])
  axes m:8, n:8, k:64
  s[m, n]: f32 = sum(k) (x[m, k] * w[n, k])
  y[m, n] <- (s[m, n] - s[n, m])
""",
    "in_place": """
kernel in_place(x: f32[4, 64], y: f32[64, 64]) -> (y: f32[64, 64])
  axes m:4, n:64, k:64
  s[m, n]: f32 = sum(k) (x[m, k] * y[n, k])
  y[m, n] <- s[m, n]
""",
    "dynamic": """
kernel dynamic(x: f32[s0, 64], w: f32[s1, 64]) -> (y: f32[s0, s1])
  axes m:s0, n:s1, k:64
  s[m, n]: f32 = sum(k) (x[m, k] * w[n, k])
  y[m, n] <- s[m, n]
""",
    "half across": """
kernel half(x: f32[4, 64], w: f32[32, 64], v: f32[64, 32]) -> (y: f32[4, 32])
  axes m:4, n:32, k:64
  s[m, n]: f32 = sum(k) (x[m, k] * (w[n, k] + v[k, n]))
  y[m, n] <- s[m, n]
""",
    "by data": """
kernel data(x: f32[4, 64], w: f32[32, 64], v: f32[5, 32], d: i64[64]) -> (y: f32[4, 32])
  axes m:4, n:32, k:64
  s[m, n]: f32 = sum(k) (x[m, k] * (w[n, k] + v[at(d[k], 5), n]))
  y[m, n] <- s[m, n]
""",
    "rows": """
kernel rows(x: f32[4, 64], w: f32[4, 64]) -> (y: f32[4])
  axes m:4, k:64
  s[m]: f32 = sum(k) (x[m, k] * w[m, k])
  y[m] <- s[m]
""",
}


@pytest.mark.parametrize("rows", [2, 9, 40])
def test_operands_that_are_dense_along_the_results_are_read_along_them(rows: int):
    """Few columns pass over them where they lie; for more, they are copied once for all."""
    kernel = kernel_of(ACROSS, "f32", rows, 96, 40)
    found = find_products(prepare(kernel))
    assert found is not None and found.across and found.rows is not None and found.rows.extent == 96
    program = tile(kernel, "avx512")
    assert_computes(program, kernel, inputs_of(kernel, 9))
    assert any(s.name.startswith("panel") for s in program.scratch) == (rows > 8)
    assert not any(isinstance(s, Stage) and s.value.name == "w" for s in walk_statements(program.body))


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_kernels_take_the_other_way(name: str):
    kernel = read(OTHERS[name])
    assert find_products(prepare(kernel)) is None
    if name not in ("dynamic", "in_place"):
        check_cases([Case(name, kernel, inputs_of(kernel, 5))], ISAS[HERE[0]])


def test_the_knob_leaves_them_out():
    kernel = kernel_of(LINEAR, "f32", 3, 70, 40)
    schedule = default_schedule(kernel, ISAS[HERE[0]]).choose(tiles=False)
    check_cases([Case("plain", kernel, inputs_of(kernel, 5), schedule=schedule)], ISAS[HERE[0]])
    assert run_kernel(kernel, inputs_of(kernel, 5))["y"].abs().max() > 0
