"""Text of the graph level.

    graph f(%x: f32[b, 256], %n: size b) {
      %1: f32[b, 256] = exp %x
      %2: f32[b] strides [1] = sum %1, dims=[1]
      mutate %x <- %1
      return %2, b, none
    }

Values of attributes: numbers, true, false, none, "strings", element types, dimensions, and [tuples] of these. A node
without element type (several results, or none) is `%3: none`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import sympy

from .errors import BadInput
from .graph import Graph, Node
from .text_expr import ExprReader
from .text_tokens import Cursor, quoted
from .types import DTYPES, Dim, DType

WORDS = {"true": True, "false": False, "none": None, "inf": math.inf, "nan": math.nan}


# --- printing ----------------------------------------------------------------------------------------------------


def print_graph(graph: Graph) -> str:
    inputs = ", ".join(_input(n) for n in graph.inputs)
    lines = [f"graph {quoted(graph.name)}({inputs}) {{", *(f"  {_node(n)}" for n in graph.nodes)]
    lines += [f"  mutate {_name(target)} <- {_name(value)}" for target, value in graph.mutations]
    outputs = ", ".join(_name(o) if isinstance(o, str) else print_value(o) for o in graph.outputs)
    return "\n".join([*lines, f"  return {outputs}".rstrip(), "}"]) + "\n"


def print_value(value: Any) -> str:
    """An attribute's value. Raises BadInput on what text cannot hold."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, (int, float, sympy.Expr, DType)):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(print_value(v) for v in value) + "]"
    raise BadInput(
        "an attribute that is no plain data", expected="numbers, strings, dimensions, tuples", got=type(value).__name__
    )


def _name(name: str) -> str:
    return quoted(name, "%")


def _input(n: Node) -> str:
    if n.op == "size":
        return f"{_name(n.name)}: size {n.attr('dim')}"
    return f"{_name(n.name)}: {_type(n)}"


def _type(n: Node) -> str:
    shape = "[" + ", ".join(map(str, n.shape)) + "]"
    text = f"none{shape if n.shape else ''}" if n.dtype is None else f"{n.dtype}{shape}"
    return text if n.strides is None else f"{text} strides [{', '.join(map(str, n.strides))}]"


def _node(n: Node) -> str:
    operands = [_name(i) for i in n.inputs] + [f"{k}={print_value(v)}" for k, v in n.attrs]
    return f"{_name(n.name)}: {_type(n)} = {n.op} {', '.join(operands)}".rstrip()


# --- parsing -----------------------------------------------------------------------------------------------------


def parse_graph(text: str) -> Graph:
    """The graph that `print_graph` printed. Raises ParseError."""
    cursor = Cursor(text)
    graph = _GraphReader(cursor).graph()
    if cursor.peek().kind != "end":
        cursor.fail("unexpected text after the graph", "the end")
    return graph


class _GraphReader(ExprReader):
    def graph(self) -> Graph:
        cursor = self.cursor
        cursor.expect("graph")
        name = cursor.name("the graph's name")
        inputs = self.listed("(", self._input, ")")
        cursor.expect("{")
        nodes: list[Node] = []
        while not (cursor.sees("return") or cursor.sees("mutate")):
            nodes.append(self._node())
        mutations: list[tuple[str, str]] = []
        while cursor.accept("mutate"):
            target = self._name()
            cursor.expect("<-")
            mutations.append((target, self._name()))
        cursor.expect("return")
        outputs = self.listed("", lambda: self._name() if self._sees_name() else self.value(), "}")
        return Graph(name, tuple(inputs), tuple(nodes), tuple(outputs), tuple(mutations))

    def _input(self) -> Node:
        name = self._name()
        self.cursor.expect(":")
        if self.cursor.accept("size"):
            return Node(name, "size", (), (("dim", self.dim()),))
        return Node(name, "input", (), (), *self._type())

    def _node(self) -> Node:
        cursor = self.cursor
        name = self._name()
        cursor.expect(":")
        shape, dtype, strides = self._type()
        cursor.expect("=")
        op = cursor.name("an operation")
        inputs: list[str] = []
        attrs: list[tuple[str, Any]] = []
        while self._sees_name() or (cursor.peek().kind == "name" and cursor.peek(1).text == "="):
            if self._sees_name():
                inputs.append(self._name())
            else:
                key = cursor.take().text
                cursor.expect("=")
                attrs.append((key, self.value()))
            if not cursor.accept(","):
                break
        return Node(name, op, tuple(inputs), tuple(attrs), shape, dtype, strides)

    def _type(self) -> tuple[tuple[Dim, ...], DType | None, tuple[Dim, ...] | None]:
        dtype = None if self.cursor.accept("none") else self.dtype()
        shape = self._dims() if dtype is not None or self.cursor.sees("[") else ()
        return shape, dtype, self._dims() if self.cursor.accept("strides") else None

    def _dims(self) -> tuple[Dim, ...]:
        return tuple(self.listed("[", self.dim, "]"))

    def _sees_name(self) -> bool:
        return self.cursor.peek().text.startswith("%") and self.cursor.peek().kind in ("name", "string")

    def _name(self) -> str:
        if not self._sees_name():
            self.cursor.fail("unexpected text", "a node's name: %...")
        token = self.cursor.take()
        return str(json.loads(token.text[1:])) if token.kind == "string" else token.text[1:]

    def value(self) -> Any:
        cursor = self.cursor
        token = cursor.peek()
        if token.kind == "string":
            return cursor.name()
        if token.text == "[":
            return tuple(self.listed("[", self.value, "]"))
        if token.text in WORDS:
            return WORDS[cursor.take().text]
        if token.text in DTYPES:
            return self.dtype()
        negative = token.text == "-"
        number = cursor.peek(1) if negative else token
        if number.text == "inf" or (number.kind == "number" and not number.text.isdigit()):
            cursor.place += 1 + negative
            return -float(number.text) if negative else float(number.text)
        return self.dim()
