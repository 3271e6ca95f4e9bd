"""The scopes of a Triton function while it is printed: where each value has been named, which loops are open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir.expr import Expr, Load, walk
from ...ir.index import Axis

_KEYWORDS = """
False None True and as assert async await break class continue def del elif else except finally for from global if
import in is lambda nonlocal not or pass raise return try while with tl triton libdevice min max range float int
pid work bad
"""
KEYWORDS = frozenset(_KEYWORDS.split())


@dataclass(frozen=True, slots=True)
class Val:
    """A printed value: its text, the dimensions of tiles that it varies along, and the type that it is held in.

    `kind` is the name of a type of the IR; an i64 value that provably fits may be held as i32.
    """

    text: str
    dims: frozenset[int] = frozenset()
    kind: str = "i64"


@dataclass(frozen=True, slots=True)
class Axes:
    """A loop's variable: its name, its dimension of tiles (None: one point), the condition under which it exists."""

    name: str
    dim: int | None = None
    kind: str = "i32"
    mask: str = ""


@dataclass(slots=True)
class Scope:
    """One level of indentation. `changes` are the names that something in the loop assigns to."""

    axes: dict[Axis, Axes]
    changes: frozenset[str]
    lines: list[str] = field(default_factory=list)
    known: dict[object, Val] = field(default_factory=dict)


class Stack:
    """The open scopes, outermost first."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bound: dict[str, tuple[Val, int]] = {}  # names of the program, with the level that they are bound at
        self.taken: set[str] = set()

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    def open(self, axes: dict[Axis, Axes], changes: frozenset[str]) -> None:
        self.scopes.append(Scope(axes, changes))

    def close(self) -> list[str]:
        """The lines of the innermost scope; what was bound in it is gone."""
        lines = self.scopes.pop().lines
        self.bound = {n: (v, k) for n, (v, k) in self.bound.items() if k <= self.depth}
        return lines

    def emit(self, line: str, level: int | None = None) -> None:
        self.scopes[self.depth if level is None else level].lines.append(line)

    def emit_block(self, head: str, lines: Sequence[str]) -> None:
        """A loop around some lines; nothing where there are none."""
        if lines:
            self.emit(head)
        for line in lines:
            self.emit(f"    {line}")

    def fresh(self, name: str) -> str:
        """A Python name like `name` that is not taken yet."""
        base = re.sub(r"\W", "_", name) or "v"
        if base[0].isdigit() or base[0] == "_":
            base = f"v{base}"
        found, k = base, 1
        while found in self.taken or found in KEYWORDS:
            found, k = f"{base}_{k}", k + 1
        self.taken.add(found)
        return found

    def axis(self, axis: Axis) -> Axes:
        return self.scopes[self.level_of_axis(axis)].axes[axis]

    def level_of_axis(self, axis: Axis) -> int:
        return next(k for k in reversed(range(len(self.scopes))) if axis in self.scopes[k].axes)

    def level_of(self, e: Expr) -> int:
        """The outermost scope in which everything that a value hangs on is known and stays as it is."""
        level = max((self.level_of_axis(a) for a in e.axes), default=0)
        for x in walk(e):
            if not isinstance(x, Load):
                continue
            if x.name in self.bound:
                level = max(level, self.bound[x.name][1])
            changing = [k for k, s in enumerate(self.scopes) if x.name in s.changes]
            level = max([level, *changing[-1:]])
        return level

    def find(self, key: object, level: int) -> Val | None:
        """What a value is named in the scope of a level or around it, as far out as its axes are the same loops': one
        that was a tile before may be a loop's variable now.
        """
        least = max((self.level_of_axis(a) for a in key.axes), default=0) if isinstance(key, Expr) else 0
        for k in range(level, least - 1, -1):
            if key in self.scopes[k].known:
                return self.scopes[k].known[key]
        return None

    def keep(self, key: object, val: Val, level: int) -> None:
        self.scopes[level].known[key] = val

    def forget(self, name: str) -> None:
        """Drops what was named from a value that is no longer what it was."""
        for scope in self.scopes:
            stale = [e for e in scope.known if isinstance(e, Expr) and _reads(e, name)]
            for e in stale:
                del scope.known[e]


def _reads(e: Expr, name: str) -> bool:
    return any(isinstance(x, Load) and x.name == name for x in walk(e))
