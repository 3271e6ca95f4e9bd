"""The interpreter of tile programs: against the kernels they were made from, and on programs written by hand."""

from __future__ import annotations

import math

import pytest
import torch
from cpp_texts import EVERYWHERE, RAGGED, SOFTMAX, TURN, inputs_of, kernel_of, ragged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import random_tensor
from strategies_loops import kernels
from tiled import assert_computes, hangs_on_identity, outputs_of, programs_of, storages_of, tile

from treadle.codegen.cpp.isa import ISAS
from treadle.ir import interp_tiles, interp_tiles_steps
from treadle.ir.errors import BadInput, VerifyError
from treadle.ir.interp import Sample, run_kernel
from treadle.ir.interp_tiles import run_program, sample_program
from treadle.ir.loops import Kernel
from treadle.ir.text import parse_kernel
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.tiles import Stage, walk_statements

seeds = st.integers(0, 2**31)


def tensors_for(kernel: Kernel, seed: int) -> dict[str, torch.Tensor]:
    """Random inputs; `d` holds indices of a dimension of 5."""
    made = {}
    for k, b in enumerate(kernel.inputs):
        low, high = (0, 4) if b.name == "d" else (None, None)
        made[b.name] = random_tensor(tuple(int(n) for n in b.shape), b.dtype, seed + k, low, high)
    return made


# --- programs of kernels -----------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(kernels(), seeds, st.sampled_from(list(ISAS)), st.booleans(), st.booleans())
def test_programs_compute_their_kernels(kernel: Kernel, seed: int, isa: str, small: bool, float64: bool):
    if not hangs_on_identity(kernel):
        program = tile(kernel, isa, seed if small else None)
        assert_computes(program, kernel, tensors_for(kernel, seed), float64=float64)


@pytest.mark.slow
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(kernels(), seeds)
def test_many_programs_compute_their_kernels(kernel: Kernel, seed: int):
    if not hangs_on_identity(kernel):
        for program in programs_of(kernel, seed):
            assert_computes(program, kernel, tensors_for(kernel, seed))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_form(name: str):
    isa = list(ISAS)[list(EVERYWHERE).index(name) % len(ISAS)]
    for seed, dtype, rows, columns in ((None, "bf16", 19, 37), (3, "f32", "s0", 70)):
        kernel, sizes = kernel_of(EVERYWHERE[name], dtype, rows, columns), {"s0": 9}
        assert_computes(tile(kernel, isa, seed), kernel, inputs_of(kernel, 1, sizes), sizes)


WAITING = {
    "for a mirrored value": "e[t, c]: f32 = exp(x[t, c])\n  y[t, c] <- e[t, -c + 36]",
    "for a value of other rows": "e[t, c]: f32 = exp(x[t, c])\n  y[t, c] <- (e[t, c] + e[-t + 4, c])",
    "for all that is updated in place": "x[t, c] <- (x[t, c] + 1.0)\n  y[t, c] <- x[t, -c + 36]",
    "for all that is read before an update": "y[t, c] <- x[t, -c + 36]\n  x[t, c] <- (x[t, c] + 1.0)",
    "for a sum": "s[t]: f32 = sum(c) x[t, c]\n  y[t, c] <- (x[t, c] - s[t])",
    "for a sum of sums": "s[t]: f32 = sum(c) x[t, c]\n  r[]: f32 = sum(t) s[t]\n  y[t, c] <- (s[t] - r[])",
    "for colliding stores": "y[t, c] <- x[t, c]\n  y[(t // 2), c] += x[t, c] colliding for (t, c)",
}


@pytest.mark.parametrize("what", WAITING)
def test_statements_wait(what: str):
    head = "kernel k(x: f32[5, 37]) -> (x: f32[5, 37], y: f32[5, 37])\n  axes t:5, c:37\n  "
    kernel = parse_kernel(head + WAITING[what])
    for isa, seed in (("avx512", None), ("avx2", 1), ("scalar", 2)):
        assert_computes(tile(kernel, isa, seed), kernel, {"x": torch.randn(5, 37)})


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_form_at_every_size(name: str):
    for rows, columns in ((1, 1), (3, 5), (19, 70), (33, 129), (0, 5)):
        kernel = kernel_of(EVERYWHERE[name], "f32", rows, columns)
        if 0 in (rows, columns) and name in ("argmax", "pad", "digits"):  # which read element 0
            continue
        for program in programs_of(kernel, rows):
            assert_computes(program, kernel, inputs_of(kernel, rows), float64=False)


@pytest.mark.parametrize("name", RAGGED)
def test_axes_that_data_bounds(name: str):
    kernel, inputs = ragged(name)
    for isa, seed in (("avx512", None), ("avx2", 1)):
        assert_computes(tile(kernel, isa, seed), kernel, inputs)


def test_staged_blocks_are_turned():
    kernel = kernel_of(TURN, "bf16", 70, 45)
    for seed in (None, 1, 2):
        program = tile(kernel, "avx512", seed)
        assert_computes(program, kernel, inputs_of(kernel, 1))
    program = tile(kernel, "avx512")
    assert any(isinstance(s, Stage) for s in walk_statements(program.body))


@pytest.mark.parametrize("chunk", [1, 200])
def test_pieces_make_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interp_tiles, "CHUNK", chunk)
    monkeypatch.setattr(interp_tiles_steps, "CHUNK", chunk)
    for name in ("softmax", "turn", "scan", "columns"):
        kernel = kernel_of(EVERYWHERE[name], "f32", 6, 37)
        assert_computes(tile(kernel, "avx2"), kernel, inputs_of(kernel, 1))


def test_the_last_of_equal_values_is_found_in_order():
    text = """
    kernel k(x: f32[3, 70]) -> (y: i64[3])
      axes t:3, c:70
      (_[t]: f32, p[t]: i64) = argmax_last(c) x[t, c], #(c)
      y[t] <- p[t]
    """
    kernel = parse_kernel(text)
    for isa, seed in (("avx512", None), ("avx2", 1)):
        assert_computes(tile(kernel, isa, seed), kernel, {"x": torch.arange(210.0).view(3, 70) // 9 % 3})


# --- samples -----------------------------------------------------------------------------------------------------


def test_a_sample_has_corners_tails_and_is_right():
    kernel = kernel_of(SOFTMAX, "f32", 3000, 107)
    x = inputs_of(kernel, 1)
    program = tile(kernel, "avx512")
    sampled = sample_program(program, storages_of(kernel, x, {}), sample=Sample(tiles=3, points=1000))["y"]
    computed, values = sampled.computed.view(3000, 107), sampled.values.view(3000, 107)
    assert bool(computed[0].all()) and bool(computed[-1].all()) and 3 <= int(computed[:, 0].sum()) <= 60
    expected = run_kernel(kernel, x)["y"]
    torch.testing.assert_close(values[computed], expected[computed], rtol=1e-5, atol=0)
    assert bool(values[~computed].isnan().all())


def test_what_is_read_later_runs_whole():
    text = """
    tiles k(x: f32[4000]) -> (y: f32[4000], z: f32[4000])
      grid i in 4000:
        y[i] <- (x[i] * 2.0)
      grid j in 4000:
        z[j] <- y[-j + 3999]
    """
    x = torch.randn(4000)
    found = sample_program(parse_program(text), {"x": x}, sample=Sample(points=1))
    assert bool(found["y"].computed.all()) and 2 <= int(found["z"].computed.sum()) <= 6
    at = found["z"].computed
    assert torch.equal(found["z"].values[at], (x * 2).flip(0)[at])


# --- statements --------------------------------------------------------------------------------------------------


def run(text: str, **given: torch.Tensor) -> torch.Tensor:
    (only,) = run_program(parse_program(text), given).values()
    return only


def test_what_nobody_writes_is_poison():
    got = run("tiles k() -> (y: f32[4])\n  serial i in 3:\n    y[i] <- 1.0")
    assert got[:3].tolist() == [1, 1, 1] and bool(got[3].isnan())
    scratch = "tiles k() -> (y: f32[2])\n  scratch a: f32[2]\n  a[0] <- 1.0\n  serial i in 2:\n    y[i] <- a[i]"
    assert run(scratch)[0] == 1 and bool(run(scratch)[1].isnan())


@pytest.mark.parametrize(
    ("head", "order"),
    [
        ("serial i in 4:", [0, 1, 2, 3]),
        ("serial i in 4 backwards:", [3, 2, 1, 0]),
        ("serial i in 4 from 1:", [1, 2, 3]),
        ("serial i in 4 from 1 to 9:", [1, 2, 3]),
        ("serial i in 4 to 2:", [0, 1]),
        ("serial i in 4 from 1 to 3 backwards:", [2, 1]),
        ("serial i in 4 within n[0]..n[1]:", [2, 3]),
        ("serial i in 4 within _..n[0]:", [0, 1]),
        ("serial i in 4 within n[0].._ backwards:", [3, 2]),
    ],
)
def test_loops_run_from_begin_to_end_in_order(head: str, order: list[int]):
    update = "    s := ((s[] * 10:i64) + #(i))"
    text = f"tiles k(n: i64[2]) -> (y: i64[1])\n  state s: i64 = 0:i64\n  {head}\n{update}\n  y[0] <- s[]"
    got = run(text, n=torch.tensor([2, 9]))
    assert got.tolist() == [int("".join(map(str, order)))]


def test_points_of_a_grid_have_loops_of_their_own():
    text = """
    tiles k(x: f32[30], off: i64[4]) -> (y: f32[3])
      grid b in 3:
        state s: f32 = 0.0 over t in 30 within off[b]..off[b + 1] by 4
        lanes t in 30 within off[b]..off[b + 1] by 4:
          s := (s[] + x[t])
        fold s = sum
        y[b] <- s[]
    """
    x = torch.randn(30)
    got = run(text, x=x, off=torch.tensor([3, 3, 20, 29]))
    torch.testing.assert_close(got, torch.stack([x[:0].sum(), x[3:20].sum(), x[20:29].sum()]))


def test_lanes_keep_a_tile_until_it_is_folded():
    text = """
    tiles k(x: f32[11]) -> (m: f32[1], p: i64[1])
      state a: f32 = -inf over c in 11 by 4
      state b: i64 = 9223372036854775807:i64 over c in 11 by 4
      lanes c in 11 by 4:
        a, b := where((x[c] > a[]), x[c], a[]), where((x[c] > a[]), #(c), b[])
      fold a, b = argmax
      m[0] <- a[]
      p[0] <- b[]
    """
    x = torch.tensor([1.0, 7.0, 3.0, 7.0, 7.0, 2.0, 0.0, -1.0, 5.0, 6.0, 7.0])
    got = run_program(parse_program(text), {"x": x})
    assert (got["m"].tolist(), got["p"].tolist()) == ([7.0], [1])


def test_an_update_sees_the_old_values():
    states = "  state a: f32 = 1.0\n  state b: f32 = 2.0\n  a, b := b[], a[]\n"
    text = f"tiles k() -> (y: f32[2])\n{states}  y[0] <- a[]\n  y[1] <- b[]"
    assert run(text).tolist() == [2.0, 1.0]


@pytest.mark.parametrize("state", ["sum", "max"])
def test_a_scan_goes_on_from_tile_to_tile(state: str):
    first = "0.0:f64" if state == "sum" else "-inf:f64"
    text = f"""
    tiles k(x: f32[11]) -> (y: f32[11], z: f64[1])
      state carry: f64 = {first}
      lanes c in 11 by 4:
        scan s: f32 = {state} of x[c] from carry
        y[c] <- s[]
      z[0] <- carry[]
    """
    x = torch.randn(11)
    got = run_program(parse_program(text), {"x": x})
    expected = x.double().cumsum(0) if state == "sum" else x.double().cummax(0).values
    torch.testing.assert_close(got["y"], expected.float())
    assert got["z"][0] == pytest.approx(float(expected[-1]))


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_dots_are_added_to_a_sum(dtype: str):
    """Products of narrow values are exact in the sum's type; lanes beyond the end add nothing."""
    held = "i32" if dtype == "i8" else "f32"
    text = f"""
    tiles k(x: {dtype}[33], w: {dtype}[22]) -> (y: {held}[6])
      grid m in 3 by 16:
        grid n in 2 by 16:
          state s: {held} = {"1:i32" if dtype == "i8" else "1.0"}
          lanes c in 11 by 4:
            dot s of x[c + 11*m], w[c + 11*n]
            dot s of x[c + 11*m], w[c + 11*n]
          y[2*m + n] <- s[]
    """
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "i8": torch.int8}[dtype]
    x, w = (torch.randint(-99, 99, (n, 11)).to(kind) for n in (3, 2))
    expected = 1 + 2 * (x.double() @ w.double().t())
    assert torch.equal(run(text, x=x.view(-1), w=w.view(-1)).double(), expected.view(-1))


def test_dots_end_where_their_lanes_do():
    text = """
    tiles k(x: f32[11]) -> (y: f32[3])
      grid m in 3:
        state s: f32 = 0.0
        lanes c in 11 to 3*m + 2 by 4:
          dot s of x[c], 1.0
        y[m] <- s[]
    """
    x = torch.randint(-99, 99, (11,)).float()
    assert torch.equal(run(text, x=x), torch.stack([x[:2].sum(), x[:5].sum(), x[:8].sum()]))


def test_guards_choose_what_is_read_and_written():
    text = """
    tiles k(x: f32[3], d: i64[6]) -> (y: f32[6])
      lanes c in 6 by 4:
        y[c] <- x[at(d[c], 3) if (#(c) < 4:i64)] if (#(c) > 0:i64)
    """
    x, d = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, -3, 1, 99, -99])
    got = run(text, x=x, d=d)
    assert got[1:].tolist() == [3.0, 1.0, 2.0, 0.0, 0.0] and bool(got[0].isnan())


@pytest.mark.parametrize("bad", ["x[c + 1]", "x[at(d[c], 9)]", "x[at(d[c], 4, nowrap)]"])
def test_indices_out_of_range_are_errors(bad: str):
    text = f"tiles k(x: f32[4], d: i64[4]) -> (y: f32[4])\n  lanes c in 4 by 8:\n    y[c] <- {bad}"
    with pytest.raises(IndexError, match="out of range"):
        run(text, x=torch.zeros(4), d=torch.tensor([0, 1, 8 if "9" in bad else 2, -1]))


def test_stores_out_of_range_are_errors():
    with pytest.raises(IndexError, match="out of range"):
        run("tiles k() -> (y: f32[4])\n  serial c in 5:\n    y[c] <- 1.0")


def test_a_staged_block_ends_with_the_axes():
    text = """
    tiles k(x: f32[15]) -> (y: f32[16])
      scratch t: f32[4, 4]
      stage t[0, 0] by 4 over r in 5 from 4, c in 3 from 0 <- x[5*c + r]
      serial i in 4:
        lanes j in 4 by 4:
          y[4*i + j] <- t[i, j]
    """
    got = run(text, x=torch.arange(15.0)).view(4, 4)
    assert got[0, :3].tolist() == [4.0, 9.0, 14.0]
    assert int(got.isnan().sum()) == 13  # what lies beyond the rows and the lanes is nobody's
    with pytest.raises(IndexError, match="leaves the shape"):
        run(text.replace("stage t[0, 0]", "stage t[1, 0]"), x=torch.arange(15.0))


def test_bits_are_moved_as_they_are():
    text = "tiles k(x: bf16[4]) -> (y: bf16[4])\n  lanes c in 4 by 4:\n    y[c] <- x[c as i16]"
    x = torch.tensor([1.5, -0.0, math.inf, 3e38]).bfloat16()
    assert torch.equal(run(text, x=x).view(torch.int16), x.view(torch.int16))
    wide = run_program(parse_program(text), {"x": x}, float64=True)["y"]
    assert wide.dtype is torch.float64 and torch.equal(wide, x.double())


def test_types_are_rounded_as_declared():
    text = "tiles k(x: f32[1]) -> (y: f32[1])\n  let a: bf16 = bf16(x[0])\n  y[0] <- (f32(a[]) + 1e-06)"
    x = torch.tensor([1.2345678])
    assert run(text, x=x)[0] == x.bfloat16().float()[0] + 1e-6
    assert run_program(parse_program(text), {"x": x}, float64=True)["y"][0] == x.double()[0] + 1e-6


def test_what_is_given_is_not_written_to():
    text = "tiles k(x: f32[3]) -> (x: f32[3])\n  lanes c in 3:\n    x[c] <- (x[c] + 1.0)"
    x = torch.zeros(3)
    assert run(text, x=x).tolist() == [1.0, 1.0, 1.0] and x.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(BadInput, match="x"):
        run(text)


# --- who comes first ---------------------------------------------------------------------------------------------

HEAD = "tiles k(x: f32[8], d: i64[8]) -> (x: f32[8])\n  scratch a: f32[8]\n"
RACES = {
    "points write one element": "grid i in 8:\n    x[0] <- 1.0",
    "points write where data says": "grid i in 8:\n    x[at(d[i], 8)] <- 1.0",
    "a point reads what one before it writes": "grid i in 7:\n    x[i + 1] <- x[i]",
    "a point reads what one after it writes": "grid i in 7:\n    x[i] <- x[i + 1]",
    "a point reads late what another writes": "grid i in 7:\n    x[i] <- 1.0\n    let b: f32 = x[i + 1]",
    "a point writes what all read": "grid i in 8:\n    let b: f32 = x[0]\n    x[0] <- b[] if (#(i) == 3:i64)",
    "lanes write one element": "lanes i in 8 by 4:\n    x[(i // 2)] <- 1.0",
    "lanes write where data says": "lanes i in 8 by 4:\n    x[at(d[i], 8)] <- 1.0",
    "a lane reads what one before it writes": "lanes i in 7 by 4:\n    x[i + 1] <- x[i]",
    "a lane reads what one after it writes": "lanes i in 7 by 4:\n    x[i] <- x[i + 1]",
}


@pytest.mark.parametrize("what", RACES)
def test_points_at_once_must_not_meet(what: str):
    with pytest.raises(VerifyError, match="at once"):
        run(HEAD + "  " + RACES[what], x=torch.zeros(8), d=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]))


APART = {
    "points of a permutation": "grid i in 8:\n    x[at(d[i], 8)] <- 1.0",
    "points in place": "grid i in 8:\n    x[i] <- (x[i] + 1.0)",
    "points that read one element": "grid i in 7:\n    x[i] <- x[7]",
    "points where a guard keeps them apart": "grid i in 8:\n    x[0] <- 1.0 if (#(i) == 3:i64)",
    "lanes of a permutation": "lanes i in 8 by 4:\n    x[at(d[i], 8)] <- 1.0",
    "lanes in turn": "serial i in 7:\n    x[i + 1] <- x[i]",
    "lanes that write one value": "lanes i in 8 by 4:\n    x[0] <- 1.0",
    "points with scratch of their own": "grid i in 8:\n    a[0] <- f32(#(i))\n    x[i] <- a[0]",
}


@pytest.mark.parametrize("what", APART)
def test_points_that_do_not_meet_may_run(what: str):
    run(HEAD + "  " + APART[what], x=torch.zeros(8), d=torch.tensor([3, 1, 2, 0, 4, 5, 7, 6]))


def test_points_of_a_grid_do_not_see_the_scratch_of_others():
    text = HEAD + "  grid i in 8:\n    a[i] <- 1.0\n    x[i] <- a[0]"
    got = run(text, x=torch.zeros(8), d=torch.zeros(8, dtype=torch.int64))
    assert got[0] == 1 and bool(got[1:].isnan().all())


def test_scratch_lives_on_where_it_is_used_later():
    text = HEAD + "  grid i in 8:\n    a[i] <- f32(#(i))\n  grid j in 8:\n    x[j] <- a[-j + 7]"
    got = run(text, x=torch.zeros(8), d=torch.zeros(8, dtype=torch.int64))
    assert got.tolist() == [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_outputs_have_the_kernels_shapes():
    kernel = kernel_of(SOFTMAX, "f32", 4, 21)
    got = outputs_of(kernel, tile(kernel, "avx2"), inputs_of(kernel, 1))
    assert list(got) == ["y"] and got["y"].shape == (4, 21)
