"""Text of tile programs: what is printed is read back as the same program, and text that is wrong says where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cpp_texts import EVERYWHERE, kernel_of
from golden import Golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies_loops import kernels
from tiled import programs_of

from treadle.ir.errors import ParseError
from treadle.ir.expr import TRUE, Load, const
from treadle.ir.index import Axis, of_atom
from treadle.ir.loops import Kernel
from treadle.ir.text_tiles import print_program
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.tiles import Loop, Program, Put
from treadle.ir.types import F32


def assert_comes_back(program: Program) -> None:
    text = print_program(program)
    assert parse_program(text) == program, text
    assert print_program(parse_program(text)) == text


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(kernels(), st.integers(0, 2**31))
def test_programs_come_back(kernel: Kernel, seed: int):
    for program in programs_of(kernel, seed):
        assert_comes_back(program)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_programs_of_every_form_come_back(name: str):
    for seed, (dtype, rows, columns) in enumerate((("bf16", 33, 129), ("f32", "s0", "s1"))):
        for program in programs_of(kernel_of(EVERYWHERE[name], dtype, rows, columns), seed):
            assert_comes_back(program)


PROGRAM = """
tiles all(x: f32[4096], h: bf16[4096], d: i64[64], off: i64[5], q: f32[70*s0]) -> (y: bf16[4096], x: f32[4096])
  prefetch 1024
  scratch t: bf16[16, 32]
  scratch e_all: f32[64]
  grid b in 4:
    let first: i64 = off[b]                          ; a value of the grid point
    serial r in 64 within first[]..off[b + 1]:
      state m: f32 = -inf over c in 64 by 16
      state p: i64 = 9223372036854775807:i64 over c in 64 by 16
      lanes c in 64 from 0 to 48 by 16:
        let %0 = (x[c + 64*r] * exp(x[c + 64*r]))
        let a: f32 = (%0 + (%0 * %0))
        e_all[c] <- a[] if (#(c) < 40:i64)
        m, p := where((a[] > m[]), a[], m[]), where((a[] > m[]), #(c), p[])
      fold m, p = argmax
      state t_c: f32 = 0.0
      lanes c in 64 by 16:
        dot t_c of h[c], (h[c + 64*r] * h[c])
      state s_carry: f64 = 0.0:f64
      lanes c in 64 by 16:
        scan s: f32 = sum of x[at(d[c], 4096, nowrap)] from s_carry
        y[c + 64*r] <- h[c + 64*r if (p[] > #(c)) as i16], streamed
    serial k in 4 from b to b + 1 backwards:
      stage t[0, 16*k] by 16 over u in 64 from 0, v in 64 from 16*k <- h[u + 64*v]
"""


def test_a_program_as_text(golden: Golden):
    program = parse_program(PROGRAM)
    assert_comes_back(program)
    golden(print_program(program))


def change(program: Program, **fields: Any) -> Program:
    """The program with another lanes loop."""
    (outer,) = program.body
    assert isinstance(outer, Loop)
    (inner,) = outer.body
    return replace(program, body=(replace(outer, body=(replace(inner, **fields),)),))


LOOPS = """
tiles k(x: f32[64]) -> (y: f32[64])
  serial t in 4:
    lanes c in 16 by 8:
      y[c + 16*t] <- x[c + 16*t]
"""
T = of_atom(Axis("t", 4))
FACTS = [
    {"tile": 4},
    {"begin": T},
    {"end": T},
    {"reverse": True},
    {"kind": "serial"},
    {"body": (Put("y", (), const(1.0, F32), None, True),)},
    {"body": (Put("y", (), Load("x", (), F32), TRUE),)},
]


@pytest.mark.parametrize("fields", FACTS, ids=str)
def test_every_fact_of_a_loop_is_told(fields: dict[str, Any]):
    program = parse_program(LOOPS)
    assert change(program, **fields) != program
    assert print_program(change(program, **fields)) != print_program(program)


HEAD = "tiles k(x: f32[64]) -> (y: f32[64])\n"
BAD = {
    "a load of nothing": ("  lanes c in 64:\n    y[c] <- z[c]", 3, 12),
    "a loop without a colon": ("  lanes c in 64\n    y[c] <- x[c]", 3, 4),
    "a line too deep": ("  y[0] <- x[0]\n    y[1] <- x[1]", 3, 4),
    "a value of another type": ("  let a: f64 = x[0]", 2, 15),
    "an unknown element type": ("  state a: f33 = 0.0", 2, 11),
    "a staged value": ("  stage y[0, 0] over u in 4 from 0, v in 4 from 0 <- 1.0", 2, 53),
    "an update of nothing": ("  a, := 1.0", 2, 5),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_text_says_where(what: str):
    text, line, column = BAD[what]
    with pytest.raises(ParseError) as caught:
        parse_program(HEAD + text)
    assert (caught.value.line, caught.value.column) == (line, column), str(caught.value)
