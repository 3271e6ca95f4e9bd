"""Primitives of AVX-512: masks live in mask registers, one bit a lane."""

from __future__ import annotations

from .prelude_base import Shape
from .prelude_simd import HALF_CONVERSIONS

_MASKS = """
typedef unsigned $mask M;
M sp_M(bool x) { return x ? $full : 0; }
M first_n_M(long n) { return (M)((1u << (n < 0 ? 0 : n > $N ? $N : n)) - 1); }
M and_M(M a, M b) { return a & b; }
M or_M(M a, M b) { return a | b; }
M xor_M(M a, M b) { return a ^ b; }
M not_M(M a) { return a ^ $full; }
bool any_M(M m) { return m != 0; }
bool all_M(M m) { return m == $full; }
bool at_M(M m, int lane) { return m >> lane & 1; }
bool last_M(M m) { return m >> ($N - 1); }
i32 count_M(M m) { return __builtin_popcount(m); }
i32 first_lane_M(M m) { return m ? __builtin_ctz(m) : $N; }
I cvt_M_I(M m) { return sel_I(m, sp_I(1), I{}); }
F cvt_M_F(M m) { return sel_F(m, sp_F(1), F{}); }
"""

_WIDE = """
D cvt_M_D(M m) { return sel_D(m, sp_D(1), D{}); }
L cvt_M_L(M m) { return sel_L(m, sp_L(1), L{}); }
D cvt_F_D(F x) { return __builtin_ia32_cvtps2pd$f2d; }
L cvt_F_L(F x) { return (L)__builtin_ia32_cvttps2qq${q}_mask(x, Q{}, -1$r); }
D cvt_I_D(I x) { return __builtin_ia32_cvtdq2pd${q}_mask(x, D{}, -1); }
L cvt_I_L(I x) { return (L)__builtin_ia32_pmovsxdq${q}_mask(x, Q{}, -1); }
I cvt_L_I(L x) { return $l2i; }
"""

_COMPARES = """
M eq_$A($A a, $A b) { return __builtin_ia32_cmp$t${w}_mask(${c}a, ${c}b, $eq, -1$r); }
M ne_$A($A a, $A b) { return __builtin_ia32_cmp$t${w}_mask(${c}a, ${c}b, 4, -1$r); }
M lt_$A($A a, $A b) { return __builtin_ia32_cmp$t${w}_mask(${c}a, ${c}b, $lt, -1$r); }
M le_$A($A a, $A b) { return __builtin_ia32_cmp$t${w}_mask(${c}a, ${c}b, $le, -1$r); }
M gt_$A($A a, $A b) { return lt_$A(b, a); }
M ge_$A($A a, $A b) { return le_$A(b, a); }
$A sel_$A(M m, $A a, $A b) { return ($A)__builtin_ia32_blendm${t}_${w}_mask(${c}b, ${c}a, m); }
$A get_${A}_m(const $e* p, M m) { return ($A)__builtin_ia32_load$u${w}_mask((const $ce*)p, ${c}$A{}, m); }
void put_${A}_m($e* p, $A v, M m) { ${own}__builtin_ia32_store$u${w}_mask(($ce*)p, ${c}v, m); }
$A get_${A}_n(const $e* p, long n) { return get_${A}_m(p, first_n_M(n)); }
void put_${A}_n($e* p, $A v, long n) { put_${A}_m(p, v, first_n_M(n)); }
"""

_NARROW = """
I low_u8(B v) { return __builtin_ia32_pmovzxbd$bd; }
I low_i8(B v) { return __builtin_ia32_pmovsxbd$bd; }
I low_u16(H v) { return __builtin_ia32_pmovzxwd$wd; }
I low_i16(H v) { return __builtin_ia32_pmovsxwd$wd; }
B wrap_B(I v) { return (B)__builtin_ia32_pmovdb${b}_mask(v, Bc{}, -1); }
H wrap_H(I v) { return (H)__builtin_ia32_pmovdw${b}_mask(v, Hs{}, -1); }
H pack_H(I v) { return wrap_H(v); }
B get_B_m(const u8* p, M m) { return (B)__builtin_ia32_loaddquqi128_mask((const char*)p, Bc{}, m); }
H get_H_m(const u16* p, M m) { return (H)__builtin_ia32_loaddquhi${h}_mask((const short*)p, Hs{}, m); }
void put_B_m(u8* p, B v, M m) { __builtin_ia32_storedquqi128_mask((char*)p, (Bc)v, m); }
void put_H_m(u16* p, H v, M m) { __builtin_ia32_storedquhi${h}_mask((short*)p, (Hs)v, m); }
B get_B_n(const u8* p, long n) { return get_B_m(p, first_n_M(n)); }
H get_H_n(const u16* p, long n) { return get_H_m(p, first_n_M(n)); }
void put_B_n(u8* p, B v, long n) { put_B_m(p, v, first_n_M(n)); }
void put_H_n(u16* p, H v, long n) { put_H_m(p, v, first_n_M(n)); }
M dec_b8(B v) { return __builtin_ia32_ptestmb128((Bc)v, (Bc)v, -1); }
B enc_b8(M m) { return (B)__builtin_ia32_cvtmask2b128(m) & 1; }
F dec_f16(H v) { return $ph2ps; }
H enc_f16(F x) { return (H)$ps2ph; }
// p * 2^n for integral n, correct into overflow and denormals
F scale2_F(F p, F n) { return __builtin_ia32_scalefps${b}_mask(p, n, F{}, -1$r); }
// x86 order: b where a or b is NaN. As a choice between them the compiler takes twice the instructions
F vmin_F(F a, F b) { return __builtin_ia32_minps$clamp; }
F vmax_F(F a, F b) { return __builtin_ia32_maxps$clamp; }
// the upper halves of v, a NaN's where x is one
I top_half_I(F x, U v) {
  return __builtin_ia32_psrldi${b}_mask((I)v, 16, sp_I(0x7fc0), __builtin_ia32_cmpps${b}_mask(x, x, 7, -1$r));
}
// a + b unless x < least, else 0
F add_unless_below_F(F x, F least, F a, F b) {
  M m = __builtin_ia32_cmpps${b}_mask(x, least, 21, -1$r);
  return __builtin_ia32_addps${b}_mask(a, b, F{}, m$r);
}
"""

_FLOAT = {"eq": 0, "lt": 17, "le": 18}
_INTEGER = {"eq": 0, "lt": 1, "le": 2}
_32_BIT = (
    {"A": "F", "t": "ps", "c": "", "e": "f32", "ce": "float", "u": "ups", **_FLOAT},
    {"A": "I", "t": "d", "c": "", "e": "i32", "ce": "int", "u": "dqusi", **_INTEGER},
)
_64_BIT = (
    {"A": "D", "t": "pd", "c": "", "e": "f64", "ce": "double", "u": "upd", **_FLOAT},
    {"A": "L", "t": "q", "c": "(Q)", "e": "i64", "ce": "long long", "u": "dqudi", **_INTEGER},
)


def avx512_text(shape: Shape) -> str:
    """Definitions for packs of 16, 8 or 4 lanes."""
    n, bits = shape.lanes, shape.bits
    full = hex((1 << n) - 1)
    text = shape.fill(_MASKS, mask="short" if n == 16 else "char", full=full)
    text += "".join(_compares(shape, bits, row) for row in _32_BIT)
    sized = "512_mask((%s)v, I{}, -1)" if bits == 512 else f"{bits}((%s)v)"
    ph2ps, ps2ph = HALF_CONVERSIONS[bits]
    text += shape.fill(
        _NARROW,
        bd=sized % "Bc",
        wd=sized % "Hs",
        h=max(128, 16 * n),
        ph2ps=ph2ps,
        ps2ph=ps2ph,
        r=_rounding(bits),
        clamp={512: "512_mask(a, b, F{}, -1, 4)", 256: "256(a, b)", 128: "(a, b)"}[bits],
    )
    if shape.has_wide:
        text += "".join(_compares(shape, shape.wide_bits, row) for row in _64_BIT) + _wide(shape)
    return text


def _compares(shape: Shape, width: int, row: dict[str, object]) -> str:
    rounding = _rounding(width) if row["t"] in ("ps", "pd") else ""
    # A half of a wider register must not be stored by vextract: it faults on lanes that the mask leaves out.
    own = "" if width == 512 else 'asm("" : "+v"(v)); '
    return shape.fill(_COMPARES, w=width, r=rounding, own=own, **row)


def _wide(shape: Shape) -> str:
    q = shape.wide_bits
    if q == 512:
        return shape.fill(
            _WIDE, f2d="512_mask(x, D{}, -1, 4)", l2i="__builtin_ia32_pmovqd512_mask((Q)x, I{}, -1)", r=", 4"
        )
    return shape.fill(_WIDE, f2d="256(x)", l2i="__builtin_ia32_pmovqd256_mask((Q)x, I{}, -1)", r="")


def _rounding(bits: int) -> str:
    """The rounding operand (current direction) that only 512-bit forms take."""
    return ", 4" if bits == 512 else ""
