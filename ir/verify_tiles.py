"""The rules of the tiles level.

The order of the list matters: a rule may rely on those before it. Rules about names walk the program with the scope
of each statement (`ir.verify_tiles_scope`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .expr import Expr, Load, Op, Rewriter, children, data_in, indices, loads_in, walk
from .index import ZERO, Axis, Index, axes_of, axis_coefficient, bounds, is_affine, of_atom, substitute
from .states import STATES
from .text_tokens import is_name
from .tiles import KINDS, Fold, Let, Loop, Program, Put, Scan, Stage, State, Statement, Update, walk_statements
from .types import BF16, BOOL, F16, F32, F64, I16, I32, I64, Dim, is_nonnegative, is_static, multiply, plus
from .verify_loops import index_leaves, operation_fits
from .verify_rules import Problem, Rule
from .verify_tiles_scope import Scope, read_by, scopes_of, where

BITS = (BF16, F16)  # what may be moved as i16, without a conversion


# --- declarations and names --------------------------------------------------------------------------------------


def _names_are_names(program: Program) -> Iterator[Problem]:
    declared = [x.name for x in (*program.inputs, *program.outputs, *program.scratch)]
    axes = [a.name for s in walk_statements(program.body) if isinstance(s, Loop) for a in [s.axis]]
    for name in (*declared, *axes, *(n for s in walk_statements(program.body) for n in _defined(s))):
        if not is_name(name):
            yield Problem(name, "not a name of the IR's text", "letters, digits and _, no keyword", repr(name))


def _defined(s: Statement) -> tuple[str, ...]:
    return (s.name,) if isinstance(s, Let | State | Scan) else ()


def _declarations_are_unique(program: Program) -> Iterator[Problem]:
    for side in (program.inputs, program.outputs, program.scratch):
        for name, count in Counter(x.name for x in side).items():
            if count > 1:
                yield Problem(name, "an array is listed twice", 1, count)
    outputs = {b.name: b for b in program.outputs}
    for b in program.inputs:
        if outputs.get(b.name, b) != b:
            yield Problem(b.name, "a buffer updated in place has one description", b, outputs[b.name])
    buffers = {b.name for b in (*program.inputs, *program.outputs)}
    for s in program.scratch:
        if s.name in buffers:
            yield Problem(s.name, "a scratch array has the name of a buffer")
    if program.prefetch < 0:
        yield Problem("", "a negative prefetch distance", got=program.prefetch)


def _buffers_are_flat(program: Program) -> Iterator[Problem]:
    for b in (*program.inputs, *program.outputs):
        if len(b.shape) != 1 or b.strides != (1,) or b.offset != 0:
            yield Problem(b.name, "a buffer is not flat", "one dimension of stride 1", f"{b.shape} by {b.strides}")


def _names_have_one_meaning(program: Program) -> Iterator[Problem]:
    declared = {x.name for x in (*program.inputs, *program.outputs, *program.scratch)}
    for s, scope in scopes_of(program):
        for name in _defined(s):
            if name in declared:
                yield Problem(where(s), "a value has the name of an array", got=name)
            elif name in scope.names:
                yield Problem(where(s), "a name is bound again where it is known", got=name)


# --- loops -------------------------------------------------------------------------------------------------------


def _loops_nest(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        outer = scope.loops[-1].kind if scope.loops else "grid"
        if outer == "lanes" and not isinstance(s, Let | Update | Scan | Put):
            yield Problem(where(s), "lanes run at once", "values, updates, scans and stores", type(s).__name__)
        if isinstance(s, Loop) and s.kind == "grid" and outer != "grid":
            yield Problem(where(s), "a grid loop is inside another kind of loop", "grid loops outermost", outer)


def _loops_are_loops(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        if not isinstance(s, Loop):
            continue
        if s.kind not in KINDS:
            yield Problem(where(s), "unknown kind of loop", ", ".join(KINDS), s.kind)
        if isinstance(s.axis.extent, int) and s.axis.extent < 0:
            yield Problem(where(s), "a negative extent", got=s.axis.extent)
        if s.tile < 1 or (s.tile > 1 and s.kind != "lanes"):
            yield Problem(where(s), "lanes loops alone run several points at once", "a tile of 1", s.tile)
        if s.reverse and s.kind != "serial":
            yield Problem(where(s), "only serial loops run backwards", "serial", s.kind)
        if s.kind == "grid" and (s.begin is not None or s.end is not None or _is_ragged(s.axis)):
            yield Problem(where(s), "a grid has all the points of its axis", "no bounds", f"{s.begin} to {s.end}")
        if any(a.name == s.axis.name for a in scope.axes):
            yield Problem(where(s), "an axis is run over inside itself", got=s.axis.name)


def _is_ragged(axis: Axis) -> bool:
    return axis.begin is not None or axis.end is not None


def _axes_are_known(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        known = scope.axes | ({s.rows, s.lanes} if isinstance(s, Stage) else set())
        stray = {a for e in read_by(s) for a in e.axes} | {a for i in _indices_of(s) for a in axes_of(i)}
        for a in stray - known:
            yield Problem(where(s), "an axis that no loop around runs over", _names(known), repr(a))


def _indices_of(s: Statement) -> tuple[Index, ...]:
    """The indices that a statement itself holds."""
    if isinstance(s, Put):
        return s.index
    if isinstance(s, Stage):
        return (*s.at, s.row, s.lane)
    return tuple(i for i in (s.begin, s.end) if i is not None) if isinstance(s, Loop) else ()


def _names(axes: set[Axis] | frozenset[Axis]) -> str:
    return ", ".join(sorted(repr(a) for a in axes)) or "no axes"


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
        for data in (d for i in (*found, *_indices_of(s)) for d in data_in(i)):
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
        for e in (*kept, *(b for x in walk(*read_by(s)) if x not in passed for b in _below(x))):
            if isinstance(e, Load) and e.dtype is not declared.get(e.name, e.dtype):
                yield Problem(where(s), "bits are computed with", "a move", e)


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
            yield Problem(where(s), "lanes of an axis that is run over already", _names(scope.axes), s.lanes)


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
    """A state that is a tile has one value per lane until it is folded: only its loop and updates of its like read
    it.
    """
    for s, scope in scopes_of(program):
        for e in loads_in(*read_by(s)):
            state = scope.states.get(e.name)
            if state is None or state.lanes is None:
                continue
            around = scope.lanes
            into = [scope.states.get(n) for n in s.names] if isinstance(s, Update) else []
            fits = all(x is not None and (x.lanes, x.tile) == (state.lanes, state.tile) for x in into)
            if around is not None and (around.axis, around.tile) != (state.lanes, state.tile):
                yield Problem(where(s), f"{e.name} is a tile of other lanes", f"{state.lanes!r}", repr(around.axis))
            elif around is None and not (into and fits):
                yield Problem(where(s), f"{e.name} is a tile that was not folded", "a fold before", s)


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
        if row.dtypes(dtypes[: row.arity]) != dtypes:
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
        if loop is None or loop.reverse:
            yield Problem(where(s), "a scan runs along the lanes around it", "a lanes loop")


# --- stores ------------------------------------------------------------------------------------------------------


def _puts_fit(program: Program) -> Iterator[Problem]:
    outputs = {b.name: (1, b.dtype) for b in program.outputs}
    targets = outputs | {a.name: (len(a.shape), a.dtype) for a in program.scratch}
    for s, _ in scopes_of(program):
        if not isinstance(s, Put):
            continue
        if s.target not in targets:
            yield Problem(where(s), "neither an output nor scratch", ", ".join(targets), s.target)
            continue
        rank, dtype = targets[s.target]
        if len(s.index) != rank:
            yield Problem(where(s), f"one index per dimension of {s.target}", rank, len(s.index))
        if s.value.dtype is not dtype and not (s.target in outputs and s.value.dtype is I16 and dtype in BITS):
            yield Problem(where(s), "the value has another type", dtype, s.value.dtype)
        if s.guard is not None and s.guard.dtype is not BOOL:
            yield Problem(where(s), "the guard is not bool", BOOL, s.guard.dtype)
        if s.stream and s.target not in outputs:
            yield Problem(where(s), "scratch bypasses the caches", "an output", s.target)


def _lanes_write_apart(program: Program) -> Iterator[Problem]:
    """Lanes run at once: those that write one element must all write the same there."""
    for s, scope in scopes_of(program):
        if not isinstance(s, Put) or scope.lanes is None or any(scope.index_varies(i) for i in s.index):
            continue
        if scope.varies(s.value) or (s.guard is not None and scope.varies(s.guard)):
            yield Problem(where(s), "lanes write unlike values to one element", repr(scope.lanes.axis), s.target)


def _stages_fit(program: Program) -> Iterator[Problem]:
    arrays = {a.name: a for a in program.scratch}
    buffers = {b.name for b in (*program.inputs, *program.outputs)}
    for s, scope in scopes_of(program):
        if not isinstance(s, Stage):
            continue
        array, load = arrays.get(s.target), s.value
        if array is None or len(array.shape) != 2:
            yield Problem(where(s), "what is staged into has two dimensions", "a scratch array", s.target)
            continue
        held = I32 if load.dtype is BOOL else load.dtype
        if array.dtype is not held:
            yield Problem(where(s), "the array has another type", held, array.dtype)
        if load.name not in buffers or load.guard is not None or len(load.index) != 1:
            yield Problem(where(s), "what is staged is a plain load of a buffer", ", ".join(buffers), load)
            continue
        if axis_coefficient(load.index[0], s.rows) != 1 or axis_coefficient(load.index[0], s.lanes) is None:
            yield Problem(where(s), "a staged load runs along its rows", f"1*{s.rows}", load.index[0])
        if s.rows is s.lanes or {s.rows.name, s.lanes.name} & {a.name for a in scope.axes}:
            yield Problem(where(s), "rows and lanes are two axes that no loop runs over", _names(scope.axes), s.rows)
        if s.tile < 1:
            yield Problem(where(s), "a block without points", "at least 1", s.tile)


def _scratch_is_written_first(program: Program) -> Iterator[Problem]:
    scratch = {a.name for a in program.scratch}
    written: set[str] = set()
    for s, _ in scopes_of(program):
        for name in sorted({e.name for e in loads_in(*read_by(s))} & scratch - written):
            yield Problem(where(s), "scratch is read before it is written", got=name)
        if isinstance(s, Put | Stage):
            written.add(s.target)


def _outputs_are_written(program: Program) -> Iterator[Problem]:
    given = {b.name for b in program.inputs}
    written = {s.target for s in walk_statements(program.body) if isinstance(s, Put)}
    for b in program.outputs:
        if b.name not in given | written and b.shape != (0,):
            yield Problem(b.name, "an output that no statement writes")


# --- ranges ------------------------------------------------------------------------------------------------------


def _indices_are_in_range(program: Program) -> Iterator[Problem]:
    """Unguarded indices must not provably leave their array; static ones of scratch must provably stay inside."""
    shapes = {b.name: b.shape for b in (*program.inputs, *program.outputs)} | {a.name: a.shape for a in program.scratch}
    scratch = {a.name for a in program.scratch}
    for s, scope in scopes_of(program):
        if any(x.axis.extent == 0 for x in scope.loops):
            continue
        for name, index in _accesses(s):
            for i, size in zip(index, shapes[name], strict=True):
                yield from _stays(name, i, size, scope, name in scratch, where(s))


def _accesses(s: Statement) -> list[tuple[str, tuple[Index, ...]]]:
    """Names of arrays with indices that are surely taken."""
    if isinstance(s, Stage):
        last = (s.at[0] + (s.tile - 1), s.at[1] + (s.tile - 1))
        return [(s.target, s.at), (s.target, last)]
    found = [(e.name, e.index) for e in loads_in(*read_by(s)) if e.guard is None and e.index]
    return [*found, (s.target, s.index)] if isinstance(s, Put) and s.guard is None else found


def _stays(name: str, i: Index, size: Dim, scope: Scope, must: bool, place: str) -> Iterator[Problem]:
    within, reached = _in_blocks(i, scope), is_affine(i) and all(_is_whole(a, scope) for a in axes_of(i))
    (low, high), (least, most) = bounds(i), bounds(within)
    if must and is_static((low, high, least, most, size)) and not any(data_in(i)):
        if (low < 0 and least < 0) or (high >= size and most >= size):  # type: ignore[operator]
            yield Problem(place, f"the index {i} of {name} may leave it", f"0..{plus(size, -1)}", f"{least}..{most}")
    else:
        yield from index_leaves(name, within, size, reached, place)


def _is_whole(axis: Axis, scope: Scope) -> bool:
    """True where a loop surely runs over all that `_in_blocks` makes of its axis."""
    loop = next((x for x in scope.loops if x.axis is axis), None)
    if loop is None or _is_ragged(axis):
        return False
    if loop.begin is None and loop.end is None:
        return True
    fixed = loop.begin is not None and loop.end is not None and loop.begin.is_constant and loop.end.is_constant
    return fixed and is_nonnegative(plus(axis.extent, multiply(loop.end.const, -1)))  # type: ignore[union-attr]


def _in_blocks(i: Index, scope: Scope) -> Index:
    """The index with the axes of blocks as the block's start and a distance from it."""
    for loop in reversed(scope.loops):
        begin = ZERO if loop.begin is None else loop.begin
        length = None if loop.end is None else loop.end - begin
        if length is not None and length.is_constant:
            inside = begin + of_atom(Axis(f"{loop.axis.name}.", length.const))
            i = substitute(i, {loop.axis: inside}, Rewriter({loop.axis: inside}))
    return i


PROGRAM_RULES: list[Rule[Program]] = [
    Rule("names are names", _names_are_names),
    Rule("declarations are unique", _declarations_are_unique),
    Rule("buffers are flat", _buffers_are_flat),
    Rule("loops are loops", _loops_are_loops),
    Rule("loops nest", _loops_nest),
    Rule("axes are known", _axes_are_known),
    Rule("names have one meaning", _names_have_one_meaning),
    Rule("stores fit their arrays", _puts_fit),
    Rule("stages fit", _stages_fit),
    Rule("loads are of what is known", _loads_are_of_what_is_known),
    Rule("operations fit their operands", _operations_fit),
    Rule("bits are only moved", _bits_are_only_moved),
    Rule("states begin as they are", _states_begin_as_they_are),
    Rule("updates are of states", _updates_are_of_states),
    Rule("folds fit their states", _folds_fit),
    Rule("scans fit their states", _scans_fit),
    Rule("tiles are read as tiles", _tiles_are_read_as_tiles),
    Rule("lanes write apart", _lanes_write_apart),
    Rule("scratch is written first", _scratch_is_written_first),
    Rule("outputs are written", _outputs_are_written),
    Rule("indices are in range", _indices_are_in_range),
]
