"""What tests of convolutions share: compiled results have eager's strides and are as near to float64 as it is."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional

from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64, widen

LAYOUTS = (torch.contiguous_format, torch.channels_last)
Function = Callable[..., Any]


def check(function: Function, *inputs: Tensor | None, library: int | None, gemm: str = "auto") -> None:
    """Compiled results have eager's strides and are within its error of float64; so many calls are the library's."""
    options: Any = {"fallback": "error", "gemm": gemm}
    fast = torch.compile(function, backend="treadle", fullgraph=True, dynamic=False, options=options)
    with torch.no_grad():
        got, eager = fast(*inputs), function(*inputs)
        with in_float64():
            wide = deepcopy(function).double() if isinstance(function, nn.Module) else function
            exact = wide(*widen(inputs))
    report = compare(got, eager, exact)
    assert report.ok, str(report)
    strides = zip(got.shape, got.stride(), eager.stride(), strict=True)
    assert all(n == 1 or a == b for n, a, b in strides) or not eager.numel()
    assert library is None or counters["treadle"]["library"] == library, dict(counters["treadle"])
    assert not counters["treadle"]["opaque"]


def follow(y: Tensor) -> Tensor:
    """Something after a convolution, without which libraries keep some of 16 bits."""
    return functional.hardswish(y * 0.5 + 1)
