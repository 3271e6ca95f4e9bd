"""Plans: their text, sizes, memory and frames, on graphs built by hand and kernels that are functions of Python."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sympy
import torch

from treadle.compiler.runtime import arena as arena_module
from treadle.compiler.runtime.arena import ARENAS, USERS
from treadle.compiler.runtime.dim_text import dim_text, tuple_text
from treadle.compiler.runtime.executable import Executable
from treadle.compiler.runtime.plan import KernelCode, Plan, plan_from_json, plan_to_json
from treadle.compiler.runtime.plan_sizes import solve_sizes
from treadle.compiler.runtime.plan_values import Values, span_of
from treadle.compiler.runtime.plan_writer import Choices, write_plan
from treadle.costmodel.roofline import estimate
from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.graph import Graph, Node
from treadle.ir.loops import Buffer
from treadle.ir.types import F32, I64, Dim, evaluate, symbol
from treadle.passes.fuse import Fused, Launch, fuse_graph

S, T = symbol("s"), symbol("t")


@pytest.fixture(autouse=True)
def _no_arenas() -> Iterator[None]:
    gc.collect()
    ARENAS.clear()
    yield
    ARENAS.clear()


def fuse(graph: Graph) -> Fused:
    return fuse_graph(graph, lambda kernel: estimate(kernel).seconds)


def mm(g: GraphBuilder, a: Value, b: Value) -> Value:
    shape = (a.shape[0], b.shape[1])
    args = ((("tensor", 0), ("tensor", 1)), ())
    return g.call("aten.mm.default", args, [a, b], "library", shape, F32, (shape[1], 1))


def plan_of(graph: Graph, fused: Fused | None = None, threads: int = 0) -> Plan:
    fused = fused or fuse(graph)
    digests = dict.fromkeys(s.digest for s in fused.steps if isinstance(s, Launch))
    return write_plan(Values(fused), Choices(tuple(KernelCode(d, d, "") for d in digests), threads=threads)).plan


def perceptron(n: Dim = 8) -> Graph:
    g = GraphBuilder("perceptron")
    x = g.input("x", (n, 16), F32, (16, 1))
    w, v = g.input("w", (16, 32), F32, (32, 1)), g.input("v", (32, 4), F32, (4, 1))
    h = g.tanh(mm(g, x, w))
    return g.finish([g.exp(mm(g, h, v)), h])


# --- dimensions as text ------------------------------------------------------------------------------------------

DIMS: list[Dim] = [
    7, S, 8 * sympy.floor(S / 2) + 1, sympy.Mod(S, T) * 3, sympy.ceiling(S / T), sympy.Max(S, T - 3), S**2 * T - 5 * S,
    sympy.floor(sympy.floor(S / 3) / 2 + sympy.Rational(1, 2)), 7 - S, sympy.floor((S * T + 5) / (2 * T)) * (S + 1),
    sympy.floor(-S / 3), sympy.Mod(1 - S, 5), sympy.Min(S, T) * 4, S * T / 2,
]  # fmt: skip


@pytest.mark.parametrize("dim", DIMS, ids=str)
def test_a_dimension_as_python_is_exact(dim: Dim):
    for _ in range(30):
        sizes = {"s": 2 * random.randint(1, 40), "t": random.randint(2, 40)}
        assert eval(dim_text(dim), dict(sizes)) == evaluate(dim, sizes)


def test_a_tuple_of_one_keeps_its_comma():
    assert eval(tuple_text((3,))) == (3,)
    assert eval(tuple_text(())) == ()


def test_sizes_are_read_from_integers_first_then_from_shapes():
    inputs = [
        Node("n", "size", attrs=(("dim", 2 * S),)),
        Node("x", "input", shape=(2 * S, T), dtype=F32),
        Node("m", "size", attrs=(("dim", symbol("u") - 2),)),
        Node("y", "input", shape=(symbol("k") * T, 3), dtype=F32),
    ]
    found = solve_sizes(inputs, lambda name: name)
    values = {"n": 12, "x": torch.empty(12, 5), "m": 1, "y": torch.empty(35, 3)}
    for name, text in found.items():
        values[name] = eval(text, dict(values))
    assert {k: values[k] for k in ("s", "t", "u", "k")} == {"s": 6, "t": 5, "u": 3, "k": 7}


# --- memory ------------------------------------------------------------------------------------------------------


def test_outputs_own_their_memory_and_the_rest_is_in_the_arena():
    values = Values(fuse(perceptron()))
    homes = {name: home for name, home in values.homes.items() if home not in ("input", "constant")}
    assert sorted(homes.values()) == ["arena", "arena", "fresh", "fresh"]
    assert all(homes[o] == "fresh" for o in values.graph.outputs if isinstance(o, str))


def test_what_a_callee_may_keep_owns_its_memory():
    g = GraphBuilder("kept")
    x = g.input("x", (8, 8), F32, (8, 1))
    y = g.exp(x)
    kept = g.call("@keeper", ((("tensor", 0),), ()), [y], "effect", (8, 8), F32, (8, 1), ((8, 1),))
    fused = fuse(g.finish([g.tanh(kept)]))
    assert Values(fused, keeps=frozenset({kept.node.name})).homes[y.node.name] == "fresh"
    assert Values(fused).homes[y.node.name] == "arena"


def test_a_span_of_strides():
    assert span_of(Buffer("x", F32, (4, 8), (8, 1))) == 32
    assert span_of(Buffer("x", F32, (4, 8), (1, 4))) == 32
    assert span_of(Buffer("x", F32, (4, 8), (0, 2))) == 15
    assert span_of(Buffer("x", F32, (0, 8), (8, 1))) == 0
    assert span_of(Buffer("x", F32, (S, 8), (1, S))) == 8 * S


# --- the text ----------------------------------------------------------------------------------------------------


def test_the_text_of_a_plan(golden):
    golden(plan_of(perceptron()).text, "py")


def test_the_text_of_a_dynamic_plan(golden):
    golden(plan_of(dynamic_graph()).text, "py")


def test_a_plan_survives_json():
    plan = plan_of(perceptron())
    assert plan_from_json(plan_to_json(plan)) == plan
    assert plan_from_json({**plan_to_json(plan), "format": -1}) is None
    assert plan_from_json(None) is None


def test_a_fixed_number_of_threads_is_written_out():
    assert "_threads()" in plan_of(perceptron()).text
    assert "_threads()" not in plan_of(perceptron(), threads=3).text


def test_inputs_are_dropped_when_nobody_reads_them_any_more():
    lines = plan_of(perceptron()).text.splitlines()
    first = next(k for k, line in enumerate(lines) if "torch.mm" in line)
    assert lines[first + 1].strip().startswith("del ") and "x" in lines[first + 1]


# --- frames ------------------------------------------------------------------------------------------------------


def executable_of(graph: Graph) -> Executable:
    plan = plan_of(graph)
    return Executable(plan, [0] * len(plan.kernels), lambda segment: lambda *given: 0)


def run_perceptron(exe: Executable) -> None:
    given = [torch.zeros(8, 16), torch.zeros(16, 32), torch.zeros(32, 4)]
    exe.call(given)
    assert given == []


def test_an_arena_is_kept_between_calls_and_a_call_in_flight_has_its_own():
    exe = executable_of(perceptron())
    for _ in range(3):
        run_perceptron(exe)
    (arena,) = ARENAS
    assert set(arena) == {exe.number}
    ARENAS.clear()  # as if it were in use
    run_perceptron(exe)
    assert ARENAS[0] is not arena and ARENAS[0].base != arena.base


def dynamic_graph() -> Graph:
    g = GraphBuilder("dynamic")
    g.size_input("n", S)
    x, w = g.input("x", (S, 16), F32, (16, 1)), g.input("w", (16, 32), F32, (32, 1))
    return g.finish([g.tanh(mm(g, g.exp(x), w)), S * 2])


def test_graphs_and_sizes_share_an_arena_and_fits_go_when_it_grows():
    exe, other = executable_of(dynamic_graph()), executable_of(perceptron())
    run_perceptron(other)
    for n in (4, 100, 7, 100, 4):
        exe.call([n, torch.zeros(n, 16), torch.zeros(16, 32)])
        run_perceptron(other)
    (arena,) = ARENAS
    assert set(arena) == {other.number, (exe.number, 100), (exe.number, 7), (exe.number, 4)}
    tables = [fit[1] for fit in arena.values()]
    assert all(arena.base <= word < arena.base + arena.memory.numel() for table in tables for word in table[-1:])


def test_what_many_sizes_have_prepared_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arena_module, "MOST_TENSORS", 20)
    exe = executable_of(dynamic_graph())
    for n in range(60, 2, -1):
        exe.call([n, torch.zeros(n, 16), torch.zeros(16, 32)])
    assert len(ARENAS[0]) <= 20


def test_arenas_go_with_the_last_executable():
    exe = executable_of(perceptron())
    run_perceptron(exe)
    count = USERS.count
    del exe
    gc.collect()
    assert USERS.count == count - 1
    assert USERS.count or not ARENAS


def test_a_fault_in_a_call_costs_no_later_call():
    exe = executable_of(perceptron())
    with pytest.raises(RuntimeError):
        exe.call([torch.zeros(8, 16), torch.zeros(5, 32), torch.zeros(32, 4)])
    exe.call([torch.zeros(8, 16), torch.zeros(16, 32), torch.zeros(32, 4)])
    assert len(ARENAS) == 1


def test_names_that_python_or_the_plan_have_taken():
    g = GraphBuilder("names")
    names = ["class", "T", "fit", "args", "torch", "_x", "e"]
    values = [g.input(n, (4,), F32, (1,)) for n in names]
    total = values[0]
    for v in values[1:]:
        total = total + v
    text = plan_of(g.finish([total])).text
    compile(text, "plan", "exec")
    assert "tclass_" in text and "t_x_" in text


def test_integer_and_missing_outputs():
    g = GraphBuilder("integers")
    x = g.input("x", (4,), I64, (1,))
    exe = executable_of(replace(g.finish([x, None, 5])))
    given = torch.arange(4)
    assert exe.call([given])[0] is given
    assert exe.call([given])[1:] == [None, 5]
