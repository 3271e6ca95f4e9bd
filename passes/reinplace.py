"""In place: a value that replaces an input is written straight into the input's memory where nobody can tell.

    cache' = put(cache, [p], k);  copy cache' into cache     ->     cache[p] <- k

A mutation qualifies when nothing that depends on the new value reads the old one, neither value is returned, and the
layouts agree. Inside the kernel every read of the old value must be at the element that the same point writes, and not
after the write. What the kernel would copy unchanged is not stored at all; the store's domain shrinks to what changes
(`narrow`).
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.expr import Expr, Load, Op, loads_in
from ..ir.graph import Graph
from ..ir.index import Index
from ..ir.loops import Equation, Statement, Store, statement_expressions
from ..ir.simplify import Simplifier, both, make
from ..ir.types import contiguous_strides
from .narrow import narrow
from .order import reachable
from .reasons import Reason


def find_in_place(graph: Graph) -> dict[str, str]:
    """The values that may be written into an input's memory, to that input."""
    return {value: target for target, value in graph.mutations if refuse_in_place(graph, target, value) is None}


def refuse_in_place(graph: Graph, target: str, value: str) -> Reason | None:
    """Why the graph forbids that a new value is written straight into its input."""
    node, new = graph.by_name[target], graph.by_name[value]
    if target in graph.outputs or value in graph.outputs:
        return Reason.RETURNED
    if sum(v == value for _, v in graph.mutations) > 1 or sum(t == target for t, _ in graph.mutations) > 1:
        return Reason.TWICE
    if node.op != "input" or new.op in ("input", "call", "result"):
        return Reason.FOREIGN
    strides = node.strides or contiguous_strides(node.shape)
    overlaps = any(s == 0 and n != 1 for n, s in zip(node.shape, strides, strict=True))
    if node.shape != new.shape or node.dtype is not new.dtype or overlaps:
        return Reason.LAYOUT
    after = reachable(value, lambda name: [n.name for n in graph.readers[name]])
    return Reason.LATER if any(reader.name in after for reader in graph.readers[target]) else None


def store_changes(
    body: list[Statement], value: str, target: str, simplify: Simplifier
) -> list[Statement] | Reason:  # fmt: skip
    """The body of a kernel that stores `value`, with what equals `target` already left out; or why that is unsafe."""
    changed: list[Statement] = []
    for s in body:
        if not isinstance(s, Store) or s.buffer != value:
            changed.append(s)
            continue
        if s.mode == "set" and s.injective:
            kept = _without_copies(s, target)
            if kept is not None:
                changed.append(narrow(kept, simplify))
        else:
            changed.append(s)
    left = any(isinstance(s, Store) and s.buffer == value for s in changed)
    if not left:
        return Reason.UNCHANGED
    return changed if _is_safe(changed, value, target) else Reason.MOVED


def _without_copies(store: Store, target: str) -> Store | None:
    """The store under a guard that is false where it would write what is there; None where that is everywhere."""
    guard, value = store.guard, store.value
    while True:
        if _is_old(value, target, store.index):
            return None
        if not (isinstance(value, Op) and value.name == "where"):
            break
        condition, new, other = value.args
        if _is_old(other, target, store.index):
            guard, value = both(guard, condition), new
        elif _is_old(new, target, store.index):
            guard, value = both(guard, make("not", condition)), other
        else:
            break
    return replace(store, guard=guard, value=value)


def _is_old(e: Expr, target: str, index: tuple[Index, ...]) -> bool:
    return isinstance(e, Load) and e.name == target and e.index == index


def _is_safe(body: list[Statement], value: str, target: str) -> bool:
    """Old elements are read only by the statement that replaces them or before it, each at the element it replaces."""
    stores = [s for s in body if isinstance(s, Store) and s.buffer == value]
    reading = [k for k, s in enumerate(body) if any(e.name == target for e in loads_in(*statement_expressions(s)))]
    if not reading:
        return True
    if len(stores) > 1 or reading[-1] > body.index(stores[0]) or not stores[0].injective:
        return False
    for k in reading:
        s = body[k]
        if isinstance(s, Equation):
            return False
        for e in loads_in(*statement_expressions(s)):
            if e.name == target and e.index != stores[0].index:
                return False
    return True
