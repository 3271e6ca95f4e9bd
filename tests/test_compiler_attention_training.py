"""Training through attention in plain PyTorch: kernels compute the gradients, nothing of queries x keys is saved."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

import treadle
from treadle.compiler.check import compare
from treadle.compiler.joint_links import exchange_row_sums

Attention = Callable[..., Tensor]
LOW = -math.inf
pytestmark = pytest.mark.usefixtures("empty_cache")


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return torch.softmax((q @ k.mT * 0.125).masked_fill(~mask, LOW), -1) @ v


def softcap_in_a_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
    s = torch.tanh(q @ k.mT / 240) * 30
    return torch.softmax(torch.where((j <= i) & (i - j < 70), s, LOW), -1) @ v


def upcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(torch.matmul(q, k.transpose(2, 3)) * 0.125, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(weights, v).transpose(1, 2).contiguous()


def by_batches(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a, b, c = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(torch.zeros(1, 1, 1, dtype=q.dtype), a, b.mT, beta=0, alpha=0.125)
    return torch.bmm(torch.softmax(scores, -1), c).view(*q.shape[:3], -1)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    groups = [x[:, :1, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v)]
    return plain(q, *groups)


def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.sigmoid(q @ k.mT * 0.125 - 5.0) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def sdpa_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)


def sdpa_grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], is_causal=True, enable_gqa=True)


SPELLINGS = (plain, masked, softcap_in_a_window, upcast, by_batches, grouped, sigmoid, sdpa, sdpa_causal, sdpa_grouped)


def draw(seed: int, dtype: torch.dtype, batch: int, heads: int, queries: int, keys: int, depth: int, width: int):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, depth), (keys, depth), (keys, width))
    return [torch.randn(batch, heads, *s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def step(f: Attention, operands: list[Tensor], seed: int) -> tuple[tuple[Tensor, ...], list[int]]:
    """(the result and the gradients of a random sum of it, how many elements each tensor has that was saved)"""
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        y = f(*operands)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(y.dtype)
    return (y.detach(), *torch.autograd.grad(y, operands, weight)), saved


def wide(operands: list[Tensor]) -> list[Tensor]:
    return [x.detach().double().requires_grad_() for x in operands]


def check(f: Attention, operands: list[Tensor], seed: int, **options: str) -> list[int]:
    """Compiled results are within eager's error of float64; what was saved."""
    torch._dynamo.reset()
    counters.clear()
    given: dict[str, str | int | bool | Callable[..., object]] = {**options}
    got, saved = step(torch.compile(f, backend="treadle", dynamic=False, options=given), operands, seed)
    theirs, exact = step(f, operands, seed)[0], step(f, wide(operands), seed)[0]
    for values in zip(got, theirs, exact, strict=True):
        report = compare(*values)
        assert report.ok, str(report)
    return saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("f", SPELLINGS, ids=lambda f: f.__name__)
def test_nothing_of_queries_and_keys_is_saved(f: Attention, dtype: torch.dtype, seed: int):
    queries, keys = 330, 330
    saved = check(f, draw(seed, dtype, 1, 2, queries, keys, 48, 48), seed)
    assert counters["treadle"]["library"] == 0
    assert saved and max(saved) < queries * keys


@pytest.mark.parametrize(
    ("queries", "keys", "depth", "width"), [(401, 333, 16, 40), (200, 700, 33, 8), (350, 350, 1, 17)]
)
def test_sizes(queries: int, keys: int, depth: int, width: int, seed: int):
    saved = check(plain, draw(seed, torch.float32, 1, 3, queries, keys, depth, width), seed)
    assert max(saved) < queries * keys


def test_kernels_of_the_backward_graph(seed: int):
    """Row sums of y * dy, the kernel that runs along the queries (two gradients), and the one along the keys."""
    operands = draw(seed, torch.float32, 1, 2, 330, 330, 48, 48)
    forward, backward = treadle.explain(masked, tuple(operands), train=True).graphs
    assert (len(forward.kernels), len(backward.kernels)) == (1, 3)


def test_blocks_that_a_mask_leaves_out_are_not_computed(seed: int):
    """The same work for a number of keys that only some queries see: poison where no query looks."""
    q, k, v = draw(seed, torch.float32, 1, 1, 400, 1200, 32, 32)
    with torch.no_grad():
        k[:, :, 600:] = math.nan
        v[:, :, 600:] = math.nan
    got, _ = step(torch.compile(sdpa_causal, backend="treadle", dynamic=False), [q, k, v], seed)
    assert all(g[:, :, :400].isfinite().all() for g in got)


def test_rows_without_a_key_are_no_numbers_in_plain_code(seed: int):
    """The first query sees nothing, so its shares are NaN: every key gets them, whatever blocks a mask leaves out."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril(-1)
        return torch.softmax((q @ k.mT * 0.125).masked_fill(~mask, LOW), -1) @ v

    operands = draw(seed, torch.float32, 1, 2, 300, 300, 32, 32)
    report = treadle.explain(attend, tuple(operands), train=True)
    assert "left out where the statistics of all rows are finite (" in str(report)
    torch._dynamo.reset()
    got, _ = step(torch.compile(attend, backend="treadle", dynamic=False), operands, seed)
    theirs, _ = step(attend, operands, seed)
    for g, t in zip(got, theirs, strict=True):
        torch.testing.assert_close(g, t, equal_nan=True)
    assert got[3].isnan().all() and not got[2].isnan().any()


def test_masks_with_rows_that_see_nothing(seed: int):
    operands = draw(seed, torch.float32, 1, 2, 300, 280, 32, 32)
    keep = torch.rand(300, 280, generator=torch.Generator().manual_seed(seed)) < 0.5
    keep[7] = False

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)

    got, _ = step(torch.compile(attend, backend="treadle", dynamic=False), operands, seed)
    theirs, _ = step(attend, operands, seed)
    for g, t in zip(got, theirs, strict=True):
        torch.testing.assert_close(g, t)
    assert (got[1][:, :, 7] == 0).all()


def test_masks_of_one_of_several_results(seed: int):
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        order = torch.arange(k.shape[-2]).flip(0).sort()[0]
        return torch.softmax((q @ k.mT * 0.125).masked_fill(order > 200, LOW), -1) @ v

    assert max(check(attend, draw(seed, torch.float32, 1, 2, 300, 300, 32, 32), seed)) < 300 * 300


def test_short_rows_are_the_librarys(seed: int):
    """A kernel gains nothing where values between the contractions are fewer than what they are computed of."""
    check(sdpa, draw(seed, torch.float32, 1, 2, 40, 40, 64, 64), seed)
    assert counters["treadle"]["library"] == 1


def test_strict_numerics_save_what_eager_saves(seed: int):
    saved = check(plain, draw(seed, torch.float32, 1, 2, 300, 300, 32, 32), seed, numerics="strict")
    assert max(saved) >= 300 * 300


def test_row_sums_change_places_where_the_product_is_there():
    def joint(p: Tensor, v: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.bmm(p, v)
        dp = torch.bmm(dy, v.transpose(1, 2))
        return y, torch.ops.aten._softmax_backward_data(dp, p, -1, torch.float32)

    generator = torch.Generator().manual_seed(3)
    p = torch.softmax(torch.randn(2, 5, 7, generator=generator), -1)
    v, dy = (torch.randn(2, n, 3, generator=generator) for n in (7, 5))
    gm = trace(joint, p, v, dy)
    exchange_row_sums(gm)
    assert not any("_softmax_backward" in str(n.target) for n in gm.graph.nodes)
    for got, expected in zip(gm(p, v, dy), joint(p, v, dy), strict=True):
        torch.testing.assert_close(got, expected)


def test_row_sums_stay_where_another_product_is_there():
    def joint(p: Tensor, v: Tensor, w: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.bmm(p, v)
        dp = torch.bmm(dy, w.transpose(1, 2))
        return y, torch.ops.aten._softmax_backward_data(dp, p, -1, torch.float32)

    gm = trace(joint, torch.rand(2, 5, 7), torch.rand(2, 7, 3), torch.rand(2, 7, 3), torch.rand(2, 5, 3))
    exchange_row_sums(gm)
    assert any("_softmax_backward" in str(n.target) for n in gm.graph.nodes)


def trace(f: Callable[..., object], *inputs: Tensor) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(f, tracing_mode="fake")(*inputs)
