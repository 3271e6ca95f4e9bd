"""Threads of C++ kernels: phases one after the other, reductions in parts, the same bits for any number of threads."""

from __future__ import annotations

import pytest
import torch
from cpp_run import HERE, Case, Fenced, call, check_cases, compile_unit, fill, span, view
from cpp_texts import EVERYWHERE, inputs_of, kernel_of

from treadle.codegen.cpp.emit import emit_kernel, tile_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.cpp.space import cuts_under, default_schedule
from treadle.codegen.cuts import Cut
from treadle.compiler.cutting import cut_reductions
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.loops import Equation, Kernel
from treadle.ir.text import parse_kernel
from treadle.ir.tiles import Loop, walk_statements

TEXTS = {
    **EVERYWHERE,
    # statistics of rows, a sum over the rows, and what all rows need of it
    "losses": """
kernel losses(x: {d}[{T}, {C}], n: f32[]) -> (y: f32[], z: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  m[t]: f32 = max(c) «x[t, c]»
  l[t]: f32 = sum(c) exp((«x[t, c]» - m[t]))
  s[]: f32 = sum(t) (m[t] + log(l[t]))
  y[] <- (s[] * n[])
  z[t, c] <- ‹(«x[t, c]» * s[])›
""",
    "deviation": """
kernel deviation(x: {d}[{T}, {C}]) -> (y: f32[], z: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  s[]: f32 = sum(t, c) «x[t, c]»
  q[]: f32 = sum(t, c) ((«x[t, c]» - (s[] * 0.001)) * («x[t, c]» - (s[] * 0.001)))
  y[] <- q[]
  z[t, c] <- ‹(«x[t, c]» * q[])›
""",
}


def case_of(name: str, kernel: Kernel, **more) -> Case:
    return Case(name, kernel, inputs_of(kernel, 0), **more)


@pytest.fixture(autouse=True)
def _every_thread_is_worth_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("treadle.codegen.cpp.threads.GRAIN", 10)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("threads", [2, 3])
def test_threads(isa: str, threads: int):
    cases = [case_of(f"{n} by {threads}", kernel_of(text, "f32", 40, 70), threads=threads) for n, text in TEXTS.items()]
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize(("rows", "columns"), [(40, 70), (7, 129), (2, 1)])
def test_reductions_in_parts(isa: str, rows: int, columns: int):
    cases = []
    for name, text in TEXTS.items():
        kernel = kernel_of(text, "f32", rows, columns)
        over = dict.fromkeys(a for s in kernel.body if isinstance(s, Equation) for a in s.reduce)
        for axis in over:
            cases += [
                case_of(f"{name} {axis.name} in {k} by {t}", kernel, cuts=(Cut(axis, k),), threads=t)
                for k, t in ((2, 1), (2, 3), (5, 2))
            ]
    check_cases(cases, ISAS[isa])


BITS = ("total", "columns", "moments", "losses", "deviation", "both", "argmax")


def test_the_bits_do_not_depend_on_the_threads():
    isa = ISAS[HERE[0]]
    for name in BITS:
        kernel = kernel_of(TEXTS[name], "f32", 301, 173)
        schedule = default_schedule(kernel, isa)
        cut, apart = cut_reductions(kernel, cuts_under(kernel, schedule))
        source = emit_kernel(cut, schedule, isa, "k", apart=apart)
        library = compile_unit([source], isa)
        found = []
        for threads in (1, 2, 3, 7):
            case = case_of(name, kernel, threads=threads)
            storages = {}
            for buffer in source.buffers:
                b = kernel.buffers[buffer]
                storages[buffer] = Fenced(span(b, {}), torch_dtype(b.dtype))
                if buffer in case.buffers:
                    fill(b, view(b, storages[buffer].flat, {}), case.buffers[buffer])
            assert call(source, library, storages, case) == 0
            found.append([storages[b.name].flat.clone() for b in kernel.outputs])
        assert source.threaded, name
        assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True)), name


def test_which_reductions_are_cut():
    def cuts(text: str) -> dict[str, int]:
        kernel = parse_kernel(text)
        return {a.name: k for a, k, _ in cuts_under(kernel, default_schedule(kernel, ISAS["avx512"]))}

    total = "kernel k(x: f32[{n}]) -> (y: f32[])\n  axes c:{n}\n  s[]: f32 = sum(c) x[c]\n  y[] <- s[]\n"
    columns = """
kernel k(x: f32[{t}, {c}]) -> (y: f32[{c}])
  axes c:{c}, t:{t}
  s[c]: f32 = sum(t) x[t, c]
  y[c] <- s[c]
"""
    rows = """
kernel k(x: f32[{t}, {c}]) -> (y: f32[{t}])
  axes t:{t}, c:{c}
  s[t]: f32 = sum(c) x[t, c]
  y[t] <- s[t]
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("treadle.codegen.cpp.threads.GRAIN", 400_000)
        assert cuts(total.format(n=1 << 23)) == {"c": 8}  # eleven would do, eight are of equal length
        assert cuts(total.format(n=(1 << 23) + 9)) == {"c": 11}
        assert cuts(total.format(n=1 << 18)) == {}
        assert cuts(columns.format(t=4096, c=2048)) == {"t": 8}
        assert cuts(columns.format(t=64, c=4096)) == {}
        assert cuts(columns.format(t=64, c=1 << 20)) == {}  # a grid of columns
        assert cuts(rows.format(t=4096, c=2048)) == {}
        assert cuts(rows.format(t=1, c=1 << 23)) == {"c": 8}
        assert cuts(rows.format(t="s0", c=1 << 23)) == {}


def test_what_the_law_refuses_stays_whole():
    kernel = parse_kernel("""
kernel k(x: f32[64], n: i64[2]) -> (y: f32[2])
  axes b:2, t:64 in _..n[b]
  s[b]: f32 = sum(t) x[t]
  y[b] <- s[b]
""")
    (axis,) = kernel.equations["s"].reduce
    assert cut_reductions(kernel, (Cut(axis, 2),)) == (kernel, frozenset())


CHANNELS = """
kernel channels(x: f32[4, 2, {C}], d: f32[4, 2, {C}], r: f32[4, 2]) -> (y: f32[4, 2, {C}], z: f32[2])
  axes n:4, g:2, c:{C}
  e[n, g, c]: f32 = sigmoid(x[n, g, c])
  s[n, g]: f32 = sum(c) ((e[n, g, c] * d[n, g, c]) / r[n, g])
  y[n, g, c] <- ((s[n, g] * (x[n, g, c] - s[n, g])) + (e[n, g, c] * d[n, g, c]))
  t[g]: f32 = sum(n, c) ((e[n, g, c] * d[n, g, c]) / r[n, g])
  z[g] <- t[g]
"""


@pytest.mark.parametrize("keep", ["auto", "all"])
def test_values_made_in_chunks_and_read_elsewhere(keep: str):
    """What one grid keeps of each chunk is read by another, whose lanes are cut otherwise, and by a third."""
    kernel = parse_kernel(CHANNELS.format(C=16384))
    cuts = (Cut(next(a for a in kernel.axes if a.name == "c"), 2, False),)
    schedule = default_schedule(kernel, ISAS[HERE[0]]).choose(keep=keep)
    check_cases([case_of("channels", kernel, schedule=schedule, cuts=cuts)], ISAS[HERE[0]])


def test_a_short_axis_that_one_reduction_keeps_does_not_become_the_lanes():
    kernel = parse_kernel(CHANNELS.format(C=16384))
    cuts = (Cut(next(a for a in kernel.axes if a.name == "c"), 2, False),)
    cut, apart = cut_reductions(kernel, cuts)
    isa = ISAS["avx512"]
    program = tile_kernel(cut, default_schedule(kernel, isa), isa, apart).program
    loops = [s for s in walk_statements(program.body) if isinstance(s, Loop) and s.kind == "lanes"]
    assert loops and not any(s.axis.name == "n" for s in loops)


@pytest.mark.parametrize(("columns", "kept"), [(1 << 12, True), (1 << 17, False)])
def test_a_value_that_would_fill_the_caches_is_computed_again(columns: int, kept: bool):
    kernel = parse_kernel(CHANNELS.format(C=columns))
    isa = ISAS["avx512"]
    for cuts in ((), (Cut(next(a for a in kernel.axes if a.name == "c"), 2, False),)):
        cut, apart = cut_reductions(kernel, cuts)
        program = tile_kernel(cut, default_schedule(kernel, isa), isa, apart).program
        assert any(s.name == "e_all" for s in program.scratch) == kept
