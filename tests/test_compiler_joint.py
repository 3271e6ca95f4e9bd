"""The joint graph of training: what is saved, and that gradients are eager's wherever it is expanded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from treadle.compiler import joint
from treadle.compiler.reference import check

Tensor = torch.Tensor
ROWS, COLUMNS = 24, 400


def learned(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def targets() -> Tensor:
    return torch.randint(COLUMNS, (ROWS,), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[fx.Node]:
    """What forward graphs give beside their results, without inputs."""
    found: list[fx.Node] = []
    original = joint.min_cut_rematerialization_partition

    def watch(*args: Any, num_fwd_outputs: int, **more: Any) -> Any:
        forward, backward = original(*args, num_fwd_outputs=num_fwd_outputs, **more)
        (results,) = next(n for n in forward.graph.nodes if n.op == "output").args
        found[:] = [n for n in results[num_fwd_outputs:] if n.op != "placeholder"]
        return forward, backward

    monkeypatch.setattr(joint, "min_cut_rematerialization_partition", watch)
    torch._dynamo.reset()
    return found


def picked(x: Tensor, target: Tensor) -> Tensor:
    chosen = functional.log_softmax(x, -1).gather(-1, target[:, None])
    return -(chosen * (1 - chosen.exp())).mean()


def margins(x: Tensor, target: Tensor) -> Tensor:
    found = functional.relu(x - x.gather(-1, target[:, None]) + 1)
    return found.scatter(-1, target[:, None], 0.0).sum(-1).mean()


CASES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "cross_entropy": lambda x, target: functional.cross_entropy(x.float(), target),
    "smoothed": lambda x, target: functional.cross_entropy(x.float(), target, label_smoothing=0.1),
    "picked": picked,
    "margins": margins,
    "softmax_of_softmax": lambda x, target: torch.softmax(torch.softmax(x, -1) * 3, -1).square().sum(),
    "layer_norm_gelu": lambda x, target: functional.gelu(functional.layer_norm(x, (COLUMNS,))).square().mean(),
    "rms_norm": lambda x, target: functional.silu(functional.rms_norm(x, (COLUMNS,), eps=1e-6)).square().mean(),
    "group_norm": lambda x, target: (
        functional.silu(functional.group_norm(x.reshape(2, 12, COLUMNS), 4)).square().mean()
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_few_numbers_a_row_are_saved(name: str, dtype: torch.dtype, saved: list[fx.Node]):
    function, inputs = CASES[name], (learned(ROWS, COLUMNS, dtype=dtype), targets())
    fast = torch.compile(function, backend="treadle", fullgraph=True, options={"fallback": "error"})
    report = check(function, inputs, fast, train=True)
    assert report.ok, str(report)
    large = [n.name for n in saved if n.meta["val"].numel() > 2 * ROWS]
    assert not large


class Normed(nn.Module):
    """Batch norm in training: its statistics are mutated buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_batch_norm_in_training(dtype: torch.dtype, saved: list[fx.Node]):
    model = Normed().to(dtype)
    report = check(model, (learned(3, 6, 5, 7, dtype=dtype),), torch.compile(model, backend="treadle"), train=True)
    assert report.ok, str(report)
    if dtype is torch.float32:
        assert not [n for n in saved if n.meta["val"].numel() > 6]


def test_an_input_that_is_written_is_not_read_again(saved: list[fx.Node]):
    def scaled(x: Tensor, state: Tensor) -> Tensor:
        y = torch.exp(x * state.sigmoid())
        state.mul_(0.5)
        return y.sum()

    x, state = learned(40, 50), torch.randn(40, 50)
    fast = torch.compile(scaled, backend="treadle", fullgraph=True)
    report = check(scaled, (x, state), fast, train=True)
    assert report.ok, str(report)


def test_a_scatter_without_a_gather_reports_a_bad_index():
    def spread(x: Tensor, target: Tensor) -> Tensor:
        return torch.zeros(ROWS, COLUMNS).scatter_add(1, target[:, None], x).square().sum()

    x, bad = learned(ROWS, 1), targets()
    fast = torch.compile(spread, backend="treadle", fullgraph=True)
    assert check(spread, (x, bad), fast, train=True).ok
    bad[3] = COLUMNS
    with pytest.raises((RuntimeError, IndexError), match="out of"):
        fast(x, bad)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("columns", [0, 1])
def test_rows_of_no_element_and_of_one(rows: int, columns: int):
    def normed(x: Tensor) -> Tensor:
        return torch.softmax(x, -1).sum() + torch.log_softmax(x, -1).square().sum()

    x = learned(rows, columns)
    assert check(normed, (x,), torch.compile(normed, backend="treadle"), train=True).ok


def test_statistics_that_a_user_reads_are_eager_s():
    def normed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rstd = torch.native_layer_norm(x, (COLUMNS,), None, None, 1e-5)
        return y, mean, rstd

    x = learned(ROWS, COLUMNS, dtype=torch.bfloat16)
    assert check(normed, (x,), torch.compile(normed, backend="treadle"), train=True).ok


@pytest.mark.parametrize("norm", [functional.layer_norm, lambda x, n: functional.rms_norm(x, n, eps=1e-6),
                                  lambda x, n: torch.softmax(x, -1)])  # fmt: skip
def test_results_have_eager_s_layout(norm: Callable[..., Tensor]):
    """Of a transposed input, some operators give a dense result: views of it are taken as of that."""

    def normed(x: Tensor) -> tuple[Tensor, Tensor]:
        y = norm(x.transpose(1, 2), (6,))
        return y, (y.view(-1, 6) if y.is_contiguous() else y) * 2

    x = learned(3, 6, 40)
    assert check(normed, (x,), torch.compile(normed, backend="treadle"), train=True).ok
