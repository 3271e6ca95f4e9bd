"""The verifiers: valid IR passes, and each rule finds what breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from strategies import Case, finished, graphs
from strategies_loops import kernels

from treadle.ir.errors import VerifyError
from treadle.ir.expr import Load, Op
from treadle.ir.graph import Graph, Node
from treadle.ir.index import Axis, of_atom
from treadle.ir.loops import Equation, Kernel, Store, contiguous
from treadle.ir.text import parse_graph, parse_kernel
from treadle.ir.types import BF16, F32, I64
from treadle.ir.verify import GRAPH_RULES, KERNEL_RULES, verify_graph, verify_kernel


@settings(max_examples=150)
@given(kernels())
def test_valid_kernels_pass(kernel: Kernel):
    assert verify_kernel(kernel) is kernel


@settings(max_examples=150)
@given(graphs())
def test_valid_graphs_pass(case: Case):
    verify_graph(finished(case))


HEAD = "kernel k(x: f32[4, 6], d: i64[4]) -> (y: f32[4, 6])\n  axes i:4, j:6, k:6\n"
BROKEN_KERNELS = {
    "an index leaves its shape": ("y[i, j] <- x[i, j + 1]", "leaves the shape"),
    "an index before its shape": ("y[i, j] <- x[i - 1, j]", "leaves the shape"),
    "a store that leaves its shape": ("y[i, j + 1] <- x[i, j] for (i, j)", "leaves the shape"),
    "too few indices": ("y[i, j] <- x[i]", "one index per dimension"),
    "a stray axis": ("y[i, j] <- x[i, k]", "neither kept nor reduced"),
    "a stray axis in a guard": ("y[i, j] <- x[i, j] if (#(k) < 3:i64)", "neither kept nor reduced"),
    "a stray axis of a sum": ("s[i]: f32 = sum(k) x[i, j]\n  y[i, j] <- s[i]", "neither kept nor reduced"),
    "a type that differs": ("s[i]: f64 = sum(j) x[i, j]\n  y[i, j] <- f32(s[i])", "components"),
    "a pointwise type that differs": ("s[i]: f64 = x[i, 0]\n  y[i, j] <- f32(s[i])", "another type"),
    "a stored type that differs": ("y[i, j] <- f64(x[i, j])", "another type"),
    "an axis kept and reduced": ("s[i, j]: f32 = sum(j) x[i, j]\n  y[i, j] <- s[i, j]", "listed twice"),
    "an axis listed twice": ("s[i]: f32 = sum(j, j) x[i, j]\n  y[i, j] <- s[i]", "listed twice"),
    "a scan along no kept axis": ("s[i]: f32 = scan sum(j) inclusive x[i, 0]\n  y[i, j] <- s[i]", "along one axis"),
    "too few components": ("m[i]: f32 = max_sum_exp(j) x[i, j]\n  y[i, j] <- m[i]", "components"),
    "too few values": ("(m[i]: f32, p[i]: i64) = argmax(j) x[i, j]\n  y[i, j] <- m[i]", "number of values"),
    "a state of another type": ("m[i]: f32 = any(j) x[i, j]\n  y[i, j] <- m[i]", "does not take these types"),
    "a store of an input": ("y[i, j] <- x[i, j]\n  d[i] <- d[i]", "not an output"),
    "a store that collides": ("y[i, j] <- x[i, j]\n  y[i, 0] <- x[i, j] for (i, j)", "the store is colliding"),
    "an output that is not covered": ("y[i, 0] <- x[i, 0] for (i)", "cannot cover"),
    "an output that is not set": ("y[i, j] += x[i, j]", "not set before"),
    "an output that is not stored": ("s[i]: f32 = x[i, 0]", "no store writes"),
    "an equation of a buffer's name": ("x[i]: f32 = 1.0\n  y[i, j] <- 1.0", "one definition"),
    "a guard that is no condition": ("y[i, j] <- x[i, j] if d[i]", "the guard is not bool"),
    "a guarded load that is no condition": ("y[i, j] <- x[i, j if d[i]]", "is not bool"),
    "data that is no index": ("y[i, j] <- x[at(x[i, j], 4), j]", "not i64"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_KERNELS)
def test_a_broken_kernel_is_refused(what: str):
    body, message = BROKEN_KERNELS[what]
    with pytest.raises(VerifyError, match="kernel k.*" + message):
        verify_kernel(parse_kernel(HEAD + "  " + body))


def test_the_message_says_where():
    with pytest.raises(VerifyError) as caught:
        verify_kernel(parse_kernel(HEAD + "  s[i]: f32 = sum(j) x[i, 2*j]\n  y[i, j] <- s[i]"))
    expected = "kernel k, equation s: the index 2*j of x leaves the shape (expected 0..5, got 0..10)"
    assert str(caught.value) == expected


AT, OVER = Axis("i", 4), Axis("j", 6)
X, Y = contiguous("x", F32, (4,)), contiguous("y", F32, (4,))
LOAD = Load("x", (of_atom(AT),), F32)
STORE = Store("y", (of_atom(AT),), LOAD, (AT,))
UNPRINTABLE = {
    "a load in another type": (replace(STORE, value=Load("x", (of_atom(AT),), BF16)), "another type"),
    "an operation of unlike operands": (
        replace(STORE, value=Op("add", (LOAD, Op("cast", (LOAD,), I64)), F32)), "operands differ",
    ),
    "an operation that gives another type": (replace(STORE, value=Op("lt", (LOAD, LOAD), F32)), "not what it gives"),
    "two axes of one name": (
        Store("y", (of_atom(AT),), Load("x", (of_atom(Axis("i", 5)),), F32), (AT,)), "one name, two axes",
    ),
    "a load of nothing": (replace(STORE, value=Load("z", (of_atom(AT),), F32)), "not defined before"),
    "a load of a later equation": (replace(STORE, value=Load("e", (of_atom(AT),), F32)), "not defined before"),
    "a mode that is none": (replace(STORE, mode="sub"), "unknown mode"),
    "a state that is none": (Equation(("e",), (AT,), (LOAD,), (F32,), "median", (OVER,)), "unknown state"),
    "a backward sum": (Equation(("e",), (AT,), (LOAD,), (F32,), "sum", (OVER,), reverse=True), "only scans"),
    "a reduction without a state": (Equation(("e",), (AT,), (LOAD,), (F32,), "", (OVER,)), "without a state"),
    "a name with a space": (Equation(("an e",), (AT,), (LOAD,), (F32,)), "not a name"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNPRINTABLE)
def test_a_broken_statement_is_refused(what: str):
    statement, message = UNPRINTABLE[what]
    late = Equation(("e",), (AT,), (LOAD,), (F32,))
    body = (statement, late) if isinstance(statement, Store) else (statement, STORE)
    with pytest.raises(VerifyError, match=message):
        verify_kernel(Kernel("k", (X,), (Y,), body))


def test_a_buffer_updated_in_place_has_one_description():
    with pytest.raises(VerifyError, match="one description"):
        verify_kernel(Kernel("k", (X, replace(Y, dtype=BF16)), (Y,), (STORE,)))


BROKEN_GRAPHS = {
    "an unknown operation": ("%y: f32[2, 3] = expo %x", "unknown operation"),
    "an unknown attribute": ("%y: f32[2, 3] = exp %x, dims=[1]", "unknown attribute"),
    "a missing attribute": ("%y: f32[2] = sum %x", "do not fit sum"),
    "a wrong shape": ("%y: f32[2, 4] = exp %x", "recorded shape"),
    "a wrong type": ("%y: f64[2, 3] = exp %x", "recorded element type"),
    "unlike operands": ("%y: f32[2, 3] = add %x, %n", "operands differ in type"),
    "unlike shapes": ("%z: f32[3, 2] = permute %x, dims=[1, 0]\n  %y: f32[2, 3] = add %x, %z", "broadcast"),
    "too few operands": ("%y: f32[2, 3] = add %x", "wrong number of operands"),
    "an operand that does not exist": ("%y: f32[2, 3] = exp %w", "does not exist"),
    "an operand that comes later": ("%y: f32[2, 3] = exp %z\n  %z: f32[2, 3] = exp %x", "comes later"),
    "a name given twice": ("%y: f32[2, 3] = exp %x\n  %y: f32[2, 3] = exp %x", "several nodes"),
    "a result of no call": ("%y: f32[2, 3] = result %x, number=0", "a result is read from a call"),
    "strides of another rank": ("%y: f32[2, 3] strides [1] = exp %x", "one stride per dimension"),
    "a mutation of no input": ("%y: f32[2, 3] = exp %x\n  mutate %y <- %x", "only input tensors"),
    "a mutation of another type": ("%y: f32[2, 3] = exp %x\n  mutate %x <- %n", "types differ"),
    "a value computed from none": ('%c: none = call target="f", args=[]\n  %y: f32[2, 3] = exp %c', "without element"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_GRAPHS)
def test_a_broken_graph_is_refused(what: str):
    body, message = BROKEN_GRAPHS[what]
    graph = parse_graph(f"graph g(%x: f32[2, 3], %n: i64[2, 3]) {{\n  {body}\n  return %y\n}}")
    with pytest.raises(VerifyError, match=message):
        verify_graph(graph)


def test_an_output_must_exist():
    with pytest.raises(VerifyError, match="does not exist"):
        verify_graph(Graph("g", (Node("x", "input", (), (), (2,), F32),), (), ("y",)))


def test_rules_have_names_of_their_own():
    for rules in (GRAPH_RULES, KERNEL_RULES):
        assert len({r.name for r in rules}) == len(rules)
