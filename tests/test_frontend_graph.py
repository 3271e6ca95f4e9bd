"""What the importer keeps of a graph: which results share memory, strides, mutations, order, sources, calls as data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from frontend_sweep import interpreting_backend, run_case
from torch import Tensor
from torch.nn import functional

from treadle.compiler.frontend.calls import Encoder, call_source, find_target, name_target, run_call
from treadle.compiler.frontend.context import join, promote
from treadle.compiler.frontend.decompositions import build_decompositions
from treadle.compiler.frontend.dims import DTYPE_OF, TORCH_OF
from treadle.compiler.frontend.importer import Imported
from treadle.compiler.frontend.lowerings import LOWERINGS
from treadle.ir.builder import GraphBuilder
from treadle.ir.types import symbol

aten, prims = torch.ops.aten, torch.ops.prims
CPU, KEEP = torch.device("cpu"), torch.preserve_format


def rand(*shape: int) -> Tensor:
    return torch.randn(shape)


def compile_and_compare(
    function: Callable[..., Any], make: Callable[[], list[Any]], dynamic: bool = False
) -> list[Imported]:
    """Values, strides and shared memory of results and inputs are eager's, also after the results are written to."""
    torch._dynamo.reset()
    imported: list[Imported] = []
    compiled = torch.compile(function, backend=interpreting_backend(imported), dynamic=dynamic)
    for _ in range(2):
        given = make()
        copies = [_copy(t) for t in given]
        expected, got = _listed(function(*given)), _listed(compiled(*copies))
        torch.testing.assert_close(got, expected)
        assert [t.stride() for t in got] == [t.stride() for t in expected]
        before, after = (
            [t for t in (*given, *expected) if isinstance(t, Tensor)],
            [t for t in (*copies, *got) if isinstance(t, Tensor)],
        )
        assert _sharing(after) == _sharing(before)
        for one, other in zip(expected, got, strict=True):
            if one.is_floating_point():
                one.mul_(2)
                other.mul_(2)
        torch.testing.assert_close(after, before)
    return imported


def _copy(t: Any) -> Any:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).copy_(t) if isinstance(t, Tensor) else t


def _listed(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _sharing(tensors: list[Tensor]) -> list[list[bool]]:
    owners = [t.untyped_storage().data_ptr() for t in tensors]
    return [[a == b for a in owners] for b in owners]


def intermediate_and_its_views(x: Tensor) -> Any:
    y = x + 1
    return y, y.t(), y[1:], y.clone(), x.clone(), x * 1, (x + 1).t()


def writes(x: Tensor, y: Tensor) -> Any:
    x.add_(1)
    z = x * 2
    y.copy_(x)
    x.mul_(3)
    return z, x, y.view(-1), x.t()


def swaps(x: Tensor, y: Tensor) -> Tensor:
    t = x.clone()
    x.copy_(y)
    y.copy_(t)
    return t


def transposes_itself(x: Tensor) -> Tensor:
    x.copy_(x.t().clone())
    return x + 1


def two() -> list[Tensor]:
    return [rand(4, 4), rand(4, 4)]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("function", "make"),
    [
        (lambda x: (x.clone(), x), lambda: [rand(3, 4)]),
        (lambda x: (x.t(), x[1:], x.view(-1), x.split(2)[1], x.unbind(0)[2], x.diagonal()), lambda: [rand(3, 4)]),
        (intermediate_and_its_views, lambda: [rand(3, 4)]),
        (writes, two),
        (swaps, two),
        (transposes_itself, lambda: [rand(4, 4)]),
        (
            lambda x: (x + 1, x.contiguous() + 1, x.contiguous(), x.clone(), x.t().contiguous()),
            lambda: [rand(3, 4).t()],
        ),
        (
            lambda x: (x.relu(), x.contiguous()),
            lambda: [rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)],
        ),
        (lambda x: (lambda y: (y, y, y.detach()))(x * 2), lambda: [rand(3, 4)]),
        (lambda x: (x * 2).topk(2), lambda: [rand(3, 4)]),
        (lambda x, w: ((x @ w).t(), (x @ w)[1:].relu(), (x @ w + 1).unbind(1)[1]), two),
        (lambda x, w: (x @ w).split(2, 1), two),
        (lambda x: torch.sort((x * 2).t(), -1), lambda: [rand(3, 4)]),
        (lambda x: (x + torch.tensor([1.0, 2, 3, 4]), x * torch.tensor(0.5)), lambda: [rand(3, 4)]),
    ],
)
def test_memory_of_results(function: Callable[..., Any], make: Callable[[], list[Any]], dynamic: bool) -> None:
    compile_and_compare(function, make, dynamic)


def test_a_view_of_what_a_library_computes_costs_nothing() -> None:
    (imported,) = compile_and_compare(lambda x, w: (x @ w).t(), two)
    (out,) = imported.graph.outputs
    view = imported.graph.by_name[str(out)]
    assert view.op == "call"
    assert view.attr("kind") == "view"


def test_importing_twice_gives_the_same_graph() -> None:
    graphs = []
    for _ in range(2):
        (imported,) = compile_and_compare(intermediate_and_its_views, lambda: [rand(3, 4)])
        graphs.append(imported.graph)
    assert graphs[0] == graphs[1]


def test_tensors_that_the_ir_does_not_hold_go_through_aten() -> None:
    def writes_complex(z: Tensor) -> Tensor:
        z.mul_(2)
        return z.real + 1

    compile_and_compare(lambda x: torch.view_as_real(torch.fft.fft(x) * 2).abs(), lambda: [rand(3, 4)])
    compile_and_compare(lambda z: (z.real * 2, z * 2), lambda: [torch.randn(3, 4, dtype=torch.complex64)])
    compile_and_compare(writes_complex, lambda: [torch.randn(3, 4, dtype=torch.complex64)])
    (imported,) = compile_and_compare(lambda x: x.to(torch.float8_e4m3fnuz).float() * 2, lambda: [rand(3, 4)])
    reasons = {"element type float8_e4m3fnuz", "an operand that treadle does not hold"}
    assert {c.reason for c in imported.calls} == reasons


def test_random_numbers_are_eagers() -> None:
    def function(x: Tensor) -> Any:
        noisy = functional.dropout(x, 0.4) + torch.rand_like(x)
        return noisy * torch.randn(3, 4), torch.bernoulli(x.sigmoid()), torch.randint(10, (4,))

    outcome = run_case(function, rand(3, 4), train=True)
    assert outcome.report.ok, str(outcome.report)
    kinds = {c.target: c.kind for i in outcome.imported for c in i.calls}
    assert kinds["aten.native_dropout.default"] == kinds["aten.rand_like.default"] == "effect"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_attention(causal: bool, dtype: torch.dtype) -> None:
    """With torch's own entries in the decomposition table, these gradients are wrong by a factor of 40."""
    q, k, v = (rand(2, 3, 5, 8).to(dtype) for _ in range(3))
    outcome = run_case(
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=causal), q, k, v, train=True
    )
    assert outcome.report.ok, str(outcome.report)
    assert not any("scaled_dot_product" in str(op) for op in build_decompositions())


def test_what_is_lowered_is_not_decomposed() -> None:
    assert not {str(op) for op in build_decompositions()} & LOWERINGS.keys()


def test_lowerings_are_of_operators_that_exist() -> None:
    """A name that no overload has would never be looked up. (Which overloads there are differs by version of torch.)"""
    missing = {name for name in LOWERINGS if not hasattr(getattr(torch.ops, name.split(".")[0]), name.split(".")[1])}
    assert not missing


def test_higher_order_operators_run_through_torch() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x * 2,)) + 1

    (imported,) = compile_and_compare(function, lambda: [rand(3, 4)])
    (call,) = (c for c in imported.calls if c.kind == "effect")
    assert call.target == "@cond"
    assert sum(isinstance(o, torch.nn.Module) for o in imported.objects.values()) == 2


@pytest.mark.parametrize("foreach", [False, True])
def test_optimizer_steps_are_native(foreach: bool) -> None:
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(rand(*shape)) for shape in ((3, 4), (5,))]
        optimizer = torch.optim.AdamW(parameters, lr=0.1, foreach=foreach, amsgrad=True)
        imported: list[Imported] = []
        step = torch.compile(optimizer.step, backend=interpreting_backend(imported)) if compiled else optimizer.step
        for _ in range(3):
            for p in parameters:
                p.grad = torch.randn_like(p)
            step()
        results.append([p.detach() for p in parameters])
    torch.testing.assert_close(*results)
    assert not imported[0].calls
    assert len(imported[0].graph.mutations) > 2 * 2


def test_sources_name_the_users_line() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Softmax(-1)])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x * 2)

    torch._dynamo.reset()
    imported: list[Imported] = []
    torch.compile(Model(), backend=interpreting_backend(imported))(rand(3, 4))
    sources = {n.op: n.source for n in imported[0].graph.nodes}
    assert "test_frontend_graph.py:" in sources["mul"]
    assert sources["exp"].endswith("(layers.0)")


# --- calls as data
# -----------------------------------------------------------------------------------------------------

CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (aten.topk.default, ("x", 2, -1), {}, "aten.topk.default(x, 2, -1)"),
    (aten.add.Tensor, ("x", "x"), {"alpha": 0.5}, "aten.add.Tensor(x, x, alpha=0.5)"),
    (aten.full.default, ([2, 3], math.inf), {}, "aten.full.default([2, 3], float('inf'))"),
    (aten.ones.default, ([2],), {"dtype": torch.float16}, "aten.ones.default([2], dtype=torch.float16)"),
    (aten.cat.default, (["x", "x"], 1), {}, "aten.cat.default([x, x], 1)"),
    (aten._to_copy.default, ("x",), {"device": CPU}, "aten._to_copy.default(x, device=torch.device('cpu'))"),
    (aten.clone.default, ("x",), {"memory_format": KEEP}, "aten.clone.default(x, memory_format=torch.preserve_format)"),
    (aten.index.Tensor, ("x", [None, "i"]), {}, "aten.index.Tensor(x, [None, i])"),
    (aten.mul.Scalar, ("x", complex(1, -2)), {}, "aten.mul.Scalar(x, complex(1.0, -2.0))"),
    (torch.sym_max, (symbol("s0") + 1, 3), {}, "torch.sym_max(SIZE, 3)"),
    (
        prims.convert_element_type.default,
        ("x", torch.int32),
        {},
        "ops.prims.convert_element_type.default(x, torch.int32)",
    ),
    (sorted, ((2, 1),), {}, "objects['sorted']((2, 1))"),
    (dict, (), {"a": {"k": slice(1, None)}}, "objects['dict'](a={'k': slice(1, None, None)})"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "text"), CALLS)
def test_calls_print_and_run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> None:
    tensors = {"x": rand(3, 4), "i": torch.tensor([1, 0])}
    g = GraphBuilder()
    values = {name: g.input(name, tuple(t.shape), DTYPE_OF[t.dtype]) for name, t in tensors.items()}
    objects: dict[str, Any] = {}
    encoder = Encoder(objects)
    target = name_target(function, objects)
    tree = encoder.encode_call(_replace(args, values), kwargs)
    names = [v.node.name for v in encoder.tensors]
    printed = call_source(target, tree, names, lambda dim: "SIZE")
    assert printed == text
    assert find_target(target, objects) is function
    expected = function(*_replace(args, {**tensors, symbol("s0") + 1: 8}), **kwargs)
    got = run_call(target, tree, [tensors[n] for n in names], {"s0": 7}, objects)
    printed_result = eval(
        printed, {"aten": aten, "ops": torch.ops, "torch": torch, "objects": objects, "SIZE": 8, **tensors}
    )
    assert _same(got, expected)
    assert _same(printed_result, expected)


def _replace(tree: Any, by: dict[Any, Any]) -> Any:
    if isinstance(tree, (list, tuple)):
        return type(tree)(_replace(t, by) for t in tree)
    return by.get(tree, tree) if isinstance(tree, (str, sympy.Expr)) else tree


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (tuple, list)):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(torch.equal(a, b)) and a.dtype is b.dtype if isinstance(a, Tensor) else a == b


# --- types
# ---------------------------------------------------------------------------------------------------------------


def test_promotion_is_torchs() -> None:
    for a in DTYPE_OF:
        for b in DTYPE_OF:
            assert TORCH_OF[join(DTYPE_OF[a], DTYPE_OF[b])] is torch.promote_types(a, b)
    g = GraphBuilder()
    shapes = [(2,), ()]
    values = [(torch.zeros(s, dtype=d), g.input(f"{d}{len(s)}", s, DTYPE_OF[d])) for d in DTYPE_OF for s in shapes]
    for theirs, ours in values:
        for number in (True, 3, 2.5):
            assert TORCH_OF[promote(ours, number)] is torch.result_type(theirs, number)
        for others, ours2 in values:
            assert TORCH_OF[promote(ours, ours2)] is torch.result_type(theirs, others)
