"""What the C++ target prints, as golden files: programs that a person can read."""

from __future__ import annotations

import pytest
from cpp_texts import COLUMNS, EMBED, RMS, SCAN, SCATTER, SOFTMAX, SWIGLU, TURN, kernel_of
from golden import Golden

from treadle.codegen.cpp.emit import default_schedule, emit_kernel, emit_unit
from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.tiling import Choices, build_program, plan_kernel
from treadle.ir.loops import Kernel
from treadle.ir.text_tiles import print_program

KERNELS = {
    "swiglu": kernel_of(SWIGLU, "bf16", 64, 4096),
    "rms_of_odd_rows": kernel_of(RMS, "bf16", 1000, 3001),
    "softmax": kernel_of(SOFTMAX, "f32", 64, 4096),
    "columns": kernel_of(COLUMNS, "f32", 4096, 2048),
    "turn": kernel_of(TURN, "bf16", 256, 512),
    "scan": kernel_of(SCAN, "f32", 64, 4096),
    "embed_of_dynamic_rows": kernel_of(EMBED, "f32", "s0", 1024),
    "scatter": kernel_of(SCATTER, "f32", 64, 4096),
}


def printed(kernel: Kernel, isa: str) -> str:
    return emit_kernel(kernel, default_schedule(kernel, ISAS[isa]), ISAS[isa], kernel.name).text


@pytest.mark.parametrize("name", KERNELS)
def test_prints_for_avx512(name: str, golden: Golden):
    golden(printed(KERNELS[name], "avx512"), "cpp")


@pytest.mark.parametrize("name", ["rms_of_odd_rows", "columns"])
def test_prints_for_avx2(name: str, golden: Golden):
    golden(printed(KERNELS[name], "avx2"), "cpp")


def test_prints_for_any_machine(golden: Golden):
    golden(printed(KERNELS["softmax"], "scalar"), "cpp")


@pytest.mark.parametrize("name", ["softmax", "columns", "turn"])
def test_tiles(name: str, golden: Golden):
    golden(print_program(build_program(plan_kernel(KERNELS[name]), Choices(16))))


def test_a_unit_has_each_function_once():
    isa = ISAS["avx512"]
    kernels = [KERNELS["swiglu"], KERNELS["scan"], kernel_of(EMBED, "i64", 8, 64)]
    sources = [emit_kernel(k, default_schedule(k, isa), isa, f"k{n}") for n, k in enumerate(kernels)]
    text = emit_unit(sources, isa)
    assert text.count("namespace w16 {") == 1 and text.count("namespace w8 {") == 1 and "#include" not in text
    assert text.count("static int run_team(") == 1


def test_printing_is_the_same_each_time():
    for kernel in KERNELS.values():
        assert printed(kernel, "avx512") == printed(kernel, "avx512")
