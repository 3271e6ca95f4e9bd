"""What the Triton target prints, as golden files: programs that a person can read."""

from __future__ import annotations

import pytest
from cpp_texts import COLUMNS, EMBED, RMS, SCAN, SOFTMAX, SWIGLU, TURN, kernel_of
from golden import Golden

from treadle.codegen.triton.emit import default_schedule, emit_kernel, emit_module
from treadle.ir.text import parse_kernel

KERNELS = {
    "swiglu": kernel_of(SWIGLU, "bf16", 64, 4096),
    "rms_of_odd_rows": kernel_of(RMS, "bf16", 1000, 3001),
    "softmax": kernel_of(SOFTMAX, "f32", 64, 4096),
    "columns": kernel_of(COLUMNS, "f32", 4096, 2048),
    "turn": kernel_of(TURN, "bf16", 256, 512),
    "scan": kernel_of(SCAN, "f32", 64, 4096),
    "embed_of_dynamic_rows": kernel_of(EMBED, "f32", "s0", 1024),
}


@pytest.mark.parametrize("name", KERNELS)
def test_prints(name: str, golden: Golden):
    kernel = KERNELS[name]
    golden(emit_module([emit_kernel(kernel, default_schedule(kernel), kernel.name)]), "py")


def test_printing_is_the_same_each_time():
    for kernel in KERNELS.values():
        texts = {emit_kernel(kernel, default_schedule(kernel), "k").text for _ in range(2)}
        assert len(texts) == 1


def test_a_module_has_each_helper_once():
    kernels = [KERNELS["softmax"], KERNELS["columns"], KERNELS["softmax"]]
    text = emit_module([emit_kernel(k, default_schedule(k), f"k{n}") for n, k in enumerate(kernels)])
    assert text.count("def combine_max_f32(") == 1 and text.count("def k2(") == 1


def test_more_points_than_32_bits_count():
    text = """
    kernel fill(x: f32[3000000000]) -> (y: f32[3000000000])
      axes i:3000000000
      y[i] <- (x[i] + 1.0)
    """
    source = emit_kernel(parse_kernel(text), default_schedule(parse_kernel(text)), "fill").text
    assert "tl.cast(pid, tl.int64)" in source
    short = text.replace("3000000000", "2000000000")
    assert "int64" not in emit_kernel(parse_kernel(short), default_schedule(parse_kernel(short)), "fill").text


def test_rows_whose_distance_needs_64_bits():
    text = """
    kernel rows(x: f32[70000, 70000]) -> (y: f32[70000])
      axes i:70000, j:70000
      s[i]: f32 = sum(j) x[i, j]
      y[i] <- s[i]
    """
    kernel = parse_kernel(text)
    assert ".to(tl.int64)" in emit_kernel(kernel, default_schedule(kernel), "rows").text
