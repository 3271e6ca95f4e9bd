"""torch.compile(backend="treadle") end to end: functions and small models against eager, judged by float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from treadle.compiler import reference

DTYPES = (torch.float32, torch.bfloat16)
Tensor = torch.Tensor


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)


def compiled(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(fn, backend="treadle", fullgraph=True, options={"fallback": "error", **options})


def counts() -> dict[str, int]:
    return dict(torch._dynamo.utils.counters["treadle"])


def check(fn: Callable[..., Any], *inputs: Any, times: int = 2, **options: Any) -> None:
    """Outputs, mutated inputs and, where an input asks for it, gradients."""
    fast = compiled(fn, **options)
    train = any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs) or isinstance(fn, nn.Module)
    for _ in range(times):
        report = reference.check(fn, inputs, fast, train=train)
        assert report.ok, str(report)


def rand(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_(grad)


# --- one kernel --------------------------------------------------------------------------------------------------

POINTWISE: dict[str, Callable[[Tensor], Any]] = {
    "tanh chain": lambda x: torch.tanh(torch.tanh(x * 2) + x),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "softmax": lambda x: torch.softmax(x, -1),
    "log softmax": lambda x: torch.log_softmax(x, 0),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rms norm": lambda x: x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype),
    "column sums": lambda x: x.sum(0),
    "all sum": lambda x: x.square().sum(),
    "var": lambda x: (x.var(-1), x.std(0)),
    "argmax": lambda x: (x.argmax(-1), x.max(0)),
    "cumsum": lambda x: x.cumsum(-1),
    "transpose": lambda x: x.t().contiguous() + 1,
    "cat": lambda x: torch.cat([x, x * 2, -x], -1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5),
    "flip and roll": lambda x: x.flip(0) + x.roll(1, -1),
    "mask": lambda x: torch.where(x > 0, x, -1.0),
    "triangle": lambda x: x.tril() + x.triu(1) * 2,
    "glu": lambda x: F.silu(x[:, : x.shape[1] // 2]) * x[:, x.shape[1] // 2 : x.shape[1] // 2 * 2],
    "several": lambda x: (x.exp(), x.sum(-1), x.amax(), (x > 0).any(-1), x.sigmoid().mean()),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", POINTWISE)
def test_functions_of_one_tensor(name: str, dtype: torch.dtype):
    check(POINTWISE[name], rand(17, 34, dtype=dtype))
    assert counts().get("opaque", 0) == 0


@pytest.mark.parametrize("name", [n for n in POINTWISE if n not in ("argmax",)])
def test_gradients_of_functions_of_one_tensor(name: str):
    check(POINTWISE[name], rand(9, 12, grad=True))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("name", ["softmax", "column sums", "cat", "layer norm", "transpose", "cumsum"])
def test_odd_shapes(name: str, shape: tuple[int, int]):
    check(POINTWISE[name], rand(*shape))


# --- inputs and outputs ------------------------------------------------------------------------------------------


def test_strided_inputs():
    x = rand(20, 30)
    check(lambda a, b: (a.exp() + b.t()).sum(0), x[::2, 1::3], rand(20, 10).t().contiguous().t()[::2].t())


def test_expanded_and_transposed_inputs():
    check(lambda a, b: a * b, rand(8, 1).expand(8, 5), rand(5, 8).t())


def test_output_strides_are_eager_ones():
    check(lambda x: (x.t() * 2, x.permute(1, 0).relu()), rand(6, 9))


def test_outputs_that_are_inputs_and_views():
    def f(x: Tensor) -> tuple[Tensor, ...]:
        y = x * 2
        return x, x.t(), y, y.t(), y[1:], y

    check(f, rand(4, 6))
    x = rand(4, 6)
    out = compiled(f)(x)
    assert out[0] is x
    assert out[1].data_ptr() == x.data_ptr()
    assert out[3].data_ptr() == out[2].data_ptr()


def test_constant_and_integer_outputs():
    check(lambda x: (torch.arange(5), torch.full((2, 3), 7.0), x.shape[0], None, x.long()), rand(4, 6))


def test_results_of_one_call_survive_the_next():
    fast = compiled(lambda x: (x * 2, (x @ x).relu()))
    a, b = rand(16, 16), rand(16, 16)
    first = fast(a)
    kept = [t.clone() for t in first]
    fast(b)
    assert all(torch.equal(s, t) for s, t in zip(first, kept, strict=True))


# --- mutation ----------------------------------------------------------------------------------------------------


def mutate_all(x: Tensor, y: Tensor) -> Tensor:
    x.mul_(2).add_(y)
    y[1:3] = 0
    return x.sum() + y.sum()


def test_mutated_inputs():
    check(mutate_all, rand(5, 6), rand(5, 6))


def test_swapped_inputs():
    def swap(x: Tensor, y: Tensor) -> None:
        old = x.clone()
        x.copy_(y)
        y.copy_(old)

    check(lambda x, y: (swap(x, y), x + y)[1], rand(4, 4), rand(4, 4))


def test_mutated_and_returned():
    check(lambda x: (x.add_(1), x * 2), rand(5, 6))


def test_mutated_through_a_view():
    def f(x: Tensor) -> Tensor:
        x[:, 1:3].add_(1)
        x.t()[0] = 5
        return x * 2

    check(f, rand(6, 6))


def test_aliased_inputs():
    def f(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return y * 2

    fast = compiled(f)
    for fn in (f, fast):
        base = torch.arange(12.0).reshape(3, 4)
        out = fn(base, base.t())
        assert torch.equal(out, (torch.arange(12.0).reshape(3, 4) + 1).t() * 2)


def test_a_cache_is_appended_to_in_place():
    def append(cache: Tensor, new: Tensor, at: Tensor) -> Tensor:
        cache.index_copy_(1, at, new)
        return new * 2

    check(append, rand(2, 16, 4), rand(2, 1, 4), torch.tensor([5]))


def test_buffers_of_a_module():
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean: Tensor
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            return x - self.mean

    ours, theirs = Running(), Running()
    fast = compiled(ours)
    for _ in range(3):
        x = rand(8, 4)
        torch.testing.assert_close(fast(x), theirs(x))
    torch.testing.assert_close(ours.mean, theirs.mean)


# --- calls of libraries and of ATen ------------------------------------------------------------------------------


def test_products_and_what_stands_around_them():
    def f(x: Tensor, w: Tensor, v: Tensor, b: Tensor) -> Tensor:
        h = F.gelu(x @ w + b)
        return torch.softmax(torch.addmm(b[:5], h, v) * 2, -1)

    check(f, rand(7, 8), rand(8, 9), rand(9, 5), rand(9))


def test_batched_products():
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v

    check(f, *(rand(2, 3, 8, 4, grad=True) for _ in range(3)))


def test_convolution_and_batch_norm():
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.MaxPool2d(2))
    check(model, rand(2, 3, 10, 10))


def test_attention():
    for causal in (False, True):
        torch._dynamo.reset()
        check(
            lambda q, k, v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
            *(rand(2, 3, 16, 8, grad=True) for _ in range(3)),
        )


def test_opaque_calls_with_several_results():
    def f(x: Tensor) -> tuple[Tensor, ...]:
        values, at = torch.sort(x * 2, -1)
        top = torch.topk(values + 1, 3)
        return values + at, top.values * 2, top.indices

    check(f, rand(6, 9))
    assert counts()["opaque"] >= 2


def test_an_opaque_view_of_an_intermediate_owns_its_memory():
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        z = torch.view_as_complex(y.reshape(4, 3, 2))
        return torch.view_as_real(z * 2), (y @ y.t()).relu()

    check(f, rand(4, 6))


def test_tensors_used_before_and_after_a_call():
    """Nothing lies on an arena here, which would hold the addresses from one launch to the next."""

    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        z = torch.view_as_real(torch.view_as_complex(y.reshape(4, 3, 2)) * 2)
        return y, z.reshape(4, 6).exp() + x + y

    check(f, rand(4, 6))


def test_complex_numbers_pass_through():
    check(lambda x: torch.fft.rfft(x * 2).abs() + 1, rand(4, 8))


# --- random numbers ----------------------------------------------------------------------------------------------


def test_random_numbers_are_those_of_eager():
    def f(x: Tensor) -> tuple[Tensor, ...]:
        return x + torch.rand_like(x), torch.randn(3), F.dropout(x, 0.5)

    check(f, rand(8, 8))


def test_dropout_in_training():
    check(lambda x: F.dropout(x * 2, 0.3).sum(-1), rand(16, 16, grad=True))


# --- models ------------------------------------------------------------------------------------------------------


def test_training_a_perceptron():
    model = nn.Sequential(nn.Linear(12, 33), nn.GELU(), nn.LayerNorm(33), nn.Linear(33, 5), nn.LogSoftmax(-1))
    check(model, rand(7, 12))


def test_training_a_transformer_layer():
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    check(layer, rand(2, 9, 16))


def test_embedding_and_cross_entropy():
    table, out = nn.Embedding(20, 8), nn.Linear(8, 20)

    def f(tokens: Tensor, weight: Tensor, w: Tensor) -> Tensor:
        h = F.embedding(tokens, weight)
        return F.cross_entropy((h @ w).flatten(0, 1), tokens.flatten())

    tokens = torch.randint(20, (3, 5))
    check(f, tokens, table.weight.detach().requires_grad_(), out.weight.detach().t().contiguous().requires_grad_())


def test_a_second_backward_of_the_same_graph_is_compiled_once():
    fast = compiled(lambda x: (x.tanh() * x).sum())
    for _ in range(3):
        x = rand(8, grad=True)
        fast(x).backward()
    assert counts()["graphs"] == 2


# --- dynamic sizes -----------------------------------------------------------------------------------------------


def around_a_product(x: Tensor, w: Tensor) -> tuple[Any, ...]:
    h = F.gelu(x @ w)
    return torch.softmax(h, -1), h.sum(0), h.t().contiguous() + 1, x.shape[0] * 2, torch.arange(x.shape[0])


@pytest.mark.parametrize("train", [False, True])
def test_many_lengths_through_one_graph(train: bool):
    fast = compiled(around_a_product)
    w = rand(8, 12, grad=train)
    for n in (5, 9, 33, 5, 64, 2, 1000):
        report = reference.check(around_a_product, (rand(n, 8, grad=train), w), fast, train=train)
        assert report.ok, str(report)
    assert counts()["graphs"] == 2 * (1 + train)  # for the first length, then for any


def test_dynamic_from_the_start():
    fast = torch.compile(around_a_product, backend="treadle", dynamic=True, options={"fallback": "error"})
    for n, m in ((5, 7), (9, 7), (4, 11), (64, 3)):
        report = reference.check(around_a_product, (rand(n, 8), rand(8, m)), fast)
        assert report.ok, str(report)
    assert counts()["graphs"] == 1


def test_numbers_as_inputs():
    fast = torch.compile(lambda x, n: (x * n + n, x[:n]), backend="treadle", options={"fallback": "error"})
    x = rand(20, 3)
    for n in (3, 4, 7, 1, 0):
        got = fast(x, n)
        torch.testing.assert_close(got, (x * n + n, x[:n]))


# --- what torch runs itself --------------------------------------------------------------------------------------


@torch.library.custom_op("treadle_test::add_into", mutates_args=("x",))
def add_into(x: Tensor, y: Tensor) -> None:
    x.add_(y)


@add_into.register_fake
def _(x: Tensor, y: Tensor) -> None:
    return None


def test_custom_operators_that_write():
    def f(x: Tensor, y: Tensor) -> Tensor:
        z = x * 2
        add_into(z, y)
        add_into(x, z)
        return z + x

    check(f, rand(4, 4), rand(4, 4))


def test_higher_order_operators():
    from torch._higher_order_ops.while_loop import while_loop

    def choose(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin() * 2, lambda x: x.cos() + 1, (x,)) * 3

    def repeat(x: Tensor) -> Tensor:
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2 + 1), (torch.tensor(0), x * 2))[1] * 3

    for f in (choose, repeat):
        for x in (rand(4, 5).abs(), -rand(4, 5).abs()):
            torch._dynamo.reset()
            torch.testing.assert_close(compiled(f)(x), f(x))


def test_checkpointed_layers():
    def f(x: Tensor, w: Tensor) -> Tensor:
        def inner(x: Tensor, w: Tensor) -> Tensor:
            return torch.tanh(x @ w).exp()

        return torch.utils.checkpoint.checkpoint(inner, x, w, use_reentrant=False).sum()

    check(f, rand(4, 4, grad=True), rand(4, 4, grad=True))


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True)
def test_sizes_known_only_at_run_time():
    check(lambda x: x[x > 0] * 2 + 1, rand(6, 6))
    torch._dynamo.reset()
    check(lambda x: x.nonzero().float().sum(0), rand(4, 4))


def test_results_of_a_training_step_outlive_the_next():
    """Logits that a loss reads and the caller keeps: what AOTAutograd returns is an unsafe view of a product."""

    def f(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        logits = x @ w
        return logits, F.cross_entropy(logits.view(-1, 9), torch.arange(6))

    fast = compiled(f)
    results = []
    for _ in range(2):
        x, w = rand(2, 3, 5, grad=True), rand(5, 9, grad=True)
        logits, loss = fast(x, w)
        loss.backward()
        results.append((logits, f(x, w)[0]))
    for got, want in results:
        torch.testing.assert_close(got, want)
