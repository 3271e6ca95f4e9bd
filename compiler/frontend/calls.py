"""Calls kept as data: the arguments of an ATen, library or higher-order call as a tree, printed and run again from it.

The tree is made of tuples, strings, numbers, None and dimensions (sympy expressions):

    add(x, 2, alpha=0.5)       (("list", ("tensor", 0), 2), (("alpha", 0.5),))     positional, then named
    tensors                    ("tensor", k), the k-th input of the node; also a Python number made by an earlier call
    sequences                  ("list", ...), ("tuple", ...), ("dict", (key, value), ...)
    torch's own                ("dtype", "float32"), ("device", "cpu"), ("layout", "strided"), ("format",
    "contiguous_format") complex numbers            ("complex", real, imaginary)
    anything else              ("object", name), looked up in `Imported.objects`

A target is "aten.topk.default" (an overload by its name), "operator.add", "math.sqrt", "torch.sym_max" (a Python
function), or "@name" (an object).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch

from ...ir.builder import Value
from ...ir.types import Dim, evaluate

MODULES = {"operator": operator, "math": math, "torch": torch}
Tree = Any


class Encoder:
    """Turns fx arguments into trees, collecting tensors and nameless objects."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self.objects = objects
        self.tensors: list[Value] = []

    def encode_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        self.tensors = []
        positional = tuple(self.encode(a) for a in args)
        return positional, tuple((k, self.encode(v)) for k, v in kwargs.items())

    def encode(self, value: Any) -> Tree:
        if isinstance(value, Value):
            return "tensor", self._position(value)
        if value is None or isinstance(value, (bool, int, float, str, sympy.Expr)):
            return value
        if isinstance(value, (list, torch.Size)):
            return "list", *(self.encode(v) for v in value)
        if isinstance(value, tuple):
            return "tuple", *(self.encode(v) for v in value)
        if isinstance(value, Mapping):
            return "dict", *((self.encode(k), self.encode(v)) for k, v in value.items())
        if isinstance(value, slice):
            return "slice", *(self.encode(v) for v in (value.start, value.stop, value.step))
        if isinstance(value, complex):
            return "complex", value.real, value.imag
        for kind, cls in _TORCH_KINDS.items():
            if isinstance(value, cls):
                return kind, str(value).removeprefix("torch.")
        return "object", self.name_object(value)

    def _position(self, value: Value) -> int:
        for k, known in enumerate(self.tensors):
            if known.node.name == value.node.name:
                return k
        self.tensors.append(value)
        return len(self.tensors) - 1

    def name_object(self, value: Any) -> str:
        """The name under which `value` is kept in `objects`."""
        for name, known in self.objects.items():
            if known is value:
                return name
        stem = getattr(value, "__name__", None) or type(value).__name__
        name = stem if stem not in self.objects else f"{stem}_{len(self.objects)}"
        self.objects[name] = value
        return name


_TORCH_KINDS: dict[str, type] = {
    "dtype": torch.dtype,
    "device": torch.device,
    "layout": torch.layout,
    "format": torch.memory_format,
}


def name_target(target: Any, objects: dict[str, Any]) -> str:
    """How a callable is written in a `call` node."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    module = {"_operator": "operator"}.get(module, module)
    if module in MODULES and getattr(MODULES[module], name, None) is target:
        return f"{module}.{name}"
    if name.startswith("sym_") and getattr(torch, name, None) is target:
        return f"torch.{name}"
    return "@" + Encoder(objects).name_object(target)


def find_target(target: str, objects: Mapping[str, Any]) -> Callable[..., Any]:
    if target.startswith("@"):
        return objects[target[1:]]
    head, _, rest = target.partition(".")
    found: Any = MODULES[head] if head in MODULES else getattr(torch.ops, head)
    for part in rest.split("."):
        found = getattr(found, part)
    return found


def target_source(target: str) -> str:
    """The Python expression of a target; names in it are `aten`, `ops` (torch.ops), `torch`, `operator`, `math`,
    `objects`.
    """
    if target.startswith("@"):
        return f"objects[{target[1:]!r}]"
    head = target.partition(".")[0]
    return target if head in MODULES or head == "aten" else f"ops.{target}"


def call_source(target: str, args: Tree, tensors: Sequence[str], dim_text: Callable[[Dim], str]) -> str:
    """The Python expression of a call: `aten.topk.default(b3, 5, -1)`."""
    positional, named = args
    parts = [_source(a, tensors, dim_text) for a in positional]
    parts += [f"{k}={_source(v, tensors, dim_text)}" for k, v in named]
    return f"{target_source(target)}({', '.join(parts)})"


def _source(tree: Tree, tensors: Sequence[str], dim_text: Callable[[Dim], str]) -> str:
    if isinstance(tree, sympy.Expr):
        return dim_text(tree)
    if isinstance(tree, float) and not math.isfinite(tree):
        return f"float({str(tree)!r})"
    if not isinstance(tree, tuple):
        return repr(tree)
    kind, *rest = tree
    if kind == "tensor":
        return str(tensors[rest[0]])
    if kind == "object":
        return f"objects[{rest[0]!r}]"
    if kind == "device":
        return f"torch.device({rest[0]!r})"
    if kind in _TORCH_KINDS:
        return f"torch.{rest[0]}"
    if kind == "dict":
        items = [f"{_source(k, tensors, dim_text)}: {_source(v, tensors, dim_text)}" for k, v in rest]
        return "{" + ", ".join(items) + "}"
    parts = [_source(r, tensors, dim_text) for r in rest]
    if kind == "list":
        return f"[{', '.join(parts)}]"
    if kind == "tuple":
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    return f"{kind}({', '.join(parts)})"  # slice, complex


def run_call(
    target: str, args: Tree, tensors: Sequence[Any], sizes: Mapping[str, int], objects: Mapping[str, Any]
) -> Any:
    """Execute a call on given tensors, under given values of the symbols."""
    positional, named = args
    function = find_target(target, objects)
    values = [_decode(a, tensors, sizes, objects) for a in positional]
    return function(*values, **{k: _decode(v, tensors, sizes, objects) for k, v in named})


def _decode(tree: Tree, tensors: Sequence[Any], sizes: Mapping[str, int], objects: Mapping[str, Any]) -> Any:
    if isinstance(tree, sympy.Expr):
        return evaluate(tree, dict(sizes))
    if not isinstance(tree, tuple):
        return tree
    kind, *rest = tree
    if kind == "tensor":
        return tensors[rest[0]]
    if kind == "object":
        return objects[rest[0]]
    if kind == "device":
        return torch.device(rest[0])
    if kind in _TORCH_KINDS:
        return getattr(torch, rest[0])
    if kind == "dict":
        return {_decode(k, tensors, sizes, objects): _decode(v, tensors, sizes, objects) for k, v in rest}
    parts = [_decode(r, tensors, sizes, objects) for r in rest]
    if kind == "list":
        return parts
    return tuple(parts) if kind == "tuple" else {"slice": slice, "complex": complex}[kind](*parts)
