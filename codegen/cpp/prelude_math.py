"""Elementary functions of F, by polynomials fitted for this file (minimax in relative error); ulp errors are measured.

The same text serves vectors and single lanes, so a tail computes what the body computes. The portable scalar
instruction set has no fused multiply-add, which the argument reductions rely on: it calls libm.
"""

from __future__ import annotations

from .prelude_base import Shape, horner

# (exp(r) - 1 - r) / r^2 on |r| <= ln2 / 2, relative error of exp 2^-28
_EXP = horner("r", (0.4999999403953552, 0.1666652113199234, 0.04166827350854874, 0.008368685841560364, 0.0013820136664435267))
# the same, relative error of expm1 2^-26
_EXPM1 = horner("r", (0.4999999701976776, 0.1666654646396637, 0.04166743531823158, 0.00836627185344696, 0.0013870695838704705))
# erf(x) / x - 1 in s = x^2 <= 1
_ERF_SMALL = horner(
    "s",
    (0.12837916612625122, -0.3761262595653534, 0.11283578723669052, -0.026853347197175026, 0.005187162198126316,
     -0.0007997853099368513, 7.806903158780187e-05),
)  # fmt: skip
# -log(erfc(t)) - t on 0.9 <= t <= 3.95
_ERF_LARGE = horner(
    "t",
    (0.00016643932031001896, 0.12779727578163147, 0.6369760036468506, 0.10411380231380463, -0.02231532149016857,
     0.0030655378941446543, -0.00019822771719191223),
)  # fmt: skip

_EXPONENTIAL = f"""
// exp(x) * 2^k. 0.9 ulp
F exp_scaled_F(F x, F k) {{
  x = vmin_F(sp_F(90.0f), vmax_F(sp_F(-105.0f), x));
  F n = round_even_F(x * 1.44269504f);
  F r = fma_F(n, sp_F(-1.42860677e-6f), fma_F(n, sp_F(-0.693145752f), x));
  F p = fma_F(r * r, {_EXP}, r) + 1.0f;
  return scale2_F(p, n + k);
}}
F exp_F(F x) {{ return exp_scaled_F(x, F{{}}); }}
// exp(x) - 1 as scale * (p + 1) - 1 without cancellation, below overflow. 1.1 ulp
F expm1_small_F(F x) {{
  F n = round_even_F(x * 1.44269504f);
  F r = fma_F(n, sp_F(-1.42860677e-6f), fma_F(n, sp_F(-0.693145752f), x));
  F p = fma_F(r * r, {_EXPM1}, r), t = scale2_F(sp_F(1), n);
  return fma_F(p, t, t - 1.0f);
}}
// (e^2a - 1) / (e^2a + 1) of a = |x|; 1 from a = 9.02
F tanh_F(F x) {{
  F a = vmin_F(sp_F(10.0f), abs_F(x)), e = expm1_small_F(a + a);
  return copysign_F(e / (e + 2.0f), x);
}}
F sigmoid_F(F x) {{ return 1.0f / (1.0f + exp_F(-x)); }}
F erf_F(F x) {{
  F t = vmin_F(sp_F(3.95f), abs_F(x)), s = x * x;
  F large = 1.0f - exp_F(-(fma_F({_ERF_LARGE}, sp_F(1), t)));
  F small = fma_F({_ERF_SMALL}, x, x);
  return sel_F(lt_F(t, sp_F(0.95f)), small, copysign_F(large, x));
}}
"""

_LIBM = """
F exp_F(F x) { return __builtin_expf(x); }
F tanh_F(F x) { return __builtin_tanhf(x); }
F erf_F(F x) { return __builtin_erff(x); }
F sigmoid_F(F x) { return 1 / (1 + exp_F(-x)); }
"""


def math_text(shape: Shape) -> str:
    """Definitions of the exponential family and erf."""
    return _EXPONENTIAL if shape.has_fma else _LIBM
