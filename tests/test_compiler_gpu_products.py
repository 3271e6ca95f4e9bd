"""Products of matrices on a GPU: which are kernels of ours, that those are right, and what GPUs need for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gpu_fake import FakeGpu, build_driver, install
from torch._dynamo.utils import counters

from treadle.codegen.triton.emit import default_schedule, emit_module
from treadle.codegen.triton.targets import TARGETS
from treadle.compiler.contractions_gpu import FEW_ROWS, judge_gpu_product
from treadle.compiler.driver import collect
from treadle.compiler.frontend.contractions import Product
from treadle.compiler.gpu_kernels import print_gpu_kernel
from treadle.compiler.runtime.gpu.cross import Binary, Request, compile_launches
from treadle.ir.loops import Kernel
from treadle.ir.text import parse_kernel
from treadle.ir.types import BF16, F16, F32, F64, I8, symbol
from treadle.passes.fuse import Launch

F = torch.nn.functional
Tensor = torch.Tensor


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, library: Path, empty_cache: Path) -> FakeGpu:
    counters.clear()
    return install(monkeypatch, library)


# --- which they are ----------------------------------------------------------------------------------------------

PLAIN = Product(1, 16, 4096, 4096, (BF16, BF16), (True, True))
UNPACKED = replace(PLAIN, unpacked=(False, True))


@pytest.mark.parametrize(("product", "reason"), [
    (PLAIN, "as they are"),
    (replace(PLAIN, windows=True), "windows of several channels"),
    (UNPACKED, ""),
    (replace(UNPACKED, dtypes=(F16, F16)), ""),
    (replace(UNPACKED, dtypes=(F32, F32)), "as they are"),
    (replace(UNPACKED, rows=FEW_ROWS), ""),
    (replace(UNPACKED, rows=FEW_ROWS + 1), "more than 64 rows"),
    (replace(UNPACKED, rows=4096, columns=16), "as they are"),  # the smaller operand is the one that is unpacked
    (replace(UNPACKED, rows=4096, columns=16, unpacked=(True, False)), ""),
    (replace(UNPACKED, rows=symbol("s0")), "dynamic sizes"),
    (replace(UNPACKED, dtypes=(F64, F64)), "other types"),
    (replace(UNPACKED, dtypes=(BF16, F32)), "other types"),
])  # fmt: skip
def test_what_libraries_keep(product: Product, reason: str):
    found = judge_gpu_product(product, "auto")
    assert reason in found and bool(found) is bool(reason)


def test_the_setting_overrules_costs_and_not_what_can_be_computed():
    assert judge_gpu_product(PLAIN, "own") == "" and judge_gpu_product(replace(PLAIN, dtypes=(I8, I8)), "own") == ""
    assert "setting gemm" in judge_gpu_product(UNPACKED, "library")
    assert "dynamic" in judge_gpu_product(replace(PLAIN, rows=symbol("s0")), "own")
    assert "other types" in judge_gpu_product(replace(PLAIN, dtypes=(F64, F64)), "own")


# --- that they are right -----------------------------------------------------------------------------------------


def random(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def bytes_of(*shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
    low, high = (-128, 128) if dtype is torch.int8 else (0, 256)
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


def w8a16(x: Tensor, q: Tensor, s: Tensor) -> Tensor:
    return F.linear(x, q.to(x.dtype) * s.unsqueeze(-1))


def w4a16(x: Tensor, q: Tensor, s: Tensor) -> Tensor:
    whole = torch.stack([q & 15, q >> 4], -1).view(q.shape[0], -1, 32)
    return F.gelu(F.linear(x, ((whole.to(x.dtype) - 8) * s.unsqueeze(-1)).view(q.shape[0], -1)))


def gated(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return F.silu(x @ a.t()) * (x @ b.t())


def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.relu(torch.addmm(b, x, w)) + 1


def whole(x: Tensor, q: Tensor) -> Tensor:
    product = torch._int_mm(x, q.t()) if x.dtype is torch.int8 else x @ q.t()  # pyright: ignore[reportPrivateImportUsage]
    return product.to(torch.float32) * 0.5


def heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(torch.bmm(q, k.transpose(1, 2)) * 0.25, -1) @ v


def image(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.relu(F.conv2d(x, w, b, (1, 2), 1, (1, 2), 2)) + 1


CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], str, bool]] = {
    "w8a16": (w8a16, (random(3, 64), bytes_of(40, 64), random(40) / 64), "auto", True),
    "w4a16": (w4a16, (random(17, 64), bytes_of(40, 32, dtype=torch.uint8), random(40, 2)), "auto", True),
    "w4a16 of one row": (w4a16, (random(1, 64), bytes_of(40, 32, dtype=torch.uint8), random(40, 2)), "auto", False),
    "gated": (gated, (random(17, 40), random(70, 40), random(70, 40, seed=1)), "own", True),
    "layer": (layer, (random(33, 70), random(70, 40), random(40)), "own", True),
    "layer of f32": (layer, tuple(random(*s, dtype=torch.float32) for s in ((3, 70), (70, 40), (40,))), "own", True),
    "bytes": (whole, (bytes_of(20, 64), bytes_of(40, 64)), "own", True),
    "image": (image, (random(2, 8, 9, 7), random(20, 4, 3, 2), random(20)), "own", True),
    "image of channels last": (
        image,
        (random(2, 9, 7, 8).permute(0, 3, 1, 2), random(20, 4, 3, 2), random(20)),
        "own",
        True,
    ),
    "image of f32": (
        image,
        tuple(random(*s, dtype=torch.float32) for s in ((2, 8, 9, 7), (20, 4, 3, 2), (20,))),
        "own",
        True,
    ),
    "heads": (heads, (random(3, 20, 16), random(3, 37, 16, seed=1), random(3, 37, 16, seed=2)), "own", True),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_kernels_and_right(gpu: FakeGpu, name: str):
    function, inputs, gemm, tiled = CASES[name]
    with collect() as found:
        executable = gpu.compile(function, inputs, gemm=gemm)
    (got,) = executable(*[x.clone() for x in inputs])
    assert not gpu.errors and counters["treadle"]["library"] == 0
    kernels = [s.kernel for c in found for s in c.fused.steps if isinstance(s, Launch)]
    assert any(default_schedule(k).strategy == "products" for k in kernels) is tiled
    want = function(*[x.double() if x.is_floating_point() or gemm == "own" else x for x in inputs])
    room = 8 * torch.finfo(inputs[0].dtype if inputs[0].is_floating_point() else torch.float32).eps
    torch.testing.assert_close(got.double(), want.double(), rtol=room, atol=room * float(want.abs().max()))


def test_a_library_keeps_plain_products(gpu: FakeGpu):
    function, inputs, *_ = CASES["layer"]
    gpu.compile(function, inputs)
    assert counters["treadle"]["library"] == 1
    function, inputs, *_ = CASES["w8a16"]
    gpu.compile(function, inputs, gemm="library")
    assert counters["treadle"]["library"] == 2


# --- what GPUs need ----------------------------------------------------------------------------------------------

LINEAR = """
kernel linear(x: {d}[{m}, 4096], w: {d}[4096, 4096]) -> (y: {d}[{m}, 4096])
  axes m:{m}, n:4096, k:4096
  s[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(w[n, k]))
  y[m, n] <- {d}(s[m, n])
"""
GATED = """
kernel gated(x: {d}[{m}, 4096], g: {d}[4096, 4096], u: {d}[4096, 4096]) -> (y: {d}[{m}, 4096])
  axes m:{m}, n:4096, k:4096
  s[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(g[n, k]))
  t[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(u[n, k]))
  y[m, n] <- {d}(((s[m, n] * sigmoid(s[m, n])) * t[m, n]))
"""
W4A16 = """
kernel packed(x: {d}[{m}, 32, 64, 2], q: u8[4096, 32, 64], s: {d}[4096, 32]) -> (y: {d}[{m}, 4096])
  axes m:{m}, n:4096, g:32, j:64, d:2
  a[m, n]: f32 = sum(g, j, d) operands {d} ((f32(x[m, g, j, d]) * f32(s[n, g])) * (where((#(d) < 1:i64),
    f32(u8((i32(q[n, g, j]) & 15:i32))), f32(u8((i32(q[n, g, j]) >> 4:i32)))) - 8.0))
  y[m, n] <- {d}(a[m, n])
"""
W8A8 = """
kernel whole(x: i8[{m}, 4096], w: i8[4096, 4096], s: f32[4096], t: f32[{m}]) -> (y: {d}[{m}, 4096])
  axes m:{m}, n:4096, k:4096
  a[m, n]: i32 = sum(k) (i32(x[m, k]) * i32(w[n, k]))
  y[m, n] <- {d}(((f32(a[m, n]) * t[m]) * s[n]))
"""
IMAGE = """
kernel image(x: {d}[{m}, 14, 128], w: {d}[256, 3, 3, 128]) -> (y: {d}[{m}, 14, 256])
  axes i:{m}, j:14, n:256, t:3, u:3, k:128
  s[i, j, n]: f32 = sum(t, u, k) operands {d} (f32({d}(
    where(((#(i + t) < {m}:i64) & ((#(j + u) >= 1:i64) & (#(j + u) < 15:i64))),
      f32(x[i + t, j + u - 1, k if ((#(i + t) < {m}:i64) & ((#(j + u) >= 1:i64) & (#(j + u) < 15:i64)))]),
      0.0))) * f32(w[n, t, u, k]))
  y[i, j, n] <- {d}(s[i, j, n])
"""
TEXTS = {"image": IMAGE, "linear": LINEAR, "gated": GATED, "w4a16": W4A16, "w8a8": W8A8}


def problems_of(kernels: dict[str, Kernel]) -> list[str]:
    """What does not compile for a target, spills, or needs more shared memory than there is."""
    requests: list[Request] = []
    names: list[str] = []
    for name, kernel in kernels.items():
        source = print_gpu_kernel(kernel, f"{len(requests):032x}")
        for launch in source.launches:
            requests += [Request(emit_module([source]), launch, t) for t in TARGETS.values()]
            names += [f"{name} {t}" for t in TARGETS]
    found = zip(names, requests, compile_launches(requests), strict=True)
    return [f"{name}: {x}" for name, r, x in found
            if not isinstance(x, Binary) or x.stack or x.shared > r.target.shared]  # fmt: skip


def kernels_of(*rows: int) -> dict[str, Kernel]:
    return {f"{n} {m}": parse_kernel(text.format(d="bf16", m=m)) for n, text in TEXTS.items() for m in rows}


def test_small_products_compile_for_every_target():
    assert problems_of({n: k for n, k in kernels_of(16).items() if n in ("image 16", "linear 16", "w4a16 16")}) == []


@pytest.mark.slow
def test_products_compile_for_every_target_without_a_stack():
    assert problems_of(kernels_of(1, 16, 128, 4096)) == []


def test_too_much_shared_memory_is_found():
    kernel = kernels_of(4096)["linear 4096"]
    schedule = default_schedule(kernel).choose(block_n=256, block_k=128, stages=4)
    source = print_gpu_kernel(kernel, "0" * 32, schedule)
    (found,) = compile_launches([Request(emit_module([source]), source.launches[0], TARGETS["sm_120"])])
    assert not isinstance(found, Binary) or found.shared > TARGETS["sm_120"].shared
