"""Primitives of AVX2: masks are packs of i32, 0 or -1 in each lane."""

from __future__ import annotations

from .prelude_base import Shape
from .prelude_simd import HALF_CONVERSIONS

_MASKS = """
typedef I M;
M sp_M(bool x) { return sp_I(-x); }
M first_n_M(long n) { return iota_I() < (int)(n < 0 ? 0 : n > $N ? $N : n); }
M and_M(M a, M b) { return a & b; }
M or_M(M a, M b) { return a | b; }
M xor_M(M a, M b) { return a ^ b; }
M not_M(M a) { return ~a; }
i32 bits_M(M m) { return __builtin_ia32_movmskps$w((F)m); }
bool any_M(M m) { return bits_M(m) != 0; }
bool all_M(M m) { return bits_M(m) == $full; }
bool at_M(M m, int lane) { return m[lane] != 0; }
bool last_M(M m) { return m[$N - 1] != 0; }
i32 count_M(M m) { return __builtin_popcount(bits_M(m)); }
i32 first_lane_M(M m) { i32 k = bits_M(m); return k ? __builtin_ctz(k) : $N; }
I cvt_M_I(M m) { return m & 1; }
F cvt_M_F(M m) { return (F)(m & 0x3f800000); }
"""

_COMPARES = """
M eq_$A($A a, $A b) { return a == b; }
M ne_$A($A a, $A b) { return a != b; }
M lt_$A($A a, $A b) { return a < b; }
M le_$A($A a, $A b) { return a <= b; }
M gt_$A($A a, $A b) { return a > b; }
M ge_$A($A a, $A b) { return a >= b; }
$A sel_$A(M m, $A a, $A b) { return m < 0 ? a : b; }
$A get_${A}_m(const $e* p, M m) { return ($A)__builtin_ia32_maskload$t$w((const $A*)p, m); }
void put_${A}_m($e* p, $A v, M m) { __builtin_ia32_maskstore$t$w(($A*)p, m, v); }
$A get_${A}_n(const $e* p, long n) { return get_${A}_m(p, first_n_M(n)); }
void put_${A}_n($e* p, $A v, long n) { put_${A}_m(p, v, first_n_M(n)); }
"""

_WIDE_COMPARES = """
M eq_$A($A a, $A b) { return low_M(a == b); }
M ne_$A($A a, $A b) { return low_M(a != b); }
M lt_$A($A a, $A b) { return low_M(a < b); }
M le_$A($A a, $A b) { return low_M(a <= b); }
M gt_$A($A a, $A b) { return low_M(a > b); }
M ge_$A($A a, $A b) { return low_M(a >= b); }
$A sel_$A(M m, $A a, $A b) { return wide_M(m) < 0 ? a : b; }
$A get_${A}_m(const $e* p, M m) { return ($A)__builtin_ia32_maskload$t((const $c*)p, (Q)wide_M(m)); }
void put_${A}_m($e* p, $A v, M m) { __builtin_ia32_maskstore$t(($c*)p, (Q)wide_M(m), ($c)v); }
$A get_${A}_n(const $e* p, long n) { return get_${A}_m(p, first_n_M(n)); }
void put_${A}_n($e* p, $A v, long n) { put_${A}_m(p, v, first_n_M(n)); }
"""

_WIDE = """
typedef int I2x __attribute__((vector_size(32)));
I low_L(L x) { return __builtin_shufflevector((I2x)x, (I2x)x, 0, 2, 4, 6); }
M low_M(L x) { return low_L(x); }
L wide_M(M m) { return (L)__builtin_ia32_pmovsxdq256(m); }
D cvt_M_D(M m) { return (D)(wide_M(m) & 0x3ff0000000000000); }
L cvt_M_L(M m) { return wide_M(m) & 1; }
D cvt_F_D(F x) { return __builtin_ia32_cvtps2pd256(x); }
L cvt_F_L(F x) { return __builtin_convertvector(x, L); }
D cvt_I_D(I x) { return __builtin_ia32_cvtdq2pd256(x); }
L cvt_I_L(I x) { return (L)__builtin_ia32_pmovsxdq256(x); }
I cvt_L_I(L x) { return low_L(x); }
"""

_NARROW = """
I low_u8(B v) { return __builtin_ia32_pmovzxbd$b((Bc)v); }
I low_i8(B v) { return __builtin_ia32_pmovsxbd$b((Bc)v); }
I low_u16(H v) { return __builtin_ia32_pmovzxwd$b((Hs)v); }
I low_i16(H v) { return __builtin_ia32_pmovsxwd$b((Hs)v); }
B wrap_B(I v) { H h = wrap_H(v & 255); return (B)__builtin_ia32_packuswb128((Hs)h, (Hs)h); }
H wrap_H(I v) { return pack_H(v & 0xffff); }
M dec_b8(B v) { return low_u8(v) != 0; }
B enc_b8(M m) { return wrap_B(m & 1); }
F dec_f16(H v) { return $ph2ps; }
H enc_f16(F x) { return (H)$ps2ph; }
// p * 2^n for integral n, correct into overflow and denormals: two factors, each in range
F scale2_F(F p, F n) {
  I e = __builtin_convertvector(n, I), h = e >> 1;
  return p * (F)((h + 127) << 23) * (F)((e - h + 127) << 23);
}
// x86 order: b where a or b is NaN
F vmin_F(F a, F b) { return a < b ? a : b; }
F vmax_F(F a, F b) { return a > b ? a : b; }
// the upper halves of v, a NaN's where x is one
I top_half_I(F x, U v) { return sel_I(x != x, sp_I(0x7fc0), (I)(v >> 16)); }
// a + b unless x < least, else 0
F add_unless_below_F(F x, F least, F a, F b) { return (F)(~(x < least) & (I)(a + b)); }
"""

_PACK = {
    8: """
typedef long long Q4 __attribute__((vector_size(32)));
H pack_H(I v) { Q4 q = (Q4)__builtin_ia32_packusdw256(v, v); return (H)(B2){q[0], q[2]}; }
""",
    4: """
H pack_H(I v) { return (H)__builtin_ia32_packusdw128(v, v); }
""",
}

_MASKED_BUFFERS = """
$K get_${K}_m(const $e* p, M m) {
  $e b[sizeof($K) / sizeof($e)] = {};
  for (int i = 0; i < $N; i++) if (m[i]) b[i] = p[i];
  return get_$K(b);
}
void put_${K}_m($e* p, $K v, M m) { for (int i = 0; i < $N; i++) if (m[i]) p[i] = v[i]; }
$K get_${K}_n(const $e* p, long n) {
  $e b[sizeof($K) / sizeof($e)] = {};
  for (long i = 0; i < n && i < $N; i++) b[i] = p[i];
  return get_$K(b);
}
void put_${K}_n($e* p, $K v, long n) { for (long i = 0; i < n && i < $N; i++) p[i] = v[i]; }
"""


def avx2_text(shape: Shape) -> str:
    """Definitions for packs of 8 or 4 lanes."""
    n, width = shape.lanes, "256" if shape.lanes == 8 else ""
    ph2ps, ps2ph = HALF_CONVERSIONS[shape.bits]
    text = shape.fill(_MASKS, w=width, full=hex((1 << n) - 1)) + _PACK[n]
    text += shape.fill(_COMPARES, A="F", e="f32", t="ps", w=width)
    text += shape.fill(_COMPARES, A="I", e="i32", t="d", w=width)
    text += shape.fill(_NARROW, ph2ps=ph2ps, ps2ph=ps2ph)
    text += shape.fill(_MASKED_BUFFERS, K="B", e="u8") + shape.fill(_MASKED_BUFFERS, K="H", e="u16")
    if shape.has_wide:
        text += shape.fill(_WIDE)
        text += shape.fill(_WIDE_COMPARES, A="D", c="D", e="f64", t="pd256")
        text += shape.fill(_WIDE_COMPARES, A="L", c="Q", e="i64", t="q256")
    return text
