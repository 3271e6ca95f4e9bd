"""Which loops a kernel becomes on a CPU: lanes along the traffic, passes that stay apart, what is asked for ahead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cpp_run import HERE, Case, check_cases
from cpp_texts import LATEST, inputs_of, kernel_of

from treadle.codegen.cpp.ahead import find_asks
from treadle.codegen.cpp.emit import default_schedule, emit_kernel, tile_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.phases import find_phases
from treadle.codegen.tiling import plan_kernel
from treadle.codegen.tiling_plan import nests_of
from treadle.ir.loops import Equation, Kernel
from treadle.ir.tiles import Loop, walk_statements

CLASSES = """
kernel classes(d: i64[{T}], x: f32[{T}, {C}], m: f32[{T}], l: f32[{T}], g: f32[{T}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- (where((#(c) == d[t]), g[t], 0.0) - (exp(((x[t, c] - m[t]) - abs(l[t]))) * g[t]))
"""
LOSS = """
kernel loss(x: f32[{T}, {C}], d: i64[{T}]) -> (y: f32[1])
  axes t:{T}, c:{C}
  m[t]: f32 = max(c) x[t, c]
  l[t]: f32 = sum(c) exp((x[t, c] - m[t]))
  s[]: f32 = sum(t) where((d[t] == -100:i64), 0.0, ((m[t] + log(l[t])) - x[t, at(d[t], {C})]))
  y[0] <- s[] for ()
"""
BOTH_WAYS = """
kernel both(x: f32[{T}, {T}]) -> (y: f32[{T}], z: f32[{T}])
  axes t:{T}, c:{T}
  a[t]: f32 = max(c) x[t, c]
  b[t]: f32 = max(c) x[c, t]
  y[t] <- a[t]
  z[t] <- b[t]
"""
SOFTMAX = """
kernel softmax(x: f32[{T}, {C}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}
  m[t]: f32 = max(c) x[t, c]
  e[t, c]: f32 = exp((x[t, c] - m[t]))
  l[t]: f32 = sum(c) e[t, c]
  y[t, c] <- (e[t, c] / l[t])
"""
GROUPED_COLUMNS = """
kernel grouped(x: f32[{T}, 8, {C}], s: f32[{T}, 8]) -> (y: f32[8, {C}])
  axes g:8, c:{C}, t:{T}
  e[g, c]: f32 = sum(t) (x[t, g, c] * s[t, g])
  y[g, c] <- e[g, c]
"""
CHUNKED = """
kernel chunked(x: f32[{T}, 9, {C}]) -> (y: f32[1])
  axes t:{T}, c:{C}, k:9
  m[t, c]: f32 = max(k) x[t, k, c]
  s[]: f32 = sum(t, c) (m[t, c] * 0.001)
  y[0] <- s[] for ()
"""
PAIRS = """
kernel pairs(a: f32[{T}, {C}], b: f32[{T}, {C}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}, k:2
  v[t, c, k]: f32 = where((#(k) < 1:i64), (a[t, c] + 1.0), (b[t, c] * 2.0))
  m[t, c]: f32 = max(k) v[t, c, k]
  l[t, c]: f32 = sum(k) exp((v[t, c, k] - m[t, c]))
  y[t, c] <- (m[t, c] + log(l[t, c]))
"""


def lanes_of(kernel: Kernel) -> list[str | None]:
    return [None if n.lanes is None else n.lanes.name for n in nests_of(plan_kernel(kernel).parts)]


def run(kernel: Kernel, **inputs: torch.Tensor) -> None:
    """On every instruction set, against the interpreter."""
    rng = torch.Generator().manual_seed(3)
    made = {b.name: torch.randn([int(n) for n in b.shape], generator=rng) for b in kernel.inputs
            if b.name not in inputs}  # fmt: skip
    for isa in HERE:
        check_cases([Case(kernel.name, kernel, made | inputs)], ISAS[isa])


def test_lanes_follow_what_most_of_the_traffic_is_dense_in():
    """More accesses are dense along the rows' axis, but they are of few elements."""
    kernel = kernel_of(CLASSES, T=64, C=4096)
    assert lanes_of(kernel)[-1] == "c"
    run(kernel_of(CLASSES, T=5, C=37), d=torch.tensor([0, 36, 4, 40, -1]))


def test_rows_and_columns_of_one_matrix_are_two_passes():
    kernel = kernel_of(BOTH_WAYS, T=512)
    found = lanes_of(kernel)
    assert {"t", "c"} <= set(found)
    run(kernel_of(BOTH_WAYS, T=37))


@pytest.mark.parametrize("isa", HERE)
def test_a_few_indices_do_not_halve_the_packs(isa: str):
    kernel = kernel_of(LOSS, T=64, C=4096)
    found = tile_kernel(kernel, default_schedule(kernel, ISAS[isa]), ISAS[isa])
    assert found.lanes == ISAS[isa].lanes(4)
    few = kernel_of(LOSS, T=4096, C=8)  # here the rows are most of the work
    assert tile_kernel(few, default_schedule(few, ISAS[isa]), ISAS[isa]).lanes == ISAS[isa].lanes(8)


def test_losses_of_both_shapes_are_right():
    for T, C in ((40, 500), (500, 3)):
        kernel = kernel_of(LOSS, T=T, C=C)
        d = torch.randint(C, (T,), generator=torch.Generator().manual_seed(1)).masked_fill(torch.arange(T) % 5 == 1, -1)
        run(kernel, d=d)


# --- what is asked for ahead -------------------------------------------------------------------------------------


def asks(kernel: Kernel) -> list[tuple[str, bool]]:
    isa = ISAS[HERE[0]]
    found = find_asks(tile_kernel(kernel, default_schedule(kernel, isa), isa).program)
    return sorted((a.buffer, a.writes) for asked in found.values() for a in asked)


def test_the_next_row_and_the_place_of_results_are_asked_for():
    kernel, isa = kernel_of(SOFTMAX, T=64, C=4096), ISAS[HERE[0]]
    assert asks(kernel) == [("x", False), ("y", True)]
    schedule = default_schedule(kernel, isa)
    texts = [emit_kernel(kernel, schedule.choose(ahead=on), isa, "k").text for on in (True, False)]
    assert [t.count("__builtin_prefetch") > 0 for t in texts] == [True, False]


@pytest.mark.parametrize(("T", "C"), [(64, 40), (64, 1 << 20), (2, 4096), (16, 256)])
def test_rows_that_are_short_long_few_or_close_are_not_asked_for(T: int, C: int):
    assert asks(kernel_of(SOFTMAX, T=T, C=C)) == []


def test_what_is_asked_for_is_known_where_it_is_asked():
    kernel = kernel_of(GROUPED_COLUMNS, T=2048, C=512)
    isa = ISAS[HERE[0]]
    program = tile_kernel(kernel, default_schedule(kernel, isa), isa).program
    loops = {id(s): s for s in walk_statements(program.body) if isinstance(s, Loop)}
    assert set(find_asks(program)) <= set(loops)
    emit_kernel(kernel, default_schedule(kernel, isa), isa, "k")  # an axis that is not in scope is a KeyError
    run(kernel_of(GROUPED_COLUMNS, T=70, C=40))


# --- blocks and short axes ---------------------------------------------------------------------------------------


def test_a_total_after_chunks_is_not_in_chunks():
    run(kernel_of(CHUNKED, T=2, C=9000))


def test_a_short_reduction_takes_pointwise_values_along():
    kernel = kernel_of(PAIRS, T=30, C=400)
    prepared = plan_kernel(kernel).kernel
    assert not [s for s in prepared.body if isinstance(s, Equation) and s.reduce]
    assert not any("k" in {a.name for a in s.domain} for s in prepared.body)
    run(kernel)


@pytest.mark.parametrize("isa", HERE)
def test_the_latest_of_equal_values_in_reverse(isa: str):
    kernel = kernel_of(LATEST, "f32", 6, 40)
    check_cases([Case("latest", kernel, {"x": torch.randint(0, 3, (6, 40))})], ISAS[isa])


QUOTIENT = """
kernel quotient(x: f32[{T}, {C}], s: f32[{T}]) -> (y: bf16[{T}, {C}], z: f32[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- bf16((x[t, c] / s[t]))
  z[t, c] <- (x[t, c] / s[t])
"""


@pytest.mark.parametrize("isa", [n for n in HERE if n != "scalar"])
def test_a_quotient_that_is_rounded_to_16_bits_is_not_corrected(isa: str):
    both = kernel_of(QUOTIENT, "f32", 64, 40)
    alone = replace(both, outputs=both.outputs[:1], body=both.body[:1])

    def calls(kernel: Kernel, *, strict: bool = False) -> str:
        return emit_kernel(kernel, default_schedule(kernel, ISAS[isa]), ISAS[isa], "quotient", strict=strict).text

    assert "quotient_F(" in calls(alone) and "divide_F(" not in calls(alone)
    assert "quotient_F(" not in calls(both), "the quotient is a result too: it is there already"
    assert "quotient_F(" not in calls(alone, strict=True)
    x = torch.randn(64, 40)
    x[:, 0], x[:, 1], x[:, 2] = 0.0, float("inf"), float("nan")
    s = torch.exp(torch.randn(64))
    s[:6] = torch.tensor([0.0, float("inf"), float("nan"), 1e-40, 3e38, -1e-38])
    check_cases([Case("quotient", alone, {"x": x, "s": s})], ISAS[isa])


MIXED = """
kernel mixed(a: f32[4, 4], x: f32[{T}, 4, {C}]) -> (y: f32[{T}, 4, {C}])
  axes t:{T}, i:4, c:{C}, k:4
  m[i]: f32 = max(k) a[i, k]
  l[i]: f32 = sum(k) exp((a[i, k] - m[i]))
  s[t, i, c]: f32 = sum(k) ((exp((a[i, k] - m[i])) * x[t, k, c]) / l[i])
  y[t, i, c] <- s[t, i, c]
"""


def test_what_is_little_does_not_turn_the_loops_of_what_is_much():
    def grids(kernel: Kernel) -> list[list[str]]:
        program = tile_kernel(kernel, default_schedule(kernel, ISAS[HERE[0]]), ISAS[HERE[0]]).program
        return [[x.axis.name for x in p.grid] for p in find_phases(program.body)]

    assert grids(kernel_of(MIXED, "f32", 300, 200)) == [["i"], ["t", "i"]]
    assert grids(kernel_of(MIXED, "f32", 1, 5)) == [["i"]]  # nothing is much there


def test_single_values_are_divided_before_packs_are_multiplied():
    kernel = kernel_of(MIXED, "f32", 300, 200)
    isa = ISAS[HERE[0]]
    text, strict = (emit_kernel(kernel, default_schedule(kernel, isa), isa, "k", strict=s).text for s in (False, True))
    assert "divide_F" not in text and "divide_F" in strict
    check_cases([Case("mixed", kernel, inputs_of(kernel, 0))], isa)
