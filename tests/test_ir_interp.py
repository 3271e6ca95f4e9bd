"""The interpreter of kernels: against evaluation point by point, in pieces, in samples, and with its error bounds."""

from __future__ import annotations

import pytest
import torch
from cpp_texts import LATEST, kernel_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowering import kernel_of_graph, run_reference
from naive import Naive
from strategies import Case, finished, graphs, random_tensor
from strategies_loops import kernels

from treadle.ir import interp_reduce, interp_store
from treadle.ir.errors import BadInput
from treadle.ir.interp import Sample, error_bound, run_kernel, run_sampled
from treadle.ir.loops import Kernel
from treadle.ir.text import parse_kernel
from treadle.ir.types import symbol

Tensors = dict[str, torch.Tensor]
seeds = st.integers(0, 2**31)


def tensors_for(kernel: Kernel, seed: int) -> Tensors:
    """Random inputs; `d` holds indices of a dimension of 5."""
    made = {}
    for k, b in enumerate(kernel.inputs):
        low, high = (0, 4) if b.name == "d" else (None, None)
        made[b.name] = random_tensor(tuple(int(n) for n in b.shape), b.dtype, seed + k, low, high)
    return made


def assert_within(got: torch.Tensor, expected: torch.Tensor, bound: torch.Tensor) -> None:
    """Equal NaNs and infinities; elsewhere within the bound, where it is finite."""
    got, expected = got.double(), expected.double()
    same = (got == expected) | (got.isnan() & expected.isnan())
    near = (got - expected).abs() <= bound
    unknown = bound.isinf()
    assert bool((same | near | unknown).all()), (got, expected, bound)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(kernels(), seeds)
def test_kernels_are_what_they_are_point_by_point(kernel: Kernel, seed: int):
    tensors = tensors_for(kernel, seed)
    got, bound = run_kernel(kernel, tensors, float64=True), error_bound(kernel, tensors)
    for name, expected in Naive(kernel, tensors).run().items():
        assert got[name].dtype is expected.dtype
        assert_within(got[name], expected, 4 * bound[name])


@settings(max_examples=60)
@given(kernels(), seeds)
def test_declared_types_stay_within_the_error_bound(kernel: Kernel, seed: int):
    tensors = tensors_for(kernel, seed)
    exact, bound = run_kernel(kernel, tensors, float64=True), error_bound(kernel, tensors)
    for name, rounded in run_kernel(kernel, tensors).items():
        assert_within(rounded, exact[name], 4 * bound[name])  # 4: exp and the like are not rounded correctly


@settings(max_examples=60)
@given(kernels(), seeds)
def test_pieces_make_the_whole(kernel: Kernel, seed: int):
    tensors = tensors_for(kernel, seed)
    whole, bound = run_kernel(kernel, tensors, float64=True), error_bound(kernel, tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interp_reduce, "CHUNK", 4)
        patch.setattr(interp_store, "CHUNK", 4)
        pieces = run_kernel(kernel, tensors, float64=True)
    for name, expected in whole.items():
        assert_within(pieces[name], expected, bound[name])


@settings(max_examples=60)
@given(kernels(), seeds)
def test_samples_are_parts_of_the_whole(kernel: Kernel, seed: int):
    tensors = tensors_for(kernel, seed)
    whole = run_kernel(kernel, tensors)
    for name, sampled in run_sampled(kernel, tensors, sample=Sample(tiles=2, points=2, seed=seed)).items():
        assert bool(sampled.computed.any()) or not sampled.computed.numel()
        torch.testing.assert_close(
            sampled.values[sampled.computed], whole[name][sampled.computed], rtol=0, atol=0, equal_nan=True
        )


def run(text: str, tensors: Tensors, **options) -> torch.Tensor:
    (only,) = run_kernel(parse_kernel(text), tensors, **options).values()
    return only


# --- sampling a large kernel ------------------------------------------------------------------------------------

SOFTMAX = """
kernel softmax(x: f32[s0, 1003]) -> (y: f32[s0, 1003])
  axes t:s0, c:1003
  (m[t]: f32, l[t]: f32) = max_sum_exp(c) x[t, c]
  y[t, c] <- (exp((x[t, c] - m[t])) / l[t])
"""


def test_a_sample_has_corners_tails_and_is_right():
    x = torch.randn(700, 1003)
    sampled = run_sampled(parse_kernel(SOFTMAX), {"x": x}, {"s0": 700}, sample=Sample(points=256))["y"]
    assert sampled.computed[0, 0] and sampled.computed[-1, -1]
    assert 256 * 2 <= int(sampled.computed.sum()) <= 256 * 6
    expected = x.softmax(-1)[sampled.computed]
    torch.testing.assert_close(sampled.values[sampled.computed], expected, rtol=1e-6, atol=0)
    assert bool(sampled.values[~sampled.computed].isnan().all())


def test_stores_that_meet_are_not_sampled():
    kernel = parse_kernel(
        "kernel k(x: f32[5000], d: i64[5000]) -> (y: f32[10])\n  axes i:5000, j:10\n"
        "  y[j] <- 0.0\n  y[at(d[i], 10)] += x[i] colliding for (i)"
    )
    x, d = torch.randn(5000), torch.randint(0, 10, (5000,))
    sampled = run_sampled(kernel, {"x": x, "d": d}, sample=Sample(points=1))["y"]
    assert bool(sampled.computed.all())
    expected = torch.zeros(10, dtype=torch.float64).index_add(0, d, x.double())
    torch.testing.assert_close(sampled.values.double(), expected, rtol=1e-6, atol=1e-6)


# --- stores ------------------------------------------------------------------------------------------------------


def test_the_last_writer_wins():
    x, d = torch.arange(6.0), torch.tensor([1, 0, 1, 2, 1, 0])
    text = "kernel k(x: f32[6], d: i64[6]) -> (y: f32[4])\n  axes i:6\n  y[at(d[i], 4)] <- x[i] colliding for (i)"
    got = run(text, {"x": x, "d": d})
    assert got[:3].tolist() == [5.0, 4.0, 3.0] and bool(got[3].isnan())  # nobody writes the fourth: poison


@pytest.mark.parametrize(
    ("sign", "expected"), [("+=", [9.0, 4.0]), ("*=", [24.0, 4.0]), ("max=", [4.0, 4.0]), ("min=", [2.0, 1.0])]
)
def test_stores_combine(sign: str, expected: list[float]):
    text = f"kernel k(x: f32[3], y: f32[2]) -> (y: f32[2])\n  axes i:3\n  y[(i // 2)] {sign} x[i] colliding for (i)"
    given = {"x": torch.tensor([3.0, 4.0, 1.0]), "y": torch.tensor([2.0, 4.0 if sign == "*=" else 3.0])}
    if sign in ("max=", "min="):
        given["y"][1] = 4.0 if sign == "max=" else 3.0
    assert run(text, given).tolist() == expected
    assert given["y"][0] == 2.0  # what is given is not written to


def test_float_sums_round_once():
    x = torch.full((4096,), 0.1)
    got = run("kernel k(x: f32[4096]) -> (y: f32[])\n  axes i:4096\n  s[]: f32 = sum(i) x[i]\n  y[] <- s[]", {"x": x})
    assert got == x.double().sum().float()


def test_a_statement_reads_what_earlier_stores_left():
    text = """
    kernel k(x: f32[3]) -> (x: f32[3], y: f32[3])
      axes i:3
      a[i]: f32 = (x[i] * 10.0)
      x[i] <- (x[i] + 1.0)
      y[i] <- (a[i] + x[i])
    """
    for sample in (None, Sample()):
        kernel, given = parse_kernel(text), {"x": torch.tensor([1.0, 2.0, 3.0])}
        if sample is None:
            got = run_kernel(kernel, given)
        else:
            got = {n: s.values for n, s in run_sampled(kernel, given, sample=sample).items()}
        assert got["x"].tolist() == [2.0, 3.0, 4.0] and got["y"].tolist() == [12.0, 23.0, 34.0]


def test_a_guarded_store_writes_where_the_guard_holds():
    text = "kernel k(x: f32[4], y: f32[2]) -> (y: f32[2])\n  axes i:4\n  y[i] <- x[i] for (i) if (#(i) < 2:i64)"
    assert run(text, {"x": torch.arange(4.0) + 7, "y": torch.zeros(2)}).tolist() == [7.0, 8.0]


# --- indices, buffers, sizes -------------------------------------------------------------------------------------


GATHER = "kernel k(x: f32[4], d: i64[3]) -> (y: f32[3])\n  axes i:3\n  y[i] <- x[at(d[i], 4{wrap}){guard}]"


def test_data_outside_its_range_is_an_error():
    x = torch.arange(4.0)
    assert run(GATHER.format(wrap="", guard=""), {"x": x, "d": torch.tensor([0, -1, -4])}).tolist() == [0.0, 3.0, 0.0]
    for wrap, bad in (("", 4), ("", -5), (", nowrap", -1)):
        with pytest.raises(IndexError, match="out of range"):
            run(GATHER.format(wrap=wrap, guard=""), {"x": x, "d": torch.tensor([0, bad, 1])})


def test_data_is_not_looked_at_where_a_guard_is_false():
    text = GATHER.format(wrap="", guard=" if (d[i] >= 0:i64)")
    got = run(text, {"x": torch.arange(4.0) + 1, "d": torch.tensor([0, -9, 3])})
    assert got.tolist() == [1.0, 0.0, 4.0]


def test_a_store_outside_its_range_is_an_error():
    text = "kernel k(d: i64[3]) -> (y: f32[4])\n  axes i:3\n  y[at(d[i], 4)] <- 1.0 colliding for (i)"
    with pytest.raises(IndexError, match="out of range"):
        run(text, {"d": torch.tensor([0, 1, 4])})


STRIDED = """
kernel k(x: f32[2, 3] strides [1, 4] offset 1) -> (y: f32[2, 3] strides [1, 3] offset 0)
  axes i:2, j:3
  y[i, j] <- (x[i, j] * 2.0)
"""


def test_buffers_come_as_storage_or_in_shape():
    storage = torch.arange(12.0)
    view = storage.as_strided((2, 3), (1, 4), 1)
    for buffer in (storage, view, view.contiguous()):
        got = run(STRIDED, {"x": buffer})
        assert torch.equal(got, view * 2) and got.stride() == (1, 3)


@pytest.mark.parametrize("given", [torch.zeros(5), torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float64)])
def test_unfit_buffers_are_refused(given: torch.Tensor):
    with pytest.raises(BadInput, match="x"):
        run(STRIDED, {"x": given})


def test_what_is_missing_is_named():
    with pytest.raises(BadInput, match="x"):
        run(STRIDED, {})
    with pytest.raises(BadInput, match="s0"):
        run(SOFTMAX, {"x": torch.zeros(2, 1003)})


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_sizes_are_given_by_name(rows: int):
    x = torch.randn(rows, 1003)
    torch.testing.assert_close(run(SOFTMAX, {"x": x}, sizes={symbol("s0").name: rows}), x.softmax(-1))


# --- ragged axes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2**21, 4])
def test_ragged_axes_run_from_begin_to_end(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interp_reduce, "CHUNK", chunk)
    text = """
    kernel segments(x: f32[10, 3], off: i32[5]) -> (y: f32[4, 3], n: f32[10])
      axes b:4, c:3, t:10 in i64(off[b])..i64(off[b + 1])
      s[b, c]: f32 = sum(t) x[t, c]
      y[b, c] <- s[b, c]
      n[t] <- f32(#(b)) for (b, t)
    """
    x, off = torch.randn(10, 3), torch.tensor([0, 4, 4, 7, 10], dtype=torch.int32)
    got = run_kernel(parse_kernel(text), {"x": x, "off": off})
    for b in range(4):
        torch.testing.assert_close(got["y"][b], x[off[b] : off[b + 1]].sum(0))
    assert got["n"].tolist() == [0, 0, 0, 0, 2, 2, 2, 3, 3, 3]


def test_a_contraction_is_a_matrix_product():
    text = """
    kernel mm(a: bf16[65, 130], b: bf16[130, 33]) -> (y: f32[65, 33])
      axes m:65, n:33, k:130
      s[m, n]: f32 = sum(k) (f32(a[m, k]) * f32(b[k, n]))
      y[m, n] <- s[m, n]
    """
    a, b = torch.randn(65, 130).bfloat16(), torch.randn(130, 33).bfloat16()
    exact = a.double() @ b.double()
    torch.testing.assert_close(run(text, {"a": a, "b": b}), exact.float(), rtol=0, atol=0)
    bound = error_bound(parse_kernel(text), {"a": a, "b": b})["y"]
    magnitude = a.double().abs() @ b.double().abs()
    assert bool((bound >= 2.0**-23 * magnitude).all()) and bool((bound <= 2.0**-19 * magnitude).all())


def test_an_operand_type_rounds_the_factors():
    text = """
    kernel k(x: f32[100]) -> (y: f32[])
      axes i:100
      s[]: f32 = sum(i) operands bf16 (x[i] * x[i])
      y[] <- s[]
    """
    x = torch.randn(100)
    assert run(text, {"x": x}) == (x.bfloat16().double() ** 2).sum().float()
    assert run(text, {"x": x}, float64=True) == (x.double() ** 2).sum()


# --- error bounds ------------------------------------------------------------------------------------------------


def test_the_bound_knows_cancellation_and_doubt():
    text = """
    kernel k(x: f32[3], z: f32[3]) -> (d: f32[3], c: f32[3])
      axes i:3
      a[i]: f32 = exp(x[i])
      d[i] <- (a[i] - z[i])
      c[i] <- where((a[i] > z[i]), 1.0, 5.0)
    """
    x = torch.tensor([1.0, 2.0, 3.0])
    z = x.exp()
    z[2] = 2.0
    bound = error_bound(parse_kernel(text), {"x": x, "z": z})
    assert bool((bound["d"][:2] >= 2.0**-24 * z[:2]).all()) and bool((bound["d"] < 1e-5).all())
    assert bound["c"].tolist() == [4.0, 4.0, 0.0]  # the first two comparisons hang on rounding


def test_the_bound_is_exact_where_nothing_rounds():
    text = """
    kernel k(x: f32[9]) -> (y: f32[9], m: f32[])
      axes i:9
      y[i] <- abs(x[i])
      t[]: f32 = max(i) x[i]
      m[] <- t[]
    """
    bound = error_bound(parse_kernel(text), {"x": torch.randn(9)})
    assert all(bool((b == 0).all()) for b in bound.values())


def test_a_reverse_scan_is_the_scan_of_what_is_flipped():
    """Among equal values the one that comes last wins: in reverse, the one that stands first."""
    x = torch.randint(0, 3, (6, 40))
    found = run_kernel(kernel_of(LATEST, "f32", 6, 40), {"x": x})
    m, k = x.flip(1).cummax(1)
    n, at = x.flip(0).cummin(0)
    assert torch.equal(found["y"], (m * (39 - k)).flip(1))
    assert torch.equal(found["z"], (n - (5 - at)).flip(0))


@settings(max_examples=40)
@given(graphs(), seeds)
def test_graphs_lowered_whole_are_their_references(case: Case, seed: int):
    graph = finished(case)
    kernel, tensors = kernel_of_graph(graph), case.tensors(seed)
    got, bound = run_kernel(kernel, tensors, float64=True), error_bound(kernel, tensors)
    for name, expected in run_reference(graph, tensors).items():
        assert_within(got[f"out_{name}"], expected, bound[f"out_{name}"])
