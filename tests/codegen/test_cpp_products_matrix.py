"""Products on tile registers: right by emulation at odd sizes, with what is computed of operands and results.

No machine here has the registers: the same kernels are printed with those as arrays, and assembled as they are.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from cpp_run import HERE, Case, check_cases
from cpp_texts import inputs_of
from golden import Golden
from law_runs import read
from product_texts import CHANNELS, GATED, HEADS, LINEAR, PACKED, WHOLE
from tiled import assert_computes

from treadle.codegen.cpp.emit import default_schedule, emit_kernel, emit_unit, tile_kernel
from treadle.codegen.cpp.isa import ISAS, TILES_PERMITTED, Isa, detect_isa
from treadle.codegen.cpp.prelude_tiles import EMULATED
from treadle.codegen.products import matrix, panel
from treadle.codegen.products.matrix import MatrixBuilder
from treadle.ir.loops import Kernel
from treadle.ir.text_tiles import print_program
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.tiles import Loop, Program, Put, walk_statements
from treadle.ir.verify import verify_program

HAS = ("amx_tile", "amx_bf16", "amx_int8")
TILES = replace(ISAS["avx512"], features=("avx512_vnni", "avx512_bf16", *HAS, TILES_PERMITTED))
runs = pytest.mark.skipif("avx512" not in HERE, reason="kernels of tile registers are those of AVX-512 otherwise")

GELU = """
kernel gelu(x: bf16[{m}, {k}], w: bf16[{n}, {k}], b: bf16[{n}], r: bf16[{m}, {n}]) -> (y: bf16[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands bf16 (f32(x[m, k]) * f32(w[n, k]))
  t[m, n]: f32 = (s[m, n] + f32(b[n]))
  y[m, n] <- bf16((((t[m, n] * 0.5) * (erf((t[m, n] * 0.70710678)) + 1.0)) + f32(r[m, n])))
"""
NORMED = """
kernel normed(x: bf16[{m}, {k}], q: f32[{m}], g: bf16[{k}], w: bf16[{n}, {k}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands bf16 (((f32(x[m, k]) * q[m]) * f32(g[k])) * f32(w[n, k]))
  y[m, n] <- s[m, n]
"""
GROUPS = """
kernel groups(x: bf16[{m}, 3, {k}], w: i8[{n}, 3, {k}], s: f32[{n}, 3]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, g:3, k:{k}
  a[m, n]: f32 = sum(g, k) operands bf16 ((f32(x[m, g, k]) * s[n, g]) * f32(w[n, g, k]))
  y[m, n] <- a[m, n]
"""
MIXED = """
kernel mixed(x: {left}[{m}, {k}], w: {right}[{n}, {k}], s: f32[{n}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: i32 = sum(k) (i32(x[m, k]) * i32(w[n, k]))
  y[m, n] <- (f32(a[m, n]) * s[n])
"""
TURNED = """
kernel turned(x: bf16[{m}, {k}], w: bf16[{n}, {k}]) -> (y: f32[{n}, {m}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands bf16 (f32(x[m, k]) * f32(w[n, k]))
  y[n, m] <- (s[m, n] * 2.0)
"""
TEXTS = {
    "linear": LINEAR.replace("{d}", "bf16"), "gelu": GELU, "gated": GATED.replace("{d}", "bf16"), "normed": NORMED,
    "heads": HEADS.replace("{d}", "bf16"), "channels": CHANNELS.replace("{d}", "bf16"), "turned": TURNED,
    "packed": PACKED.replace("{d}", "bf16"), "groups": GROUPS, "whole": WHOLE,
    **{f"{a}{b}": MIXED.format(left=a, right=b, m="{m}", n="{n}", k="{k}") for a, b in product(("i8", "u8"), repeat=2)},
}  # fmt: skip
NAMES = {"in_place": list(TEXTS), "packed": [n for n in TEXTS if n not in ("i8i8", "i8u8", "u8u8", "linear", "heads")]}
SIZES = ((7, 33, 64), (16, 47, 32), (17, 64, 66), (33, 130, 100), (2, 16, 200))
ODD = ((19, 34, 131), (100, 71, 160), (3, 5, 9))  # points that fill no word: sums of groups have none such
INSTRUCTIONS = ("tileloadd", "tilestored", "tilezero", "ldtilecfg", "tilerelease")


def kernel_of(name: str, m: int, n: int, k: int) -> Kernel:
    return read(TEXTS[name].format(m=m, n=n, k=k))


def program_of(kernel: Kernel, how: str, isa: Isa = TILES) -> Program:
    return tile_kernel(kernel, default_schedule(kernel, isa).choose(matrix=how), isa).program


def source_of(kernel: Kernel, how: str, isa: Isa = TILES) -> str:
    return emit_kernel(kernel, default_schedule(kernel, isa).choose(matrix=how), isa, "k").text


def has_tiles(program: Program) -> bool:
    return any(isinstance(s, Loop) and s.kind == "tiles" for s in walk_statements(program.body))


def emulated() -> Isa:
    """What this machine has, and tile registers as arrays."""
    here = detect_isa()
    features = [f for f in here.features if f not in HAS]
    return replace(here, features=(*features, *HAS, TILES_PERMITTED, EMULATED))


def run_emulated(kernels: Mapping[str, Kernel], how: str, threads: int = 1) -> None:
    isa = emulated()
    assert all(has_tiles(program_of(k, how, isa)) for k in kernels.values())
    schedules = {name: default_schedule(k, isa).choose(matrix=how) for name, k in kernels.items()}
    check_cases([Case(n, k, draw(k, 3), {}, schedules[n], threads) for n, k in kernels.items()], isa)


def draw(kernel: Kernel, seed: int) -> dict[str, torch.Tensor]:
    """Random inputs: bytes of all values."""
    made = inputs_of(kernel, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, values in made.items():
        if values.dtype in (torch.int8, torch.uint8):
            low = torch.iinfo(values.dtype).min
            made[name] = torch.randint(low, low + 256, values.shape, generator=generator).to(values.dtype)
    return made


# --- results -----------------------------------------------------------------------------------------------------


@runs
@pytest.mark.parametrize("how", ["in_place", "packed"])
def test_emulated_kernels_are_right(how: str):
    """Rows, columns and points that fill no tile; two sums of one operand; computed operands; all kinds of bytes."""
    kernels: dict[str, Kernel] = {}
    for k, name in enumerate(NAMES[how]):
        sizes = SIZES if name in ("packed", "groups") else (*SIZES, *ODD)
        kernels.update({f"{name} {size}": kernel_of(name, *size) for size in sizes[k % 3 :: 3]})
    run_emulated(kernels, how)


@runs
@pytest.mark.parametrize("how", ["in_place", "packed"])
def test_emulated_kernels_of_small_blocks(how: str, monkeypatch: pytest.MonkeyPatch):
    """Several blocks of rows, of columns, and of points, the last ones not whole."""
    make_blocks_small(monkeypatch)
    run_emulated({name: kernel_of(name, 70, 150, 104) for name in NAMES[how][1::2]}, how)
    run_emulated({name: kernel_of(name, 70, 150, 107) for name in ("linear", "u8i8")}, how)


@runs
def test_threads_give_the_same_bits():
    kernel = kernel_of("gelu", 100, 1100, 96)
    for threads in (1, 2, 5):
        run_emulated({f"{threads}": kernel}, "in_place", threads)


@pytest.mark.parametrize("name", list(TEXTS))
def test_programs_compute_their_kernels(name: str, monkeypatch: pytest.MonkeyPatch):
    make_blocks_small(monkeypatch)
    kernel = kernel_of(name, 17, 36, 38)
    for how in ("in_place", "packed"):
        program = program_of(kernel, how)
        assert has_tiles(verify_program(program)) and parse_program(print_program(program)) == program
    assert_computes(program, kernel, draw(kernel, 5))


def make_blocks_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MatrixBuilder, "many", 32)
    monkeypatch.setattr(MatrixBuilder, "block", 64)
    monkeypatch.setattr(matrix, "PACKED", 16 * 32)
    monkeypatch.setattr(panel, "PANEL_BYTES", 4096)


# --- choices -----------------------------------------------------------------------------------------------------


def test_packs_are_a_choice():
    kernel = kernel_of("linear", 33, 64, 64)
    targets = {how: {s.target for s in walk_statements(program_of(kernel, how).body) if isinstance(s, Put)}
               for how in ("in_place", "packed")}  # fmt: skip
    assert targets["packed"] - targets["in_place"] == {"pack0"}
    program = program_of(kernel, "packed")
    (array,) = (a for a in program.scratch if a.name == "pack0")
    assert array.shape == (32, 64 + 32) and array.narrow  # a line behind each column


def test_two_sums_share_the_operands_of_rows():
    text = source_of(kernel_of("gated", 32, 64, 64), "in_place")
    inner = text[text.index("tiles.zero<3>") : text.index("tiles.store<0>")]
    assert inner.count("tiles.load<") == 4 and inner.count("tiles.dot_bf16<") == 4


def test_tiles_are_no_default():
    kernel = kernel_of("linear", 33, 64, 64)
    assert not has_tiles(tile_kernel(kernel, default_schedule(kernel, TILES), TILES).program)


def test_tiles_need_the_registers_and_the_right_to_them():
    kernel = kernel_of("linear", 33, 64, 64)
    for features in (HAS, (TILES_PERMITTED,), ("amx_tile", "amx_int8", TILES_PERMITTED)):
        other = replace(TILES, features=("avx512_bf16", *features))
        assert source_of(kernel, "in_place", other) == source_of(kernel, "none", other)


def test_other_kernels_run_as_they_did():
    for kernel in (
        kernel_of("linear", 1, 64, 64),  # a single row is none
        read(LINEAR.format(d="f32", m=33, n=64, k=64)),
        read(LINEAR.format(d="bf16", m="s0", n=64, k=64)),
        kernel_of("linear", 33, 64, 1),
    ):
        assert source_of(kernel, "in_place") == source_of(kernel, "none")


# --- texts -------------------------------------------------------------------------------------------------------


def test_prints(golden: Golden):
    golden(print_program(program_of(kernel_of("linear", 32, 64, 72), "in_place")), "tiles")
    golden(source_of(kernel_of("linear", 32, 64, 72), "in_place"), "cpp")


@pytest.mark.skipif(not shutil.which("objdump") or not shutil.which("g++"), reason="needs a compiler and objdump")
def test_instructions_are_those_of_the_processor(tmp_path: Path):
    """The kernels that no machine here runs are assembled, for all kinds of operands."""
    wanted = {"linear": "tdpbf16ps", "whole": "tdpbssd", "i8u8": "tdpbusd", "u8i8": "tdpbsud", "u8u8": "tdpbuud"}
    made = {}
    for name in wanted:
        kernel = kernel_of(name, 17, 33, 72)
        schedule = default_schedule(kernel, TILES).choose(matrix="in_place")
        made[name] = emit_kernel(kernel, schedule, TILES, name)
    (tmp_path / "k.cpp").write_text(emit_unit(list(made.values()), TILES))
    flags = [f for f in TILES.compile_flags if f != "-shared"]
    subprocess.run(["g++", "-c", "k.cpp", "-o", "k.o", *flags, "-Wall", "-Werror"], cwd=tmp_path, check=True)
    shown = subprocess.run(["objdump", "-d", "k.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert not [i for i in (*wanted.values(), *INSTRUCTIONS) if f"{i} " not in shown.replace("\n", " \n")]
