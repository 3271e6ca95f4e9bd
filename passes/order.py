"""Orders on small graphs: reachability, connected parts, and a topological order with priorities.

networkx has all three; importing it costs more than compiling a small model does, so these few lines stand here
instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence


class CircularOrder(Exception):
    """The nodes wait for each other."""


def reachable(start: str, after: Callable[[str], Iterable[str]]) -> set[str]:
    """Every node that `start` leads to, itself not counted."""
    found: set[str] = set()
    front = [start]
    while front:
        for n in after(front.pop()):
            if n not in found:
                found.add(n)
                front.append(n)
    return found


def connected_parts(nodes: Sequence[str], links: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """The nodes in groups that links hold together, each in the given order."""
    leader = {n: n for n in nodes}

    def find(n: str) -> str:
        while leader[n] != n:
            leader[n] = leader[leader[n]]
            n = leader[n]
        return n

    for a, b in links:
        leader[find(a)] = find(b)
    parts: dict[str, list[str]] = {}
    for n in nodes:
        parts.setdefault(find(n), []).append(n)
    return [tuple(p) for p in parts.values()]


def topological(waiting: Mapping[int, set[int]], priority: Sequence[int]) -> list[int]:
    """Numbers after all that they wait for, the least priority first; raises CircularOrder where there is none."""
    readers: dict[int, list[int]] = {k: [] for k in waiting}
    for k, needed in waiting.items():
        for n in needed:
            readers[n].append(k)
    missing = {k: len(needed) for k, needed in waiting.items()}
    ready = [(priority[k], k) for k, n in missing.items() if n == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, k = heapq.heappop(ready)
        order.append(k)
        for r in readers[k]:
            missing[r] -= 1
            if missing[r] == 0:
                heapq.heappush(ready, (priority[r], r))
    if len(order) != len(waiting):
        raise CircularOrder(f"{len(waiting) - len(order)} nodes wait for each other")
    return order
