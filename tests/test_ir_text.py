"""Text of the IR: what is printed is read back as the same object, and text that is wrong says where."""

from __future__ import annotations

import pytest
import sympy
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, finished, graphs
from strategies_loops import AXES, Scope, exprs, indices, kernels

from treadle.ir.builder import GraphBuilder
from treadle.ir.errors import BadInput, ParseError
from treadle.ir.expr import print_expr
from treadle.ir.loops import Kernel
from treadle.ir.text import parse_dim, parse_graph, parse_kernel, print_graph, print_kernel
from treadle.ir.text_expr import ExprReader
from treadle.ir.text_tokens import Cursor
from treadle.ir.types import BOOL, DTYPES, F32, I64, as_dim, symbol

S, T = symbol("s0"), symbol("s1")


def dims() -> st.SearchStrategy:
    leaf = st.one_of(st.integers(-5, 9), st.sampled_from((S, T)))

    def grow(inner: st.SearchStrategy) -> st.SearchStrategy:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]), pair.map(lambda p: p[0] * p[1]), pair.map(lambda p: p[0] - p[1]),
            st.tuples(inner, st.integers(2, 5)).map(lambda p: sympy.floor(sympy.sympify(p[0]) / p[1])),
            st.tuples(inner, st.integers(2, 5)).map(lambda p: sympy.Mod(p[0], p[1])),
            pair.map(lambda p: sympy.Max(*p)),
        )  # fmt: skip

    return st.recursive(leaf, grow, max_leaves=6)


@given(dims())
def test_dimensions_come_back(dim):
    dim = as_dim(sympy.expand(dim))  # as sizes are
    assert parse_dim(str(dim)) == dim


@given(indices(AXES, 4))
def test_indices_come_back(drawn):
    index, _ = drawn
    cursor = Cursor(str(index))
    assert ExprReader(cursor, {a.name: a for a in AXES}).index() is index
    assert cursor.peek().kind == "end"


@given(st.data(), st.sampled_from(list(DTYPES.values())))
def test_expressions_come_back(data, dtype):
    scope = Scope(AXES, {"x": ((5, 3), F32), "p": ((4,), BOOL), "d": ((5,), I64)}, ("d",))
    e = exprs(data.draw, scope, dtype, 4)
    reader = ExprReader(Cursor(print_expr(e)), {a.name: a for a in AXES})
    reader.dtypes = {name: d for name, (_, d) in scope.values.items()}
    assert reader.expr() is e


@settings(max_examples=150)
@given(kernels())
def test_kernels_come_back(kernel: Kernel):
    text = print_kernel(kernel)
    assert parse_kernel(text) == kernel
    assert print_kernel(parse_kernel(text)) == text


@settings(max_examples=150)
@given(graphs())
def test_graphs_come_back(case: Case):
    graph = finished(case)
    assert parse_graph(print_graph(graph)) == graph


KERNEL = """
kernel append(
    cache: f32[8, 100, 4], n: i64[8], off: i32[9], new: f32[8, 4],
    z: f32[s0 + 1, floor(s0/2)] strides [2*s0, 1] offset 3)
  -> (cache: f32[8, 100, 4], z: f32[s0 + 1, floor(s0/2)] strides [2*s0, 1] offset 3, y: bf16[8])
  axes b:8, d:4, t:64 in i64(off[b])..i64(off[b + 1]), q:s0 + 1   ; t is ragged
  let %0 = (new[b, d] + exp(new[b, d]))
  cache[b, at(n[b], 100), d] <- (%0 * %0) for (b, d) if (#(b) < 3:i64)
  (_[b]: f32, p[b]: i64) = argmax(t) f32(off[at(#(t), 9, nowrap)]), #(3*t - 1)
  g[b, d]: f32 = scan sum(d) inclusive reverse where((#((d // 2)) == 1:i64), -inf, max(new[b, d], 2.5e-07))
  h[b]: f32 = sum(d) operands bf16 (g[b, d] * new[b, d])
  z[q, 0] max= nan for (q)
  y[b] += bf16(h[b]) colliding
"""


def test_a_kernel_as_text(golden: Golden):
    kernel = parse_kernel(KERNEL)
    assert parse_kernel(print_kernel(kernel)) == kernel
    golden(print_kernel(kernel))


def test_a_graph_as_text(golden: Golden):
    g = GraphBuilder("calls")
    x = g.input("x", (S, 256), F32, (512, 1))
    g.size_input("n", S)
    y = g.exp(x - g.reduce("max", x, (1,), keepdim=True))
    args = ((("tensor", 0), 5, -1, 1.5, float("inf"), None, True), (("odd name", ("list", 1, 2 * S, F32)),))
    both = g.call("aten.topk.default", args, [y], "opaque")
    top = g.result(both, 0, (S, 5), F32, (5, 1))
    graph = g.finish([y, None, 2 * S, 4, top], [(x, y)])
    assert parse_graph(print_graph(graph)) == graph
    golden(print_graph(graph))


def test_attributes_that_text_cannot_hold_are_refused():
    g = GraphBuilder()
    g.call("aten.f", (object(),), [], "opaque")
    with pytest.raises(BadInput, match="plain data"):
        print_graph(g.finish([]))


BAD = {
    "unknown type": ("kernel k(x: f33[2]) -> ()", 1, 12),
    "unknown load": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  x[i] <- z[i]", 3, 10),
    "unknown axis": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  s[j]: f32 = 1.0", 3, 4),
    "unlike operands": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  x[i] <- (x[i] + 1:i64)", 3, 16),
    "unknown operation": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  x[i] <- foo(x[i])", 3, 10),
    "unknown state": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  s[]: f32 = scan foo(i) x[i]", 3, 21),
    "a product of axes": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  x[i*i] <- 1.0 for (i)", 3, 7),
    "half an index": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  x[(i + 1)] <- 1.0 for (i)", 3, 10),
    "an odd character": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  x[i] <- $", 3, 10),
    "the end": ("kernel k(x: f32[2]) ->", 1, 22),
    "a size of an axis": ("kernel k(x: f32[2]) -> ()\n  axes i:2, j:i", 2, 14),
    "a store without axes": ("kernel k(x: f32[2]) -> ()\n  axes i:2\n  x[2*i] <- 1.0", 3, 15),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_text_says_where(what: str):
    text, line, column = BAD[what]
    with pytest.raises(ParseError) as caught:
        parse_kernel(text)
    assert (caught.value.line, caught.value.column) == (line, column), str(caught.value)


def test_bad_graphs_say_where():
    with pytest.raises(ParseError) as caught:
        parse_graph("graph g(%x: f32[2]) {\n  %y: f32[2] = exp x\n  return %y\n}")
    assert "%y" not in caught.value.got and caught.value.line == 2
