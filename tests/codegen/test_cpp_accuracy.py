"""Long float sums on the C++ target lose no more than eager's do."""

from __future__ import annotations

import ctypes

import pytest
import torch
from cpp_run import HERE, compile_unit
from cpp_texts import kernel_of

from treadle.codegen.cpp.emit import default_schedule, emit_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.ir.types import evaluate

ROWS = """
kernel rows(x: f32[{T}, {C}]) -> (y: f32[{T}])
  axes t:{T}, c:{C}
  s[t]: f32 = sum(c) x[t, c]
  y[t] <- s[t]
"""
COLUMNS = """
kernel columns(x: f32[{T}, {C}]) -> (y: f32[{C}])
  axes t:{T}, c:{C}
  s[c]: f32 = sum(t) x[t, c]
  y[c] <- s[c]
"""
RUNNING = """
kernel running(x: f32[{T}, {C}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}
  s[t, c]: f32 = scan sum(c) inclusive x[t, c]
  y[t, c] <- s[t, c]
"""
RUNNING_DOWN = """
kernel running_down(x: f32[{T}, {C}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}
  s[t, c]: f32 = scan sum(t) inclusive x[t, c]
  y[t, c] <- s[t, c]
"""
STORED = """
kernel stored(x: {d}[{T}, {C}]) -> (y: {d}[{C}], z: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  s[c]: f32 = sum(t) x[t, c]
  z[t, c] <- (x[t, c] * 2.0)
  y[c] <- s[c]
"""
# The maximum is x: it keeps t and c two axes.
TOTAL = """
kernel total(x: f32[{T}, {C}]) -> (y: f32[1])
  axes t:{T}, c:{C}
  s[]: f32 = sum(t, c) max(x[t, c], (f32(#(c)) - 99999.0))
  y[0] <- s[] for ()
"""
LONG = 262_144
FORMS = {
    "rows": (ROWS, (3, LONG), lambda x: x.sum(1)),
    "total of short rows": (TOTAL, (LONG, 32), lambda x: x.sum().reshape(1)),
    "total of a column": (TOTAL, (LONG, 1), lambda x: x.sum().reshape(1)),
    "columns": (COLUMNS, (LONG, 3), lambda x: x.sum(0)),
    "few long columns": (COLUMNS, (4096, 40), lambda x: x.sum(0)),
    "columns beside a store": (STORED, (501, 40), lambda x: x.sum(0)),
    "running": (RUNNING, (2, LONG), lambda x: x.cumsum(1)),
    "running down": (RUNNING_DOWN, (LONG, 3), lambda x: x.cumsum(0)),
}


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dynamic", [False, True])
def test_sums_are_as_exact_as_eager(isa: str, dynamic: bool):
    names = ("s0", "s1")
    kernels = [kernel_of(text, "f32", *(names if dynamic else shape)) for text, shape, _ in FORMS.values()]
    sources = [emit_kernel(k, default_schedule(k, ISAS[isa]), ISAS[isa], f"{k.name}{n}") for n, k in enumerate(kernels)]
    library = compile_unit(sources, ISAS[isa])
    for (name, (_, shape, eager)), kernel, source in zip(FORMS.items(), kernels, sources, strict=True):
        for shift in (0.0, 1.0):  # around zero, and all of one sign
            x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + shift
            y = torch.empty_like(eager(x))
            other = torch.empty_like(x)  # STORED writes that too
            args = (ctypes.c_void_p * 3)(x.data_ptr(), y.data_ptr(), other.data_ptr())
            known: dict[str, int] = dict(zip(names, shape, strict=True))
            sizes = (ctypes.c_long * 2)(*[known[s] for s in kernel.symbols])
            work = torch.empty(evaluate(source.workspace, known) + 64, dtype=torch.uint8)
            function = getattr(library, source.symbol)
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
            assert function(args, sizes, -(-work.data_ptr() // 64) * 64, 1) == 0
            exact = eager(x.double())
            ours, theirs = ((v.double() - exact).abs().max().item() for v in (y, eager(x)))
            # A lone sum around zero may be small by luck: its partial sums are as large as a random walk.
            scale = max(exact.abs().max().item(), 2 * x.numel() ** 0.5 if exact.numel() == 1 else 0.0)
            ulp = scale * 2.0**-23
            assert ours <= max(1.5 * theirs, 2 * ulp), f"{name} on {isa}: {ours} against {theirs}"


PEAKS = """
kernel peaks(x: f32[{T}, {C}], d: i64[{T}]) -> (y: f32[1])
  axes t:{T}, c:{C}
  m[t]: f32 = max(c) x[t, c]
  s[]: f32 = sum(t) (m[t] - x[t, at(d[t], {C})])
  y[0] <- s[] for ()
"""


def test_a_sum_of_one_number_at_a_time_is_rounded_once():
    """It may as well run in f64."""
    isa = "scalar"
    kernel = kernel_of(PEAKS, "f32", 20_000, 40)
    source = emit_kernel(kernel, default_schedule(kernel, ISAS[isa]), ISAS[isa], "peaks")
    x = torch.randn(20_000, 40, generator=torch.Generator().manual_seed(1))
    d = torch.randint(0, 40, (20_000,), generator=torch.Generator().manual_seed(2))
    y = torch.full((1,), float("nan"))
    function = getattr(compile_unit([source], ISAS[isa]), source.symbol)
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    work = torch.empty(evaluate(source.workspace, {}) + 64, dtype=torch.uint8)
    assert "f64 s_wide" in source.text
    named = {"x": x, "d": d, "y": y}
    args = (ctypes.c_void_p * 3)(*[named[n].data_ptr() for n in source.buffers])
    assert function(args, None, -(-work.data_ptr() // 64) * 64, 1) == 0
    rows = x.amax(1) - x.gather(1, d[:, None])[:, 0]  # rounded as the kernel rounds them
    assert y.item() == rows.double().sum().float().item()
