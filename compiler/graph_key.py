"""The key of a whole graph: what another process must have in common with this one to use what was compiled here.

Written from the fx graph alone, before anything of it is imported: operators, arguments, the types of all values, what
is known of the symbols. A graph that holds Python objects (submodules of higher-order operators, functions) has no key.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from .frontend.foreign import FOREIGN
from .runtime.store import Store, make_key

FOLDERS = ("codegen", "compiler", "costmodel", "ir", "passes")
SOURCES = "sources"  # kind of the store's entries with digests of treadle's own code
PLAIN_MODULES = ("math", "operator", "_operator", "torch")


class NoKey(Exception):
    """The graph holds something that no text says all about; its kernels are stored, the graph is not."""


def make_graph_key(gm: fx.GraphModule, *parts: object) -> str | None:
    """The key of a graph under what else decides on its code; None where it has none."""
    try:
        return make_key(describe_graph(gm), str(torch.__version__), str(torch.get_default_dtype()), *parts)
    except NoKey:
        return None


def describe_graph(gm: fx.GraphModule) -> str:
    """One line a node: operator, arguments, type of the result. Raises NoKey."""
    return _Writer(gm).write()


class _Writer:
    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.numbers: dict[fx.Node, str] = {}
        self.symbols: dict[str, str] = {}
        self._exprs: dict[sympy.Expr, str] = {}

    def write(self) -> str:
        lines: list[str] = []
        for number, node in enumerate(self.gm.graph.nodes):
            self.numbers[node] = f"%{number}"
            args = f"{self.value(node.args)}{self.value(node.kwargs)}"
            lines.append(f"{node.op} {self.target(node)} {args} -> {self.meta(node.meta.get('val'))}")
        return "\n".join([*lines, *(f"{name} {facts}" for name, facts in sorted(self.symbols.items()))])

    def target(self, node: fx.Node) -> str:
        target = node.target
        if node.op == "get_attr":
            return self.attribute(str(target))
        if isinstance(target, str):
            if node.op == "placeholder" or node.op == "output":
                return ""
            raise NoKey(target)
        if isinstance(target, torch._ops.OpOverload):
            if str(target) in FOREIGN:
                raise NoKey(f"{target}, whose lowering is not treadle's own")
            return str(target)
        module = getattr(target, "__module__", "")
        if isinstance(target, BuiltinFunctionType) and module in PLAIN_MODULES:
            return f"{module}.{target.__name__}"
        if str(getattr(target, "__name__", "")).startswith("sym_") and module == "torch":
            return f"torch.{target.__name__}"
        raise NoKey(str(target))

    def attribute(self, path: str) -> str:
        """A tensor of the module: its name and type, and its value where it may be folded into the code."""
        value = operator.attrgetter(path)(self.gm)
        if not isinstance(value, torch.Tensor):
            raise NoKey(path)
        known = value.dim() == 0 and value.device.type == "cpu" and type(value) is torch.Tensor
        if not known:
            return f"{path} {self.meta(value)}"
        with unset_fake_temporarily():  # AOTAutograd may call us under its fake mode
            return f"{path} {self.meta(value)} {value.item()!r}"

    def value(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self.numbers[value]
        if value is None or isinstance(value, (bool, int, str)):
            return repr(value)
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, complex):
            return repr(value)
        if isinstance(value, (tuple, list)):
            inner = ", ".join([self.value(v) for v in value])
            return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
        if isinstance(value, Mapping):
            return "{" + ", ".join([f"{k}: {self.value(v)}" for k, v in value.items()]) + "}"
        if isinstance(value, slice):
            return f"slice{self.value((value.start, value.stop, value.step))}"
        if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
            return str(value)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self.size(value)
        raise NoKey(type(value).__name__)

    def meta(self, val: Any) -> str:
        """The type of a value as traced."""
        if isinstance(val, torch.Tensor):
            strides = self.sizes(val.stride()) if val.layout is torch.strided else ""
            odd = f" {type(val).__name__}" if val.is_neg() or val.is_conj() or val.is_sparse else ""
            return f"{val.dtype}{self.sizes(val.shape)}{strides}{val.device}{odd}"
        if isinstance(val, (tuple, list)):
            return f"({', '.join([self.meta(v) for v in val])})"
        return self.value(val)

    def sizes(self, sizes: Iterable[Any]) -> str:
        return f"[{','.join([str(n) if type(n) is int else self.size(n) for n in sizes])}]"

    def size(self, size: Any) -> str:
        """A symbolic size, read and never compared: a comparison would add a guard."""
        if isinstance(size, int):
            return str(int(size))
        node = size.node
        expr = node.expr
        text = self._exprs.get(expr)
        if text is None:
            text = self._exprs[expr] = str(expr)
            for s in getattr(expr, "free_symbols", ()):
                self.symbols[s.name] = _describe_symbol(s, node.shape_env)
        return text


def _describe_symbol(symbol: Any, shape_env: Any) -> str:
    bounds = shape_env.var_to_range.get(symbol)
    backed = getattr(shape_env, "backed_var_to_val", None)
    known = symbol in (shape_env.var_to_val if backed is None else backed)
    return f"from {'?' if bounds is None else bounds.lower} {'backed' if known else 'unbacked'}"


def digest_sources(store: Store) -> str:
    """A digest of treadle's own Python files; read again only when one of them has changed."""
    root = Path(__file__).parent.parent
    files = sorted(item for folder in FOLDERS for item in _list_sources(str(root / folder)))
    return _digest_files(tuple(files), store)


def _list_sources(folder: str) -> Iterator[tuple[str, int, int]]:
    """Path, time and size of each Python file under a folder: pathlib would take a twentieth of a second."""
    with os.scandir(folder) as found:
        for item in found:
            if item.name.endswith(".py"):
                stat = item.stat()
                yield item.path, stat.st_mtime_ns, stat.st_size
            elif item.is_dir():
                yield from _list_sources(item.path)


@cache
def _digest_files(stamps: tuple[tuple[str, int, int], ...], store: Store) -> str:
    stamp = make_key("stamps", stamps)
    known = store.get_json(SOURCES, stamp)
    if known is not None:
        return known["digest"]
    root = Path(__file__).parent.parent
    digest = make_key([(str(Path(name).relative_to(root)), Path(name).read_bytes()) for name, _, _ in stamps])
    store.put_json(SOURCES, stamp, {"digest": digest})
    return digest
