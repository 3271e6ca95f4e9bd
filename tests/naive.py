"""The loops level point by point: slow, and simple enough to be believed. The interpreter is tested against it."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from treadle.ir.expr import Const, Expr, Iota, Load, Op
from treadle.ir.index import Axis, Data, Div, Index, Mod
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.loops import Equation, Kernel, Store
from treadle.ir.scalar import SCALAR_OPS
from treadle.ir.states import STATES
from treadle.ir.types import DType

Env = dict[Axis, int]
Tensors = dict[str, torch.Tensor]


def evaluate_index(i: Index, env: Env, value: Any = None) -> int:
    """What an index is at a point, read off its structure; `value` gives the values of data."""
    return int(i.const) + sum(int(c) * _atom(atom, env, value) for atom, c in i.terms)


def _atom(atom: object, env: Env, value: Any) -> int:
    if isinstance(atom, Axis):
        return env[atom]
    if isinstance(atom, Div):
        return evaluate_index(atom.index, env, value) // int(atom.by)
    if isinstance(atom, Mod):
        return evaluate_index(atom.index, env, value) % int(atom.by)
    assert isinstance(atom, Data)
    at = int(value(atom.value, env))
    return at + int(atom.size) if atom.wrap and at < 0 else at


def dtype_of(dtype: DType) -> torch.dtype:
    return torch.float64 if dtype.is_float else torch_dtype(dtype)


class Naive:
    """Everything floating in float64."""

    def __init__(self, kernel: Kernel, tensors: Tensors) -> None:
        self.kernel = kernel
        self.buffers = {b.name: tensors[b.name].to(dtype_of(b.dtype)).clone() for b in kernel.inputs}
        self.local: dict[str, dict[tuple[int, ...], torch.Tensor]] = {}

    def run(self) -> Tensors:
        for b in self.kernel.outputs:
            self.buffers.setdefault(b.name, torch.zeros([int(n) for n in b.shape], dtype=dtype_of(b.dtype)))
        for s in self.kernel.body:
            if isinstance(s, Equation):
                self.equation(s)
            else:
                self.store(s)
        return {b.name: self.buffers[b.name] for b in self.kernel.outputs}

    def points(self, axes: tuple[Axis, ...]) -> Any:
        for point in itertools.product(*(range(int(a.extent)) for a in axes)):
            env = dict(zip(axes, point, strict=True))
            if all(self.exists(a, env) for a in axes):
                yield env

    def exists(self, a: Axis, env: Env) -> bool:
        begins = a.begin is None or env[a] >= int(self.value(a.begin, env))
        return begins and (a.end is None or env[a] < int(self.value(a.end, env)))

    def value(self, e: Expr, env: Env) -> torch.Tensor:
        if isinstance(e, Const):
            return torch.tensor(e.value, dtype=dtype_of(e.dtype))
        if isinstance(e, Iota):
            return torch.tensor(evaluate_index(e.index, env, self.value))
        if isinstance(e, Load):
            return self.load(e, env)
        assert isinstance(e, Op)
        args = [self.value(a, env) for a in e.args]
        dtype = dtype_of(e.dtype)
        return args[0].to(dtype) if e.name == "cast" else SCALAR_OPS[e.name].reference(torch, *args).to(dtype)

    def load(self, e: Load, env: Env) -> torch.Tensor:
        if e.guard is not None and not bool(self.value(e.guard, env)):
            return torch.zeros((), dtype=dtype_of(e.dtype))
        at = tuple(evaluate_index(i, env, self.value) for i in e.index)
        if e.name in self.local:
            return self.local[e.name][at]
        assert all(0 <= k < n for k, n in zip(at, self.buffers[e.name].shape, strict=True)), (e, at)
        return self.buffers[e.name][at].clone()

    # --- statements ----------------------------------------------------------------------------------------------

    def equation(self, s: Equation) -> None:
        for name in s.names:
            self.local[name] = {}
        for env in self.points(s.axes):
            at = tuple(env[a] for a in s.axes)
            for name, result in zip(s.names, self.results(s, env), strict=True):
                self.local[name][at] = result.to(
                    dtype_of(s.dtypes[s.names.index(name)]) if name != "_" else result.dtype
                )

    def results(self, s: Equation, env: Env) -> list[torch.Tensor]:
        if not s.state:
            return [self.value(s.args[0], env)]
        row = STATES[s.state]
        dtypes = row.dtypes(tuple(a.dtype for a in s.args))
        state = self.apply(row.identity(dtypes), {})
        left = tuple(Load(f"a{k}", (), d) for k, d in enumerate(dtypes))
        right = tuple(Load(f"b{k}", (), d) for k, d in enumerate(dtypes))
        for point in self.folded(s, env):
            args = [self.value(a, point) for a in s.args]
            names = tuple(Load(f"x{k}", (), a.dtype) for k, a in enumerate(s.args))
            lifted = self.apply(row.lift(names), dict(zip(["x0", "x1"], args, strict=False)))
            values = {f"a{k}": v for k, v in enumerate(state)} | {f"b{k}": v for k, v in enumerate(lifted)}
            state = self.apply(row.combine(left, right), values)
        return self.apply(row.project(left), {f"a{k}": v for k, v in enumerate(state)})

    def folded(self, s: Equation, env: Env) -> list[Env]:
        """The points that one result is made of, the lowest indices first."""
        if not s.scan:
            return [p for p in self.points((*s.axes, *s.reduce)) if all(p[a] == env[a] for a in s.axes)]
        axis, here = s.reduce[0], env[s.reduce[0]]
        low, high = (here, int(axis.extent)) if s.reverse else (0, here + 1)
        if s.scan == "exclusive":
            low, high = (low + 1, high) if s.reverse else (low, high - 1)
        return [p for k in range(low, high) if self.exists(axis, p := {**env, axis: k})]

    def apply(self, exprs: tuple[Expr, ...], values: Tensors) -> list[torch.Tensor]:
        kept, self.local = self.local, {n: {(): v} for n, v in values.items()}
        results = [self.value(e, {}) for e in exprs]
        self.local = kept
        return results

    def store(self, s: Store) -> None:
        target = self.buffers[s.buffer]
        written = []
        for env in self.points(s.axes):
            if s.guard is None or bool(self.value(s.guard, env)):
                at = tuple(evaluate_index(i, env, self.value) for i in s.index)
                written.append((at, self.value(s.value, env)))
        for at, value in written:  # values are read before anything is written
            old = target[at]
            combine = {"add": torch.add, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum}.get(s.mode)
            target[at] = value if combine is None else combine(old, value)
