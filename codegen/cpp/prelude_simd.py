"""Primitives that AVX-512 and AVX2 write alike: types, splats, rounding, square root, fused multiply-add, buffers."""

from __future__ import annotations

from .prelude_base import Shape, cases

_TYPES = """
typedef float F __attribute__((vector_size($N * 4)));
typedef int I __attribute__((vector_size($N * 4)));
typedef unsigned U __attribute__((vector_size($N * 4)));
typedef float Fu __attribute__((vector_size($N * 4), aligned(4), may_alias));
typedef int Iu __attribute__((vector_size($N * 4), aligned(4), may_alias));
// raw 16-bit and 8-bit elements: at least one 16-byte register, the lanes at its low end
typedef unsigned short H __attribute__((vector_size($hb)));
typedef short Hs __attribute__((vector_size($hb)));
typedef unsigned char B __attribute__((vector_size(16)));
typedef char Bc __attribute__((vector_size(16)));
typedef long B2 __attribute__((vector_size(16)));
typedef int B4 __attribute__((vector_size(16)));
typedef int B4u __attribute__((vector_size(16), aligned(1), may_alias));
typedef long word8u __attribute__((aligned(1), may_alias));
F sp_F(f32 x) { return x - F{}; }
I sp_I(i32 x) { return x - I{}; }
I iota_I() { return I{$iota}; }
// the first lanes, each for 2^shift neighbours
F repeat_F(F x, int shift) { return __builtin_shuffle(x, (I)((U)iota_I() >> shift)); }
I repeat_I(I x, int shift) { return __builtin_shuffle(x, (I)((U)iota_I() >> shift)); }
I bits_F(F x) { return (I)x; }
F float_I(I x) { return (F)x; }
I min_I(I a, I b) { return a < b ? a : b; }
I max_I(I a, I b) { return a > b ? a : b; }
I abs_I(I x) { return x < 0 ? -x : x; }
F cvt_I_F(I x) { return __builtin_convertvector(x, F); }
I cvt_F_I(F x) { return __builtin_convertvector(x, I); }
f32 at_F(F x, int lane) { return x[lane]; }
i32 at_I(I x, int lane) { return x[lane]; }
f32 last_F(F x) { return x[$N - 1]; }
i32 last_I(I x) { return x[$N - 1]; }
"""

_WIDE_TYPES = """
typedef double D __attribute__((vector_size($N * 8)));
typedef long L __attribute__((vector_size($N * 8)));
typedef unsigned long UL __attribute__((vector_size($N * 8)));
typedef long long Q __attribute__((vector_size($N * 8)));
typedef double Du __attribute__((vector_size($N * 8), aligned(8), may_alias));
typedef long Lu __attribute__((vector_size($N * 8), aligned(8), may_alias));
D sp_D(f64 x) { return x - D{}; }
L sp_L(i64 x) { return x - L{}; }
L iota_L() { return L{$iota}; }
L bits_D(D x) { return (L)x; }
D float_L(L x) { return (D)x; }
D vmin_D(D a, D b) { return a < b ? a : b; }
D vmax_D(D a, D b) { return a > b ? a : b; }
L min_L(L a, L b) { return a < b ? a : b; }
L max_L(L a, L b) { return a > b ? a : b; }
L abs_L(L x) { return x < 0 ? -x : x; }
F cvt_D_F(D x) { return __builtin_convertvector(x, F); }
I cvt_D_I(D x) { return __builtin_convertvector(x, I); }
L cvt_D_L(D x) { return __builtin_convertvector(x, L); }
F cvt_L_F(L x) { return __builtin_convertvector(x, F); }
D cvt_L_D(L x) { return __builtin_convertvector(x, D); }
f64 at_D(D x, int lane) { return x[lane]; }
i64 at_L(L x, int lane) { return x[lane]; }
f64 last_D(D x) { return x[$N - 1]; }
i64 last_L(L x) { return x[$N - 1]; }
"""

_ROUNDING = """
$A floor_$A($A x) { return __builtin_ia32_${round}(x, 9$tail); }
$A ceil_$A($A x) { return __builtin_ia32_${round}(x, 10$tail); }
$A trunc_$A($A x) { return __builtin_ia32_${round}(x, 11$tail); }
$A round_even_$A($A x) { return __builtin_ia32_${round}(x, 8$tail); }
$A sqrt_$A($A x) { return __builtin_ia32_${sqrt}(x$tail); }
$A fma_$A($A a, $A b, $A c) { return __builtin_ia32_${fma}(a, b, c$fma_tail); }
"""

_LOW_LOADS = {
    16: """
B get_B(const u8* p) { return (B)*(const B4u*)p; }
H get_H(const u16* p) { H r; __builtin_memcpy(&r, p, 32); return r; }
void put_B(u8* p, B v) { *(B4u*)p = (B4)v; }
void put_H(u16* p, H v) { __builtin_memcpy(p, &v, 32); }
""",
    8: """
B get_B(const u8* p) { return (B)B2{*(const word8u*)p, 0}; }
H get_H(const u16* p) { return (H)*(const B4u*)p; }
void put_B(u8* p, B v) { *(word8u*)p = ((B2)v)[0]; }
void put_H(u16* p, H v) { *(B4u*)p = (B4)v; }
""",
    4: """
B get_B(const u8* p) { return (B)B4{*(const word4u*)p, 0, 0, 0}; }
H get_H(const u16* p) { return (H)B2{*(const word8u*)p, 0}; }
void put_B(u8* p, B v) { *(word4u*)p = ((B4)v)[0]; }
void put_H(u16* p, H v) { *(word8u*)p = ((B2)v)[0]; }
""",
}

_NONTEMPORAL = {
    64: "__builtin_ia32_movntps512((float*)p, (NT64)v);",
    32: "__builtin_ia32_movntps256((float*)p, (NT32)v);",
    16: "__builtin_ia32_movntps((float*)p, (NT16)v);",
    8: "__builtin_ia32_movnti64((long long*)p, ((B2)v)[0]);",
    4: "__builtin_ia32_movnti((int*)p, ((B4)v)[0]);",
}

HALF_CONVERSIONS = {
    512: ("__builtin_ia32_vcvtph2ps512_mask((Hs)v, F{}, -1, 4)", "__builtin_ia32_vcvtps2ph512_mask(x, 8, Hs{}, -1)"),
    256: ("__builtin_ia32_vcvtph2ps256((Hs)v)", "__builtin_ia32_vcvtps2ph256(x, 0)"),
    128: ("__builtin_ia32_vcvtph2ps((Hs)v)", "__builtin_ia32_vcvtps2ph(x, 0)"),
}
"""From and to f16, by the width of a pack of floats."""


def simd_text(shape: Shape) -> str:
    """Definitions shared by the two vector instruction sets."""
    n = shape.lanes
    text = shape.fill(_TYPES, iota=cases(n), hb=max(16, 2 * n)) + _LOW_LOADS[n]
    text += shape.fill(_ROUNDING, A="F", **_rounding_names(shape.bits, "ps"))
    if shape.has_wide:
        text += shape.fill(_WIDE_TYPES, iota=cases(n))
        text += shape.fill(_ROUNDING, A="D", **_rounding_names(shape.wide_bits, "pd"))
    return text + _nontemporal_text(shape)


def _rounding_names(bits: int, suffix: str) -> dict[str, str]:
    if bits == 512:
        zero = "F{}" if suffix == "ps" else "D{}"
        return {
            "round": f"rndscale{suffix}_mask",
            "sqrt": f"sqrt{suffix}512_mask",
            "fma": f"vfmadd{suffix}512_mask",
            "tail": f", {zero}, -1, 4",
            "fma_tail": ", -1, 4",
        }
    width = "256" if bits == 256 else ""
    names = {"round": f"round{suffix}{width}", "sqrt": f"sqrt{suffix}{width}", "fma": f"vfmadd{suffix}{width}"}
    return {**names, "tail": "", "fma_tail": ""}


def _nontemporal_text(shape: Shape) -> str:
    """Stores around the cache. `p` is aligned to the bytes stored."""
    lines = [f"typedef float NT{w} __attribute__((vector_size({w})));" for w in (16, 32, 64)]
    lines.append("void fence_nt() { __builtin_ia32_sfence(); }")
    kinds = [("F", "f32", 4), ("I", "i32", 4), ("H", "u16", 2), ("B", "u8", 1)]
    if shape.has_wide:
        kinds += [("D", "f64", 8), ("L", "i64", 8)]
    for kind, element, size in kinds:
        lines.append(f"void put_{kind}_nt({element}* p, {kind} v) {{ {_NONTEMPORAL[size * shape.lanes]} }}")
    return "\n".join(lines) + "\n"
