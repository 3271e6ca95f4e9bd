"""Each lowering against eager and float64: forward values, and gradients through torch's own derivative formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from frontend_sweep import run_case
from torch import Tensor
from torch.nn import functional

FLOATS = (torch.float32, torch.bfloat16)


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    return torch.randint(0, 2, shape).bool() if dtype is torch.bool else torch.randint(0, 50, shape).to(dtype)


def positive(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return rand(*shape, dtype=dtype).abs() + 0.5


def check(function: Callable[..., Any], *args: Any, train: bool = False, **kwargs: Any) -> None:
    torch.manual_seed(1)
    outcome = run_case(function, *args, train=train, **kwargs)
    assert outcome.report.ok, str(outcome.report)
    assert not outcome.opaque


def check_each(functions: Mapping[str, Callable[..., Any]], *args: Any, train: bool = False) -> None:
    """All functions of the same arguments in one graph, which costs one tracing."""
    check(lambda *given: {name: function(*given) for name, function in functions.items()}, *args, train=train)


def of_torch(*names: str) -> dict[str, Callable[..., Any]]:
    return {name: getattr(torch, name) for name in names}


UNARY = of_torch(
    "exp", "exp2", "expm1", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "asinh", "sigmoid", "erf", "erfc",
    "neg", "abs", "sign", "square", "floor", "ceil", "trunc", "round", "frac", "relu", "isnan", "isinf", "isfinite",
    "signbit", "logical_not", "sgn",
)  # fmt: skip
POSITIVE = of_torch("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "lgamma", "digamma", "acosh")


@pytest.mark.parametrize("dtype", FLOATS)
def test_unary(dtype: torch.dtype) -> None:
    check_each(UNARY, rand(3, 5, dtype=dtype), train=True)
    check_each(POSITIVE, 1 + positive(3, 5, dtype=dtype))
    check_each(of_torch("asin", "acos", "atanh", "erfinv"), rand(3, 5).sigmoid().to(dtype))


def test_unary_of_integers() -> None:
    some = of_torch("exp", "sqrt", "abs", "sign", "floor", "isnan", "signbit", "bitwise_not", "square")
    check_each(some | of_torch("neg"), rand(3, 5, dtype=torch.int32))
    check_each(some, rand(3, 5, dtype=torch.uint8))
    check_each(of_torch("exp", "isnan", "signbit", "logical_not"), rand(3, 5, dtype=torch.bool))


BINARY = of_torch(
    "add", "sub", "mul", "div", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne", "atan2", "hypot", "fmax",
    "fmin", "copysign", "logical_and", "logical_or", "logical_xor", "remainder", "fmod",
)  # fmt: skip
PAIRS = [
    (torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32),
    (torch.float16, torch.bfloat16), (torch.int32, torch.float32), (torch.uint8, torch.bfloat16),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_binary(left: torch.dtype, right: torch.dtype) -> None:
    check_each(BINARY, rand(4, 1, 5, dtype=left), rand(3, 5, dtype=right) + 1)
    check_each(BINARY, rand(4, 5, dtype=left), rand(dtype=right) + 1)  # a 0-d tensor does not widen


@pytest.mark.parametrize(
    ("left", "right"), [(torch.int64, torch.int32), (torch.uint8, torch.int8), (torch.int16, torch.uint8)]
)
def test_binary_of_integers(left: torch.dtype, right: torch.dtype) -> None:
    some = of_torch("add", "sub", "mul", "lt", "eq", "maximum", "bitwise_and", "bitwise_or", "bitwise_xor", "div")
    check_each(some, rand(4, 5, dtype=left), rand(4, 5, dtype=right))


NUMBERS: dict[str, Callable[[Tensor], Any]] = {
    "add": lambda x: (x + 0.1, 3 - x, torch.add(x, x, alpha=3), torch.sub(x, x, alpha=2)),
    "mul": lambda x: (x * 0.1, x / 3, 1.5 / (x + 60), x**2),
    "compare": lambda x: (x > 0.1, x == 7, x <= 3),
    "divide": lambda x: (x % 7, x // 3, torch.fmod(x, 3), torch.div(x, 7, rounding_mode="trunc")),
    "choose": lambda x: (
        torch.where(x > 1, x, 0.1),
        x.clamp(1, 5),
        x.clamp(min=0.5),
        x.masked_fill(x > 2, 5),
        torch.where(x > 1, 2, x),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.uint8])
def test_numbers(dtype: torch.dtype) -> None:
    check_each(NUMBERS, rand(3, 7, dtype=dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_power(dtype: torch.dtype) -> None:
    exponents = (0, 0.5, 1, 2, 3, 4, -0.5, -1, -2, 0.3, 2.5)
    check(lambda x: {str(e): x**e for e in exponents}, positive(3, 5, dtype=dtype), train=True)


def test_bits() -> None:
    x, n = rand(4, 5, dtype=torch.int32), torch.arange(5, dtype=torch.int32)
    check(lambda x, n: (x << n, x >> n, x << 3, x & 6, x ^ n, ~x), x, n)
    check(lambda x: (x & 6, x | 9, ~x, x << 2), rand(4, 5, dtype=torch.uint8))
    check(
        lambda a, b: (a & b, a | b, a ^ b, ~a, a + b, a * b), rand(4, 5, dtype=torch.bool), rand(4, 5, dtype=torch.bool)
    )


def test_special_values() -> None:
    x = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1.0, -1.0, 3e38])
    y = torch.tensor([float("nan"), 0.0, 1.0, float("inf"), 1.0, -0.0, float("nan"), -3e38])
    for name in ("maximum", "minimum", "fmax", "fmin", "atan2", "copysign", "xlogy"):
        check(getattr(torch, name), x, y)
    check(
        lambda x: (x.nan_to_num(), x.nan_to_num(1.0, 2.0, 3.0), x.sign(), x.relu(), x.clamp(-1, 1), x.to(torch.bool)), x
    )
    check(lambda x, y: (x.amax(), x.amin(), x.argmax(), y.argmin(), x.max(0), x.logsumexp(0), x.any(), x.all()), x, y)
    check(torch.heaviside, x, y)


CONVERSIONS = (
    torch.bool,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
)


@pytest.mark.parametrize("source", CONVERSIONS)
def test_conversions(source: torch.dtype) -> None:
    x = rand(50, dtype=source).abs() * 20 if source.is_floating_point else rand(50, dtype=source)
    check(lambda x: [x.to(d) for d in CONVERSIONS], x)


ACTIVATIONS = (
    functional.gelu, functional.silu, functional.mish, functional.softplus, functional.elu, functional.selu,
    functional.celu, functional.relu6, functional.hardswish, functional.hardsigmoid, functional.hardtanh,
    functional.leaky_relu, functional.logsigmoid, functional.softsign, functional.tanhshrink, functional.softshrink,
    functional.hardshrink, functional.glu,
)  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_activation(dtype: torch.dtype) -> None:
    check_each({f.__name__: f for f in ACTIVATIONS}, 3 * rand(4, 6, dtype=dtype), train=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_activation_arguments(dtype: torch.dtype) -> None:
    x = 3 * rand(4, 6, dtype=dtype)
    check(lambda x: functional.gelu(x, approximate="tanh"), x, train=True)
    check(lambda x: functional.softplus(x, 2.0, 5.0), x, train=True)
    check(lambda x: functional.elu(x, 0.7), x, train=True)
    check(lambda x: functional.threshold(x, 0.3, 2.0), x, train=True)
    check(functional.prelu, rand(2, 3, 4, dtype=dtype), rand(3, dtype=dtype), train=True)
    check(lambda a, b, w: (torch.lerp(a, b, 0.3), torch.lerp(a, b, w)), x, x + 1, rand(6, dtype=dtype), train=True)
    check(
        lambda a, b, c: (torch.addcmul(a, b, c, value=0.5), torch.addcdiv(a, b, c + 9, value=0.5)), x, x, x, train=True
    )


REDUCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.sum(dtype=torch.float64)),
    "mean": lambda x: (x.float().mean(), x.double().mean((0, -1))),
    "amax": lambda x: (x.amax(), x.amax((0, 1)), x.amax(-1, keepdim=True), x.max(), x.min()),
    "amin": lambda x: (x.amin(), x.amin((0, 1)), torch.aminmax(x, dim=1)),
    "max": lambda x: (x.max(1), x.min(2, keepdim=True)),
    "argmax": lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True)),
    "any": lambda x: (x.any(), x.any(1), (x > 3).all((0, 2)), x.all(0, keepdim=True), x.count_nonzero(1)),
    "cumsum": lambda x: (x.cumsum(1), x.cumsum(-1)),
    "cummax": lambda x: (x.cummax(1), x.cummin(2)),
}
PRODUCTS: dict[str, Callable[[Tensor], Any]] = {
    "prod": lambda x: (x.prod(), x.prod(1, keepdim=True)),
    "cumprod": lambda x: x.cumprod(0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8])
def test_reduction(dtype: torch.dtype) -> None:
    check_each(REDUCTIONS, rand(3, 5, 4, dtype=dtype))
    check_each(PRODUCTS, rand(3, 5, 4, dtype=dtype) % 7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_reduction_of_floats(dtype: torch.dtype) -> None:
    x = rand(3, 5, 4, dtype=dtype)
    check(
        lambda x: (x.mean(), x.mean((0, 2)), x.var(), x.var(1), x.var((0, 2), correction=0, keepdim=True), x.std(0)),
        x,
        train=True,
    )
    check(lambda x: (torch.var_mean(x, 1), torch.std_mean(x, (0, 1), correction=2)), x, train=True)
    check(lambda x: (x.logsumexp(1), x.logsumexp((0, 2), keepdim=True), x.logcumsumexp(1)), x, train=True)
    check(lambda x: [x.norm(p, 1) for p in (0, 1, 2, 3, float("inf"), -float("inf"))], x)
    check(lambda x: (x.softmax(1), x.log_softmax(-1), x.softmax(0, dtype=torch.float32)), x, train=True)
    check(lambda x: (x.sum(1), x.amax(2), x.prod(1), x.cumsum(0), x.norm(dim=1), x.max(1).values), x, train=True)


def test_histogram() -> None:
    x = torch.randint(0, 8, (100,)).float()
    check(lambda x: (torch.histc(x, 8, 0, 7), torch.histc(x + 0.3, 5, 1, 6.5), torch.histc(x / 0, 5, 1, 6)), x)


def test_reduction_of_no_elements_and_of_scalars() -> None:
    empty, scalar = rand(3, 0, 4), rand()
    check(lambda x: (x.sum(1), x.mean(1), x.any(1), x.all(1), x.prod(1), x.softmax(1), x.amax(0), x.cumsum(1)), empty)
    check(
        lambda x: (x.sum(), x.mean(), x.amax(), x.argmax(), x.cumsum(0), x.softmax(0), x.prod(), x.max(0), x.cummax(0)),
        scalar,
    )
    check(lambda x: (x.any(), x.all(), x.sum(0), x.var(correction=0)), scalar)


NORMS: dict[str, Callable[..., Any]] = {
    "layer_norm": lambda x, w, b: functional.layer_norm(x, (8,), w, b),
    "rms_norm": lambda x, w, b: functional.rms_norm(x, (8,), w) + b,
    "group_norm": lambda x, w, b: functional.group_norm(x.transpose(1, 2), 4, w, b),
    "batch_norm": lambda x, w, b: functional.batch_norm(x.transpose(1, 2), None, None, w, b, training=True),
    "instance_norm": lambda x, w, b: functional.instance_norm(x.transpose(1, 2)) * w[:, None] + b[:, None],
}


@pytest.mark.parametrize("dtype", FLOATS)
def test_norm(dtype: torch.dtype) -> None:
    x, w, b = rand(3, 5, 8, dtype=dtype), positive(8, dtype=dtype), rand(8, dtype=dtype)
    check_each(NORMS, x + 2, w, b, train=True)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_moves_its_statistics(training: bool) -> None:
    def function(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = mean.clone(), var.clone()
        return functional.batch_norm(x, mean, var, training=training, momentum=0.3), mean, var

    check(function, rand(4, 3, 5, 6), rand(3), positive(3))


VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "reshape": lambda x: (x.view(6, -1) * 2, x.reshape(4, 3, 2, 5) * 2, x.flatten(1) * 2, x.transpose(0,
        1).reshape(-1) * 2),
    "permute": lambda x: (x.permute(2, 0, 1) * 2, x.transpose(-1, 0) * 2, x.mT * 2, x.movedim(0, 2) * 2),
    "expand": lambda x: (x[:, :1].expand(-1, 7, -1) * 2, x.unsqueeze(1).expand(6, 2, 4, 5) * 2, x[:,
        :1].squeeze(1) * 2),
    "slice": lambda x: (x[1:] * 2, x[:, 1:-1] * 2, x[..., ::2] * 2, x[-2:, :, 1:4:2] * 2, x[:, 5:] * 2, x[7:] * 2),
    "select": lambda x: (x[0] * 2, x[:, -1] * 2, x[1, 2, 3] * 2),
    "split": lambda x: [p * 2 for p in (*x.split(2, 1), *x.chunk(3, 2), *x.unbind(0), *x.split([1, 3], 1))],
    "cat": lambda x: (torch.cat([x, x[:2] * 2, x[:0]]), torch.stack([x, x + 1], 1), torch.cat([x, x + 1], -1),
        torch.hstack([x, x])),
    "pad": lambda x: (functional.pad(x, (1, 2)), functional.pad(x, (1, -1, 0, 3), value=2), functional.pad(x, (-1,
        -2))),
    "flip": lambda x: (x.flip(0), x.flip(1, 2), x.roll(1, 0), x.roll((2, -1), (1, 2)), x.roll(3), x.rot90()),
    "repeat": lambda x: (x.repeat(2, 1, 3), x.repeat(2, 1, 1, 2), x.repeat_interleave(2, 1), x.tile(2)),
    "triangle": lambda x: (x.triu(), x.tril(1), x.triu(-1), x.tril(-2)),
    "scatter": lambda x: (
        x.slice_scatter(x[:, :2] + 1, 1, 1, 3), x.select_scatter(x[0] + 1, 0, 1), x.slice_scatter(x[:, :2] + 1, 1,
        0, 4, 2)
    ),
}  # fmt: skip
MORE_VIEWS: dict[str, Callable[[Tensor], Any]] = {  # whose gradients are left to ATen
    "diagonal": lambda x: (x.diagonal(1, 1, 2) * 2, x.diagonal(-1) * 2, torch.diag_embed(x[0]), x.unfold(1, 2, 1) * 2),
    "pad_edges": lambda x: [functional.pad(x, (2, 1, 1, 2), mode=m) for m in ("reflect", "replicate", "circular")],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_view(dtype: torch.dtype) -> None:
    check_each(VIEWS, rand(6, 4, 5, dtype=dtype), train=dtype.is_floating_point)
    check_each(MORE_VIEWS, rand(6, 4, 5, dtype=dtype))


INDEXING: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "gather": lambda x, i: (x.gather(0, i), x.gather(1, i % 4), torch.take_along_dim(x, i % 4, 1)),
    "select": lambda x, i: (x.index_select(1, i[0] % 4), x[i], x[:, i[0] % 4], x[i, i % 4], x[i[:, :1], i % 4],
        x[-1 - i]),
    "embedding": lambda x, i: (functional.embedding(i, x), functional.embedding(i, x, padding_idx=1)),
    "scatter": lambda x, i: (x.scatter(0, i[:1] * 0 + torch.arange(4), x + 1), x.scatter(1, i[:, :1] % 4, 2.5)),
    "scatter_add": lambda x, i: (x.scatter_add(0, i, x), x.scatter_add(1, i % 4, x), x.index_add(0, i[0], x[:4],
        alpha=2)),
    "scatter_reduce": lambda x, i: [
        x.scatter_reduce(0, i, x + 1, r, include_self=s) for r in ("sum", "prod", "amax", "amin") for s in (True, False)
    ],
    "put": lambda x, i: (
        x.index_put((torch.arange(4),), x[:4] * 2), x.index_put((i[0],), x[:4], accumulate=True),
        torch.ops.aten.index_put(x, (None, i[0, :2] % 4), x[:, :2], True), x.masked_fill(i > 2, 3), x.index_fill(0,
        i[0], 2.5),
        x.index_copy(0, torch.tensor([2, 0]), x[:2] * 3),
    ),
    "mask": lambda x, i: (torch.where(i > 2, x, x + 1), x.index_put((i > 2,), torch.tensor(7.0, dtype=x.dtype))),
}  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_indexing(dtype: torch.dtype) -> None:
    index = torch.randint(0, 6, (6, 4))
    differentiable = {name: INDEXING[name] for name in ("gather", "select", "embedding", "scatter_add")}
    check_each(differentiable, rand(6, 4, dtype=dtype), index, train=True)
    check_each(INDEXING, rand(6, 4, dtype=dtype), index)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses(reduction: str, dtype: torch.dtype) -> None:
    x, y = rand(6, 5, dtype=dtype), rand(6, 5, dtype=dtype)
    target = torch.tensor([0, 4, -100, 2, 2, 1])
    check(lambda x, t: functional.cross_entropy(x, t, reduction=reduction), x, target, train=True)
    weighted = partial(functional.cross_entropy, reduction=reduction, label_smoothing=0.1)
    check(lambda x, t, w: weighted(x, t, w.detach()), x, target, positive(5, dtype=dtype), train=True)
    check(
        lambda x, t: functional.nll_loss(x, t, ignore_index=2, reduction=reduction), x, target.clamp(min=0), train=True
    )
    for loss in (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss):
        check(lambda x, y, loss=loss: loss(x, y, reduction=reduction), x, y, train=True)
    check(
        lambda x, y: functional.binary_cross_entropy_with_logits(x, y.sigmoid(), reduction=reduction), x, y, train=True
    )
    check(lambda x, y: functional.kl_div(x.log_softmax(1), y.softmax(1), reduction=reduction), x, y, train=True)


def test_creation() -> None:
    def function(x: Tensor) -> list[Tensor]:
        integers = [torch.arange(7), torch.arange(2, 9), torch.arange(9, 1, -2), torch.eye(4)]
        floats = [torch.arange(0, 1, 0.1), torch.linspace(0, 1, 7), torch.arange(0, 8, 2, dtype=torch.float32)]
        alike = [
            torch.zeros_like(x),
            torch.ones_like(x),
            torch.full_like(x, 2.5),
            x.new_full((2, 3), 7),
            torch.full((2,), True),
        ]
        return [t + 0 if t.dtype is not torch.bool else ~t for t in (*integers, *floats, *alike)] + [x * 2]

    check(function, rand(3, 4))
    check(function, rand(3, 4, dtype=torch.bfloat16))


def test_dropout_that_drops_nothing_is_the_identity() -> None:
    check(
        lambda x: (functional.dropout(x, 0.0) * 2, functional.dropout(x, 0.5, training=False) * 2),
        rand(3, 4),
        train=True,
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_pools(dtype: torch.dtype) -> None:
    x = rand(2, 3, 9, 12, dtype=dtype)
    for size, step, pad, stride, ceil in ((2, 2, 0, 1, False), ((2, 3), (1, 2), (1, 0), 1, True), (3, 1, 1, 2, False)):
        check(lambda x: functional.max_pool2d(x, size, step, pad, stride, ceil, return_indices=True), x, train=True)  # noqa: B023
        if stride == 1:
            check(lambda x: functional.avg_pool2d(x, size, step, pad, ceil, False), x, train=True)  # noqa: B023
    check(lambda x: functional.avg_pool2d(x, 3, 2, 1, True), x, train=True)
    check(lambda x: (functional.adaptive_avg_pool2d(x, 1), functional.adaptive_avg_pool2d(x, (3, 4))), x, train=True)
    check(lambda x: functional.interpolate(x, scale_factor=2), x, train=True)
    check(lambda x: functional.interpolate(x, size=(18, 36), mode="nearest-exact"), x, train=True)


class Foreach:
    """torch's private operators on lists, without their prefix."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(torch, f"_foreach_{name}")


foreach = Foreach()


def test_lists_of_tensors() -> None:
    def function(a: Tensor, b: Tensor) -> list[Any]:
        x, y = [a, b], [a * 2, b + 1]
        pairs = foreach.add(x, y, alpha=2), foreach.mul(x, 0.5), foreach.div(x, [2.0, 3.0])
        triples = foreach.addcmul(x, x, y, 0.3), foreach.addcdiv(x, y, foreach.exp(x), [0.1, 0.2])
        powers = foreach.pow(y, 2.0), foreach.norm(x), foreach.sqrt(foreach.abs(x))
        mixed = (
            foreach.lerp(x, y, 0.3),
            foreach.mul(x, torch.tensor(2.0)),
            foreach.sub(x, [1.0, 2.0]),
        )
        return [pairs, triples, powers, mixed, foreach.maximum(x, y), foreach.clamp_min(x, 0.1)]

    check(function, rand(3, 4), rand(5))


def test_writes_to_parts() -> None:
    def function(x: Tensor) -> Any:
        diagonal = x.diagonal_scatter(x.diagonal(1, 1, 2) * 2, 1, 1, 2), torch.diag_embed(x)
        return *diagonal, x.masked_scatter(x > 0, x * 2), x.round(decimals=2), (100 * x).round(decimals=-1)

    check(function, rand(6, 4, 5))
