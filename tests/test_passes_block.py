"""Blocks of an axis: what keeps it and what reduces it take turns, and nothing changes but the order of sums."""

from __future__ import annotations

import pytest
import torch
from cpp_run import HERE, Case, check_cases
from golden import Golden
from law_runs import SPECIAL, assert_equal_runs, inputs_of, read, states_of

from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.cpp.space import cuts_under, default_schedule
from treadle.codegen.cuts import Cut, blocks_of
from treadle.compiler import cutting
from treadle.compiler.cutting import cut_reductions
from treadle.ir.errors import ScheduleError
from treadle.ir.loops import Kernel
from treadle.ir.rows import CLOSE, FEWEST, rows_of_block
from treadle.ir.text import print_kernel
from treadle.passes.block import block, may_block
from treadle.passes.reasons import Reason

NORM = """
kernel norm(x: f32[{t}, {c}], d: f32[{t}, {c}], w: f32[{c}], r: f32[{t}])
    -> (y: f32[{t}, {c}], z: f32[{c}], v: f32[{c}])
  axes t:{t}, c:{c}
  s[t]: f32 = sum(c) ((w[c] * x[t, c]) * d[t, c])
  y[t, c] <- (((r[t] * w[c]) * d[t, c]) - ((s[t] * r[t]) * x[t, c]))
  b[c]: f32 = sum(t) ((r[t] * d[t, c]) * x[t, c])
  m[c]: f32 = max(t) d[t, c]
  z[c] <- b[c]
  v[c] <- m[c]
"""
PEAKS = """
kernel peaks(x: f32[{t}, {c}]) -> (y: f32[{t}, {c}], z: f32[{c}], i: i64[])
  axes t:{t}, c:{c}
  (_[c]: f32, l[c]: f32) = max_sum_exp(t) x[t, c]
  (_[]: f32, k[]: i64) = argmax(t, c) x[t, c], #({c}*t + c)
  y[t, c] <- (x[t, c] * 2.0)
  z[c] <- l[c]
  i[] <- k[]
"""
WAITING = """
kernel softmax(x: f32[{t}, {c}]) -> (y: f32[{t}, {c}])
  axes t:{t}, c:{c}
  m[c]: f32 = max(t) x[t, c]
  y[t, c] <- (x[t, c] - m[c])
"""
ROWS = """
kernel rows(x: f32[{t}, {c}]) -> (y: f32[{t}, {c}])
  axes t:{t}, c:{c}
  s[t]: f32 = sum(c) x[t, c]
  y[t, c] <- (x[t, c] - s[t])
"""


def kernel_of(text: str, rows: int, columns: int) -> Kernel:
    return read(text.format(t=rows, c=columns))


def axis_of(kernel: Kernel, name: str):
    return next(a for a in kernel.axes if a.name == name)


@pytest.mark.parametrize("text", [NORM, PEAKS], ids=["norm", "peaks"])
@pytest.mark.parametrize(("rows", "parts"), [(12, 2), (12, 3), (12, 6), (9, 3)])
def test_blocks_give_what_the_whole_gives(text: str, rows: int, parts: int):
    before = kernel_of(text, rows, 5)
    after, outer = block(before, axis_of(before, "t"), parts)
    assert outer.extent == parts and len(states_of(after)) > len(states_of(before))
    special = SPECIAL if text is PEAKS else ()
    for seed in range(3):
        assert_equal_runs(before, after, inputs_of(before, seed, special))


def test_what_blocks_make(golden: Golden):
    kernel = kernel_of(NORM, 4096, 2048)
    golden(print_kernel(cut_reductions(kernel, cuts_under(kernel, default_schedule(kernel, ISAS["avx512"])))[0]))


def test_what_parts_make(golden: Golden):
    text = """
kernel k(x: f32[4096, 2048]) -> (y: f32[], z: f32[2048])
  axes t:4096, c:2048
  s[]: f32 = sum(t, c) (x[t, c] * x[t, c])
  e[c]: f32 = sum(t) x[t, c]
  y[] <- s[]
  z[c] <- e[c]
"""
    kernel = read(text)
    golden(print_kernel(cut_reductions(kernel, cuts_under(kernel, default_schedule(kernel, ISAS["avx512"])))[0]))


@pytest.mark.parametrize("law", ["split_along", "block"])
def test_neither_can_be_left_out(law: str, monkeypatch: pytest.MonkeyPatch):
    kernel = kernel_of(NORM, 4096, 2048) if law == "block" else kernel_of(ROWS, 1, 1 << 23)
    cuts = cuts_under(kernel, default_schedule(kernel, ISAS["avx512"]))
    with_it = cut_reductions(kernel, cuts)
    axis = kernel.axes[0]
    monkeypatch.setattr(cutting, law, lambda k, *rest: (k, axis if law == "block" else (axis,)))
    assert cut_reductions(kernel, cuts)[0] is kernel is not with_it[0]


@pytest.mark.parametrize(
    ("text", "axis", "parts", "reason"),
    [(NORM, "t", 5, Reason.PARTS), (NORM, "t", 12, Reason.PARTS), (NORM, "t", 1, Reason.PARTS)],
)
def test_what_is_refused(text: str, axis: str, parts: int, reason: Reason):
    kernel = kernel_of(text, 12, 5)
    assert may_block(kernel, axis_of(kernel, axis), parts) is reason
    with pytest.raises(ScheduleError):
        block(kernel, axis_of(kernel, axis), parts)


def test_scans_and_moments_are_refused():
    scan = read("""
kernel k(x: f32[12, 5]) -> (y: f32[12, 5])
  axes t:12, c:5
  a[t, c]: f32 = scan sum(t) inclusive x[t, c]
  y[t, c] <- a[t, c]
""")
    moments = read("""
kernel k(x: f32[12, 5]) -> (y: f32[5])
  axes c:5, t:12
  (_[c]: f32, _[c]: f32, q[c]: f32) = moments(t) x[t, c]
  y[c] <- q[c]
""")
    assert may_block(scan, axis_of(scan, "t"), 3) is Reason.SCANS
    assert may_block(moments, axis_of(moments, "t"), 3) is Reason.SCANS


def test_which_axes_run_in_blocks():
    def blocks(text: str, rows: int, columns: int) -> list[tuple[str, int]]:
        return [(a.name, k) for a, k, _ in blocks_of(kernel_of(text, rows, columns))]

    assert blocks(NORM, 4096, 2048) == [("t", 256)]
    assert blocks(NORM, 1000, 3001) == [("t", 100)]
    assert blocks(NORM, 4099, 2048) == []  # a prime number of rows
    assert blocks(NORM, 8, 262144) == []  # one row alone is too long
    assert blocks(NORM, 16, 512) == []  # all of it stays close
    assert blocks(WAITING, 4096, 2048) == [] and blocks(ROWS, 4096, 2048) == []


def test_rows_of_a_block_divide_and_stay_close():
    for rows, each in ((4096, 3 * 8192), (1000, 36_012), (64, 48_000), (97, 100), (4096, CLOSE)):
        found = rows_of_block(rows, each)
        assert found == 0 or (rows % found == 0 and found * each <= CLOSE and FEWEST <= found <= rows // 2)
    assert rows_of_block(4096, 3 * 8192) == 16 and rows_of_block(97, 100) == 0


@pytest.mark.parametrize("isa", HERE)
def test_kernels_in_blocks(isa: str):
    cases = []
    for name, text in (("norm", NORM), ("peaks", PEAKS)):
        for rows, columns, parts in ((40, 70, 5), (24, 129, 3), (64, 16, 32)):
            kernel = kernel_of(text, rows, columns)
            cut = (Cut(axis_of(kernel, "t"), parts, whole=True),)
            cases += [
                Case(f"{name} {rows}x{columns} {t}", kernel, inputs_of32(kernel), cuts=cut, threads=t) for t in (1, 3)
            ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("treadle.codegen.cpp.threads.GRAIN", 10)
        check_cases(cases, ISAS[isa])


def inputs_of32(kernel: Kernel) -> dict[str, torch.Tensor]:
    return {n: x.float() for n, x in inputs_of(kernel, 3).items()}
