"""Scalar ops in C++: on packs, and on single values.

Operators where the compiler has them for the type, else functions of the prelude. On single values the functions are
those of the width of one lane (`w1::`).
"""

from __future__ import annotations

from ...ir.errors import LoweringError
from ...ir.types import DType
from .prelude import known

INFIX = {"add": "+", "sub": "-", "mul": "*"}
BITWISE = {"and": "&", "or": "|", "xor": "^"}
COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
FUNCTIONS = {"reciprocal": "recip", "round": "round_even"}  # where the prelude has another name
EXACT = (
    "where",
    "min",
    "max",
    "neg",
    "abs",
    "copysign",
    "sign",
    "and",
    "or",
    "xor",
)  # give values of their operands' type
NEEDS_FLOAT = ("mod_trunc", "div_trunc")


def print_op(name: str, pack: str, args: list[str], single: bool) -> tuple[str, str | None]:
    """(text, the prelude function it needs or None) of an op whose operands are of type `pack`."""
    if single:
        text = _single_operator(name, pack, args)
        if text is not None:
            return text, None
    elif pack != "M":
        text = _pack_operator(name, pack, args)
        if text is not None:
            return text, None
    function = find_function(name, pack)
    prefix = "w1::" if single else ""
    return f"{prefix}{function}({', '.join(args)})", function


def find_function(name: str, pack: str) -> str:
    """The prelude's name of an op; raises LoweringError where there is none."""
    if name == "where":
        return f"sel_{pack}"
    if name == "mod_trunc" and pack in "FD":
        name = "fmod_trunc"
    function = f"{FUNCTIONS.get(name, name)}_{pack}"
    if not known(function):
        raise LoweringError("the C++ target has no code for this op", where=name, got=f"packs of {pack}")
    return function


def _pack_operator(name: str, pack: str, args: list[str]) -> str | None:
    if name in INFIX:
        return f"({args[0]} {INFIX[name]} {args[1]})"
    if name == "div" and pack in "FD":
        return f"({args[0]} / {args[1]})"
    if name == "neg":
        return f"(-({args[0]}))" if args[0].startswith("-") else f"(-{args[0]})"
    if name in BITWISE and pack in "IL":
        return f"({args[0]} {BITWISE[name]} {args[1]})"
    if name == "not" and pack in "IL":
        return f"(~{args[0]})"
    return None


def _single_operator(name: str, pack: str, args: list[str]) -> str | None:
    if name in COMPARE:
        return f"({args[0]} {COMPARE[name]} {args[1]})"
    if name == "where":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if pack == "M":
        return _single_logic(name, args)
    return _pack_operator(name, pack, args)


def _single_logic(name: str, args: list[str]) -> str | None:
    if name == "not":
        return f"(!{args[0]})"
    if name in ("and", "or"):
        return f"({args[0]} {'&&' if name == 'and' else '||'} {args[1]})"
    return f"({args[0]} != {args[1]})" if name == "xor" else None


def print_cast(text: str, source: str, target: str, dtype: DType, single: bool) -> tuple[str, list[str]]:
    """(text, prelude functions) of a value of pack `source` converted to `dtype`, which computes in `target`."""
    needs: list[str] = []
    prefix = "w1::" if single else ""
    if source != target:
        if single and target == "M":
            text = f"({text} != 0)"
        elif single:
            text = f"({ {'F': 'f32', 'D': 'f64', 'I': 'i32', 'L': 'i64'}[target] }){text}"
            text = f"({text})"
        else:
            needs.append(f"cvt_{source}_{target}")
            text = f"cvt_{source}_{target}({text})"
    narrow = {"bf16": "rnd_bf16", "f16": "rnd_f16", "i8": "wrap_i8", "u8": "wrap_u8", "i16": "wrap_i16"}.get(dtype.name)
    if narrow is not None:
        needs.append(narrow)
        text = f"{prefix}{narrow}({text})"
    return text, needs
