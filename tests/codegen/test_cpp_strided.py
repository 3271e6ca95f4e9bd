"""Every other element along the lanes: wide loads at every size, under conditions, within what is allocated."""

from __future__ import annotations

import pytest
from cpp_run import HERE, Case, check_cases
from cpp_texts import inputs_of

from treadle.codegen.cpp.emit import default_schedule, emit_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.ir.loops import Kernel
from treadle.ir.text import parse_kernel

# Even and odd elements of rows that end with the last one read; and a window of three about each even one, of padded
# rows.
EVEN = """
kernel even(x: {d}[{T}, {E}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- (‹x[t, 2*c]› + ‹x[t, 2*c + 1 if (#(c) < {L}:i64)]›)
"""
WINDOW = """
kernel window(x: {d}[{T}, {E}], k: f32[3]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- (((where((#(c) >= 1:i64), ‹x[t, 2*c - 1 if (#(c) >= 1:i64)]›, 0.0) * k[0]) + (‹x[t, 2*c]› * k[1])) + (where((#(c) < {L}:i64), ‹x[t, 2*c + 1 if (#(c) < {L}:i64)]›, 0.0) * k[2]))
"""  # noqa: E501
SIZES = [1, 5, 16, 17, 40, 61]


def every_other(text: str, count: int, dtype: str) -> Kernel:
    wide = ("", "") if dtype == "f32" else ("f32(", ")")
    made = text.format(T=3, C=count, E=2 * count - 1, L=count - 1, d=dtype)
    return parse_kernel(made.translate({ord("‹"): wide[0], ord("›"): wide[1]}).strip() + "\n")


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("text", [EVEN, WINDOW], ids=["even", "window"])
def test_every_other_element(text: str, isa: str):
    kernels = [every_other(text, count, dtype) for count in SIZES for dtype in ("f32", "bf16", "f16")]
    check_cases([Case(f"strided {k}", kernel, inputs_of(kernel, k)) for k, kernel in enumerate(kernels)], ISAS[isa])


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("isa", [name for name in ISAS if ISAS[name].lanes(4) > 1])
def test_neither_gathers_nor_single_elements(isa: str, dtype: str):
    kernel = every_other(WINDOW, 100, dtype)
    text = emit_kernel(kernel, default_schedule(kernel, ISAS[isa]), ISAS[isa], "kernel").text
    assert f"ld_{dtype}_2(" in text and f"ld_{dtype}_2n(" in text
    assert f"ld_{dtype}_s" not in text and f"ld_{dtype}_g" not in text
