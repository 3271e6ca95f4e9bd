"""Exponentials, logarithms, error and hyperbolic functions of F, by polynomials fitted for this file.

`ulp` is the largest error measured against double precision, in units of the last place of the exact result. The same
text serves vectors and single lanes, so a tail computes what the body computes. It relies on fused multiply-add: the
portable scalar instruction set calls libm instead (`prelude_lanes`).
"""

from __future__ import annotations

from .prelude_base import Shape, horner

_POLYNOMIALS = {
    # (exp(r) - 1 - r) / r^2 on |r| <= ln2 / 2: relative error of exp 2^-28
    "exp": horner(
        "r", (0.4999999403953552, 0.1666652113199234, 0.04166827350854874, 0.008368685841560364, 0.0013820136664435267)
    ),
    # the same fitted for exp(r) - 1: 2^-26
    "expm1": horner(
        "r", (0.4999999701976776, 0.1666654646396637, 0.04166743531823158, 0.00836627185344696, 0.0013870695838704705)
    ),
    # (2^r - 1) / r on |r| <= 1/2: 2^-28
    "exp2": horner(
        "r",
        (0.6931471824645996, 0.24022647738456726, 0.05550359562039375, 0.00961849931627512, 0.0013390970416367054,
         0.0001532927853986621),
    ),
    # (log(1 + m) - m) / m^2 on -1/4 <= m <= 1/2: 2^-27.6
    "log": horner(
        "m",
        (-0.5, 0.3333345055580139, -0.25000104308128357, 0.19990819692611694, -0.1664699912071228, 0.14478321373462677,
         -0.13163873553276062, 0.10468878597021103, -0.04511205479502678),
    ),
    # erf(x) / x - 1 in s = x^2 <= 1: 2^-29
    "erf_small": horner(
        "s",
        (0.12837916612625122, -0.3761262595653534, 0.11283578723669052, -0.026853347197175026, 0.005187162198126316,
         -0.0007997853099368513, 7.806903158780187e-05),
    ),
    # -log(erfc(t)) - t on 0.9 <= t <= 3.95: 2^-29 of erf
    "erf_large": horner(
        "t",
        (0.00016643932031001896, 0.12779727578163147, 0.6369760036468506, 0.10411380231380463, -0.02231532149016857,
         0.0030655378941446543, -0.00019822771719191223),
    ),
    # (tanh(x) / x - 1) / s in s = x^2 <= 0.42: 2^-27
    "tanh": horner(
        "s",
        (-0.3333325982093811, 0.13330821692943573, -0.053686968982219696, 0.020465396344661713, -0.005510323215276003),
    ),
    # (sinh(x) / x - 1) / s in s = x^2 <= 1: 2^-31
    "sinh": horner("s", (0.1666666716337204, 0.00833331048488617, 0.00019842895562760532, 2.7822131869470468e-06)),
}  # fmt: skip

# exp(x) = p 2^n. Adding 3 * 2^22 rounds to an integer; where exp(x) is 0, so is p: a scale that underflows costs a
# hundred cycles.
_PARTS_OF_EXPONENTIAL = f"""
  x = vmin_F(sp_F(90.0f), vmax_F(sp_F(-105.0f), x));
  F n = fma_F(x, sp_F(1.44269504f), sp_F(0x1.8p23f)) - 0x1.8p23f;
  F r = fma_F(n, sp_F(1.9046542e-9f), fma_F(n, sp_F(-0.6931471825f), x));
  F p = add_unless_below_F(x, sp_F(-104.0f), fma_F(r * r, {_POLYNOMIALS["exp"]}, r), sp_F(1.0f));"""

_EXPONENTIAL = """
// exp(x) * 2^k. $exp_ulp ulp
F exp_scaled_F(F x, F k) {$exponential
  return scale2_F(p, n + k);
}
// $exp_ulp ulp
F exp_F(F x) {$exponential
  return scale2_F(p, n);
}
// $exp2_ulp ulp
F exp2_F(F x) {
  x = vmin_F(sp_F(129.0f), vmax_F(sp_F(-151.0f), x));
  F n = round_even_F(x), r = x - n, p = fma_F($exp2, r, sp_F(1));
  return scale2_F(sel_F(lt_F(x, sp_F(-150.0f)), F{}, p), n);
}
// exp(x) - 1 = 2 ((p + 1) 2^(n - 1) - 1/2), halved for the sake of n = 128. $expm1_ulp ulp
F expm1_F(F x) {
  F a = vmin_F(sp_F(89.0f), vmax_F(sp_F(-30.0f), x));
  F n = round_even_F(a * 1.44269504f);
  F r = fma_F(n, sp_F(1.9046542e-9f), fma_F(n, sp_F(-0.6931471825f), a));
  F p = fma_F(r * r, $expm1, r), t = scale2_F(sp_F(0.5f), n), h = fma_F(p, t, t - 0.5f);
  return sel_F(lt_F(abs_F(x), sp_F(0x1p-25f)), x, h + h);
}
// 0 where exp(-x) overflows, as in eager. $sigmoid_ulp ulp
F sigmoid_F(F x) { return 1.0f / (1.0f + exp_F(-x)); }
// $tanh_ulp ulp
F tanh_F(F x) {
  F a = abs_F(x), s = a * a;
  F large = 1.0f - 2.0f / (exp_F(a + a) + 1.0f);
  F small = fma_F(s * a, $tanh, a);
  return copysign_F(sel_F(lt_F(a, sp_F(0.65f)), small, large), x);
}
// $sinh_ulp ulp
F sinh_F(F x) {
  F a = abs_F(x), s = x * x, e = exp_scaled_F(a, sp_F(-1)), small = fma_F(s * x, $sinh, x);
  return sel_F(lt_F(a, sp_F(1)), small, copysign_F(e - 0.25f / e, x));
}
// $cosh_ulp ulp
F cosh_F(F x) {
  F e = exp_scaled_F(abs_F(x), sp_F(-1));
  return e + 0.25f / e;
}
// 1 - exp(-q) beyond 0.95. $erf_ulp ulp
F erf_F(F x) {
  F t = vmin_F(sp_F(3.95f), abs_F(x)), s = x * x;
  F q = $erf_large + t;
  F small = fma_F($erf_small, x, x);
  return sel_F(lt_F(t, sp_F(0.95f)), small, copysign_F(1.0f - exp_F(-q), x));
}
"""

_LOGARITHM = """
// the limits of logarithms: r for finite x > 0
F log_limits_F(F x, F r) {
  F low = sel_F(eq_F(x, F{}), sp_F(-__builtin_inff()), sp_F(__builtin_nanf("")));
  return sel_F(gt_F(x, F{}), sel_F(eq_F(x, sp_F(__builtin_inff())), x, r), low);
}
// the exponent bits of x over a mantissa in [3/4, 3/2)
I exponent_F(F x) { return (bits_F(x) - 0x3f400000) & 0xff800000; }
// log(1 + m) - m
F log_rest_F(F m) { return m * m * ($log); }
// $log_ulp ulp
F log_F(F x) {
  M tiny = lt_F(x, sp_F(0x1p-126f));
  F y = sel_F(tiny, x * 0x1p23f, x);
  I i = exponent_F(y);
  F e = cvt_I_F(i >> 23) - sel_F(tiny, sp_F(23), F{}), m = float_I(bits_F(y) - i) - 1.0f;
  return log_limits_F(x, fma_F(e, sp_F(0.6931471825f), log_rest_F(m) + m));
}
// $log2_ulp ulp
F log2_F(F x) {
  M tiny = lt_F(x, sp_F(0x1p-126f));
  F y = sel_F(tiny, x * 0x1p23f, x);
  I i = exponent_F(y);
  F e = cvt_I_F(i >> 23) - sel_F(tiny, sp_F(23), F{}), m = float_I(bits_F(y) - i) - 1.0f;
  F low = fma_F(log_rest_F(m), sp_F(1.442695022f), m * 1.925963e-8f);
  return log_limits_F(x, e + fma_F(m, sp_F(1.442695022f), low));
}
// $log10_ulp ulp
F log10_F(F x) {
  M tiny = lt_F(x, sp_F(0x1p-126f));
  F y = sel_F(tiny, x * 0x1p23f, x);
  I i = exponent_F(y);
  F e = cvt_I_F(i >> 23) - sel_F(tiny, sp_F(23), F{}), m = float_I(bits_F(y) - i) - 1.0f;
  F low = fma_F(e, sp_F(-1.4320989e-8f), fma_F(log_rest_F(m), sp_F(0.434294492f), m * -1.010305e-8f));
  return log_limits_F(x, fma_F(e, sp_F(0.30103001f), fma_F(m, sp_F(0.434294492f), low)));
}
// 1 + x = 2^k (1 + m), m from x itself since 1 + x is rounded. $log1p_ulp ulp
F log1p_F(F x) {
  F u = x + 1.0f;
  I i = exponent_F(u);
  F scale = float_I(0x40800000 - i), m = float_I(bits_F(x) - i) + fma_F(sp_F(0.25f), scale, sp_F(-1));
  F r = fma_F(cvt_I_F(i >> 23), sp_F(0.6931471825f), log_rest_F(m) + m);
  return sel_F(lt_F(abs_F(x), sp_F(0x1p-25f)), x, log_limits_F(u, r));
}
"""

ULP: dict[str, float] = {
    "exp": 1.1,
    "exp2": 0.9,
    "expm1": 1.6,
    "sigmoid": 2.5,
    "tanh": 1.3,
    "sinh": 1.7,
    "cosh": 1.5,
    "erf": 1.2,
    "log": 1.0,
    "log2": 1.8,
    "log10": 1.8,
    "log1p": 1.3,
}
"""Largest errors found in sweeps over every 5th float, rounded up."""


def math_text(shape: Shape) -> str:
    """Definitions for an instruction set with fused multiply-add."""
    if not shape.has_fma:
        return ""
    ulps = {f"{name}_ulp": ulp for name, ulp in ULP.items()}
    return shape.fill(_EXPONENTIAL + _LOGARITHM, exponential=_PARTS_OF_EXPONENTIAL, **_POLYNOMIALS, **ulps)
