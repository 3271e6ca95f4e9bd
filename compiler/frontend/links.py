"""Contractions of which some sum over the results of others: what `passes.linked` finds, before anything is lowered.

    s = bmm(q, k)      p = softmax(s)      y = bmm(p, v)

One kernel computes them where the laws allow it, so none is left to a library for its own sake.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import fx

from ...passes.linked import FEWEST, MOST, SHALLOW, WIDEST

CONTRACTIONS = frozenset(f"aten.{n}.default" for n in ("mm", "bmm", "addmm", "baddbmm", "linear"))
MAXIMA = ("softmax.default", "amax", "max.dim", "logsumexp")  # parts of names


@dataclass(frozen=True, slots=True)
class FxLink:
    """`last` sums over its operand `made`, which is computed of the contractions `first` by way of `between`."""

    first: tuple[fx.Node, ...]
    between: tuple[fx.Node, ...]
    last: fx.Node
    made: int


def find_links(gm: fx.GraphModule, apart: Container[str] = ()) -> dict[fx.Node, int]:
    """The contractions of a graph that are linked with another one, but for those `apart`, by name. With each the
    operand that is computed of others: 1 where that is the right one.
    """
    found: dict[fx.Node, int] = {}
    for link in iterate_links(gm.graph.nodes):
        if not any(n.name in apart for n in (*link.first, link.last)):
            found.update(dict.fromkeys((n for n in link.first if n not in found), 0))
            found[link.last] = link.made
    return found


def iterate_links(nodes: Iterable[fx.Node]) -> Iterator[FxLink]:
    """Each contraction that sums over the results of others, where something is gained by linking them."""
    behind: set[fx.Node] = set()  # contractions, and what is computed of them
    for node in nodes:
        if str(node.target) in CONTRACTIONS:
            links = (_follow(node, k, behind) for k in range(2) if _has_room(node, k))
            yield from (link for link in links if link is not None)
            behind.add(node)
        elif node.op == "call_function" and any(n in behind for n in node.all_input_nodes):
            behind.add(node)


def operands_of(node: fx.Node) -> list[fx.Node]:
    """The two that are multiplied."""
    given = [a for a in node.args if isinstance(a, fx.Node)]
    return given[-2:] if "add" in str(node.target) else given[:2]


def _has_room(node: fx.Node, k: int) -> bool:
    """True for a contraction whose operand `k` has several rows, and few results for each."""
    shape = shape_of(node)
    return len(shape) >= 2 and shape[k - 2] >= FEWEST and _shared(node, k) <= WIDEST


def _shared(node: fx.Node, k: int) -> int:
    """Results that share each element of the operand `k`."""
    return shape_of(node)[-1 - k]


def _follow(last: fx.Node, k: int, behind: set[fx.Node]) -> FxLink | None:
    """The link of `last` with the contractions that its operand `k` follows from; None where nothing is gained."""
    first: list[fx.Node] = []
    between: list[fx.Node] = []
    front, seen = [operands_of(last)[k]], set[fx.Node]()
    while front:
        node = front.pop()
        if node in seen or node not in behind:
            continue
        seen.add(node)
        if str(node.target) in CONTRACTIONS:
            first.append(node)
        else:
            between.append(node)
            front += node.all_input_nodes
        if len(seen) > MOST:
            return None
    bounded = any(part in str(n.target) for n in between for part in MAXIMA)
    pays = bool(first) and (bounded or _is_shallow(first, _shared(last, k)))
    return FxLink(tuple(first), tuple(between), last, k) if pays else None


def _is_shallow(first: list[fx.Node], results: int) -> bool:
    """True where the values between are little work, and more than what they are computed of."""
    depths = [shape_of(operands_of(node)[0])[-1] for node in first]
    read = sum(prod(shape_of(o)) for node in first for o in operands_of(node))
    return max(depths) + results <= SHALLOW and prod(shape_of(first[0])) >= read


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Sizes of a value; of one that has none, or sizes that are not known, none: (0,)."""
    val = node.meta.get("val")
    sizes = val.shape if isinstance(val, torch.Tensor) else ()
    return tuple(sizes) if sizes and all(isinstance(n, int) for n in sizes) else (0,)
