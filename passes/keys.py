"""Keys of expressions: digests into which no name of a buffer or an equation enters."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ..ir.expr import Const, Expr, Iota, Load, Op, Rewriter
from ..ir.index import Data, Div, Index, Mod
from ..ir.loops import Buffer, Equation, Kernel, Statement


class Keys:
    """Digests of expressions in which buffers count by type and shape and local values by their equations."""

    def __init__(self, kernel: Kernel, named: bool = False) -> None:
        self.kernel = kernel
        self.named = named
        self._memo: dict[Expr, str] = {}
        self._equations: dict[str, str] = {}

    def __call__(self, e: Expr) -> str:
        found = self._memo.get(e)
        if found is None:
            found = self._memo[e] = digest(self._parts(e))
        return found

    def _parts(self, e: Expr) -> tuple[str, ...]:
        if isinstance(e, Const):
            return "const", repr(e.value), e.dtype.name
        if isinstance(e, Op):
            return e.name, e.dtype.name, *(self(a) for a in e.args)
        if isinstance(e, Iota):
            return "iota", self.index(e.index)
        assert isinstance(e, Load)
        guard = "" if e.guard is None else self(e.guard)
        return "load", self.name(e.name), e.dtype.name, guard, *(self.index(i) for i in e.index)

    def name(self, name: str) -> str:
        if self.named:
            return name
        equation = self.kernel.equations.get(name)
        if equation is None:
            return buffer_text(self.kernel.buffers[name]) if name in self.kernel.buffers else "?"
        if name not in self._equations:
            parts = (str(equation.names.index(name)), *self.equation(equation))
            self._equations[name] = digest(parts)
        return self._equations[name]

    def equation(self, e: Equation) -> tuple[str, ...]:
        axes = ",".join(f"{a!r}" for a in e.axes), ",".join(f"{a!r}" for a in e.reduce)
        flags = (e.state, e.scan, str(e.reverse), str(e.operand_dtype), ",".join(d.name for d in e.dtypes))
        return (*axes, *flags, *(self(a) for a in e.args))

    def index(self, i: Index) -> str:
        return "+".join([*(f"{c}*{self._atom(a)}" for a, c in i.terms), str(i.const)])

    def _atom(self, atom: object) -> str:
        if isinstance(atom, (Div, Mod)):
            return f"({self.index(atom.index)}{'//' if isinstance(atom, Div) else '%'}{atom.by})"
        if isinstance(atom, Data):
            return f"at({self(atom.value)},{atom.size},{atom.wrap})"
        return repr(atom)


def buffer_text(b: Buffer) -> str:
    return f"{b.dtype}{list(b.shape)}s{list(b.strides)}o{b.offset}"


def digest(parts: tuple[str, ...]) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=12).hexdigest()


def rewritten(s: Statement, rewrite: Rewriter) -> Statement:
    """A statement with its expressions rewritten; its axes stay."""
    if isinstance(s, Equation):
        return replace(s, args=tuple(rewrite(a) for a in s.args))
    guard = None if s.guard is None else rewrite(s.guard)
    return replace(s, index=tuple(rewrite.index(i) for i in s.index), value=rewrite(s.value), guard=guard)
