"""The accuracy checker: what it must catch, and the noise of honest compilers that it must accept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import grouped_mm

from treadle.compiler.check import FEW_ELEMENTS, Report, compare, leaves
from treadle.compiler.reference import check, run, run_in_float64, scalar_loss
from treadle.ir.errors import BadInput

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def judge(got: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor) -> Report:
    return compare([got], [eager], [exact])


def softmax_case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(eager, exact) of a softmax over 300 values in rows of 40."""
    x = random(40, 300, dtype=dtype)
    return torch.softmax(x, -1), torch.softmax(x.double(), -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_eager_is_as_good_as_eager(dtype: torch.dtype):
    eager, exact = softmax_case(dtype)
    report = judge(eager.clone(), eager, exact)
    assert report.ok and report.worst_ratio <= 1


def test_catches_a_tenth_of_a_percent():
    eager, exact = softmax_case(torch.float32)
    assert not judge(eager * 1.001, eager, exact).ok


def test_catches_a_small_error_everywhere_that_no_element_shows():
    """Each error is as large as eager's largest: fine for one element, not for all of them."""
    exact = random(100, 100).double()
    eager = exact.float()
    eager[0, 0] += 1e-4
    assert judge(exact.float(), eager, exact).ok
    assert not judge(exact.float() + 1e-4, eager, exact).ok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 5, -1])
def test_catches_one_bad_element(dtype: torch.dtype, place: int):
    eager, exact = softmax_case(dtype)
    got = eager.clone()
    got.view(-1)[place] += 0.1 * float(eager.max())
    report = judge(got, eager, exact)
    assert not report.ok and "times eager's" in report.failures[0].problem


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_catches_a_poisoned_element(poison: float):
    eager, exact = softmax_case(torch.float32)
    got = eager.clone()
    got[3, 4] = poison
    assert "NaN or infinities" in judge(got, eager, exact).failures[0].problem


def test_catches_swapped_nan_and_wrong_sign_of_infinity():
    exact = torch.tensor([1.0, float("nan"), 2.0, float("inf"), float("-inf")], dtype=torch.float64)
    eager = exact.float()
    assert judge(eager.clone(), eager, exact).ok
    assert not judge(eager[[1, 0, 2, 3, 4]], eager, exact).ok
    assert not judge(eager[[0, 1, 2, 4, 3]], eager, exact).ok
    assert not judge(torch.nan_to_num(eager), eager, exact).ok


def test_accepts_a_finite_value_where_only_eager_overflows():
    x = torch.full((64,), 300.0, dtype=torch.float16)
    eager, exact = x * x / 300, x.double() * x.double() / 300
    assert eager.isinf().all()
    assert judge(exact.half(), eager, exact).ok
    assert not judge(exact.half() * 1.1, eager, exact).ok


@pytest.mark.parametrize("dtype", DTYPES)
def test_accepts_another_order_of_summation(dtype: torch.dtype):
    x = random(64, 4001, dtype=dtype)
    eager, exact = x.sum(-1), x.double().sum(-1)
    chunked = torch.stack([chunk.float().sum(-1) for chunk in x.split(97, -1)]).sum(0).to(dtype)
    assert judge(chunked, eager, exact).ok
    assert judge(x.flip(-1).float().sum(-1).to(dtype), eager, exact).ok


def test_catches_a_naive_running_sum():
    """One accumulator over 40,000 values loses two digits that eager's blocked sum keeps."""
    x = random(FEW_ELEMENTS, 40_000) + 1
    naive = torch.from_numpy(x.numpy().cumsum(-1, dtype="float32")[:, -1].copy())
    assert not judge(naive, x.sum(-1), x.double().sum(-1)).ok


@pytest.mark.parametrize("seed", range(5))
def test_a_few_elements_are_judged_by_the_noise_of_the_large_tensors(seed: int):
    """Eager's scalar may be exact by luck; another order of summation then has an infinite ratio to it."""
    x = random(50, 1000, seed=seed)
    exact = x.double().exp().sum()
    eager = {"total": exact.float(), "terms": x.exp().cumsum(-1)}
    reference = {"total": exact, "terms": x.double().exp().cumsum(-1)}
    got = {"total": x.exp().flip(0).sum(), "terms": eager["terms"].clone()}
    assert compare(got, eager, reference).ok
    assert not compare(got | {"total": exact.float() * 1.001}, eager, reference).ok


def test_integers_bools_and_plain_values_are_equal():
    values = [torch.arange(6), torch.tensor([True, False]), 3, "name", None, float("nan")]
    assert compare(values, values, values).ok
    for place, wrong in enumerate([torch.arange(6) + 1, torch.tensor([True, True]), 4, "other", 0, 1.0]):
        changed = [*values[:place], wrong, *values[place + 1 :]]
        assert [row.name for row in compare(changed, values, values).failures] == [str(place)]


def test_metadata_counts():
    eager, exact = softmax_case(torch.float32)
    assert "dtype" in judge(exact, eager, exact).failures[0].problem
    assert "shape" in judge(eager[None], eager, exact).failures[0].problem
    transposed = eager.t().contiguous().t()
    assert "strides" in judge(transposed, eager, exact).failures[0].problem
    assert compare([transposed], [eager], [exact], strides=False).ok


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1, 1, 1)])
def test_odd_shapes(shape: tuple[int, ...]):
    eager = random(*shape)
    assert judge(eager.clone(), eager, eager.double()).ok
    assert judge(eager + 1, eager, eager.double()).ok == (not eager.numel())


def test_strides_of_axes_of_one_and_of_empty_tensors_mean_nothing():
    eager = random(5, 1, 3)
    odd = torch.as_strided(eager.clone(), (5, 1, 3), (3, 77, 1))
    assert judge(odd, eager, eager.double()).ok
    assert judge(torch.empty(0, 4).t(), torch.empty(4, 0), torch.empty(4, 0).double()).ok


def test_float64_and_complex():
    x = random(33, 57).double()
    assert judge(x.flip(0).sum(0), x.sum(0), x.sum(0)).ok
    assert not judge(x.sum(0) * (1 + 1e-9), x.sum(0), x.sum(0)).ok
    spectrum = torch.fft.fft(x.float())
    assert judge(spectrum.clone(), spectrum, torch.fft.fft(x)).ok
    assert not judge(spectrum.conj(), spectrum, torch.fft.fft(x)).ok


def test_missing_and_surplus_values():
    eager = {"a": random(3), "b": random(4)}
    exact = {name: value.double() for name, value in eager.items()}
    assert [row.name for row in compare({"a": eager["a"]}, eager, exact).failures] == ["b"]
    assert [row.name for row in compare(eager | {"c": eager["a"]}, eager, exact).failures] == ["c"]
    assert "reference" in compare(eager, eager, {"a": exact["a"]}).failures[0].problem


def test_what_cannot_be_compared_says_so():
    with pytest.raises(BadInput, match="cannot be compared"):
        list(leaves([object()]))


def test_the_table_shows_wrong_rows_first():
    eager = [random(40), random(50)]
    text = str(compare([eager[0], eager[1] + 1], eager, [value.double() for value in eager]))
    first, last = text.splitlines()[1], text.splitlines()[-1]
    assert first.startswith("WRONG") and "50" in first
    assert last.startswith("1 of 2 wrong")


class Norm(nn.Module):
    """A module that upcasts on its own, keeps a running mean, and writes to its input."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(60) + 1)
        self.register_buffer("mean", torch.zeros(60))

    def forward(self, x: torch.Tensor, wrong: float = 0.0) -> dict[str, torch.Tensor]:
        wide = x.to(torch.float32)
        y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * self.weight
        self.mean.mul_(0.9).add_(0.1 * wide.detach().mean(0))
        x.detach().add_(1)
        return {"y": y.to(x.dtype) * (1 + wrong)}


def test_the_reference_is_float64_throughout():
    model, x = Norm(), random(30, 60)
    exact = run_in_float64(model, (x,))["outputs"]["y"]
    wide = x.double()
    expected = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * model.weight.double()
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, expected, rtol=1e-14, atol=0)
    assert model.weight.dtype == torch.float32 and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("train", [False, True])
def test_a_right_run_passes_and_leaves_no_trace(train: bool):
    model, x = Norm(), random(30, 60)
    kept = x.clone()
    report = check(model, (x,), model.forward, train=train)
    assert report.ok, report
    names = {row.name for row in report.rows}
    assert {"outputs.y", "inputs.0"} <= names
    assert ("gradients.weight" in names) == ("buffers.mean" in names) == train
    assert torch.equal(x, kept) and not model.mean.any() and model.weight.grad is None


def test_wrong_outputs_gradients_buffers_and_writes_are_each_named():
    model, x = Norm(), random(30, 60)
    wrong_runs: dict[str, Callable[..., object]] = {
        "outputs.y": lambda x: model(x, wrong=0.001),
        "inputs.0": lambda x: model(x.clone()),
        "buffers.mean": lambda x: (model(x), model.mean.zero_())[0],
        "gradients.weight": lambda x: _scale_gradient(model(x), 1.001),
    }
    for name, wrong in wrong_runs.items():
        assert name in {row.name for row in check(model, (x,), wrong, train=True).failures}


def _scale_gradient(outputs: dict[str, torch.Tensor], by: float) -> dict[str, torch.Tensor]:
    outputs["y"].register_hook(lambda grad: grad * by)
    return outputs


@pytest.mark.parametrize("ends", [[3, 3, 10], [0, 4, 10], [2, 10, 10]])
def test_grouped_products_have_a_reference(ends: list[int]):
    """`aten._grouped_mm` has no float64 kernel of its own; forward and both gradients use three forms of it."""
    a, b, offs = random(10, 16), random(3, 16, 8, seed=1), torch.tensor(ends, dtype=torch.int32)
    inputs = {"mat_a": a.requires_grad_(), "mat_b": b.requires_grad_(), "offs": offs}
    report = check(grouped_mm, inputs, grouped_mm, train=True)
    assert report.ok, report
    assert {"gradients.mat_a", "gradients.mat_b"} <= {row.name for row in report.rows}


def test_losses():
    x = random(3, 4).requires_grad_()
    assert scalar_loss({"loss": x.sum(), "y": x}).item() == x.sum().item()
    (gradient,) = torch.autograd.grad(scalar_loss((x, x.detach(), 3)), x)
    assert gradient.unique().numel() == x.numel(), "every element has a weight of its own"


def test_inputs_that_need_gradients():
    x = random(5, 6).requires_grad_()
    result = run(lambda x: x.exp(), (x,), train=True)
    assert result["gradients"]["0"].shape == x.shape and x.grad is None
    assert check(lambda x: x.exp(), {"x": x}, torch.exp2, train=True).failures
