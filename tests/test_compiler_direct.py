"""Which graphs are called past AOTAutograd's wrapper, and that their results are what eager's are."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from treadle.compiler import backend

Tensor = torch.Tensor


def add_one(x: Tensor) -> Tensor:
    return x.add_(1)


def keep(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x * 2


PLAIN: dict[str, Callable[[Tensor], Any]] = {
    "pointwise": lambda x: torch.tanh(x) * 2,
    "input": keep,
    "view of a result": lambda x: (lambda y: (y, y[0]))(x * 3),
    "several": lambda x: (x + 1, x.sum(), x @ x.new_ones(5, 40)),
    "nothing to compute": lambda x: torch.ones(3),
}
WRAPPED: dict[str, Callable[[Tensor], Any]] = {
    "mutation": add_one,
    "view": lambda x: x.t(),
    "view and input": lambda x: (x[1:], x * 2),
}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each inference graph, whether it is called directly."""
    calls: list[bool] = []
    original = backend.find_direct_call

    def watch(*args: Any) -> Any:
        call = original(*args)
        calls.append(call is not None)
        return call

    monkeypatch.setattr(backend, "find_direct_call", watch)
    torch._dynamo.reset()
    return calls


def check(function: Callable[[Tensor], Any]) -> None:
    fast = torch.compile(function, backend="treadle", fullgraph=True, options={"fallback": "error"})
    for _ in range(2):
        x = torch.randn(4, 5)
        y = x.clone()
        got, want = fast(x), function(y)
        torch.testing.assert_close((got, x), (want, y))
        several = isinstance(want, tuple)
        pairs = zip(got, want, strict=True) if several else [(got, want)]
        for ours, theirs in pairs:
            shared = theirs.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
            assert (ours.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == shared


@pytest.mark.parametrize("name", PLAIN)
def test_what_only_reads_is_called_directly(name: str, found: list[bool]):
    check(PLAIN[name])
    assert found == [True]


@pytest.mark.parametrize("name", WRAPPED)
def test_what_shares_memory_keeps_its_wrapper(name: str, found: list[bool]):
    check(WRAPPED[name])
    assert not any(found)


def test_parameters_take_no_part_in_autograd(found: list[bool]):
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    fast, x = torch.compile(model, backend="treadle", fullgraph=True), torch.randn(4, 5)
    with torch.no_grad():
        got = fast(x)
    assert found == [True]
    assert not got.requires_grad
    assert torch.is_grad_enabled()
    torch.testing.assert_close(got, model(x).detach())


def test_under_autocast_the_wrapper_stays(found: list[bool]):
    fast = torch.compile(lambda x: x @ x.t(), backend="treadle", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(torch.randn(4, 5)).dtype is torch.bfloat16
    assert not any(found)


def test_where_only_kernels_run_the_plan_itself_is_called(monkeypatch: pytest.MonkeyPatch):
    plans: list[bool] = []
    original = backend.find_direct_call

    def watch(gm: Any, boxed: Any) -> Any:
        call = original(gm, boxed)
        plans.append(call is boxed.executable.direct is not None)
        return call

    monkeypatch.setattr(backend, "find_direct_call", watch)
    check(lambda x: torch.tanh(x) * 2)
    check(lambda x: torch.softmax(x, 1) + x.sum())
    assert plans == [True, True]
    check(lambda x: torch.tanh(torch.fft.rfft(x).abs()))
    assert plans == [True, True, False], "what runs in ATen does so under the grad mode of the call"


def test_what_a_kernel_refuses_is_raised():
    fast = torch.compile(lambda x, i: x[i], backend="treadle", fullgraph=True, options={"fallback": "error"})
    x = torch.randn(7)
    torch.testing.assert_close(fast(x, torch.tensor([6, -7])), x[[6, -7]])
    with pytest.raises(IndexError, match="size 7"):
        fast(x, torch.tensor([7, 0]))


def test_threads_call_at_once():
    """Each call's table is its own: kernels run without Python's lock."""
    fast = torch.compile(lambda x: torch.softmax(x * 2, 1) + x, backend="treadle", fullgraph=True)
    inputs = [torch.randn(300, 257) for _ in range(4)]
    fast(inputs[0])
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for x, y in zip(inputs, pool.map(fast, inputs), strict=True):
                torch.testing.assert_close(y, torch.softmax(x * 2, 1) + x)
