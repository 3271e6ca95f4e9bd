"""The verifier of tile programs: what the codegen makes passes, and each rule finds what breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cpp_texts import EVERYWHERE, RAGGED, SOFTMAX, kernel_of, ragged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies_loops import kernels
from tiled import programs_of

from treadle.codegen.cpp.emit import default_schedule, emit_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.ir.errors import VerifyError
from treadle.ir.expr import Load, Op, const
from treadle.ir.index import Axis, of_atom
from treadle.ir.loops import Kernel, contiguous
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.tiles import Let, Loop, Program, Put, Scratch, State, Statement
from treadle.ir.types import BF16, F32, I64
from treadle.ir.verify import PROGRAM_RULES, verify_program


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(kernels(), st.integers(0, 2**31))
def test_programs_of_kernels_pass(kernel: Kernel, seed: int):
    for program in programs_of(kernel, seed):
        assert verify_program(program) is program


@pytest.mark.parametrize("name", EVERYWHERE)
def test_programs_of_every_form_pass(name: str):
    for seed, (dtype, rows, columns) in enumerate((("bf16", 33, 129), ("f32", "s0", "s1"), ("i8", 256, 512))):
        for program in programs_of(kernel_of(EVERYWHERE[name], dtype, rows, columns), seed):
            verify_program(program)


@pytest.mark.parametrize("name", RAGGED)
def test_programs_of_ragged_kernels_pass(name: str):
    for program in programs_of(ragged(name)[0], 1):
        verify_program(program)


def test_the_front_of_the_target_verifies_where_asked(monkeypatch: pytest.MonkeyPatch):
    kernel, isa = kernel_of(SOFTMAX, "f32", 4, 64), ISAS["scalar"]
    schedule = default_schedule(kernel, isa)
    source = emit_kernel(kernel, schedule, isa, "k", verify_program)
    assert source == emit_kernel(kernel, schedule, isa, "k")
    monkeypatch.setattr("treadle.codegen.tiling.NestBuilder._finish", lambda self, r: [])
    with pytest.raises(VerifyError, match="was not folded"):
        emit_kernel(kernel, schedule, isa, "k", verify_program)


PARAMS = "tiles k(x: f32[64], d: i64[64], h: bf16[64]) -> (y: f32[64], z: bf16[64])\n"
SCRATCH = "  scratch a: f32[16]\n  scratch t: f32[4, 4]\n  z[0] <- h[0]\n"
BLOCK = "by 4 over r in 4 from 0, c in 4 from 0"
TILE = "state s: f32 = 0.0 over i in 8 by 4"
SCANNED = "scan s: f32 = sum of x[i] from c\n  y[i] <- s[]"
BROKEN = {
    # loops
    "a grid inside a loop": ("serial i in 4:\n  grid j in 4:\n    y[j] <- x[i]", "grid loops outermost"),
    "a loop inside lanes": ("lanes i in 4:\n  serial j in 4:\n    y[j] <- x[i]", "lanes run at once"),
    "a state inside lanes": ("lanes i in 4:\n  state s: f32 = 0.0\n  y[i] <- s[]", "lanes run at once"),
    "a tile of a serial loop": ("serial i in 4 by 2:\n  y[i] <- x[i]", "one point after the other"),
    "a backward grid": ("grid i in 4 backwards:\n  y[i] <- x[i]", "only serial loops run backwards"),
    "backward lanes": ("lanes i in 4 backwards:\n  y[i] <- x[i]", "only serial loops run backwards"),
    "a part of a grid": ("grid i in 4 from 1:\n  y[i] <- x[i]", "all the points"),
    "a ragged grid": ("grid i in 4 within d[0]..d[1]:\n  y[i] <- x[i]", "all the points"),
    "an axis inside itself": ("serial i in 4:\n  lanes i in 8:\n    y[i] <- x[i]", "inside itself"),
    # names
    "a name with another meaning": ("let x: f32 = 1.0\ny[0] <- x[0]", "the name of an array"),
    "a name bound twice": ("let e: f32 = 1.0\nlet e: f32 = 2.0\ny[0] <- e[]", "bound again"),
    "a name bound inside again": ("let e: f32 = 1.0\nserial i in 4:\n  let e: f32 = 2.0\n  y[i] <- e[]", "bound again"),
    "a name whose loop is over": ("serial i in 4:\n  let e: f32 = x[i]\ny[0] <- e[]", "not known here"),
    "a name with an index": ("let e: f32 = 1.0\ny[0] <- e[0]", "one index per dimension"),
    "a name under a guard": ("let e: f32 = 1.0\ny[0] <- e[ if (x[0] > 1.0)]", "the guard of a load"),
    # loads and stores
    "two indices of a buffer": ("y[0] <- x[0, 1]", "one index per dimension"),
    "one index of two": ("t[0] <- 1.0\ny[0] <- 1.0", "one index per dimension"),
    "another type": ("y[0] <- x[0 as f64]", "another type"),
    "bits of a wide type": ("y[0] <- x[0 as i16]", "another type"),
    "bits that are computed with": ("z[0] <- bf16(h[0 as i16])\ny[0] <- 1.0", "bits are computed with"),
    "bits that are kept": ("let e: i16 = h[0 as i16]\nz[0] <- e[]\ny[0] <- 1.0", "bits are computed with"),
    "bits in an index": ("y[0] <- x[at(i64(h[0 as i16]), 64)]", "bits are computed with"),
    "a guard that is no condition": ("y[0] <- x[0 if d[0]]", "the guard of a load"),
    "a stored guard that is no condition": ("y[0] <- x[0] if d[0]", "the guard is not bool"),
    "a store to an input": ("x[0] <- 1.0\ny[0] <- 1.0", "neither an output nor scratch"),
    "a store to a name": ("let e: f32 = 1.0\ne[0] <- 1.0\ny[0] <- 1.0", "neither an output nor scratch"),
    "a stored type": ("y[0] <- d[0]", "another type"),
    "scratch around the caches": ("a[0] <- 1.0, streamed\ny[0] <- a[0]", "bypasses the caches"),
    "data that is no index": ("y[0] <- x[at(x[0], 64)]", "not i64"),
    "data that bounds nothing": ("serial i in 64 within 0:i64..x[0]:\n  y[i] <- 1.0", "not i64"),
    "lanes that write one element": ("lanes i in 4:\n  y[0] <- x[i]", "unlike values to one element"),
    "lanes that write a name to one": ("lanes i in 4:\n  let e: f32 = x[i]\n  y[0] <- e[]", "unlike values to one"),
    "lanes that choose who writes": ("lanes i in 4:\n  y[0] <- 1.0 if (#(i) > 2:i64)", "unlike values to one element"),
    "scratch that is not written": ("y[0] <- a[0]", "read before it is written"),
    "scratch that is written from itself": ("a[0] <- (a[0] + 1.0)\ny[0] <- 1.0", "read before it is written"),
    "no output": ("a[0] <- 1.0", "no statement writes"),
    # ranges
    "an index beyond a buffer": ("serial i in 65:\n  y[i] <- 1.0", "leaves the shape"),
    "an index before a buffer": ("serial i in 64:\n  y[i] <- x[i - 1]", "leaves the shape"),
    "a part beyond a buffer": ("serial i in 80 from 16 to 80:\n  y[i - 15] <- 1.0", "leaves the shape"),
    "a part before a buffer": ("serial i in 64 from 2 to 64:\n  y[i] <- x[i - 3]", "leaves the shape"),
    "scratch too small": ("serial i in 17:\n  a[i] <- 1.0\ny[0] <- 1.0", "may leave it"),
    "scratch too small for a block": (
        "serial b in 4:\n  serial i in 64 from 16*b to 16*b + 17:\n    a[-16*b + i] <- 1.0\ny[0] <- 1.0",
        "may leave it",
    ),
    "scratch that is read too far": ("a[0] <- 1.0\nserial i in 17:\n  y[i] <- a[i]", "may leave it"),
    # states
    "a state of another type": ("state s: f32 = 0.0\ns := d[0]\ny[0] <- s[]", "another type"),
    "an update of a value": ("let s: f32 = 0.0\ns := 1.0\ny[0] <- s[]", "no state here"),
    "an update of a state that is over": (
        "serial i in 4:\n  state s: f32 = 0.0\ns := 1.0\ny[0] <- 1.0",
        "no state here",
    ),
    "an update of a folded state": (
        "state s: f32 = 0.0 over i in 4\nfold s = sum\ns := 1.0\ny[0] <- s[]",
        "no state here",
    ),
    "too few values": ("state s: f32 = 0.0\nstate r: f32 = 0.0\ns, r := 1.0\ny[0] <- s[]", "one value for each state"),
    "a state twice": ("state s: f32 = 0.0\ns, s := 1.0, 2.0\ny[0] <- s[]", "one value for each state"),
    "a scalar that lanes update": ("state s: f32 = 0.0\nlanes i in 4:\n  s := x[i]\ny[0] <- s[]", "does not fit"),
    "lanes of another tile": (
        f"{TILE}\nlanes i in 8 by 8:\n  s := x[i]\nfold s = sum\ny[0] <- s[]",
        "does not fit",
    ),
    "lanes of another axis": (
        f"{TILE}\nlanes j in 8 by 4:\n  s := x[j]\nfold s = sum\ny[0] <- s[]",
        "does not fit",
    ),
    "unlike states at once": (
        f"{TILE}\nstate r: f32 = 0.0\ns, r := 0.0, 0.0\ny[0] <- r[]",
        "unlike lanes",
    ),
    "a state of points outside the grid": (
        "state s: f32 = 0.0\ngrid i in 4:\n  s := x[i]\ny[0] <- s[]",
        "outside of the grid",
    ),
    "a tile that is not folded": (
        f"{TILE}\nlanes i in 8 by 4:\n  s := x[i]\ny[0] <- s[]",
        "not folded",
    ),
    "a tile that a scalar takes": (
        f"{TILE}\nstate r: f32 = 0.0\nr := s[]\ny[0] <- r[]",
        "not folded",
    ),
    "a tile in other lanes": (
        f"{TILE}\nlanes j in 8 by 4:\n  y[j] <- s[]",
        "not folded",
    ),
    "lanes that are run over": ("serial i in 8:\n  state s: f32 = 0.0 over i in 8\n  y[i] <- 1.0", "run over already"),
    "a fold of no state": ("state s: f32 = 0.0\nfold s = sum\ny[0] <- s[]", "no tile of lanes"),
    "a fold of an unknown kind": ("state s: f32 = 0.0 over i in 4\nfold s = median\ny[0] <- s[]", "unknown state"),
    "a fold of too few": ("state s: f32 = 0.0 over i in 4\nfold s = argmax\ny[0] <- s[]", "components of argmax"),
    "a fold of the wrong types": (
        "state s: f32 = 0.0 over i in 4\nstate r: f32 = 0.0 over i in 4\nfold s, r = argmax\ny[0] <- s[]",
        "components of argmax",
    ),
    "a fold of unlike lanes": (
        "state s: f32 = 0.0 over i in 4\nstate r: f32 = 0.0 over j in 4\nfold s, r = max_sum_exp\ny[0] <- s[]",
        "unlike lanes are folded",
    ),
    "a fold inside a loop": (
        "state s: f32 = 0.0 over i in 4\nserial j in 4:\n  fold s = sum\n  y[j] <- s[]",
        "outer loop",
    ),
    # scans
    "a scan of two components": (
        "state c: f32 = 0.0\nlanes i in 4:\n  scan s: f32 = argmax of x[i] from c\n  y[i] <- s[]",
        "one component",
    ),
    "a scan of a hidden component": (
        "state c: f32 = 0.0\nlanes i in 4:\n  scan s: f32 = max_sum_exp of x[i] from c\n  y[i] <- s[]",
        "one component",
    ),
    "a scan from a tile": (
        f"state c: f32 = 0.0 over i in 4\nlanes i in 4:\n  {SCANNED}",
        "scalar state",
    ),
    "a scan from nothing": (f"lanes i in 4:\n  {SCANNED}", "scalar state"),
    "a scan from another type": (
        f"state c: i64 = 0:i64\nlanes i in 4:\n  {SCANNED}",
        "another type",
    ),
    "a scan without lanes": (
        f"state c: f32 = 0.0\nserial i in 4:\n  {SCANNED}",
        "along the lanes",
    ),
    "a scan from outside the grid": (
        "state c: f32 = 0.0\ngrid j in 4:\n  lanes i in 4:\n    scan s: f32 = sum of x[i] from c\n    y[i] <- s[]",
        "outside of the grid",
    ),
    # dots
    "a dot of unlike types": ("state s: f32 = 0.0\nlanes i in 4:\n  dot s of x[i], h[i]\ny[0] <- s[]", "of one type"),
    "a dot of types that no sum takes": (
        "state s: i64 = 0:i64\nlanes i in 4:\n  dot s of d[i], d[i]\ny[0] <- 1.0",
        "of one type",
    ),
    "a dot in a type of its own": (
        "state s: f64 = 0.0:f64\nlanes i in 4:\n  dot s of x[i], x[i]\ny[0] <- 1.0",
        "another type",
    ),
    "a dot without lanes": (
        "state s: f32 = 0.0\nserial i in 4:\n  dot s of x[i], x[i]\ny[0] <- s[]",
        "along the lanes",
    ),
    "a dot into a tile": (
        f"{TILE}\nlanes i in 8 by 4:\n  dot s of x[i], x[i]\nfold s = sum\ny[0] <- s[]",
        "scalar state",
    ),
    "a dot into nothing": ("lanes i in 4:\n  dot s of x[i], x[i]\ny[0] <- 1.0", "scalar state"),
    "a dot that is read too soon": (
        "state s: f32 = 0.0\nlanes i in 4:\n  dot s of x[i], x[i]\n  y[i] <- s[]",
        "while dots are added",
    ),
    "a dot outside the grid": (
        "state s: f32 = 0.0\ngrid j in 4:\n  lanes i in 4:\n    dot s of x[i], x[i]\ny[0] <- s[]",
        "outside of the grid",
    ),
    # tiles
    "tiles that hold values": ("tiles i in 4 by 4:\n  let v: f32 = x[i]\n  y[i] <- v[]", "tiles hold sums"),
    "tiles of other loops": ("tiles i in 4 by 4:\n  serial j in 4:\n    y[4*i + j] <- 1.0", "tiles hold sums"),
    "tiles that write one element": (
        "tiles i in 4 by 4:\n  tiles j in 4 by 4:\n    y[j] <- 1.0",
        "points of tiles write one element",
    ),
    # stages
    "staged into a buffer": (f"stage y[0, 0] {BLOCK} <- x[4*c + r]", "two dimensions"),
    "staged into one dimension": (f"stage a[0, 0] {BLOCK} <- x[4*c + r]", "two dimensions"),
    "staged bits": (f"stage t[0, 0] {BLOCK} <- h[4*c + r as i16]", "another type"),
    "staged under a guard": (
        f"stage t[0, 0] {BLOCK} <- x[4*c + r if (#(r) > 2:i64)]",
        "plain load of an array",
    ),
    "staged words apart": (f"stage t[0, 0] by 4 of 2 {BLOCK[5:]} <- x[4*c + r]", "along its rows"),
    "a hint of scratch": ("fetch a[0]", "no buffer"),
    "a hint by data": ("serial k in 4:\n  fetch x[at(d[k], 4)]\ny[0] <- 1.0", "reads the data"),
    "staged across memory": (f"stage t[0, 0] {BLOCK} <- x[c + 4*r]", "along its rows"),
    "staged over an axis around": (
        f"serial r in 4:\n  stage t[0, 0] {BLOCK} <- x[4*c + r]",
        "no loop runs over",
    ),
    "staged beyond the array": (
        f"stage t[0, 1] {BLOCK} <- x[4*c + r]\ny[0] <- 1.0",
        "may leave it",
    ),
    "staged before the array": (
        f"serial k in 2:\n  stage t[k - 1, 0] {BLOCK} <- x[4*c + r]\ny[0] <- 1.0",
        "may leave it",
    ),
    "staged in lanes": (
        f"lanes i in 4:\n  stage t[0, 0] {BLOCK} <- x[4*c + r]\ny[0] <- 1.0",
        "lanes run at once",
    ),
}


def program_of(body: str) -> Program:
    return parse_program(PARAMS + SCRATCH + "\n".join(f"  {line}" for line in body.splitlines()))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_program_is_refused(what: str):
    body, message = BROKEN[what]
    with pytest.raises(VerifyError, match=f"tiles k.*{message}"):
        verify_program(program_of(body))


PASSING = {
    "an axis of a loop that is over": "serial i in 4:\n  y[i] <- x[i]\nserial i in 5:\n  y[i] <- x[i]",
    "a name of a loop that is over": "serial i in 4:\n  let e: f32 = x[i]\nlet e: f32 = 1.0\ny[0] <- e[]",
    "a part that fits": "serial i in 80 from 16 to 80:\n  y[i - 16] <- 1.0",
    "a block that fits": (
        "serial b in 4:\n  serial i in 64 from 16*b to 16*b + 16:\n    a[-16*b + i] <- x[i]\n  y[b] <- a[b]"
    ),
    "a guarded index": "serial i in 99:\n  y[i] <- x[i if (#(i) < 64:i64)] if (#(i) < 64:i64)",
    "lanes that write one value": "lanes i in 4:\n  y[0] <- x[1]",
    "tiles joined elementwise": f"{TILE}\nstate r: f32 = 1.0 over i in 8 by 4\ns := (s[] + r[])\ny[0] <- 1.0",
    "a carry of more digits": f"state c: f64 = 0.0:f64\nlanes i in 4:\n  {SCANNED}",
    "bits that are chosen from": "z[1] <- where((x[0] > 1.0), h[0 as i16], 0:i16)\ny[0] <- 1.0",
    "a state of one point": "grid i in 4:\n  state s: f32 = 0.0\n  serial j in 4:\n    s := x[j]\n  y[i] <- s[]",
}


@pytest.mark.parametrize("what", PASSING)
def test_what_is_right_passes(what: str):
    verify_program(program_of(PASSING[what]))


def test_the_message_says_where():
    with pytest.raises(VerifyError) as caught:
        verify_program(program_of("serial i in 65:\n  y[i] <- 1.0"))
    assert str(caught.value) == "tiles k, store to y: the index i of y leaves the shape (expected 0..63, got 0..64)"


AT, OVER = Axis("i", 4), Axis("j", 4)
X, Y = contiguous("x", F32, (4,)), contiguous("y", F32, (4,))
LOAD = Load("x", (of_atom(AT),), F32)
PUT = Put("y", (of_atom(AT),), LOAD)
LOOP = Loop("lanes", AT, (PUT,), 4)
PROGRAM = Program("k", (X,), (Y,), (), (LOOP,))


def lanes(*body: Statement) -> Program:
    return replace(PROGRAM, body=(replace(LOOP, body=body),))


UNPRINTABLE = {
    "a name with a space": (lanes(Let("an e", LOAD), PUT), "not a name"),
    "an axis with a space": (
        replace(
            replace(PROGRAM, body=(LOOP, Loop("serial", Axis("a b", 4), ()))),
        ),
        "not a name",
    ),
    "an array with a space": (replace(PROGRAM, scratch=(Scratch("a b", F32, (4,)),)), "not a name"),
    "an input twice": (replace(PROGRAM, inputs=(X, X)), "listed twice"),
    "scratch twice": (replace(PROGRAM, scratch=(Scratch("a", F32, (4,)),) * 2), "listed twice"),
    "a buffer and scratch": (replace(PROGRAM, scratch=(Scratch("x", F32, (4,)),)), "the name of a buffer"),
    "two descriptions": (replace(PROGRAM, inputs=(X, replace(Y, dtype=BF16))), "one description"),
    "a prefetch backwards": (replace(PROGRAM, prefetch=-1), "negative prefetch"),
    "two dimensions": (replace(PROGRAM, inputs=(contiguous("x", F32, (2, 2)),)), "not flat"),
    "gaps": (replace(PROGRAM, inputs=(replace(X, strides=(2,)),)), "not flat"),
    "an offset": (replace(PROGRAM, inputs=(replace(X, offset=1),)), "not flat"),
    "an unknown kind": (replace(PROGRAM, body=(replace(LOOP, kind="vector"),)), "unknown kind"),
    "no lane": (replace(PROGRAM, body=(replace(LOOP, tile=0),)), "tile without points"),
    "a negative extent": (replace(PROGRAM, body=(Loop("serial", Axis("j", -1), ()), LOOP)), "negative extent"),
    "an axis of no loop": (lanes(PUT, Put("y", (of_atom(OVER),), const(1.0, F32))), "no loop around"),
    "an axis of no loop in a value": (
        lanes(Put("y", (of_atom(AT),), Load("x", (of_atom(OVER),), F32))),
        "no loop around",
    ),
    "an axis of no loop in a part": (replace(PROGRAM, body=(replace(LOOP, begin=of_atom(OVER)),)), "no loop around"),
    "the axis itself in a part": (replace(PROGRAM, body=(replace(LOOP, end=of_atom(AT)),)), "no loop around"),
    "another axis of the name": (lanes(Put("y", (of_atom(Axis("i", 3)),), const(1.0, F32))), "no loop around"),
    "an operation of unlike operands": (
        lanes(Put("y", (of_atom(AT),), Op("add", (LOAD, Op("cast", (LOAD,), I64)), F32))),
        "operands differ",
    ),
    "a state that begins in another type": (
        replace(PROGRAM, body=(State("s", F32, const(1, I64)), LOOP)),
        "first value has another type",
    ),
    "a tile of no lanes": (replace(PROGRAM, body=(State("s", F32, const(1.0, F32), None, 4), LOOP)), "without an axis"),
    "no tile": (replace(PROGRAM, body=(State("s", F32, const(1.0, F32), OVER, 0), LOOP)), "without an axis"),
}


@pytest.mark.parametrize("what", UNPRINTABLE)
def test_a_broken_statement_is_refused(what: str):
    program, message = UNPRINTABLE[what]
    verify_program(PROGRAM)
    with pytest.raises(VerifyError, match=message):
        verify_program(program)


def test_rules_have_names_of_their_own():
    assert len({r.name for r in PROGRAM_RULES}) == len(PROGRAM_RULES)
