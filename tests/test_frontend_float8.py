"""FP8 tensors are read as the numbers they hold, bit for bit, inside kernels."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import linear

import treadle
from treadle.compiler.check import compare
from treadle.compiler.reference import in_float64

FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]
TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ALL = torch.arange(256, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_byte(form: torch.dtype, dtype: torch.dtype):
    held = ALL.view(form).reshape(16, 16).t()  # not contiguous
    fast = torch.compile(lambda w: w.to(dtype), backend="treadle", fullgraph=True, options={"fallback": "error"})
    got, want = fast(held), held.to(dtype)
    assert torch.equal(got.isnan(), want.isnan()) and got.isinf().sum() == want.isinf().sum()
    known = ~want.isnan()
    assert torch.equal(got[known], want[known]) and torch.equal(got[known].signbit(), want[known].signbit())
    assert sum(counters["treadle"].get(kind, 0) for kind in ("opaque", "library")) == 0


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_layers_of_fp8_weights(form: torch.dtype, rows: int):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 96, generator=generator).bfloat16()
    w = torch.randn(70, 96, generator=generator).to(form)
    s = torch.rand(70, generator=generator)

    def layer(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return linear(x, w.to(x.dtype)).float() * s

    fast = torch.compile(layer, backend="treadle", fullgraph=True, options={"fallback": "error"})
    with in_float64():
        exact = linear(x.double(), w.double()) * s.double()
    report = compare(fast(x, w, s), layer(x, w, s), exact)
    assert report.ok, str(report)


def test_weights_are_unpacked_on_the_way():
    """One kernel: neither decoded weights nor those that a table gives are ever in memory."""
    x, q = torch.randn(2, 64), torch.randint(0, 256, (70, 32), dtype=torch.uint8)
    held, table = torch.randn(70, 64).to(torch.float8_e4m3fn), torch.randn(16)

    def by_table(x: torch.Tensor, q: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return linear(x, table[torch.stack([q & 15, q >> 4], -1).flatten(-2).long()])

    def by_row(x: torch.Tensor, q: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        codes = torch.stack([q & 15, q >> 4], -1).flatten(-2).long()
        return linear(x, tables.gather(1, codes))

    cases = [
        (lambda x, w: linear(x, w.float()), (x, held)), (by_table, (x, q, table)),
        (by_row, (x, q, torch.randn(70, 16))),
    ]  # fmt: skip
    for function, inputs in cases:
        (graph,) = treadle.explain(function, inputs).graphs
        assert graph.counts["kernels"] == 1 and not [c for c in graph.calls if c.kind != "view"]


def test_what_is_no_conversion_is_left_to_aten():
    held = torch.randn(8, 8).to(torch.float8_e4m3fn)
    fast = torch.compile(lambda w: (w.t().contiguous(), w.float() + 1), backend="treadle")
    turned, more = fast(held)
    assert torch.equal(turned.float(), held.t().float()) and torch.equal(more, held.float() + 1)
