"""What a packaged graph takes and gives, as data, and the check of a call against it.

    x: f32[b, 2*b + 1], 3 <= b <= 64        ->        dtype "float32", shape (Term("b"), Term("b", 2, 1))

Compiled code reads raw memory by what was exported: whatever it relies on is checked here, at each call.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch

from ...ir.errors import BadInput
from .layouts import Layout, layout_from_json, layout_to_json

STATE, TENSOR, SIZE, CONSTANT = "state", "tensor", "size", "constant"  # kinds of inputs
RESULT, WRITTEN = "result", "written"  # kinds of outputs
MOST_SEEN = 1000  # combinations of sizes that are known to fit
RE_EXPORT = "export the model again for such inputs (dynamic_shapes says which sizes may vary)"
GUARD_NODES = (
    ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.Load,
    ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.USub, ast.And, ast.Or, ast.Not,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip
PLAIN = (torch.Tensor, torch.nn.Parameter)  # compiled code reads their memory: a subclass may have none
GUARD_NAME = re.compile(r"i\d+_\d+")


@dataclass(frozen=True, slots=True)
class Term:
    """A size that varies: `times * symbol + plus`."""

    symbol: str
    times: int = 1
    plus: int = 0


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the graph, in its order.

    kind    "state": a parameter, buffer or constant of the package; else the caller's: "tensor", "size", "constant"
    name    of the tensor in the package, or of the argument as errors show it: "x", "batch['ids']"
    stored  the name under which the package keeps it: tied parameters share one
    shape   of a tensor; of a size, its one term
    value   of a constant, which each call must repeat
    """

    kind: str
    name: str
    dtype: str = ""
    shape: tuple[int | Term, ...] = ()
    layout: Layout = "any"
    value: Any = None
    stored: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """An output of the graph: "result" is the caller's, "constant" has this value, whatever the graph gives there.

    index  of the graph's input to which a "written" one goes
    """

    kind: str
    index: int = -1
    value: Any = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in the graph's order.

    symbols  the least and the greatest value of each (None: no limit)
    guards   conditions on sizes that export found: `i2_0 % 4 == 0` speaks of dimension 0 of the graph's input 2
    positional, named  how many arguments go by place, and the names of the others in their order
    tree_in, tree_out  pytree specs as torch writes them: of (args, kwargs), and of the result
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    symbols: dict[str, tuple[int, int | None]]
    guards: tuple[str, ...]
    positional: int
    named: tuple[str, ...]
    tree_in: str
    tree_out: str

    @property
    def given(self) -> tuple[Input, ...]:
        """What the caller gives."""
        return tuple(i for i in self.inputs if i.kind != STATE)


def signature_to_json(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": [_input_to_json(i) for i in signature.inputs],
        "outputs": [{"kind": o.kind, "index": o.index, "value": o.value} for o in signature.outputs],
        "symbols": {name: list(bounds) for name, bounds in signature.symbols.items()},
        "guards": list(signature.guards),
        "positional": signature.positional,
        "named": list(signature.named),
        "tree_in": signature.tree_in,
        "tree_out": signature.tree_out,
    }


def signature_from_json(data: Any) -> Signature:
    """Raises KeyError, TypeError or ValueError for what is none."""
    for guard in data["guards"]:
        compile_guard(guard)
    return Signature(
        tuple(_input_from_json(i) for i in data["inputs"]),
        tuple(Output(o["kind"], o["index"], o["value"]) for o in data["outputs"]),
        {name: (low, high) for name, (low, high) in data["symbols"].items()},
        tuple(data["guards"]),
        data["positional"],
        tuple(data["named"]),
        data["tree_in"],
        data["tree_out"],
    )


def _input_to_json(i: Input) -> dict[str, Any]:
    shape = [n if isinstance(n, int) else [n.symbol, n.times, n.plus] for n in i.shape]
    return {"kind": i.kind, "name": i.name, "dtype": i.dtype, "shape": shape, "layout": layout_to_json(i.layout),
            "value": i.value, "stored": i.stored}  # fmt: skip


def _input_from_json(data: Any) -> Input:
    shape = tuple(n if isinstance(n, int) else Term(*n) for n in data["shape"])
    layout = layout_from_json(data["layout"])
    return Input(data["kind"], data["name"], data["dtype"], shape, layout, data["value"], data["stored"])


def compile_guard(text: str) -> CodeType:
    """Arithmetic and comparisons over sizes. Raises ValueError for anything more: a guard can do nothing else."""
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, GUARD_NODES) or (isinstance(node, ast.Name) and not GUARD_NAME.fullmatch(node.id)):
            raise ValueError(f"{ast.unparse(node)!r} is no arithmetic over sizes")
    return compile(tree, "<guard>", "eval")


@dataclass
class Checker:
    """Says whether a call fits a signature, on a device. What fitted once is known by its sizes."""

    signature: Signature
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _seen: set[tuple[Any, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._guards = [(text, compile_guard(text)) for text in self.signature.guards]
        self._given = [(k, i, getattr(torch, i.dtype, None)) for k, i in enumerate(self.signature.inputs)
                       if i.kind != STATE]  # fmt: skip

    def check(self, leaves: Sequence[Any]) -> None:
        """Raises BadInput where a value is not what was exported; `leaves` are the caller's alone."""
        sizes = tuple(
            _check_kind(x, i, dtype, self.device) for x, (_, i, dtype) in zip(leaves, self._given, strict=True)
        )
        if sizes in self._seen:
            return
        self._check_sizes(sizes)
        if len(self._seen) < MOST_SEEN:
            self._seen.add(sizes)

    def _check_sizes(self, sizes: Sequence[tuple[int, ...]]) -> None:
        known: dict[str, int] = {}
        names: dict[str, int] = {}
        for (k, i, _), shape in zip(self._given, sizes, strict=True):
            if len(shape) != len(i.shape):
                raise BadInput("not as many dimensions as were exported", where=i.name, expected=show_shape(i.shape),
                               got=list(shape), hint=RE_EXPORT)  # fmt: skip
            for d, (size, wanted) in enumerate(zip(shape, i.shape, strict=True)):
                where = i.name if i.kind == SIZE else f"{i.name}.shape[{d}]"
                names[f"i{k}_{d}"] = size
                _unify(size, wanted, known, self.signature.symbols, where)
        for text, code in self._guards:
            if not eval(code, {"__builtins__": {}}, names):
                shown = re.sub(GUARD_NAME, lambda m: self._name_size(m[0]), text)
                raise BadInput(f"the exported model needs {shown}", where="inputs", hint=RE_EXPORT)

    def _name_size(self, name: str) -> str:
        k, d = name[1:].split("_")
        found = self.signature.inputs[int(k)]
        return found.name if found.kind == SIZE else f"{found.name}.shape[{d}]"


def _check_kind(x: Any, wanted: Input, dtype: Any, device: torch.device) -> tuple[int, ...]:
    """The sizes of a value that has the type that was exported."""
    if wanted.kind == CONSTANT:
        same = type(x) is type(wanted.value) and (x == wanted.value or (x != x and wanted.value != wanted.value))
        if not same:
            raise BadInput("not the value that was exported", where=wanted.name, expected=repr(wanted.value),
                           got=repr(x), hint=RE_EXPORT)  # fmt: skip
        return ()
    if wanted.kind == SIZE:
        if type(x) is not int:
            raise BadInput("not an integer", where=wanted.name, expected="int", got=type(x).__name__)
        return (x,)
    plain = type(x) in PLAIN and x.device == device and x.layout is torch.strided and not x.is_neg()
    if not plain or x.dtype is not dtype:
        place = "the CPU" if device.type == "cpu" else device
        expected = f"a plain tensor of {wanted.dtype}{show_shape(wanted.shape)} on {place}"
        got = f"{x.dtype}{list(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise BadInput("not like the exported input", where=wanted.name, expected=expected, got=got)
    return tuple(x.shape)


def _unify(
    size: int, wanted: int | Term, known: dict[str, int], symbols: Mapping[str, tuple[int, int | None]], where: str
) -> None:
    """Read the symbol of a size, or check the size against what is known of it."""
    if isinstance(wanted, int) or wanted.symbol in known:
        expected = wanted if isinstance(wanted, int) else wanted.times * known[wanted.symbol] + wanted.plus
        if size != expected:
            raise BadInput("not the size that was exported", where=where, expected=expected, got=size, hint=RE_EXPORT)
        return
    value, rest = divmod(size - wanted.plus, wanted.times)
    low, high = symbols[wanted.symbol]
    if rest or value < low or (high is not None and value > high):
        least = wanted.times * low + wanted.plus
        bounds = f"at least {least}" if high is None else f"{least} to {wanted.times * high + wanted.plus}"
        form = f" and of the form {show_size(wanted)}" if wanted.times != 1 else ""
        raise BadInput("outside of the sizes that were exported", where=where, expected=bounds + form, got=size,
                       hint=RE_EXPORT)  # fmt: skip
    known[wanted.symbol] = value


def show_size(size: int | Term) -> str:
    """Term("b", 2, 1) -> "2*b + 1"."""
    if isinstance(size, int):
        return str(size)
    text = size.symbol if size.times == 1 else f"{size.times}*{size.symbol}"
    return f"{text} {'+' if size.plus > 0 else '-'} {abs(size.plus)}" if size.plus else text


def show_shape(shape: Sequence[int | Term]) -> str:
    return f"[{', '.join(map(show_size, shape))}]"
