"""Runs printed Triton kernels under Triton's interpreter and compares them with ours. Memory is fenced by poison.

Triton's interpreter knows no functions of libdevice, its conversions between float types round wrongly and lose small
numbers, and conditions of scalars become integers in blocks: here it gets better ones.
"""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from cpp_run import Case, check_gaps, compare, fill, poison, same_bits, span, view

from treadle.codegen.triton.emit import TritonSource, default_schedule, emit_kernel, emit_module
from treadle.compiler.cutting import cut_reductions
from treadle.ir.interp import error_bound, run_kernel
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.types import DTYPES, evaluate
from treadle.ir.verify import verify_program

triton = pytest.importorskip("triton")
interpreter = pytest.importorskip("triton.runtime.interpreter")

MARGIN = 64  # poisoned elements on either side of each buffer
LENT = {
    "expm1": torch.expm1, "log10": torch.log10, "log1p": torch.log1p, "tan": torch.tan, "asin": torch.asin,
    "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh,
    "asinh": torch.asinh, "acosh": torch.acosh, "atanh": torch.atanh, "erfc": torch.erfc, "erfinv": torch.erfinv,
    "lgamma": torch.lgamma, "trunc": torch.trunc, "rint": torch.round, "pow": torch.pow, "atan2": torch.atan2,
    "copysign": torch.copysign, "hypot": torch.hypot, "nextafter": torch.nextafter, "fmod": torch.fmod,
    "floor": torch.floor,
}  # fmt: skip


def check_triton(cases: Sequence[Case]) -> None:
    problems = [p for case in cases for p in run_triton(case)]
    assert not problems, "\n\n".join(problems[:6]) + f"\n({len(problems)} in all)"


def emit_case(case: Case) -> TritonSource:
    schedule = case.schedule or default_schedule(case.kernel)
    symbol = "".join(c if c.isalnum() else "_" for c in case.name)
    kernel, apart = cut_reductions(case.kernel, case.cuts)
    return emit_kernel(kernel, schedule, f"k_{symbol}", verify_program, apart)


def run_triton(case: Case) -> list[str]:
    """What is wrong with one kernel's outputs, in words."""
    source = emit_case(case)
    storages: dict[str, torch.Tensor] = {}
    before: dict[str, torch.Tensor] = {}
    written, read = ({b.name for b in side} for side in (case.kernel.outputs, case.kernel.inputs))
    for name in source.buffers:
        b = case.kernel.buffers[name]
        whole = torch.empty(span(b, case.sizes) + 2 * MARGIN, dtype=torch_dtype(b.dtype))
        poison(whole)
        storages[name] = whole
        if name in read:
            fill(b, view(b, whole[MARGIN:], case.sizes), case.buffers[name])
        before[name] = whole.clone()
    bad = launch_all(source, {n: t[MARGIN:] for n, t in storages.items()}, case.sizes)
    if bad != case.error and (case.error >= 0 or bad == 0):
        return [f"{case.name}: reported {bad}, expected {case.error}\n{source.text}"]
    if case.error:
        return []
    problems = [f"{case.name}: input {n} was written to" for n in source.buffers
                if n not in written and not same_bits(storages[n], before[n])]  # fmt: skip
    given = {n: case.buffers[n] for n in read}
    want = run_kernel(case.kernel, given, case.sizes, float64=True)
    plain = run_kernel(case.kernel, given, case.sizes)
    bound = error_bound(case.kernel, given, case.sizes)
    for b in case.kernel.outputs:
        where, inner = f"{case.name}: {b.name}", storages[b.name][MARGIN:-MARGIN]
        problems += compare(where, view(b, inner, case.sizes), want[b.name], plain[b.name], bound[b.name], source.text)
        problems += check_gaps(where, b, inner, before[b.name][MARGIN:-MARGIN], case.sizes)
        ends = [(t[:MARGIN], t[-MARGIN:]) for t in (storages[b.name], before[b.name])]
        if not all(same_bits(a, b) for a, b in zip(*ends, strict=True)):
            problems.append(f"{where}: written beyond its ends\n{source.text}")
    return problems


def launch_all(source: TritonSource, buffers: dict[str, torch.Tensor], sizes: dict[str, int]) -> int:
    """Runs the launches of a kernel in order; the code that it reports (0: none)."""
    bad = torch.zeros((), dtype=torch.int32)
    work = torch.full((evaluate(source.workspace_bytes, sizes) + 8,), 255, dtype=torch.uint8)
    given: dict[str, Any] = {**buffers, **sizes, "bad": bad}
    types_of = {n: t for launch in source.launches for n, t in launch.arguments}
    for name, at in source.workspace:
        if name in types_of:
            given[name] = work[evaluate(at, sizes) : -8].view(_element(types_of[name]))
    assert triton.knobs.runtime.interpret, "tests/conftest.py asks Triton for its interpreter, before it is imported"
    module = load_module(emit_module([source]), source.symbol)
    for launch in source.launches:
        programs = evaluate(launch.programs, sizes)
        if programs:
            arguments = [given[n] for n, _ in launch.arguments]
            module[launch.function][(programs,)](*arguments, num_warps=launch.warps, num_stages=launch.stages)
    return int(bad)


def _element(pointer: str) -> torch.dtype:
    names = {"fp16": "f16", "fp32": "f32", "fp64": "f64", "i1": "bool"}
    short = pointer.removeprefix("*")
    return torch_dtype(DTYPES[names.get(short, short)])


def load_module(text: str, name: str) -> dict[str, Any]:
    """The names of a module whose text Triton can look up."""
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    exec(compile(text, file, "exec"), module.__dict__)
    if "libdevice" in module.__dict__:
        module.__dict__["libdevice"] = types.SimpleNamespace(**{n: _lent(f) for n, f in LENT.items()})
    return module.__dict__


def convert_float(data: np.ndarray, source: Any, target: Any, rounding: Any = None) -> np.ndarray:
    """The bits of floats of one type as those of another, rounded to nearest even."""
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
    if source.name != "bf16":  # what torch has lent may be wider
        data = np.asarray(data, dtype=f"float{source.primitive_bitwidth}")
    bits = torch.from_numpy(np.frombuffer(data.tobytes(), dtype=f"int{source.primitive_bitwidth}").copy())
    found = bits.view(kinds[source.name]).to(kinds[target.name])
    whole = found.view(getattr(torch, f"int{target.primitive_bitwidth}")).numpy()
    return whole.view(f"uint{target.primitive_bitwidth}").reshape(data.shape)


def patch_tensor(tensor: Any, scope: Any) -> None:
    """Scalars may bound loops: numpy 2.4 takes them no longer for the arrays of one element that they are."""
    patch_language_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def splat(self: Any, kind: Any, value: Any) -> Any:
    """A scalar in every place of a block: as what it is held in, which for conditions is not what their type says."""
    data = np.asarray(value.data)
    return type(value)(np.full(kind.shape, data.flat[0], dtype=data.dtype), value.dtype.scalar)


patch_language_tensor = interpreter._patch_lang_tensor
interpreter.InterpreterBuilder.create_splat = splat
interpreter._patch_lang_tensor = patch_tensor
interpreter._convert_float = convert_float


def _lent(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """A function of torch as one of Triton's interpreter: on tensors that hold numpy arrays."""

    def call(*args: Any) -> Any:
        tensors = [a for a in args if isinstance(a, triton.language.tensor)]
        like, dtype = tensors[0], torch.from_numpy(np.asarray(tensors[0].handle.data)).dtype
        data = [a.handle.data if isinstance(a, triton.language.tensor) else a for a in args]
        found = function(*torch.broadcast_tensors(*[torch.from_numpy(np.asarray(x)).to(dtype) for x in data]))
        block = any(a.type.is_block() for a in tensors)
        kind = triton.language.block_type(like.dtype.scalar, list(found.shape)) if block else like.dtype.scalar
        handle = type(like.handle)(found.numpy(), like.dtype.scalar)
        return triton.language.tensor(handle, kind)

    return call
