"""`verify`: before a kernel is trusted, it runs once on the program's own data beside the interpreter.

The kernel's outputs must be within a small multiple of the error bound that the interpreter derives from its equations,
and integers equal. A kernel that fails is named in one line, and ATen computes the region from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..ir.interp import error_bound, run_kernel
from ..ir.loops import Kernel
from .stand_ins import FUNCTION, Arguments, Body, flat_at, tensor_at

FACTOR = 4.0  # exp and its like are within a few units of the last place, where the bound allows for one


def verifying_body(kernel: Kernel, address: int, otherwise: Body, tell: Callable[[str], None]) -> Body:
    """Runs the kernel at `address` and tells what is wrong ("" for nothing); `otherwise` then gives the results."""
    native = FUNCTION(address)

    def body(a: Arguments) -> int:
        expected, bounds = _interpret(kernel, a)
        result = native(a.pointers, a.sizes, a.workspace, a.threads)
        if result:
            return result
        problem = ""
        for place, name in enumerate(kernel.buffers):
            if name in expected and not problem:
                got = tensor_at(a.addresses[place], kernel.buffers[name], a.symbols)
                problem = find_difference(name, got, expected[name], bounds[name])
        tell(problem)
        return otherwise(a) if problem else 0

    return body


def _interpret(kernel: Kernel, a: Arguments) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The outputs in float64 and their error bounds. Elements that the kernel leaves alone keep what memory holds."""
    read = {b.name for b in kernel.inputs}
    whole = replace(kernel, inputs=(*kernel.inputs, *(b for b in kernel.outputs if b.name not in read)))
    flat = {
        b.name: flat_at(address, b, a.symbols).clone()
        for address, b in zip(a.addresses, kernel.buffers.values(), strict=True)
    }
    return run_kernel(whole, flat, a.symbols, float64=True), error_bound(whole, flat, a.symbols)


def find_difference(name: str, got: torch.Tensor, expected: torch.Tensor, bound: torch.Tensor) -> str:
    """Where `got` is farther from `expected` than the bound allows; "" where it is not."""
    if not got.numel():
        return ""
    if not got.dtype.is_floating_point:
        wrong = (got.double() - expected.double()).abs() > bound
    else:
        exact, found = expected.double(), got.double()
        rounded = expected.to(got.dtype).double()
        slack = FACTOR * bound.double() + torch.finfo(got.dtype).eps * exact.abs() + torch.finfo(got.dtype).tiny
        same = (found == rounded) | (found.isnan() & exact.isnan()) | ((found - exact).abs() <= slack)
        wrong = ~(same | bound.isinf())
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in wrong.nonzero()[0])
    count = int(wrong.sum())
    return (
        f"{count} of {got.numel()} elements of {name} differ, the first at {list(at)}: "
        f"{got[at].item()!r} instead of {expected[at].item()!r} within {FACTOR * bound[at].item():.3g}"
    )
