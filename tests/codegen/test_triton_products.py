"""Sums of products as products of tiles on the Triton target: what they are, what is printed, what they compute."""

from __future__ import annotations

import pytest
from cpp_run import Case
from cpp_texts import inputs_of
from golden import Golden
from law_runs import read
from tiled import assert_computes
from triton_run import check_triton, emit_case

from treadle.codegen.tiling_prepare import prepare
from treadle.codegen.triton.dot_space import HELD, SHARED
from treadle.codegen.triton.dots import find_dots
from treadle.codegen.triton.emit import candidates, default_schedule, emit_kernel, emit_module
from treadle.codegen.triton.grid import tile_kernel
from treadle.codegen.triton.space import BLOCK_K, BLOCK_M, BLOCK_N, SPLIT, STAGES, cuts_under
from treadle.compiler.cutting import cut_reductions
from treadle.ir.errors import ScheduleError
from treadle.ir.loops import Kernel
from treadle.ir.schedule import Schedule
from treadle.ir.text_tiles import print_program
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.tiles import Dot, walk_statements
from treadle.ir.types import BF16, F32, I8, DType
from treadle.ir.verify import verify_program

LINEAR = """
kernel linear(x: {d}[{m}, {k}], w: {d}[{n}, {k}], b: {d}[{n}]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(w[n, k]))
  y[m, n] <- {d}(max((s[m, n] + f32(b[n])), 0.0))
"""
TURNED = """
kernel turned(x: {d}[{k}, {m}], w: {d}[{k}, {n}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands {d} (f32(x[k, m]) * f32(w[k, n]))
  y[m, n] <- s[m, n]
"""
GATED = """
kernel gated(x: {d}[{m}, {k}], g: {d}[{n}, {k}], u: {d}[{n}, {k}]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(g[n, k]))
  t[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(u[n, k]))
  y[m, n] <- {d}(((s[m, n] * sigmoid(s[m, n])) * t[m, n]))
"""
NORMED = """
kernel normed(x: {d}[{m}, {k}], g: {d}[{k}], w: {d}[{n}, {k}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  q[m]: f32 = sum(k) (f32(x[m, k]) * f32(x[m, k]))
  s[m, n]: f32 = sum(k) ((f32(x[m, k]) * f32(g[k])) * f32(w[n, k]))
  y[m, n] <- (s[m, n] * rsqrt((q[m] + 0.001)))
"""
HEADS = """
kernel heads(q: {d}[3, 2, {m}, {k}], c: {d}[3, {n}, {k}]) -> (y: {d}[3, 2, {m}, {n}])
  axes b:3, g:2, m:{m}, n:{n}, k:{k}
  a[b, g, m, n]: f32 = sum(k) operands {d} (f32(q[b, g, m, k]) * f32(c[b, n, k]))
  y[b, g, m, n] <- {d}((a[b, g, m, n] * 0.125))
"""
WEIGHTED = """
kernel weighted(p: f32[{m}, {k}], v: {d}[{k}, {n}], l: f32[{m}]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: f32 = sum(k) operands {d} ((exp(p[m, k]) * f32(v[k, n])) / (l[m] * l[m]))
  y[m, n] <- {d}(a[m, n])
"""
CHANNELS = """
kernel channels(x: {d}[{m}, {k}], w: i8[{n}, {k}], s: f32[{n}], t: f32[{m}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: f32 = sum(k) operands {d} ((f32(x[m, k]) * t[m]) * (f32(w[n, k]) * s[n]))
  y[m, n] <- a[m, n]
"""
PACKED = """
kernel packed(x: {d}[{m}, 3, {k}, 2], q: u8[{n}, 3, {k}], s: {d}[{n}, 3]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, g:3, j:{k}, d:2
  a[m, n]: f32 = sum(g, j, d) operands {d} ((f32(x[m, g, j, d]) * f32(s[n, g])) * (where((#(d) < 1:i64),
    f32(u8((i32(q[n, g, j]) & 15:i32))), f32(u8((i32(q[n, g, j]) >> 4:i32)))) - 8.0))
  y[m, n] <- {d}(a[m, n])
"""
WHOLE = """
kernel whole(x: i8[{m}, {k}], w: i8[{n}, {k}], s: f32[{n}], t: f32[{m}]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: i32 = sum(k) (i32(x[m, k]) * i32(w[n, k]))
  y[m, n] <- {d}(((f32(a[m, n]) * t[m]) * s[n]))
"""
PRODUCTS = {
    "linear": LINEAR, "turned": TURNED, "gated": GATED, "normed": NORMED, "heads": HEADS, "weighted": WEIGHTED,
    "channels": CHANNELS, "packed": PACKED, "whole": WHOLE,
}  # fmt: skip
SIZES = ((1, 40, 33), (3, 70, 33), (17, 40, 100), (33, 16, 16), (2, 2, 2))


def kernel_of(name: str, d: str, m: int, n: int, k: int) -> Kernel:
    return read(PRODUCTS[name].format(d=d, m=m, n=n, k=k))


def case_of(kernel: Kernel, name: str = "case", **more) -> Case:
    return Case(name, kernel, inputs_of(kernel, 3), **more)


# --- what they compute -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRODUCTS)
def test_sizes(name: str):
    dtypes = ("f16",) if name == "packed" else ("f16", "f32")  # in f32 its scales stay, and it is no product of tiles
    check_triton([case_of(kernel_of(name, d, *s), f"{name} {d} {s}") for s in SIZES for d in dtypes])


@pytest.mark.parametrize("name", PRODUCTS)
def test_tiles_that_divide_nothing(name: str):
    """Several blocks along each axis, the last ones in part; groups of programs that end in the middle."""
    schedule = Schedule("products").choose(block_m=16, block_n=32, block_k=32, group=4)
    kernel = kernel_of(name, "f16", 5 * 16 + 3, 75, 70)
    check_triton([case_of(kernel, name, schedule=schedule)])


def test_programs_take_turns_over_tiles():
    """More tiles than programs: each has several, in the same order of rows and columns."""
    kernel = kernel_of("heads", "f16", 40, 300, 16)
    schedule = Schedule("products").choose(block_m=16, block_n=32, block_k=16, turns=108, specialize=True)
    case = case_of(kernel, schedule=schedule)
    (launch,) = emit_case(case).launches
    assert launch.programs == 108 and "for pid in range(tl.program_id(0), 150, 108):" in emit_case(case).text
    check_triton([case])
    few = case_of(kernel_of("linear", "f16", 40, 70, 40), schedule=schedule)
    assert emit_case(few).launches[0].programs == 9 and "for pid" not in emit_case(few).text
    assert "tl.range(0, 40, 16, warp_specialize=True)" in emit_case(few).text
    check_triton([few])


@pytest.mark.parametrize("name", [n for n in PRODUCTS if n != "normed"])
def test_sums_in_parts(name: str):
    """Each part has programs of its own, and what they leave is added up by others."""
    kernel = kernel_of(name, "f16", 17, 33, 64)
    schedule = default_schedule(kernel).choose(split=4)
    case = case_of(kernel, name, schedule=schedule, cuts=cuts_under(kernel, schedule))
    assert len(emit_case(case).launches) == 2
    check_triton([case])
    cut, apart = cut_reductions(kernel, case.cuts)
    program = tile_kernel(cut, schedule, apart)[1]
    assert_computes(verify_program(program), kernel, case.buffers)


def test_sums_over_rows_alone_are_not_in_parts():
    kernel = kernel_of("normed", "f16", 17, 70, 64)
    schedule = default_schedule(kernel).choose(split=4)
    with pytest.raises(ScheduleError, match="no sums of products"):
        emit_case(case_of(kernel, schedule=schedule, cuts=cuts_under(kernel, schedule)))
    assert knobs_of("normed", 16, 512, 8192)["split"] == 1


@pytest.mark.parametrize("size", [(0, 4, 4), (4, 0, 4), (4, 70, 0)], ids=str)
def test_empty_sizes(size: tuple[int, int, int]):
    check_triton([case_of(kernel_of("linear", "f16", *size))])


def test_every_candidate_is_right():
    kernel = kernel_of("linear", "f16", 40, 70, 40)
    assert default_schedule(kernel) in candidates(kernel)
    check_triton([case_of(kernel, f"candidate {k}", schedule=s) for k, s in enumerate(candidates(kernel)[::4])])


def test_operands_that_are_infinite_beyond_the_end_of_a_sum():
    """What is computed of zeros there is no zero: it must not reach the sum."""
    kernel = read("""
    kernel inverse(x: f16[17, 20], w: f16[40, 20]) -> (y: f32[17, 40])
      axes m:17, n:40, k:20
      s[m, n]: f32 = sum(k) ((1.0 / f32(x[m, k])) * f32(w[n, k]))
      y[m, n] <- s[m, n]
    """)
    inputs = inputs_of(kernel, 3)
    inputs["x"] = inputs["x"].abs() + 1
    check_triton([Case("inverse", kernel, inputs)])


@pytest.mark.parametrize("name", PRODUCTS)
def test_tile_programs_compute_their_kernels(name: str):
    """By the interpreter of the tiles, for which bf16 is what it is; programs come back from their text."""
    kernel = kernel_of(name, "bf16", 19, 37, 40)
    program = tile_kernel(kernel, default_schedule(kernel))[1]
    assert any(isinstance(s, Dot) for s in walk_statements(program.body))
    assert parse_program(print_program(verify_program(program))) == program
    assert_computes(program, kernel, inputs_of(kernel, 7))


# --- which they are ----------------------------------------------------------------------------------------------


def test_operands_have_the_type_that_is_multiplied():
    def dtypes(name: str, d: str) -> set[DType]:
        found = find_dots(prepare(kernel_of(name, d, 17, 40, 64)))
        assert found is not None
        return found.dtypes

    assert dtypes("linear", "bf16") == {BF16} and dtypes("linear", "f32") == {F32}
    assert dtypes("packed", "bf16") == {BF16} and dtypes("whole", "bf16") == {I8}
    assert dtypes("normed", "bf16") == {F32}, "a row times a gain is no bf16 unless the sum says so"


def test_scales_leave_the_sum():
    found = find_dots(prepare(kernel_of("channels", "bf16", 17, 40, 64)))
    assert found is not None and found.whole == 1
    assert [str(s.scale) for s in found.found.sums] == ["(t[m] * s[n])"]
    groups = find_dots(prepare(kernel_of("packed", "bf16", 17, 40, 64)))
    assert groups is not None and groups.whole == 2, "the sum, and that of the current group"


def test_one_row_is_no_product_of_tiles():
    for name in ("linear", "packed", "whole"):
        kernel = kernel_of(name, "bf16", 1, 40, 64)
        assert find_dots(prepare(kernel)) is None and default_schedule(kernel).strategy == "reduce"


def test_other_kernels_are_no_products_of_tiles():
    both = """
    kernel both(x: f32[17, 20], w: f32[17, 40, 20]) -> (y: f32[17, 40])
      axes m:17, n:40, k:20
      s[m, n]: f32 = sum(k) (x[m, k] * w[m, n, k])
      y[m, n] <- s[m, n]
    """
    wide = PRODUCTS["whole"].replace("i8[", "i16[").format(d="f32", m=17, n=40, k=20)
    for text in (both, wide):
        assert find_dots(prepare(read(text))) is None
        with pytest.raises(ScheduleError, match="no sums of products"):
            tile_kernel(read(text), Schedule("products"))


def test_tiles_have_sixteen_points_a_side():
    kernel = kernel_of("linear", "f16", 4, 40, 64)
    for name in ("block_m", "block_n", "block_k"):
        with pytest.raises(ScheduleError, match="not a value of this knob"):
            emit_case(case_of(kernel, schedule=Schedule("products").choose(**{name: 8})))


def knobs_of(name: str, m: int, n: int, k: int) -> dict[str, int]:
    schedule = default_schedule(kernel_of(name, "bf16", m, n, k))
    return {knob.name: int(schedule.get(knob)) for knob in (BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPLIT)}


def test_default_tiles_fill_a_gpu_and_fit_registers():
    def sides(name: str, m: int, n: int = 4096) -> tuple[int, int]:
        found = knobs_of(name, m, n, 4096 if name != "packed" else 64)
        tall, wide = found["block_m"], found["block_n"]
        assert tall * wide <= HELD and found["stages"] > 1
        assert (found["stages"] - 1) * found["block_k"] * (tall + wide) * 2 <= SHARED
        return tall, wide

    assert sides("linear", 4096) == (128, 128) and sides("linear", 128) == (64, 64)
    assert sides("linear", 16) == (16, 32) and sides("linear", 2) == (16, 32)
    assert sides("gated", 4096) == (128, 64), "two sums share the registers"
    assert sides("packed", 4096) == (128, 64)


def test_few_programs_have_their_sums_cut():
    def split(*sizes: int) -> int:
        return knobs_of("linear", *sizes)["split"]

    assert split(16, 4096, 4096) == 1 and split(16, 1024, 4096) == 8
    assert split(16, 1024, 640) == 1, "parts of fewer than 512 points"
    assert split(128, 512, 4096) == 1, "rows whose parts are much to write"


# --- what is printed ---------------------------------------------------------------------------------------------

PRINTED = {
    "linear_that_tiles_divide": ("linear", 4096, 4096, 4096),
    "linear_of_odd_sizes": ("linear", 100, 1001, 3000),
    "gated": ("gated", 16, 4096, 4096),
    "heads": ("heads", 512, 512, 64),
    "packed": ("packed", 16, 4096, 64),
    "whole": ("whole", 128, 4096, 4096),
    "normed": ("normed", 128, 4096, 4096),
    "in_parts": ("linear", 16, 1024, 4096),
}


@pytest.mark.parametrize("name", PRINTED)
def test_prints(name: str, golden: Golden):
    kernel = kernel_of(PRINTED[name][0], "bf16", *PRINTED[name][1:])
    schedule = default_schedule(kernel)
    cut, apart = cut_reductions(kernel, cuts_under(kernel, schedule))
    golden(emit_module([emit_kernel(cut, schedule, kernel.name, verify_program, apart)]), "py")


def test_no_masks_where_tiles_divide_the_sizes():
    text = emit_case(case_of(read(PRODUCTS["turned"].format(d="f16", m=128, n=128, k=64)))).text
    assert "mask=" not in text and "tl.where" not in text and "tl.dot(" in text


def test_products_of_f32_are_not_narrowed():
    text = emit_case(case_of(kernel_of("linear", "f32", 16, 40, 64))).text
    assert 'input_precision="ieee"' in text
