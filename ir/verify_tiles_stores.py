"""Rules of the tiles level about arrays: what is stored and staged where, and how far indices reach."""

from __future__ import annotations

from collections.abc import Iterator

from .expr import Rewriter, data_in, loads_in
from .index import ZERO, Axis, Index, axes_of, axis_coefficient, bounds, is_affine, of_atom, substitute
from .tiles import Fetch, Program, Put, Stage, Statement, walk_statements
from .types import BOOL, I16, I32, Dim, is_nonnegative, is_static, multiply, plus
from .verify_loops import index_leaves
from .verify_rules import Problem, Rule
from .verify_tiles_scope import Scope, names_of, read_by, scopes_of, where
from .verify_tiles_values import BITS

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


def _tiles_write_apart(program: Program) -> Iterator[Problem]:
    """Points of tiles are independent: each has elements of its own."""
    for s, scope in scopes_of(program):
        axes = {x.axis for x in scope.loops if x.kind == "tiles" and x.axis.extent != 1}
        if isinstance(s, Put) and axes - {a for i in s.index for a in axes_of(i)}:
            yield Problem(where(s), "points of tiles write one element", names_of(axes), s.target)


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
        dims = 1 if load.name in buffers else len(arrays[load.name].shape) if load.name in arrays else 0
        if load.guard is not None or dims == 0 or len(load.index) != dims:
            yield Problem(where(s), "what is staged is a plain load of an array", ", ".join(buffers), load)
            continue
        *outer, last = load.index
        runs = axis_coefficient(last, s.rows) == s.count and all(axis_coefficient(i, s.rows) == 0 for i in outer)
        if not runs or any(axis_coefficient(i, s.lanes) is None for i in load.index):
            yield Problem(where(s), "a staged load runs along its rows", f"{s.count}*{s.rows}", last)
        if s.rows is s.lanes or {s.rows.name, s.lanes.name} & {a.name for a in scope.axes}:
            yield Problem(where(s), "rows and lanes are two axes that no loop runs over", names_of(scope.axes), s.rows)
        if s.tile < 1 or s.count < 1:
            yield Problem(where(s), "a block without points", "at least 1", s.tile)


def _hints_are_of_buffers(program: Program) -> Iterator[Problem]:
    buffers = {b.name for b in (*program.inputs, *program.outputs)}
    for s, _ in scopes_of(program):
        if isinstance(s, Fetch) and s.name not in buffers:
            yield Problem(where(s), "what is fetched is no buffer", ", ".join(buffers), s.name)
        if isinstance(s, Fetch) and any(data_in(s.index)):
            yield Problem(where(s), "a hint reads the data that its place depends on", "an affine index", s.index)


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
        last = (s.at[0] + (s.tile - 1), s.at[1] + (s.tile * s.count - 1))
        return [(s.target, s.at), (s.target, last)]
    found = [(e.name, e.index) for e in loads_in(*read_by(s)) if e.guard is None and e.index]
    return [*found, (s.target, s.index)] if isinstance(s, Put) and s.guard is None else found


def _stays(name: str, i: Index, size: Dim, scope: Scope, must: bool, place: str) -> Iterator[Problem]:
    within, reached = _in_blocks(i, scope), is_affine(i) and all(_is_whole(a, scope) for a in axes_of(i))
    (low, high), (least, most) = bounds(i), bounds(within)
    if must and is_static((low, high, least, most, size)) and not any(data_in(i)):
        if (low < 0 and least < 0) or (high >= size and most >= size):
            yield Problem(place, f"the index {i} of {name} may leave it", f"0..{plus(size, -1)}", f"{least}..{most}")
    else:
        yield from index_leaves(name, within, size, reached, place)


def _is_whole(axis: Axis, scope: Scope) -> bool:
    """True where a loop surely runs over all that `_in_blocks` makes of its axis."""
    loop = next((x for x in scope.loops if x.axis is axis), None)
    if loop is None or axis.is_ragged:
        return False
    if loop.begin is None and loop.end is None:
        return True
    if loop.begin is None or loop.end is None or not (loop.begin.is_constant and loop.end.is_constant):
        return False
    return is_nonnegative(plus(axis.extent, multiply(loop.end.const, -1)))


def _in_blocks(i: Index, scope: Scope) -> Index:
    """The index with the axes of blocks as the block's start and a distance from it."""
    for loop in reversed(scope.loops):
        begin = ZERO if loop.begin is None else loop.begin
        length = None if loop.end is None else loop.end - begin
        if length is not None and length.is_constant:
            inside = begin + of_atom(Axis(f"{loop.axis.name}.", length.const))
            i = substitute(i, {loop.axis: inside}, Rewriter({loop.axis: inside}))
    return i


STORE_RULES: list[Rule[Program]] = [
    Rule("stores fit their arrays", _puts_fit),
    Rule("stages fit", _stages_fit),
    Rule("hints are of buffers", _hints_are_of_buffers),
    Rule("lanes write apart", _lanes_write_apart),
    Rule("tiles write apart", _tiles_write_apart),
    Rule("scratch is written first", _scratch_is_written_first),
    Rule("outputs are written", _outputs_are_written),
    Rule("indices are in range", _indices_are_in_range),
]
