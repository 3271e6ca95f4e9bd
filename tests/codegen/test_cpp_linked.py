"""Sums that are weighted by what is computed of other sums of products: tiles of registers against the interpreter."""

from __future__ import annotations

import pytest
from cpp_run import HERE, Case, check_cases
from cpp_texts import inputs_of

from treadle.codegen.cpp.emit import default_schedule, tile_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.products import find_linked, is_linked, runs_apart
from treadle.codegen.tiling_prepare import prepare
from treadle.ir.loops import Kernel
from treadle.ir.text import parse_kernel
from treadle.ir.tiles import Loop, walk_statements

# Two sums along i with weights of their own, for rows j; `t` is turned: its points lie side by side along j.
TWO = """
kernel two(q: {d}[{B}, {I}, {D}], k: {d}[{B}, {J}, {D}], g: {d}[{B}, {I}, {D}], v: {d}[{B}, {J}, {D}], l: f32[{B}, {I}])
    -> (y: {d}[{B}, {J}, {D}], z: {d}[{B}, {J}, {D}])
  axes b:{B}, j:{J}, e:{D}, i:{I}
  s[b, j, i]: f32 = sum(e) operands {d} (‹q[b, i, e]› * ‹k[b, j, e]›)
  t[b, j, i]: f32 = sum(e) operands {d} (‹g[b, i, e]› * ‹v[b, j, e]›)
  p[b, j, i]: f32 = {guard}
  y1[b, j, e]: f32 = sum(i) operands {d} (p[b, j, i] * ‹g[b, i, e]›)
  z1[b, j, e]: f32 = sum(i) operands {d} ({change} * ‹q[b, i, e]›)
  y[b, j, e] <- {n}y1[b, j, e]{m}
  z[b, j, e] <- {n}z1[b, j, e]{m}
"""
# A sum along j without weights beside one with them: tanh(s) v, and its row sums.
ROW_SUMS = """
kernel row_sums(q: {d}[{I}, {D}], k: {d}[{J}, {D}], v: {d}[{J}, {E}]) -> (y: f32[{I}, {E}], r: f32[{I}])
  axes i:{I}, e:{E}, j:{J}, c:{D}
  s[i, j]: f32 = sum(c) operands {d} (‹q[i, c]› * ‹k[j, c]›)
  o[i, e]: f32 = sum(j) operands {d} (tanh(s[i, j]) * ‹v[j, e]›)
  y[i, e] <- o[i, e]
  u[i]: f32 = sum(j) tanh(s[i, j])
  r[i] <- u[i]
"""
CHANGE = "(p[b, j, i] * (t[b, j, i] - l[b, i]))"
PLAIN, CAUSAL = "exp(((s[b, j, i] * 0.1) - l[b, i]))", "where((#(j) <= #(i)), exp(((s[b, j, i] * 0.1) - l[b, i])), 0.0)"


def kernel_of(text: str, dtype: str = "f32", guard: str = PLAIN, **sizes: int) -> Kernel:
    wide, narrow = (("", ""), ("", "")) if dtype == "f32" else (("f32(", ")"), (f"{dtype}(", ")"))
    change = CHANGE if guard == PLAIN else f"where((#(j) <= #(i)), {CHANGE}, 0.0)"
    made = text.format(d=dtype, guard=guard, change=change, n=narrow[0], m=narrow[1], **sizes)
    return parse_kernel(made.translate({ord("‹"): wide[0], ord("›"): wide[1]}).strip() + "\n")


SIZES = [(2, 300, 140, 16), (1, 33, 257, 7), (1, 128, 16, 32), (3, 1, 129, 5), (1, 270, 1, 9)]


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_two_sums_of_one_link(dtype: str, isa: str):
    cases = []
    for k, (b, i, j, d) in enumerate(SIZES):
        for guard in (PLAIN, CAUSAL):
            kernel = kernel_of(TWO, dtype, guard, B=b, I=i, J=j, D=d)
            assert is_linked(kernel) == (min(i, j) > 1)
            cases.append(Case(f"{dtype} {k} {guard == CAUSAL}", kernel, inputs_of(kernel, k)))
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_row_sums_beside_weighted_ones(dtype: str, isa: str):
    kernels = [kernel_of(ROW_SUMS, dtype, I=i, J=j, D=d, E=e) for i, j, d, e in ((40, 300, 16, 9), (17, 129, 3, 33))]
    check_cases([Case(f"{dtype} {k}", kernel, inputs_of(kernel, k)) for k, kernel in enumerate(kernels)], ISAS[isa])


def test_blocks_that_a_condition_leaves_out_are_skipped():
    """The loops along i begin where the block of rows does."""
    begins = {}
    for guard in (PLAIN, CAUSAL):
        kernel = kernel_of(TWO, guard=guard, B=1, I=512, J=512, D=16)
        found = find_linked(prepare(kernel, 0))
        assert found is not None and not found.running and len(found.values) == 2
        program = tile_kernel(kernel, default_schedule(kernel, ISAS["avx2"]), ISAS["avx2"]).program
        loops = [s for s in walk_statements(program.body) if isinstance(s, Loop) and s.axis.name.startswith("i_b")]
        begins[guard] = [s.begin is not None for s in loops]
    assert begins == {PLAIN: [False], CAUSAL: [True]}


def test_what_no_builder_takes_would_sum_again():
    """A sum of sums along an axis whose points are weighted by nothing in memory of that shape."""
    text = """
kernel chain(x: f32[64, 32], w: f32[48, 32], u: f32[64, 48]) -> (y: f32[64])
  axes i:64, j:48, c:32
  s[i, j]: f32 = sum(c) (x[i, c] * w[j, c])
  m[i]: f32 = prod(j) (s[i, j] * u[i, j])
  y[i] <- m[i]
"""
    kernel = parse_kernel(text.strip() + "\n")
    assert not is_linked(kernel) and runs_apart(kernel, links=True)
