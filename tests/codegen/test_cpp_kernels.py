"""The C++ target against the interpreter: kernels of every form, at odd and empty sizes, for every instruction set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cpp_run import HERE, Case, check_cases
from cpp_texts import EVERYWHERE, IN_PLACE, RAGGED, RMS, SCATTER, SOFTMAX, TURN, inputs_of, kernel_of, ragged

from treadle.codegen.cpp.emit import candidates, default_schedule
from treadle.codegen.cpp.isa import ISAS
from treadle.ir.loops import Buffer, Kernel
from treadle.ir.types import symbol

SIZES = ((1, 1), (3, 5), (2, 16), (5, 37), (19, 70), (33, 129))
EMPTY = ((0, 5), (3, 0))
WIDEST_FIRST = [HERE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in HERE[1:])]


def case_of(name: str, kernel: Kernel, seed: int = 0, **more) -> Case:
    return Case(name, kernel, inputs_of(kernel, seed, more.get("sizes")), **more)


@pytest.mark.parametrize("isa", WIDEST_FIRST)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_sizes(isa: str, dtype: str):
    cases = [
        case_of(f"{name} {T}x{C}", kernel_of(text, dtype, T, C)) for name, text in EVERYWHERE.items() for T, C in SIZES
    ]
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
def test_empty_sizes(isa: str):
    reads_first = ("argmax", "pad", "digits")  # loads of element 0 have no meaning there
    names = [n for n in EVERYWHERE if n not in reads_first]
    cases = [case_of(f"{n} {T}x{C}", kernel_of(EVERYWHERE[n], "f32", T, C)) for n in names for T, C in EMPTY]
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", WIDEST_FIRST)
def test_dynamic_sizes(isa: str):
    cases = []
    for name, text in EVERYWHERE.items():
        both, rows = kernel_of(text, "bf16", "s0", "s1"), kernel_of(text, "f32", "s0", 70)
        cases += [case_of(f"{name} {T}x{C}", both, sizes={"s0": T, "s1": C}) for T, C in ((2, 2), (5, 37), (40, 129))]
        cases += [case_of(f"{name} {T}x70", rows, sizes={"s0": T, "s1": 70}) for T in (3, 300)]
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", WIDEST_FIRST)
def test_every_type(isa: str):
    names = ("turn", "in_place", "embed", "gather", "pad", "swiglu", "softmax")
    cases = [
        case_of(f"{n} {d}", kernel_of(EVERYWHERE[n], d, 17, 35))
        for n in names for d in ("f16", "f64", "i64", "i32", "i16", "i8", "u8", "bool")
    ]  # fmt: skip
    check_cases(cases, ISAS[isa])


def laid_out(kernel: Kernel, shift: int) -> Kernel:
    """The kernel with gaps between the rows of its buffers, and an offset before them."""

    def spread(b: Buffer) -> Buffer:
        strides, step = [], 1
        for n in reversed(b.shape):
            strides.append(step)
            step = step * (int(n) + shift)
        return Buffer(b.name, b.dtype, b.shape, tuple(reversed(strides)), shift)

    inputs, outputs = (tuple(spread(b) for b in side) for side in (kernel.inputs, kernel.outputs))
    return replace(kernel, inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("isa", HERE)
def test_strided_buffers(isa: str):
    cases = [
        case_of(f"{name} +{shift}", laid_out(kernel_of(text, "f32", 9, 37), shift))
        for name, text in EVERYWHERE.items() for shift in (1, 3)
    ]  # fmt: skip
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
def test_transposed_and_broadcast_inputs(isa: str):
    def restride(kernel: Kernel, name: str, strides: tuple[int, ...]) -> Kernel:
        inputs = tuple(replace(b, strides=strides) if b.name == name else b for b in kernel.inputs)
        return replace(kernel, inputs=inputs)

    cases = [
        case_of("rms of columns", restride(kernel_of(RMS, "bf16", 21, 37), "x", (1, 21))),
        case_of("softmax of columns", restride(kernel_of(SOFTMAX, "f32", 40, 37), "x", (1, 40))),
        case_of("one row", restride(kernel_of(SOFTMAX, "f32", 9, 37), "x", (0, 1))),
        case_of("one column", restride(kernel_of(SOFTMAX, "f32", 9, 37), "x", (1, 0))),
        case_of("every second", restride(kernel_of(RMS, "bf16", 9, 37), "x", (74, 2))),
    ]
    for case in cases:
        case.buffers = {n: _as_read(t, case.kernel.buffers[n]) for n, t in case.buffers.items()}
    check_cases(cases, ISAS[isa])


def _as_read(t: torch.Tensor, b: Buffer) -> torch.Tensor:
    """What a buffer whose elements share memory can hold."""
    t = t.clone()
    for d, stride in enumerate(b.strides):
        if stride == 0:
            t = t.narrow(d, 0, 1).expand(t.shape).contiguous()
    return t


@pytest.mark.parametrize("isa", HERE)
def test_ragged_axes(isa: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("treadle.codegen.tiling.STREAMED_BYTES", 0)
    cases = []
    for name in RAGGED:
        kernel, inputs = ragged(name)
        plain = default_schedule(kernel, ISAS[isa])
        cases += [Case(f"{name} {s}", kernel, inputs, schedule=s) for s in (plain, plain.choose(stream=True))]
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
def test_indices_out_of_range(isa: str):
    for name, bad in (("embed", 5), ("embed", -6), ("scatter", 7), ("histogram", -6), ("gather", -1), ("gather", 5)):
        kernel = kernel_of(EVERYWHERE[name], "f32", 21, 37)
        case = case_of(f"{name} {bad}", kernel, error=1)
        d = case.buffers["d"]
        d.view(-1)[d.numel() - 3] = bad
        check_cases([case], ISAS[isa])


@pytest.mark.parametrize("isa", WIDEST_FIRST)
def test_every_candidate(isa: str):
    texts = {"rms": RMS, "softmax": SOFTMAX, "turn": TURN, "in_place": IN_PLACE, "scatter": SCATTER}
    cases = []
    for name, text in texts.items():
        kernel = kernel_of(text, "bf16", 33, 200)
        found = candidates(kernel, ISAS[isa])
        assert found[0] == default_schedule(kernel, ISAS[isa]) and len(found) <= 64 and len(set(found)) == len(found)
        cases += [case_of(f"{name} {s}", kernel, schedule=s) for s in found]
    check_cases(cases, ISAS[isa])


@pytest.mark.parametrize("isa", HERE)
def test_long_rows_are_cut_in_blocks(isa: str):
    kernels = [kernel_of(text, "f32", T, C) for text in (RMS, EVERYWHERE["total"], EVERYWHERE["columns"])
               for T, C in ((2, 40_000), (3000, 20))]  # fmt: skip
    check_cases([case_of(f"{k.name} {k.inputs[0].shape}", k) for k in kernels], ISAS[isa])


def test_symbols_are_passed_in_order():
    kernel = kernel_of(RMS, "f32", "s7", "s10")
    assert kernel.symbols == ("s10", "s7") and kernel.inputs[0].shape == (symbol("s7"), symbol("s10"))
    check_cases([case_of("rms", kernel, sizes={"s7": 3, "s10": 50})], ISAS[HERE[0]])
