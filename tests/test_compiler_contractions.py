"""Products of matrices that become kernels of ours: right at every size and layout, left to the library elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import gelu, linear, silu

import treadle
from treadle.codegen.cpp.isa import ISAS
from treadle.compiler.check import compare
from treadle.compiler.contractions import FEW_ROWS, judge_product
from treadle.compiler.frontend.contractions import Product
from treadle.compiler.reference import in_float64, widen
from treadle.ir.types import BF16, F32, F64, I8, I64, symbol

Tensor = torch.Tensor


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(4)


def check(function: Callable[..., Any], *inputs: Tensor, library: int | None = 0) -> None:
    """Compiled results are within eager's error of float64, and as many products as said are the library's."""
    fast = torch.compile(function, backend="treadle", fullgraph=True, dynamic=False, options={"fallback": "error"})
    with torch.no_grad():
        got, eager = fast(*inputs), function(*inputs)
        with in_float64():
            wide = deepcopy(function).double() if isinstance(function, nn.Module) else function
            exact = wide(*widen(inputs))
    report = compare(got, eager, exact)
    assert report.ok, str(report)
    assert library is None or counters["treadle"]["library"] == library, dict(counters["treadle"])


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [
    (1, 1, 1), (1, 130, 64), (3, 1, 77), (5, 67, 1), (13, 1003, 515), (FEW_ROWS, 64, 128), (150, 100, 2051),
    (300, 33, 70),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layers(size: tuple[int, int, int], dtype: torch.dtype):
    rows, columns, depth = size
    x, w, b = (torch.randn(s).to(dtype) for s in ((rows, depth), (columns, depth), (columns,)))
    library = 0 if min(rows, columns) <= FEW_ROWS else None  # the machine's features decide on more
    check(lambda x, w, b: gelu(linear(x, w, b)) * 0.5 + 1, x, w, b, library=library)


@pytest.mark.parametrize("size", [(0, 5, 7), (3, 0, 7), (3, 5, 0)], ids=str)
def test_empty_sizes(size: tuple[int, int, int]):
    rows, columns, depth = size
    x, w, b = torch.randn(rows, depth), torch.randn(columns, depth), torch.randn(columns)
    check(lambda x, w, b: torch.relu(linear(x, w, b)), x, w, b)


def test_leading_dimensions():
    check(lambda x, w, b: linear(x, w, b), torch.randn(2, 3, 40), torch.randn(50, 40), torch.randn(50))
    check(lambda x, w: linear(x, w), torch.randn(40), torch.randn(50, 40))


PRODUCTS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "mm of a transpose": (lambda a, b: a @ b.t(), [(4, 60), (70, 60)]),
    "of a few columns": (lambda a, b: a @ b.t(), [(300, 60), (5, 60)]),
    "matrix and vector": (lambda a, b: torch.mv(a, b), [(70, 60), (60,)]),
    "scaled sum": (lambda c, a, b: torch.addmm(c, a, b.t(), beta=0.5, alpha=-2.0), [(4, 70), (4, 60), (70, 60)]),
    "broadcast sum": (lambda c, a, b: torch.addmm(c, a, b.t()), [(4, 1), (4, 60), (70, 60)]),
    "scores": (lambda q, k: q @ k.transpose(1, 2), [(6, 1, 32), (6, 50, 32)]),
    "scores of groups": (lambda q, k: torch.einsum("bhd,bsd->bhs", q, k), [(3, 4, 32), (3, 50, 32)]),
    "sum of batches": (lambda c, a, b: torch.baddbmm(c, a, b.mT, alpha=0.5), [(6, 2, 50), (6, 2, 32), (6, 50, 32)]),
}


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str, dtype: torch.dtype):
    function, shapes = PRODUCTS[name]
    check(function, *(torch.randn(s).to(dtype) for s in shapes))


def test_a_sum_times_zero_is_not_looked_at():
    c = torch.full((4, 70), float("nan"))
    check(lambda c, a, b: torch.addmm(c, a, b.t(), beta=0), c, torch.randn(4, 60), torch.randn(70, 60))


def test_inputs_of_any_layout():
    x = torch.randn(40, 3).t()
    w = torch.randn(100, 90)[::2, 5:45]
    check(lambda x, w: torch.tanh(linear(x, w)), x, w)
    wide = torch.randn(50, 40, 2)[..., 0]  # not dense along what is summed over
    check(lambda x, w: linear(x, w), x, wide, library=1)


def test_inputs_that_overlap():
    x = torch.randn(100).as_strided((8, 64), (3, 1))
    w = torch.randn(300).as_strided((40, 64), (5, 1))
    check(lambda x, w: linear(x, w), x, w)
    check(lambda x, w: linear(x, w), torch.randn(1, 64).expand(5, 64), torch.randn(1, 64).expand(40, 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_places_beyond_32_bits(dtype: torch.dtype):
    """Rows 2^30 elements apart: of the storage, only the pages that are written become memory."""
    w = torch.zeros((1 << 31) + 96, dtype=dtype).as_strided((3, 96), (1 << 30, 1))
    w.copy_(torch.randn(3, 96))
    check(lambda x, w: torch.relu(linear(x, w)), torch.randn(2, 96).to(dtype), w)


def test_infinities_and_nan_go_where_eagers_go():
    x, w = torch.randn(3, 64), torch.randn(70, 64)
    x[1, 5], w[7, 9], w[8, 0] = float("inf"), float("nan"), -float("inf")
    check(lambda x, w: linear(x, w), x, w)


class Gated(nn.Module):
    def __init__(self, width: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5, dtype=dtype)
        self.gate, self.up = (nn.Linear(width, hidden, bias=False, dtype=dtype) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.down(silu(self.gate(h)) * self.up(h))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_gated_block(dtype: torch.dtype):
    model, x = Gated(64, 176, dtype).requires_grad_(False), torch.randn(2, 64).to(dtype)
    check(model, x)
    report = treadle.explain(model, (x,))
    (graph,) = report.graphs
    gated = [k.equations for k in graph.kernels if "sum2[i0, i1]" in k.equations]  # both products and what joins them
    assert len(graph.kernels) == 3 and len(gated) == 1 and "exp(" in gated[0]


def test_weights_that_change_are_read_again():
    layer = nn.Linear(32, 48).requires_grad_(False)
    fast = torch.compile(layer, backend="treadle")
    x = torch.randn(2, 32)
    torch.testing.assert_close(fast(x), layer(x))
    layer.weight.mul_(3).sub_(1)
    torch.testing.assert_close(fast(x), layer(x))


@pytest.mark.parametrize("rows", [1, 6, 40])
def test_gradients(rows: int):
    layer = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8))
    fast = torch.compile(layer, backend="treadle", fullgraph=True, options={"fallback": "error"})
    x = torch.randn(rows, 24, requires_grad=True)
    inputs = [x, *layer.parameters()]
    weights = torch.randn(rows, 8)
    got, want = (torch.autograd.grad((f(x) * weights).sum(), inputs) for f in (fast, layer))
    exact = torch.autograd.grad((layer.double()(x.double()) * weights.double()).sum(), list(layer.parameters()))
    for g, w, e in zip(got[1:], want[1:], exact, strict=True):
        assert compare(g, w, e).ok


def unpack(q: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, K/2] bytes of two 4-bit values, [N, G] scales and zeros -> [N, K]."""
    rows, groups = scale.shape
    w = torch.stack([q & 15, q >> 4], -1).reshape(rows, groups, -1)
    return ((w.to(dtype) - zero[..., None]) * scale[..., None]).reshape(rows, -1)


@pytest.mark.parametrize("rows", [1, 4, FEW_ROWS])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_packed_weights_are_unpacked_on_the_way(rows: int, dtype: torch.dtype):
    q = torch.randint(0, 256, (67, 64), dtype=torch.uint8)
    scale, zero = torch.rand(67, 4).to(dtype) + 0.5, torch.randint(6, 10, (67, 4)).to(dtype)
    x = torch.randn(rows, 128).to(dtype)

    def layer(x: Tensor, q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return linear(x, unpack(q, scale, zero, x.dtype))

    check(layer, x, q, scale, zero)
    (graph,) = treadle.explain(layer, (x, q, scale, zero)).graphs
    assert len(graph.kernels) == 1


@pytest.mark.parametrize("rows", [1, FEW_ROWS])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_scales_that_are_no_numbers_keep_to_their_columns(value: float, rows: int):
    q = torch.randint(0, 256, (67, 64), dtype=torch.uint8)
    scale, zero = torch.rand(67, 4).bfloat16() + 0.5, torch.randint(6, 10, (67, 4)).bfloat16()
    scale[5, 1], scale[60, 3] = value, value
    x = torch.randn(rows, 128).bfloat16()

    def layer(x: Tensor, q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return linear(x, unpack(q, scale, zero, x.dtype))

    got, eager = torch.compile(layer, backend="treadle", fullgraph=True)(x, q, scale, zero), layer(x, q, scale, zero)
    exact = linear(x.double(), unpack(q, scale.double(), zero.double(), torch.float64))
    bad = torch.zeros(67, dtype=torch.bool)
    bad[[5, 60]] = True
    assert not got[:, bad].isfinite().any() and not eager[:, bad].isfinite().any()
    assert compare(got[:, ~bad], eager[:, ~bad], exact[:, ~bad]).ok


def test_bytes_as_weights():
    q, scale = torch.randint(-128, 128, (67, 64), dtype=torch.int8), torch.rand(67).bfloat16()
    check(lambda x, q, s: linear(x, q.to(x.dtype)) * s, torch.randn(3, 64).bfloat16(), q, scale)
    check(lambda x, q, s: linear(x, q.to(x.dtype) * s[:, None]), torch.randn(3, 64).bfloat16(), q, scale)


# --- who computes it ---------------------------------------------------------------------------------------------


def product_of(rows: Any = 4, columns: Any = 512, dtypes: Any = (F32, F32), dense: Any = (True, True)) -> Product:
    return Product(1, rows, columns, 256, dtypes, dense)


PLAIN = ISAS["avx512"]
WITH_BF16 = replace(PLAIN, features=("avx512_bf16",))
WITH_AMX = replace(PLAIN, features=("avx512_bf16", "amx_bf16"))
OF_AMD = replace(PLAIN, vendor="AuthenticAMD")


def test_few_rows_are_ours():
    assert judge_product(product_of(), PLAIN) == ""
    assert judge_product(product_of(FEW_ROWS, 10_000, (BF16, BF16)), WITH_BF16) == ""
    assert judge_product(product_of(10_000, 3), PLAIN) == ""


def test_processors_without_vectors_leave_all_to_the_library():
    assert "vector" in judge_product(product_of(), ISAS["scalar"])
    assert "vector" in judge_product(product_of(500, 10_000, (BF16, BF16)), ISAS["scalar"])
    assert judge_product(product_of(), ISAS["avx2"]) == ""


def test_more_rows_are_ours_where_no_library_is_quicker():
    many = product_of(500, 10_000, (BF16, BF16))
    assert judge_product(many, PLAIN) == judge_product(many, WITH_BF16) == ""
    assert f"more than {FEW_ROWS} rows" in judge_product(many, WITH_AMX)
    assert "rows" in judge_product(product_of(500, 10_000), PLAIN)
    assert judge_product(product_of(500, 10_000), OF_AMD) == ""
    assert "rows" in judge_product(product_of(500, 10_000, (BF16, F32)), OF_AMD)
    assert judge_product(product_of(500, 10_000, (I8, I8)), PLAIN) == ""


def test_larger_operands_that_are_dense_along_the_results_are_ours_where_no_library_is_quicker():
    turned = replace(product_of(), dense=(True, False), across=(True, True))
    assert judge_product(turned, PLAIN) == ""
    assert judge_product(replace(turned, across=(True, False)), PLAIN)
    many = replace(turned, rows=500)
    assert judge_product(many, OF_AMD) == "" and "rows" in judge_product(many, PLAIN)
    half = replace(many, dtypes=(BF16, BF16))
    assert "dense" in judge_product(half, WITH_BF16)
    assert judge_product(replace(half, reordered=True), WITH_BF16) == ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 9, FEW_ROWS, 40])
def test_weights_stored_across(rows: int, dtype: torch.dtype):
    """y = x w, the products of gradients, and batches of them."""
    x, w, b = (torch.randn(s).to(dtype) for s in ((rows, 130), (130, 272), (272,)))
    check(lambda x, w, b: gelu(torch.addmm(b, x, w)) * 0.5, x, w, b, library=0 if rows <= FEW_ROWS else None)
    check(lambda x, w: torch.relu(x.t() @ w), x, torch.randn(rows, 96).to(dtype), library=None)
    check(torch.bmm, torch.randn(3, rows, 65).to(dtype), torch.randn(3, 65, 100).to(dtype), library=None)


@pytest.mark.parametrize(
    ("product", "word"),
    [
        (product_of(FEW_ROWS + 1), "rows"),
        (product_of(symbol("s0"), symbol("s1")), "dynamic"),
        (product_of(dtypes=(F64, F64)), "types"),
        (product_of(dtypes=(I64, I64)), "types"),
        (product_of(dtypes=(I8, F32)), "types"),
        (product_of(dense=(True, False)), "dense"),
        (product_of(10_000, 3, dense=(False, True)), "dense"),
    ],
)
def test_the_library_keeps_the_rest_and_says_why(product: Product, word: str):
    assert word in judge_product(product, PLAIN)


def test_the_reason_is_told():
    (graph,) = treadle.explain(nn.Linear(32, 48).double(), (torch.randn(3, 32).double(),)).graphs
    (call,) = graph.calls
    assert call.kind == "library" and "other types" in call.reason


def test_numbers_half_way_are_rounded_as_eager_rounds_them():
    """Rounding is where a last place shows: quotients before it are exact, also those by constants."""

    def quantize(x: Tensor, limit: float) -> Tensor:
        scale = x.abs().amax(-1, keepdim=True) / limit
        return (x / scale).round()

    x = (torch.arange(-60, 60) / 16).repeat(40, 1) * torch.arange(1, 41)[:, None]  # halves of the steps, many of them
    for limit in (7.0, 15.0, 127.0):
        fast = torch.compile(quantize, backend="treadle", fullgraph=True, dynamic=False)
        assert torch.equal(fast(x, limit), quantize(x, limit))
