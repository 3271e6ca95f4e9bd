"""Windows that overlap: several points at once share what they load, and edges are as they would be alone."""

from __future__ import annotations

from functools import partial, reduce

import pytest
import torch
from cpp_run import HERE, Case, check_cases
from cpp_texts import inputs_of

from treadle.codegen.cpp.emit import default_schedule, tile_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.tiling_in_step import in_step
from treadle.codegen.tiling_jam import Part, choose_parts, find_jam
from treadle.codegen.tiling_plan import Block
from treadle.ir.expr import Expr, Load, Op, const, names_in, walk
from treadle.ir.index import Axis, of_atom
from treadle.ir.loops import Kernel
from treadle.ir.scalar import op
from treadle.ir.text import parse_kernel
from treadle.ir.tiles import Let, Loop, Program, Put, walk_statements
from treadle.ir.types import F32

# Rows h of columns w of c values side by side, and a window of three columns or three rows about each.
COLUMNS = """
kernel columns(x: {d}[{H}, {W}, {C}], k: f32[{K}], b: f32[{C}]) -> (y: f32[{H}, {W}, {C}])
  axes h:{H}, w:{W}, c:{C}
  y[h, w, c] <- max(((((where((#(w) >= 1:i64), ‹x[h, w - 1, c if (#(w) >= 1:i64)]›, 0.0) * k[3*c]) + (‹x[h, w, c]› * k[3*c + 1])) + (where((#(w) < {L}:i64), ‹x[h, w + 1, c if (#(w) < {L}:i64)]›, 0.0) * k[3*c + 2])) + b[c]), 0.0)
"""  # noqa: E501
ROWS = """
kernel rows(x: {d}[{C}, {H}, {W}], k: f32[{K}]) -> (y: f32[{C}, {H}, {W}])
  axes c:{C}, h:{H}, w:{W}
  y[c, h, w] <- (((where((#(h) >= 1:i64), ‹x[c, h - 1, w if (#(h) >= 1:i64)]›, 0.0) * k[3*c]) + (‹x[c, h, w]› * k[3*c + 1])) + (where((#(h) < {B}:i64), ‹x[c, h + 1, w if (#(h) < {B}:i64)]›, 0.0) * k[3*c + 2]))
"""  # noqa: E501
SIZES = [(2, 3, 5), (5, 9, 40), (3, 31, 600)]


def windows(text: str, sizes: tuple[int, int, int], dtype: str = "f32") -> Kernel:
    h, w, c = sizes
    wide = ("", "") if dtype == "f32" else ("f32(", ")")
    made = text.format(H=h, W=w, C=c, K=3 * c, L=w - 1, B=h - 1, d=dtype)
    return parse_kernel(made.translate({ord("‹"): wide[0], ord("›"): wide[1]}).strip() + "\n")


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("text", [COLUMNS, ROWS], ids=["columns", "rows"])
def test_every_point_is_computed_once(text: str, isa: str):
    kernels = [windows(text, sizes, dtype) for sizes in SIZES for dtype in ("f32", "bf16")]
    cases = [Case(f"windows {k}", kernel, inputs_of(kernel, k)) for k, kernel in enumerate(kernels)]
    default = default_schedule(kernels[1], ISAS[isa])
    alone = Case("alone", kernels[2], inputs_of(kernels[2], 9), schedule=default.choose(jam=False))
    check_cases([*cases, alone], ISAS[isa])


def program_of(kernel: Kernel, isa: str, **choices: bool) -> Program:
    return tile_kernel(kernel, default_schedule(kernel, ISAS[isa]).choose(**choices), ISAS[isa]).program


def loads_in_fullest_loop(program: Program) -> tuple[int, int]:
    """(distinct loads of x, stores) of the lanes loop that stores most."""
    loops = [s for s in walk_statements(program.body) if isinstance(s, Loop) and s.kind == "lanes"]
    fullest = max(loops, key=lambda loop: sum(isinstance(p, Put) and p.target == "y" for p in loop.body))
    values = [s.value for s in fullest.body if isinstance(s, Let | Put)]
    loads = {e for e in walk(*values) if isinstance(e, Load) and e.name == "x"}
    return len(loads), sum(isinstance(s, Put) for s in fullest.body)


@pytest.mark.parametrize("text", [COLUMNS, ROWS], ids=["columns", "rows"])
def test_points_side_by_side_share_loads(text: str):
    isa = next((name for name in HERE if ISAS[name].lanes(4) > 1), None)
    if isa is None:
        pytest.skip("no vectors here")
    kernel = windows(text, (14, 14, 64))
    loads, stores = loads_in_fullest_loop(program_of(kernel, isa))
    assert stores > 1 and loads <= stores + 2
    assert loads_in_fullest_loop(program_of(kernel, isa, jam=False)) == (3, 1)


def test_what_shares_nothing_is_left_alone():
    text = "kernel p(x: f32[8, 64]) -> (y: f32[8, 64])\n  axes t:8, c:64\n  y[t, c] <- (x[t, c] * x[t, c])\n"
    kernel = parse_kernel(text)
    for isa in HERE:
        for part in tile_kernel(kernel, default_schedule(kernel, ISAS[isa]), ISAS[isa]).planned.parts:
            assert not isinstance(part, Block) or find_jam(kernel, part, 16) is None


def test_infinities_at_the_edges_stay_outside():
    kernel = windows(COLUMNS, (2, 9, 33))
    given = inputs_of(kernel, 1)
    given["x"][:, 0], given["k"][:3] = float("inf"), float("nan")
    given["x"][0, 4, 5] = -torch.inf
    for isa in HERE:
        check_cases([Case("infinite", kernel, given)], ISAS[isa])


@pytest.mark.parametrize("edges", [(0, 0), (1, 1), (2, 2), (0, 3), (2, 0), (9, 1), (1, 30)], ids=str)
def test_parts_cover_an_axis_once(edges: tuple[int, int]):
    first, last = edges
    for extent in range(first + last + 2, 120):
        parts = choose_parts(extent, first, extent - last, 100)
        points = [p for part in parts for p in range(part.begin, part.end)]
        assert points == list(range(extent)), parts
        at_once = [p for p in parts if p.steps > 1 and p.width > 1]
        assert all(p.begin >= first and p.end <= extent - last for p in at_once), "conditions change within a loop"
        assert len(parts) <= 4 and max(p.width for p in parts) > 1


def test_few_points_are_one_step():
    assert choose_parts(7, 1, 6, 100) == (Part(0, 1, 7),)
    assert choose_parts(14, 2, 12, 100) == (Part(0, 1, 7), Part(7, 1, 7))
    assert choose_parts(28, 2, 26, 100) == (Part(0, 1, 7), Part(7, 2, 7), Part(21, 1, 7))
    assert choose_parts(28, 2, 26, 1 << 20) == ()


def test_sums_grow_in_step():
    """The terms of all sums in turn; what is done to the sums comes after."""
    k = Axis("k", 64)
    x: list[Expr] = [Load("x", (of_atom(k) + 64 * at,), F32) for at in range(7)]
    values = [reduce(partial(op, "add"), x[at : at + 5]) for at in range(3)]
    puts = [Put("y", (of_atom(k) + 64 * at,), op("max", v, const(0.0, F32))) for at, v in enumerate(values)]
    body = in_step(puts)
    lets = [s for s in body if isinstance(s, Let)]
    assert [s.name for s in lets] == [f"sum{n}_{at}" for n in range(4) for at in range(3)]
    assert body[len(lets) :] == [
        Put("y", p.index, op("max", Load(f"sum3_{at}", (), F32), const(0.0, F32))) for at, p in enumerate(puts)
    ]
    assert [names_in(s.value) for s in lets[3:6]] == [frozenset({"x", f"sum0_{at}"}) for at in range(3)]
    short = [Put("y", (of_atom(k),), op("add", x[0], x[1]))]
    assert in_step(short) == short


@pytest.mark.parametrize("text", [COLUMNS, ROWS], ids=["columns", "rows"])
def test_conditions_are_asked_once(text: str):
    """A guarded load is 0 where its condition fails: no select beside it."""
    isa = next((name for name in HERE if ISAS[name].lanes(4) > 1), None)
    if isa is None:
        pytest.skip("no vectors here")
    program = program_of(windows(text, (14, 14, 64), "bf16"), isa)
    values = [s.value for s in walk_statements(program.body) if isinstance(s, Let | Put)]
    assert not [e for e in walk(*values) if isinstance(e, Op) and e.name == "where"]
