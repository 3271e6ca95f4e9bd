"""Sums of narrow products in one instruction: pairs of bf16 (AVX512_BF16), quads of bytes (VNNI).

Operands are words of 32 bits, one a lane: their elements in the order in which they stand in memory.
"""

from __future__ import annotations

from .prelude_base import Shape, cases

WORDS = 32  # of 16 bits in a register of 512
_DOTS = """
// s + a0 * b0 + a1 * b1, of bf16: added in f32, denormals are 0 (Intel's manual, VDPBF16PS)
F dot_pairs_F(F s, I a, I b) { asm("vdpbf16ps %2, %1, %0" : "+v"(s) : "v"(a), "v"(b)); return s; }
// s + a0 * b0 + .. + a3 * b3, a of unsigned and b of signed bytes
I dot_quads_I(I s, I a, I b) { asm("${vex}vpdpbusd %2, %1, %0" : "+$v"(s) : "$v"(a), "$v"(b)); return s; }
// the words of values that are rounded to bf16
I pair_F(F low, F high) { return low_u16(enc_bf16(low)) | low_u16(enc_bf16(high)) << 16; }
// the same of values that bf16 holds
I pair_exact_F(F low, F high) { return (I)((U)low >> 16 | (U)high); }
// words of 16 bits each from a table of twice 16: entry `low`, and entry `high` of the second half
I lookup_I(I table, I low, I high) {
  I at = low | (high | 16) << 16, word;
  asm("vpermw %1, %2, %0" : "=v"(word) : "v"(table), "v"(at));
  return word;
}
// the same for the halves of bytes, where both halves of the table are the same
I lookup_nibbles_I(I table, I bytes) {
  I at = bytes | bytes << 12, word;
  asm("vpermw %1, %2, %0" : "=v"(word) : "v"(table), "v"(at));
  return word;
}
// the same for the last bits of halves of words, where the table has the same entries for whatever stands before them
I lookup_fields_I(I table, I words) {
  I word;
  asm("vpermw %1, %2, %0" : "=v"(word) : "v"(table), "v"(words));
  return word;
}
// bits of memory, one a lane: of the bytes from `p`
I bits_I(const u8 *p) {
  unsigned bits = 0;
  __builtin_memcpy(&bits, p, $N / 8);
  return (I)((bits - U{}) >> (U)iota_I()) & 1;
}
I bits_I_n(const u8 *p, long n) {
  unsigned bits = 0;
  __builtin_memcpy(&bits, p, (n + 7) / 8);
  return (I)((bits - U{}) >> (U)iota_I()) & 1;
}
// the upper halves of values that bf16 holds
I top_exact_F(F x) { return (I)((U)x >> 16); }
I quad_I(I a, I b, I c, I d) { return (I)((U)a << 24 >> 24 | (U)b << 24 >> 16 | (U)c << 24 >> 8 | (U)d << 24); }
"""

# Of packs of 16 alone: a register has 32 words then.
_TABLE = """
// words by the lower 7 bits of 32 bytes from a table of 128, negative where the upper bit says so
I lookup_bytes_I(I a, I b, I c, I d, const u8 *p) {
  typedef u8 B __attribute__((vector_size(32), aligned(1), may_alias));
  typedef u16 H __attribute__((vector_size(64)));
  H at;
  asm("vpmovzxbw %1, %0" : "=v"(at) : "m"(*(const B*)p));
  const H low = __builtin_shuffle((H)a, (H)b, at), high = __builtin_shuffle((H)c, (H)d, at);
  return (I)(((at & 64) != 0 ? high : low) ^ (at << 8 & 0x8000));
}
// words with `value` added where one of 32 bits from `p` is set
I add_bits_I(I words, const u8 *p, int value) {
  unsigned bits;
  __builtin_memcpy(&bits, p, 4);
  asm("vpaddw %2, %0, %0%{%1%}" : "+v"(words) : "Yk"(bits), "v"(value * 0x10001 - I{}));
  return words;
}
// the same of the bits of `n` pairs of words
I add_bits_I_n(I words, const u8 *p, long n, int value) {
  unsigned bits = 0;
  __builtin_memcpy(&bits, p, (n + 3) / 4);
  asm("vpaddw %2, %0, %0%{%1%}" : "+v"(words) : "Yk"(bits), "v"(value * 0x10001 - I{}));
  return words;
}
// words by numbers of 6, 7, 8 bits from tables of 32 words each
I lookup_6_I(I a, I b, I at) {
  typedef u16 H __attribute__((vector_size(64)));
  return (I)__builtin_shuffle((H)a, (H)b, (H)at);
}
I lookup_7_I(I a, I b, I c, I d, I at) {
  typedef u16 H __attribute__((vector_size(64)));
  return (I)(((H)at & 64) != 0 ? (H)lookup_6_I(c, d, at) : (H)lookup_6_I(a, b, at));
}
I lookup_8_I(I a, I b, I c, I d, I e, I f, I g, I h, I at) {
  typedef u16 H __attribute__((vector_size(64)));
  return (I)(((H)at & 128) != 0 ? (H)lookup_7_I(e, f, g, h, at) : (H)lookup_7_I(a, b, c, d, at));
}
// a table of twice 16 words for lookups: values that are rounded to bf16, in an order
I table_F(F values, I order) {
  typedef u16 H __attribute__((vector_size(32)));
  const H h = __builtin_convertvector((U)__builtin_shuffle(low_u16(enc_bf16(values)), order), H);
  return (I)__builtin_shufflevector(h, h, $half, $half);
}
"""


def dots_text(shape: Shape) -> str:
    """Definitions for vector packs; a kernel uses those that its processor has."""
    wide = shape.kind == "avx512"
    text = _DOTS + _TABLE if shape.lanes == WORDS // 2 else _DOTS
    return shape.fill(text, half=cases(WORDS // 2), vex="" if wide else "%{vex%} ", v="v" if wide else "x")
