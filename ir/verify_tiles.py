"""The rules of the tiles level, in an order in which later ones may rely on those before.

Those about values are in `ir.verify_tiles_values`, those about arrays in `ir.verify_tiles_stores`. All walk the program
with what is known at each statement (`ir.verify_tiles_scope`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .index import axes_of
from .text_tokens import is_name
from .tiles import KINDS, Dot, Let, Loop, Program, Put, Scan, Stage, State, Statement, Update, walk_statements
from .verify_rules import Problem, Rule
from .verify_tiles_scope import indices_of, names_of, read_by, scopes_of, where
from .verify_tiles_stores import STORE_RULES
from .verify_tiles_values import VALUE_RULES

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
        if outer == "lanes" and not isinstance(s, Let | Update | Dot | Scan | Put):
            yield Problem(where(s), "lanes run at once", "values, updates, dots, scans and stores", type(s).__name__)
        if outer == "tiles" and not _is_of_tiles(s):
            yield Problem(where(s), "tiles hold sums", "states, loops of dots, and stores", type(s).__name__)
        if isinstance(s, Loop) and s.kind == "grid" and outer != "grid":
            yield Problem(where(s), "a grid loop is inside another kind of loop", "grid loops outermost", outer)


def _is_of_tiles(s: Statement) -> bool:
    """True for what may stand in a loop over tiles: loops there have no other statements than dots."""
    if isinstance(s, Loop):
        return s.kind == "tiles" or all(isinstance(x, Loop | Dot) for x in walk_statements(s.body))
    return isinstance(s, State | Put)


def _loops_are_loops(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        if not isinstance(s, Loop):
            continue
        if s.kind not in KINDS:
            yield Problem(where(s), "unknown kind of loop", ", ".join(KINDS), s.kind)
        if isinstance(s.axis.extent, int) and s.axis.extent < 0:
            yield Problem(where(s), "a negative extent", got=s.axis.extent)
        if s.tile < 1:
            yield Problem(where(s), "a tile without points", "at least 1", s.tile)
        if s.tile > 1 and s.kind == "serial":
            yield Problem(where(s), "a serial loop runs one point after the other", "a tile of 1", s.tile)
        if s.reverse and s.kind != "serial":
            yield Problem(where(s), "only serial loops run backwards", "serial", s.kind)
        if s.kind == "grid" and (s.begin is not None or s.end is not None or s.axis.is_ragged):
            yield Problem(where(s), "a grid has all the points of its axis", "no bounds", f"{s.begin} to {s.end}")
        if any(a.name == s.axis.name for a in scope.axes):
            yield Problem(where(s), "an axis is run over inside itself", got=s.axis.name)


def _axes_are_known(program: Program) -> Iterator[Problem]:
    for s, scope in scopes_of(program):
        known = scope.axes | ({s.rows, s.lanes} if isinstance(s, Stage) else set())
        stray = {a for e in read_by(s) for a in e.axes} | {a for i in indices_of(s) for a in axes_of(i)}
        for a in stray - known:
            yield Problem(where(s), "an axis that no loop around runs over", names_of(known), repr(a))


PROGRAM_RULES: list[Rule[Program]] = [
    Rule("names are names", _names_are_names),
    Rule("declarations are unique", _declarations_are_unique),
    Rule("buffers are flat", _buffers_are_flat),
    Rule("loops are loops", _loops_are_loops),
    Rule("loops nest", _loops_nest),
    Rule("axes are known", _axes_are_known),
    Rule("names have one meaning", _names_have_one_meaning),
    *VALUE_RULES,
    *STORE_RULES,
]
