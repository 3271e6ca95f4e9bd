"""The prelude of a generated C++ file: exactly the functions that its kernels use, at one width.

A kernel computes in packs of N lanes: F (f32), D (f64), I (i32), L (i64), M (mask). Tensors hold storage types:
f32 f64 f16 bf16 i8 u8 i16 i32 i64 b8. Each storage type computes in one pack: b8 in M; i8, u8, i16, i32 in I; i64 in L;
f16, bf16, f32 in F; f64 in D. D and L need N * 8 <= the register width. With N = 1 packs are scalars, M is bool.

- `+ - * & | ^ ~ << >>` work on packs as far as C++ has them, `/` on F and D. M is opaque: only functions take it.
- Memory, T a storage type: `ld_T(p)`, `st_T(p, v)`, with suffix `_n` (first n lanes, any n), `_m` (mask), `_s`
  (stride), `_sn` (stride, n), `_gi` and `_g` (offsets in I, in L), `_gim` and `_gm` (offsets, mask). Loads of every
  other element, where N > 1, of 16 and 32 bits: `ld_T_2`, `_2n`, `_2m`. Lanes not loaded are 0, and their memory is
  not touched. `st_T_nt` goes around the cache: aligned, `fence_nt()` before another thread reads.
- Packs, A one of F D I L: `sp_A(scalar) sel_A(mask, a, b) iota_I() iota_L() at_A(a, lane) last_A(a) cvt_A_B(a)`,
  compares `eq_A ne_A lt_A le_A gt_A ge_A`, `min_A max_A abs_A neg_A sign_A signbit_A`, of floats `copysign_A isnan_A
  isinf_A isfinite_A fma_A sqrt_A rsqrt_A recip_A floor_A ceil_A trunc_A round_even_A`, of integers `shl_A shr_A`;
  `div_trunc_A mod_trunc_A` (C's sign; of floats `fmod_trunc_A`), `div_floor_A mod_floor_A` (python's sign).
- Rounding points `rnd_bf16 rnd_f16` on F, `wrap_i8 wrap_u8 wrap_i16` on I.
- Masks: `first_n_M(n) sp_M(bool) and_M or_M xor_M not_M sel_M any_M all_M count_M first_lane_M at_M last_M cvt_M_A`.
- Across lanes: `hsum_A hprod_A hmin_A hmax_A` (a scalar), `scan_add_A scan_mul_A scan_min_A scan_max_A`,
  `transpose_A(A r[N])`, also of the raw kinds H (16 bits; `get_H`, `put_H`) and B (8 bits, N = 16).
- Words of 32 bits: `pair_F pair_exact_F` (two bf16) and `quad_I` (four bytes) make them, `dot_pairs_F dot_quads_I` add
  the products of their elements, where the processor does.
- `Tiles`: the tile registers of a processor that has them, with `shape zero load store dot_bf16 dot_ss dot_su dot_us
  dot_uu`.
- `philox_L(key, step, at)`: random bits by their number.
- Functions of F and D: `exp exp2 expm1 log log2 log10 log1p sigmoid tanh sinh cosh asinh acosh atanh erf erfc erfinv
  lgamma digamma sin cos tan asin acos atan atan2 pow hypot nextafter`, each with the suffix of its pack. `MAX_ULP` says
  how exact.

Prefixed by `wN::` from outside, since names are the same at each width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from .isa import ISAS, Isa
from .prelude_avx2 import avx2_text
from .prelude_avx512 import avx512_text
from .prelude_base import Shape, split_definitions
from .prelude_common import common_text
from .prelude_dots import dots_text
from .prelude_double import double_text
from .prelude_lanes import lanes_text
from .prelude_math import ULP as MATH_ULP
from .prelude_math import math_text
from .prelude_memory import memory_text
from .prelude_reduce import reduce_text
from .prelude_scalar import scalar_text
from .prelude_simd import simd_text
from .prelude_strided import strided_text
from .prelude_tiles import tiles_text
from .prelude_trig import ULP as TRIG_ULP
from .prelude_trig import trig_text
from .prelude_wide import ULP as WIDE_ULP
from .prelude_wide import wide_text

STORAGE_TYPES = """\
typedef float f32; typedef double f64; typedef unsigned short f16, bf16, u16;
typedef signed char i8; typedef unsigned char u8, b8, boolean; typedef short i16; typedef int i32; typedef long i64;
typedef int word4u __attribute__((aligned(1), may_alias));
#define FN static inline __attribute__((always_inline, unused))
#define COLD static __attribute__((noinline, unused))
"""
"""Comes first in every prelude; repeating it in one file is legal."""

MAX_ULP: dict[str, float] = MATH_ULP | TRIG_ULP | WIDE_ULP
"""How far functions of F are from the exact result at most, in units of its last place, where FMA is there.

sigmoid is 0 below -88.7, as eager is.
"""

_PRIMITIVES = {
    "avx512": (simd_text, avx512_text, memory_text, strided_text, dots_text, tiles_text),
    "avx2": (simd_text, avx2_text, memory_text, strided_text, dots_text),
}
_SHARED = (common_text, math_text, trig_text, wide_text, double_text, lanes_text, reduce_text)
_IDENTIFIER = re.compile(r"\b[A-Za-z]\w*")


def prelude(isa: Isa, lanes: int, names: Iterable[str]) -> str:
    """Text that defines `names` and what they need, in `namespace w<lanes>`.

    Raises ValueError for a width that `isa` does not have, or a name that this width does not have.
    """
    shape = Shape(isa, lanes)
    table = _definitions(shape)
    lines: dict[str, str] = {}
    for name in sorted(set(names)):
        if name not in table:
            raise ValueError(_explain(shape, name))
        _emit(name, table, lines)
    body = "\n".join(lines.values())
    return f"{STORAGE_TYPES}namespace w{lanes} {{\n{body}\n}}  // namespace w{lanes}\n"


def known(name: str) -> bool:
    """Whether some width defines `name`."""
    return name in _all_names()


def names_at(isa: Isa, lanes: int) -> tuple[str, ...]:
    """All that one width defines: functions and types."""
    return tuple(_definitions(Shape(isa, lanes)))


@lru_cache(maxsize=1)
def _all_names() -> frozenset[str]:
    shapes = (Shape(ISAS["avx512"], 16), Shape(ISAS["avx512"], 8), Shape(ISAS["avx2"], 8), Shape(ISAS["scalar"], 1))
    return frozenset().union(*(_definitions(shape) for shape in shapes))


def _emit(name: str, table: dict[str, str], lines: dict[str, str]) -> None:
    """Add `name` to `lines` after all that it uses."""
    if name in lines:
        return
    text = table[name]
    for used in _uses(name, text, table):
        _emit(used, table, lines)
    lines[name] = _finish(text)


@lru_cache(maxsize=16)
def _definitions(shape: Shape) -> dict[str, str]:
    """Name -> C++ text, in the order of the texts."""
    primitives = (scalar_text,) if shape.kind == "scalar" else _PRIMITIVES[shape.kind]
    table: dict[str, str] = {}
    for text in (*primitives, *_SHARED):
        table.update(split_definitions(text(shape)))
    return table


def _uses(name: str, text: str, table: dict[str, str]) -> tuple[str, ...]:
    code = re.sub(r"//.*", "", text)
    return tuple(sorted({word for word in _IDENTIFIER.findall(code) if word in table and word != name}))


def _finish(text: str) -> str:
    """Mark functions, below their comments, to be inlined."""
    lines = text.split("\n")
    first = next(i for i, line in enumerate(lines) if not line.startswith("//"))
    if not lines[first].startswith(("COLD", "typedef", "struct")):
        lines[first] = "FN " + lines[first]
    return "\n".join(lines)


def _explain(shape: Shape, name: str) -> str:
    where = f"{shape.lanes} lanes on {shape.isa.name}"
    if name in _definitions(Shape(shape.isa, shape.isa.lanes(8))):
        return f"{name!r} needs packs of 8-byte elements, too wide for {where}: use {shape.isa.lanes(8)} lanes"
    if known(name):
        return f"the prelude has no function {name!r} for {where}"
    return f"the prelude has no function {name!r}: treadle.codegen.cpp.prelude lists those it has"
