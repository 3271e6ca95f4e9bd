"""Functions of F computed in double precision, a register of doubles (W) at a time: at most 0.6 ulp.

Slower than `prelude_math` (16 lanes are two registers), for functions that cancel or amplify errors in single
precision. The portable scalar instruction set calls libm instead.
"""

from __future__ import annotations

from .prelude_base import Shape, cases, horner

_POLYNOMIALS = {
    # log2((1 + t) / (1 - t)) / t in s = t^2, of mantissas in [sqrt 1/2, sqrt 2): 2^-43
    "log2": horner(
        "s",
        (2.8853900817778517, 0.9617966941120809, 0.5770779426156551, 0.41220923235550483, 0.31990639131539433,
         0.2828914337066481),
        "",
    ),
    # (2^r - 1) / r on |r| <= 1/2: 2^-40
    "exp2": horner(
        "r",
        (0.6931471805482112, 0.24022650698110448, 0.055504109352692, 0.009618128616157975, 0.0013333454858443542,
         0.00015403825439805737, 1.5309156625534613e-05, 1.3178938111570901e-06),
        "",
    ),
    # erfc(a) (1 + 2a) exp(a^2) in t = (a - 3) / (a + 3), 0 <= a <= 10.2: 2^-29
    "erfc": horner(
        "t",
        (1.2530080592155994, -0.13562114013302343, -0.047562409657480424, 0.12964643367897383, -0.11927079550096699,
         0.0682957500198755, -0.02379853816309163, 0.002566561643921056, 0.0020033522275781277, -0.000775119107361972,
         -0.0002671800988177306),
        "",
    ),
    # (sin(r) / r - 1) / s in s = r^2, |r| <= pi / 4: 2^-47
    "sin": horner(
        "s",
        (-0.16666666666630311, 0.00833333332507087, -0.00019841263724854153, 2.7555338847948043e-06,
         -2.4760395528600703e-08),
        "",
    ),
    # (cos(r) - 1) / s: 2^-43
    "cos": horner(
        "s",
        (-0.49999999999488776, 0.041666666553321845, -0.0013888880653786747, 2.4798959553705613e-05,
         -2.7174705182550257e-07),
        "",
    ),
    # (atan(q) / q - 1) / s in s = q^2 <= 1: 2^-36
    "atan": horner(
        "s",
        (-0.33333333111086466, 0.1999998422074679, -0.14285320865243895, 0.1110614322902461, -0.09053628405575569,
         0.0751050684488022, -0.06056945289365413, 0.0441789217183066, -0.026547581969355277, 0.011778507568100545,
         -0.003326434244612112, 0.0004406840990331573),
        "",
    ),
}  # fmt: skip

_VECTOR = """
typedef double W __attribute__((vector_size($w)));
typedef long WL __attribute__((vector_size($w)));
typedef unsigned long WU __attribute__((vector_size($w)));
typedef float WF __attribute__((vector_size($w / 2)));
typedef int WI __attribute__((vector_size($w / 2)));
W sp_W(f64 x) { return x - W{}; }
WL bits_W(W x) { return (WL)x; }
W float_W(WL x) { return (W)x; }
"""

_REGISTER = {
    64: """
W widen_F(WF x) { return __builtin_ia32_cvtps2pd512_mask(x, W{}, -1, 4); }
W widen_I(WI x) { return __builtin_ia32_cvtdq2pd512_mask(x, W{}, -1); }
W sqrt_W(W x) { return __builtin_ia32_sqrtpd512_mask(x, W{}, -1, 4); }
W trunc_W(W x) { return __builtin_ia32_rndscalepd_mask(x, 11, W{}, -1, 4); }
""",
    32: """
W widen_F(WF x) { return __builtin_ia32_cvtps2pd256(x); }
W widen_I(WI x) { return __builtin_ia32_cvtdq2pd256(x); }
W sqrt_W(W x) { return __builtin_ia32_sqrtpd256(x); }
W trunc_W(W x) { return __builtin_ia32_roundpd256(x, 11); }
""",
}

_ONE_PART = """
W low_W(F x) { return widen_F(x); }
F join_W(W x) { return __builtin_convertvector(x, F); }
W int_low_W(I x) { return widen_I(x); }
I int_join_W(W x) { return __builtin_convertvector(x, I); }
"""

_TWO_PARTS = """
W low_W(F x) { return widen_F(__builtin_shufflevector(x, x, $low)); }
W high_W(F x) { return widen_F(__builtin_shufflevector(x, x, $high)); }
F join_W(W x, W y) {
  WF a = __builtin_convertvector(x, WF), b = __builtin_convertvector(y, WF);
  return __builtin_shufflevector(a, b, $low, $high);
}
W int_low_W(I x) { return widen_I(__builtin_shufflevector(x, x, $low)); }
W int_high_W(I x) { return widen_I(__builtin_shufflevector(x, x, $high)); }
I int_join_W(W x, W y) {
  WI a = __builtin_convertvector(x, WI), b = __builtin_convertvector(y, WI);
  return __builtin_shufflevector(a, b, $low, $high);
}
"""

_SCALAR = """
typedef double W;
typedef long WL;
typedef unsigned long WU;
W sp_W(f64 x) { return x; }
WL bits_W(W x) { return __builtin_bit_cast(WL, x); }
W float_W(WL x) { return __builtin_bit_cast(W, x); }
W sqrt_W(W x) { return __builtin_sqrt(x); }
W trunc_W(W x) { return __builtin_trunc(x); }
W low_W(F x) { return x; }
F join_W(W x) { return (F)x; }
"""

_CORES = """
W abs_W(W x) { return float_W(bits_W(x) & 0x7fffffffffffffff); }
W signed_W(W x, W y) { return float_W(bits_W(x) | (bits_W(y) & ~0x7fffffffffffffff)); }
// x > 0 as 2^e m; log2(m) is odd in t = (m - 1) / (m + 1)
W log2_W(W x) {
  WL i = bits_W(x) - 0x3fe6a09e667f3bcd + 0x3ff0000000000000;
  W e = float_W((WL)((WU)i >> 52) | 0x4330000000000000) - (0x1p52 + 1023);
  W m = float_W((i & 0xfffffffffffff) + 0x3fe6a09e667f3bcd), t = (m - 1.0) / (m + 1.0), s = t * t;
  W r = e + t * ($log2);
  r = x > 0.0 ? r : x == 0.0 ? sp_W(-__builtin_inf()) : sp_W(__builtin_nan(""));
  return x == __builtin_inf() ? x : r;
}
// 2^x for results in the range of float; NaN stays. Adding 1.5 * 2^52 rounds to an integer in the low bits
W exp2_W(W x) {
  x = x < -200.0 ? sp_W(-200.0) : x;
  x = x > 200.0 ? sp_W(200.0) : x;
  W n = x + 0x1.8p52, r = x - (n - 0x1.8p52), p = r * ($exp2) + 1.0;
  return float_W(bits_W(p) + (bits_W(n) << 52));
}
W pow_W(W x, W y) { return exp2_W(y * log2_W(x)); }
W log_W(W x) { return 0.6931471805599453 * log2_W(x); }
W asinh_W(W x) {
  W a = abs_W(x), s = a * a;
  W r = a < 0.015625 ? a + a * s * (0.075 * s - 0.16666666666666667) : log_W(a + sqrt_W(s + 1.0));
  return signed_W(r, x);
}
W acosh_W(W x) {
  W r = log_W(x + sqrt_W(x * x - 1.0));
  return x < 1.0 ? sp_W(__builtin_nan("")) : r;
}
W atanh_W(W x) {
  W a = abs_W(x), s = a * a;
  W r = a < 0.015625 ? a + a * s * (0.2 * s + 0.33333333333333333) : 0.5 * log_W((1.0 + a) / (1.0 - a));
  return signed_W(r, x);
}
W erfc_W(W x) {
  W a = abs_W(x);
  a = a > 10.2 ? sp_W(10.2) : a;
  W t = (a - 3.0) / (a + 3.0);
  W r = exp2_W(a * a * -1.4426950408889634) * ($erfc) / (2.0 * a + 1.0);
  return x < 0.0 ? 2.0 - r : r;
}
// |x| < 2^28
W tan_W(W x) {
  W n = x * 0.6366197723675814 + 0x1.8p52, k = n - 0x1.8p52;
  W r = x - k * 1.5707963267948966 - k * 6.123233995736757e-17, s = r * r;
  W sine = r * (s * ($sin) + 1.0), cosine = s * ($cos) + 1.0;
  return (bits_W(n) & 1) != 0 ? -cosine / sine : sine / cosine;
}
W atan2_W(W y, W x) {
  W a = abs_W(y), b = abs_W(x), high = a > b ? a : b, low = a > b ? b : a;
  W q = low == high ? (low == 0.0 ? W{} : sp_W(1.0)) : low / high, s = q * q;
  W r = q + q * s * ($atan);
  r = a > b ? 1.5707963267948966 - r : r;
  r = bits_W(x) < 0 ? 3.141592653589793 - r : r;
  return signed_W(r, y);
}
W hypot_W(W x, W y) { return sqrt_W(x * x + y * y); }
// exact for |x / y| < 2^29: the product fits a double, and the quotient at worst rounds up to the next integer
W fmod_W(W x, W y) {
  W a = abs_W(x), b = abs_W(y), r = a - trunc_W(a / b) * b;
  r = r < 0.0 ? r + b : r;
  return signed_W(b > a ? a : r, x);
}
W quotient_W(W x, W y) { return trunc_W(x / y); }
"""

_FUNCTIONS = """
F tan_F(F x) {
  F r = tan_parts_F(x);
  M far = not_M(lt_F(abs_F(x), sp_F(0x1p28f)));
  if (__builtin_expect(any_M(far), 0)) r = far_tan_F(x, r, far);
  return r;
}
F atan2_F(F y, F x) { return sel_F(isnan_F(y), y, sel_F(isnan_F(x), x, atan2_parts_F(y, x))); }
F hypot_F(F x, F y) {
  F r = sel_F(isinf_F(y), abs_F(y), hypot_parts_F(x, y));
  return sel_F(isinf_F(x), abs_F(x), r);
}
// the limits of C's pow: 1 for x = 1 and y = 0 even beside NaN; the sign of x survives an odd y
F pow_F(F x, F y) {
  F a = abs_F(x), r = pow_parts_F(a, y), half = 0.5f * y, nan = sp_F(__builtin_nanf(""));
  M whole = eq_F(trunc_F(y), y), odd = and_M(whole, ne_F(trunc_F(half), half));
  r = sel_F(eq_F(a, sp_F(1)), sp_F(1), r);
  r = sel_F(and_M(lt_F(x, F{}), and_M(not_M(whole), lt_F(a, sp_F(__builtin_inff())))), nan, r);
  r = sel_F(odd, copysign_F(r, x), r);
  r = sel_F(or_M(isnan_F(x), isnan_F(y)), nan, r);
  return sel_F(or_M(eq_F(x, sp_F(1)), eq_F(y, F{})), sp_F(1), r);
}
F fmod_trunc_F(F x, F y) {
  F r = fmod_parts_F(x, y);
  M far = not_M(lt_F(abs_F(x), abs_F(y) * 0x1p29f));
  if (__builtin_expect(any_M(far), 0)) r = far_fmod_F(x, y, r, far);
  return r;
}
"""

ULP: dict[str, float] = dict.fromkeys(("asinh", "acosh", "atanh", "erfc", "pow", "atan2", "hypot"), 0.6) | {"tan": 1.4}
"""Largest errors found in sweeps, rounded up; tan's is libm's, beyond 2^28."""

_UNARY = ("asinh", "acosh", "atanh", "erfc")
_PARTS = {"tan": "x", "atan2": "x, y", "hypot": "x, y", "pow": "x, y", "fmod": "x, y"}


def wide_text(shape: Shape) -> str:
    """Definitions for an instruction set with fused multiply-add."""
    if not shape.has_fma:
        return ""
    text = _SCALAR if shape.lanes == 1 else _vector_text(shape)
    text += shape.fill(_CORES, **_POLYNOMIALS) + _FUNCTIONS
    text += "".join(f"F {name}_F(F x) {{ return {_split(shape, name, 'x')}; }}\n" for name in _UNARY)
    for name, arguments in _PARTS.items():
        parameters = ", ".join(f"F {a}" for a in arguments.split(", "))
        text += f"F {name}_parts_F({parameters}) {{ return {_split(shape, name, arguments)}; }}\n"
    if shape.lanes > 1:
        text += f"I quotient_I(I x, I y) {{ return {_split(shape, 'quotient', 'x, y', 'int_')}; }}\n"
    return text


def _vector_text(shape: Shape) -> str:
    register = min(shape.isa.vector_bytes, 8 * shape.lanes)
    text = shape.fill(_VECTOR, w=register) + _REGISTER[register]
    if register == 8 * shape.lanes:
        return text + _ONE_PART
    half = shape.lanes // 2
    return text + shape.fill(_TWO_PARTS, low=cases(half), high=cases(half, half))


def _split(shape: Shape, name: str, arguments: str, prefix: str = "") -> str:
    """Call `name`_W on each register's share of the arguments."""
    parts = ["low"] if shape.has_wide else ["low", "high"]
    calls = [f"{name}_W({', '.join(f'{prefix}{part}_W({a})' for a in arguments.split(', '))})" for part in parts]
    return f"{prefix}join_W({', '.join(calls)})"
