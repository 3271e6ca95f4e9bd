"""A condition is known inside a branch of its select: what goes, what stays, and that no value changes."""

from __future__ import annotations

import pytest
import torch

from treadle.ir.interp import run_kernel
from treadle.ir.loops import Store
from treadle.ir.simplify import exact
from treadle.ir.text import parse_kernel
from treadle.passes.assume import conditions_in
from treadle.passes.normalize import normalize

KERNEL = """
kernel k(x: f32[6, 8], z: f32[6, 8]) -> (y: f32[6, 8])
  axes t:6, c:8
  y[t, c] <- {value}
"""
NESTED = {
    "same": ("where((#(c) < 4:i64), (where((#(c) < 4:i64), x[t, c], 0.0) * z[t, c]), 1.0)", 1),
    "else": ("where((#(c) < 4:i64), 1.0, (where((#(c) < 4:i64), x[t, c], z[t, c]) + 2.0))", 1),
    "opposite": ("where((#(c) < 4:i64), exp(where((#(c) >= 4:i64), x[t, c], z[t, c])), 1.0)", 1),
    "both": ("where(((#(c) < 4:i64) & (#(t) < 2:i64)), exp(where((#(t) < 2:i64), x[t, c], z[t, c])), 1.0)", 2),
    "of data": ("where((x[t, c] < 0.0), sqrt(where((x[t, c] < 0.0), z[t, c], x[t, c])), x[t, c])", 1),
    "unordered": ("where((x[t, c] < z[t, c]), 1.0, exp(where((x[t, c] >= z[t, c]), 2.0, 3.0)))", 2),
    "deep": (
        "where((#(c) < 4:i64), exp(where((#(t) < 2:i64), where((#(c) < 4:i64), x[t, c], 0.0),"
        " where((#(c) < 4:i64), 5.0, z[t, c]))), 1.0)",
        2,
    ),
    "other": ("where((#(c) < 4:i64), exp(where((#(c) < 5:i64), x[t, c], 0.0)), 1.0)", 2),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_selects(name: str):
    text, count = NESTED[name]
    kernel = parse_kernel(KERNEL.format(value=text))
    simpler = normalize(kernel, exact)
    (store,) = (s for s in simpler.body if isinstance(s, Store))
    assert len({c for c in conditions_in(store.value) if c.name != "and"}) <= count  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(3)
    x, z = (torch.randn(6, 8, generator=generator) for _ in range(2))
    x[0, :3], z[1, 4:] = float("nan"), float("nan")
    want, got = (run_kernel(k, {"x": x, "z": z})["y"] for k in (kernel, simpler))
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_the_guard_of_a_load_stays():
    text = "where((#(c) < 4:i64), (x[t, c + 4 if (#(c) < 4:i64)] + z[t, c]), 1.0)"
    simpler = normalize(parse_kernel(KERNEL.format(value=text)), exact)
    assert " if " in str(simpler)
