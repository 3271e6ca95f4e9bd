"""The scalar op table: one row per operation on single values, holding all of its facts.

`reference` is the meaning: a function of the torch module and tensors already in the op's compute type. `cost` is a
rough count of vector cycles (one fused multiply-add = 1), the input of the roofline estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import VerifyError
from .expr import Const, Expr, Iota, Op, const
from .index import Axis, Index, as_index
from .types import BOOL, I64, DType

Reference = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ScalarOp:
    """One scalar operation.

    `operands`: "f" floats, "n" numbers, "i" integers, "w" integers or bool, "b" bool, "a" anything, "l" integers of 64
    bits. All operands of one op have one dtype (the condition of `where` apart). `result`: "same" as the operands, or
    "bool".
    """

    name: str
    arity: int
    reference: Reference
    operands: str = "n"
    result: str = "same"
    cost: float = 1.0
    commutative: bool = False
    fold: Callable[..., Any] | None = None  # exact on Python values of the dtype, or None: never folded


def _table(*rows: ScalarOp) -> dict[str, ScalarOp]:
    return {row.name: row for row in rows}


def _compare(name: str, fold: Callable[..., Any], commutative: bool = False) -> ScalarOp:
    return ScalarOp(name, 2, lambda t, a, b: getattr(t, name)(a, b), "a", "bool", 1, commutative, fold)


def _float1(name: str, cost: float, torch_name: str = "") -> ScalarOp:
    return ScalarOp(name, 1, lambda t, a: getattr(t, torch_name or name)(a), "f", cost=cost)


def _float2(name: str, cost: float) -> ScalarOp:
    return ScalarOp(name, 2, lambda t, a, b: getattr(t, name)(a, b), "f", cost=cost)


def _safe_integer(t: Any, f: str, a: Any, b: Any) -> Any:
    """Integer division as kernels do it: by zero gives 0 (torch raises; the frontend keeps such nodes in ATen)."""
    if a.dtype.is_floating_point:
        return t.div(a, b, rounding_mode=f) if f in ("floor", "trunc") else getattr(t, f)(a, b)
    zero = b == 0
    divisor = t.where(zero, t.ones_like(b), b)
    result = t.div(a, divisor, rounding_mode=f) if f in ("floor", "trunc") else getattr(t, f)(a, divisor)
    return t.where(zero, t.zeros_like(result), result)


def philox(t: Any, key: Any, step: Any, at: Any) -> Any:
    """Philox4x32-10 (Salmon et al., SC 2011): words 0 and 1 of the block `at` of `step` under `key`, as one i64.

    The counter is (low and high half of `at`, low and high half of `step`); word 1 is the result's upper half.
    """
    low = 0xFFFFFFFF
    a, b, c, d = at & low, (at >> 32) & low, step & low, (step >> 32) & low
    k, m = key & low, (key >> 32) & low
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57  # of 32 bits each: what wraps are the signs alone
        a, b, c, d = ((q >> 32) & low) ^ b ^ k, q & low, ((p >> 32) & low) ^ d ^ m, p & low
        k, m = (k + 0x9E3779B9) & low, (m + 0xBB67AE85) & low
    return a | (b << 32)


SCALAR_OPS = _table(
    ScalarOp("add", 2, lambda t, a, b: a + b, "n", commutative=True, fold=lambda a, b: a + b),
    ScalarOp("sub", 2, lambda t, a, b: a - b, "n", fold=lambda a, b: a - b),
    ScalarOp("mul", 2, lambda t, a, b: a * b, "n", commutative=True, fold=lambda a, b: a * b),
    ScalarOp("div", 2, lambda t, a, b: a / b, "f", cost=5, fold=lambda a, b: a / b),
    ScalarOp("div_floor", 2, lambda t, a, b: _safe_integer(t, "floor", a, b), "n", cost=8),
    ScalarOp("div_trunc", 2, lambda t, a, b: _safe_integer(t, "trunc", a, b), "n", cost=8),
    ScalarOp("mod_floor", 2, lambda t, a, b: _safe_integer(t, "remainder", a, b), "n", cost=10),
    ScalarOp("mod_trunc", 2, lambda t, a, b: _safe_integer(t, "fmod", a, b), "n", cost=10),
    ScalarOp("min", 2, lambda t, a, b: t.minimum(a, b), "n", cost=2, commutative=True),
    ScalarOp("max", 2, lambda t, a, b: t.maximum(a, b), "n", cost=2, commutative=True),
    ScalarOp("neg", 1, lambda t, a: -a, "n", fold=lambda a: -a),
    ScalarOp("abs", 1, lambda t, a: t.abs(a), "n", fold=abs),
    ScalarOp("sign", 1, lambda t, a: t.sign(a), "n", cost=2),
    _compare("lt", lambda a, b: a < b),
    _compare("le", lambda a, b: a <= b),
    _compare("gt", lambda a, b: a > b),
    _compare("ge", lambda a, b: a >= b),
    _compare("eq", lambda a, b: a == b, commutative=True),
    _compare("ne", lambda a, b: a != b, commutative=True),
    ScalarOp("and", 2, lambda t, a, b: a & b, "w", commutative=True, fold=lambda a, b: a & b),
    ScalarOp("or", 2, lambda t, a, b: a | b, "w", commutative=True, fold=lambda a, b: a | b),
    ScalarOp("xor", 2, lambda t, a, b: a ^ b, "w", commutative=True, fold=lambda a, b: a ^ b),
    ScalarOp("not", 1, lambda t, a: ~a, "w", fold=lambda a: (not a) if isinstance(a, bool) else ~a),
    ScalarOp("shl", 2, lambda t, a, b: a << b, "i"),
    ScalarOp("shr", 2, lambda t, a, b: a >> b, "i"),
    ScalarOp("where", 3, lambda t, p, a, b: t.where(p, a, b), "a"),
    ScalarOp("cast", 1, lambda t, a: a, "a"),  # the target type is the node's; see ir.interp
    _float1("sqrt", 6),
    _float1("rsqrt", 10),
    ScalarOp("reciprocal", 1, lambda t, a: 1 / a, "f", cost=5),
    _float1("exp", 10),
    _float1("exp2", 10),
    _float1("expm1", 16),
    _float1("log", 14),
    _float1("log2", 14),
    _float1("log10", 14),
    _float1("log1p", 18),
    _float1("sin", 20),
    _float1("cos", 20),
    _float1("tan", 30),
    _float1("asin", 24),
    _float1("acos", 24),
    _float1("atan", 24),
    _float1("sinh", 24),
    _float1("cosh", 24),
    _float1("tanh", 18),
    _float1("asinh", 30),
    _float1("acosh", 30),
    _float1("atanh", 30),
    _float1("sigmoid", 16),
    _float1("erf", 20),
    _float1("erfc", 40),
    _float1("erfinv", 60),
    _float1("lgamma", 200),
    _float1("digamma", 200),
    _float1("floor", 1),
    _float1("ceil", 1),
    _float1("trunc", 1),
    _float1("round", 1),
    ScalarOp("isnan", 1, lambda t, a: t.isnan(a), "f", "bool"),
    ScalarOp("isinf", 1, lambda t, a: t.isinf(a), "f", "bool"),
    ScalarOp("signbit", 1, lambda t, a: t.signbit(a), "f", "bool"),
    _float2("pow", 40),
    _float2("atan2", 40),
    _float2("copysign", 2),
    _float2("hypot", 20),
    _float2("nextafter", 8),
    ScalarOp("philox", 3, philox, "l", cost=80),
)


def accepts(row: ScalarOp, dtype: DType) -> bool:
    if row.operands == "l":
        return dtype is I64
    kinds = {"f": "f", "n": "fui", "i": "ui", "w": "uib", "b": "b", "a": "fuib"}[row.operands]
    return dtype.kind in kinds


def result_dtype(name: str, args: tuple[Expr, ...]) -> DType:
    """The type of `name` applied to `args`; raises VerifyError where the row does not accept them."""
    row = SCALAR_OPS.get(name)
    if row is None:
        raise VerifyError("unknown scalar op", expected=", ".join(sorted(SCALAR_OPS)), got=name)
    if len(args) != row.arity:
        raise VerifyError("wrong number of operands", where=name, expected=row.arity, got=len(args))
    values = args[1:] if name == "where" else args
    if name == "where" and args[0].dtype is not BOOL:
        raise VerifyError("the condition is not bool", where=name, expected="bool", got=args[0].dtype)
    if any(a.dtype is not values[0].dtype for a in values):
        raise VerifyError(
            "operands differ in type", where=name, expected="one dtype", got=", ".join(str(a.dtype) for a in values)
        )
    if not accepts(row, values[0].dtype):
        raise VerifyError(
            "operand type not accepted", where=name, expected=f"kind {row.operands!r}", got=values[0].dtype
        )
    return BOOL if row.result == "bool" else values[0].dtype


def op(name: str, *args: Expr) -> Expr:
    """A checked, unsimplified operation (`ir.simplify.make` also simplifies)."""
    return Op(name, args, result_dtype(name, args))


def cast(value: Expr, dtype: DType) -> Expr:
    return value if value.dtype is dtype else Op("cast", (value,), dtype)


def iota(index: Index | Axis | int) -> Expr:
    """The i64 value of an index; a plain integer becomes a constant."""
    index = as_index(index)
    if index.is_constant and isinstance(index.const, int):
        return const(index.const, I64)
    return Iota(index)


def fold_constants(name: str, args: tuple[Expr, ...], dtype: DType) -> Const | None:
    """The constant that the op gives on constants, where that is exact in IEEE arithmetic; else None."""
    row = SCALAR_OPS[name]
    if row.fold is None or not all(isinstance(a, Const) for a in args):
        return None
    values = [a.value for a in args if isinstance(a, Const)]
    try:
        value = row.fold(*values)
    except (ZeroDivisionError, OverflowError):
        return None
    return const(round_to(value, dtype), dtype)


def round_to(value: Any, dtype: DType) -> Any:
    """`value` as `dtype` holds it (floats rounded to nearest even, integers wrapped)."""
    if not dtype.is_float or not math.isfinite(value) or dtype.name == "f64":
        return value
    digits = {"f32": 24, "f16": 11, "bf16": 8}[dtype.name]
    top = {"f32": 128, "f16": 16, "bf16": 128}[dtype.name]
    if value == 0.0:
        return float(value)
    exponent = max(math.frexp(value)[1], 3 - top) - digits  # subnormals share the least exponent
    rounded = math.ldexp(float(round(math.ldexp(value, -exponent))), exponent)
    return math.copysign(math.inf, value) if abs(rounded) >= 2.0**top else math.copysign(rounded, value)


def is_const(e: Expr, value: float | int | bool) -> bool:
    """True when `e` is exactly this constant (the sign of zero counts)."""
    return isinstance(e, Const) and const(value, e.dtype) is e
