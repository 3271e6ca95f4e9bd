"""The scalar operations in Triton: how each is written, and the functions of `prelude` that some need."""

from __future__ import annotations

import math

from ...ir.errors import ScheduleError
from ...ir.expr import Const
from ...ir.scalar import round_to
from ...ir.types import BOOL, F64, DType

TYPES = {
    "bool": "tl.int1", "u8": "tl.uint8", "i8": "tl.int8", "i16": "tl.int16", "i32": "tl.int32", "i64": "tl.int64",
    "f16": "tl.float16", "bf16": "tl.bfloat16", "f32": "tl.float32", "f64": "tl.float64",
}  # fmt: skip
POINTERS = {
    "bool": "*i1", "u8": "*u8", "i8": "*i8", "i16": "*i16", "i32": "*i32", "i64": "*i64",
    "f16": "*fp16", "bf16": "*bf16", "f32": "*fp32", "f64": "*fp64",
}  # fmt: skip
INFIX = {
    "add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
}  # fmt: skip
OWN = {
    "exp": "exp", "exp2": "exp2", "log": "log", "log2": "log2", "sin": "sin", "cos": "cos", "sqrt": "sqrt_rn",
    "rsqrt": "rsqrt", "erf": "erf", "floor": "floor", "ceil": "ceil", "abs": "abs", "sigmoid": "sigmoid",
}  # fmt: skip
LIBRARY = {
    "expm1": "expm1", "log10": "log10", "log1p": "log1p", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
    "erfc": "erfc", "erfinv": "erfinv", "lgamma": "lgamma", "trunc": "trunc", "round": "rint", "pow": "pow",
    "atan2": "atan2", "copysign": "copysign", "hypot": "hypot", "nextafter": "nextafter",
}  # fmt: skip
HELPERS = {
    ("div_floor", "f"): "div_floor", ("mod_floor", "f"): "mod_floor", ("div_trunc", "f"): "div_trunc",
    ("mod_trunc", "f"): "mod_trunc", ("div_floor", "i"): "div_floor_i", ("mod_floor", "i"): "mod_floor_i",
    ("div_trunc", "i"): "div_trunc_i", ("mod_trunc", "i"): "mod_trunc_i",
    ("sign", "f"): "sign", ("sign", "i"): "sign_i", ("philox", "i"): "philox",
}  # fmt: skip


def print_op(name: str, args: list[str], dtype: DType) -> tuple[str, str | None]:
    """(the expression, the function of the prelude that it calls) of an operation on operands of `dtype`."""
    kind = "f" if dtype.is_float else "i"
    if name in INFIX:
        return f"({args[0]} {INFIX[name]} {args[1]})", None
    if (name, kind) in HELPERS:
        helper = HELPERS[name, kind]
        return f"{helper}({', '.join(args)})", helper
    if name in ("min", "max"):
        nan = ", propagate_nan=tl.PropagateNan.ALL" if dtype.is_float else ""
        return f"tl.{name}imum({args[0]}, {args[1]}{nan})", None
    if name in OWN:
        own = "sqrt" if name == "sqrt" and dtype is F64 else OWN[name]  # rounded right too, and sqrt_rn is of f32 alone
        return f"tl.{own}({args[0]})", None
    if name in LIBRARY:
        return f"libdevice.{LIBRARY[name]}({', '.join(args)})", None
    return _special(name, args, dtype), None


def _special(name: str, args: list[str], dtype: DType) -> str:
    a = args[0]
    bits = "tl.int64" if dtype is F64 else "tl.int32"
    forms = {
        "div": lambda: f"({a} / {args[1]})",
        "neg": lambda: f"(-{a})",
        "not": lambda: f"({a} ^ True)" if dtype is BOOL else f"(~{a})",
        "where": lambda: f"tl.where({a}, {args[1]}, {args[2]})",
        "reciprocal": lambda: f"(1.0 / {a})",
        "isnan": lambda: f"({a} != {a})",
        "isinf": lambda: f'(tl.abs({a}) == float("inf"))',
        "signbit": lambda: f"({a}.to({bits}, bitcast=True) < 0)",
    }
    if name not in forms:
        raise ScheduleError("an operation that the Triton target does not print", got=name)
    return forms[name]()


def print_const(c: Const) -> str:
    """A literal; constants take the type of what they are combined with."""
    if c.dtype is BOOL:
        return str(bool(c.value))
    if not c.dtype.is_float:
        return str(int(c.value)) if c.value >= 0 else f"({int(c.value)})"
    value = float(round_to(c.value, c.dtype))
    if math.isfinite(value):
        text = repr(value) if value >= 0 and math.copysign(1.0, value) > 0 else f"({value!r})"
    else:
        text = f'float("{value!r}")'
    return f"tl.full([], {text}, tl.float64)" if c.dtype is F64 else text


def print_cast(text: str, target: DType) -> str:
    """A value as another type."""
    if target is BOOL:
        return f"({text} != 0)"
    return f"{text}.to({TYPES[target.name]})"
