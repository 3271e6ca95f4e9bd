"""Lowerings of products in groups, which mixtures of experts are made of: each group of rows has its own matrix.

    (offs)  [T, K] x [G, K, N] -> [T, N]      rows in groups
            [G, M, K] x [K, T] -> [M, T]      columns in groups
            [M, T] x [T, N] -> [G, M, N]      what is summed over in groups: gradients of the matrices
            [G, M, K] x [G, K, N] -> [G, M, N]      no offsets: a product for each group

Group g ends before offs[g], and starts where the one before it ends. Rows of no group are 0; ATen leaves them as memory
was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...ir.builder import Value
from ...ir.types import product
from .context import Context, Unsupported, lowers
from .contractions import Labels, contract, describe

BATCHED: Labels = ((0, 1, 2), (0, 2, 3), (0, 1, 3))


@lowers("_grouped_mm.default")
def _grouped_mm(
    cx: Context, a: Value, b: Value, offs: Value | None = None, bias: Value | None = None, out_dtype: Any = None
) -> Value:  # fmt: skip
    if bias is not None:
        raise Unsupported("a bias of a product in groups")
    if a.rank == b.rank == 3:
        return cx.round(contract(cx, a, b, BATCHED))
    if offs is None:
        raise Unsupported("a product in groups without offsets")
    if a.rank == b.rank:
        return cx.round(_summed(cx, a, b, offs, (0, 1)))
    if a.rank == 2:
        return cx.round(_kept(cx, a, b, offs, ((0, 1), (2, 1, 3), (0, 3)), (0, 1)))
    return cx.round(_kept(cx, b, a, offs, ((1, 0), (2, 3, 1), (3, 0)), (1, 0)))


@lowers("transformers.grouped_mm_fallback.default")
def _of_transformers(cx: Context, x: Value, weight: Value, offs: Value) -> Value:
    return cx.round(_kept(cx, x, weight, offs, ((0, 1), (2, 1, 3), (0, 3)), (0, 1)))


def _kept(cx: Context, rows: Value, matrices: Value, offs: Value, labels: Labels, at: tuple[int, int]) -> Value:
    """Points of groups (label 0) that are rows of the result; label 2 is that of the groups."""
    found = replace(describe(cx, rows, matrices, labels, at), groups=offs.shape[0])
    _leave_to_library(cx, found)
    return cx.g.contract_groups(rows, matrices, offs, labels, group=2, ragged=0)


def _summed(cx: Context, a: Value, b: Value, offs: Value, at: tuple[int, int]) -> Value:
    """Points of groups (label 0) that are summed over; label 2 is that of the groups."""
    found = describe(cx, a, b, ((1, 0), (0, 3), (1, 3)), at)
    _leave_to_library(cx, replace(found, groups=offs.shape[0], batch=product((found.batch, offs.shape[0]))))
    return cx.g.contract_groups(a, b, offs, ((1, 0), (0, 3), (2, 1, 3)), group=2, ragged=0)


def _leave_to_library(cx: Context, found: Any) -> None:
    reason = cx.judge(found)
    if reason:
        raise Unsupported(reason)
