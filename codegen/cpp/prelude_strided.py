"""Loads of every other element: wide loads of neighbours, of which a shuffle keeps the even ones.

ld_T_2(p)     p[0], p[2] .. p[2*N - 2]; nothing beyond the last of them is touched
ld_T_2m(p, m), ld_T_2n(p, n)     the same under a mask, and of the first n lanes; the others are 0

Elements of 16 bits stand in the lower halves of words of 32, which are the lanes as they are: a bf16 needs one shift.
"""

from __future__ import annotations

from .prelude_base import Shape

STORAGE = ("f32", "i32", "bf16", "f16", "i16")
"""What has such loads, in packs of more than one lane."""

_WHOLE = """
$K get_${K}_2(const $e* p) {
  return __builtin_shufflevector(get_$K(p), get_$K(p + $N - 1), $even);
}
$K ld_${e}_2(const $e* p) { return get_${K}_2(p); }
$K ld_${e}_2n(const $e* p, long n) { return ld_${e}_2m(p, first_n_M(n)); }
"""
_MASKED = {
    "avx512": """
$K ld_${e}_2m(const $e* p, M m) {
  unsigned k = spread_M(m);
  return __builtin_shufflevector(get_${K}_m(p, (M)k), get_${K}_m(p + $N, (M)(k >> $N)), $all);
}
""",
    "avx2": """
$K ld_${e}_2m(const $e* p, M m) {
  I low = __builtin_shufflevector(m, I{}, $low), high = __builtin_shufflevector(m, I{}, $high);
  return __builtin_shufflevector(get_${K}_m(p, low), get_${K}_m(p + $N, high), $all);
}
""",
}
_WORDS = {
    "avx512": """
// each lane's bit at twice its place
unsigned spread_M(M m) {
  unsigned k = m;
  k = (k | k << 8) & 0x00ff00ff;
  k = (k | k << 4) & 0x0f0f0f0f;
  k = (k | k << 2) & 0x33333333;
  return (k | k << 1) & 0x55555555;
}
typedef short Ws __attribute__((vector_size($N * 4)));
I words_2(const u16* p) { return (I)__builtin_ia32_loaddquhi${b}_mask((const short*)p, Ws{}, $most); }
I words_2m(const u16* p, M m) { return (I)__builtin_ia32_loaddquhi${b}_mask((const short*)p, Ws{}, spread_M(m)); }
""",
    "avx2": """
typedef unsigned U4 __attribute__((vector_size(16)));
I words_2(const u16* p) {
  U4 low = (U4)*(const B4u*)p, high = (U4)*(const B4u*)(p + 7);
  return (I)__builtin_shufflevector(low & 0xffff, high >> 16, 0, 1, 2, 3, 4, 5, 6, 7);
}
I words_2m(const u16* p, M m) {
  I v = {};
  for (int i = 0; i < $N; i++) if (at_M(m, i)) v[i] = p[2 * i];
  return v;
}
""",
}
_NARROW_WORDS = """
I words_2(const u16* p) { return I{p[0], p[2], p[4], p[6]}; }
I words_2m(const u16* p, M m) {
  I v = {};
  for (int i = 0; i < $N; i++) if (at_M(m, i)) v[i] = p[2 * i];
  return v;
}
"""
_HALVES = """
F ld_bf16_2(const bf16* p) { return (F)(words_2((const u16*)p) << 16); }
F ld_bf16_2m(const bf16* p, M m) { return (F)(words_2m((const u16*)p, m) << 16); }
F ld_bf16_2n(const bf16* p, long n) { return ld_bf16_2m(p, first_n_M(n)); }
F ld_f16_2(const f16* p) { return dec_f16(wrap_H(words_2((const u16*)p))); }
F ld_f16_2m(const f16* p, M m) { return dec_f16(wrap_H(words_2m((const u16*)p, m))); }
F ld_f16_2n(const f16* p, long n) { return ld_f16_2m(p, first_n_M(n)); }
I ld_i16_2(const i16* p) { return words_2((const u16*)p) << 16 >> 16; }
I ld_i16_2m(const i16* p, M m) { return words_2m((const u16*)p, m) << 16 >> 16; }
I ld_i16_2n(const i16* p, long n) { return ld_i16_2m(p, first_n_M(n)); }
"""


def strided_text(shape: Shape) -> str:
    """Definitions for packs of more than one lane."""
    n = shape.lanes
    words = _NARROW_WORDS if shape.kind == "avx2" and n < 8 else _WORDS[shape.kind]
    text = shape.fill(words, most=hex((1 << 2 * n - 1) - 1)) + _HALVES
    every = ", ".join(str(i) for i in range(0, 2 * n, 2))
    # The second load of a whole pack starts one element early, so that it ends with the last one that is wanted.
    even = ", ".join(str(i if i < n else i + 1) for i in range(0, 2 * n, 2))
    spread = [", ".join(f"{i}, {n}" for i in range(k, k + n // 2)) for k in (0, n // 2)]
    for kind, element in (("F", "f32"), ("I", "i32")):
        holes = {"K": kind, "e": element, "even": even, "all": every}
        text += shape.fill(_MASKED[shape.kind], low=spread[0], high=spread[1], **holes) + shape.fill(_WHOLE, **holes)
    return text
