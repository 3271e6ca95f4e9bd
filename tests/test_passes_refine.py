"""Equations lose the axes that they do not depend on, and nothing else changes."""

from __future__ import annotations

import struct

import pytest
import torch

from treadle.ir.interp import run_kernel
from treadle.ir.simplify import exact
from treadle.ir.text import parse_kernel
from treadle.passes.normalize import shortest
from treadle.passes.refine import refine

GROUP = """
kernel group(x: f32[3, 8, 5]) -> (y: f32[3, 8, 5])
  axes n:3, c:8, i:5, k:4, j:5
  m[n, c]: f32 = sum(k, j) x[n, 4*(c // 4) + k, j]
  v[n, c]: f32 = sum(k, j) exp((x[n, 4*(c // 4) + k, j] - m[n, c]))
  y[n, c, i] <- (x[n, c, i] * v[n, c])
"""
ROTATE = """
kernel rotate(x: f32[3, 8, 16]) -> (y: f32[3, 2, 16])
  axes n:3, h:2, c:16
  y[n, h, c] <- (x[n, h + 4, c] + where((#(c) < 8:i64), neg(x[n, h + 4, c + 8 if (#(c) < 8:i64)]),
      x[n, h + 4, c - 8 if (#(c) >= 8:i64)]))
"""
COUNT = """
kernel count(x: f32[3, 8]) -> (y: f32[3, 8])
  axes n:3, c:8
  s[n, c]: f32 = scan sum(c) inclusive 1.0
  y[n, c] <- (x[n, c] + s[n, c])
"""

NOTHING = """
kernel nothing(d: i32[0, 1, 0], x: bf16[3, 1, 1]) -> (y: bf16[0, 1, 0])
  axes i:0, j:0
  y[i, 0, j] <- x[i, at(d[i, 0, j], 1, nowrap), j] for (i, j)
"""

PADDED = """
kernel padded(x: f32[5, 2], v: f32[5, 3]) -> (y: f32[200], z: f32[5, 2])
  axes n:200, i:5, j:2
  y[n] <- where((#(n) < 10:i64), x[(n // 2), (n % 2) if (#(n) < 10:i64)], 0.0)
  z[i, j] <- (x[i, j] + v[i, j])
"""


def refined(text: str, *shape: int):
    kernel = parse_kernel(text)
    result = refine(kernel, exact)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    want = run_kernel(kernel, {"x": x}, float64=True)["y"].flatten()
    given = result.inputs[0].shape
    got = run_kernel(result, {"x": x.reshape([int(n) for n in given])}, float64=True)["y"].flatten()
    torch.testing.assert_close(got, want)
    return result


def test_statistics_of_a_group_are_computed_once():
    result = refined(GROUP, 3, 8, 5)
    points = [int(torch.tensor([int(a.extent) for a in e.axes]).prod()) for e in result.equations.values()]
    assert points == [6, 6]


def test_a_scan_keeps_the_axis_that_it_walks():
    result = refined(COUNT, 3, 8)
    (equation,) = result.equations.values()
    assert [a.extent for a in equation.axes if a in equation.reduce] == [8]


def test_guarded_indices_stay_in_their_dimension():
    """The heads of a packed projection, one half of each moved and negated: the interpreter checks every index."""
    refined(ROTATE, 3, 8, 16)


@pytest.mark.parametrize("value", [0.5**0.5, 1 / 3, 2.0 / 3.14159265358979, 0.044715])
def test_a_long_constant_is_the_same_f32(value: float):
    assert struct.pack("f", shortest(value)) == struct.pack("f", value)


def test_spellings_of_a_short_constant_are_one():
    assert shortest(0.25000001) == shortest(0.24999999) == 0.25


def test_a_buffer_that_no_point_reads_keeps_its_size():
    kernel = refine(parse_kernel(NOTHING), exact)
    assert all(n >= 0 for b in kernel.buffers.values() for n in b.shape)


def test_a_guarded_index_over_several_rows_is_divided():
    kernel = refine(parse_kernel(PADDED), exact)
    generator = torch.Generator().manual_seed(1)
    x, v = torch.randn(5, 2, generator=generator), torch.randn(5, 3, generator=generator)
    found = run_kernel(kernel, {"x": x, "v": v})
    assert torch.equal(found["y"], torch.nn.functional.pad(x.flatten(), (0, 190)))
    assert torch.equal(found["z"].view(5, 2), x + v[:, :2])
