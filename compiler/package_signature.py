"""From an exported program to what a package says of its arguments, results and state; see `runtime.signature`."""

from __future__ import annotations

import ast
import re
from collections import namedtuple
from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind
from torch.utils import _pytree as pytree

from ..ir.errors import BadInput
from ..ir.types import contiguous_strides
from .doors import find_layout
from .frontend.dims import Dims
from .runtime.layouts import Layout, Order
from .runtime.signature import (
    CONSTANT,
    RESULT,
    SIZE,
    STATE,
    TENSOR,
    WRITTEN,
    Input,
    Output,
    Signature,
    Term,
    compile_guard,
)

WHERE = "treadle.package"
STATES = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
PLAIN = (bool, int, float, str, type(None))


def read_signature(program: ExportedProgram, guards: list[str], stored: Mapping[str, str]) -> Signature:
    """What the graph of a lowered program takes and gives.

    guards  conditions over `L['x'].size()[0]` that the export found; lowering drops them
    stored  the name under which each tensor of the state is kept

    Raises BadInput for what a package cannot hold.
    """
    reader = _Reader(program)
    inputs = reader.read_inputs(stored)
    tree_in, tree_out = program.call_spec.in_spec, program.call_spec.out_spec
    positional, named = _read_arguments(program)
    return Signature(
        inputs=inputs,
        outputs=_read_outputs(program),
        symbols=reader.symbols,
        guards=tuple(_translate_guard(guard, reader.paths) for guard in guards),
        positional=positional,
        named=named,
        tree_in=_write_tree(tree_in, "the arguments"),
        tree_out=_write_tree(make_plain(tree_out), "the results"),
    )


class _Reader:
    """`paths` are the caller's arguments as guards name them, `L['x']`, by the number of the graph's input."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.symbols: dict[str, tuple[int, int | None]] = {}
        self.paths: dict[str, int] = {}

    def read_inputs(self, stored: Mapping[str, str]) -> tuple[Input, ...]:
        specs = self.program.graph_signature.input_specs
        nodes = self.program.graph_module.graph.find_nodes(op="placeholder")
        names = _name_leaves(self.program)
        inputs = []
        for number, (spec, node) in enumerate(zip(specs, nodes, strict=True)):
            if spec.kind in STATES:
                inputs.append(self._read_state(spec, node, stored))
            elif spec.kind is InputKind.USER_INPUT:
                path, name = next(names)
                self.paths[path] = number
                inputs.append(self._read_given(node, name))
            else:
                raise BadInput("a package holds tensors, and no other objects", where=WHERE,
                               got=f"{spec.kind.name} {spec.target or spec.arg.name}")  # fmt: skip
        return tuple(inputs)

    def _read_state(self, spec: InputSpec, node: fx.Node, stored: Mapping[str, str]) -> Input:
        name, val = str(spec.target), node.meta["val"]
        if name not in stored:
            raise BadInput("a tensor of the program is neither in its state nor among its constants", where=name)
        dtype = str(val.dtype).removeprefix("torch.")
        return Input(STATE, name, dtype, tuple(val.shape), find_dense_layout(val, name), stored=stored[name])

    def _read_given(self, node: fx.Node, name: str) -> Input:
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor):
            shape = tuple(self._read_size(n, name) for n in val.shape)
            return Input(TENSOR, name, str(val.dtype).removeprefix("torch."), shape, find_dense_layout(val, name))
        if isinstance(val, torch.SymInt):
            return Input(SIZE, name, "", (self._read_size(val, name),))
        if type(val) in PLAIN:
            return Input(CONSTANT, name, value=val)
        raise BadInput("an argument that a package cannot hold", where=name, got=type(val).__name__)

    def _read_size(self, size: int | torch.SymInt, name: str) -> int | Term:
        if isinstance(size, int):
            return size
        expr = size.node.expr
        if expr.is_Integer:
            return int(expr)
        if len(expr.free_symbols) == 1:
            [symbol] = expr.free_symbols
            times: Any = sympy.expand(expr).coeff(symbol)
            plus: Any = sympy.expand(expr - times * symbol)
            if times.is_Integer and times > 0 and plus.is_Integer:
                self.symbols[str(symbol)] = self._read_range(symbol)
                return Term(str(symbol), int(times), int(plus))
        expected = "a symbol, or an integer multiple of one and an integer"
        raise BadInput("a size that a package cannot check", where=name, expected=expected, got=expr)

    def _read_range(self, symbol: sympy.Symbol) -> tuple[int, int | None]:
        bounds = self.program.range_constraints[symbol]
        return max(0, int(bounds.lower)), int(bounds.upper) if bounds.upper.is_Integer else None


def find_dense_layout(val: torch.Tensor, name: str) -> Layout:
    """The layout that compiled code expects. Raises BadInput for strides that no order of dimensions explains."""
    layout = find_layout(val)
    if layout != "any":
        return layout
    dims = Dims("cpu")
    shape, strides = dims.shape(val.shape), dims.strides(val) if val.layout is torch.strided else None
    if shape is not None and strides is not None:
        hints = [s if isinstance(s, int) else s.node.hint for s in val.stride()]
        order = tuple(sorted(range(len(hints)), key=lambda d: -hints[d]))
        if contiguous_strides(tuple(shape[d] for d in order)) == tuple(strides[d] for d in order):
            return Order(order)
    hint = "export it with a contiguous example, or without dynamic sizes"
    raise BadInput("an input in a layout that a package cannot check", where=name, hint=hint)


def _name_leaves(program: ExportedProgram) -> Iterator[tuple[str, str]]:
    """Each leaf of the arguments: as guards write it, L['x'][0], and as errors do, x[0]."""
    args, kwargs = _rebuild_arguments(program)
    found = program.module_call_graph[0].signature if program.module_call_graph else None
    names = list((found.forward_arg_names if found else None) or [])
    leaves, _ = pytree.tree_flatten_with_path((args, kwargs))
    for path, _ in leaves:
        side, key, *rest = list[Any](path)
        name = key.key if side.idx == 1 else names[key.idx] if key.idx < len(names) else f"args[{key.idx}]"
        tail = pytree.keystr(tuple(rest))
        yield f"L[{name!r}]{tail}", f"{name}{tail}"


def _read_arguments(program: ExportedProgram) -> tuple[int, tuple[str, ...]]:
    args, kwargs = _rebuild_arguments(program)
    return len(args), tuple(kwargs)


def _rebuild_arguments(program: ExportedProgram) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Something of the structure that calls have. Not the example inputs: keywords stand there in another order."""
    tree: Any = program.call_spec.in_spec
    args, kwargs = pytree.tree_unflatten([0] * tree.num_leaves, tree)
    return args, kwargs


def _read_outputs(program: ExportedProgram) -> tuple[Output, ...]:
    specs = program.graph_signature.input_specs
    place: dict[str | None, int] = {spec.arg.name: k for k, spec in enumerate(specs)}
    state: dict[str | None, int] = {spec.target: k for k, spec in enumerate(specs) if spec.target is not None}
    outputs = []
    for spec in program.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            outputs.append(Output(WRITTEN, state[spec.target]))
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            outputs.append(Output(WRITTEN, place[spec.target]))
        elif spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, ConstantArgument):
            outputs.append(Output(CONSTANT, value=_check_plain(spec.arg.value)))
        elif spec.kind is OutputKind.USER_OUTPUT:
            outputs.append(Output(RESULT))
        else:
            raise BadInput("a package cannot hold such a result", where=WHERE, got=spec.kind.name)
    return tuple(outputs)


def _check_plain(value: Any) -> Any:
    if type(value) not in PLAIN:
        raise BadInput("a result that a package cannot hold", where=WHERE, got=type(value).__name__)
    return value


def drop_constants(program: ExportedProgram) -> None:
    """Take the results that are no tensors out of the graph: the signature has their values."""
    node = program.graph_module.graph.output_node()
    node.args = (tuple(x if isinstance(x, fx.Node) else None for x in node.args[0]),)  # type: ignore[union-attr]
    program.graph_module.recompile()


def _write_tree(tree: Any, of: str) -> str:
    try:
        return pytree.treespec_dumps(tree)
    except Exception as error:
        hint = "register it with a serialized_type_name (torch.utils._pytree), or use tuples, lists and dicts"
        raise BadInput(f"{of} have a class that no file can name: {error}", where=WHERE, hint=hint) from error


def make_plain(tree: Any) -> Any:
    """A pytree spec without classes of other libraries where there is a plain one, so that loading needs only torch.

    CausalLMOutputWithPast(logits=*), Point(x=*, y=*)        ->        {"logits": *}, (*, *)
    """
    if tree.is_leaf():
        return tree
    # children() came with torch 2.13, which warns of the attribute that was there before.
    children = [make_plain(child) for child in (tree.children() if hasattr(tree, "children") else tree.children_specs)]
    if isinstance(tree.type, type) and issubclass(tree.type, dict) and _is_foreign(tree.type):
        keys = tree.context if isinstance(tree.context, list) else list(tree.context[0])
        return pytree.TreeSpec(dict, keys, children)
    if tree.type is namedtuple and _is_foreign(tree.context):
        return pytree.TreeSpec(tuple, None, children)
    return pytree.TreeSpec(tree.type, tree.context, children)


def _is_foreign(cls: type) -> bool:
    return cls.__module__.partition(".")[0] not in ("builtins", "collections", "torch")


def _translate_guard(guard: str, paths: Mapping[str, int]) -> str:
    """`L['x'].size()[0] % 4 == 0` -> `i2_0 % 4 == 0`, where x is the graph's input 2."""
    text = guard
    for path in sorted(paths, key=len, reverse=True):
        number = paths[path]
        text = re.sub(re.escape(path) + r"\.size\(\)\[(\d+)\]", rf"i{number}_\1", text)
        text = re.sub(re.escape(path) + r"(?![\w.\[])", f"i{number}_0", text)
    try:
        compile_guard(ast.unparse(ast.parse(text, mode="eval")))
    except (ValueError, SyntaxError):
        hint = "export with sizes for which it is always true, or without dynamic_shapes"
        raise BadInput("the exported program holds under a condition that a package cannot check", where=WHERE,
                       got=guard, hint=hint) from None  # fmt: skip
    return text
