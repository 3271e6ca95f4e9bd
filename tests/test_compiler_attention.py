"""Attention in plain PyTorch is one kernel, whatever its spelling, and as exact as ATen's."""

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

Attention = Callable[..., Tensor]
LOW = -math.inf
pytestmark = pytest.mark.usefixtures("empty_cache")


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) / 8, -1), v)


def by_batches(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a, b, c = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(torch.zeros(1, 1, 1, dtype=q.dtype), a, b.mT, beta=0, alpha=0.125)
    return torch.bmm(torch.softmax(scores, -1), c).view(*q.shape[:3], -1)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = (q @ k.mT).float() * 0.125
    p = torch.exp(s - s.amax(-1, keepdim=True))
    return (p / p.sum(-1, keepdim=True)).to(q.dtype) @ v


def masked_fill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return torch.softmax((q @ k.mT * 0.125).masked_fill(~mask, LOW), -1) @ v


def softcap_in_a_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
    s = torch.tanh(q @ k.mT / 240) * 30
    return torch.softmax(torch.where((j <= i) & (i - j < 70), s, LOW), -1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads, i, j = q.shape[1], torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
    slopes = 2.0 ** (-torch.arange(1, heads + 1) * 8 / heads)
    return torch.softmax((q @ k.mT).float() * 0.125 + slopes[:, None, None] * (j - i), -1).to(q.dtype) @ v


def upcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(torch.matmul(q, k.transpose(2, 3)) * 0.125, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(F.dropout(weights, p=0.0, training=False), v).transpose(1, 2).contiguous()


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def sdpa_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    groups = [x[:, :2, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v)]
    return plain(q, *groups)


def sdpa_grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], is_causal=True, enable_gqa=True)


def heads_inside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a, b, c = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    return plain(a, b, c).transpose(1, 2).flatten(2)


SPELLINGS = (
    plain, einsum, by_batches, by_hand, masked_fill, softcap_in_a_window, alibi, upcast, sdpa, sdpa_causal, grouped,
    sdpa_grouped,
)  # fmt: skip


def draw(seed: int, dtype: torch.dtype, batch: int, heads: int, queries: int, keys: int, depth: int, width: int):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, depth), (keys, depth), (keys, width))
    return [torch.randn(batch, heads, *s, generator=generator).to(dtype) for s in shapes]


def check(f: Attention, operands: list[Tensor], kernels: int | None = 1) -> None:
    """Compiled results are within eager's error of float64."""
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        got, eager = torch.compile(f, backend="treadle", dynamic=False)(*operands), f(*operands)
        exact = f(*(x.double() for x in operands))
    assert kernels is None or (counters["treadle"]["kernels"], counters["treadle"]["library"]) == (kernels, 0)
    assert got.stride() == eager.stride()
    report = compare(got, eager, exact)
    assert report.ok, str(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("f", SPELLINGS, ids=lambda f: f.__name__)
def test_spellings_are_one_kernel(f: Attention, dtype: torch.dtype, seed: int):
    check(f, draw(seed, dtype, 2, 4, 150, 150, 64, 64))


def test_heads_inside_of_rows(seed: int):
    check(heads_inside, draw(seed, torch.float32, 2, 4, 150, 150, 64, 64))


@pytest.mark.parametrize(
    ("queries", "keys", "depth", "width"),
    [(8, 1, 64, 64), (17, 300, 1, 16), (33, 129, 257, 40), (300, 513, 64, 200), (100, 31, 16, 1), (64, 64, 64, 64)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes(queries: int, keys: int, depth: int, width: int, dtype: torch.dtype, seed: int):
    check(plain, draw(seed, dtype, 1, 3, queries, keys, depth, width), kernels=None)


@pytest.mark.parametrize("f", [masked_fill, softcap_in_a_window, sdpa_causal], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("queries", "keys"), [(700, 700), (300, 900), (360, 300)])
def test_blocks_that_masks_leave_out(f: Attention, queries: int, keys: int, seed: int):
    check(f, draw(seed, torch.float32, 1, 2, queries, keys, 32, 32))


@pytest.mark.parametrize("kind", ["bool", "float", "rows"])
def test_masks_from_memory(kind: str, seed: int):
    """Rows without a key are 0 for ATen's kernels, and so for ours."""
    q, k, v = draw(seed, torch.float32, 2, 4, 150, 140, 64, 64)
    keep = torch.rand(2, 1, 150, 140, generator=torch.Generator().manual_seed(seed)) < 0.5
    keep[0, 0, 7] = False
    mask = keep if kind == "bool" else torch.zeros(keep.shape).masked_fill(~keep, LOW)
    mask = mask[0, 0] if kind == "rows" else mask
    check(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(mask.dtype)), [q, k, v])


def test_rows_without_a_key_are_no_numbers_in_plain_code(seed: int):
    q, k, v = draw(seed, torch.float32, 1, 2, 40, 200, 64, 64)
    mask = torch.zeros(40, 200)
    mask[3] = LOW

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT + mask, -1) @ v

    torch._dynamo.reset()
    got = torch.compile(f, backend="treadle")(q, k, v)
    assert got[:, :, 3].isnan().all() and not got[:, :, 4:].isnan().any()


def test_infinities_and_nan_go_where_eagers_go(seed: int):
    q, k, v = draw(seed, torch.float32, 1, 2, 40, 200, 64, 64)
    k[0, 0, 150] = math.nan
    q[0, 1, 5] = math.inf
    torch._dynamo.reset()
    got, eager = torch.compile(plain, backend="treadle")(q, k, v), plain(q, k, v)
    assert torch.equal(got.isnan(), eager.isnan())


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_scores(scale: float, seed: int):
    q, k, v = draw(seed, torch.float32, 1, 2, 40, 200, 64, 64)
    check(plain, [q * scale, k, v])


def test_what_else_reads_the_weights_keeps_them(seed: int):
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = torch.softmax(q @ k.mT * 0.125, -1)
        return torch.cat([p @ v, p], -1)

    check(f, draw(seed, torch.float32, 1, 2, 150, 150, 64, 64), kernels=None)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients(dtype: torch.dtype, causal: bool, seed: int):
    operands = [x.requires_grad_() for x in draw(seed, dtype, 1, 2, 330, 330, 48, 48)]
    weight = torch.randn(1, 2, 330, 48, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def gradients(f: Attention, *operands: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(f(*operands), operands, weight.to(operands[0].dtype))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    torch._dynamo.reset()
    counters.clear()
    got = gradients(torch.compile(attend, backend="treadle"), *operands)
    assert counters["treadle"]["kernels"] == 4  # backward: row sums, those along the keys, those along the queries
    expected = gradients(attend, *(x.detach().double().requires_grad_() for x in operands))
    for g, theirs, e in zip(got, gradients(attend, *operands), expected, strict=True):
        unit = torch.finfo(dtype).eps * float(e.abs().max())
        assert float((g - e).abs().max()) <= 1.5 * float((theirs - e).abs().max()) + unit


def test_strict_numerics_leave_it_to_the_library(seed: int):
    operands = draw(seed, torch.float32, 1, 2, 40, 200, 64, 64)
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        torch.compile(sdpa, backend="treadle", options={"numerics": "strict"})(*operands)
    assert (counters["treadle"]["kernels"], counters["treadle"]["library"]) == (0, 1)


@pytest.mark.parametrize("sizes", [(0, 2, 9, 9), (1, 2, 9, 0), (1, 2, 0, 9), (1, 2, 1, 9)], ids=str)
def test_nothing_and_single_queries(sizes: tuple[int, int, int, int], seed: int):
    operands = draw(seed, torch.float32, *sizes, 64, 64)
    torch._dynamo.reset()
    for f in (sdpa, plain):
        with torch.no_grad():
            got, eager = torch.compile(f, backend="treadle", dynamic=False)(*operands), f(*operands)
        torch.testing.assert_close(got, eager, equal_nan=True)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (sdpa_causal, "skip: 42% of the blocks are left out (causal)"),
        (softcap_in_a_window, "(causal, window of 70)"),
        (plain, "no skip: no condition is in its values"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_explain_says_what_a_mask_is(f: Attention, words: str, seed: int):
    report = str(treadle.explain(f, tuple(draw(seed, torch.float32, 1, 2, 768, 768, 32, 32))))
    assert words in report
    assert "stream: 1 x 768 x 768 values stay in blocks of 32 x 128" in report


def test_data_that_mask_are_told_of(seed: int):
    keep = torch.rand(300, 300, generator=torch.Generator().manual_seed(seed)) < 0.5

    def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)

    report = str(treadle.explain(attend, (*draw(seed, torch.float32, 1, 2, 300, 300, 32, 32), keep)))
    assert "no skip: data decide where values are not 0" in report
