"""Convolutions: right at every stride, padding, dilation and layout, ours where that is said, a library's elsewhere."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import convolution_checks
import pytest
import torch
from convolution_checks import LAYOUTS, Function, follow
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.nn.functional import conv1d, conv2d, conv3d

from treadle.codegen.cpp.isa import detect_isa
from treadle.compiler.contractions import VECTORS
from treadle.compiler.driver import collect
from treadle.ir.types import BF16

OURS = 0 if detect_isa().vector_bytes >= VECTORS else 1  # calls of a library that a convolution of ours costs


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(3)


def check(function: Function, *inputs: Tensor | None, library: int | None = OURS) -> None:
    convolution_checks.check(function, *inputs, library=library)


def depthwise(x: Tensor, window: tuple[int, ...], bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    channels = x.shape[1]
    weight = torch.randn(channels, 1, *window).to(x.dtype)
    return x, weight, torch.randn(channels).to(x.dtype) if bias else None


# --- depthwise -------------------------------------------------------------------------------------------------------

FORMS = [  # image, window, stride, padding, dilation
    ((7, 9), (3, 3), 1, 1, 1),
    ((20, 37), (3, 3), 1, 1, 1),
    ((20, 37), (3, 3), 1, (0, 1), 1),
    ((13, 50), (5, 5), 1, 2, 1),
    ((9, 21), (3, 3), 1, 2, 2),
    ((4, 19), (2, 4), 1, (1, 3), 1),
    ((1, 1), (3, 3), 1, 1, 1),
    ((2, 3), (7, 7), 1, 3, 1),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_depthwise(form: Any):
    image, window, stride, pad, dilation = form
    dtypes = (torch.bfloat16, torch.float32) if image[0] % 2 else (torch.float32, torch.bfloat16)
    for layout, (batch, channels), bias, dtype in zip(LAYOUTS, ((2, 5), (3, 37)), (True, False), dtypes, strict=True):
        counters.clear()
        x = torch.randn(batch, channels, *image).to(dtype).to(memory_format=layout)
        check(
            lambda x, w, b, c=channels: follow(conv2d(x, w, b, stride, pad, dilation, c)),
            *depthwise(x, window, bias),
        )


@pytest.mark.parametrize("form", [((13, 22), 3, 1, 1), ((14, 15), 5, 2, 1), ((12, 25), 3, 2, 2)], ids=str)
def test_depthwise_by_steps_of_two(form: Any):
    image, window, pad, dilation = form
    last = torch.randn(2, 33, *image).to(memory_format=torch.channels_last)
    check(lambda x, w, b: conv2d(x, w, b, 2, pad, dilation, 33), *depthwise(last, (window, window)))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        counters.clear()
        first = last.to(dtype).contiguous()  # neighbours of a result are two apart
        check(lambda x, w, b: conv2d(x, w, b, 2, pad, dilation, 33), *depthwise(first, (window, window)))


def test_depthwise_by_larger_steps_is_the_librarys():
    x = torch.randn(2, 33, 16, 31)  # neighbours of a result are far apart
    check(lambda x, w, b: conv2d(x, w, b, 3, 1, 1, 33), *depthwise(x, (3, 3)), library=1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_wide_images_of_many_channels(layout: torch.memory_format):
    """Channels in parts, whose windows stay in the nearest cache, and several points at once with a rest."""
    x = torch.randn(1, 200, 11, 61).to(memory_format=layout)
    check(lambda x, w, b: torch.relu(conv2d(x, w, b, 1, 1, 1, 200)), *depthwise(x, (3, 3)))
    check(lambda x, w, b: conv2d(x, w, b, (1, 2), (2, 0), 1, 200), *depthwise(x, (5, 3)), library=None)


def test_along_one_dimension_and_three():
    check(lambda x, w, b: conv1d(x, w, b, 1, 3, 1, 40)[..., :50], *depthwise(torch.randn(2, 40, 50), (4,)))
    turned = torch.randn(2, 50, 40).transpose(1, 2)
    check(lambda x, w, b: functional.silu(conv1d(x, w, b, 1, 3, 1, 40)), *depthwise(turned, (4,)))
    check(lambda x, w, b: conv3d(x, w, b, 1, 1, 1, 3), *depthwise(torch.randn(2, 3, 4, 5, 19), (3, 3, 3)))


def test_no_images():
    x = torch.randn(0, 6, 8, 8)
    check(lambda x, w, b: conv2d(x, w, b, 1, (1, 2), 1, 6), *depthwise(x, (3, 3)), library=None)
    check(lambda x, w: conv2d(x, w), x.to(memory_format=torch.channels_last), torch.randn(4, 6, 1, 1), library=None)


def test_inputs_that_are_views():
    x = torch.randn(3, 12, 30, 44)[:, ::2, 3:20, 1:41]
    check(lambda x, w, b: conv2d(x, w, b, 1, 1, 1, 6), *depthwise(x, (3, 3)))
    wide = torch.randn(3, 6, 17, 80)[..., ::2]
    check(lambda x, w, b: conv2d(x, w, b, 1, 1, 1, 6), *depthwise(wide, (3, 3)), library=None)


def test_what_is_computed_before_windows_is_computed_once():
    """A batch norm and an activation before a depthwise convolution: their values are stored, not made nine times."""
    norm = nn.BatchNorm2d(24).eval()
    norm.running_mean, norm.running_var = torch.randn(24), torch.rand(24) + 0.5
    for layout in LAYOUTS:
        counters.clear()
        block = nn.Sequential(norm, nn.ReLU6(), nn.Conv2d(24, 24, 3, padding=1, groups=24), norm, nn.Hardswish())
        check(block.eval(), torch.randn(1, 24, 40, 40).to(memory_format=layout))
        assert counters["treadle"]["launches"] == 2 or OURS, dict(counters["treadle"])


def test_values_before_large_windows_are_stored_not_parts_of_sums():
    """What 25 terms read is kept, of which each would otherwise make the expression too long to be one kernel's."""
    norm = nn.BatchNorm2d(24).eval()
    norm.running_mean, norm.running_var = torch.randn(24), torch.rand(24) + 0.5
    block = nn.Sequential(norm, nn.Hardswish(), nn.Conv2d(24, 24, 5, padding=2, groups=24), norm, nn.ReLU())
    x = torch.randn(1, 24, 20, 20).bfloat16().to(memory_format=torch.channels_last)
    with collect() as compiled:
        check(block.bfloat16().eval(), x)
    if not OURS:
        stored = [b for c in compiled for k in c.kernels for b in k.kernel.outputs if prod(b.shape) == x.numel()]
        assert [b.dtype for b in stored] == [BF16, BF16]


# --- pointwise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(24, 144, 5, 7), (70, 9, 1, 1), (16, 256, 40, 33)], ids=str)
def test_pointwise(sizes: tuple[int, int, int, int], dtype: torch.dtype):
    channels, outputs, *image = sizes
    w, b = torch.randn(outputs, channels, 1, 1).to(dtype), torch.randn(outputs).to(dtype)
    x = torch.randn(2, channels, *image).to(dtype).to(memory_format=torch.channels_last)
    check(lambda x, w, b: follow(conv2d(x, w, b)), x, w, b, library=None)
    check(lambda x, w: conv2d(x, w), x.contiguous(), w, library=None)


@pytest.mark.parametrize("rows, columns", [(3136, 64), (600, 150), (520, 16), (1000, 33), (224, 672)])
def test_results_that_lie_along_the_smaller_operand(rows: int, columns: int):
    """More rows than the other operand has: blocks of them with a rest share what was turned once.

    Few rows, many columns: blocks of columns that are no whole packs.
    """
    x, w, b = torch.randn(rows, 70), torch.randn(columns, 70), torch.randn(columns)
    check(lambda x, w, b: torch.relu(functional.linear(x, w, b) * b + 1), x, w, b, library=None)


# --- left to the library ---------------------------------------------------------------------------------------------

LEFT = {
    "full": lambda x: conv2d(x, torch.ones(8, 6, 3, 3), None, 1, 1),
    "groups": lambda x: conv2d(x, torch.ones(6, 2, 3, 3), None, 2, 1, 1, 3),
    "several each": lambda x: conv2d(x, torch.ones(12, 1, 3, 3), None, 1, 1, 1, 6),
    "transposed": lambda x: functional.conv_transpose2d(x, torch.ones(6, 4, 2, 2), stride=2),
    "one image": lambda x: conv2d(x[0], torch.ones(8, 6, 3, 3)),
    "wide windows": lambda x: conv2d(x, torch.ones(6, 1, 9, 9), None, 1, 4, 1, 6),
}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_left_to_the_library(name: str, layout: torch.memory_format):
    function = LEFT[name]
    x = torch.randn(2, 6, 10, 12).to(memory_format=layout)
    check(lambda x: torch.relu(function(x)) + 1, x, library=1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_around_library_calls_no_layout_is_changed(layout: torch.memory_format):
    """Results of kernels lie as the next call was traced to find them: nothing is copied between the two."""
    parts = [(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(2)]
    block: Any = nn.Sequential(*parts[0], *parts[1]).eval()
    block = block.to(memory_format=layout)
    with collect() as compiled:
        check(block, torch.randn(2, 16, 9, 11).to(memory_format=layout), library=2)
    assert [c.plan.counts["launches"] for c in compiled] == [2], "one kernel after each call"
    assert "_copy(" not in compiled[0].plan.text


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients(layout: torch.memory_format):
    def build() -> Any:
        torch.manual_seed(5)
        deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        return nn.Sequential(nn.Conv2d(6, 12, 1), nn.ReLU(), deep, nn.SiLU(), nn.Conv2d(12, 4, 3)).double()

    found = []
    for compiled in (False, True):
        module = build().float().to(memory_format=layout)
        x = torch.linspace(-1, 1, 2 * 6 * 10 * 14).reshape(2, 6, 10, 14).to(memory_format=layout).requires_grad_()
        call = torch.compile(module, backend="treadle", dynamic=False) if compiled else module
        call(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in module.parameters())])
    for eager, ours in zip(*found, strict=True):
        assert eager is not None and ours is not None
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4 * float(eager.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("window, stride, pad, dilation", list(product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2))))
def test_every_form(window: int, stride: int, pad: int, dilation: int):
    for layout, dtype in product(LAYOUTS, (torch.float32, torch.bfloat16)):
        x = torch.randn(2, 19, 14, 23).to(dtype).to(memory_format=layout)
        check(
            lambda x, w, b: conv2d(x, w, b, stride, pad, dilation, 19) + 1, *depthwise(x, (window, window)),
            library=None,
        )  # fmt: skip
