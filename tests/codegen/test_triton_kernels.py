"""The Triton target under Triton's interpreter: kernels of every form, at odd and empty sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cpp_run import Case
from cpp_texts import EVERYWHERE, LATEST, RMS, SCATTER, SOFTMAX, inputs_of, kernel_of
from triton_run import check_triton, emit_case

from treadle.codegen.cuts import Cut
from treadle.codegen.triton.emit import candidates, default_schedule
from treadle.codegen.triton.space import cuts_under
from treadle.ir.errors import ScheduleError
from treadle.ir.loops import Equation, Kernel, Store
from treadle.ir.schedule import Schedule
from treadle.ir.text import parse_kernel
from treadle.ir.types import DTYPES

SIZES = ((1, 1), (3, 5), (5, 37), (19, 70))
EMPTY = ((0, 5), (3, 0))
SLOW = ("argmax", "moments")  # states of several components, which Triton's interpreter combines one by one


def case_of(name: str, kernel: Kernel, seed: int = 0, **more) -> Case:
    return Case(name, kernel, inputs_of(kernel, seed, more.get("sizes")), **more)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_sizes(name: str):
    sizes = SIZES[:3] if name in SLOW else SIZES
    cases = [case_of(f"{name} {T}x{C}", kernel_of(EVERYWHERE[name], "f32", T, C)) for T, C in sizes]
    check_triton([*cases, case_of(f"{name} bf16", kernel_of(EVERYWHERE[name], "bf16", 5, 37))])


def test_empty_sizes():
    reads_first = ("argmax", "pad", "digits")  # loads of element 0 have no meaning there
    names = [n for n in EVERYWHERE if n not in reads_first]
    check_triton([case_of(f"{n} {T}x{C}", kernel_of(EVERYWHERE[n], "f32", T, C)) for n in names for T, C in EMPTY])


@pytest.mark.parametrize("name", [n for n in EVERYWHERE if n not in SLOW])
def test_dynamic_sizes(name: str):
    both, rows = kernel_of(EVERYWHERE[name], "bf16", "s0", "s1"), kernel_of(EVERYWHERE[name], "f32", "s0", 70)
    check_triton([case_of(name, both, sizes={"s0": 5, "s1": 37}), case_of(name, rows, sizes={"s0": 3, "s1": 70})])


@pytest.mark.parametrize("dtype", ["f16", "f64", "i64", "i32", "i16", "i8", "u8", "bool"])
def test_every_type(dtype: str):
    names = ("turn", "in_place", "embed", "gather", "pad", "swiglu", "softmax")
    check_triton([case_of(f"{n} {dtype}", kernel_of(EVERYWHERE[n], dtype, 7, 35)) for n in names])


def test_the_latest_of_equal_values_in_reverse():
    kernel = kernel_of(LATEST, "f32", 6, 40)
    check_triton([Case("latest", kernel, {"x": torch.randint(0, 3, (6, 40))})])


MIXED = """
kernel mixed(x: f32[4, 4], w: f32[{T}, 4, {C}]) -> (y: f32[{T}, 4, {C}], z: f32[4, 4])
  axes t:{T}, a:4, b:4, c:{C}
  m[a]: f32 = max(b) x[a, b]
  l[a]: f32 = sum(b) exp((x[a, b] - m[a]))
  s[t, a, c]: f32 = sum(b) ((exp((x[a, b] - m[a])) * w[t, b, c]) / l[a])
  d[a, b]: f32 = sum(t, c) (w[t, a, c] * w[t, b, c])
  y[t, a, c] <- s[t, a, c]
  z[a, b] <- (d[a, b] * (exp((x[a, b] - m[a])) / l[a]))
"""


@pytest.mark.parametrize("parts", [(0, 1, 2, 4), (0, 1, 3, 5), (0, 1, 2, 3, 4, 5)], ids=["mix", "gradient", "both"])
def test_an_axis_that_is_a_tile_first_and_a_loop_then(parts: tuple[int, ...]):
    """What was named for the tile is not what the loop's points have."""
    whole = kernel_of(MIXED, "f32", 5, 37)
    body = tuple(whole.body[k] for k in parts)
    written = {s.buffer for s in body if isinstance(s, Store)}
    kernel = replace(whole, body=body, outputs=tuple(b for b in whole.outputs if b.name in written))
    case = case_of("mixed", kernel)
    assert "range(0, 37, 1)" not in emit_case(case).text
    check_triton([case])


def test_every_cast():
    """Each type to each, of values in memory and of conditions computed beside them."""
    check_triton([cast_case(source, target) for source in DTYPES for target in DTYPES])


def cast_case(source: str, target: str) -> Case:
    kernel = parse_kernel(f"""
    kernel cast(x: {source}[7]) -> (y: {target}[7], z: {target}[7])
      axes t:7
      y[t] <- {"x[t]" if source == target else f"{target}(x[t])"}
      z[t] <- {"(x[t] == x[0])" if target == "bool" else f"{target}((x[t] == x[0]))"}
    """)
    return case_of(f"{source} to {target}", kernel)


@pytest.mark.parametrize("text", [SOFTMAX, RMS], ids=["softmax", "rms"])
def test_rows_longer_than_a_program_holds(text: str):
    schedule = Schedule("reduce").choose(resident=1024, step=512, points=256)
    check_triton([case_of("long rows", kernel_of(text, "f32", 2, 1100), schedule=schedule)])


@pytest.mark.parametrize("text", [SOFTMAX, EVERYWHERE["columns"], EVERYWHERE["turn"]], ids=["rows", "columns", "turn"])
def test_every_candidate_is_right(text: str):
    kernel = kernel_of(text, "f32", 11, 13)
    assert default_schedule(kernel) in candidates(kernel)
    check_triton([case_of(f"candidate {k}", kernel, schedule=s) for k, s in enumerate(candidates(kernel)[::6])])


def test_indices_out_of_range_are_reported():
    kernel = kernel_of(SCATTER, "f32", 4, 9)
    inputs = inputs_of(kernel, 0)
    for b in kernel.inputs:
        if b.dtype.name == "i64":
            inputs[b.name].view(-1)[1] = 1000
    check_triton([Case("out of range", kernel, inputs, error=-1)])


def test_a_knob_that_does_not_exist_is_an_error():
    kernel = kernel_of(SOFTMAX, "f32", 4, 9)
    with pytest.raises(ScheduleError, match="no such knob"):
        emit_case(case_of("knob", kernel, schedule=Schedule("reduce").choose(unroll=4)))


@pytest.mark.parametrize("name", ["total", "columns", "rms", "streamed", "both", "moments"])
def test_reductions_in_parts(name: str):
    cases = []
    for rows, columns in ((7, 37), (4, 1)):
        kernel = kernel_of(EVERYWHERE[name], "f32", rows, columns)
        over = dict.fromkeys(a for s in kernel.body if isinstance(s, Equation) for a in s.reduce)
        cases += [case_of(f"{name} {a.name} in {k}", kernel, cuts=(Cut(a, k),)) for a in over for k in (2, 3)]
    check_triton(cases)


def test_which_reductions_are_cut():
    def cut(name: str, rows: int, columns: int) -> dict[str, int]:
        kernel = kernel_of(EVERYWHERE[name], "f32", rows, columns)
        return {a.name: k for a, k, _ in cuts_under(kernel, default_schedule(kernel))}

    assert cut("total", 4096, 2048) == {"t": 256}
    assert cut("columns", 4096, 2048) == {"t": 8}
    assert cut("rms", 4096, 2048) == {} and cut("rms", 1, 8192) == {}
    assert cut("rms", 8, 1 << 18) == {"c": 16}
