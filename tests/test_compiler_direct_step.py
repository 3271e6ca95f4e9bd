"""Training steps past AOTAutograd's wrapper: what autograd asks of them, they do as eager does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

from treadle.compiler import direct_step

Tensor = torch.Tensor


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The steps that were made."""
    found: list[Any] = []
    original = direct_step.make_step

    def watch(*args: Any) -> Any:
        found.append(original(*args))
        return found[-1]

    monkeypatch.setattr(direct_step, "make_step", watch)
    torch._dynamo.reset()
    return found


def compiled(function: Callable[..., Any], *inputs: Tensor) -> Callable[..., Any]:
    """The function, whose first backward is behind it: until then AOTAutograd's own wrapper runs."""
    fast: Callable[..., Any] = torch.compile(function, backend="treadle", fullgraph=True)
    results = fast(*inputs)
    flat = results if isinstance(results, tuple) else (results,)
    torch.autograd.grad([y.sum() for y in flat if y.requires_grad], [x for x in inputs if x.requires_grad],
                        allow_unused=True)  # fmt: skip
    return fast


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def gradients(function: Callable[..., Any], inputs: tuple[Tensor, ...], weights: list[Tensor]) -> list[Any]:
    flat = function(*inputs)
    flat = flat if isinstance(flat, tuple) else (flat,)
    learned = [y for y in flat if y.requires_grad]
    return list(torch.autograd.grad(learned, [x for x in inputs if x.requires_grad], weights, allow_unused=True))


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Tensor, ...]]]] = {
    "one": (lambda x: torch.softmax(x, -1), lambda: (leaf(6, 40),)),
    "saved and returned": (lambda x: (x.exp(), x.exp() * 2), lambda: (leaf(6, 40),)),
    "integers beside": (lambda x: (x.max(-1).values * 2, x.argmax(-1)), lambda: (leaf(6, 40),)),
    "constant input": (lambda x, y: (x * y).tanh(), lambda: (leaf(6, 40), torch.randn(6, 40))),
    "unused input": (lambda x, y: x.sin(), lambda: (leaf(6, 40), leaf(3))),
    "view of an input": (lambda x: x.t().tanh(), lambda: (leaf(6, 40),)),
    "library": (lambda x, w: torch.relu(x @ w), lambda: (leaf(6, 40), leaf(40, 5))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name: str, made: list[Any]):
    function, make = FUNCTIONS[name]
    inputs = make()
    fast = compiled(function, *inputs)
    assert len(made) == 1
    for strides in (False, True):
        outputs = function(*inputs)
        flat = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = [torch.randn_like(y) for y in flat if y.requires_grad]
        if strides:  # gradients may come in any layout
            weights = [w.t().contiguous().t() if w.dim() == 2 else w for w in weights]
        ours, theirs = (gradients(f, inputs, weights) for f in (fast, function))
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                torch.testing.assert_close(a, b)


def test_one_gradient_of_two_is_asked_for():
    x = leaf(5, 30)
    fast = compiled(lambda x: (x.exp(), x.sin()), x)
    (got,) = torch.autograd.grad(fast(x)[1].sum(), x)
    torch.testing.assert_close(got, x.detach().cos())


def test_backward_twice_over_a_kept_graph():
    x = leaf(5, 30)
    y = compiled(lambda x: x.exp(), x)(x)
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), x)


def test_a_gradient_of_a_gradient_is_refused_not_zero():
    x = leaf(5, 30)
    y = compiled(lambda x: x.exp(), x)(x)
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(dx, x.exp())
    with pytest.raises(RuntimeError, match="double backward"):
        dx.sum().backward()


def test_a_saved_result_that_is_overwritten_is_noticed():
    x = leaf(5, 30)
    y = compiled(lambda x: x.exp(), x)(x)
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_saved_input_that_is_overwritten_is_noticed():
    x, y = leaf(5, 30), torch.randn(5, 30)
    z = compiled(lambda x, y: x * y, x, y)(x, y)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_hooks_and_accumulation():
    x, seen = leaf(5, 30), []
    fast = compiled(lambda x: x.sin(), x)
    x.register_hook(lambda g: seen.append(g.clone()))
    for _ in range(2):
        fast(x).sum().backward()
    assert len(seen) == 2 and x.grad is not None
    torch.testing.assert_close(x.grad, 2 * x.detach().cos())


def test_under_checkpointing():
    x = leaf(5, 30)
    fast = compiled(lambda x: x.exp().sin(), x)
    checkpoint(fast, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(x.grad, (x.exp().cos() * x.exp()).detach())


def test_saved_tensors_pass_their_hooks():
    x, packed = leaf(5, 30), []
    fast = compiled(lambda x: x.exp(), x)

    def pack(t: Tensor) -> Tensor:
        packed.append(t.shape)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        fast(x).sum().backward()
    assert packed and x.grad is not None


@pytest.mark.parametrize("warm", [False, True])
def test_compiled_autograd(warm: bool):
    def function(x: Tensor, w: Tensor) -> Tensor:
        return torch.softmax(x @ w, -1).square()

    inputs = (leaf(6, 8), leaf(8, 5))
    expected = torch.autograd.grad(function(*inputs).sum(), inputs)
    fast = compiled(function, *inputs) if warm else torch.compile(function, backend="treadle")
    with compiled_autograd._enable(torch.compile(backend="treadle")):
        fast(*inputs).sum().backward()
    for x, gradient in zip(inputs, expected, strict=True):
        torch.testing.assert_close(x.grad, gradient)


def test_a_graph_that_writes_its_input_keeps_the_wrapper(made: list[Any]):
    def counted(x: Tensor, n: Tensor) -> Tensor:
        n.add_(1)
        return (x * n).exp()

    x, n = leaf(5, 30), torch.zeros(())
    fast = torch.compile(counted, backend="treadle", fullgraph=True)
    for _ in range(2):
        fast(x, n).sum().backward()
    assert float(n) == 2 and not made
