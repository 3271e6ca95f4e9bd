"""Law: inline. A value is pulled through the equations that define it, so what is not stored has no existence of its
own.

    h[t, c] = x[t, c] * r[t]                      s[t] = sum(c) (x[t, c] * r[t])
    s[t]    = sum(c) h[t, c]              ->

A pointwise equation is substituted into its reader; a reduction becomes a local equation of the reader's kernel over
just the axes that the reader's index depends on. Views are pointwise equations whose right side is one load: they
vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..ir.errors import LoweringError
from ..ir.expr import Expr, Load, Rewriter, const, loads_in
from ..ir.graph import Graph, Node
from ..ir.index import Axis, Index, axes_of, linearize, of_atom
from ..ir.loops import Equation, Statement, Store, statement_expressions
from ..ir.ops import OPS
from ..ir.simplify import Simplifier, both
from ..ir.states import STATES
from ..ir.types import Dim, contiguous_strides, multiply, product
from .reasons import CannotPull, Reason

NESTED = 64  # values that a kernel of several may pull one through another: Python's stack is the limit

Position = tuple[Index, ...]
Shared = dict[tuple[Load, frozenset[str]], Expr]  # a load, and the stored values from which it is computed


class Lowered:
    """The loops-level statements of each node of a graph, made on demand over placeholder axes `@0, @1, ...`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._statements: dict[str, tuple[Statement, ...]] = {}
        self._reads: dict[str, tuple[str, ...]] = {}

    def node(self, name: str) -> Node:
        return self.graph.by_name[name]

    def statements(self, name: str) -> tuple[Statement, ...]:
        found = self._statements.get(name)
        if found is None:
            node = self.node(name)
            lower = OPS[node.op].lower
            if lower is None:
                raise LoweringError("this op has no equations", where=name, got=node.op)
            axes = tuple(Axis(f"@{d}", n) for d, n in enumerate(node.shape))
            found = lower(node, tuple(self.node(i) for i in node.inputs), axes)
            self._statements[name] = found
        return found

    def equation(self, name: str) -> Equation:
        """The one equation of a node that is not a scatter."""
        statement = self.statements(name)[0]
        assert isinstance(statement, Equation), name
        return statement

    def reads(self, name: str) -> tuple[str, ...]:
        """The values that a node's statements load, in the order in which they are pulled."""
        found = self._reads.get(name)
        if found is None:
            right = [e for s in self.statements(name) for e in statement_expressions(s)]
            found = self._reads[name] = tuple(dict.fromkeys(e.name for e in loads_in(*right)))
        return found


class Assembly:
    """Builds the body of one kernel from its roots.

    `stored` names are loaded from memory, never those that this kernel stores itself: it computes them again where it
    needs them. `absorbed` ones are stored on the way, where the kernel passes over each of their elements exactly once
    (`absorbed_stores` has those for which that happened). `shared` keeps, for all kernels of the same lowered graph,
    what a load becomes where that needs no statement of its kernel.
    """

    def __init__(
        self,
        lowered: Lowered,
        stored: Callable[[str], bool],
        simplify: Simplifier,
        absorbed: Iterable[str] = (),
        shared: Shared | None = None,
    ) -> None:
        self.lowered = lowered
        self.stored = stored
        self.simplify = simplify
        self.absorbed = set(absorbed)
        self.absorbed_stores: dict[str, Store] = {}
        self.body: list[Statement] = []
        self.roots: list[str] = []
        self.shared: Shared = {} if shared is None else shared
        self.axes: tuple[Axis, ...] = ()
        self._values: dict[Load, Expr] = {}
        self._local: dict[object, Equation] = {}
        self._frontiers: dict[str, frozenset[str] | None] = {}
        self._count = 0
        self._depth = 0  # of the value being pulled

    # --- roots ---------------------------------------------------------------------------------------------------

    def add_root(self, name: str, axes: tuple[Axis, ...] | None = None) -> None:
        """Adds statements that compute and store `name`; `axes` are kernel axes to run over, one per dimension."""
        node = self.lowered.node(name)
        self.roots.append(name)
        if axes is None:
            axes = tuple(Axis(f"i{d}", n) for d, n in enumerate(node.shape))
        if not self.axes:
            self.axes = axes
        if OPS[node.op].kind == "scatter":
            self._add_scatter(name)
            return
        index = tuple(of_atom(a) for a in axes)
        if name in self.absorbed_stores:
            return
        value = self._expand(Load(name, index, node.element))
        self._store(name, index, value, node.source)

    def _add_scatter(self, name: str) -> None:
        for k, s in enumerate(self.lowered.statements(name)):
            assert isinstance(s, Store)
            renamed = {a: of_atom(Axis(f"{'s' if k else 'i'}{d}", a.extent)) for d, a in enumerate(s.axes)}
            rewrite = Rewriter(renamed, self._pull, self.simplify)
            index = tuple(rewrite.index(i) for i in s.index)
            axes = _free_axes(index, rewrite(s.value).axes, renamed, s.axes)
            guard = None if s.guard is None else rewrite(s.guard)
            self.body.append(Store(s.buffer, index, rewrite(s.value), axes, s.mode, s.injective, guard, s.source))

    def _store(self, name: str, index: Position, value: Expr, source: str) -> Store:
        axes = tuple(dict.fromkeys(a for i in index for a in self._ordered(axes_of(i))))
        store = Store(name, index, value, axes, source=source)
        self.body.append(store)
        return store

    def find_pulled(self) -> list[str]:
        """The values that were pulled into their readers, in order."""
        found: dict[str, None] = {}
        waiting = list(reversed(self.roots))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                waiting += [r for r in reversed(self.lowered.reads(name)) if not self.stored(r)]
        return list(found)

    # --- values --------------------------------------------------------------------------------------------------

    def _pull(self, load: Load) -> Expr:
        found = self._values.get(load)
        if found is None:
            if self._depth > NESTED and len(self.absorbed) > 1:
                raise CannotPull(Reason.CHAIN, load.name)
            self._depth += 1
            found = self._values[load] = self._pull_new(load)
            self._depth -= 1
        return found

    def _pull_new(self, load: Load) -> Expr:
        name = load.name
        wanted = name in self.absorbed and load.guard is None and name not in self.absorbed_stores
        if wanted and covers(load.index, self.lowered.node(name).shape):
            value = self._expand(load)
            self.absorbed_stores[name] = self._store(name, load.index, value, self.lowered.node(name).source)
            return value
        return load if self.stored(name) else self._expand(load)

    def _expand(self, load: Load) -> Expr:
        frontier = self._frontier(load.name)
        if frontier is None:
            return self._expand_here(load)
        found = self.shared.get((load, frontier))
        if found is None:
            found = self.shared[load, frontier] = self._expand_here(load)
        return found

    def _frontier(self, name: str) -> frozenset[str] | None:
        """The stored values that `name` is computed from; None where that leaves statements in this kernel."""
        if name not in self._frontiers:
            self._frontiers[name] = self._find_frontier(name)
        return self._frontiers[name]

    def _find_frontier(self, name: str) -> frozenset[str] | None:
        if name in self.absorbed or not self.lowered.equation(name).is_pointwise:
            return None
        found: set[str] = set()
        for source in self.lowered.reads(name):
            below = frozenset((source,)) if self.stored(source) else self._frontier(source)
            if below is None:
                return None
            found |= below
        return frozenset(found)

    def _expand_here(self, load: Load) -> Expr:
        equation = self.lowered.equation(load.name)
        if not equation.is_pointwise:
            return self._reduction(load, equation)
        guard = load.guard
        pull = self._pull if guard is None else lambda inner: self._pull(_guarded(inner, guard))
        rewrite = Rewriter(dict(zip(equation.axes, load.index, strict=True)), pull, self.simplify)
        value = rewrite(equation.args[0])
        if guard is None or (isinstance(value, Load) and value.guard is guard):
            return value
        return self.simplify("where", (guard, value, const(0, value.dtype)), value.dtype)

    def _reduction(self, load: Load, equation: Equation) -> Expr:
        if load.guard is not None:
            raise CannotPull(Reason.GUARDED, load.name)
        free = self._ordered(frozenset().union(*(axes_of(i) for i in load.index)))
        renamed: dict[Axis, Index] = dict(zip(equation.axes, load.index, strict=True))
        component = next(k for k, n in enumerate(equation.names) if n == load.name)
        if all(a.extent == 1 for a in equation.reduce):
            return self._of_one(equation, renamed, component)
        if equation.scan:
            axis = renamed[equation.reduce[0]].single_axis
            if axis is None:
                raise CannotPull(Reason.ORDER, load.name)
            reduce: tuple[Axis, ...] = (axis,)
        else:
            reduce = self._reduce_axes(equation.reduce, free)
            renamed.update({old: of_atom(new) for old, new in zip(equation.reduce, reduce, strict=True)})
        rewrite = Rewriter(renamed, self._pull, self.simplify)
        args = tuple(rewrite(a) for a in equation.args)
        key = (free, reduce, equation.state, equation.scan, equation.reverse, args)
        local = self._local.get(key)
        if local is None or local.names[component] == "_":
            local = self._define(key, local, free, reduce, equation, args, component)
        return Load(local.names[component], tuple(of_atom(a) for a in free), equation.dtypes[component])

    def _of_one(self, equation: Equation, renamed: dict[Axis, Index], component: int) -> Expr:
        """A reduction or scan over one element is that element's state."""
        state = STATES[equation.state]
        rewrite = Rewriter(renamed, self._pull, self.simplify)
        args = tuple(rewrite(a) for a in equation.args)
        values = state.identity(equation.dtypes) if equation.scan == "exclusive" else state.lift(args)
        return state.project(values)[component]

    def _define(
        self, key: object, old: Equation | None, free: tuple[Axis, ...], reduce: tuple[Axis, ...],
        equation: Equation, args: tuple[Expr, ...], component: int,
    ) -> Equation:  # fmt: skip
        """A local equation, or `old` with one more of its components named."""
        names = list(old.names) if old else ["_"] * len(equation.names)
        self._count += 1
        names[component] = f"{equation.state}{self._count}"
        local = Equation(
            tuple(names), free, args, equation.dtypes, equation.state, reduce, equation.scan, equation.reverse,
            equation.operand_dtype, equation.source,
        )  # fmt: skip
        if old is None:
            self.body.append(local)
        else:
            self.body[self.body.index(old)] = local
        self._local[key] = local
        return local

    def _reduce_axes(self, old: tuple[Axis, ...], free: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """Kernel axes of the same extents that the value does not depend on, else new ones: rows share their axis."""
        taken = set(free)
        chosen: list[Axis] = []
        for axis in old:
            fits = [a for a in self.axes if a not in taken and a.extent == axis.extent]
            new = fits[0] if fits else self._new_axis(axis.extent)
            taken.add(new)
            chosen.append(new)
        return tuple(chosen)

    def _new_axis(self, extent: Dim) -> Axis:
        axis = Axis(f"r{len(self.axes)}", extent)
        self.axes = (*self.axes, axis)
        return axis

    def _ordered(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        """Axes in the kernel's order."""
        order = {a: k for k, a in enumerate(self.axes)}
        return tuple(sorted(axes, key=lambda a: (order.get(a, len(order)), a.name)))


def _guarded(load: Load, guard: Expr) -> Load:
    return Load(load.name, load.index, load.dtype, both(load.guard, guard))


def _free_axes(
    index: Position, value_axes: frozenset[Axis], renamed: dict[Axis, Index], axes: tuple[Axis, ...]
) -> tuple[Axis, ...]:
    """The renamed axes of a scatter's store: all that are longer than 1 (colliding stores run over the rest too)."""
    return tuple(r for a in axes if (r := renamed[a].single_axis) is not None)


def covers(index: Position, shape: tuple[Dim, ...]) -> bool:
    """True when the index takes each element of a tensor of `shape` exactly once over its axes' ranges."""
    linear = linearize(index, contiguous_strides(shape))
    if linear.const != 0 or not all(isinstance(a, Axis) and not a.is_ragged for a, _ in linear.terms):
        return False
    left = {c: a for a, c in linear.terms}
    if len(left) != len(linear.terms):
        return False
    step: Dim = 1
    while left:
        axis = left.pop(step, None)
        if not isinstance(axis, Axis):
            return False
        step = multiply(step, axis.extent)
    return step == product(shape)
