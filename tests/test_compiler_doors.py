"""treadle.compile and treadle.explain: captured programs of every kind, and what the report says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import treadle
from treadle.ir.errors import BadInput, SettingError

Tensor = torch.Tensor


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


class Perceptron(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 33), nn.Linear(33, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls.add_(1)
        return {"y": F.softmax(self.second(F.gelu(self.first(x))), -1), "x": x * 2}


def assert_same(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


# --- graph modules -----------------------------------------------------------------------------------------------


def test_a_traced_module_and_its_gradients():
    model = Perceptron()
    twin = copy.deepcopy(model)
    call = treadle.compile(torch.fx.symbolic_trace(model), (torch.randn(7, 12),))
    for _ in range(2):
        x = torch.randn(7, 12)
        got, want = call(x), twin(x)
        assert_same(got, want)
        got["y"].square().sum().backward()
        want["y"].square().sum().backward()
    assert_same([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])


def test_inputs_by_name():
    def f(x: Tensor, scale: Tensor) -> Tensor:
        return x * scale + 1

    x, scale = torch.randn(3, 4), torch.randn(4)
    call = treadle.compile(torch.fx.symbolic_trace(f), {"x": x, "scale": scale})
    assert_same(call(x=x, scale=scale), f(x, scale))
    assert_same(call(x, scale=scale), f(x, scale))


def test_a_graph_of_aten():
    from torch.fx.experimental.proxy_tensor import make_fx

    def f(x: Tensor) -> list[Tensor]:
        return [torch.softmax(x, -1), x.sum(0)]

    x = torch.randn(6, 8)
    assert_same(treadle.compile(make_fx(f)(x), (x,))(x), f(x))


@pytest.mark.parametrize("other", [torch.randn(3, 12), torch.randn(7, 12).double(), torch.randn(12, 7).t(), 5])
def test_inputs_unlike_the_examples_are_refused(other: Any):
    call = treadle.compile(torch.fx.symbolic_trace(Perceptron()), (torch.randn(7, 12),))
    with pytest.raises(BadInput, match="not like the example"):
        call(other)
    with pytest.raises(BadInput, match="do not fit"):
        call()


# --- exported programs -------------------------------------------------------------------------------------------


def test_an_exported_program_with_dynamic_sizes_and_state():
    model = Perceptron()
    twin = copy.deepcopy(model)
    program = torch.export.export(model, (torch.randn(7, 12),), dynamic_shapes={"x": {0: torch.export.Dim("n", min=2)}})
    call = treadle.compile(program)
    for n in (7, 2, 40, 7):
        x = torch.randn(n, 12)
        assert_same(call(x), twin(x))
    x = torch.randn(12, 9).t()
    assert_same(call(x), twin(x))
    with pytest.raises(BadInput, match="do not fit"):
        call(torch.randn(7, 13))


def test_an_exported_program_is_taken_apart_as_torch_compile_does():
    """`run_decompositions` leaves composite operators whole that its table lacks: they would all run through ATen."""
    model = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.LayerNorm(8), nn.Softmax(-1)).eval()
    x = torch.randn(5, 8)
    program = torch.export.export(model, (x,))
    [exported] = treadle.explain(program).graphs
    [traced] = treadle.explain(model, (x,)).graphs
    assert exported.counts == traced.counts and not exported.counts.get("opaque")


def test_an_exported_program_that_writes_its_input():
    class Writes(nn.Module):
        def forward(self, x: Tensor, more: dict[str, Tensor]) -> Tensor:
            x.mul_(2)
            return x + more["y"]

    x, y = torch.randn(3, 4), torch.randn(3, 4)
    call = treadle.compile(torch.export.export(Writes(), (x.clone(), {"y": y})))
    ours, theirs = x.clone(), x.clone()
    assert_same(call(ours, {"y": y}), Writes()(theirs, {"y": y}))
    assert_same(ours, theirs)


# --- errors ------------------------------------------------------------------------------------------------------


def test_what_is_no_captured_program_is_refused():
    module: Any = Perceptron()
    with pytest.raises(BadInput, match=r"torch\.compile"):
        treadle.compile(module, (torch.randn(7, 12),))
    with pytest.raises(BadInput, match="example inputs"):
        treadle.compile(torch.fx.symbolic_trace(Perceptron()))


def test_unknown_options_are_refused():
    with pytest.raises(SettingError, match="did you mean 'verify'"):
        treadle.compile(torch.fx.symbolic_trace(Perceptron()), (torch.randn(7, 12),), verfy=True)


# --- explain -----------------------------------------------------------------------------------------------------


def test_explain_tells_of_kernels_calls_and_memory():
    report = treadle.explain(Perceptron().double(), (torch.randn(20, 12).double(),))  # a library multiplies these
    (graph,) = report.graphs
    assert graph.counts["kernels"] == len(graph.kernels) >= 2
    assert sum(k.launches for k in graph.kernels) == graph.counts["launches"]
    assert [(c.kind, c.count) for c in graph.calls] == [("library", 2)]
    for k in graph.kernels:
        assert 'extern "C"' in k.source and k.equations and k.read > 0 and k.written > 0 and k.seconds > 0
    text = str(report)
    for word in ("kernel 1 of", "test_compiler_doors.py", "arena", "aten.addmm is a library call", "is returned"):
        assert word in text, word


def test_explain_tells_of_the_backward_graph_too():
    report = treadle.explain(Perceptron(), (torch.randn(7, 12),), train=True)
    assert len(report.graphs) == 2


def test_explain_of_captured_programs_and_of_functions():
    x = torch.randn(7, 12)
    assert len(treadle.explain(torch.fx.symbolic_trace(Perceptron()).eval(), (x,)).graphs) >= 1
    assert len(treadle.explain(torch.export.export(Perceptron(), (x,))).graphs) == 1
    (graph,) = treadle.explain(lambda x: torch.sort(x.exp())[0] + 1, (x,)).graphs
    assert "sort" in str(graph) and graph.counts["opaque"] == 1


def test_explain_changes_nothing_of_what_later_calls_find():
    model, x = Perceptron(), torch.randn(7, 12)
    treadle.explain(model, (x,))
    twin = copy.deepcopy(model)
    assert_same(torch.compile(model, backend="treadle")(x), twin(x))
