"""Rows that break careless kernels: of infinities, of NaN, of denormals, of one element or none. Eager is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from treadle.compiler.check import compare

Tensor = torch.Tensor
INF, NAN, TINY = float("inf"), float("nan"), 1e-42
COLUMNS = 70

ROWS: dict[str, Callable[[Tensor], Any]] = {
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "cross_entropy": lambda x: functional.cross_entropy(x, torch.zeros(len(x), dtype=torch.int64), reduction="none"),
    "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: functional.rms_norm(x, x.shape[-1:], eps=1e-6),
    "var": lambda x: torch.var(x, -1, correction=0),  # the mean of var_mean is NaN in eager where there are infinities
    "max": lambda x: tuple(x.max(-1)),
    "argmin": lambda x: x.argmin(-1),
    "sum_and_mean": lambda x: (x.sum(-1), x.mean(-1)),
    "cumsum": lambda x: x.cumsum(-1),
    "exp_and_sigmoid": lambda x: (x.exp(), x.sigmoid(), functional.softplus(x)),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
}  # fmt: skip


def strange_rows() -> Tensor:
    """A row of each kind, among them plain ones."""
    plain = torch.randn(9, COLUMNS, generator=torch.Generator().manual_seed(2))
    plain[0] = -INF
    plain[1] = NAN
    plain[2, 3] = INF
    plain[3, 5:9] = -INF
    plain[4, 69] = NAN
    plain[5] = TINY * torch.arange(COLUMNS)
    plain[6] = -88 - torch.arange(COLUMNS) * 0.3  # exp is denormal, then 0
    plain[7] = 0.0
    return plain


def run(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Outputs and, where there are any, the gradients of their sum under fixed weights."""
    leaf = x.clone().requires_grad_()
    found = function(leaf)
    flat = found if isinstance(found, tuple) else (found,)
    learned = [y for y in flat if y.requires_grad]
    weights = [torch.linspace(0.5, 1.5, y.numel()).to(y).reshape(y.shape) for y in learned]
    gradients = torch.autograd.grad(learned, leaf, weights) if learned else ()
    return [y.detach() for y in flat], gradients


def judge(function: Callable[[Tensor], Any], x: Tensor) -> None:
    fast = torch.compile(function, backend="treadle", fullgraph=True, dynamic=False, options={"fallback": "error"})
    report = compare(run(fast, x), run(function, x), run(function, x.double()))
    assert report.ok, str(report)


@pytest.mark.parametrize("name", ROWS)
def test_strange_values(name: str):
    torch._dynamo.reset()
    judge(ROWS[name], strange_rows())


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("shape", [(5, 1), (0, 5), (5, 0)], ids=str)
def test_rows_of_one_element_and_of_none(name: str, shape: tuple[int, int]):
    torch._dynamo.reset()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    try:
        ROWS[name](x)
    except (RuntimeError, IndexError) as error:  # eager has no answer: neither have we
        with pytest.raises((type(error), RuntimeError)):
            torch.compile(ROWS[name], backend="treadle", dynamic=False)(x)
        return
    judge(ROWS[name], x)


@pytest.mark.slow
def test_more_elements_than_32_bits_count():
    size = 2**31 + 70
    x = torch.zeros(size, dtype=torch.uint8)
    x[-3:] = torch.tensor([1, 2, 3], dtype=torch.uint8)

    def counted(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x * 3 + 1
        return y, y.sum(dtype=torch.int64), x.argmax()

    fast = torch.compile(counted, backend="treadle", fullgraph=True, options={"fallback": "error"})
    y, total, at = fast(x)
    assert y[-4:].tolist() == [1, 4, 7, 10] and int(y[:-3].max()) == 1
    assert int(total) == size + 18 and int(at) == size - 1
