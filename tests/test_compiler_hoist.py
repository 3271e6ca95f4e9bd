"""What depends on parameters alone is computed once, and again as soon as a parameter has changed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.compiler import backend
from treadle.compiler.runtime.kept import find_sample, keep_values

Tensor = torch.Tensor
OPTIONS: dict[str, Any] = {"fallback": "error", "hoist": "auto"}


class Narrowed(nn.Module):
    """Autocast narrows the weight; `table` is a small one, `scale` a sum of a buffer."""

    wide: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(96, 128)
        self.rates = nn.Parameter(torch.randn(64, 96))
        self.register_buffer("wide", torch.randn(96, 100))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.wide.square().sum(1)
        y = x * scale + nn.functional.softplus(self.rates).sum(0)
        with torch.autocast("cpu", torch.bfloat16):
            return self.linear(y)


@pytest.fixture(autouse=True)
def fresh(seed: int) -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(seed)
    with torch.no_grad():
        yield


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that kept values were computed."""
    found: list[int] = []

    def watch(once: Any, main: Any, statics: Any) -> Any:
        def counted(args: list[Any]) -> Any:
            found.append(len(args))
            return once(args)

        return keep_values(counted, main, statics)

    monkeypatch.setattr(backend, "keep_values", watch)
    return found


def reference(model: Narrowed, x: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, and a bound: operands rounded to bf16, a sum in f32, one rounding of the result."""
    y = x.double() * model.wide.double().square().sum(1) + nn.functional.softplus(model.rates.double()).sum(0)
    w, b = model.linear.weight.double(), model.linear.bias.double()
    eps = torch.finfo(torch.bfloat16).eps
    return y @ w.T + b, 2 * eps * (y.abs() @ w.abs().T + b.abs())


def check(fast: Callable[[Tensor], Tensor], model: Narrowed) -> None:
    x = torch.randn(5, 96)
    expected, bound = reference(model, x)
    assert ((fast(x).double() - expected).abs() <= bound).all()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="treadle", fullgraph=True, options=OPTIONS)


def write_data(m: Narrowed) -> None:
    m.linear.weight.data.mul_(-3)


def replace_data(m: Narrowed) -> None:
    m.linear.weight.data = torch.randn(128, 96)


def load(m: Narrowed) -> None:
    m.load_state_dict(Narrowed().state_dict())


def write_one(m: Narrowed) -> None:
    m.linear.weight[7, 11] = 50.0


def take_step(m: Narrowed) -> None:
    with torch.enable_grad():
        m(torch.randn(3, 96)).float().square().sum().backward()
    torch.optim.SGD([m.linear.weight], lr=0.5).step()


def write_buffer(m: Narrowed) -> None:
    m.wide.add_(1)


def replace_parameter(m: Narrowed) -> None:
    m.linear.weight = nn.Parameter(torch.randn(128, 96))


CHANGES = [write_data, replace_data, load, write_one, take_step, write_buffer, replace_parameter]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_kept_values_follow_their_parameters(change: Callable[[Narrowed], None], runs: list[int]) -> None:
    model = Narrowed()
    fast = compiled(model)
    for _ in range(3):
        check(fast, model)
    assert runs == [3]
    change(model)
    check(fast, model)
    check(fast, model)
    assert len(runs) == 2


def test_default_keeps_nothing(runs: list[int]) -> None:
    model = Narrowed()
    check(torch.compile(model, backend="treadle", options={"fallback": "error"}), model)
    assert not runs


def test_two_models_share_a_function(runs: list[int]) -> None:
    one, two = Narrowed(), Narrowed()
    shared = torch.compile(lambda m, x: m(x), backend="treadle", fullgraph=True, options=OPTIONS)
    for _ in range(2):
        for model in (one, two):
            check(partial(shared, model), model)
    assert len(runs) == 4


def test_inference_tensors_are_computed_at_each_call(runs: list[int]) -> None:
    with torch.inference_mode():
        model = Narrowed()
        fast = compiled(model)
        check(fast, model)
        model.linear.weight[3, 5] = 50.0
        check(fast, model)
    assert len(runs) == 2


def test_tied_weights(runs: list[int]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(96, 96, bias=False), nn.Linear(96, 96, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.first(x) + self.second(-2 * x)

    model = Tied()
    fast = compiled(model)
    for _ in range(2):
        x = torch.randn(4, 96)
        w = model.first.weight.double()
        bound = 4 * torch.finfo(torch.bfloat16).eps * 3 * (x.double().abs() @ w.abs().T)
        assert ((fast(x).double() + x.double() @ w.T).abs() <= bound).all()
        model.first.weight.add_(1)
    assert len(runs) == 2


def test_what_grows_and_what_is_returned_is_not_kept(runs: list[int]) -> None:
    class Codes(nn.Module):
        codes: Tensor
        wide: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.randint(0, 255, (256, 256), dtype=torch.uint8))
            self.register_buffer("wide", torch.randn(256, 256))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x @ self.codes.bfloat16(), self.wide.bfloat16()[1:]

    model = Codes()
    fast = compiled(model)
    for _ in range(2):
        narrow = fast(torch.randn(3, 256).bfloat16())[1]
        assert torch.equal(narrow, model.wide.bfloat16()[1:])
        narrow.zero_()
    assert not runs


def test_training_keeps_nothing(runs: list[int]) -> None:
    model = Narrowed()
    with torch.enable_grad():
        compiled(model)(torch.randn(2, 96)).float().sum().backward()
    assert not runs
    assert model.linear.weight.grad is not None


def test_statistics_that_the_graph_writes_are_not_kept(runs: list[int]) -> None:
    class Counting(nn.Module):
        wide: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("wide", torch.ones(256, 256))

        def forward(self, x: Tensor) -> Tensor:
            y = x @ self.wide.bfloat16()
            self.wide.add_(1)
            return y

    model = Counting()
    fast = compiled(model)
    x = torch.ones(2, 256, dtype=torch.bfloat16)
    assert [fast(x)[0, 0].item() for _ in range(3)] == [256, 512, 768]
    assert not runs


def test_nothing_outlives_the_function() -> None:
    kept: list[Any] = []

    def once(args: list[Any]) -> Any:
        out = args[0] * 2
        kept.append(weakref.ref(out))
        return [out]

    w = torch.randn(300)
    call = keep_values(once, lambda args: [args[0] + args[1]], [0])
    assert torch.equal(call([w])[0], 3 * w)
    gone = weakref.ref(w)
    del w
    gc.collect()
    assert gone() is None
    assert kept[0]() is not None
    del call
    gc.collect()
    assert kept[0]() is None


def test_threads_see_values_of_their_own_weights() -> None:
    def once(args: list[Any]) -> Any:
        return [args[0].double()]

    call = keep_values(once, lambda args: [args[0].double() - args[1]], [0])
    weights = [torch.full((999,), float(k)) for k in range(4)]
    wrong: list[int] = []

    def work(k: int) -> None:
        wrong.extend(k for _ in range(300) if call([weights[k]])[0].any())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("size", [0, 1, 2, 512, 513, 520, 1000, 4096, 100_003])
def test_a_sample_is_whole_or_spread(size: int) -> None:
    data = torch.randint(0, 255, (size,), dtype=torch.uint8)
    sample = find_sample(data.data_ptr(), size).tobytes()
    raw = bytes(data.tolist())
    if size <= 512:
        assert sample == raw
        return
    words = [raw[k : k + 8] for k in range(0, size - 7, 8)]
    found = [words.index(sample[k : k + 8]) for k in range(0, len(sample), 8)]
    step = found[1]
    assert 64 <= len(found) <= 127
    assert found == list(range(0, len(words), step))


def test_explain_says_what_is_kept() -> None:
    text = str(treadle.explain(Narrowed(), (torch.randn(2, 96),), hoist="auto"))
    assert "graph once" in text
    assert "kept: fewer bytes than it is computed of" in text
    assert "not kept: it would save less" in text


@pytest.mark.parametrize(("how", "autocast", "kept"), [("auto", False, 0), ("all", False, 1), ("auto", True, 1)])
def test_weights_stored_across_are_turned(how: str, autocast: bool, kept: int, runs: list[int]) -> None:
    class Across(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(160, 200)), nn.Parameter(torch.randn(200))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return torch.addmm(self.b, x, self.w)

    model = Across()
    fast = torch.compile(model, backend="treadle", fullgraph=True, options={**OPTIONS, "hoist": how})
    eps = torch.finfo(torch.bfloat16).eps if autocast else 160 * torch.finfo(torch.float32).eps
    for _ in range(2):
        x = torch.randn(5, 160)
        w, b = model.w.double(), model.b.double()
        bound = 2 * eps * (x.double().abs() @ w.abs() + b.abs())
        assert ((fast(x).double() - (x.double() @ w + b)).abs() <= bound).all()
        model.w.mul_(3)
    assert len(runs) == 2 * kept
    torch._dynamo.reset()
    text = str(treadle.explain(model, (torch.randn(5, 160),), hoist=how))
    assert ("kept: " in text) == bool(kept)
    assert ("dense along what its product sums over" in text) == (how == "all")
