"""Tile registers: eight of up to 16 rows of 64 bytes, which multiply pairs of bf16 and quads of bytes (AMX).

Written a second time as plain C++, for tests on processors that have none: `EMULATED` among the features of an `Isa`
chooses that. The operating system is asked once for the right to use them.
"""

from __future__ import annotations

from .prelude_base import Shape

EMULATED = "amx_emulated"

_TILES = """
// the right to tile registers, asked for once: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
COLD void allow_tiles() {
  static bool asked;
  if (asked) return;
  long refused;
  asm volatile("syscall" : "=a"(refused) : "a"(158L), "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
  if (refused) __builtin_trap();  // nobody compiles for tiles where the system refuses them
  asked = true;
}
// 0 to 3 are sums, 4 and 5 left operands, 6 and 7 right ones
struct Tiles {
  int rows = 0, words = 0;
  ~Tiles() { if (rows) asm volatile("tilerelease"); }
  // rows of the sums and of the left operands; words of 32 bits of those, which are the rows of the right ones
  void shape(int left_rows, int left_words) {
    if (left_rows == rows && left_words == words) return;
    allow_tiles();
    alignas(64) u8 config[64] = {1};
    for (int t = 0; t < 8; t++) config[16 + 2 * t] = t / 2 == 2 ? 4 * left_words : 64;
    for (int t = 0; t < 8; t++) config[48 + t] = t < 6 ? left_rows : left_words;
    asm volatile("ldtilecfg %0" : : "m"(config));
    rows = left_rows; words = left_words;
  }
  template <int T> void zero() { asm volatile("tilezero %%tmm%c0" : : "i"(T)); }
  template <int T> void load(const void *p, long stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(p), "r"(stride) : "memory");
  }
  template <int T> void store(void *p, long stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(p), "r"(stride) : "memory");
  }
  template <int S, int A, int B> void dot_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(S), "i"(A), "i"(B));
  }
$bytes
};
"""
_BYTES = """\
  template <int S, int A, int B> void dot_{kind}() {{
    asm volatile("tdpb{kind}d %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(S), "i"(A), "i"(B));
  }}"""

_EMULATED = """
// a bf16, of which tile registers take denormal numbers as 0
f32 tile_f32(u16 h) { return __builtin_bit_cast(f32, h & 0x7f80 ? (unsigned)h << 16 : (unsigned)(h >> 15) << 31); }
// tile registers as arrays: 0 to 3 are sums, 4 and 5 left operands, 6 and 7 right ones
struct Tiles {
  int rows = 0, words = 0;
  alignas(64) u8 held[8][16][64];
  int height(int t) const { return t < 6 ? rows : words; }
  int width(int t) const { return t / 2 == 2 ? 4 * words : 64; }
  void shape(int left_rows, int left_words) {
    if (left_rows == rows && left_words == words) return;
    rows = left_rows; words = left_words;
    __builtin_memset(held, 0, sizeof held);
  }
  template <int T> void zero() { __builtin_memset(held[T], 0, sizeof held[T]); }
  template <int T> void load(const void *p, long stride) {
    __builtin_memset(held[T], 0, sizeof held[T]);
    for (int i = 0; i < height(T); i++) __builtin_memcpy(held[T][i], (const u8 *)p + i * stride, width(T));
  }
  template <int T> void store(void *p, long stride) {
    for (int i = 0; i < height(T); i++) __builtin_memcpy((u8 *)p + i * stride, held[T][i], width(T));
  }
  // the first and the second products of pairs are added up apart
  template <int S, int A, int B> void dot_bf16() {
    for (int i = 0; i < rows; i++) {
      for (int j = 0; j < 16; j++) {
        const u16 *a = (const u16 *)held[A][i];
        f32 even = 0, odd = 0;
        for (int k = 0; k < words; k++) {
          const u16 *b = (const u16 *)held[B][k] + 2 * j;
          even = __builtin_fmaf(tile_f32(a[2 * k]), tile_f32(b[0]), even);
          odd = __builtin_fmaf(tile_f32(a[2 * k + 1]), tile_f32(b[1]), odd);
        }
        ((f32 *)held[S][i])[j] += even + odd;
      }
    }
  }
  template <int S, int A, int B, class X, class Y> void dot_bytes() {
    for (int i = 0; i < rows; i++) {
      for (int j = 0; j < 16; j++) {
        for (int k = 0; k < 4 * words; k++) {
          ((i32 *)held[S][i])[j] += (i32)((const X *)held[A][i])[k] * (i32)((const Y *)held[B][k / 4])[4 * j + k % 4];
        }
      }
    }
  }
$bytes
};
"""
_EMULATED_BYTES = "  template <int S, int A, int B> void dot_{kind}() {{ dot_bytes<S, A, B, {left}, {right}>(); }}"
_SIGNS = {"s": "i8", "u": "u8"}


def tiles_text(shape: Shape) -> str:
    """Definitions for packs of 16 words; nothing for others."""
    if shape.lanes != 16:
        return ""
    emulated = EMULATED in shape.isa.features
    each = _EMULATED_BYTES if emulated else _BYTES
    bytes_ = [each.format(kind=a + b, left=_SIGNS[a], right=_SIGNS[b]) for a in "su" for b in "su"]
    return shape.fill(_EMULATED if emulated else _TILES, bytes="\n".join(bytes_))
