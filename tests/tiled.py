"""Kernels as tile programs, for the tests of that level: the lanes of every target, random schedules, small blocks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from treadle.codegen import tiling, tiling_nest, tiling_stage
from treadle.codegen.cpp import printer_lanes, space
from treadle.codegen.cpp.emit import default_schedule, tile_kernel
from treadle.codegen.cpp.isa import ISAS
from treadle.ir.loops import Kernel
from treadle.ir.schedule import Schedule
from treadle.ir.tiles import Program


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


def programs_of(kernel: Kernel, seed: int) -> Iterator[tuple[str, Program]]:
    """(what it is, program) of a kernel for each instruction set: under its default schedule, and under a random one
    in small blocks.
    """
    for name, isa in ISAS.items():
        yield name, tile_kernel(kernel, default_schedule(kernel, isa), isa).program
        with small_blocks():
            schedule = random_schedule(kernel, name, seed)
            yield f"{name} {schedule}", tile_kernel(kernel, schedule, isa).program
