"""The text of tile programs, as in the docstring of `ir.tiles`: for people, dumps and golden tests."""

from __future__ import annotations

from .index import Index
from .loops import Buffer
from .tiles import Fold, Let, Loop, Program, Put, Scan, Stage, State, Statement, Update


def print_program(program: Program) -> str:
    inputs, outputs = (", ".join(map(_buffer, side)) for side in (program.inputs, program.outputs))
    lines = [f"tiles {program.name}({inputs}) -> ({outputs})"]
    lines += [f"  scratch {s.name}: {s.dtype}[{', '.join(map(str, s.shape))}]" for s in program.scratch]
    for s in program.body:
        lines += [f"  {line}" for line in _statement(s)]
    return "\n".join(lines) + "\n"


def _buffer(b: Buffer) -> str:
    return f"{b.name}: {b.dtype}[{', '.join(map(str, b.shape))}]"


def _statement(s: Statement) -> list[str]:
    if isinstance(s, Loop):
        return [_loop_head(s), *(f"  {line}" for inner in s.body for line in _statement(inner))]
    if isinstance(s, Let):
        return [f"let {s.name}: {s.value.dtype} = {s.value}"]
    if isinstance(s, State):
        over = f" over {s.lanes}*{s.tile}" if s.lanes is not None else ""
        return [f"state {s.name}: {s.dtype} = {s.init}{over}"]
    if isinstance(s, Update):
        return [f"{', '.join(s.names)} := {', '.join(map(str, s.values))}"]
    if isinstance(s, Fold):
        return [f"fold {', '.join(s.names)} = {s.state}"]
    if isinstance(s, Scan):
        return [f"scan {s.name} = {s.state} of {s.value} from {s.carry}"]
    return [_put(s) if isinstance(s, Put) else _stage(s)]


def _loop_head(s: Loop) -> str:
    part = ""
    if s.begin is not None or s.end is not None:
        part = f" from {_index(s.begin, '0')} to {_index(s.end, str(s.axis.extent))}"
    if s.axis.begin is not None:
        part = f" from {s.axis.begin} to {s.axis.end}"
    by = f" by {s.tile}" if s.tile > 1 else ""
    return f"{s.kind} {s.axis} in {s.axis.extent}{part}{by}{' backwards' if s.reverse else ''}:"


def _index(i: Index | None, otherwise: str) -> str:
    return otherwise if i is None else str(i)


def _put(s: Put) -> str:
    guard = f" if {s.guard}" if s.guard is not None else ""
    return f"{s.target}[{', '.join(map(str, s.index))}] <- {s.value}{guard}{' (stream)' if s.stream else ''}"


def _stage(s: Stage) -> str:
    at = ", ".join(map(str, s.at))
    return f"stage {s.target}[{at} + {s.tile}x{s.tile}] <- {s.value} at {s.rows} = {s.row}, {s.lanes} = {s.lane}"
