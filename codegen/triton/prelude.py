"""Functions that kernels call and Triton does not have, each printed into the source of the kernels that need it."""

from __future__ import annotations

HELPERS = {
    "div_floor": """\
@triton.jit
def div_floor(a, b):
    \"\"\"floor(a / b) as torch computes it: from the exact remainder.\"\"\"
    rest = libdevice.fmod(a, b)
    whole = (a - rest) / b
    whole = tl.where((rest != 0) & ((b < 0) != (rest < 0)), whole - 1, whole)
    near = libdevice.floor(whole)
    near = tl.where(whole - near > 0.5, near + 1, near)
    return tl.where(b == 0, a / b, tl.where(whole == 0, libdevice.copysign(whole, a / b), near))
""",
    "mod_floor": """\
@triton.jit
def mod_floor(a, b):
    rest = libdevice.fmod(a, b)
    return tl.where((rest != 0) & ((b < 0) != (rest < 0)), rest + b, rest)
""",
    "div_trunc": """\
@triton.jit
def div_trunc(a, b):
    return libdevice.trunc(a / b)
""",
    "mod_trunc": """\
@triton.jit
def mod_trunc(a, b):
    return libdevice.fmod(a, b)
""",
    "div_trunc_i": """\
@triton.jit
def div_trunc_i(a, b):
    \"\"\"By zero: 0.\"\"\"
    return tl.where(b == 0, 0, a // tl.where(b == 0, 1, b))
""",
    "mod_trunc_i": """\
@triton.jit
def mod_trunc_i(a, b):
    return tl.where(b == 0, 0, a % tl.where(b == 0, 1, b))
""",
    "div_floor_i": """\
@triton.jit
def div_floor_i(a, b):
    \"\"\"Triton's // rounds toward zero. By zero: 0.\"\"\"
    d = tl.where(b == 0, 1, b)
    whole = a // d
    rest = a - whole * d
    return tl.where(b == 0, 0, tl.where((rest != 0) & ((rest < 0) != (d < 0)), whole - 1, whole))
""",
    "mod_floor_i": """\
@triton.jit
def mod_floor_i(a, b):
    d = tl.where(b == 0, 1, b)
    rest = a % d
    return tl.where(b == 0, 0, tl.where((rest != 0) & ((rest < 0) != (d < 0)), rest + d, rest))
""",
    "sign": """\
@triton.jit
def sign(a):
    return tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, 0.0))
""",
    "sign_i": """\
@triton.jit
def sign_i(a):
    return (a > 0).to(tl.int32) - (a < 0).to(tl.int32)
""",
    "philox": """\
@triton.jit
def philox(key, step, at):
    \"\"\"Words 0 and 1 of block (at, step) of Philox4x32-10 under the key, word 1 in the upper half.\"\"\"
    at = at + tl.full([], 0, tl.int64)
    step = step + (at - at)
    key = key + (at - at)
    low = 0xFFFFFFFF
    a, b, _, _ = tl.philox(
        key, (at & low).to(tl.uint32), ((at >> 32) & low).to(tl.uint32), (step & low).to(tl.uint32),
        ((step >> 32) & low).to(tl.uint32))
    return a.to(tl.int64) | (b.to(tl.int64) << 32)
""",
}
HEAD = """\
import triton
import triton.language as tl
"""
LIBRARY = "from triton.language.extra import libdevice\n"


def print_module(functions: list[str], helpers: set[str]) -> str:
    """The text of a module: imports, the functions that kernels call, the kernels."""
    called = [HELPERS[name] for name in sorted(helpers)]
    body = "\n\n".join([*called, *functions])
    imports = HEAD + (LIBRARY if "libdevice." in body else "")
    return f"{imports}\n\n{body}"
