"""Loops over tiles as instructions for tile registers: what is printed, and what is refused."""

from __future__ import annotations

import pytest

from treadle.codegen.cpp.printer import Printer
from treadle.ir.errors import LoweringError
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.verify import verify_program

NEST = """\
tiles k(x: bf16[768], h: f32[512]) -> (y: f32[384])
  scratch a: f32[24, 16]
  scratch p: bf16[16, 32]{narrow}
  serial c in 16:
    lanes m in 32 by 16:
      p[c, m] <- x[32*c + m]
  tiles i in {columns} by 16:
    tiles j in 16 by 16:
      state s: f32 = {first}
      lanes c in 16 by 16:
        {dots}
      a[i, j] <- {value}
  serial i in {columns}:
    lanes j in 16 by 16:
      y[16*i + j] <- a[i, j]
"""
LEFT, RIGHT = ("x[2*c + 32*i]", "x[2*c + 32*i + 1]"), ("p[c, 2*j]", "p[c, 2*j + 1]")
APART = ("x[32*c + i]", "x[32*c + i + 1]")
COMPUTED = ("bf16((f32(x[2*c + 32*i]) * 2.0))", "x[2*c + 32*i + 1]")


def print_nest(left: tuple[str, ...], right: tuple[str, ...], **changed: object) -> str:
    parts = {"columns": 16, "first": "0.0", "value": "s[]", "narrow": " narrow"} | changed
    dots = "\n        ".join(f"dot s of {a}, {b}" for a, b in zip(left, right, strict=True))
    program = verify_program(parse_program(NEST.format(dots=dots, **parts)))
    return "\n".join(Printer(program, 16).print_body(program.body, {}))


def test_nests_are_printed():
    text = print_nest(LEFT, RIGHT)
    assert [line.strip() for line in text.splitlines() if "tiles." in line] == [
        "tiles.shape(16, 16);",
        "tiles.zero<0>();",
        "tiles.load<4>(x + 2 * c, 64);",
        "tiles.load<6>(p + 32 * c, 64);",
        "tiles.dot_bf16<0, 4, 6>();",
        "tiles.store<0>(a, 64);",
    ]


def test_few_columns_are_a_shape_of_their_own():
    assert "tiles.shape(5, 16);" in print_nest(LEFT, RIGHT, columns=5)


REFUSED = {
    "half a word": (LEFT[:1], RIGHT[:1]),
    "another order": (LEFT[::-1], RIGHT[::-1]),
    "computed": (COMPUTED, RIGHT),
    "exchanged": (RIGHT, LEFT),
    "apart": (APART, RIGHT),
    "wide numbers": (("h[c + 16*i]",), ("h[16*c + j]",)),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_operands_that_registers_do_not_multiply(name: str):
    with pytest.raises(LoweringError, match="tile registers"):
        print_nest(*REFUSED[name])


def test_results_that_registers_do_not_hold():
    with pytest.raises(LoweringError, match="whole tiles"):
        print_nest(LEFT, RIGHT, columns=24)
    with pytest.raises(LoweringError, match="each sum as it is"):
        print_nest(LEFT, RIGHT, value="(s[] * 2.0)")
    with pytest.raises(LoweringError, match="start at 0"):
        print_nest(LEFT, RIGHT, first="1.0")
    with pytest.raises(LoweringError, match="dense along the rows"):
        print_nest(LEFT, RIGHT, first="h[16*j + i]")


def test_arrays_that_hold_wide_numbers():
    with pytest.raises(LoweringError, match="narrow numbers"):
        print_nest(LEFT, RIGHT, narrow="")
