"""Products of rows in groups, as experts compute them: right for all offsets; the rest is ATen's, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import grouped_mm, silu

import treadle
from treadle.codegen.cpp.isa import ISAS
from treadle.compiler.check import compare
from treadle.compiler.contractions import judge_product
from treadle.compiler.frontend.contractions import Product
from treadle.compiler.reference import in_float64, widen
from treadle.ir.types import BF16, F64

Tensor = torch.Tensor
Grouped = Callable[..., Tensor]
HALF = torch.bfloat16


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(6)


def one_by_one(x: Tensor, w: Tensor, offs: Tensor) -> Tensor:
    """A product for each group; rows of no group are 0."""
    out, begin = x.new_zeros(x.shape[0], w.shape[2]), 0
    for g, end in enumerate(offs.tolist()):
        out[begin:end], begin = x[begin:end] @ w[g], end
    return out


def check(function: Callable[..., Tensor], *inputs: Tensor, library: int = 0, opaque: int = 0) -> None:
    """`function` takes the product in groups and the inputs. Results are within the error of products one by one."""
    compiled = torch.compile(
        lambda *given: function(grouped_mm, *given), backend="treadle", fullgraph=True, dynamic=False,
        options={"fallback": "error"},
    )  # fmt: skip
    with torch.no_grad():
        got, eager = compiled(*inputs), function(one_by_one, *inputs)
        with in_float64():
            exact = function(one_by_one, *widen(inputs))
    report = compare(got, eager, exact)
    assert report.ok, str(report)
    found = counters["treadle"]
    assert (found["library"], found["opaque"]) == (library, opaque), dict(found)


def operands(counts: list[int], k: int, n: int, rest: int = 0, dtype: torch.dtype = HALF) -> tuple[Tensor, ...]:
    """Rows, matrices dense along what is summed over ([groups, n, k]), and offsets."""
    x, w = torch.randn(sum(counts) + rest, k), torch.randn(len(counts), n, k) * k**-0.5
    return x.to(dtype), w.to(dtype), torch.tensor(counts).cumsum(0).to(torch.int32)


def plain(product: Grouped, x: Tensor, w: Tensor, offs: Tensor) -> Tensor:
    return product(x, w.transpose(1, 2), offs=offs)


# --- groups ------------------------------------------------------------------------------------------------------

COUNTS = {
    "uneven": [3, 17, 1, 40],
    "empty": [0, 9, 0, 0, 5, 0],
    "all empty": [0, 0, 0],
    "one": [33],
    "one row each": [1] * 9,
    "all in one": [0, 0, 150, 0],
    "all in the last": [0, 0, 65],
}


@pytest.mark.parametrize("name", COUNTS)
def test_groups(name: str):
    rest = 2 if name == "all empty" else 0
    check(plain, *operands(COUNTS[name], 64, 80, rest))


@pytest.mark.parametrize("size", [(8, 8), (40, 104), (520, 8), (8, 1000), (2056, 136)], ids=str)
def test_sizes(size: tuple[int, int]):
    """Rows of eager's operands are a multiple of 16 bytes; those of kernels need not be (as `test_odd_sizes`)."""
    k, n = size
    check(plain, *operands([5, 0, 20, 2], k, n))


def test_rows_of_no_group_are_zero():
    check(plain, *operands([2, 0, 7], 48, 64, rest=6))


def test_groups_of_wide_offsets_are_left_as_eager_leaves_them():
    x, w, offs = operands([2, 3], 48, 64)
    with pytest.raises(Exception, match=r"(?i)int32|int"):
        torch.compile(lambda x, w, o: plain(grouped_mm, x, w, o), backend="treadle")(x, w, offs.long())


def test_rows_of_the_second_operand_are_in_groups():
    """[groups, n, k] times [k, rows]: as the first, turned."""
    x, w, offs = operands([4, 0, 11, 1], 64, 48)

    def turned(product: Grouped, x: Tensor, w: Tensor, offs: Tensor) -> Tensor:
        if product is one_by_one:
            return one_by_one(x, w.transpose(1, 2), offs).t()
        return product(w, x.t(), offs=offs)

    with torch.no_grad():
        got = torch.compile(lambda x, w, o: turned(grouped_mm, x, w, o), backend="treadle")(x, w, offs)
        eager, exact = turned(one_by_one, x, w, offs), turned(one_by_one, *widen((x, w, offs)))
    assert got.shape == eager.shape
    report = compare(got.contiguous(), eager.contiguous(), exact.contiguous())
    assert report.ok, str(report)
    assert counters["treadle"]["library"] == counters["treadle"]["opaque"] == 0


def test_any_number_of_rows():
    _, w, _ = operands([1, 1, 1], 64, 48)
    fast = torch.compile(lambda x, w, o: plain(grouped_mm, x, w, o), backend="treadle", options={"fallback": "error"})
    for counts in ([3, 0, 6], [20, 1, 5], [0, 2, 0], [200, 3, 128]):
        x, _, offs = operands(counts, 64, 48)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            got, eager, exact = fast(x, w, offs), plain(one_by_one, x, w, offs), plain(one_by_one, *widen((x, w, offs)))
        report = compare(got, eager, exact)
        assert report.ok, f"{counts}: {report}"
    assert counters["stats"]["unique_graphs"] == 1 and counters["treadle"]["library"] == 0


@pytest.mark.parametrize(
    "offs", [[-5, 3, 9], [4, 5, 12], [4, 900, 9], [9, 2, 6], [2**31 - 1] * 3, [-(2**31), 2**31 - 1, 9]], ids=str
)  # fmt: skip
def test_offsets_out_of_range_are_told(offs: list[int]):
    """Nothing is read or written outside of the operands, and calls after that are right."""
    x, w, good = operands([3, 0, 6], 64, 48)
    fast = torch.compile(lambda x, w, o: plain(grouped_mm, x, w, o), backend="treadle")
    with torch.no_grad():
        wanted = fast(x, w, good).clone()
        with pytest.raises(RuntimeError, match="out of bounds"):
            fast(x, w, torch.tensor(offs, dtype=torch.int32))
        assert torch.equal(fast(x, w, good), wanted)


# --- what is around them -----------------------------------------------------------------------------------------


def offsets_of(expert: Tensor, experts: int) -> Tensor:
    counts = torch.histc(expert.float(), bins=experts, min=0, max=experts - 1)
    return counts.cumsum(0, dtype=torch.int32)


def test_offsets_of_the_graph():
    x, w, _ = operands([4, 9, 0, 8], 64, 48)
    expert = torch.tensor([0] * 4 + [1] * 9 + [3] * 8)
    check(lambda product, x, w, e: product(x, w.transpose(1, 2), offs=offsets_of(e, 4)), x, w, expert)


def test_rows_gathered_by_expert():
    x, w, _ = operands([30, 0, 0, 0, 0], 64, 48)

    def gathered(product: Grouped, x: Tensor, w: Tensor, expert: Tensor) -> Tensor:
        order, rows = torch.sort(expert, stable=True)
        return product(x[rows], w.transpose(1, 2), offs=offsets_of(order, 5))

    check(gathered, x, w, torch.randint(5, (30,)), opaque=1)  # sort


def gated(product: Grouped, x: Tensor, w: Tensor, offs: Tensor) -> Tensor:
    gate, up = product(x, w.transpose(1, 2), offs=offs).chunk(2, -1)
    return silu(gate) * up


@pytest.mark.parametrize("counts", [[3, 17, 1, 40], [1, 0, 0, 1]], ids=str)
def test_gates_ride_along(counts: list[int]):
    check(gated, *operands(counts, 64, 96))
    assert counters["treadle"]["kernels"] == 1


def test_matrices_that_are_dense_along_the_columns_are_the_librarys():
    x, w, offs = operands([3, 17, 1, 40], 64, 48)
    check(lambda product, x, w, offs: product(x, w, offs=offs), x, w.transpose(1, 2).contiguous(), offs, library=1)


def test_every_group_of_a_batch():
    """Three dimensions each: no offsets, a batched product."""
    a, b = (torch.randn(3, n, 64).to(HALF) for n in (8, 48))
    fast = torch.compile(lambda a, b: grouped_mm(a, b.transpose(1, 2)), backend="treadle")
    report = compare(fast(a, b), a @ b.mT, a.double() @ b.double().mT)
    assert report.ok, str(report)
    assert counters["treadle"]["library"] == 0


def block(product: Grouped, h: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, chosen: int = 2) -> Tensor:
    """Router, experts and the sum of their results, as transformers writes it."""
    experts = gate_up.shape[0]
    probabilities = torch.softmax((h @ router.t()).float(), -1)
    weights, index = torch.topk(probabilities, chosen, -1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(h.dtype)
    expert, order = torch.sort(index.reshape(-1))
    offs = offsets_of(expert, experts)
    y = product(gated(product, h[order // chosen], gate_up, offs), down.transpose(1, 2), offs=offs)
    y = y * weights.reshape(-1)[order, None]
    back = torch.empty_like(order)
    back[order] = torch.arange(order.shape[0])
    return y[back].view(h.shape[0], chosen, -1).sum(1)


@pytest.mark.parametrize("tokens", [1, 7, 160])
def test_a_block_of_experts(tokens: int):
    h, router = torch.randn(tokens, 64).to(HALF), (torch.randn(6, 64) * 3).to(HALF)
    gate_up, down = (torch.randn(6, 96, 64) * 0.125).to(HALF), (torch.randn(6, 64, 48) * 0.125).to(HALF)
    router = (router * 8).round() / 8  # experts are apart, whatever is rounded
    check(block, h, router, gate_up, down, opaque=2)  # sort and top-k


def test_results_are_put_back_behind_the_product():
    """Rows in another order are in no groups: they are taken of what is stored."""
    x, w, offs = operands([100, 120, 0, 80], 64, 48)

    def back(product: Grouped, x: Tensor, w: Tensor, offs: Tensor, order: Tensor) -> Tensor:
        return product(x, w.transpose(1, 2), offs=offs)[order].view(150, 2, -1).sum(1)

    check(back, x, w, offs, torch.randperm(300))


def test_a_step_of_training():
    """Gradients are the library's: of matrices by groups of what is summed, of rows by matrices dense along results."""
    x, w, offs = operands([3, 17, 1, 40], 64, 96)

    def gradients(product: Grouped, x: Tensor, w: Tensor) -> list[Tensor]:
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        (gated(product, x, w, offs).square().sum()).backward()
        assert x.grad is not None and w.grad is not None
        return [x.grad, w.grad]

    fast = torch.compile(
        lambda x, w, offs: plain(grouped_mm, x, w, offs), backend="treadle", options={"fallback": "error"}
    )

    def compiled(x: Tensor, w: Tensor, offs: Tensor) -> Tensor:
        return fast(x, w.transpose(1, 2), offs)

    got, eager = gradients(compiled, x, w), gradients(one_by_one, x, w)
    assert counters["treadle"]["library"] == 2 and counters["treadle"]["opaque"] == 0
    exact = gradients(one_by_one, *widen((x, w)))
    report = compare(got, eager, exact)
    assert report.ok, str(report)


# --- models ------------------------------------------------------------------------------------------------------

TINY = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "use_cache": False}  # fmt: skip
MODELS = {
    "Mixtral": {"intermediate_size": 112, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {
        "intermediate_size": 96, "moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 3,
        "head_dim": 16, "norm_topk_prob": True, "decoder_sparse_step": 1,
    },
}  # fmt: skip


def model_of(name: str, experts: str = "grouped_mm") -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**TINY, **MODELS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    model.set_experts_implementation(experts)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str):
    """In fp32, in which experts are chosen alike; products are those of an op of transformers then."""
    model = model_of(name).requires_grad_(False)
    ids = torch.randint(128, (2, 9))
    fast = torch.compile(model, backend="treadle", fullgraph=True, dynamic=False, options={"fallback": "error"})
    got, eager = fast(input_ids=ids).logits, model(input_ids=ids).logits
    with in_float64():
        exact = deepcopy(model).double()(input_ids=ids).logits
    report = compare(got, eager, exact)
    assert report.ok, str(report)
    (graph,) = treadle.explain(model, {"input_ids": ids}).graphs
    assert not any("grouped_mm" in call.target for call in graph.calls), graph.calls


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_models_in_bf16(name: str):
    model = model_of(name).to(HALF).requires_grad_(False)
    ids = torch.randint(128, (1, 5))
    (graph,) = treadle.explain(model, {"input_ids": ids}).graphs
    assert not any("grouped_mm" in call.target for call in graph.calls), graph.calls


@pytest.mark.filterwarnings("ignore")
def test_a_model_learns():
    model = model_of("Mixtral")
    ids = torch.randint(128, (2, 9))

    def gradients(model: nn.Module, call: Any) -> list[Tensor]:
        model.zero_grad()
        call(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    fast = torch.compile(model, backend="treadle", dynamic=False, options={"fallback": "error"})
    got, eager = gradients(model, fast), gradients(model, model)
    wide = deepcopy(model).double()
    with in_float64():
        exact = gradients(wide, wide)
    report = compare(got, eager, exact)
    assert report.ok, str(report)


# --- who computes it ---------------------------------------------------------------------------------------------


def explained(function: Callable[..., Any], *inputs: Tensor) -> Any:
    with torch.no_grad():
        (graph,) = treadle.explain(function, inputs).graphs
    (call,) = graph.calls
    assert "grouped_mm" in call.target and call.kind == "library"
    return call.reason


def test_reasons():
    x, w, offs = operands([8, 8, 16], 64, 48)
    along = w.transpose(1, 2).contiguous()
    assert "dense" in explained(lambda x, w, o: grouped_mm(x, w, offs=o), x, along, offs)
    assert "points of groups" in explained(lambda x, y, o: grouped_mm(x.t(), y, offs=o), x, x, offs)


PLAIN = ISAS["avx512"]
WITH_AMX = replace(PLAIN, features=("avx512_bf16", "amx_bf16"))


def test_rows_of_a_group_decide():
    few = Product(1, 64, 512, 256, (BF16, BF16), (True, True), groups=8, hints=(64, 512))
    assert judge_product(few, WITH_AMX) == ""
    many = replace(few, rows=6400, hints=(6400, 512))
    assert "rows" in judge_product(many, WITH_AMX) and judge_product(many, PLAIN) == ""
    assert "types" in judge_product(replace(few, dtypes=(F64, F64)), PLAIN)
    assert "dense" in judge_product(replace(few, dense=(True, False), across=(True, True)), PLAIN)
    assert "dense" in judge_product(replace(few, dense=(True, False)), PLAIN, "own")
    assert "points of groups" in judge_product(replace(few, batch=8), PLAIN, "own")
