"""What a lowering function works with: the table it is entered in, and the context of the node it lowers.

    @lowers("relu.default")
    def relu(cx: Context, x: Value) -> Value:
        return cx.g.apply("max", x, 0)

A lowering gets the node's own arguments (tensors as `Value`, sizes as `Dim`, the rest as in the fx graph) and
returns a `Value`, or a tuple for an op with several results. It raises `Unsupported` for a case that it leaves to
ATen. The result's type is known beforehand (`cx.shape`, `cx.dtype`), because torch has already traced it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch

from ...ir.builder import GraphBuilder, Number, Value
from ...ir.errors import UnsupportedOp
from ...ir.scalar import round_to
from ...ir.types import BOOL, F32, I16, I64, Dim, DType, is_nonnegative, multiply, plus, product
from .dims import DTYPE_OF, Dims, Meta, Shape
from .foreign import note_origin

Lowering = Callable[..., Any]
LOWERINGS: dict[str, Lowering] = {}
Operand = Value | Number | Dim


class Unsupported(UnsupportedOp):
    """A case that a lowering leaves to ATen; the importer names the op."""

    def __init__(self, reason: str):
        super().__init__("this case", reason)


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Enter a lowering for overloads of aten ("add.Tensor"), or of another namespace with its name
    ("prims.sum.default").
    """

    def enter(function: Lowering) -> Lowering:
        for name in names:
            full = name if name.count(".") == 2 else f"aten.{name}"
            LOWERINGS[full] = function
            note_origin(function, full)
        return function

    return enter


@dataclass(slots=True)
class Context:
    """One import under way, and the type of the node at hand.

    judge  why a library is to compute a product of matrices; "" where it becomes equations
    linked  the node is a contraction that another one sums over, or the other one (`links`)
    rng   where random numbers come from: "eager", ATen's generator, or "philox"
    seed  the key of this graph's numbers, once something was drawn; `drawn` counts the draws
    """

    g: GraphBuilder
    dims: Dims
    metas: tuple[Meta | None, ...] = ()
    strides: Callable[[int], Shape | None] = field(default=lambda argument: None)  # of a tensor argument, as traced
    judge: Callable[[Any], str] = field(default=lambda product: "a contraction")
    linked: bool = False
    rng: str = "eager"
    seed: Value | None = None
    drawn: int = 0

    @property
    def shape(self) -> Shape:
        meta = self.metas[0]
        assert meta is not None
        return meta.shape

    @property
    def dtype(self) -> DType:
        meta = self.metas[0]
        assert meta is not None and meta.dtype is not None
        return meta.dtype

    def dtype_of(self, number: int) -> DType:
        """The element type of one of several results."""
        meta = self.metas[number]
        assert meta is not None and meta.dtype is not None
        return meta.dtype

    # --- operands ------------------------------------------------------------------------------------------------

    def operand(self, x: Operand, dtype: DType) -> Value:
        """`x` in `dtype`: a tensor is converted, a number or a size becomes a constant."""
        if isinstance(x, Value):
            return self.g.cast(x, dtype)
        if isinstance(x, sympy.Expr):
            return self.g.cast(self.g.dim(x), dtype)
        if isinstance(x, complex):
            raise Unsupported("a complex number")
        return self.g.full((), x, dtype)

    def pointwise(self, op: str, *operands: Operand) -> Value:
        """A scalar op in the result's compute type, rounded once to the result's type.

        Numbers and 0-d tensors of a wider type keep their precision (ATen computes bf16 * 0.1 with 0.1 in f32).
        """
        dtype = self.dtype
        same = [x for x in operands if isinstance(x, Value) and x.dtype is dtype]
        if len(same) == len(operands):
            return self.g.apply(op, *same)
        wide = dtype.compute
        return self.g.cast(self.g.apply(op, *(self.operand(x, wide) for x in operands)), dtype)

    def choose(self, op: str, *operands: Operand) -> Value:
        """A scalar op whose result is one of its operands (max, where): nothing is gained by a wider type."""
        dtype = self.dtype
        return self.g.apply(op, *(self.operand(x, dtype) for x in operands))

    def compare(self, op: str, a: Operand, b: Operand) -> Value:
        dtype = promote(a, b)
        return self.g.apply(op, self.operand(a, dtype), self.operand(b, dtype))

    def wide(self, x: Operand) -> Value:
        """`x` in the type that arithmetic on the result's type is done in."""
        return self.operand(x, self.dtype.compute)

    def round(self, x: Value) -> Value:
        """`x` in the result's type."""
        return self.g.cast(x, self.dtype)

    def constant(self, x: Any) -> Number:
        """A plain number of the result's type."""
        if not isinstance(x, (bool, int, float)):
            raise Unsupported("a number known only at run time")
        return x if not self.dtype.is_float else round_to(float(x), self.dtype)

    def truth(self, x: Operand) -> Value:
        return self.operand(x, BOOL)

    # --- shapes --------------------------------------------------------------------------------------------------

    def reduced(self, x: Value, dim: int | Sequence[int] | None) -> tuple[int, ...]:
        """The dimensions that a reduction's argument `dim` names: all of them for None and for an empty list."""
        if isinstance(dim, int):
            dim = (dim,)
        if not dim:
            return tuple(range(x.rank))
        return tuple(sorted({d % x.rank for d in dim})) if x.rank else ()

    def count(self, x: Value, dims: Sequence[int], dtype: DType, less: Number = 0) -> Value | float:
        """The number of elements along `dims` minus `less`, not below 0."""
        total = product(x.shape[d] for d in dims)
        if isinstance(total, int):
            return max(float(total - less), 0.0)
        size = self.operand(total, dtype)
        return self.g.apply("max", size - float(less), 0.0) if less else size

    def position(self, at: Dim, size: Dim) -> Dim:
        """An index into a dimension of `size`, counted from the start."""
        if isinstance(at, Value):
            raise Unsupported("a position known only at run time")
        if isinstance(at, int):
            return plus(at, size) if at < 0 else at
        if is_nonnegative(at):
            return at
        if is_nonnegative(multiply(at, -1)):
            return plus(at, size)
        raise Unsupported("an index whose sign depends on a size")


def promote(*operands: Operand) -> DType:
    """torch's rule: of tensors with dimensions, 0-d tensors and numbers, the first class that decides the kind
    decides the type.
    """
    classes: list[DType | None] = [None, None, None]
    for x in operands:
        if isinstance(x, Value):
            at, dtype = (0 if x.rank else 1), x.dtype
        else:
            at, dtype = 2, number_dtype(x)
        known = classes[at]
        classes[at] = dtype if known is None else join(known, dtype)
    result: DType | None = None
    for dtype in reversed(classes):
        if dtype is not None:
            result = dtype if result is None else _prefer(dtype, result)
    assert result is not None
    return result


def _prefer(higher: DType, lower: DType) -> DType:
    if higher.is_float:
        return higher
    return join(higher, lower) if higher is BOOL or lower.is_float else higher


def number_dtype(x: Number | Dim) -> DType:
    if isinstance(x, bool):
        return BOOL
    return DTYPE_OF[torch.get_default_dtype()] if isinstance(x, float) else I64


def join(a: DType, b: DType) -> DType:
    """The smallest type that holds both, as torch promotes two tensors."""
    if a is b:
        return a
    if a.is_float or b.is_float:
        if not (a.is_float and b.is_float):
            return a if a.is_float else b
        if a.itemsize == b.itemsize:
            return F32  # f16 with bf16
        return a if a.itemsize > b.itemsize else b
    if a is BOOL or b is BOOL:
        return b if a is BOOL else a
    if a.kind != b.kind:  # u8 with a signed type
        signed = a if a.kind == "i" else b
        return I16 if signed.itemsize == 1 else signed
    return a if a.itemsize > b.itemsize else b


def accumulator(dtype: DType) -> DType:
    """The type that a reduction over elements of `dtype` runs in."""
    if dtype is BOOL:
        return I64
    return dtype.compute
