"""What the Triton target prints, as golden files: programs that a person can read."""

from __future__ import annotations

import pytest
from cpp_texts import COLUMNS, EMBED, RMS, SCAN, SOFTMAX, SWIGLU, TURN, kernel_of
from golden import Golden

from treadle.codegen.triton.emit import default_schedule, emit_kernel, emit_module

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
