"""Contractions that are linked: some sum over what others make, with pointwise values and reductions of it in between.

    s = contract q, k        m = max s        p = exp(s - m)        l = sum p        y = contract p / l, v

    s = contract k, q        t = contract v, g        dv = contract exp(s - n), g        dk = contract exp(s - n) * t, q

In one kernel nothing of the size of s has to be stored. Whether that pays is a question of cost; here is said which
values such a kernel would compute: all that stands between the contractions, of which nobody else reads an element.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import takewhile

from ..ir.graph import Graph, Node
from ..ir.ops import OPS
from ..ir.types import product

WIDEST = 512  # results of the latter contractions for each row: they are kept while their sums run
FEWEST = 8  # rows
BETWEEN = ("pointwise", "view", "create", "reduce")  # kinds of nodes that stand between two contractions
MOST = 64  # of them
SHALLOW = 256  # products of a value and a result of it, up to which a value that is kept saves more than it costs


@dataclass(frozen=True, slots=True)
class Link:
    """`first` are the contractions whose results `last` sum over, `between` what is computed of them for those."""

    first: tuple[str, ...]
    between: tuple[str, ...]
    last: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.first, *self.between, *self.last)

    def meets(self, other: Link) -> bool:
        """True where both read the same contraction or what is computed of it."""
        return not {*self.first, *self.between}.isdisjoint((*other.first, *other.between))

    def joined(self, other: Link) -> Link:
        def both(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(dict.fromkeys((*a, *b)))

        return Link(both(self.first, other.first), both(self.between, other.between), both(self.last, other.last))


def find_links(graph: Graph, live: Set[str], apart: Set[str] = frozenset()) -> tuple[Link, ...]:
    """The links of a graph, but for those whose last contractions are `apart`. None is in two of them, and products in
    groups are in none.
    """
    asked: list[Link] = []
    behind: set[str] = set()  # contractions, and what is computed of them
    for node in graph.nodes:
        kind = OPS[node.op].kind
        if node.op == "contract" and node.name in live and node.name not in apart:
            links = (_link(graph, node, operand, behind) for operand in dict.fromkeys(node.inputs))
            link = next((x for x in links if x is not None), None)
            if link is not None:
                asked.append(link)
        if node.op == "contract" or (kind in BETWEEN and not behind.isdisjoint(node.inputs)):
            behind.add(node.name)
    found: list[Link] = []
    taken: set[str] = set()
    for link in _grouped(asked):
        if taken.isdisjoint(link.members) and _is_apart(graph, link, live):
            taken.update(link.members)
            found.append(link)
    return tuple(found)


def in_order(graph: Graph, links: Iterable[Link]) -> list[tuple[Node, ...]]:
    """The nodes in an order that respects what they read, those of a link together."""
    of = {n: link for link in links for n in link.members}
    position = {n.name: k for k, n in enumerate(graph.nodes)}
    placed = {n.name for n in graph.inputs}
    order: list[tuple[Node, ...]] = []

    def place(name: str) -> None:
        link = of.get(name)
        members = (name,) if link is None else tuple(sorted(link.members, key=position.__getitem__))
        if link is not None:
            for other in sorted(_before(graph, members, placed), key=position.__getitem__):
                if other not in placed:
                    place(other)
        placed.update(members)
        order.append(tuple(graph.by_name[n] for n in members))

    for node in graph.nodes:
        if node.name not in placed:
            place(node.name)
    return order


def _before(graph: Graph, members: tuple[str, ...], placed: Set[str]) -> set[str]:
    """What members need and is neither among them nor placed."""
    found: set[str] = set()
    front = [i for n in members for i in graph.by_name[n].inputs]
    while front:
        name = front.pop()
        if name not in placed and name not in found and name not in members:
            found.add(name)
            front += graph.by_name[name].inputs
    return found


def _grouped(asked: list[Link]) -> list[Link]:
    """Links that sum over the same values are one."""
    found: list[Link] = []
    for link in asked:
        same = [x for x in found if x.meets(link)]
        joined = link
        for other in reversed(same):
            joined = other.joined(joined)
        place = found.index(same[0]) if same else len(found)
        found = [x for x in found if x not in same]
        found.insert(place, joined)
    return found


def _link(graph: Graph, last: Node, operand: str, behind: Set[str]) -> Link | None:
    """The link through one operand; None where there is none."""
    if not _is_narrow(graph, last, operand):
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
    bounded = any(graph.by_name[n].op == "max" for n in between)
    if not first or not (bounded or _is_shallow(graph, first, last, operand)):
        return None
    return Link(tuple(first), tuple(between), (last.name,))


def _is_apart(graph: Graph, link: Link, live: Set[str]) -> bool:
    """True where nobody else reads values between the contractions, nor computes what others of them read."""
    inside = set(link.members)
    large = max((graph.by_name[n] for n in link.first), key=_size)
    whole = [n for n in (*link.first, *link.between) if not _is_small(graph.by_name[n], large)]
    if not set(whole).isdisjoint(graph.results):
        return False
    if not all(r.name in inside for n in whole for r in graph.readers[n] if r.name in live):
        return False
    before = {n.name for n in (*graph.inputs, *takewhile(lambda n: n.name not in inside, graph.nodes))}
    return not any(inside & set(graph.by_name[n].inputs) for n in _before(graph, link.members, before))


def _is_small(node: Node, operand: Node) -> bool:
    """True for what is known of whole rows of an operand: others may read it too."""
    return 2 * _size(node) <= _size(operand)


def _size(node: Node) -> int:
    size = product(node.shape)
    return size if isinstance(size, int) else 0


def _is_narrow(graph: Graph, last: Node, operand: str) -> bool:
    """True where few results share each element of an operand, which has rows enough."""
    again, rows = _shared(last, operand)
    return again <= WIDEST and rows >= FEWEST


def _is_shallow(graph: Graph, first: list[str], last: Node, operand: str) -> bool:
    """True where values that no maximum is taken of are so little work that reading and writing them is much of it, and
    where they are more than all else that is read.
    """
    depths: list[int] = []
    read = 0
    for name in first:
        node = graph.by_name[name]
        summed = [label for label in node.attr("left") if label not in node.attr("out")]
        left = graph.by_name[node.inputs[0]]
        sizes = dict(zip(node.attr("left"), left.shape, strict=True))
        depth = product(sizes[label] for label in summed)
        depths.append(depth if isinstance(depth, int) else SHALLOW)
        read += _size(left) + _size(graph.by_name[node.inputs[1]])
    return max(depths) + _shared(last, operand)[0] <= SHALLOW and _size(graph.by_name[first[0]]) >= read


def _shared(last: Node, operand: str) -> tuple[int, int]:
    """(results that share each element of an operand, rows of results); 0 rows where either is not known."""
    sizes = dict(zip(last.attr("out"), last.shape, strict=True))
    sides = [last.attr("left"), last.attr("right")]
    own, other = sides if last.inputs[0] == operand else reversed(sides)
    again = product(n for label, n in sizes.items() if label not in own)
    rows = product(n for label, n in sizes.items() if label not in other)
    return (again, rows) if isinstance(again, int) and isinstance(rows, int) else (WIDEST + 1, 0)
