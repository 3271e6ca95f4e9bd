"""What is known at each statement of a tile program: the loops around it, the names bound before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from .expr import Expr, Load, data_in, walk
from .index import Axis, Index, axes_of
from .tiles import Dot, Fetch, Fold, Let, Loop, Program, Put, Scan, Stage, State, Statement, Update
from .types import DType


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is bound: its type, whether its value may differ between lanes, and the loops around its binding."""

    dtype: DType
    varies: bool
    loops: int


@dataclass(frozen=True, slots=True)
class Scope:
    """At a statement: the loops around it, outermost first; names with what they are; those of them that are running
    values; and those that were bound in the innermost loop.
    """

    loops: tuple[Loop, ...] = ()
    names: dict[str, Name] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @property
    def axes(self) -> frozenset[Axis]:
        return frozenset(x.axis for x in self.loops)

    @property
    def lanes(self) -> Loop | None:
        """The lanes loop around."""
        return self.loops[-1] if self.loops and self.loops[-1].kind == "lanes" else None

    def varies(self, e: Expr) -> bool:
        """True where the value may differ between the lanes."""
        if self.lanes is None:
            return False
        if self.lanes.axis in e.axes:
            return True
        return any(isinstance(x, Load) and x.name in self.names and self.names[x.name].varies for x in walk(e))

    def index_varies(self, i: Index) -> bool:
        if self.lanes is None:
            return False
        return self.lanes.axis in axes_of(i) or any(self.varies(d.value) for d in data_in(i))

    def is_shared(self, name: str) -> bool:
        """True for a name that several points of a grid have in common."""
        return any(x.kind == "grid" for x in self.loops[self.names[name].loops :])

    def bind(self, name: str, dtype: DType, varies: bool, state: State | None = None) -> Scope:
        states = {n: s for n, s in self.states.items() if n != name} | ({} if state is None else {name: state})
        return replace(
            self, names=self.names | {name: Name(dtype, varies, len(self.loops))}, states=states, own=self.own | {name}
        )

    def after(self, s: Statement) -> Scope:
        """What is known below a statement."""
        if isinstance(s, Let):
            return self.bind(s.name, s.value.dtype, self.varies(s.value))
        if isinstance(s, State):
            return self.bind(s.name, s.dtype, s.lanes is not None, s)
        if isinstance(s, Scan):
            return self.bind(s.name, s.value.dtype, True)
        if isinstance(s, Fold):
            scope = self
            for name in s.names:
                if name in scope.states:
                    scope = scope.bind(name, scope.states[name].dtype, False)
            return scope
        return self


def scopes_of(program: Program) -> Iterator[tuple[Statement, Scope]]:
    """Every statement in order, with what is known at it."""
    return _walk(program.body, Scope())


def _walk(body: Sequence[Statement], scope: Scope) -> Iterator[tuple[Statement, Scope]]:
    for s in body:
        yield s, scope
        if isinstance(s, Loop):
            yield from _walk(s.body, replace(scope, loops=(*scope.loops, s), own=frozenset()))
        scope = scope.after(s)


def read_by(s: Statement) -> tuple[Expr, ...]:
    """The expressions that a statement itself evaluates, with the data of its indices."""
    if isinstance(s, Let | Scan):
        return (s.value,)
    if isinstance(s, State):
        return (s.init,)
    if isinstance(s, Update):
        return s.values
    if isinstance(s, Dot):
        return s.left, s.right
    if isinstance(s, Put):
        return (s.value, *_data(*s.index)) if s.guard is None else (s.value, s.guard, *_data(*s.index))
    if isinstance(s, Stage):
        return (s.value, *_data(*s.at, s.row, s.lane))
    if isinstance(s, Loop):
        return (*(e for e in (s.axis.begin, s.axis.end) if e is not None), *_data(*_limits(s)))
    return ()


def _limits(s: Loop) -> tuple[Index, ...]:
    return tuple(i for i in (s.begin, s.end) if i is not None)


def _data(*index: Index) -> tuple[Expr, ...]:
    return tuple(d.value for i in index for d in data_in(i))


def where(s: Statement) -> str:
    """A statement in an error's words."""
    if isinstance(s, Loop):
        return f"{s.kind} loop over {s.axis}"
    if isinstance(s, Put | Stage):
        return f"store to {s.target}"
    return f"{type(s).__name__.lower()} {', '.join(s.names) if isinstance(s, Update | Fold) else s.name}"


def indices_of(s: Statement) -> tuple[Index, ...]:
    """The indices that a statement itself holds."""
    if isinstance(s, Put):
        return s.index
    if isinstance(s, Stage):
        return (*s.at, s.row, s.lane)
    if isinstance(s, Fetch):
        return (s.index,)
    return tuple(i for i in (s.begin, s.end) if i is not None) if isinstance(s, Loop) else ()


def names_of(axes: set[Axis] | frozenset[Axis]) -> str:
    return ", ".join(sorted(repr(a) for a in axes)) or "no axes"
