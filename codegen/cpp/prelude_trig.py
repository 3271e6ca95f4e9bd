"""Trigonometric functions of F and their inverses, by polynomials fitted for this file; ulp errors are measured."""

from __future__ import annotations

from .prelude_base import Shape, horner

_POLYNOMIALS = {
    # (sin(r) / r - 1) / s in s = r^2, |r| <= pi / 4: 2^-28
    "sin": horner("s", (-0.16666653752326965, 0.00833210814744234, -0.00019508233526721597)),
    # (cos(r) - 1 + s / 2) / s^2: 2^-33
    "cos": horner("s", (0.04166664555668831, -0.0013887297827750444, 2.443008816044312e-05)),
    # (atan(q) / q - 1) / s in s = q^2 <= 1: 2^-28.5
    "atan": horner(
        "s",
        (-0.33333298563957214, 0.1999853104352951, -0.14264051616191864, 0.10951174795627594, -0.08400475233793259,
         0.05790654569864273, -0.031127002090215683, 0.010887361131608486, -0.0017875476041808724),
    ),
    # (asin(x) / x - 1) / s in s = x^2 <= 1/4: 2^-27.6
    "asin": horner(
        "s", (0.16666752099990845, 0.07495307177305222, 0.04546964168548584, 0.02418149821460247, 0.0421651192009449)
    ),
}  # fmt: skip

_TEXT = """
// sin(r + q pi / 2) for |r| <= pi / 4; q counts in the low bits
F sin_quadrant_F(F r, I q) {
  F s = r * r;
  F sine = fma_F(s * r, $sin, r);
  F cosine = fma_F(s * s, $cos, fma_F(s, sp_F(-0.5f), sp_F(1)));
  F y = sel_F(eq_I(q & 1, I{}), sine, cosine);
  return float_I(bits_F(y) ^ (q & 2) << 30);
}
// x - n pi / 2, exact to the last bit of pi / 2 in three parts
F reduce_pi_F(F x, F n) {
  return fma_F(n, sp_F(1.715124510e-15f), fma_F(n, sp_F(4.371138829e-8f), fma_F(n, sp_F(-1.570796371f), x)));
}
// $sin_ulp ulp; from 71476 by libm
F sin_F(F x) {
  F a = abs_F(x), t = a * 0.636619772f + 12582912.0f;
  F y = sin_quadrant_F(reduce_pi_F(a, t - 12582912.0f), bits_F(t));
  y = float_I(bits_F(y) ^ (bits_F(x) & 0x80000000));
  M far = not_M(lt_F(a, sp_F(71476.0f)));
  if (__builtin_expect(any_M(far), 0)) y = far_sin_F(x, y, far);
  return y;
}
// $cos_ulp ulp; from 71476 by libm
F cos_F(F x) {
  F a = abs_F(x), t = a * 0.636619772f + 12582912.0f;
  F y = sin_quadrant_F(reduce_pi_F(a, t - 12582912.0f), bits_F(t) + 1);
  M far = not_M(lt_F(a, sp_F(71476.0f)));
  if (__builtin_expect(any_M(far), 0)) y = far_cos_F(x, y, far);
  return y;
}
// $atan_ulp ulp
F atan_F(F x) {
  F a = abs_F(x);
  M flip = gt_F(a, sp_F(1));
  F q = sel_F(flip, -1.0f / a, a), s = q * q, r = fma_F(s * q, $atan, q);
  return copysign_F(sel_F(flip, (r - 4.371138829e-8f) + 1.570796371f, r), x);
}
// asin(z) = z + z s P(s) of 0 <= z <= 1/2, s = z^2
F asin_series_F(F s) { return $asin; }
// beyond 1/2: pi / 2 - 2 asin(z), z = sqrt((1 - |x|) / 2), with what pi / 2 - 2 z loses. $asin_ulp ulp
F asin_F(F x) {
  F a = abs_F(x);
  M large = gt_F(a, sp_F(0.5f));
  F s = sel_F(large, 0.5f - 0.5f * a, a * a), z = sel_F(large, sqrt_F(s), a), p = asin_series_F(s);
  F w = z + z, t = 1.570796371f - w, lost = (1.570796371f - t) - w;
  F outer = t + fma_F(w * s, -p, lost - 4.371138829e-8f);
  return copysign_F(sel_F(large, outer, fma_F(z * s, p, z)), x);
}
// $acos_ulp ulp
F acos_F(F x) {
  F a = abs_F(x);
  M large = gt_F(a, sp_F(0.5f));
  F s = sel_F(large, 0.5f - 0.5f * a, a * a), z = sel_F(large, sqrt_F(s), a), p = asin_series_F(s), w = z + z;
  F middle = 1.570796371f - copysign_F(z, x) - fma_F(copysign_F(z, x) * s, p, sp_F(4.371138829e-8f));
  F below = (3.141592741f - w) - fma_F(w * s, p, sp_F(8.742277657e-8f));
  return sel_F(large, sel_F(lt_F(x, F{}), below, fma_F(w * s, p, w)), middle);
}
"""

ULP: dict[str, float] = {"sin": 1.6, "cos": 1.6, "atan": 1.4, "asin": 1.2, "acos": 1.2}
"""Largest errors found in sweeps over every 5th float, rounded up."""


def trig_text(shape: Shape) -> str:
    """Definitions for an instruction set with fused multiply-add."""
    ulps = {f"{name}_ulp": ulp for name, ulp in ULP.items()}
    return shape.fill(_TEXT, **_POLYNOMIALS, **ulps) if shape.has_fma else ""
