"""What the statements of a tile program contain: their expressions, the names they change, whether loops may be
empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..ir.expr import Expr, children, data_in, indices, walk
from ..ir.index import Data
from ..ir.tiles import Dot, Let, Loop, Put, Scan, Stage, State, Statement, Update, walk_statements
from ..ir.types import is_nonnegative, plus


def expressions_of(s: Statement) -> list[Expr]:
    """The expressions that a statement computes, without those of the statements inside it."""
    if isinstance(s, Let | Scan | Stage):
        return [s.value]
    if isinstance(s, State):
        return [s.init]
    if isinstance(s, Update):
        return list(s.values)
    if isinstance(s, Dot):
        return [s.left, s.right]
    if isinstance(s, Put):
        datas = [d.value for i in s.index for d in data_in(i)]
        return [s.value, *datas, *([s.guard] if s.guard is not None else [])]
    if isinstance(s, Loop):
        return [e for e in (s.axis.begin, s.axis.end) if e is not None]
    return []


def count_uses(roots: Iterable[Expr]) -> Counter[Expr]:
    """How often each expression is taken as an operand, so that those taken once need no name."""
    roots = list(roots)
    uses = Counter(roots)
    for e in walk(*roots):
        uses.update(children(e))
        for i in indices(e):
            uses.update(a.value for a, _ in i.terms if isinstance(a, Data))
    return uses


def writes_of(s: Loop) -> frozenset[str]:
    """The names whose values change while the loop runs."""
    names: set[str] = set()
    for inner in walk_statements(s.body):
        if isinstance(inner, Update):
            names.update(inner.names)
        elif isinstance(inner, Dot):
            names.add(inner.name)
        elif isinstance(inner, Scan):
            names.add(inner.carry)
        elif isinstance(inner, Put | Stage):
            names.add(inner.target)
    return frozenset(names)


def may_be_empty(s: Loop) -> bool:
    """False where the loop surely runs at least once."""
    if s.axis.is_ragged or (s.begin is not None and s.end is None):
        return True
    return not is_nonnegative(plus(s.axis.extent, -1))
