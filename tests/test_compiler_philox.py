"""Random numbers by counter: published vectors on every target, masks that agree, distributions that are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from cpp_run import HERE, Case, check_cases
from torch import nn
from torch._dynamo.utils import counters
from triton_run import check_triton

import treadle
from treadle.codegen.cpp.isa import ISAS
from treadle.ir.scalar import philox
from treadle.ir.text import parse_kernel

Tensor = torch.Tensor

# Random123's kat_vectors, philox4x32 10: counter (4 words), key (2 words), result (4 words).
VECTORS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)
BITS = """
kernel bits(k: i64[{n}], s: i64[{n}], a: i64[{n}]) -> (y: i64[{n}])
  axes i:{n}
  y[i] <- philox(k[i], s[i], a[i])
"""
DROPOUT = """
kernel dropout(x: f32[{m}, {n}], k: i64[]) -> (y: f32[{m}, {n}], s: f32[{m}])
  axes i:{m}, j:{n}
  u[i, j]: f32 = f32(i32((shr(philox(k[], 3:i64, #({n}*i + j)), 8:i64) & 16777215:i64)))
  y[i, j] <- where((u[i, j] < 5000000.0), 0.0, x[i, j])
  t[i]: f32 = sum(j) u[i, j]
  s[i] <- t[i]
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)


def pair(words: list[str]) -> int:
    """Two words of 32 bits, the lower first, as a signed number of 64."""
    value = int(words[0], 16) | int(words[1], 16) << 32
    return value - (1 << 64) if value >> 63 else value


def vectors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = [(c.split(), k.split(), r.split()) for c, k, r in VECTORS]
    columns = [(pair(k), pair(c[2:]), pair(c[:2]), pair(r[:2])) for c, k, r in rows]
    key, step, at, result = (torch.tensor(column) for column in zip(*columns, strict=True))
    return key, step, at, result


def test_the_published_vectors():
    key, step, at, result = vectors()
    assert torch.equal(philox(torch, key, step, at), result)


def random_bits(count: int) -> dict[str, Tensor]:
    return {name: torch.randint(-(2**63), 2**63 - 1, (count,)) for name in "ksa"}


@pytest.mark.parametrize("isa", HERE)
def test_cpp_gives_the_same_bits(isa: str):
    cases = [Case(f"bits {n}", parse_kernel(BITS.format(n=n)), random_bits(n)) for n in (3, 37)]
    dropout = parse_kernel(DROPOUT.format(m=5, n=37))
    cases.append(Case("dropout", dropout, {"x": torch.randn(5, 37), "k": torch.tensor(-77)}))
    check_cases(cases, ISAS[isa])


def test_triton_gives_the_same_bits():
    cases = [Case(f"bits {n}", parse_kernel(BITS.format(n=n)), random_bits(n)) for n in (3, 37)]
    dropout = parse_kernel(DROPOUT.format(m=5, n=37))
    cases.append(Case("dropout", dropout, {"x": torch.randn(5, 37), "k": torch.tensor(-77)}))
    check_triton(cases)


# --- through torch.compile ---------------------------------------------------------------------------------------


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    options = {"rng": "philox", "fallback": "error", **options}
    return torch.compile(function, backend="treadle", fullgraph=True, options=options)


def draws(x: Tensor) -> tuple[Tensor, ...]:
    half = torch.bernoulli(torch.full_like(x, 0.25))
    return torch.rand_like(x), torch.randn_like(x), half, F.dropout(x, 0.3, True), torch.rand(x.shape[0])


def test_the_seed_decides_and_calls_differ():
    fast, x = compiled(draws), torch.ones(64, 100)
    torch.manual_seed(5)
    first, second = fast(x), fast(x)
    torch.manual_seed(5)
    again = fast(x)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert counters["treadle"]["effect"] == 1, "one draw of a seed a call, and no other"


def test_numbers_do_not_depend_on_threads_or_on_what_is_fused():
    x = torch.ones(64, 100)
    alone = compiled(lambda x: torch.rand_like(x), threads=1)
    beside = compiled(lambda x: (torch.rand_like(x) * 2 - 1).sum(-1), threads=2)
    torch.manual_seed(3)
    u = alone(x)
    torch.manual_seed(3)
    torch.testing.assert_close(beside(x), (u * 2 - 1).sum(-1))


def distance(u: Tensor) -> float:
    """The largest difference between the distribution of numbers and the uniform one."""
    ordered = u.flatten().sort().values
    steps = torch.arange(1, ordered.numel() + 1, dtype=torch.float64) / ordered.numel()
    return float((ordered - steps).abs().max())


def test_distributions():
    """Bounds are five standard deviations of each statistic of so many independent numbers; the seed is fixed."""
    n = 512 * 1024
    u, z, half, kept, _ = (t.double() for t in compiled(draws)(torch.ones(512, 1024)))
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n) and abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    assert abs(z.mean()) < 5 / math.sqrt(n) and abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n), "tails of the normal distribution"
    assert abs(half.mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / n) and set(half.unique().tolist()) == {0.0, 1.0}
    assert abs((kept == 0).double().mean() - 0.3) < 5 * math.sqrt(0.21 / n)
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / 0.7), rtol=1e-6, atol=0)
    # Kolmogorov and Smirnov: beyond 2.23 / sqrt(n) once in ten thousand samples.
    assert max(distance(u), distance(torch.special.ndtr(z))) < 2.23 / math.sqrt(n)


def test_elements_rows_and_draws_are_independent():
    def two(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.rand_like(x), torch.rand_like(x)

    a, b = (t.double() - 0.5 for t in compiled(two)(torch.ones(512, 512)))
    bound = 5 / 12 / math.sqrt(a.numel())
    shifted = [(a[:, :-k] * a[:, k:]).mean() for k in (1, 2, 4, 64)] + [(a[:-k] * a[k:]).mean() for k in (1, 8)]
    assert all(abs(c) < bound * 1.1 for c in [*shifted, (a * b).mean()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_types_stay_below_one(dtype: torch.dtype):
    u = compiled(lambda x: torch.rand_like(x))(torch.ones(300, 300, dtype=dtype))
    assert u.dtype is dtype and float(u.max()) < 1 and abs(float(u.double().mean()) - 0.5) < 0.01
    assert u.unique().numel() > (80000 if dtype is torch.float64 else 200)


def test_forward_and_backward_see_one_mask():
    fast, x = compiled(lambda x: F.dropout(x * 2, 0.4, True)), torch.randn(50, 60, requires_grad=True)
    out = fast(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad == 0, out == 0) and 0.3 < float((grad == 0).double().mean()) < 0.5
    torch.testing.assert_close(grad[grad != 0], torch.full_like(grad[grad != 0], 2 / 0.6))


def test_native_dropout_and_its_gradient():
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.native_dropout(x, 0.25, True)

    fast, x = compiled(function), torch.randn(40, 50, requires_grad=True)
    out, mask = fast(x)
    torch.testing.assert_close(out, x * mask / 0.75)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, mask / 0.75)
    assert 0.7 < float(mask.double().mean()) < 0.8


def test_a_layer_under_checkpointing_recomputes_its_mask():
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(32, 32, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.linear(x).relu(), 0.5, True)

    layer = Layer()

    def function(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)

    x = torch.randn(20, 32, requires_grad=True)
    out = torch.compile(function, backend="treadle", options={"rng": "philox"})(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    want = ((out != 0).float() * 2) @ layer.linear.weight
    torch.testing.assert_close(grad, want)


def test_dynamic_sizes_draw_by_row_major_index():
    fast = torch.compile(torch.rand_like, backend="treadle", dynamic=True, options={"rng": "philox"})
    torch.manual_seed(1)
    small = fast(torch.ones(6, 10))
    torch.manual_seed(1)
    large = fast(torch.ones(9, 10))
    assert torch.equal(small, large[:6])


def test_by_default_the_numbers_are_those_of_eager():
    fast, x = torch.compile(draws, backend="treadle"), torch.ones(8, 9)
    torch.manual_seed(2)
    found = fast(x)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(found, draws(x), strict=True))


def test_dropout_is_fused_with_what_is_around_it():
    def function(x: Tensor, r: Tensor) -> Tensor:
        return F.layer_norm(r + F.dropout(F.gelu(x), 0.1, True), (64,))

    report = treadle.explain(function, (torch.randn(32, 64), torch.randn(32, 64)), rng="philox")
    assert report.graphs[0].counts["kernels"] == 1 and report.graphs[0].counts["effect"] == 1


def test_verify_accepts_the_kernels():
    fast = compiled(draws, verify=True)
    fast(torch.ones(16, 24))
    assert counters["treadle"]["verified"] > 0 and not counters["treadle"]["fallback"]
    assert np.isfinite(fast(torch.ones(16, 24))[1].numpy()).all()
