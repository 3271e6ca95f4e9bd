"""Contractions that are linked: one sums over what another one makes, with reductions of it in between.

    s = contract q, k        m = max s        p = exp(s - m)        l = sum p        y = contract p / l, v

In one kernel nothing of the size of s has to be stored. Whether that pays is a question of cost; here is said which
values such a kernel would compute: all that stands between the contractions, of which nobody else reads an element.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ..ir.graph import Graph, Node
from ..ir.ops import OPS
from ..ir.types import product

WIDEST = 512  # results of the second contraction for each row: they are kept while its sums run
FEWEST = 8  # rows
BETWEEN = ("pointwise", "view", "create", "reduce")  # kinds of nodes that stand between two contractions
MOST = 64  # of them


@dataclass(frozen=True, slots=True)
class Link:
    """`first` are the contractions whose results `last` sums over, `between` what is computed of them for it."""

    first: tuple[str, ...]
    between: tuple[str, ...]
    last: str

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.first, *self.between, self.last)


def find_links(graph: Graph, live: Set[str], apart: Set[str] = frozenset()) -> dict[str, Link]:
    """The links of a graph, by the names of their last contractions, but for those `apart`.

    No contraction is in two of them, and none in groups in any.
    """
    found: dict[str, Link] = {}
    taken: set[str] = set()
    behind: set[str] = set()  # contractions, and what is computed of them
    for node in graph.nodes:
        kind = OPS[node.op].kind
        if node.op == "contract" and node.name not in apart:
            links = [_link(graph, node, operand, behind, live) for operand in node.inputs]
            link = next((x for x in links if x is not None and taken.isdisjoint(x.members)), None)
            if link is not None:
                taken.update(link.members)
                found[node.name] = link
        if node.op == "contract" or (kind in BETWEEN and not behind.isdisjoint(node.inputs)):
            behind.add(node.name)
    return found


def _link(graph: Graph, last: Node, operand: str, behind: Set[str], live: Set[str]) -> Link | None:
    """The link through one operand; None where there is none."""
    if last.name not in live or not _is_narrow(graph, last, operand):
        return None
    between: list[str] = []
    first: list[str] = []
    front, seen = [operand], set[str]()
    while front:
        name = front.pop()
        if name in seen or name not in behind:
            continue
        seen.add(name)
        node = graph.by_name[name]
        if node.op == "contract":
            first.append(name)
        else:
            between.append(name)
            front += node.inputs
        if len(seen) > MOST:
            return None
    inside = {*seen, last.name}
    whole = [n for n in seen if not _is_small(graph.by_name[n], graph.by_name[operand])]
    bounded = any(graph.by_name[n].op == "max" for n in between)
    apart = all(r.name in inside for n in whole for r in graph.readers[n] if r.name in live)
    if not (first and bounded and apart and set(whole).isdisjoint(graph.results)):
        return None
    return Link(tuple(first), tuple(between), last.name)


def _is_small(node: Node, operand: Node) -> bool:
    """True for what is known of whole rows of an operand: others may read it too."""
    own, whole = product(node.shape), product(operand.shape)
    return isinstance(own, int) and isinstance(whole, int) and 2 * own <= whole


def _is_narrow(graph: Graph, last: Node, operand: str) -> bool:
    """True where few results share each element of an operand, which has rows enough."""
    sizes = dict(zip(last.attr("out"), last.shape, strict=True))
    sides = [last.attr("left"), last.attr("right")]
    own, other = sides if last.inputs[0] == operand else reversed(sides)
    again = product(n for label, n in sizes.items() if label not in own)
    rows = product(n for label, n in sizes.items() if label not in other)
    return isinstance(again, int) and again <= WIDEST and isinstance(rows, int) and rows >= FEWEST
