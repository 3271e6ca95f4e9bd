"""Tile registers in the compiler: who asks for them, who is refused, and whole graphs by emulation."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cpp_run import HERE
from torch._dynamo.utils import counters
from torch.nn.functional import gelu, linear, silu

from treadle.codegen.cpp.isa import ISAS, TILES_PERMITTED, Isa, detect_isa
from treadle.codegen.cpp.prelude_tiles import EMULATED
from treadle.compiler import driver, kernels
from treadle.compiler.check import compare
from treadle.compiler.contractions import judge_product
from treadle.compiler.frontend.contractions import Product
from treadle.compiler.kernels import choose_default
from treadle.compiler.reference import in_float64, widen
from treadle.compiler.runtime import amx
from treadle.compiler.settings import settings
from treadle.ir.text import parse_kernel
from treadle.ir.types import BF16, I8, symbol

Tensor = torch.Tensor
HAS = ("amx_tile", "amx_bf16", "amx_int8")
SAPPHIRE = replace(ISAS["avx512"], features=("avx512_vnni", "avx512_bf16", *HAS))
PERMITTED = replace(SAPPHIRE, features=(*SAPPHIRE.features, TILES_PERMITTED))
runs = pytest.mark.skipif("avx512" not in HERE, reason="kernels of tile registers are those of AVX-512 otherwise")
KERNEL = parse_kernel("""
kernel linear(x: bf16[33, 64], w: bf16[64, 64]) -> (y: f32[33, 64])
  axes m:33, n:64, k:64
  s[m, n]: f32 = sum(k) operands bf16 (f32(x[m, k]) * f32(w[n, k]))
  y[m, n] <- s[m, n]
""")


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(5)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Puts a processor and an answer of the system in place; the list has an entry for each time it was asked."""

    def install(isa: Isa, permits: bool = True) -> list[int]:
        asked: list[int] = []
        monkeypatch.setattr(driver, "detect_isa", lambda: isa)
        monkeypatch.setattr(driver, "allow_tiles", lambda: asked.append(1) or permits)
        return asked

    return install


# --- the right to them -------------------------------------------------------------------------------------------


def test_the_system_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[int, ...]] = []

    class System:
        def syscall(self, *arguments: ctypes.c_long) -> int:
            calls.append(tuple(a.value for a in arguments))
            return 0

    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: System())
    amx.allow_tiles.cache_clear()
    assert amx.allow_tiles() and amx.allow_tiles()
    assert calls == [(158, 0x1023, 18)]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    amx.allow_tiles.cache_clear()
    assert not amx.allow_tiles()
    amx.allow_tiles.cache_clear()


@pytest.mark.parametrize(("amx", "autotune", "wanted"), [
    ("never", True, False), ("tuned", False, False), ("tuned", True, True), ("always", False, True),
])  # fmt: skip
def test_who_asks_for_them(processor: Callable[..., list[int]], amx: str, autotune: bool, wanted: bool):
    asked = processor(SAPPHIRE)
    with settings.override(amx=amx, autotune=autotune):
        assert driver.choose_isa() == (PERMITTED if wanted else SAPPHIRE) and len(asked) == wanted


def test_processors_without_them_and_systems_that_refuse(processor: Callable[..., list[int]]):
    with settings.override(amx="always"):
        assert not processor(ISAS["avx512"]) and driver.choose_isa() == ISAS["avx512"]
        assert not driver.choose_isa().permits_tiles
        asked = processor(SAPPHIRE, permits=False)
        assert driver.choose_isa() == SAPPHIRE and asked


# --- who computes ------------------------------------------------------------------------------------------------


def test_schedules_of_kernels_that_were_not_measured():
    plain = choose_default(KERNEL, PERMITTED)
    assert not [c for c in plain.choices if c[0] == "matrix"]
    with settings.override(amx="always"):
        assert choose_default(KERNEL, PERMITTED) == plain.choose(matrix="in_place")
        assert choose_default(KERNEL, SAPPHIRE) == plain


def test_products_that_are_no_librarys_where_asked():
    def product(rows: int, dtype: Any = BF16) -> Product:
        return Product(1, rows, 10_000, 64, (dtype, dtype), (True, True))

    assert "rows" in judge_product(product(500), PERMITTED)
    assert "rows" in judge_product(product(500), SAPPHIRE, tiles=True)
    assert judge_product(product(500), PERMITTED, tiles=True) == ""
    assert judge_product(product(500, I8), PERMITTED, tiles=True) == ""
    dynamic = replace(product(500), rows=symbol("s1"), hints=(500, 10_000))
    assert judge_product(dynamic, PERMITTED, tiles=True)


# --- whole graphs ------------------------------------------------------------------------------------------------


def block(x: Tensor, g: Tensor, u: Tensor, d: Tensor) -> Tensor:
    return x + linear(silu(linear(x, g)) * linear(x, u), d)


@runs
@pytest.mark.usefixtures("empty_cache")
def test_graphs_compute_what_they_did(processor: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch):
    texts: list[str] = []
    emit = kernels.emit_unit
    monkeypatch.setattr(kernels, "emit_unit", lambda *args: texts.append(emit(*args)) or texts[-1])
    here = detect_isa()
    features = (*(f for f in here.features if f not in HAS), *HAS, EMULATED)
    processor(replace(here, features=features))
    rows = [torch.randn(n, 80).bfloat16() for n in (7, 33)]
    weights = [(torch.randn(*s) / 9).bfloat16() for s in ((100, 80), (100, 80), (80, 100))]
    bytes_ = torch.randint(-128, 128, (33, 72), dtype=torch.int8), torch.randint(-128, 128, (48, 72), dtype=torch.int8)
    for x in rows:
        check(lambda x, w, b: gelu(linear(x, w, b)), x, weights[0], torch.randn(100).bfloat16())
        check(block, x, *weights)
    check(lambda a, b: torch.ops.aten._int_mm(a, b.t()), *bytes_)
    assert ["dot_ss<" in t for t in texts] == [False] * 4 + [True]
    assert all("tiles.dot_" in t for t in texts)


def check(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Within eager's error of float64, by kernels on tile registers alone."""
    fast = torch.compile(function, backend="treadle", fullgraph=True, dynamic=False, options={"fallback": "error"})
    with torch.no_grad(), settings.override(amx="always"):
        got, eager = fast(*inputs), function(*inputs)
        with in_float64():
            exact = function(*widen(inputs))
    report = compare(got, eager, exact)
    assert report.ok, str(report)
    assert counters["treadle"]["library"] == 0, dict(counters["treadle"])
