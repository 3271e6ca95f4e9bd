"""All laws together: what they make of well-known computations, as programs; each law counts, their order does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations

import pytest
from fused import fuse, make_inputs, run_fused, run_graph
from golden import Golden
from law_runs import LONG, assert_equal_runs, inputs_of, read
from torch.testing import assert_close

from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.expr import Expr, Load
from treadle.ir.graph import Graph
from treadle.ir.loops import Kernel
from treadle.ir.simplify import exact, fast
from treadle.ir.text import print_kernel
from treadle.ir.types import F32, I64
from treadle.passes import canonical, delay, exchange, laws, point, skip, stream
from treadle.passes import fuse as fuse_module
from treadle.passes.canonical import canonicalize
from treadle.passes.chains import RESIDENT
from treadle.passes.fuse import Launch
from treadle.passes.inline import Assembly
from treadle.passes.merge import Merger
from treadle.passes.normalize import normalize
from treadle.passes.reasons import CannotPull, Reason

N = RESIDENT + 4
GRAPHS: dict[str, Callable[[GraphBuilder], list[Value]]] = {}
Build = Callable[[GraphBuilder], list[Value]]


def graph(build: Build) -> Build:
    GRAPHS[build.__name__] = build
    return build


def row(g: GraphBuilder, name: str = "x", rows: int = 2, columns: int = N) -> Value:
    return g.input(name, (rows, columns), F32, (columns, 1))


@graph
def long_softmax(g: GraphBuilder) -> list[Value]:
    x = row(g)
    e = g.exp(x - g.reduce("max", x, (1,), True))
    return [e / g.sum(e, (1,), True)]


def log_probabilities(g: GraphBuilder, x: Value) -> Value:
    shifted = x - g.reduce("max", x, (1,), True)
    return shifted - g.log(g.sum(g.exp(shifted), (1,), True))


@graph
def long_log_softmax(g: GraphBuilder) -> list[Value]:
    return [log_probabilities(g, row(g))]


@graph
def variance(g: GraphBuilder) -> list[Value]:
    x = row(g)
    mean = g.mean(x, (1,), True)
    d = x - mean
    return [g.mean(d * d, (1,), True), mean]


@graph
def logsumexp(g: GraphBuilder) -> list[Value]:
    x = row(g)
    top = g.reduce("max", x, (1,), True)
    shift = g.where(g.isinf(top), 0.0, top)
    return [g.log(g.sum(g.exp(x - shift), (1,), True)) + shift]


@graph
def long_cross_entropy(g: GraphBuilder) -> list[Value]:
    x, target = row(g), g.input("target", (2,), I64, (1,))
    picked = g.gather(log_probabilities(g, x), 1, g.unsqueeze(target, 1))
    return [g.neg(g.mean(picked, (0, 1)))]


@graph
def layer_norm_backward_sums(g: GraphBuilder) -> list[Value]:
    x, dy, w = row(g), row(g, "dy"), g.input("w", (N,), F32, (1,))
    mean, rstd = (g.input(n, (2, 1), F32, (1, 1)) for n in ("mean", "rstd"))
    weighted, normal = dy * w, (x - mean) * rstd
    return [g.sum(weighted, (1,)), g.sum(weighted * normal, (1,))]


@graph
def scaled_rows_summed(g: GraphBuilder) -> list[Value]:
    """A root mean square, and the sum of the row that it scales."""
    x, w = row(g), g.input("w", (N,), F32, (1,))
    scale = g.rsqrt(g.mean(x * x, (1,), True) + 1e-6)
    return [g.sum(x * scale * w, (1,))]


@graph
def gradients_of_a_norm(g: GraphBuilder) -> list[Value]:
    """Of x, a root mean square's gradient in each row; of its weight, a sum over the rows."""
    x, dy, w = row(g, rows=6, columns=64), row(g, "dy", 6, 64), g.input("w", (64,), F32, (1,))
    rstd = g.input("rstd", (6, 1), F32, (1, 1))
    weighted, normal = dy * w, x * rstd
    inner = g.mean(weighted * normal, (1,), True)
    return [(weighted - normal * inner) * rstd, g.sum(dy * normal, (0,))]


@graph
def groups_of_a_row(g: GraphBuilder) -> list[Value]:
    """Rows viewed as groups, scaled in each group, and viewed as rows again."""
    x = row(g, rows=6, columns=64)
    groups = g.reshape(x, (6, 4, 16))
    scaled = groups * g.rsqrt(g.mean(groups * groups, (2,), True) + 1e-6)
    return [g.reshape(scaled, (6, 64)) * 2.0]


KERNELS = {
    "products_of_scores": """
kernel k(a: f32[4, 6], b: f32[4, 3], c: f32[6, 3]) -> (y: f32[4], o: f32[4, 3])
  axes i:4, j:6, e:3
  s[i, e]: f32 = sum(j) (a[i, j] * c[j, e])
  p[i, j]: f32 = sum(e) (b[i, e] * c[j, e])
  t[i]: f32 = sum(j) (a[i, j] * p[i, j])
  y[i] <- t[i]
  o[i, e] <- s[i, e]
""",
    "weighted_scores_of_classes": """
kernel k(h: f32[5, 3], v: f32[7, 3], d: i64[5], w: f32[7]) -> (y: f32[5])
  axes t:5, c:7, k:3
  z[t, c]: f32 = sum(k) (h[t, k] * v[c, k])
  m[t]: f32 = max(c) z[t, c]
  l[t]: f32 = sum(c) exp((z[t, c] - m[t]))
  y[t] <- (w[at(d[t], 7)] * ((m[t] + log(l[t])) - z[t, at(d[t], 7)]))
""",
    "gradient_of_a_class_loss": """
kernel k(x: f32[5, 7], d: i64[5], g: f32[1], m: f32[5], l: f32[5]) -> (y: f32[5, 7])
  axes t:5, c:7
  s[t]: f32 = sum(c) (where((#(c) == d[t]), (g[0] * -0.9), 0.0) - (g[0] * 0.1))
  y[t, c] <- ((where((#(c) == d[t]), (g[0] * -0.9), 0.0) - (g[0] * 0.1)) - (exp(((x[t, c] - m[t]) - l[t])) * s[t]))
""",
    "padded_rows_summed": """
kernel k(x: f32[3, 5]) -> (y: f32[3], z: f32[3])
  axes t:3, c:9
  s[t]: f32 = sum(c) x[t, c - 2 if ((#(c) >= 2:i64) & (#(c) < 7:i64))]
  m[t]: f32 = max(c) where((#(c) < 2:i64), (f32(#(c)) * 0.5), -inf)
  y[t] <- s[t]
  z[t] <- m[t]
""",
    "a_chain_of_four": """
kernel k(x: f32[3, 9], w: f32[9]) -> (y: f32[3])
  axes t:3, c:9
  m[t]: f32 = max(c) x[t, c]
  l[t]: f32 = sum(c) exp((x[t, c] - m[t]))
  o[t]: f32 = sum(c) ((exp((x[t, c] - m[t])) * 0.5) / l[t])
  r[t]: f32 = sum(c) ((x[t, c] * w[c]) * o[t])
  y[t] <- (r[t] / l[t])
""",
}


def build(name: str) -> Graph:
    g = GraphBuilder(name)
    outputs = GRAPHS[name](g)
    return g.finish(outputs, (), [strides(o) for o in outputs])


def strides(v: Value) -> tuple[int, ...]:
    found = [1]
    for n in reversed(v.shape[1:]):
        found.insert(0, found[0] * int(n))
    return tuple(found[-v.rank :]) if v.rank else ()


def text_of(name: str) -> str:
    """What the laws make of it: every kernel of the graph, or the one kernel."""
    if name in KERNELS:
        return print_kernel(final(read(KERNELS[name])))
    steps = [s for s in fuse(build(name)).steps if isinstance(s, Launch)]
    return "\n".join("\n".join([print_kernel(s.kernel), *(f"# {n}" for n in s.kernel.notes), ""]) for s in steps)


def final(kernel: Kernel, order: tuple[str, ...] = laws.ORDER) -> Kernel:
    normal = canonical.normal_form(kernel, fast)
    derived = laws.apply_laws(normal, fast, LONG, order=order)
    return canonical.order_statements(normalize(derived, fast))


@pytest.mark.parametrize("name", [*GRAPHS, *KERNELS])
def test_what_the_laws_make(name: str, golden: Golden) -> None:
    golden(text_of(name))


@pytest.mark.parametrize("name", GRAPHS)
def test_the_values_stay(name: str) -> None:
    whole = build(name)
    inputs = make_inputs(whole, 1)
    expected = run_graph(whole, inputs)
    for output, got in run_fused(fuse(whole), inputs).items():
        assert_close(got, expected[output], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_the_values_of_kernels_stay(name: str) -> None:
    kernel = read(KERNELS[name])
    assert_equal_runs(kernel, final(kernel), inputs_of(kernel, 1), tolerance=1e-6)


COUNTS = {
    "skip": (skip, "padded_rows_summed"),
    "point": (point, "gradient_of_a_class_loss"),
    "exchange": (exchange, "products_of_scores"),
    "delay": (delay, "scaled_rows_summed"),
    "stream": (stream, "long_softmax"),
    "pick": (stream, "weighted_scores_of_classes"),
}


@pytest.mark.parametrize("law", COUNTS)
def test_no_law_can_be_left_out(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name = COUNTS[law]
    with_it = text_of(name)
    monkeypatch.setattr(module, law, lambda kernel, *rest: kernel)
    assert text_of(name) != with_it


def test_merge_cannot_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = text_of("gradients_of_a_norm")
    monkeypatch.setattr(Merger, "_absorb", lambda self, *rest: False)
    monkeypatch.setattr(Merger, "_join_sibling", lambda self, *rest: False)
    monkeypatch.setattr(Merger, "_join_groups", lambda self, groups, *rest: groups)
    assert text_of("gradients_of_a_norm") != with_it


def test_inline_cannot_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Assembly, load: Load) -> Expr:
        if self._depth:
            raise CannotPull(Reason.GUARDED, load.name)
        return expand(self, load)

    with_it, expand = text_of("long_softmax"), Assembly._expand
    monkeypatch.setattr(Assembly, "_expand", refuse)
    assert text_of("long_softmax") != with_it


def test_refine_cannot_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = text_of("groups_of_a_row")
    monkeypatch.setattr(fuse_module, "refine", lambda kernel, *rest: kernel)
    assert text_of("groups_of_a_row") != with_it


@pytest.mark.parametrize("name", GRAPHS)
def test_strict_numerics_keep_every_form(name: str) -> None:
    for step in fuse(build(name), "strict").steps:
        assert isinstance(step, Launch)
        assert not any(n.startswith(("point", "exchange", "delay", "stream")) for n in step.kernel.notes)
        assert laws.apply_laws(step.original, exact) is step.original


@pytest.mark.parametrize("name", [*GRAPHS, *KERNELS])
def test_the_order_of_the_laws_does_not_matter(name: str) -> None:
    if name in KERNELS:
        kernels = [read(KERNELS[name])]
    else:
        kernels = [s.original for s in fuse(build(name)).steps if isinstance(s, Launch)]
    for kernel in kernels:
        found = {canonicalize(final(kernel, order), exact).digest for order in permutations(laws.ORDER)}
        assert len(found) == 1


PARTS = {
    "sum": (
        "x[t, c]",
        "(x[t, c] * w[c])",
        "((x[t, c] * {}) * w[c])",
        "(x[t, c] / (abs({}) + 1.0))",
        "where(({} > 0.0), x[t, c], 0.0)",
        "exp((x[t, c] - {}))",
        "(exp((x[t, c] - {})) * 0.5)",
        "(exp((x[t, c] - {})) / (abs({}) + 1.0))",
        "((x[t, c] - ({} / 9.0)) * (x[t, c] - ({} / 9.0)))",
        "abs((x[t, c] - {}))",
    ),
    "max": ("x[t, c]", "(x[t, c] * min(max({}, 0.5), 2.0))", "where(({} > 0.0), x[t, c], -inf)"),
}


def random_chain(seed: int) -> Kernel:
    """Reductions of one row, each of which reads earlier ones."""
    rng = random.Random(seed)
    lines = ["e0[t]: f32 = max(c) x[t, c]"] if rng.random() < 0.6 else ["e0[t]: f32 = sum(c) x[t, c]"]
    for k in range(1, rng.randrange(2, 6)):
        state = rng.choice(("sum", "sum", "sum", "max"))
        value = rng.choice(PARTS[state])
        while "{}" in value:
            value = value.replace("{}", f"e{rng.randrange(k)}[t]", 1)
        lines.append(f"e{k}[t]: f32 = {state}(c) {value}")
    stores = [f"y{k}[t] <- e{k}[t]" for k in range(len(lines))]
    outputs = ", ".join(f"y{k}: f32[3]" for k in range(len(lines)))
    body = "\n  ".join([*lines, *stores])
    return read(f"kernel k(x: f32[3, 9], w: f32[9]) -> ({outputs})\n  axes t:3, c:9\n  {body}\n")


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_keep_their_values_in_every_order(seed: int) -> None:
    kernel = random_chain(seed)
    inputs = inputs_of(kernel, seed)
    found = set()
    for order in permutations(laws.ORDER):
        derived = final(kernel, order)
        assert_equal_runs(kernel, derived, inputs, tolerance=1e-6)
        found.add(canonicalize(derived, exact).digest)
    assert len(found) == 1
