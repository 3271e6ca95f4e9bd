"""Kernels as tile programs, for the tests of that level: the lanes of every target, random schedules, small blocks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from cpp_run import fill, span, view

from treadle.codegen import tiling, tiling_nest, tiling_stage
from treadle.codegen.cpp import printer_lanes, space
from treadle.codegen.cpp.emit import default_schedule, tile_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.ir.interp import error_bound, run_kernel
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.interp_tiles import run_program
from treadle.ir.loops import Equation, Kernel
from treadle.ir.schedule import Schedule
from treadle.ir.text_tiles import print_program
from treadle.ir.tiles import Program

Tensors = Mapping[str, torch.Tensor]
Sizes = Mapping[str, int]


def make_blocks_small(patch: pytest.MonkeyPatch) -> None:
    """Chunks, blocks and chains so short that small kernels have several."""
    patch.setattr(tiling, "POINTS_CHUNK", 64)
    patch.setattr(tiling, "STREAMED_BYTES", 0)
    patch.setattr(tiling_nest, "LONGEST_CHAIN", 4)
    patch.setattr(tiling_nest, "BLOCK_STEPS", 2)
    patch.setattr(tiling_stage, "LONG_BLOCK", 32)
    patch.setattr(tiling_stage, "WIDE_BLOCK", 32)
    patch.setattr(printer_lanes, "WORTH_ALIGNING", 1)
    chunk = replace(space.CHUNK, candidates=(32, 64))
    patch.setattr(space, "CHUNK", chunk)
    patch.setattr(space, "KNOBS", tuple(chunk if k.name == "chunk" else k for k in space.KNOBS))


@contextmanager
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_blocks_small(patch)
        yield


def random_schedule(kernel: Kernel, isa: str, seed: int) -> Schedule:
    """A schedule for small blocks."""
    pick = random.Random(seed)
    return default_schedule(kernel, ISAS[isa]).choose(
        unroll=pick.choice((1, 2, 4)), rows=pick.choice((1, 2, 8)), chunk=pick.choice((32, 64)),
        stream=pick.random() < 0.7, prefetch=pick.choice((0, 512)), stage=pick.random() < 0.7,
        keep=pick.choice(("auto", "all", "none")),
    )  # fmt: skip


def tile(kernel: Kernel, isa: str, seed: int | None = None) -> Program:
    """The program of a kernel under its default schedule, or, with a seed, under a random one in small blocks."""
    if seed is None:
        return tile_kernel(kernel, default_schedule(kernel, ISAS[isa]), ISAS[isa]).program
    with small_blocks():
        return tile_kernel(kernel, random_schedule(kernel, isa, seed), ISAS[isa]).program


def programs_of(kernel: Kernel, seed: int) -> Iterator[Program]:
    """The programs of a kernel for each instruction set: under its default schedule and under a random one."""
    for isa in ISAS:
        yield tile(kernel, isa)
        yield tile(kernel, isa, seed)


def hangs_on_identity(kernel: Kernel) -> bool:
    """True where NaNs tell a lifted first element from one that is combined with the identity.

    The sum of max_sum_exp over a NaN is 1 or NaN, the m2 of moments 0 or NaN (their sums apart are of no such kind).
    """
    states = [(s.state, s.scan) for s in kernel.body if isinstance(s, Equation)]
    return any(state == "max_sum_exp" or (state == "moments" and scan) for state, scan in states)


def storages_of(kernel: Kernel, tensors: Tensors, sizes: Sizes) -> dict[str, torch.Tensor]:
    """The inputs as flat storages."""
    flat: dict[str, torch.Tensor] = {}
    for b in kernel.inputs:
        flat[b.name] = torch.zeros(span(b, dict(sizes)), dtype=torch_dtype(b.dtype))
        fill(b, view(b, flat[b.name], dict(sizes)), tensors[b.name])
    return flat


def outputs_of(
    kernel: Kernel, program: Program, tensors: Tensors, sizes: Sizes | None = None, float64: bool = True
) -> dict[str, torch.Tensor]:
    """What a program of a kernel gives, in the shapes of the kernel's outputs."""
    known = dict(sizes or {})
    got = run_program(program, storages_of(kernel, tensors, known), known, float64)
    return {b.name: view(b, got[b.name], known) for b in kernel.outputs}


def assert_computes(
    program: Program, kernel: Kernel, tensors: Tensors, sizes: Sizes | None = None, float64: bool = True
) -> None:
    """A program gives what its kernel is, but for rounding (in float64: of sums in another order)."""
    known = dict(sizes or {})
    want, bound = run_kernel(kernel, tensors, known, float64=True), error_bound(kernel, tensors, known)
    plain = run_kernel(kernel, tensors, known)
    for name, got in outputs_of(kernel, program, tensors, known, float64).items():
        g, w, p, room = (t.double() for t in (got, want[name], plain[name], 4 * bound[name]))
        right = (g == w) | (g.isnan() & (w.isnan() | p.isnan())) | ((g - w).abs() <= room + 1e-300) | room.isinf()
        if not float64:
            right |= g == p
        assert bool(right.all()), f"{name}: {got[~right][:4]} for {want[name][~right][:4]}\n{print_program(program)}"
