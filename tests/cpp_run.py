"""Builds printed kernels and compares them with the interpreter: many kernels in one file, memory fenced by
forbidden pages.

cases = [Case("rms", kernel, {"x": x})]
check_cases(cases, ISAS["avx512"])              raises AssertionError with the case and the first wrong elements
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from treadle.codegen.cpp.emit import KernelSource, default_schedule, emit_kernel, emit_unit
from treadle.codegen.cpp.isa import ISAS, LINK_LIBRARIES, Isa, read_cpu_flags
from treadle.codegen.cuts import Cuts
from treadle.compiler.cutting import cut_reductions
from treadle.ir.interp import error_bound, run_kernel
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.loops import Buffer, Kernel
from treadle.ir.schedule import Schedule
from treadle.ir.types import evaluate
from treadle.ir.verify import verify_program

HERE = [name for name, isa in ISAS.items() if read_cpu_flags().issuperset(isa.needs)]
"""The instruction sets that this machine runs."""

PAGE = mmap.PAGESIZE
BOUND = 4.0  # times the error that correct rounding of each step may cause: functions of the prelude are not that exact
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Case:
    """A kernel with its buffers: tensors of the declared shapes, for every input; outputs that are no inputs are
    made here.
    """

    name: str
    kernel: Kernel
    buffers: Mapping[str, torch.Tensor]
    sizes: dict[str, int] = field(default_factory=dict)
    schedule: Schedule | None = None
    threads: int = 1
    error: int = 0  # the code expected from the kernel; -1: any but 0
    cuts: Cuts = ()


class Fenced:
    """Storage that ends at a page nobody may touch, and starts `lead` bytes after one."""

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        size = torch.empty((), dtype=dtype).element_size()
        pages = -(-count * size // PAGE) + 2
        self.map = mmap.mmap(-1, pages * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in (0, pages - 1):
            if _libc.mprotect(ctypes.c_void_p(base + page * PAGE), PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.address = base + (pages - 1) * PAGE - count * size
        start = self.address - base
        raw = torch.frombuffer(self.map, dtype=torch.uint8)[start : start + count * size] if count else None
        self.flat = torch.empty(0, dtype=dtype) if raw is None else raw.view(dtype)


def span(b: Buffer, sizes: dict[str, int]) -> int:
    shape, strides = [evaluate(n, sizes) for n in b.shape], [evaluate(s, sizes) for s in b.strides]
    if 0 in shape:
        return 0
    return 1 + evaluate(b.offset, sizes) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def view(b: Buffer, flat: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
    shape = [evaluate(n, sizes) for n in b.shape]
    if 0 in shape:
        return flat.new_empty(shape)
    start = flat.storage_offset() + evaluate(b.offset, sizes)
    return flat.as_strided(shape, [evaluate(s, sizes) for s in b.strides], start)


def fill(b: Buffer, into: torch.Tensor, values: torch.Tensor) -> None:
    """Writes the values of a buffer, those that share an element once."""
    for d, stride in enumerate(b.strides):
        if stride == 0 and into.shape[d] > 1:
            into, values = into.narrow(d, 0, 1), values.narrow(d, 0, 1)
    into.copy_(values)


def poison(flat: torch.Tensor) -> None:
    if flat.dtype.is_floating_point:
        flat.fill_(float("nan"))
    else:
        flat.fill_(True if flat.dtype is torch.bool else 85)


def compile_unit(sources: Sequence[KernelSource], isa: Isa) -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp(prefix="treadle-cpp-"))
    text = emit_unit(sources, isa)
    (folder / "k.cpp").write_text(text)
    command = ["g++", "k.cpp", "-o", "k.so", *isa.compile_flags, "-Wall", "-Wno-psabi", *LINK_LIBRARIES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{folder}/k.cpp\n{done.stderr[:6000]}"
    library = ctypes.CDLL(str(folder / "k.so"))
    shutil.rmtree(folder)  # what is loaded stays; a unit that does not compile is left to be read
    return library


def check_cases(cases: Sequence[Case], isa: Isa) -> None:
    made: dict[object, KernelSource] = {}  # one for all sizes of a kernel
    sources = []
    for k, case in enumerate(cases):
        own = case.kernel, case.schedule, case.cuts
        if own in made:
            sources.append(made[own])
            continue
        schedule = case.schedule or default_schedule(case.kernel, isa)
        try:
            symbol = f"k{k}_{''.join(c if c.isalnum() else '_' for c in case.name)}"
            kernel, apart = cut_reductions(case.kernel, case.cuts)
            made[own] = emit_kernel(kernel, schedule, isa, symbol, verify_program, apart=apart)
            sources.append(made[own])
        except Exception as error:
            raise AssertionError(f"{case.name} on {isa.name}: {type(error).__name__}: {error}") from error
    library = compile_unit(list(made.values()), isa)
    problems = [p for case, source in zip(cases, sources, strict=True) for p in run_case(case, source, library)]
    assert not problems, "\n\n".join(f"[{isa.name}] {p}" for p in problems[:6]) + f"\n({len(problems)} in all)"


def run_case(case: Case, source: KernelSource, library: ctypes.CDLL) -> list[str]:
    """What is wrong with one kernel's outputs, in words."""
    storages: dict[str, Fenced] = {}
    written = {b.name for b in case.kernel.outputs}
    read = {b.name for b in case.kernel.inputs}
    before: dict[str, torch.Tensor] = {}
    for name in source.buffers:
        b = case.kernel.buffers[name]
        s = storages[name] = Fenced(span(b, case.sizes), torch_dtype(b.dtype))
        poison(s.flat)
        if name in read:
            fill(b, view(b, s.flat, case.sizes), case.buffers[name])
        before[name] = s.flat.clone()
    code = call(source, library, storages, case)
    if code != case.error and (case.error >= 0 or code == 0):
        return [f"{case.name}: returned {code}, expected {case.error}\n{source.text}"]
    if case.error:
        return []
    kept = (n for n in source.buffers if n not in written)
    spoiled = [n for n in kept if not torch.equal(_bits(storages[n].flat), _bits(before[n]))]
    problems = [f"{case.name}: input {n} was written to" for n in spoiled]
    if all(storages[b.name].flat.numel() == 0 for b in case.kernel.outputs):
        return problems
    given = {n: case.buffers[n] for n in read}
    want = run_kernel(case.kernel, given, case.sizes, float64=True)
    plain = run_kernel(case.kernel, given, case.sizes)
    bound = error_bound(case.kernel, given, case.sizes)
    for b in case.kernel.outputs:
        got = view(b, storages[b.name].flat, case.sizes)
        problems += compare(f"{case.name}: {b.name}", got, want[b.name], plain[b.name], bound[b.name], source.text)
        problems += check_gaps(f"{case.name}: {b.name}", b, storages[b.name].flat, before[b.name], case.sizes)
    return problems


def call(source: KernelSource, library: ctypes.CDLL, storages: dict[str, Fenced], case: Case) -> int:
    pointers = (ctypes.c_void_p * max(1, len(source.buffers)))(*[storages[n].address for n in source.buffers])
    symbols = case.kernel.symbols
    sizes = (ctypes.c_long * max(1, len(symbols)))(*[case.sizes[n] for n in symbols])
    each = evaluate(source.workspace, case.sizes)
    space = torch.full((case.threads * each + 64,), 255, dtype=torch.uint8)
    function = getattr(library, source.symbol)
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    aligned = -(-space.data_ptr() // 64) * 64
    return function(pointers, sizes, aligned, case.threads)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(_bits(a), _bits(b))


def _bits(t: torch.Tensor) -> torch.Tensor:
    return t.view(torch.uint8) if t.numel() else t


def check_gaps(where: str, b: Buffer, flat: torch.Tensor, before: torch.Tensor, sizes: dict[str, int]) -> list[str]:
    """Elements of the storage that the buffer does not cover are as they were."""
    outside = torch.ones(flat.numel(), dtype=torch.bool)
    view(b, outside, sizes).fill_(False)
    size = flat.element_size()
    changed = (_bits(flat).view(-1, size) != _bits(before).view(-1, size)).any(1) if flat.numel() else outside
    return [f"{where}: written between its elements"] if bool((changed & outside).any()) else []


def compare(
    where: str, got: torch.Tensor, want: torch.Tensor, plain: torch.Tensor, bound: torch.Tensor, text: str
) -> list[str]:
    """Integers as the interpreter has them; floats within a few times what rounding may do to the float64 result."""
    if not got.dtype.is_floating_point:
        decided = bound == 0 if bound.dtype.is_floating_point else torch.ones_like(got, dtype=torch.bool)
        wrong = (got != plain) & decided
    else:
        g, w, p = got.double(), want.double(), plain.double()
        room = BOUND * bound.double() + torch.finfo(got.dtype).tiny
        right = ((g - w).abs() <= room) | (g == w) | (g == p) | (g.isnan() & (w.isnan() | p.isnan()))
        wrong = ~right & room.isfinite()
    if not bool(wrong.any()):
        return []
    lines = []
    for at in map(tuple, wrong.nonzero()[:4].tolist()):
        found = {"got": got, "want": want, "plain": plain, "bound": bound}
        lines.append(f"  {at}: " + ", ".join(f"{name} {t[at].item()!r}" for name, t in found.items()))
    head = f"{where}: {int(wrong.sum())} of {wrong.numel()} wrong"
    return ["\n".join([head, *lines, text])]
