"""Which tiles of a large output are computed: corners, tails and random ones."""

from __future__ import annotations

import random
from dataclasses import dataclass

Ranges = tuple[range, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The first corner, the last (where tails go wrong), and `tiles` random tiles of at most `points` elements each.

    Random tiles start at the edges of an axis half of the time. Tiles are widest along the last axis.
    """

    tiles: int = 4
    points: int = 4096
    seed: int = 0


def sample_boxes(sample: Sample, full: Ranges) -> list[Ranges]:
    """Boxes of the ranges `full`; just `full` where it is small enough."""
    total = 1
    for r in full:
        total *= len(r)
    if total <= sample.points * (sample.tiles + 2):
        return [full]
    widths = _widths(sample.points, full)
    chance = random.Random(sample.seed)
    rooms = [len(r) - w for r, w in zip(full, widths, strict=True)]
    starts = [[0] * len(full), rooms, *([_start(chance, room) for room in rooms] for _ in range(sample.tiles))]
    return [tuple(r[s : s + w] for r, s, w in zip(full, start, widths, strict=True)) for start in starts]


def _start(chance: random.Random, room: int) -> int:
    return chance.choice((0, room)) if chance.random() < 0.5 else chance.randint(0, room)


def _widths(points: int, full: Ranges) -> list[int]:
    """The last axis gets up to the square root of the points, and what is left goes to the axes before it in turn."""
    widths = [1] * len(full)
    room = points
    for k in reversed(range(len(full))):
        share = max(1, int(room**0.5)) if k else room
        widths[k] = min(len(full[k]), share)
        room = max(1, room // widths[k])
    return widths
