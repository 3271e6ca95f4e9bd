"""Text of the loops level.

    kernel rms(x: bf16[256, 1024], g: bf16[1024]) -> (y: bf16[256, 1024])
      axes t:256, c:1024
      s[t]: f32 = sum(c) (f32(x[t, c]) * f32(x[t, c]))
      y[t, c] <- bf16((f32(x[t, c]) * rsqrt(s[t])))

    buffers     x: f32[4, 8] strides [16, 1] offset 3      (row-major without offset when not said)
    axes        t:64 in off[b]..off[b + 1]                 ragged: bounds read from data ("_": none)
    equations   (m[t]: f32, l[t]: f32) = max_sum_exp(c) x[t, c]
                s[t, k]: f32 = scan sum(k) inclusive reverse x[t, k]
                y[m, n]: f32 = sum(k) operands bf16 (a[m, k] * b[k, n])
    stores      y[i] <- v      y[i] += v      *=  max=  min=      y[at(d[i], 9)] += v colliding for (i) if p[i]
    let         let %0 = ...   names a sub-expression that is used more than once

A store's axes are those of its index, in that order, unless `for` says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .expr import Expr, Op, children, print_expr, walk
from .index import Axis, Index
from .loops import Buffer, Equation, Kernel, Statement, Store, expressions
from .text_tokens import quoted
from .types import Dim, contiguous_strides

WIDTH = 110
LET_LENGTH = 24  # shorter shared sub-expressions are repeated
MODES = {"<-": "set", "+=": "add", "*=": "mul", "max=": "max", "min=": "min"}
SIGNS = {mode: sign for sign, mode in MODES.items()}


def print_kernel(kernel: Kernel) -> str:
    lines = print_head(f"kernel {quoted(kernel.name)}", kernel.inputs, kernel.outputs)
    if kernel.axes:
        lines.append("  axes " + ", ".join(_axis(a) for a in sorted(kernel.axes, key=_depth)))
    uses = _count_uses(kernel)
    named: dict[Expr, str] = {}
    for statement in kernel.body:
        lines += name_shared(_printed(statement), uses, named)
        lines += _equation(statement, named) if isinstance(statement, Equation) else _store(statement, named)
    return "\n".join(lines) + "\n"


def print_head(what: str, inputs: tuple[Buffer, ...], outputs: tuple[Buffer, ...]) -> list[str]:
    """`what(inputs) -> (outputs)`, on two lines where one is too short."""
    head, results = f"{what}{_params(inputs)}", f"-> {_params(outputs)}"
    return [f"{head} {results}"] if len(head) + len(results) < WIDTH else [head, f"    {results}"]


def _count_uses(kernel: Kernel) -> Counter[Expr]:
    roots = list(expressions(kernel))
    uses = Counter(c for e in walk(*roots) for c in children(e))
    uses.update(e for s in kernel.body for e in _printed(s))
    return uses


def _printed(s: Statement) -> tuple[Expr, ...]:
    """The expressions of a statement that are printed as such (data indices stand inside their index)."""
    if isinstance(s, Equation):
        return s.args
    return (s.value,) if s.guard is None else (s.value, s.guard)


def name_shared(roots: Iterable[Expr], uses: Counter[Expr], named: dict[Expr, str], pad: str = "  ") -> list[str]:
    """Let lines for the sub-expressions that are used more than once and not named yet."""
    lines: list[str] = []
    for e in walk(*roots):
        if uses[e] < 2 or e in named or not isinstance(e, Op):
            continue
        if len(print_expr(e, named)) >= LET_LENGTH:
            name = f"%{len(named)}"
            lines += lay_out(f"{pad}let {name} = ", e, named, "")
            named[e] = name
    return lines


def _params(buffers: tuple[Buffer, ...]) -> str:
    return "(" + ", ".join(_buffer(b) for b in buffers) + ")"


def _buffer(b: Buffer) -> str:
    text = f"{b.name}: {b.dtype}{print_dims(b.shape)}"
    if b.strides != contiguous_strides(b.shape):
        text += f" strides {print_dims(b.strides)}"
    return text if b.offset == 0 else f"{text} offset {b.offset}"


def print_dims(dims: tuple[Dim, ...]) -> str:
    return "[" + ", ".join(map(str, dims)) + "]"


def _axis(a: Axis) -> str:
    text = f"{a.name}:{a.extent}"
    if a.begin is None and a.end is None:
        return text
    begin, end = ("_" if e is None else print_expr(e) for e in (a.begin, a.end))
    return f"{text} in {begin}..{end}"


def _depth(a: Axis) -> int:
    """Axes whose bounds read other axes come after these."""
    return max((1 + _depth(b) for e in (a.begin, a.end) if e is not None for b in e.axes), default=0)


def _names(axes: tuple[Axis, ...]) -> str:
    return ", ".join(a.name for a in axes)


def _equation(s: Equation, named: dict[Expr, str]) -> list[str]:
    left = [f"{n}[{_names(s.axes)}]: {d}" for n, d in zip(s.names, s.dtypes, strict=True)]
    head = f"  {left[0]} = " if len(left) == 1 else f"  ({', '.join(left)}) = "
    if s.state:
        head += f"scan {s.state}({_names(s.reduce)}) {s.scan} " if s.scan else f"{s.state}({_names(s.reduce)}) "
        head += "reverse " if s.reverse else ""
        head += f"operands {s.operand_dtype} " if s.operand_dtype is not None else ""
    lines: list[str] = []
    for k, e in enumerate(s.args):
        lines += lay_out(head if k == 0 else "    ", e, named, "," if k + 1 < len(s.args) else "")
    return [" ".join([lines[0], *(line.strip() for line in lines[1:])])] if _fits(lines) else lines


def _store(s: Store, named: dict[Expr, str]) -> list[str]:
    tail = "" if s.injective else " colliding"
    if s.axes != axes_of_index(s.index):
        tail += f" for ({_names(s.axes)})"
    if s.guard is not None:
        tail += f" if {print_expr(s.guard, named)}"
    index = ", ".join(map(str, s.index))
    return lay_out(f"  {s.buffer}[{index}] {SIGNS[s.mode]} ", s.value, named, tail)


def axes_of_index(index: tuple[Index, ...]) -> tuple[Axis | None, ...]:
    return tuple(i.single_axis for i in index)


def _fits(lines: list[str]) -> bool:
    return sum(len(line.strip()) + 1 for line in lines) < WIDTH


def lay_out(head: str, e: Expr, named: dict[Expr, str], tail: str) -> list[str]:
    """`head e tail`, broken at operators and arguments where it is too long for one line."""
    flat = head + print_expr(e, named) + tail
    if len(flat) <= WIDTH or not isinstance(e, Op) or e in named:
        return [flat]
    pad = " " * (len(head) - len(head.lstrip()) + 4)
    opening, joint, closing = _pieces(e)
    lines: list[str] = []
    for k, a in enumerate(e.args):
        before = (head + opening if k == 0 and joint else pad + joint) if joint else pad
        after = ("," if not joint and k + 1 < len(e.args) else "") + (closing + tail if k + 1 == len(e.args) else "")
        lines += lay_out(before, a, named, after)
    return lines if joint else [(head + opening).rstrip(), *lines]


def _pieces(e: Op) -> tuple[str, str, str]:
    """What stands before, between (for infix operators) and after the arguments."""
    text = print_expr(e, dict.fromkeys(e.args, "_"))
    if text.startswith("(_"):
        return "(", text[3:-2], ")"
    return text[: text.index("(") + 1], "", ")"
