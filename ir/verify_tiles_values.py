"""Rules of the tiles level about values: loads, operations, states and what is done with them."""

from __future__ import annotations

from collections.abc import Iterator

from .expr import Expr, Load, Op, children, data_in, indices, loads_in, walk
from .states import STATES
from .tiles import ACCUMULATORS, BYTES, Dot, Fold, Loop, Program, Put, Scan, Stage, State, Update
from .types import BF16, BOOL, F16, F32, F64, I16, I64
from .verify_loops import operation_fits
from .verify_rules import Problem, Rule
from .verify_tiles_scope import Scope, indices_of, names_of, read_by, scopes_of, where

BITS = (BF16, F16)  # what may be moved as i16, without a conversion


# --- values ------------------------------------------------------------------------------------------------------


def _loads_are_of_what_is_known(program: Program) -> Iterator[Problem]:
    arrays = {b.name: (1, b.dtype) for b in (*program.inputs, *program.outputs)}
    arrays |= {a.name: (len(a.shape), a.dtype) for a in program.scratch}
    buffers = {b.name for b in (*program.inputs, *program.outputs)}
    for s, scope in scopes_of(program):
        known = arrays | {n: (0, v.dtype) for n, v in scope.names.items()}
        for e in loads_in(*read_by(s)):
            if e.name not in known:
                yield Problem(where(s), "a load of what is not known here", ", ".join(known), e.name)
                continue
            rank, dtype = known[e.name]
            if len(e.index) != rank:
                yield Problem(where(s), f"one index per dimension of {e.name}", rank, len(e.index))
            if e.dtype is not dtype and not (e.name in buffers and e.dtype is I16 and dtype in BITS):
                yield Problem(where(s), f"a load of {e.name} in another type", dtype, e.dtype)
            if e.guard is not None and (e.guard.dtype is not BOOL or not rank):
                expected = "a condition" if rank else "none for a name"
                yield Problem(where(s), f"the guard of a load of {e.name}", expected, e.guard)


def _operations_fit(program: Program) -> Iterator[Problem]:
    for s, _ in scopes_of(program):
        for e in walk(*read_by(s)):
            if isinstance(e, Op) and e.name != "cast":
                yield from operation_fits(e, where(s))
        found = [i for e in walk(*read_by(s)) for i in indices(e)]
        for data in (d for i in (*found, *indices_of(s)) for d in data_in(i)):
            if data.value.dtype is not I64:
                yield Problem(where(s), "an index that is read from data is not i64", I64, data.value.dtype)
        if isinstance(s, Loop) and any(e is not None and e.dtype is not I64 for e in (s.axis.begin, s.axis.end)):
            yield Problem(where(s), "a bound of an axis is not i64", I64)


def _bits_are_only_moved(program: Program) -> Iterator[Problem]:
    """Elements read in another type are bits: they go to a store, at most through a choice."""
    declared = {b.name: b.dtype for b in (*program.inputs, *program.outputs)}
    for s, _ in scopes_of(program):
        passed = set(_passed(s.value)) if isinstance(s, Put | Stage) else set()
        kept = [e for e in read_by(s) if e not in passed]
        for e in (*kept, *(b for x in walk(*read_by(s)) if x not in passed or _changes(x) for b in _below(x))):
            if isinstance(e, Load) and e.dtype is not declared.get(e.name, e.dtype):
                yield Problem(where(s), "bits are computed with", "a move", e)


def _changes(e: Expr) -> bool:
    return isinstance(e, Op) and e.name != "where"


def _below(e: Expr) -> list[Expr]:
    return [*children(e), *(d.value for i in indices(e) for d in data_in(i))]


def _passed(e: Expr) -> Iterator[Expr]:
    """A value, and those that a choice passes on as they are."""
    yield e
    if isinstance(e, Op) and e.name == "where":
        for a in e.args[1:]:
            yield from _passed(a)


# --- states ------------------------------------------------------------------------------------------------------


def _states_begin_as_they_are(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        if not isinstance(s, State):
            continue
        if s.init.dtype is not s.dtype:
            yield Problem(where(s), "the first value has another type", s.dtype, s.init.dtype)
        if s.tile < 1 or (s.lanes is None and s.tile != 1):
            yield Problem(where(s), "a tile of lanes without an axis", 1, s.tile)
        if s.lanes is not None and any(a.name == s.lanes.name for a in scope.axes):
            yield Problem(where(s), "lanes of an axis that is run over already", names_of(scope.axes), s.lanes)


def _updates_are_of_states(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        if not isinstance(s, Update):
            continue
        if len(s.names) != len(s.values) or not s.names or len(set(s.names)) != len(s.names):
            yield Problem(where(s), "one value for each state", len(s.names), len(s.values))
            continue
        states = [scope.states.get(n) for n in s.names]
        for name, state, value in zip(s.names, states, s.values, strict=True):
            if state is None:
                yield Problem(where(s), "an update of what is no state here", ", ".join(scope.states), name)
            elif value.dtype is not state.dtype:
                yield Problem(where(s), f"a value of another type for {name}", state.dtype, value.dtype)
            elif scope.is_shared(name):
                yield Problem(where(s), "points update a state from outside of the grid", got=name)
        yield from _lanes_fit(s, scope, [x for x in states if x is not None])


def _lanes_fit(s: Update, scope: Scope, states: list[State]) -> Iterator[Problem]:
    """Tiles are updated in their loop by its tiles, or outside of lanes elementwise; scalars outside of lanes."""
    kinds = {(x.lanes, x.tile) for x in states}
    if len(kinds) > 1:
        yield Problem(where(s), "states of unlike lanes are updated at once", got=sorted(map(str, kinds)))
        return
    loop = scope.lanes
    if loop is not None and kinds != {(loop.axis, loop.tile)}:
        expected = f"lanes of {loop.axis!r} by {loop.tile}"
        yield Problem(where(s), "an update does not fit the lanes around it", expected, kinds)


def _tiles_are_read_as_tiles(program: Program) -> Iterator[Problem]:
    """A state that is a tile holds parts until it is folded: only updates of its like read it, or, where one tile is
    all of the axis, stores of its points.
    """
    for s, scope in scopes_of(program):
        for e in loads_in(*read_by(s)):
            state = scope.states.get(e.name)
            if state is None or state.lanes is None or (isinstance(s, Put) and _is_whole(state, scope.lanes)):
                continue
            into = [scope.states[n] for n in s.names] if isinstance(s, Update) else []
            if not into or any((x.lanes, x.tile) != (state.lanes, state.tile) for x in into):
                yield Problem(where(s), f"{e.name} is a tile that was not folded", "a fold before", state.lanes)


def _is_whole(state: State, loop: Loop | None) -> bool:
    """True in a loop over the lanes of a state whose tile is all of them."""
    return loop is not None and loop.axis is state.lanes and state.tile == loop.tile == loop.axis.extent


def _folds_fit(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        if not isinstance(s, Fold):
            continue
        row = STATES.get(s.state)
        if row is None:
            yield Problem(where(s), "unknown state", ", ".join(STATES), s.state)
            continue
        states = [scope.states[n] for n in s.names if n in scope.states]
        if len(states) != len(s.names) or any(x.lanes is None for x in states):
            yield Problem(where(s), "a fold of what is no tile of lanes", ", ".join(scope.states), s.names)
            continue
        if len({(x.lanes, x.tile) for x in states}) != 1:
            yield Problem(where(s), "states of unlike lanes are folded at once", got=s.names)
        dtypes = tuple(x.dtype for x in states)
        if tuple(e.dtype for e in row.identity(dtypes)) != dtypes:
            yield Problem(where(s), f"names and types of the components of {s.state}", row.name, dtypes)
        if any(n not in scope.own for n in s.names):
            yield Problem(where(s), "a fold of states of an outer loop", ", ".join(scope.own), s.names)


def _scans_fit(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        if not isinstance(s, Scan):
            continue
        row, carry, loop = STATES.get(s.state), scope.states.get(s.carry), scope.lanes
        if row is None or row.arity != 1 or len(row.dtypes((s.value.dtype,))) != 1:
            yield Problem(where(s), "lanes scan states of one component", "a row of ir.states", s.state)
        if carry is None or carry.lanes is not None:
            yield Problem(where(s), "a scan goes on from a scalar state", ", ".join(scope.states), s.carry)
        elif carry.dtype is not s.value.dtype and (carry.dtype, s.value.dtype) != (F64, F32):
            yield Problem(where(s), "the carried state has another type", s.value.dtype, carry.dtype)
        elif scope.is_shared(s.carry):
            yield Problem(where(s), "points carry a state from outside of the grid", got=s.carry)
        if loop is None:
            yield Problem(where(s), "a scan runs along the lanes around it", "a lanes loop")


def _dots_fit(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        added = {x.name for x in scope.lanes.body if isinstance(x, Dot)} if scope.lanes is not None else set[str]()
        for name in sorted(added & {e.name for e in loads_in(*read_by(s))}):
            yield Problem(where(s), "a sum is read while dots are added to it", "a read after the loop", name)
        if not isinstance(s, Dot):
            continue
        state, held = scope.states.get(s.name), ACCUMULATORS.get(s.left.dtype)
        alike = s.left.dtype is s.right.dtype or (s.left.dtype in BYTES and s.right.dtype in BYTES)
        if not alike or held is None:
            found = f"{s.left.dtype} and {s.right.dtype}"
            yield Problem(where(s), "operands of one type that is added up", ", ".join(map(str, ACCUMULATORS)), found)
        if scope.lanes is None:
            yield Problem(where(s), "a dot runs along the lanes around it", "a lanes loop")
        if state is None or state.lanes is not None:
            yield Problem(where(s), "a dot is added to a scalar state", ", ".join(scope.states), s.name)
        elif held is not None and state.dtype is not held:
            yield Problem(where(s), f"the state {s.name} has another type", held, state.dtype)
        elif scope.is_shared(s.name):
            yield Problem(where(s), "points update a state from outside of the grid", got=s.name)


VALUE_RULES: list[Rule[Program]] = [
    Rule("loads are of what is known", _loads_are_of_what_is_known),
    Rule("operations fit their operands", _operations_fit),
    Rule("bits are only moved", _bits_are_only_moved),
    Rule("states begin as they are", _states_begin_as_they_are),
    Rule("updates are of states", _updates_are_of_states),
    Rule("folds fit their states", _folds_fit),
    Rule("dots fit their states", _dots_fit),
    Rule("scans fit their states", _scans_fit),
    Rule("tiles are read as tiles", _tiles_are_read_as_tiles),
]
