"""Lowerings of products of matrices: sums of products in f32 (integers in i32), rounded once at the end.

Whether a product becomes equations or stays a library's is a question of cost, which `Context.judge` answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...ir.ops import OPS
from ...ir.types import Dim, DType, is_static, multiply, plus, product
from .context import Context, Unsupported, Value, lowers

Labels = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Product:
    """What decides on how a contraction is computed.

    batch, rows, columns, depth  points that both operands have, only the left, only the right; those summed over
    dense    whether the left and the right operand are dense in memory along the last of the summed dimensions
    across   whether each is dense along a dimension that only it has
    unpacked whether each is computed on the way from much fewer bytes than it has
    reordered  whether libraries copy an operand into another order first: images whose channels come first
    windows  whether the left operand's points are windows of an image, whose elements are those of several of them
    hints    rows and columns in the examples, where they are known at run time only
    groups   how many groups the rows are in, each with a right operand of its own; 0: they all share one. With a batch
             of as many it is the points summed over that are in groups
    linked   another contraction sums over the results, with reductions of them in between: one kernel computes both
    """

    batch: Dim
    rows: Dim
    columns: Dim
    depth: Dim
    dtypes: tuple[DType, DType]
    dense: tuple[bool, bool]
    unpacked: tuple[bool, bool] = (False, False)
    across: tuple[bool, bool] = (False, False)
    reordered: bool = False
    windows: bool = False
    hints: tuple[int, int] = (0, 0)
    groups: Dim = 0
    linked: bool = False

    @property
    def large(self) -> int:
        """Which operand is the larger one: 0 the left, 1 the right; by the weights, where rows are dynamic or in
        groups.
        """
        if self.groups != 0:
            return 1
        if isinstance(self.rows, int) and isinstance(self.columns, int):
            return 1 if self.columns >= self.rows else 0
        return 1 if isinstance(self.columns, int) else 0

    @property
    def has_dynamic_rows(self) -> bool:
        """True where one size alone is known at run time only: that of the points of one operand."""
        known = is_static((self.rows,)) + is_static((self.columns,))
        return known == 1 and self.batch == 1 and is_static((self.depth,))

    @property
    def is_static(self) -> bool:
        return is_static((self.batch, self.rows, self.columns, self.depth))


def contract(
    cx: Context, left: Value, right: Value, labels: Labels, at: tuple[int, int] = (0, 1), **known: Any
) -> Value:  # fmt: skip
    """The contraction in its accumulator's type. `at` are the positions of the operands among the node's arguments,
    `known` is what else a `Product` says.

    Raises Unsupported where a library is to do it.
    """
    reason = cx.judge(replace(describe(cx, left, right, labels, at), linked=cx.linked is not None, **known))
    if reason:
        raise Unsupported(reason)
    return cx.g.contract(left, right, labels)


def describe(cx: Context, left: Value, right: Value, labels: Labels, at: tuple[int, int]) -> Product:
    of_left, of_right, out = labels
    sizes = dict(zip((*of_left, *of_right), (*left.shape, *right.shape), strict=True))
    summed = [label for label in of_left if label not in out]
    dense: list[bool] = []
    across: list[bool] = []
    for k, own, other in zip(at, (of_left, of_right), (of_right, of_left), strict=True):
        strides = cx.strides(k)
        along = [] if strides is None else [label for label, s in zip(own, strides, strict=False) if s == 1]
        dense.append(bool(summed) and summed[-1] in along)
        across.append(any(label in out and label not in other for label in along))
    rows = product(sizes[label] for label in out if label not in of_right)
    columns = product(sizes[label] for label in out if label not in of_left)
    return Product(
        product(sizes[label] for label in out if label in of_left and label in of_right),
        rows,
        columns,
        product(sizes[label] for label in summed),
        (left.dtype, right.dtype),
        (dense[0], dense[1]),
        (is_unpacked(left), is_unpacked(right)),
        across=(across[0], across[1]),
        hints=(cx.dims.hint(rows), cx.dims.hint(columns)),
    )


def is_unpacked(value: Value) -> bool:
    """True where a value is computed, point by point, from at most two thirds of its bytes in memory."""
    seen: set[str] = set()
    waiting = [value.node]
    total: Dim = 0
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if OPS[node.op].kind in ("pointwise", "view", "create"):
            waiting += [value.builder.node(name) for name in node.inputs]
        else:
            total = plus(total, multiply(product(node.shape), node.element.itemsize))
    own = multiply(product(value.shape), value.dtype.itemsize)
    return isinstance(total, int) and isinstance(own, int) and 3 * total <= 2 * own


def _scaled(cx: Context, value: Value, factor: Any) -> Value:
    return value if factor == 1 else value * cx.operand(factor, value.dtype)


def _with_bias(cx: Context, sums: Value, bias: Value | None, beta: Any, alpha: Any) -> Value:
    """beta * bias + alpha * sums; a bias times 0 is not looked at."""
    sums = _scaled(cx, sums, alpha)
    if bias is None or beta == 0:
        return cx.round(sums)
    return cx.round(sums + _scaled(cx, cx.operand(bias, sums.dtype), beta))


def _rows_first(cx: Context, left: Value, right: Value, labels: Labels) -> Value:
    """A product of which the points of an operand that is computed of others come before those of the other one, so
    that several such have their results alike: a^T b as (b^T a)^T, where b is that operand.
    """
    if cx.linked != 1:
        return cx.round(contract(cx, left, right, labels))
    of_left, of_right, (*batch, row, column) = labels
    turned = cx.round(contract(cx, left, right, (of_left, of_right, (*batch, column, row))))
    return cx.g.permute(turned, (*range(len(batch)), len(batch) + 1, len(batch)))


@lowers("mm.default")
def _mm(cx: Context, a: Value, b: Value) -> Value:
    return _rows_first(cx, a, b, ((0, 1), (1, 2), (0, 2)))


@lowers("_int_mm.default")
def _int_mm(cx: Context, a: Value, b: Value) -> Value:
    return contract(cx, a, b, ((0, 1), (1, 2), (0, 2)))


@lowers("bmm.default")
def _bmm(cx: Context, a: Value, b: Value) -> Value:
    return _rows_first(cx, a, b, ((0, 1, 2), (0, 2, 3), (0, 1, 3)))


@lowers("mv.default")
def _mv(cx: Context, a: Value, b: Value) -> Value:
    return cx.round(contract(cx, a, b, ((0, 1), (1,), (0,))))


@lowers("addmm.default")
def _addmm(cx: Context, bias: Value, a: Value, b: Value, *, beta: Any = 1, alpha: Any = 1) -> Value:
    return _with_bias(cx, contract(cx, a, b, ((0, 1), (1, 2), (0, 2)), (1, 2)), bias, beta, alpha)


@lowers("baddbmm.default")
def _baddbmm(cx: Context, bias: Value, a: Value, b: Value, *, beta: Any = 1, alpha: Any = 1) -> Value:
    return _with_bias(cx, contract(cx, a, b, ((0, 1, 2), (0, 2, 3), (0, 1, 3)), (1, 2)), bias, beta, alpha)


@lowers("linear.default")
def _linear(cx: Context, x: Value, weight: Value, bias: Value | None = None) -> Value:
    kept = tuple(range(x.rank - 1))
    columns = () if weight.rank == 1 else (x.rank,)
    labels = (*kept, x.rank - 1), (*columns, x.rank - 1), (*kept, *columns)
    return _with_bias(cx, contract(cx, x, weight, labels), bias, 1, 1)
