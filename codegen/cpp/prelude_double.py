"""The exponential family and the logarithm of D in vectors, by polynomials fitted for this file: at most 3 ulp.

The rest of D's functions go through libm (`prelude_lanes`), and so do these without fused multiply-add.
"""

from __future__ import annotations

from .prelude_base import Shape, horner

_POLYNOMIALS = {
    # (exp(r) - 1 - r) / r^2 on |r| <= ln2 / 2: 2^-56
    "exp": horner(
        "r",
        (0.5000000000000001, 0.16666666666666669, 0.04166666666662399, 0.008333333333330051, 0.0013888888917281794,
         0.00019841269863105968, 2.480152119021773e-05, 2.7557268378684192e-06, 2.7620138719733994e-07,
         2.5100424157005067e-08),
        "",
    ),
    # (log((1 + t) / (1 - t)) / t - 2) / s in s = t^2, of mantissas in [sqrt 1/2, sqrt 2): 2^-56
    "log": horner(
        "s",
        (0.666666666666667, 0.3999999999989889, 0.28571428626253836, 0.22222211089379496, 0.1818289243253687,
         0.15331611722055008, 0.14617807153417325),
        "",
    ),
}  # fmt: skip

_TEXT = """
// 2^n for integral -1023 < n < 1024: adding 1.5 * 2^52 leaves an integer in the low bits
D power_D(D n) { return float_L((bits_D(n + 0x1.8p52) + 1023) << 52); }
// p * 2^n for integral n, correct into overflow and denormals: two factors, each in range
D scale2_D(D p, D n) {
  D h = floor_D(n * 0.5);
  return p * power_D(h) * power_D(n - h);
}
// x - n log 2
D reduce_log_D(D x, D n) { return fma_D(n, sp_D(-2.3190468138462996e-17), fma_D(n, sp_D(-0x1.62e42fefa39efp-1), x)); }
// (exp(r) - 1 - r) / r^2
D exp_rest_D(D r) { return $exp; }
D exp_D(D x) {
  x = vmin_D(sp_D(711.0), vmax_D(sp_D(-746.0), x));
  D n = round_even_D(x * 1.4426950408889634), r = reduce_log_D(x, n);
  return scale2_D(fma_D(r * r, exp_rest_D(r), r) + 1.0, n);
}
// 2 ((p + 1) 2^(n - 1) - 1/2), halved for the sake of n = 1024
D expm1_D(D x) {
  D a = vmin_D(sp_D(710.0), vmax_D(sp_D(-60.0), x));
  D n = round_even_D(a * 1.4426950408889634), r = reduce_log_D(a, n);
  D p = fma_D(r * r, exp_rest_D(r), r), t = power_D(n - 1.0), h = fma_D(p, t, t - 0.5);
  return sel_D(lt_D(abs_D(x), sp_D(0x1p-54)), x, h + h);
}
D tanh_D(D x) {
  D a = abs_D(x), e = expm1_D(vmin_D(sp_D(44.0), a + a));
  return copysign_D(e / (e + 2.0), x);
}
// x = 2^e (1 + m), log(1 + m) = m - m^2 / 2 + t (m^2 / 2 + R) with t = m / (m + 2)
D log_D(D x) {
  M tiny = lt_D(x, sp_D(0x1p-1022));
  D y = sel_D(tiny, x * 0x1p54, x);
  L i = bits_D(y) - 0x3fe6a09e667f3bcd + 0x3ff0000000000000;
  D e = float_L((L)((UL)i >> 52) | 0x4330000000000000) - (0x1p52 + 1023) - sel_D(tiny, sp_D(54), D{});
  D m = float_L((i & 0xfffffffffffff) + 0x3fe6a09e667f3bcd) - 1.0, t = m / (m + 2.0), s = t * t, h = 0.5 * m * m;
  D rest = fma_D(t, fma_D(s, $log, h), e * 1.9082149292705877e-10);
  D r = fma_D(e, sp_D(0.6931471803691238), m - (h - rest));
  D low = sel_D(eq_D(x, D{}), sp_D(-__builtin_inf()), sp_D(__builtin_nan("")));
  return sel_D(gt_D(x, D{}), sel_D(eq_D(x, sp_D(__builtin_inf())), x, r), low);
}
"""

NAMES = ("exp", "expm1", "tanh", "log")
"""Functions defined here instead of by libm."""


def double_text(shape: Shape) -> str:
    """Definitions for an instruction set with fused multiply-add, where packs of doubles fit."""
    return shape.fill(_TEXT, **_POLYNOMIALS) if shape.has_fma and shape.has_wide else ""
