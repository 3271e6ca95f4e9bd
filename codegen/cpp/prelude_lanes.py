"""Functions that go lane by lane: libm for the rare ones, most of D's, and single precision beyond the fast ranges."""

from __future__ import annotations

from .prelude_base import Shape, horner
from .prelude_double import NAMES as VECTOR_DOUBLES

_ONE = ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "tanh", "erf", "erfc", "atan",
        "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "lgamma")  # fmt: skip
_TWO = ("pow", "atan2", "hypot", "fmod", "nextafter")
_RARE = ("lgamma", "nextafter")
_OWN = ("digamma", "erfinv")
_FAR = {"sin": "x", "cos": "x", "tan": "x", "fmod": "x, y"}
_RENAMED = {"fmod": "fmod_trunc"}

_LANE_FUNCTIONS = """
// libm has none: reflection, recurrence up to 10, then the asymptotic series
COLD f64 digamma_lane(f64 x) {
  if (x == 0) return __builtin_copysign(__builtin_inf(), -x);
  f64 r = 0;
  if (x < 0) {
    if (x == __builtin_trunc(x)) return __builtin_nan("");
    r = -3.141592653589793 / __builtin_tan(3.141592653589793 * (x - __builtin_trunc(x)));
    x = 1 - x;
  }
  for (; x < 10; x += 1) r -= 1 / x;
  f64 z = 1 / (x * x);
  return r + __builtin_log(x) - 0.5 / x - z * ($digamma);
}
// libm has none: a rational start, then two steps of Newton on erf
COLD f64 erfinv_lane(f64 y) {
  f64 a = __builtin_fabs(y);
  if (!(a < 1)) return a == 1 ? __builtin_copysign(__builtin_inf(), y) : __builtin_nan("");
  f64 s = y * y, t = __builtin_sqrt(-__builtin_log((1 - a) / 2));
  f64 x = a <= 0.7 ? y * ($middle) / ($below) : __builtin_copysign(($tail) / ($under), y);
  for (int i = 0; i < 2; i++) x -= (__builtin_erf(x) - y) / (1.1283791670955126 * __builtin_exp(-x * x));
  return x;
}
"""

_POLYNOMIALS = {
    "digamma": horner("z", (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12), ""),
    "middle": horner("s", (0.886226899, -1.645349621, 0.914624893, -0.140543331), ""),
    "below": horner("s", (1.0, -2.118377725, 1.442710462, -0.329097515, 0.012229801), ""),
    "tail": horner("t", (-1.970840454, -1.624906493, 3.429567803, 1.641345311), ""),
    "under": horner("t", (1.0, 3.543889200, 1.637067800), ""),
}

_COMMON = """
$A div_trunc_$A($A x, $A y) { return trunc_$A(x / y); }
// python's sign: the remainder takes that of y. y = 0 gives NaN
$A mod_floor_$A($A x, $A y) {
  $A r = fmod_trunc_$A(x, y);
  return sel_$A(and_M(ne_$A(r, $A{}), xor_M(lt_$A(y, $A{}), lt_$A(r, $A{}))), r + y, r);
}
// as torch.floor_divide: from the remainder, so that it agrees with mod_floor
$A div_floor_$A($A x, $A y) {
  $A r = fmod_trunc_$A(x, y), q = (x - r) / y;
  q = sel_$A(and_M(ne_$A(r, $A{}), xor_M(lt_$A(y, $A{}), lt_$A(r, $A{}))), q - 1, q);
  $A f = floor_$A(q);
  f = sel_$A(gt_$A(q - f, sp_$A(0.5)), f + 1, f);
  f = sel_$A(eq_$A(q, $A{}), copysign_$A($A{}, x / y), f);
  return sel_$A(eq_$A(y, $A{}), x / y, f);
}
"""

_SIGMOID = "$A sigmoid_$A($A x) { return 1 / (1 + exp_$A(-x)); }\n"

_LANE_INTEGERS = """
// division by zero gives 0: torch raises an error before
$e quotient_lane_$A($e a, $e b) { return b == 0 ? 0 : b == -1 ? -a : a / b; }
"""

_DIVISIONS = """
$A mod_trunc_$A($A a, $A b) { return sel_$A(ne_$A(b, $A{}), a - div_trunc_$A(a, b) * b, $A{}); }
$A div_floor_$A($A a, $A b) {
  $A q = div_trunc_$A(a, b), r = a - q * b;
  M below = and_M(ne_$A(r, $A{}), lt_$A(r ^ b, $A{}));
  return q - sel_$A(and_M(below, ne_$A(b, $A{})), sp_$A(1), $A{});
}
// python's sign
$A mod_floor_$A($A a, $A b) {
  $A r = mod_trunc_$A(a, b);
  return r + sel_$A(and_M(ne_$A(r, $A{}), lt_$A(r ^ b, $A{})), b, $A{});
}
"""


_PHILOX = """
// Philox4x32-10: words 0 and 1 of block (at, step) under the key, word 1 in the upper half
L philox_L(L key, L step, L at) {
  const long low = 0xffffffffL;
  L a = at & low, b = (at >> 32) & low, c = step & low, d = (step >> 32) & low;
  L k = key & low, m = (key >> 32) & low;
  #pragma GCC unroll 10
  for (int round = 0; round < 10; round++) {
    L p = a * 0xD2511F53L, q = c * 0xCD9E8D57L;
    a = ((q >> 32) & low) ^ b ^ k;
    c = ((p >> 32) & low) ^ d ^ m;
    b = q & low;
    d = p & low;
    k = (k + 0x9E3779B9L) & low;
    m = (m + 0xBB67AE85L) & low;
  }
  return a | (b << 32);
}
"""


def lanes_text(shape: Shape) -> str:
    """Definitions for every width."""
    text = shape.fill(_LANE_FUNCTIONS, **_POLYNOMIALS) + shape.fill(_COMMON, A="F")
    text += "".join(_far(shape, name, arguments) for name, arguments in _FAR.items() if shape.has_fma)
    for name in (*_ONE, *_TWO):
        if name in _RARE or not shape.has_fma:
            text += _lanewise(shape, "F", name, "f")
        if shape.has_wide and not (shape.has_fma and name in VECTOR_DOUBLES):
            text += _lanewise(shape, "D", name, "")
    text += "" if shape.has_fma else shape.fill(_SIGMOID, A="F")
    if shape.has_wide:
        text += shape.fill(_COMMON + _SIGMOID, A="D")
    for pack in ("F", "D") if shape.has_wide else ("F",):
        text += "".join(_lanewise(shape, pack, name, "") for name in _OWN)
    text += shape.fill(_PHILOX) if shape.has_wide else ""
    return text + _integers(shape)


def _lanewise(shape: Shape, pack: str, name: str, suffix: str) -> str:
    names = ("x", "y") if name in _TWO else ("x",)
    parameters = ", ".join(f"{pack} {n}" for n in names)
    head = f"{pack} {_RENAMED.get(name, name)}_{pack}({parameters})"
    cast = "f32" if pack == "F" else "f64"
    function = f"({cast}){name}_lane" if name in _OWN else f"__builtin_{name}{suffix}"
    if shape.lanes == 1:
        return f"{head} {{ return {function}({', '.join(names)}); }}\n"
    arguments = ", ".join(f"{n}[i]" for n in names)
    loop = _loop(shape, f"r[i] = {function}({arguments});")
    return f"COLD {head} {{\n  {pack} r;\n{loop}  return r;\n}}\n"


def _far(shape: Shape, name: str, arguments: str) -> str:
    """Replace the `far` lanes of r by libm's."""
    names = arguments.split(", ")
    head = f"COLD F far_{name}_F({', '.join(f'F {n}' for n in names)}, F r, M far)"
    if shape.lanes == 1:
        return f"{head} {{ return far ? __builtin_{name}f({arguments}) : r; }}\n"
    call = f"if (at_M(far, i)) r[i] = __builtin_{name}f({', '.join(f'{n}[i]' for n in names)});"
    return f"{head} {{\n{_loop(shape, call)}  return r;\n}}\n"


def _loop(shape: Shape, body: str) -> str:
    return f"  for (int i = 0; i < {shape.lanes}; i++) {body}\n"


def _integers(shape: Shape) -> str:
    packs = {"I": "i32", "L": "i64"} if shape.has_wide else {"I": "i32"}
    text = ""
    for pack, element in packs.items():
        text += shape.fill(_LANE_INTEGERS + _DIVISIONS, A=pack, e=element)
        if shape.lanes == 1:
            text += f"{pack} div_trunc_{pack}({pack} a, {pack} b) {{ return quotient_lane_{pack}(a, b); }}\n"
        elif pack == "L":
            loop = _loop(shape, "a[i] = quotient_lane_L(a[i], b[i]);")
            text += f"COLD L div_trunc_L(L a, L b) {{\n{loop}  return a;\n}}\n"
        else:
            text += (
                "// exact: doubles hold 32-bit integers, and quotients of these are 2^-31 apart\n"
                "I div_trunc_I(I a, I b) { return sel_I(eq_I(b, I{}), I{}, quotient_I(a, b)); }\n"
            )
    return text
