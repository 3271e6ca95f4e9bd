"""Functions that read the same at every width, in terms of the primitives."""

from __future__ import annotations

from .prelude_base import Shape

_FLOAT = """
// NaN where either is NaN, as torch.minimum
$A min_$A($A a, $A b) { return sel_$A(ne_$A(a, a), a, vmin_$A(a, b)); }
$A max_$A($A a, $A b) { return sel_$A(ne_$A(a, a), a, vmax_$A(a, b)); }
$A abs_$A($A x) { return float_$B(bits_$A(x) & $magnitude); }
$A neg_$A($A x) { return -x; }
$A copysign_$A($A x, $A y) { return float_$B((bits_$A(x) & $magnitude) | (bits_$A(y) & ~$magnitude)); }
// 0 for NaN, as torch.sign
$A sign_$A($A x) { return sel_$A(gt_$A(x, $A{}), sp_$A(1), sel_$A(lt_$A(x, $A{}), sp_$A(-1), $A{})); }
$A recip_$A($A x) { return 1 / x; }
$A rsqrt_$A($A x) { return 1 / sqrt_$A(x); }
M isnan_$A($A x) { return ne_$A(x, x); }
M isinf_$A($A x) { return eq_$A(abs_$A(x), sp_$A(__builtin_inf())); }
M isfinite_$A($A x) { return lt_$A(abs_$A(x), sp_$A(__builtin_inf())); }
M signbit_$A($A x) { return lt_$B(bits_$A(x), $B{}); }
M cvt_${A}_M($A x) { return ne_$A(x, $A{}); }
"""

_DIVIDE = """
// x / y with r = 1 / y: the remainder corrects x * r (Markstein 1990), unless r is near the ends of the range
$A divide_$A($A x, $e y, $e r) {
  if (!(__builtin_fabs$f(r) >= $least && __builtin_fabs$f(r) <= $most)) return x / y;
  $A q = x * r, e = fma_$A(-q, sp_$A(y), x);
  return sel_$A(eq_$A(e - e, $A{}), fma_$A(e, sp_$A(r), q), q);
}
"""

_PLAIN_DIVIDE = "$A divide_$A($A x, $e y, $e r) { return x / y; }\n"

# of |1 / y|, within which x * (1 / y) neither overflows nor loses bits for other reasons than x / y does
_RANGE = {"least": "0x1p-100f", "most": "0x1p100f"}

_QUOTIENT = """
// x / y to 1.5 ulp with r = 1 / y, for what is rounded to 16 bits at once
F quotient_F(F x, f32 y, f32 r) {
  if (!(__builtin_fabsf(r) >= $least && __builtin_fabsf(r) <= $most)) return x / y;
  return x * r;
}
"""

_INTEGER = """
$A neg_$A($A x) { return -x; }
$A sign_$A($A x) { return sel_$A(gt_$A(x, $A{}), sp_$A(1), sel_$A(lt_$A(x, $A{}), sp_$A(-1), $A{})); }
M signbit_$A($A x) { return lt_$A(x, $A{}); }
M cvt_${A}_M($A x) { return ne_$A(x, $A{}); }
// as torch: a shift by less than 0 or by the width and more gives 0, to the right the sign
$A shl_$A($A a, $A b) { return sel_$A(eq_$A(b & ~$top, $A{}), a << (b & $top), $A{}); }
$A shr_$A($A a, $A b) { return $shr(a, sel_$A(eq_$A(b & ~$top, $A{}), b, sp_$A($top))); }
"""

_MASK = """
M sel_M(M m, M a, M b) { return or_M(and_M(m, a), and_M(not_M(m), b)); }
"""

_MASK_COMPARES = """
M eq_M(M a, M b) { return not_M(xor_M(a, b)); }
M ne_M(M a, M b) { return xor_M(a, b); }
M lt_M(M a, M b) { return and_M(not_M(a), b); }
M le_M(M a, M b) { return or_M(not_M(a), b); }
M gt_M(M a, M b) { return and_M(a, not_M(b)); }
M ge_M(M a, M b) { return or_M(a, not_M(b)); }
"""

_SHIFTS = """
I sar_I(I a, I b) { return a >> b; }
"""

_WIDE_SHIFTS = {
    "avx2": "L sar_L(L a, L b) { L s = a < 0; return (L)((UL)(a ^ s) >> (UL)b) ^ s; }\n",
    "": "L sar_L(L a, L b) { return a >> b; }\n",
}


def common_text(shape: Shape) -> str:
    """Definitions of elementwise functions on all packs of `shape`."""
    text = shape.fill(_FLOAT, A="F", B="I", magnitude="0x7fffffff")
    divide = _DIVIDE if shape.has_fma else _PLAIN_DIVIDE
    text += shape.fill(divide, A="F", e="f32", f="f", **_RANGE) + shape.fill(_QUOTIENT, **_RANGE)
    text += shape.fill(_INTEGER, A="I", top=31, shr="sar_I") + _MASK_COMPARES + _SHIFTS
    if shape.has_wide:
        text += shape.fill(_FLOAT, A="D", B="L", magnitude="0x7fffffffffffffff")
        text += shape.fill(divide, A="D", e="f64", f="", least="0x1p-900", most="0x1p900")
        text += shape.fill(_INTEGER, A="L", top=63, shr="sar_L")
        text += _WIDE_SHIFTS["avx2" if shape.kind == "avx2" else ""]
    return text if shape.kind == "scalar" else text + _MASK
