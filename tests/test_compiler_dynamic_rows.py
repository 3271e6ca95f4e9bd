"""Products whose rows are counted at run time only are kernels of ours: one compilation, right for every count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from quantize_reference import bound_error, compute64
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import gelu, linear, silu

import treadle
from treadle.codegen.cpp.isa import ISAS
from treadle.compiler.check import compare
from treadle.compiler.contractions import FEW_ROWS, judge_product
from treadle.compiler.frontend.contractions import Product
from treadle.compiler.quantize import QuantLinear
from treadle.compiler.reference import in_float64, widen
from treadle.ir.types import BF16, F32, symbol

Tensor = torch.Tensor
COUNTS = (5, 1, 2, 3, 16, 17, 31, 32, 33, 127, 129, 1000, 0)
WIDTH, COLUMNS = 72, 136


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(4)


class Layer(nn.Module):
    """A function of rows, and of tensors of static sizes."""

    def __init__(self, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.function = function
        self.count = len(tensors)
        for k, t in enumerate(tensors):
            self.register_buffer(f"t{k}", t)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, f"t{k}") for k in range(self.count)))


def check(model: nn.Module, inputs: Sequence[Tensor], dim: int = 0, compiled: int = 1) -> None:
    """Results are within eager's error of float64; sizes of 2 and more share `compiled` compilations, 0 and 1 have
    their own, and no library is called.
    """
    fast = torch.compile(model, backend="treadle", fullgraph=True, options={"fallback": "error"})
    wide = deepcopy(model).double()
    for x in inputs:
        if x.shape[dim] > 1:
            torch._dynamo.mark_dynamic(x, dim)
        with torch.no_grad():
            got, eager = fast(x), model(x)
            with in_float64():
                exact = wide(*widen([x]))
        report = compare(got, eager, exact)
        assert report.ok, f"{list(x.shape)}: {report}"
    alone = len({x.shape[dim] for x in inputs if x.shape[dim] < 2})
    assert counters["stats"]["unique_graphs"] <= compiled + alone
    assert counters["treadle"]["library"] == 0, dict(counters["treadle"])


def unpack(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, K/2] bytes of two 4-bit values, [N, G] scales -> [N, K]."""
    rows, groups = scale.shape
    w = torch.stack([q & 15, q >> 4], -1).reshape(rows, groups, -1)
    return ((w.to(dtype) - 8) * scale[..., None]).reshape(rows, -1)


def normed(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
    return linear(nn.functional.rms_norm(x, (WIDTH,), g, 1e-5), w)


CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "bias": (linear, ((COLUMNS, WIDTH), (COLUMNS,))),
    "gelu": (lambda x, w, b: gelu(linear(x, w, b)), ((COLUMNS, WIDTH), (COLUMNS,))),
    "residual": (lambda x, w: x + linear(x, w), ((WIDTH, WIDTH),)),
    "gated": (lambda x, g, u: silu(linear(x, g)) * linear(x, u), ((COLUMNS, WIDTH), (COLUMNS, WIDTH))),
    "norm": (normed, ((WIDTH,), (COLUMNS, WIDTH))),
    "odd": (lambda x, w: linear(x[:, :71], w), ((67, 71),)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_layers(name: str, dtype: torch.dtype):
    function, shapes = CASES[name]
    tensors = [torch.randn(s).to(dtype) for s in shapes]
    check(Layer(function, tensors), [torch.randn(m, WIDTH).to(dtype) for m in COUNTS])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_weights_are_unpacked_on_the_way(dtype: torch.dtype):
    q, scale = torch.randint(0, 256, (COLUMNS, 32), dtype=torch.uint8), torch.rand(COLUMNS, 2).to(dtype)
    check(Layer(lambda x, q, s: linear(x, unpack(q, s, x.dtype)), [q, scale]),
          [torch.randn(m, 64).to(dtype) for m in COUNTS])  # fmt: skip
    assert counters["treadle"]["kernels"] == counters["treadle"]["graphs"]


def test_bytes():
    q, scale = torch.randint(-128, 128, (COLUMNS, WIDTH), dtype=torch.int8), torch.rand(COLUMNS)
    check(Layer(lambda x, q, s: linear(x, q.to(x.dtype)) * s, [q, scale.bfloat16()]),
          [torch.randn(m, WIDTH).bfloat16() for m in COUNTS])  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sequences(dtype: torch.dtype):
    tensors = [torch.randn(COLUMNS, WIDTH).to(dtype), torch.randn(COLUMNS).to(dtype)]
    layer = Layer(lambda x, w, b: linear(x, w, b).view(*x.shape[:2], 8, -1).transpose(1, 2) * 2, tensors)
    check(layer, [torch.randn(3, m, WIDTH).to(dtype) for m in COUNTS[:-1]], dim=1)


def test_sizes_become_dynamic_by_themselves():
    """The second size compiles once more, and no other one does."""
    layer = Layer(lambda x, w: torch.relu(linear(x, w)), [torch.randn(COLUMNS, WIDTH)])
    fast = torch.compile(layer, backend="treadle", fullgraph=True, options={"fallback": "error"})
    for m in (4, 9, 2, 40, 13, 200):
        x = torch.randn(m, WIDTH)
        torch.testing.assert_close(fast(x), layer(x))
    assert counters["stats"]["unique_graphs"] == 2 and counters["treadle"]["library"] == 0


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16-g32", "w8a8"])
def test_quantized_layers(scheme: str):
    layer = treadle.quantize(nn.Linear(128, 67), scheme)
    assert isinstance(layer, QuantLinear)
    fast = torch.compile(layer, backend="treadle", fullgraph=True, options={"fallback": "error", "numerics": "strict"})
    for m in (5, 2, 17, 33, 129):
        x = torch.randn(m, 128)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            wanted, size = compute64(layer, x)
            assert ((fast(x).double() - wanted).abs() <= bound_error(layer, size, x.dtype)).all(), m
    assert counters["stats"]["unique_graphs"] == 1 and counters["treadle"]["library"] == 0


@pytest.mark.filterwarnings("ignore")
def test_a_decoder_of_any_length():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=128, intermediate_size=112, use_cache=False, **sizes)
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    fast = torch.compile(model, backend="treadle", options={"fallback": "error"})
    for length in (5, 9, 2, 33, 129, 16):
        ids = torch.randint(128, (1, length))
        got, eager = fast(input_ids=ids).logits, model(input_ids=ids).logits
        with in_float64():
            exact = deepcopy(model).double()(input_ids=ids).logits
        report = compare(got, eager, exact)
        assert report.ok, f"{length}: {report}"
    assert counters["stats"]["unique_graphs"] <= 2
    assert counters["treadle"]["library"] == 2, dict(counters["treadle"])  # attention of any length, in each layer


# --- who computes it ---------------------------------------------------------------------------------------------


def product_of(hint: int, columns: Any = 512, dtypes: Any = (F32, F32), batch: Any = 1) -> Product:
    return Product(batch, symbol("s0"), columns, 256, dtypes, (True, True), hints=(hint, 512))


PLAIN = ISAS["avx512"]


def test_the_example_says_who_is_likely_to_be_quicker():
    assert judge_product(product_of(FEW_ROWS), PLAIN) == ""
    assert "rows" in judge_product(product_of(FEW_ROWS + 1), PLAIN)
    assert judge_product(product_of(500), replace(PLAIN, vendor="AuthenticAMD")) == ""
    assert judge_product(product_of(500, dtypes=(BF16, BF16)), PLAIN) == ""


def test_other_dynamic_sizes_are_the_librarys():
    assert "dynamic" in judge_product(product_of(4, symbol("s1")), PLAIN)
    assert "dynamic" in judge_product(product_of(4, batch=2), PLAIN)
    assert "dynamic" in judge_product(product_of(4, batch=symbol("s1")), PLAIN)
