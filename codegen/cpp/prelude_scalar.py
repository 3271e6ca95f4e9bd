"""Primitives for packs of one lane: plain scalars, written so that `#pragma omp simd` loops over them vectorise."""

from __future__ import annotations

from .prelude_base import Shape
from .prelude_memory import STORAGE, VARIANTS

_BASE = """
typedef float F;
typedef double D;
typedef int I;
typedef long L;
typedef unsigned U;
typedef unsigned long UL;
typedef bool M;
M sp_M(bool x) { return x; }
M first_n_M(long n) { return n > 0; }
M and_M(M a, M b) { return a & b; }
M or_M(M a, M b) { return a | b; }
M xor_M(M a, M b) { return a ^ b; }
M not_M(M a) { return !a; }
M sel_M(M m, M a, M b) { return m ? a : b; }
bool any_M(M m) { return m; }
bool all_M(M m) { return m; }
i32 count_M(M m) { return m; }
i32 first_lane_M(M m) { return !m; }
I iota_I() { return 0; }
L iota_L() { return 0; }
I bits_F(F x) { return __builtin_bit_cast(I, x); }
F float_I(I x) { return __builtin_bit_cast(F, x); }
L bits_D(D x) { return __builtin_bit_cast(L, x); }
D float_L(L x) { return __builtin_bit_cast(D, x); }
// p * 2^n for integral n, correct into overflow and denormals: two factors, each in range
F scale2_F(F p, F n) {
  I e = (I)n, h = e >> 1;
  return p * float_I((h + 127) << 23) * float_I((e - h + 127) << 23);
}
void fence_nt() {}
I wrap_i8(I v) { return (i8)v; }
I wrap_u8(I v) { return (u8)v; }
I wrap_i16(I v) { return (i16)v; }
F dec_bf16(bf16 v) { return float_I((I)((U)v << 16)); }
// to nearest even; NaN stays NaN
bf16 enc_bf16(F x) {
  U u = (U)bits_F(x);
  return (bf16)(x != x ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}
F rnd_bf16(F x) { return dec_bf16(enc_bf16(x)); }
F rnd_f16(F x) { return dec_f16(enc_f16(x)); }
"""

_EACH = """
$A sp_$A($e x) { return x; }
M eq_$A($A a, $A b) { return a == b; }
M ne_$A($A a, $A b) { return a != b; }
M lt_$A($A a, $A b) { return a < b; }
M le_$A($A a, $A b) { return a <= b; }
M gt_$A($A a, $A b) { return a > b; }
M ge_$A($A a, $A b) { return a >= b; }
$A sel_$A(M m, $A a, $A b) { return m ? a : b; }
"""

_LANE = """
$e at_$A($A x, int lane) { return x; }
$e last_$A($A x) { return x; }
"""

_FLOAT = """
$A vmin_$A($A a, $A b) { return a < b ? a : b; }
$A vmax_$A($A a, $A b) { return a > b ? a : b; }
$A add_unless_below_$A($A x, $A least, $A a, $A b) { return x < least ? 0 : a + b; }
$A floor_$A($A x) { return __builtin_floor$f(x); }
$A ceil_$A($A x) { return __builtin_ceil$f(x); }
$A trunc_$A($A x) { return __builtin_trunc$f(x); }
$A round_even_$A($A x) { return __builtin_rint$f(x); }
$A sqrt_$A($A x) { return __builtin_sqrt$f(x); }
$A fma_$A($A a, $A b, $A c) { return $fma; }
"""

_INTEGER = """
$A min_$A($A a, $A b) { return a < b ? a : b; }
$A max_$A($A a, $A b) { return a > b ? a : b; }
$A abs_$A($A x) { return x < 0 ? -x : x; }
"""

_HARDWARE_F16 = """
typedef float F4 __attribute__((vector_size(16)));
typedef short H8 __attribute__((vector_size(16)));
F dec_f16(f16 v) { return __builtin_ia32_vcvtph2ps(H8{(short)v})[0]; }
f16 enc_f16(F x) { return (f16)__builtin_ia32_vcvtps2ph(F4{x}, 0)[0]; }
"""

_SOFTWARE_F16 = """
// the exponent is moved by a multiplication, which also normalises denormals
F dec_f16(f16 v) {
  F x = float_I((v & 0x7fff) << 13) * 0x1p112f;
  I u = bits_F(x);
  return float_I((v & 0x8000) << 16 | (x >= 65536.0f ? u | 0x7f800000 : u));
}
// to nearest even: the additions round at the last bit that f16 keeps, of denormals and of normals
f16 enc_f16(F x) {
  U u = (U)bits_F(x), a = u & 0x7fffffff, sign = u >> 16 & 0x8000;
  U tiny = (U)bits_F(float_I((I)a) + 0.5f) - 0x3f000000;
  U normal = (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13;
  U r = a > 0x7f800000 ? 0x7e00 : a >= 0x47800000 ? 0x7c00 : a < 0x38800000 ? tiny : normal;
  return (f16)(sign | r);
}
"""

_TYPES = {"F": "f32", "D": "f64", "I": "i32", "L": "i64"}
_ADDRESS = {
    "": ("p[0]", ""),
    "_n": ("p[0]", "n > 0"),
    "_m": ("p[0]", "m"),
    "_s": ("p[0]", ""),
    "_sn": ("p[0]", "n > 0"),
    "_gi": ("p[idx]", ""),
    "_gim": ("p[idx]", "m"),
    "_g": ("p[idx]", ""),
    "_gm": ("p[idx]", "m"),
    "_nt": ("p[0]", ""),
}


def scalar_text(shape: Shape) -> str:
    """Definitions for one lane."""
    text = _BASE + (_HARDWARE_F16 if shape.has_fma else _SOFTWARE_F16)
    for pack, element in _TYPES.items():
        text += shape.fill(_EACH + _LANE, A=pack, e=element)
    text += shape.fill(_LANE, A="M", e="bool")
    for pack, suffix in (("F", "f"), ("D", "")):
        fma = f"__builtin_fma{suffix}(a, b, c)" if shape.has_fma else "a * b + c"
        text += shape.fill(_FLOAT, A=pack, f=suffix, fma=fma)
    text += "".join(shape.fill(_INTEGER, A=pack) for pack in "IL")
    return text + _casts() + "".join(_memory(storage) for storage in STORAGE)


def _casts() -> str:
    lines = []
    for a in _TYPES:
        lines += [f"{b} cvt_{a}_{b}({a} x) {{ return ({b})x; }}" for b in _TYPES if b != a]
        lines.append(f"{a} cvt_M_{a}(M m) {{ return m; }}")
    return "\n".join(lines) + "\n"


def _memory(storage: str) -> str:
    _, pack, decode, encode = STORAGE[storage]
    if decode not in ("dec_bf16", "dec_f16"):
        decode, encode = "", f"({storage})"
    if storage == "b8":
        decode = "0 != "
    lines = []
    for suffix, (place, guard) in _ADDRESS.items():
        parameters = VARIANTS.get(suffix, ("", ""))[0]
        value = f"{decode}({place})"
        value = f"{guard} ? {value} : 0" if guard else value
        store = f"{f'if ({guard}) ' if guard else ''}{place} = {encode}(v);"
        if suffix != "_nt":
            lines.append(f"{pack} ld_{storage}{suffix}(const {storage}* p{parameters}) {{ return {value}; }}")
        lines.append(f"void st_{storage}{suffix}({storage}* p, {pack} v{parameters}) {{ {store} }}")
    return "\n".join(lines) + "\n"
