"""Rounding and packing by themselves, against every number of a format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantize_reference import E2M1, read_bits

from treadle.compiler.quantize.activations import round_groups
from treadle.compiler.quantize.numbers import (
    find_clusters,
    find_exponent,
    find_power,
    find_scale,
    power_of_two,
    round_e2m1,
    round_int,
    round_to_table,
)
from treadle.compiler.quantize.packing import pack, pack_planes, unpack, unpack_planes
from treadle.compiler.quantize.schemes import Float8, Int, Micro
from treadle.compiler.quantize.weights import read_weight, store_weight

NAN, INF = float("nan"), float("inf")


# --- packing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [0, 1, 7, 8, 9, 64, 77])
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_back(bits: int, columns: int, rng: np.random.Generator):
    codes = torch.from_numpy(rng.integers(0, 2**bits, (3, columns)).astype(np.uint8))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, bits, columns), codes)
    assert (read_bits(packed.numpy(), bits, columns) == codes.numpy()).all()
    planes = pack_planes(codes, bits)
    assert planes.shape == (bits, 3, -(-columns // 8))
    assert torch.equal(unpack_planes(planes, bits, columns), codes)


def test_the_first_code_is_the_lowest_field():
    assert pack(torch.tensor([3, 10, 15], dtype=torch.uint8), 4).tolist() == [0xA3, 0x0F]
    assert pack(torch.tensor([1, 2, 3, 0, 2], dtype=torch.uint8), 2).tolist() == [0b00111001, 2]
    assert pack(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=torch.uint8), 1).tolist() == [0b10000001, 1]
    assert pack(torch.tensor([5, 2], dtype=torch.uint8), 3).tolist() == [[0b01], [0b10], [0b01]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_bytes_are_as_few_as_can_be(bits: int):
    assert pack(torch.zeros(5, 64, dtype=torch.uint8), bits).numel() == 5 * 8 * bits


# --- rounding ----------------------------------------------------------------------------------------------------


def test_e2m1_takes_the_nearest_and_ties_to_even(rng: np.random.Generator):
    x = np.concatenate([rng.normal(0, 3, 4000), np.arange(-8, 8, 0.125)]).astype(np.float32)
    got = round_e2m1(torch.from_numpy(x), torch.ones(())).numpy()
    distance = np.abs(np.abs(x)[:, None].astype(float) - E2M1)
    nearest = np.where(distance == distance.min(1, keepdims=True), 1, 0)
    even = nearest * np.where(np.arange(8) % 2 == 0, 2, 1)  # of two, the one whose last bit is 0
    assert (np.abs(got) == E2M1[even.argmax(1)]).all()
    assert (np.sign(got) * np.sign(x) >= 0).all()


def test_exponents_are_exact_about_powers_of_two():
    powers = 2.0 ** torch.arange(-120, 120, dtype=torch.float32)
    for x, above in ((powers, 0), (torch.nextafter(powers, torch.tensor(0.0)), -1)):
        assert torch.equal(find_exponent(x[:, None], 0)[:, 0], torch.arange(-120, 120) + above)
    assert find_exponent(torch.tensor([[1e-45], [3e38]]), 0).tolist() == [[-126], [127]]


def test_every_power_is_exact():
    exponents = torch.arange(-126, 128)
    assert power_of_two(exponents).tolist() == [2.0**e for e in exponents.tolist()]


def test_scales():
    x = torch.tensor([[1.0, -14.0], [0.0, 0.0], [NAN, 1.0], [-INF, 1.0]])
    scale = find_scale(x, 7)
    assert scale[0] == 2 and 0 < scale[1] < 1e-37 and scale[2].isnan() and scale[3] == INF
    assert (x / scale)[1].tolist() == [0, 0]
    assert find_scale(x.bfloat16(), 7).dtype == torch.float32 and find_scale(x.double(), 7).dtype == torch.float64
    power = find_power(x, 0)
    assert power[0] == 8 and power[2].isnan() and power[3].isnan()


def test_integers_round_half_to_even_and_stay_in_range():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 100.0, -100.0])
    assert round_int(x, torch.ones(()), 7).tolist() == [0, 2, 2, 0, -2, 7, -7]


@pytest.mark.parametrize("form", [Micro(8), Int(8, 32, power=True), Int(4, 32), Float8("block")], ids=str)
def test_a_block_that_is_not_finite_keeps_it_to_itself(form: object):
    x = torch.randn(3, 256)
    x[0, 3], x[1, 140] = NAN, INF
    got = round_groups(x, form, None)  # type: ignore[arg-type]
    bad = ~got.isfinite()
    assert bad[0, 3] and not bad[0, 128:].any() and bad[1, 140] and not bad[1, :128].any() and not bad[2].any()


# --- tables ------------------------------------------------------------------------------------------------------


def test_a_table_need_not_be_sorted(rng: np.random.Generator):
    table = torch.tensor([[3.0, -1.0, 0.0, 8.0]])
    x = torch.from_numpy(rng.normal(0, 4, (5, 60)))
    got = round_to_table(x, table.double())
    assert torch.equal(got, (x[..., None] - table[0]).abs().argmin(-1))


def test_clusters_find_the_values_that_there_are(rng: np.random.Generator):
    values = torch.tensor([[-4.0, -1.0, 0.5, 3.0], [0.0, 1.0, 2.0, 30.0]])
    x = values.gather(1, torch.from_numpy(rng.integers(0, 4, (2, 200))))
    torch.testing.assert_close(find_clusters(x, 4), values)


def test_clusters_are_better_than_even_steps(rng: np.random.Generator):
    """And no worse than a further round of Lloyd's would make them: each is the mean of what is nearest to it."""
    x = torch.from_numpy(rng.normal(0, 1, (6, 500)).astype(np.float32))
    centres = find_clusters(x, 8, rounds=200)
    nearest = round_to_table(x, centres)
    for row in range(6):
        for c in range(8):
            members = x[row][nearest[row] == c]
            torch.testing.assert_close(members.mean(), centres[row, c], rtol=1e-4, atol=1e-5)
    even = read_weight(Int(3), store_weight(x, Int(3), torch.float32), 500, torch.float32)
    assert (centres.gather(1, nearest) - x).norm() < 0.7 * (even - x).norm()


def test_clusters_of_equal_values():
    assert find_clusters(torch.full((2, 9), 0.25), 4).tolist() == [[0.25] * 4] * 2


# --- weights that are hard to scale ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_of_zeros_and_of_tiny_numbers(symmetric: bool, dtype: torch.dtype):
    """Numbers beside which the scale vanishes become zeros, never NaN."""
    w = torch.zeros(2, 64)
    w[1, :32] = 1e-7
    form = Int(4, 32, symmetric=symmetric)
    got = read_weight(form, store_weight(w, form, dtype), 64, torch.float32)
    assert got.isfinite().all() and (got[0] == 0).all() and (got - w).abs().max() <= 1e-7


@pytest.mark.parametrize("sign", [1, -1])
def test_zero_stays_zero_in_asymmetric_groups_of_one_sign(sign: int, rng: np.random.Generator):
    form = Int(4, 32, symmetric=False)
    w = sign * torch.from_numpy(rng.uniform(1, 2, (3, 32)).astype(np.float32))
    w[:, 7] = 0
    got = read_weight(form, store_weight(w, form, torch.float32), 32, torch.float32)
    assert (got[:, 7] == 0).all() and (got - w).abs().max() <= 1.01 / 15
