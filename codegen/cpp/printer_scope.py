"""The loops around the statement being printed, and what is known in each: every value is computed once, as far out
as it can be.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ...ir.expr import Expr, Load, data_in, walk
from ...ir.index import Axis, Index, axes_of
from .printer_names import identifier


@dataclass(frozen=True, slots=True)
class Val:
    """C++ text of a value of type `pack` (F D I L M): one per lane, or a single one for all."""

    text: str
    pack: str
    single: bool = True


@dataclass(slots=True)
class Lanes:
    """The lanes loop around: `var` is the first point of the pack, `n` the number of points left (None: at least a
    pack).

    `slot` selects the pack's own accumulator in a tile of several; `level` is the loop's scope.
    """

    axis: Axis
    var: str
    level: int
    n: str | None = None
    slot: str = ""
    aligned: bool = False  # packs start at multiples of their size
    packs: int = 1  # of a tile
    streams: dict[int, str] = field(default_factory=dict)  # stores (by id) that may bypass the caches, and when
    lines: list[str] = field(default_factory=list)  # declarations of arrays that hold a tile's results ..
    deferred: list[str] = field(default_factory=list)  # .. and the stores of them, after the tile


@dataclass(slots=True)
class Scope:
    """A loop body (or the function's). `writes` are names that change within it, `maybe_empty` that it may not run
    at all.
    """

    axes: dict[Axis, str]
    writes: frozenset[str]
    maybe_empty: bool
    lines: list[str] = field(default_factory=list)
    cache: dict[Hashable, tuple[Val, frozenset[str]]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


class Stack:
    """Scopes from the function to the innermost loop. `bound` has the values of names, with the scope they live in."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.taken: set[str] = set()
        self.bound: dict[str, tuple[Val, int]] = {}
        self.lanes: Lanes | None = None

    @property
    def depth(self) -> int:
        """The level of the innermost scope."""
        return len(self.scopes) - 1

    def emit(self, line: str, level: int | None = None) -> None:
        self.scopes[self.depth if level is None else level].lines.append(line)

    def emit_all(self, lines: Iterable[str]) -> None:
        self.scopes[-1].lines.extend(lines)

    def open(self, axes: dict[Axis, str], writes: frozenset[str], maybe_empty: bool) -> None:
        self.scopes.append(Scope(axes, writes, maybe_empty))

    def rename(self, name: str, text: str) -> None:
        """Gives a bound name other text of the same type."""
        val, level = self.bound[name]
        self.bound[name] = (Val(text, val.pack, val.single), level)

    def close(self) -> list[str]:
        """The lines of the innermost scope, indented; its names are free again."""
        scope = self.scopes.pop()
        self.taken.difference_update(scope.names)
        return [f"  {line}" if not line.startswith("#") else line for line in scope.lines]

    def fresh(self, hint: str, level: int | None = None) -> str:
        """A new name for something in a scope: `x`, then `x1`, `x2` .."""
        name, k = hint, 0
        while name in self.taken:
            k += 1
            name = f"{hint}{k}" if not hint[-1].isdigit() else f"{hint}_{k}"
        name = identifier(name, self.taken)
        if self.scopes:
            self.scopes[self.depth if level is None else level].names.append(name)
        return name

    # --- levels --------------------------------------------------------------------------------------------------

    def level_of_axis(self, axis: Axis) -> int:
        return next((k for k in reversed(range(len(self.scopes))) if axis in self.scopes[k].axes), 0)

    def level_of_name(self, name: str) -> int:
        """The outermost scope in which what the name reads as does not change."""
        level = self.bound[name][1] if name in self.bound else 0
        return max([level, *(k for k, s in enumerate(self.scopes) if name in s.writes)])

    def level_of(self, e: Expr) -> int:
        """The outermost scope where the expression can be computed."""
        level = max((self.level_of_axis(a) for a in e.axes), default=0)
        names = names_in(e)
        level = max([level, *(self.level_of_name(n) for n in names)])
        if any(n not in self.bound for n in names):
            level = max([level, *(k for k, s in enumerate(self.scopes) if s.maybe_empty)])
        if self.lanes is not None and self.varies(e):
            level = max(level, self.lanes.level)
        return level

    def varies(self, e: Expr) -> bool:
        """True when the value may differ between the lanes of a pack."""
        if self.lanes is None:
            return False
        if self.lanes.axis in e.axes:
            return True
        return self.reads_pack(e)

    def reads_pack(self, e: Expr) -> bool:
        """True for an expression, or data in its indices, that reads a name which is bound to a pack."""
        return any(n in self.bound and not self.bound[n][0].single for n in names_in(e))

    def index_varies(self, i: Index) -> bool:
        """True when the index may differ between the lanes of a pack."""
        if self.lanes is None:
            return False
        return self.lanes.axis in axes_of(i) or any(self.varies(d.value) for d in data_in(i))

    # --- values --------------------------------------------------------------------------------------------------

    def find(self, key: Hashable, level: int) -> Val | None:
        found = self.scopes[level].cache.get(key)
        return None if found is None else found[0]

    def keep(self, key: Hashable, val: Val, level: int, names: frozenset[str]) -> None:
        self.scopes[level].cache[key] = (val, names)

    def forget(self, name: str) -> None:
        """Drops what was computed from a name that changes now."""
        for scope in self.scopes:
            stale = [key for key, (_, names) in scope.cache.items() if name in names]
            for key in stale:
                del scope.cache[key]


@lru_cache(maxsize=65536)
def names_in(e: Expr) -> frozenset[str]:
    """The names that an expression loads, also inside its indices."""
    return frozenset(n.name for n in walk(e) if isinstance(n, Load))


@lru_cache(maxsize=65536)
def names_in_index(i: Index) -> frozenset[str]:
    return frozenset().union(*(names_in(d.value) for d in data_in(i)))
