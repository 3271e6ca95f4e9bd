"""Contractions of which one sums over the results of the other, with maxima of those in between.

    s = bmm(q, k)      p = softmax(s)      y = bmm(p, v)

One kernel computes both where the laws allow it, so neither is left to a library for its own sake.
"""

from __future__ import annotations

import torch
from torch import fx

CONTRACTIONS = frozenset(f"aten.{n}.default" for n in ("mm", "bmm", "addmm", "baddbmm", "linear"))
MAXIMA = ("softmax", "amax", "max.dim", "logsumexp")  # parts of names
FEW_ROWS = 8  # with fewer, nothing is gained
WIDEST = 512  # results of a row that one kernel keeps
MOST = 64  # nodes between two contractions


def find_links(gm: fx.GraphModule) -> frozenset[fx.Node]:
    """The contractions of a graph that are linked with another one."""
    found: set[fx.Node] = set()
    behind: set[fx.Node] = set()  # contractions, and what is computed of them
    for node in gm.graph.nodes:
        if str(node.target) in CONTRACTIONS:
            for operand in node.all_input_nodes if _has_room(node) else ():
                found.update(_follow(node, operand, behind))
            behind.add(node)
        elif node.op == "call_function" and any(n in behind for n in node.all_input_nodes):
            behind.add(node)
    return frozenset(found)


def _has_room(node: fx.Node) -> bool:
    """True for a contraction of several rows, and of few results for each."""
    val = node.meta.get("val")
    if not isinstance(val, torch.Tensor) or val.dim() < 2:
        return False
    rows, columns = val.shape[-2:]
    return isinstance(rows, int) and isinstance(columns, int) and rows >= FEW_ROWS and columns <= WIDEST


def _follow(last: fx.Node, operand: fx.Node, behind: set[fx.Node]) -> list[fx.Node]:
    """The contractions that an operand follows from, and `last`; none where no maximum of them is read."""
    first: list[fx.Node] = []
    names: list[str] = []
    front, seen = [operand], set[fx.Node]()
    while front:
        node = front.pop()
        if node in seen or node not in behind:
            continue
        seen.add(node)
        if str(node.target) in CONTRACTIONS:
            first.append(node)
        else:
            names.append(str(node.target))
            front += node.all_input_nodes
        if len(seen) > MOST:
            return []
    reduces = any(part in name for name in names for part in MAXIMA)
    return [*first, last] if first and reduces else []
