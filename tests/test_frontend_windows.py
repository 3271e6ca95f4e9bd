"""Convolutions over windows of several channels: right in every form where they are ours, and who computes them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from convolution_checks import LAYOUTS, check, follow
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional

import treadle
from treadle.codegen.cpp.isa import ISAS, detect_isa
from treadle.compiler.contractions import NOT_OF_MKL, VECTORS, judge_product
from treadle.compiler.driver import collect
from treadle.compiler.frontend.contractions import Product
from treadle.ir.types import BF16, F16, F32, F64, product, symbol

CONVOLUTIONS = functional.conv1d, functional.conv2d, functional.conv3d
TRANSPOSED = functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
DTYPES = torch.float32, torch.bfloat16, torch.float16
OURS = 0 if detect_isa().vector_bytes >= VECTORS else 1  # calls of a library that a convolution of ours costs


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(8)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=LAST[x.ndim]) if x.ndim in LAST else x.mT.contiguous().mT


def check_own(function: Any, *inputs: Tensor | None, library: int = OURS) -> None:
    counters.clear()
    check(function, *inputs, library=library, gemm="own")


# --- forms -----------------------------------------------------------------------------------------------------------

FORMS = [  # image, window, stride, padding, dilation, channels, outputs, groups
    ((14, 14), (3, 3), 1, 1, 1, 70, 40, 1),
    ((7, 7), (3, 3), 1, 1, 1, 32, 96, 1),
    ((20, 37), (3, 3), (2, 1), (0, 1), 1, 16, 33, 1),
    ((30, 64), (7, 7), 2, 3, 1, 3, 16, 1),
    ((9, 21), (2, 3), 1, 2, 2, 5, 17, 1),
    ((9, 40), (9, 9), 1, 4, 1, 2, 3, 1),
    ((12, 12), (3, 3), 1, 1, 1, 24, 36, 3),
    ((12, 30), (1, 1), (2, 3), 0, 1, 33, 64, 1),
    ((1, 1), (3, 3), 1, 1, 1, 16, 16, 1),
    ((50,), (5,), 2, 3, 1, 40, 24, 2),
    ((4, 5, 19), (3, 2, 3), (1, 2, 1), (1, 0, 1), 1, 6, 20, 1),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms(form: Any):
    image, window, stride, pad, dilation, channels, outputs, groups = form
    dtype = DTYPES[sum(image) % 3]
    x = torch.randn(2, channels, *image).to(dtype)
    w, b = torch.randn(outputs, channels // groups, *window).to(dtype), torch.randn(outputs).to(dtype)
    convolve = CONVOLUTIONS[len(image) - 1]
    check_own(lambda x, w, b: follow(convolve(x, w, b, stride, pad, dilation, groups)), x, w, b)
    check_own(lambda x, w: convolve(x, w, None, stride, pad, dilation, groups), channels_last(x[:1]), channels_last(w))


SPREAD = [  # image, window, stride, padding, padding of the result, dilation, channels, outputs, groups
    ((9, 12), (3, 3), 1, 1, 0, 1, 20, 33, 1),
    ((7, 10), (2, 2), 2, 0, 0, 1, 17, 12, 1),
    ((6, 7), (4, 4), 2, 1, 0, 1, 8, 16, 2),
    ((6, 7), (3, 2), (2, 3), (1, 0), (1, 0), (2, 1), 5, 16, 1),
    ((5, 6), (2, 2), 2, 0, 1, 1, 6, 4, 1),
    ((30,), (5,), 1, 6, 0, 1, 12, 7, 1),
    ((2, 3, 4), (2, 2, 2), 2, 0, 0, 1, 4, 6, 2),
]


@pytest.mark.parametrize("form", SPREAD, ids=str)
def test_transposed(form: Any):
    image, window, stride, pad, more, dilation, channels, outputs, groups = form
    dtype = DTYPES[sum(image) % 3]
    x = torch.randn(2, channels, *image).to(dtype)
    w, b = torch.randn(channels, outputs // groups, *window).to(dtype), torch.randn(outputs).to(dtype)
    convolve = TRANSPOSED[len(image) - 1]
    check_own(lambda x, w, b: follow(convolve(x, w, b, stride, pad, more, groups, dilation)), x, w, b)
    check_own(lambda x, w: convolve(x, w, None, stride, pad, more, groups, dilation), channels_last(x), w)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(150))
def test_every_form(number: int):
    draw = random.Random(number)
    rank, transposed = draw.choice((1, 2, 2, 3)), draw.random() < 0.3
    window = tuple(draw.randint(1, 4 if rank < 3 else 2) for _ in range(rank))
    stride, pad, dilation = (tuple(draw.randint(low, high) for _ in window) for low, high in ((1, 3), (0, 3), (1, 2)))
    groups = draw.choice((1, 1, 2, 3))
    channels, outputs = (groups * draw.choice((1, 2, 3, 8, 17, 32, 33)) for _ in range(2))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
    image = [max(draw.randint(1, 20 if rank < 3 else 7), n, 2 * p + 1) for n, p in zip(reach, pad, strict=True)]
    dtype = draw.choice(DTYPES)
    x = torch.randn(draw.randint(1, 3), channels, *image).to(dtype)
    shape = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    w, b = torch.randn(*shape, *window).to(dtype), torch.randn(outputs).to(dtype)
    x, w = (channels_last(t) if draw.random() < 0.5 else t for t in (x, w))
    if transposed:
        spread = TRANSPOSED[rank - 1]
        check_own(lambda x, w, b: follow(spread(x, w, b, stride, pad, 0, groups, dilation)), x, w, b)
    else:
        convolve = CONVOLUTIONS[rank - 1]
        check_own(lambda x, w, b: follow(convolve(x, w, b, stride, pad, dilation, groups)), x, w, b)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_long_sums_go_block_by_block(layout: torch.memory_format, dtype: torch.dtype):
    """More operands than the nearest caches hold, with rests of rows, columns and of the sum."""
    for channels, outputs, image in ((130, 150, (15, 14)), (300, 40, (4, 60))):
        x, w = torch.randn(1, channels, *image).to(dtype), torch.randn(outputs, channels, 3, 3).to(dtype)
        check_own(lambda x, w: functional.conv2d(x, w, None, 1, 1), *(t.to(memory_format=layout) for t in (x, w)))


def test_no_images_and_inputs_that_are_views():
    w = torch.randn(8, 6, 3, 3)
    check_own(lambda x, w: functional.conv2d(x, w, None, 1, 1), torch.randn(0, 6, 5, 5), w)
    whole = torch.randn(3, 12, 30, 44)
    check_own(lambda x, w: functional.conv2d(x, w, None, 2, 1), whole[:, ::2, 3:20, 1:41], w)
    check_own(lambda x, w: functional.conv2d(x, w, None, 1, 1), channels_last(whole)[:, 3:9, ::2, 5:], w)
    check_own(lambda x, w: functional.conv2d(x, w), whole[:, ::2, :, ::2], w, library=1)
    check_own(lambda x, w: functional.conv2d(x[0, :6], w), whole, w)


# --- what is around them -----------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        for norm in self.norms:
            norm.running_mean, norm.running_var = torch.randn(16), torch.rand(16) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.convs[0](x)))
        return torch.relu(x + self.norms[1](self.convs[1](y)))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_block_is_one_kernel_for_each_convolution(layout: torch.memory_format):
    """What follows rides along, padding is a condition of what reads it, and no window is computed of anew."""
    block: Any = Residual().eval()
    block = block.to(memory_format=layout)
    with collect() as compiled:
        check_own(block, torch.randn(2, 16, 9, 11).to(memory_format=layout))
    if not OURS:
        assert [c.plan.counts["launches"] for c in compiled] == [2]
        stored = [b.shape for c in compiled for k in c.kernels for b in k.kernel.outputs]
        assert {product(s) for s in stored} == {2 * 16 * 9 * 11}, "neither padded nor written out"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients(layout: torch.memory_format):
    found = []
    for compiled in (False, True):
        torch.manual_seed(5)
        module: Any = nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1), nn.SiLU(), nn.ConvTranspose2d(12, 4, 2, 2))
        module = module.to(memory_format=layout)
        x = torch.linspace(-1, 1, 2 * 6 * 10 * 14).reshape(2, 6, 10, 14).to(memory_format=layout).requires_grad_()
        with treadle.settings.override(gemm="own"):
            call: Any = torch.compile(module, backend="treadle", dynamic=False) if compiled else module
            call(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in module.parameters())])
    for eager, ours in zip(*found, strict=True):
        assert eager is not None and ours is not None
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4 * float(eager.abs().max()))


# --- who computes them -------------------------------------------------------------------------------------------

WINDOWS = Product(1, 3136, 64, 576, (F32, F32), (False, False), across=(True, False), windows=True)
PLAIN = ISAS["avx512"]
AMD = replace(PLAIN, vendor=NOT_OF_MKL)
FEW = replace(WINDOWS, rows=49, columns=512, depth=4608, dense=(True, False))
WITH_BF16 = replace(PLAIN, features=(*PLAIN.features, "avx512_bf16"))


@pytest.mark.parametrize("windows, isa, gemm, reason", [
    (WINDOWS, PLAIN, "auto", "a library is as quick"),
    (WINDOWS, PLAIN, "own", ""),
    (WINDOWS, PLAIN, "library", "the setting gemm"),
    (WINDOWS, ISAS["scalar"], "own", "no vector instructions"),
    (replace(WINDOWS, dtypes=(F16, F16)), WITH_BF16, "auto", ""),
    (replace(FEW, dense=(False, False)), AMD, "auto", "a library is as quick"),
    (replace(FEW, batch=2), AMD, "auto", "a library is as quick"),
    (FEW, AMD, "auto", ""),
    (FEW, PLAIN, "auto", "a library is as quick"),
    (replace(WINDOWS, dtypes=(BF16, BF16)), PLAIN, "auto", ""),
    (replace(WINDOWS, dtypes=(BF16, BF16)), WITH_BF16, "auto", "a library is as quick"),
    (replace(WINDOWS, dtypes=(F64, F64)), PLAIN, "own", "other types"),
    (replace(WINDOWS, rows=symbol("s0")), PLAIN, "own", "dynamic sizes"),
    (replace(WINDOWS, windows=False, dense=(True, True)), PLAIN, "library", "the setting gemm"),
])  # fmt: skip
def test_who_computes(windows: Product, isa: Any, gemm: str, reason: str):
    found = judge_product(windows, isa, gemm)
    assert reason in found and bool(found) is bool(reason)


def test_the_setting_decides():
    x, w = torch.randn(1, 6, 9, 9), torch.randn(8, 6, 3, 3)
    for gemm, library in (("auto", 1), ("library", 1), ("own", OURS)):
        counters.clear()
        torch._dynamo.reset()
        check(lambda x, w: torch.relu(functional.conv2d(x, w)), x, w, library=library, gemm=gemm)
