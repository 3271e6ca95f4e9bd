"""Dynamic shapes: one graph for many sizes, no guards from importing, numbers that are only known at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from frontend_sweep import interpreting_backend
from torch import Tensor
from torch.nn import functional

from treadle.compiler.frontend.importer import Imported
from treadle.ir.types import symbol


def rand(*shape: int) -> Tensor:
    return torch.randn(shape)


def compile_and_compare(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Imported]:
    """The graphs made; results and inputs are eager's after every call."""
    torch._dynamo.reset()
    imported: list[Imported] = []
    compiled = torch.compile(function, backend=interpreting_backend(imported), dynamic=True)
    for args in calls:
        ours, theirs = ([a.clone() if isinstance(a, Tensor) else a for a in args] for _ in range(2))
        torch.manual_seed(0)
        expected = function(*theirs)
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(*ours), expected)
        torch.testing.assert_close(ours, theirs)
    return imported


def opaque(imported: list[Imported]) -> set[str]:
    return {c.target for i in imported for c in i.calls if c.kind == "opaque"}


def masks(x: Tensor) -> Any:
    t = x.shape[-1]
    i = torch.arange(t)
    return x + torch.full((t, t), float("-inf")).triu(1), torch.tril(x), i[:, None] - i, (x * t).mean(), x / t


def joins(x: Tensor, y: Tensor) -> Any:
    cut = (functional.pad(x, (1, 2)), x.flip(1), x[:, -1], x[:, 1:-1], x.roll(1, 1), x.roll(-1, 1))
    return torch.cat([x, y], 1), torch.stack([x, x * 2], -1).flatten(1), *cut


def pieces(x: Tensor) -> Any:
    return x.chunk(2, 1), x.split(x.shape[1] // 2, 1)[0], x.repeat(2, 3), x.unfold(1, 2, 2)


def statistics(x: Tensor) -> Any:
    return functional.layer_norm(x, x.shape[-1:]), x.var(0), x.mean(), x.std(1), functional.softmax(x, 1), x.cumsum(2)


def edges(x: Tensor) -> Any:
    return [functional.pad(x, (1, 2), mode=mode) for mode in ("reflect", "replicate", "circular")]


def heads(x: Tensor) -> Tensor:
    b, t, _ = x.shape
    return x.view(b, t, 4, 4).transpose(1, 2).reshape(b * 4, -1).softmax(-1)


CASES: list[tuple[Callable[..., Any], list[tuple[Any, ...]]]] = [
    (masks, [(rand(t, t),) for t in (5, 7, 33, 2)]),
    (joins, [(rand(4, a), rand(4, b)) for a, b in ((5, 7), (6, 6), (9, 3))]),
    (pieces, [(rand(4, a),) for a in (8, 10, 16)]),
    (statistics, [(rand(4, 8, a),) for a in (8, 10)]),
    (edges, [(rand(3, 2, a),) for a in (4, 6)]),
    (heads, [(rand(3, t, 16),) for t in (5, 33, 2)]),
    (lambda w, i: functional.embedding(i, w).sum(1), [(rand(40, 8), torch.randint(40, (3, a))) for a in (8, 10)]),
    (lambda x, t: functional.cross_entropy(x, t), [(rand(a, 10), torch.randint(10, (a,))) for a in (4, 6)]),
    (lambda q: q * q.shape[-1] ** -0.5 + q.shape[0], [(rand(4, a),) for a in (4, 6)]),
    (lambda x, s: x * s + s**2, [(rand(4, 5), s) for s in (0.5, 0.25, 3.0)]),
    (lambda x, n: x * n, [(rand(4, 5), n) for n in (5, 7, 0, 1, -3)]),
    (lambda x, n: (x * n + n, torch.arange(n)), [(rand(4, 5), n) for n in (5, 7, 0, 1)]),
    (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
     [(rand(2, 4, t, 16), rand(2, 4, t, 16), rand(2, 4, t, 16)) for t in (5, 7, 33)]),
]  # fmt: skip


@pytest.mark.parametrize(("function", "calls"), CASES)
def test_sizes(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> None:
    imported = compile_and_compare(function, calls)
    assert {t for t in opaque(imported) if "scalar_tensor" not in t} == set()


def append(x: Tensor, n: int, cache: Tensor) -> Tensor:
    cache[:, n : n + 1] = x
    return cache[:, :n].sum()


def test_an_integer_that_may_be_0_is_not_taken_for_a_size() -> None:
    """The IR takes symbols to be at least 2, so a position, which may be 0 or 1, is another symbol less 2."""
    imported = compile_and_compare(append, [(rand(4, 1), n, torch.zeros(4, 64)) for n in (5, 9, 0, 1, 30)])
    position = next(n for n in imported[0].graph.inputs if n.op == "size")
    (s,) = position.attr("dim").free_symbols
    assert position.attr("dim") == symbol(s.name) - 2


def test_importing_adds_no_guards() -> None:
    imported = compile_and_compare(heads, [(rand(3, t, 16),) for t in (32, 48, 33, 35, 64)])
    assert len(imported) == 1


def test_sizes_known_at_run_time_only_stay_with_aten() -> None:
    def function(x: Tensor) -> Any:
        found = x.nonzero()
        return found.float() * 2, x + 1

    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True):
        imported = compile_and_compare(function, [(rand(4, a),) for a in (8, 10)])
        assert len(imported) == 1
        assert {"aten.nonzero.default", "aten.mul.Tensor"} <= opaque(imported)
        assert all(name.startswith("s") for name in imported[0].graph.symbols)
        compile_and_compare(lambda x: x * x.sum().item(), [(rand(4),), (rand(4),)])
        compile_and_compare(lambda x, n: x[n.item() :] * 2, [(rand(9), torch.tensor(3)), (rand(9), torch.tensor(5))])


def test_training_with_dynamic_sizes() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return functional.layer_norm(functional.gelu(x @ w), (6,)).softmax(-1).var(0).sum()

    torch._dynamo.reset()
    imported: list[Imported] = []
    compiled = torch.compile(function, backend=interpreting_backend(imported), dynamic=True)
    for size in (5, 9, 16):
        grads = []
        x, w = rand(size, 4), rand(4, 6)
        for run in (compiled, function):
            leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
            grads.append(torch.autograd.grad(run(*leaves), leaves))
        torch.testing.assert_close(*grads)
    assert len(imported) == 2
