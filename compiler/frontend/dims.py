"""What torch's fake tensors say, in the IR's own terms: element types, dimensions, shapes, strides.

A symbolic size is read through `SymInt.node.expr` and never compared or converted, because evaluating a symbolic
condition adds a guard to the user's program.

    SymInt(s77 // 2 * 8)  ->  8*floor(s77/2)

The IR takes every symbol for an integer of at least 2. Torch's sizes are; integers that the user passes need not be,
so a symbol which may be 0 or 1 is written as `s3_2 - 2`, where `s3_2` is at least 2. One that may be negative, or
whose value is only known at run time (unbacked), has no dimension here: `to_dim` gives None, and whatever it touches
stays with ATen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sympy
import torch

from ...ir.types import BF16, BOOL, F16, F32, F64, I8, I16, I32, I64, U8, Dim, DType, as_dim, evaluate, symbol

DTYPE_OF: dict[torch.dtype, DType] = {
    torch.bool: BOOL,
    torch.uint8: U8,
    torch.int8: I8,
    torch.int16: I16,
    torch.int32: I32,
    torch.int64: I64,
    torch.float16: F16,
    torch.bfloat16: BF16,
    torch.float32: F32,
    torch.float64: F64,
}
TORCH_OF: dict[DType, torch.dtype] = {ours: theirs for theirs, ours in DTYPE_OF.items()}
LEAST = 2  # what the IR assumes of every symbol

Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Meta:
    """A tensor's type as traced. dtype None: a tensor that the IR does not hold (complex, sparse, unbacked sizes)."""

    shape: Shape
    dtype: DType | None
    reason: str = ""


class Dims:
    """Converts torch's sizes; remembers every expression it has seen, and the examples' sizes (`hints`, by symbol)."""

    def __init__(self, device: str) -> None:
        self.device = device  # "cpu", "cuda:0"
        self._known: dict[sympy.Expr, Dim | None] = {}
        self.hints: dict[str, int] = {}

    def hint(self, dim: Dim) -> int:
        """What a size was in the examples: it may choose how something is computed, never what is."""
        return evaluate(dim, self.hints)

    def to_dim(self, size: int | torch.SymInt) -> Dim | None:
        if isinstance(size, int):
            return int(size)
        node = size.node
        expr = node.expr
        if expr not in self._known:
            self._known[expr] = _convert(expr, node.shape_env, self.hints)
        return self._known[expr]

    def shape(self, sizes: Iterable[int | torch.SymInt]) -> Shape | None:
        dims = tuple(n if type(n) is int else self.to_dim(n) for n in sizes)
        return None if None in dims else dims  # type: ignore[return-value]

    def strides(self, val: torch.Tensor) -> Shape | None:
        """The traced strides in elements, or None where they are not known."""
        return self.shape(val.stride()) if val.layout is torch.strided else None

    def read(self, val: Any) -> Meta:
        """The type of one traced tensor."""
        dtype = DTYPE_OF.get(val.dtype)
        if dtype is None:
            return Meta((), None, f"element type {str(val.dtype).removeprefix('torch.')}")
        if str(val.device) != self.device:
            return Meta((), None, f"on device {val.device}")
        if val.layout is not torch.strided or val.is_neg():
            return Meta((), None, f"layout {val.layout}")
        shape = self.shape(val.shape)
        if shape is None:
            return Meta((), None, "a size known only at run time")
        return Meta(shape, dtype)


_FUNCTIONS: dict[str, Any] = {
    "FloorDiv": lambda a, b: sympy.floor(a / b),
    "CleanDiv": lambda a, b: a / b,
    "Mod": sympy.Mod,
    "PythonMod": sympy.Mod,
    "ModularIndexing": lambda a, b, c: sympy.Mod(sympy.floor(a / b), c),
    "CeilToInt": sympy.ceiling,
    "FloorToInt": sympy.floor,
    "IntTrueDiv": lambda a, b: a / b,
    "ToFloat": lambda a: a,
    "Max": sympy.Max,
    "Min": sympy.Min,
}


def _convert(expr: sympy.Expr, shape_env: Any, hints: dict[str, int]) -> Dim | None:
    if expr.is_Integer:
        return int(expr)
    symbols: dict[Any, Any] = {}
    for s in expr.free_symbols:
        ours = _convert_symbol(s, shape_env, hints)
        if ours is None:
            return None
        symbols[s] = ours
    converted = _rebuild(expr, symbols)
    return None if converted is None else as_dim(sympy.expand(converted))


def _convert_symbol(s: Any, shape_env: Any, hints: dict[str, int]) -> sympy.Expr | None:
    backed = getattr(shape_env, "backed_var_to_val", None)  # torch before 2.13 has one table for both kinds
    backed = shape_env.var_to_val if backed is None else backed
    if s not in backed:
        return None
    value = int(backed[s])
    least = shape_env.var_to_range[s].lower
    if not least.is_Integer or least < 0:
        return None
    if least >= LEAST:
        hints[s.name] = value
        return symbol(s.name)
    hints[f"{s.name}_{LEAST}"] = value + LEAST
    return symbol(f"{s.name}_{LEAST}") - LEAST


def _rebuild(e: Any, symbols: dict[Any, Any]) -> Any:
    """`e` over our symbols and sympy's own functions; None where it has a function of neither."""
    if e.is_Symbol:
        return symbols[e]
    if e.is_Integer or e.is_Rational:
        return e
    args = [_rebuild(a, symbols) for a in e.args]
    if any(a is None for a in args):
        return None
    if e.is_Add or e.is_Mul or e.is_Pow:
        return e.func(*args)
    function = _FUNCTIONS.get(type(e).__name__)
    return None if function is None else function(*args)
