"""From an aten fx graph, as AOTAutograd hands it over, to the graph level of the IR.

Each fx node becomes IR nodes by its lowering (`context.LOWERINGS`), or one `call` node: of kind "library" where a
library does the work (contractions), "effect" where order matters, and "opaque" for all that is not lowered. Nothing
that torch has traced is an error here. Sizes are resolved to dimensions, views and copies to index maps or nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from ...ir.builder import GraphBuilder, Value
from ...ir.errors import LoweringError, TreadleError, UnsupportedOp
from ...ir.graph import Graph
from ...ir.types import F64, I64, contiguous_strides
from . import float8, lowerings, selects
from .calls import Encoder, name_target
from .context import LOWERINGS, Context, Unsupported
from .contractions import Product
from .dims import DTYPE_OF, Dims, Meta, Shape
from .links import find_links
from .results import MADE_BY_TORCH, VIEWS, Placer
from .sources import find_source

# Checks of what tracing has fixed already: metadata is static, sizes are guarded.
DROPPED = frozenset({"aten._assert_tensor_metadata.default"})


Judge = Callable[[Product], str]


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A node that treadle did not lower itself, for `explain`."""

    name: str
    target: str
    kind: str  # "library", "opaque" or "effect"
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported graph and what it refers to.

    objects    Python objects that calls name ("@name" as target, ("object", name) as argument)
    constants  tensors of the fx module, in order: they are the last inputs of the graph
    native     the number of fx nodes that were lowered to IR and compute something (views and sizes not counted)
    """

    graph: Graph
    objects: dict[str, Any]
    constants: tuple[torch.Tensor, ...]
    calls: tuple[CallRecord, ...]
    native: int


def import_graph(
    gm: fx.GraphModule, name: str, device: str = "cpu", rng: str = "eager", judge: Judge | None = None
) -> Imported:
    """The IR graph of an aten fx module whose nodes carry fake tensors in `meta["val"]`; nodes on other devices are
    left to ATen.

    rng    where random numbers come from: see the setting
    judge  why a library is to compute a product of matrices, "" where it becomes equations; None: they are left to it
    """
    importer = _Importer(gm, name, device)
    importer.cx.rng = rng
    if judge is not None:
        importer.cx.judge = judge
    for node in gm.graph.nodes:
        importer.visit(node)
    return importer.finish()


@dataclass(slots=True)
class _Importer:
    gm: fx.GraphModule
    name: str
    device: str
    env: dict[fx.Node, Any] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    constants: list[torch.Tensor] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    mutations: list[tuple[Value, Value]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    native: int = 0
    dims: Dims = field(init=False)
    g: GraphBuilder = field(init=False)
    cx: Context = field(init=False)
    linked: frozenset[fx.Node] = field(init=False)

    def __post_init__(self) -> None:
        self.dims = Dims(self.device)
        self.linked = find_links(self.gm)
        self.g = GraphBuilder(self.name)
        self.cx = Context(self.g, self.dims)

    def visit(self, node: fx.Node) -> None:
        if node.op == "call_function":
            self.g.source = find_source(node)
            self.env[node] = self._call(node)
        elif node.op == "placeholder":
            self.env[node] = self._placeholder(node)
        elif node.op == "get_attr":
            self.env[node] = self._attribute(node)
        elif node.op == "output":
            self._output(node)
        else:  # call_module, call_method: not of AOTAutograd's making, but torch may run them
            self.env[node] = self._foreign_call(node)

    def finish(self) -> Imported:
        graph = self.g.finish(self.outputs, self.mutations)
        return Imported(graph, self.objects, tuple(self.constants), tuple(self.calls), self.native)

    # --- inputs --------------------------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> Any:
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor) and not any(_is_ordering(u.target) and u.args[0] is node for u in node.users):
            return self._tensor_input(node.name, val)
        if isinstance(val, (int, torch.SymInt)) and not isinstance(val, bool):
            dim = self.dims.to_dim(val)
            if dim is not None:
                self.g.size_input(node.name, dim)
                return dim
        return self.g.input(node.name, (), None)

    def _tensor_input(self, name: str, val: torch.Tensor) -> Value:
        meta = self.dims.read(val)
        if meta.dtype is None:
            return self.g.input(name, (), None)
        return self.g.input(name, meta.shape, meta.dtype, self.dims.strides(val))

    def _attribute(self, node: fx.Node) -> Any:
        value: Any = self.gm
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, torch.Tensor):
            return value
        known = [k for k, c in enumerate(self.constants) if c is value]
        if not known and value.dim() == 0 and type(value) is torch.Tensor and value.device.type == "cpu":
            dtype = DTYPE_OF.get(value.dtype)
            if dtype is not None:
                with _disable_current_modes():  # compilers are called under a mode that makes everything fake
                    return self.g.full((), value.item(), dtype)
        if not known:
            self.constants.append(value)
        at = known[0] if known else len(self.constants) - 1
        return self._tensor_input(f"constant{at}", value)

    # --- nodes ---------------------------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> Any:
        val, target = node.meta.get("val"), node.target
        if isinstance(val, (torch.SymInt, int)) and not isinstance(val, bool):
            dim = self.dims.to_dim(val)
            if dim is not None:
                return dim
        if target is operator.getitem:
            return self._item(node)
        if not isinstance(target, torch._ops.OpOverload):
            return self._ordered_call(node) if _is_ordering(target) else self._foreign_call(node)
        name = str(target)
        if name in DROPPED:
            return None
        if target._schema.is_mutable:
            return self._mutate(node, name)
        return self._lower(node, name, val)

    def _lower(self, node: fx.Node, name: str, val: Any) -> Any:
        lowering = LOWERINGS.get(name)
        if lowering is None:
            return self._foreign_call(node, "" if name in lowerings.LIBRARY else "not in the op table")
        metas, reason = self._metas(val)
        if reason:
            return self._foreign_call(node, reason)
        args, kwargs = self._value(node.args), self._value(node.kwargs)
        if any(self._is_foreign(n) for n in node.all_input_nodes):
            if lowering.__module__ in lowerings.TAKES_NUMBERS:
                args = tuple(self._as_tensor(n, a) for n, a in zip(node.args, args, strict=True))
            if name in selects.CONVERSIONS:
                args = (self._decoded(node.args[0], args[0]), *args[1:])
            if any(isinstance(v, Value) and v.node.dtype is None for v in _flatten((args, kwargs))):
                return self._foreign_call(node, "an operand that treadle does not hold")
        self.cx.metas = metas
        self.cx.linked = node in self.linked
        given: Any = node.args
        self.cx.strides = lambda k: self.dims.strides(given[k].meta["val"])
        try:
            result = lowering(self.cx, *args, **kwargs)
            _check(result, metas)
        except UnsupportedOp as e:
            return self._foreign_call(node, e.reason)
        except (TreadleError, TypeError) as e:
            return self._foreign_call(node, f"its lowering failed: {e}")
        self.native += name not in lowerings.FREE
        return self._laid_out(result, val)

    def _laid_out(self, result: Any, val: Any) -> Any:
        """A result that torch has with its channels last is stored so too, where it is stored."""
        if not isinstance(result, Value) or not isinstance(val, torch.Tensor):
            return result
        node = self.g.node(result.node.name)
        kept = node.op == "input" or node.op in MADE_BY_TORCH or node.op in VIEWS or node.strides is not None
        strides = None if kept or not _has_channels_last(val) else self.dims.strides(val)
        return result if strides is None else self.g.lay_out(result, strides)

    def _is_foreign(self, node: fx.Node) -> bool:
        value = self.env[node]
        return isinstance(value, Value) and value.node.dtype is None

    def _decoded(self, given: Any, value: Any) -> Any:
        """The numbers of an FP8 tensor; other values as they are."""
        val = given.meta.get("val") if isinstance(given, fx.Node) else None
        if not isinstance(val, torch.Tensor) or val.dtype not in float8.FORMATS or str(val.device) != self.dims.device:
            return value
        shape, strides = self.dims.shape(val.shape), self.dims.strides(val)
        if shape is None or strides is None:
            return value
        return float8.decode(self.g, float8.view_bytes(self.g, value, shape, strides), float8.FORMATS[val.dtype])

    def _as_tensor(self, given: Any, value: Any) -> Any:
        """A Python number that is only known at run time, as a 0-d tensor."""
        val = given.meta.get("val") if isinstance(given, fx.Node) else None
        if not isinstance(value, Value) or not isinstance(val, (torch.SymInt, torch.SymFloat)):
            return value
        dtype, theirs = (I64, "int64") if isinstance(val, torch.SymInt) else (F64, "float64")
        tree = ((("tensor", 0),), (("dtype", ("dtype", theirs)),))
        return self.g.call("aten.scalar_tensor.default", tree, [value], "opaque", (), dtype, ())

    def _metas(self, val: Any) -> tuple[tuple[Meta | None, ...], str]:
        """The types of a node's results, and why it cannot be native ("" where it can)."""
        if isinstance(val, torch.Tensor):
            meta = self.dims.read(val)
            return (meta,), meta.reason
        if isinstance(val, (list, tuple)):
            metas = tuple(self.dims.read(v) if isinstance(v, torch.Tensor) else None for v in val)
            return metas, next((m.reason for m in metas if m is not None and m.dtype is None), "")
        return (), "no tensor as result"

    def _item(self, node: fx.Node) -> Any:
        source, at = self._value(node.args)
        if isinstance(source, (list, tuple)):
            return source[at]
        if not isinstance(source, Value) or not isinstance(at, int):
            return self._foreign_call(node)
        return self._result_of(source, at, node.meta.get("val"))

    def _result_of(self, call: Value, at: int, val: Any) -> Value:
        if not isinstance(val, torch.Tensor):
            return self.g.result(call, at)
        meta = self.dims.read(val)
        return self.g.result(call, at, meta.shape, meta.dtype, self.dims.strides(val) if meta.dtype else None)

    def _value(self, arg: Any) -> Any:
        """An fx argument with its nodes replaced by what they became."""
        if arg is None or isinstance(arg, (int, float, str)):
            return arg
        if isinstance(arg, fx.Node):
            return self.env[arg]
        if isinstance(arg, tuple):
            return tuple(self._value(a) for a in arg)
        if isinstance(arg, list):
            return [self._value(a) for a in arg]
        if isinstance(arg, slice):
            return slice(self._value(arg.start), self._value(arg.stop), self._value(arg.step))
        if isinstance(arg, Mapping):
            return {k: self._value(v) for k, v in arg.items()}
        return arg

    # --- calls ---------------------------------------------------------------------------------------------------

    def _foreign_call(self, node: fx.Node, reason: str = "") -> Value:
        return self._emit_call(node, self._target(node), node.args, node.meta.get("val"), reason)

    def _emit_call(self, node: fx.Node, function: Any, args: Any, val: Any, reason: str = "", kind: str = "") -> Value:
        """A `call` node of `function`; `val` is what torch has traced as its result."""
        target = name_target(function, self.objects)
        found, why = _kind(node, function, target)
        kind = kind or found
        encoder = Encoder(self.objects)
        tree = encoder.encode_call(self._value(args), self._value(node.kwargs))
        is_tensor = isinstance(val, torch.Tensor)
        meta = self.dims.read(val) if is_tensor else Meta((), None)
        strides = self.dims.strides(val) if meta.dtype is not None else None
        free = kind == "view" or target in lowerings.ANY_LAYOUT
        layouts = () if free else tuple(self._layout(node, v) for v in encoder.tensors)
        value = self.g.call(target, tree, encoder.tensors, kind, meta.shape, meta.dtype, strides, layouts)
        if kind != "view" and (isinstance(val, (torch.Tensor, list, tuple)) or kind != "opaque"):
            told = (reason if kind == "library" else "") or why or reason
            self.calls.append(CallRecord(node.name, target, kind, told, self.g.source))
        return value

    def _target(self, node: fx.Node) -> Any:
        if node.op == "call_module":
            return self.gm.get_submodule(str(node.target))
        return getattr(torch.Tensor, str(node.target)) if node.op == "call_method" else node.target

    def _ordered_call(self, node: fx.Node) -> tuple[Any, ...]:
        """with_effects(token, op, ...) is a call of `op` in its order; the tokens that chain them carry nothing.

        It gives (token, the op's result) or (token, *the op's results).
        """
        function, *args = node.args[1:]
        val = node.meta.get("val", (None, None))[1:]
        single = not isinstance(function, torch._ops.OpOverload) or len(function._schema.returns) < 2
        call = self._emit_call(node, function, args, val[0] if single else val, kind="effect")
        if single:
            return None, call
        return None, *(self._result_of(call, k, v) for k, v in enumerate(val))

    def _layout(self, node: fx.Node, value: Value) -> Shape | None:
        """The strides that operand `value` had when it was traced; None for row-major."""
        if value.node.dtype is None:
            return None
        for arg in node.all_input_nodes:
            val = arg.meta.get("val")
            if self.env[arg] is value and isinstance(val, torch.Tensor):
                strides = self.dims.strides(val)
                return None if strides == contiguous_strides(value.shape) else strides
        return None

    # --- what torch mutates, what it returns ---------------------------------------------------------------------

    def _mutate(self, node: fx.Node, name: str) -> Value:
        """The closing `copy_` into an input, the only write in a functional graph."""
        target = node.args[0]
        if name != "aten.copy_.default" or not isinstance(target, fx.Node) or target.op != "placeholder":
            raise LoweringError(
                "a write inside the graph", where=f"{node.name} = {name}", expected="a functional graph"
            )
        written, value = self._value(node.args[:2])
        if written.node.dtype is not None and value.node.dtype is not None:
            value = self.g.expand(self.g.cast(value, written.dtype), written.shape)
        self.mutations.append((written, value))
        return value

    def _output(self, node: fx.Node) -> None:
        (results,) = node.args
        results = results if isinstance(results, (list, tuple)) else (results,)
        placer = Placer(self.g, self.dims, self.env, self._emit_view)
        self.mutations = placer.protect(self.mutations)
        self.outputs = placer.place_all(results)

    def _emit_view(self, node: fx.Node, source: Value) -> Value:
        """The view operator of `node`, run by torch on `source`."""
        self.g.source = find_source(node)
        val = node.meta.get("val")
        if node.target is operator.getitem:
            return self._result_of(source, self._value(node.args[1]), val)
        return self._emit_call(node, node.target, (source, *node.args[1:]), val, kind="view")


def _check(result: Any, metas: tuple[Meta | None, ...]) -> None:
    """A lowering that gives another type than torch traced is wrong for this case (or its sizes cannot be compared)."""
    results = result if isinstance(result, (list, tuple)) else (result,)
    for value, meta in zip(results, metas, strict=True):
        if meta is None or value is None:
            continue
        if value.shape != meta.shape or value.dtype is not meta.dtype:
            got, expected = f"{value.dtype}{list(value.shape)}", f"{meta.dtype}{list(meta.shape)}"
            raise Unsupported(f"its lowering gives {got} where torch has {expected}")


def _flatten(tree: Any) -> list[Any]:
    if isinstance(tree, (list, tuple)):
        return [leaf for t in tree for leaf in _flatten(t)]
    if isinstance(tree, Mapping):
        return [leaf for t in tree.values() for leaf in _flatten(t)]
    return [tree]


def _has_channels_last(val: torch.Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if val.dim() not in formats or any(not isinstance(n, int) for n in val.shape) or val.is_contiguous():
        return False
    return val.is_contiguous(memory_format=formats[val.dim()])


def _is_ordering(target: Any) -> bool:
    return isinstance(target, torch._ops.HigherOrderOperator) and target.name() == "with_effects"


def _kind(node: fx.Node, function: Any, target: str) -> tuple[str, str]:
    """The kind of a call, and the reason for it."""
    if target in lowerings.LIBRARY and not lowerings.is_random(node):
        return "library", lowerings.LIBRARY[target]
    if isinstance(function, torch._ops.OpOverload):
        if torch.Tag.nondeterministic_seeded in function.tags:
            return "effect", "random numbers come from ATen's generator"
        if not function._schema.returns:
            return "effect", "it is run for its effect"
        return "opaque", ""
    if isinstance(function, torch._ops.HigherOrderOperator):
        return "effect", "a higher-order operator runs through torch"
    return "opaque", "a Python function"
