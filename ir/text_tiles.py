"""Text of the tiles level, as in the docstring of `ir.tiles`.

tiles softmax(x: f32[262144]) -> (y: f32[262144])
  prefetch 1024
  scratch e_all: f32[4096]
  grid t in 64:
    state m: f32 = -inf over c in 4096 by 64
    lanes c in 4096 by 64:
      m := max(m[], x[c + 4096*t])
    fold m = max
    ...

axes        c in 4096      t in 64 within off[b]..off[b + 1]      bounds read from data ("_": none)
loops       serial k in 512 from 16*b to 16*b + 16 backwards:     what stands deeper below is the body
values      let e: f32 = ...      state s: f32 = 0.0      m, p := ..., ...      fold m, p = argmax
            scan a: f32 = sum of x[c] from a_carry      dot s of x[c], w[c]
stores      y[c] <- v      y[at(d[c], 9)] <- v if p[c]      y[c] <- v, streamed      y[c] <- x[c as i16]: bits
staging     stage x_t[i, j] by 16 over t in 64 from 16*r, c in 512 from 0 <- x[64*c + t]
hints       fetch x[c + 64]
let         let %0 = ...   names a sub-expression that is used more than once
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from .expr import Expr, children, loads_in, print_expr, walk
from .index import Axis, Index
from .text_loops import lay_out, name_shared, print_dims, print_head
from .text_tokens import quoted
from .tiles import Dot, Fetch, Fold, Let, Loop, Program, Put, Scan, Stage, State, Statement, Update, walk_statements


def print_program(program: Program) -> str:
    lines = print_head(f"tiles {quoted(program.name)}", program.inputs, program.outputs)
    lines += [f"  prefetch {program.prefetch}"] if program.prefetch else []
    lines += [
        f"  scratch {s.name}: {s.dtype}{print_dims(s.shape)}{' narrow' if s.narrow else ''}" for s in program.scratch
    ]
    return "\n".join([*lines, *_Printer(program).block(program.body, "  ")]) + "\n"


class _Printer:
    def __init__(self, program: Program) -> None:
        declared = {b.name: b.dtype for b in (*program.inputs, *program.outputs, *program.scratch)}
        roots = [e for s in walk_statements(program.body) for e in _printed(s)]
        self.uses = Counter(c for e in walk(*roots) for c in children(e))
        self.uses.update(roots)
        bits = (e for e in loads_in(*roots) if declared.get(e.name, e.dtype) is not e.dtype)
        self.named: dict[Expr, str] = {e: f"{print_expr(e)[:-1]} as {e.dtype}]" for e in bits}

    def block(self, body: Sequence[Statement], pad: str) -> Iterator[str]:
        for s in body:
            if isinstance(s, Loop):
                yield pad + _loop_head(s)
                yield from self.block(s.body, pad + "  ")
                continue
            yield from name_shared(_printed(s), self.uses, self.named, pad)
            yield from self.statement(s, pad)

    def statement(self, s: Statement, pad: str) -> list[str]:
        if isinstance(s, Let):
            return self.lay(f"{pad}let {s.name}: {s.value.dtype} = ", s.value)
        if isinstance(s, State):
            over = f" over {_axis(s.lanes)}{_by(s.tile)}" if s.lanes is not None else ""
            return self.lay(f"{pad}state {s.name}: {s.dtype} = ", s.init, over)
        if isinstance(s, Update):
            return self._update(s, pad)
        if isinstance(s, Fold):
            return [f"{pad}fold {', '.join(s.names)} = {s.state}"]
        if isinstance(s, Dot):
            return [*self.lay(f"{pad}dot {s.name} of ", s.left, ","), *self.lay(f"{pad}    ", s.right)]
        if isinstance(s, Fetch):
            return [f"{pad}fetch {s.name}[{s.index}]"]
        if isinstance(s, Scan):
            return self.lay(f"{pad}scan {s.name}: {s.value.dtype} = {s.state} of ", s.value, f" from {s.carry}")
        assert isinstance(s, Put | Stage)
        return self._put(s, pad) if isinstance(s, Put) else self._stage(s, pad)

    def lay(self, head: str, e: Expr, tail: str = "") -> list[str]:
        return lay_out(head, e, self.named, tail)

    def _update(self, s: Update, pad: str) -> list[str]:
        lines: list[str] = []
        for k, e in enumerate(s.values):
            head = f"{pad}{', '.join(s.names)} := " if k == 0 else f"{pad}    "
            lines += self.lay(head, e, "," if k + 1 < len(s.values) else "")
        return lines

    def _put(self, s: Put, pad: str) -> list[str]:
        guard = "" if s.guard is None else f" if {print_expr(s.guard, self.named)}"
        head = f"{pad}{s.target}[{_indices(s.index)}] <- "
        return self.lay(head, s.value, f"{guard}{', streamed' if s.stream else ''}")

    def _stage(self, s: Stage, pad: str) -> list[str]:
        over = f"{_axis(s.rows)} from {s.row}, {_axis(s.lanes)} from {s.lane}"
        words = "" if s.count == 1 else f" of {s.count}"
        return self.lay(f"{pad}stage {s.target}[{_indices(s.at)}]{_by(s.tile)}{words} over {over} <- ", s.value)


def _printed(s: Statement) -> tuple[Expr, ...]:
    """The expressions of a statement that are printed as such (data indices stand inside their index)."""
    if isinstance(s, Let | Scan | Stage):
        return (s.value,)
    if isinstance(s, Dot):
        return s.left, s.right
    if isinstance(s, Put):
        return (s.value,) if s.guard is None else (s.value, s.guard)
    if isinstance(s, Update):
        return s.values
    return (s.init,) if isinstance(s, State) else ()


def _loop_head(s: Loop) -> str:
    begin = "" if s.begin is None else f" from {s.begin}"
    end = "" if s.end is None else f" to {s.end}"
    return f"{s.kind} {_axis(s.axis)}{begin}{end}{_by(s.tile)}{' backwards' if s.reverse else ''}:"


def _axis(a: Axis) -> str:
    text = f"{a.name} in {a.extent}"
    if a.begin is None and a.end is None:
        return text
    begin, end = ("_" if e is None else print_expr(e) for e in (a.begin, a.end))
    return f"{text} within {begin}..{end}"


def _by(tile: int) -> str:
    return "" if tile == 1 else f" by {tile}"


def _indices(index: tuple[Index, ...]) -> str:
    return ", ".join(map(str, index))
