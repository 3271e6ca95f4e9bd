"""Building graphs: nodes are typed by the op table, equal nodes are one node, and identities vanish.

    g = GraphBuilder("f")
    x = g.input("x", (4, 8), F32)
    y = g.exp(x - g.max(x, (1,), keepdim=True))
    graph = g.finish([y])

A `Value` knows its shape and dtype and has the arithmetic operators. Operands must have one dtype: promotion is the
caller's (`cast`); plain Python numbers take the dtype of the other operand. Shapes broadcast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import VerifyError
from .graph import Attrs, Graph, Node
from .ops import OPS
from .ops.contractions import Labels
from .ops.pointwise import PAIRWISE
from .scalar import SCALAR_OPS, round_to
from .types import BOOL, Dim, DType, plus, product

CAT_PARTS = 32  # of one node

Number = bool | int | float
Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A node under construction."""

    builder: GraphBuilder
    node: Node

    @property
    def shape(self) -> Shape:
        return self.node.shape

    @property
    def dtype(self) -> DType:
        return self.node.element

    @property
    def rank(self) -> int:
        return len(self.node.shape)

    def __add__(self, other: Value | Number) -> Value:
        return self.builder.apply("add", self, other)

    def __radd__(self, other: Number) -> Value:
        return self.builder.apply("add", other, self)

    def __sub__(self, other: Value | Number) -> Value:
        return self.builder.apply("sub", self, other)

    def __rsub__(self, other: Number) -> Value:
        return self.builder.apply("sub", other, self)

    def __mul__(self, other: Value | Number) -> Value:
        return self.builder.apply("mul", self, other)

    def __rmul__(self, other: Number) -> Value:
        return self.builder.apply("mul", other, self)

    def __truediv__(self, other: Value | Number) -> Value:
        return self.builder.apply("div", self, other)

    def __rtruediv__(self, other: Number) -> Value:
        return self.builder.apply("div", other, self)

    def __neg__(self) -> Value:
        return self.builder.apply("neg", self)

    def __and__(self, other: Value | Number) -> Value:
        return self.builder.apply("and", self, other)

    def __or__(self, other: Value | Number) -> Value:
        return self.builder.apply("or", self, other)

    def __invert__(self) -> Value:
        return self.builder.apply("not", self)

    def __lt__(self, other: Value | Number) -> Value:
        return self.builder.apply("lt", self, other)

    def __le__(self, other: Value | Number) -> Value:
        return self.builder.apply("le", self, other)

    def __gt__(self, other: Value | Number) -> Value:
        return self.builder.apply("gt", self, other)

    def __ge__(self, other: Value | Number) -> Value:
        return self.builder.apply("ge", self, other)

    def equals(self, other: Value | Number) -> Value:
        return self.builder.apply("eq", self, other)


class GraphBuilder:
    """Collects nodes; `source` (set by the caller) is attached to each new node."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.source = ""
        self._inputs: list[Node] = []
        self._nodes: list[Node] = []
        self._by_name: dict[str, Node] = {}
        self._unique: dict[object, Value] = {}
        self._count = 0

    # --- inputs, results -----------------------------------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: DType | None, strides: Shape | None = None) -> Value:
        """A tensor; dtype None stands for anything that is only handed on to calls (a complex tensor, a Python
        number).
        """
        node = Node(name, "input", (), (), tuple(shape), dtype, strides)
        self._inputs.append(node)
        self._by_name[name] = node
        return Value(self, node)

    def node(self, name: str) -> Node:
        """The node of that name, as it is now."""
        return self._by_name[name]

    def __len__(self) -> int:
        """How many nodes there are, apart from inputs."""
        return len(self._nodes)

    def since(self, count: int) -> tuple[Node, ...]:
        """The nodes that were added when there were `count` of them, and after."""
        return tuple(self._nodes[count:])

    def is_input(self, name: str) -> bool:
        return self._by_name[name].op == "input"

    def size_input(self, name: str, dim: Dim) -> None:
        """An integer among the inputs that gives the value of the symbol (or expression) `dim`."""
        self._inputs.append(Node(name, "size", (), (("dim", dim),)))

    def finish(
        self,
        outputs: Sequence[Value | Dim | None],
        mutations: Iterable[tuple[Value, Value]] = (),
        strides: Sequence[Shape | None] = (),
    ) -> Graph:
        """The graph; mutations are (input, value) pairs, `strides` the traced layout of each output."""
        names = tuple(o.node.name if isinstance(o, Value) else o for o in outputs)
        written = tuple((i.node.name, v.node.name) for i, v in mutations)
        return Graph(self.name, tuple(self._inputs), tuple(self._nodes), names, written, tuple(strides))

    # --- nodes ---------------------------------------------------------------------------------------------------

    def emit(self, op: str, inputs: Sequence[Value], **attrs: Any) -> Value:
        """A node of the op table, typed by its row; an equal node made before is returned instead."""
        nodes = tuple(v.node for v in inputs)
        shape, dtype = OPS[op].infer(nodes, attrs)
        assert dtype is not None
        return self._add(op, nodes, tuple(sorted(attrs.items())), shape, dtype, unique=True)

    def call(
        self, target: str, args: Any, inputs: Sequence[Value], kind: str, shape: Shape = (),
        dtype: DType | None = None, strides: Shape | None = None, layouts: tuple[Shape | None, ...] = (),
    ) -> Value:  # fmt: skip
        """A call of ATen or a library; give dtype None where it has several results or none.

        `layouts` are the traced strides of the tensors among `inputs`: what an opaque callee may look at.
        """
        attrs: Attrs = (("args", args), ("kind", kind), ("layouts", layouts), ("target", target))
        unique = kind in ("library", "view")
        return self._add("call", tuple(v.node for v in inputs), attrs, shape, dtype, strides, unique)

    def result(
        self, call: Value, number: int, shape: Shape = (), dtype: DType | None = None, strides: Shape | None = None
    ) -> Value:
        return self._add("result", (call.node,), (("number", number),), shape, dtype, strides, unique=True)

    def _add(
        self, op: str, nodes: tuple[Node, ...], attrs: Attrs, shape: Shape, dtype: DType | None,
        strides: Shape | None = None, unique: bool = False,
    ) -> Value:  # fmt: skip
        names = tuple(n.name for n in nodes)
        key = (op, names, repr(attrs), dtype, shape)
        if unique and key in self._unique:
            return self._unique[key]
        self._count += 1
        node = Node(f"v{self._count}", op, names, attrs, shape, dtype, strides, self.source)
        self._nodes.append(node)
        self._by_name[node.name] = node
        value = Value(self, node)
        if unique:
            self._unique[key] = value
        return value

    # --- pointwise -----------------------------------------------------------------------------------------------

    def apply(self, op: str, *operands: Value | Number) -> Value:
        """A scalar op of `ir.scalar`, elementwise with broadcasting; numbers take the other operands' dtype."""
        values = [o for o in operands if isinstance(o, Value)]
        typed = values[1:] if op == "where" and isinstance(operands[0], Value) and len(values) > 1 else values
        if not typed:
            raise VerifyError("no operand says the dtype", where=op, hint="use full() for at least one of them")
        dtype = typed[0].dtype
        nodes = [o if isinstance(o, Value) else self.full((), o, dtype) for o in operands]
        return self.emit(PAIRWISE.get(op, op), nodes)

    def __getattr__(self, name: str) -> Any:
        """g.exp(x), g.where(p, a, b), g.max2(a, b) ...: the scalar ops by name (`min` and `max` of two: `apply`)."""
        if name in SCALAR_OPS:
            return lambda *operands: self.apply(name, *operands)
        raise AttributeError(name)

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.dtype is dtype else self.emit("cast", [x], dtype=dtype)

    def copy(self, x: Value) -> Value:
        """A fresh tensor equal to `x`; never merged with another."""
        return self._add("copy", (x.node,), (), x.shape, x.dtype)

    def lay_out(self, x: Value, strides: Shape) -> Value:
        """Fix the strides that a node's result must have where it is seen."""
        node = replace(x.node, strides=strides)
        self._nodes[int(node.name[1:]) - 1] = node  # nodes are named by their number
        self._by_name[node.name] = node
        return Value(self, node)

    def where(self, p: Value, a: Value | Number, b: Value | Number) -> Value:
        return self.apply("where", p, a, b)

    def full(self, shape: Shape, value: Number, dtype: DType) -> Value:
        typed: Number = (
            bool(value) if dtype is BOOL else round_to(float(value), dtype) if dtype.is_float else int(value)
        )
        return self.emit("full", [], shape=tuple(shape), value=typed, dtype=dtype)

    def iota(self, size: Dim) -> Value:
        """0, 1, ... size-1 as i64."""
        return self.emit("iota", [], size=size)

    def dim(self, dim: Dim) -> Value:
        """A size as an i64 scalar tensor."""
        return self.emit("dim", [], dim=dim)

    # --- views ---------------------------------------------------------------------------------------------------

    def reshape(self, x: Value, shape: Shape) -> Value:
        shape = tuple(shape)
        if x.shape == shape:
            return x
        if x.node.op == "reshape":
            return self.reshape(self._value_of(x.node.inputs[0]), shape)
        return self.emit("reshape", [x], shape=shape)

    def permute(self, x: Value, dims: Sequence[int]) -> Value:
        dims = tuple(dims)
        if x.node.op == "permute":
            before = x.node.attr("dims")
            return self.permute(self._value_of(x.node.inputs[0]), [before[d] for d in dims])
        return x if dims == tuple(range(x.rank)) else self.emit("permute", [x], dims=dims)

    def expand(self, x: Value, shape: Shape) -> Value:
        return x if x.shape == tuple(shape) else self.emit("expand", [x], shape=tuple(shape))

    def slice(self, x: Value, dim: int, start: Dim, size: Dim, step: int = 1) -> Value:
        """`size` elements of one dimension from `start`; a negative step walks backwards (flip: start = n-1, step =
        -1).
        """
        if start == 0 and step == 1 and size == x.shape[dim]:
            return x
        starts = tuple(start if d == dim else 0 for d in range(x.rank))
        steps = tuple(step if d == dim else 1 for d in range(x.rank))
        shape = tuple(size if d == dim else n for d, n in enumerate(x.shape))
        return self.emit("slice", [x], start=starts, step=steps, shape=shape)

    def select(self, x: Value, dim: int, at: Dim) -> Value:
        """One position of a dimension, which goes."""
        shape = tuple(n for d, n in enumerate(x.shape) if d != dim)
        return self.reshape(self.slice(x, dim, at, 1), shape)

    def unsqueeze(self, x: Value, dim: int) -> Value:
        return self.reshape(x, (*x.shape[:dim], 1, *x.shape[dim:]))

    def windows(
        self, x: Value, count: Sequence[int], size: Sequence[int], step: Sequence[int], stride: Sequence[int]
    ) -> Value:
        """`count` windows of `size` positions over the last dimensions: y[..., i, t] = x[..., step*i + stride*t]."""
        return self.emit("windows", [x], count=tuple(count), size=tuple(size), step=tuple(step), stride=tuple(stride))

    def pad(self, x: Value, low: Sequence[Dim], high: Sequence[Dim], value: Number) -> Value:
        return self.emit("pad", [x], low=tuple(low), high=tuple(high), value=value)

    def cat(self, parts: Sequence[Value], dim: int) -> Value:
        """Many parts are put together in groups: each choice between parts nests within the one before."""
        if len(parts) > CAT_PARTS:
            groups = [parts[k : k + CAT_PARTS] for k in range(0, len(parts), CAT_PARTS)]
            return self.cat([self.cat(group, dim) for group in groups], dim)
        return parts[0] if len(parts) == 1 else self.emit("cat", parts, dim=dim)

    def slice_scatter(self, x: Value, src: Value, dim: int, start: Dim, step: int = 1) -> Value:
        return self.emit("slice_scatter", [x, src], dim=dim, start=start, step=step)

    # --- reductions ----------------------------------------------------------------------------------------------

    def reduce(self, state: str, x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
        """sum, prod, max, min, any, all, argmax, argmin over `dims` (all of them where empty is not meant: give
        them).
        """
        dims = tuple(sorted(dims))
        if not dims and not state.startswith("arg"):
            return x
        out = self.emit(state, [x], dims=dims)
        if not keepdim:
            return out
        return self.reshape(out, tuple(1 if d in dims else n for d, n in enumerate(x.shape)))

    def sum(self, x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
        return self.reduce("sum", x, dims, keepdim)

    def mean(self, x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
        """The sum over the count; `x` must already be in a type that accumulates (f32, f64)."""
        count = product(x.shape[d] for d in dims)
        total = self.reduce("sum", x, dims, keepdim)
        if isinstance(count, int):
            return total / float(count) if count else total * float("nan")
        return total / self.cast(self.dim(count), x.dtype)

    def scan(
        self, state: str, x: Value, dim: int, component: int = 0, reverse: bool = False, exclusive: bool = False
    ) -> Value:
        return self.emit("scan", [x], state=state, dim=dim, component=component, reverse=reverse, exclusive=exclusive)

    def contract(self, left: Value, right: Value, labels: tuple[Labels, Labels, Labels]) -> Value:
        """The sum of products of two tensors whose dimensions have labels: those of the left, the right, the result.

        Labels that the result lacks are summed over: ((0, 1), (1, 2), (0, 2)) is the product of two matrices.
        """
        of_left, of_right, out = labels
        return self.emit("contract", [left, right], left=of_left, right=of_right, out=out)

    def contract_groups(
        self, left: Value, right: Value, offsets: Value, labels: tuple[Labels, Labels, Labels], group: int, ragged: int
    ) -> Value:
        """The same where the points of the label `ragged` are in groups, whose ends are `offsets`; `group` is theirs.

        ((0, 1), (2, 1, 3), (0, 3)) with group 2 and ragged 0: rows of the left are multiplied with their own matrix.
        """
        of_left, of_right, out = labels
        given = [left, right, offsets]
        return self.emit("contract_groups", given, left=of_left, right=of_right, out=out, group=group, ragged=ragged)

    # --- indexing ------------------------------------------------------------------------------------------------

    def gather(self, x: Value, dim: int, index: Value) -> Value:
        """x[..., index[i, ...], ...] along `dim`; indices are not negative."""
        return self.emit("gather", [x, index], dim=dim)

    def take(self, x: Value, dims: Sequence[int], indices: Sequence[Value], wrap: bool = True) -> Value:
        """Advanced indexing by integer tensors in `dims` (increasing), full slices elsewhere; negatives count from
        the end.
        """
        return self.emit("take", [x, *indices], dims=tuple(dims), wrap=wrap)

    def scatter(self, x: Value, dim: int, index: Value, src: Value, mode: str = "set") -> Value:
        return self.emit("scatter", [x, index, src], dim=dim, mode=mode)

    def put(self, x: Value, dims: Sequence[int], indices: Sequence[Value], values: Value, mode: str = "set") -> Value:
        """index_put: `values` (broadcast) go where `take` would read; mode "add" accumulates."""
        return self.emit("put", [x, *indices, values], dims=tuple(dims), mode=mode)

    def roll(self, x: Value, dim: int, shift: Dim) -> Value:
        """Elements move `shift` places up; where the size is dynamic, `shift` is from 0 to the size."""
        size = x.shape[dim]
        if isinstance(size, int) and isinstance(shift, int):
            shift = shift % size if size else 0
        if shift == 0:
            return x
        head = self.slice(x, dim, plus(size, -shift), shift)
        return self.cat([head, self.slice(x, dim, 0, plus(size, -shift))], dim)

    def _value_of(self, name: str) -> Value:
        return Value(self, self._by_name[name])
