"""The rules of the graph level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .errors import VerifyError
from .graph import Graph, Node
from .ops import OPS
from .types import Dim
from .verify_rules import Problem, Rule


def _names_are_unique(graph: Graph) -> Iterator[Problem]:
    for name, count in Counter(n.name for n in (*graph.inputs, *graph.nodes)).items():
        if count > 1:
            yield Problem(name, "a name is given to several nodes", 1, count)


def _operations_are_known(graph: Graph) -> Iterator[Problem]:
    for n in graph.inputs:
        if n.op not in ("input", "size"):
            yield Problem(n.name, "not an input", "input, size", n.op)
    for n in graph.nodes:
        if n.op not in OPS or OPS[n.op].kind == "input":
            yield Problem(n.name, "unknown operation", "a row of ir.ops", n.op)
            continue
        unknown = [k for k, _ in n.attrs if k not in OPS[n.op].attrs]
        if unknown:
            yield Problem(n.name, f"unknown attribute of {n.op}", ", ".join(OPS[n.op].attrs), unknown[0])


def _operands_come_first(graph: Graph) -> Iterator[Problem]:
    known = {n.name for n in graph.inputs}
    for n in graph.nodes:
        for name in n.inputs:
            if name not in known:
                late = any(m.name == name for m in graph.nodes)
                yield Problem(
                    n.name, "an operand that comes later" if late else "an operand that does not exist", got=name
                )
        known.add(n.name)


def _shapes_are_sizes(graph: Graph) -> Iterator[Problem]:
    for n in (*graph.inputs, *graph.nodes):
        if any(isinstance(d, int) and d < 0 for d in n.shape):
            yield Problem(n.name, "a negative size", got=list(n.shape))
        if n.strides is not None and len(n.strides) != len(n.shape):
            yield Problem(n.name, "one stride per dimension", len(n.shape), len(n.strides))


def _types_follow_from_operands(graph: Graph) -> Iterator[Problem]:
    for n in graph.nodes:
        inputs = tuple(graph.by_name[i] for i in n.inputs)
        if n.op == "call":
            continue
        if n.op == "result":
            if len(inputs) != 1 or inputs[0].op != "call" or inputs[0].dtype is not None:
                yield Problem(n.name, "a result is read from a call of several results", got=[i.op for i in inputs])
            continue
        yield from _infer(n, inputs)


def _infer(n: Node, inputs: tuple[Node, ...]) -> Iterator[Problem]:
    if any(i.dtype is None for i in inputs):
        yield Problem(n.name, "an operand without element type", "calls alone take these", [i.name for i in inputs])
        return
    try:
        shape, dtype = OPS[n.op].infer(inputs, dict(n.attrs))
    except VerifyError as error:
        yield Problem(n.name, f"{n.op}: {error.problem}", error.expected, error.got)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        yield Problem(n.name, f"the operands or attributes do not fit {n.op}", got=f"{type(error).__name__}: {error}")
    else:
        if dtype is not n.dtype:
            yield Problem(n.name, "the recorded element type is not what the operation gives", dtype, n.dtype)
        if tuple(shape) != n.shape:
            yield Problem(n.name, "the recorded shape is not what the operation gives", _text(shape), _text(n.shape))


def _text(shape: tuple[Dim, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _results_exist(graph: Graph) -> Iterator[Problem]:
    for o in graph.outputs:
        if isinstance(o, str) and o not in graph.by_name:
            yield Problem("outputs", "an output that does not exist", got=o)
    inputs = {n.name: n for n in graph.inputs if n.op == "input"}
    for target, value in graph.mutations:
        if target not in inputs:
            yield Problem("mutations", "only input tensors are mutated", ", ".join(inputs), target)
        elif value not in graph.by_name:
            yield Problem("mutations", "a value that does not exist", got=value)
        elif (inputs[target].shape, inputs[target].dtype) != (graph.by_name[value].shape, graph.by_name[value].dtype):
            new = graph.by_name[value]
            old = f"{inputs[target].dtype}{_text(inputs[target].shape)}"
            yield Problem(f"mutation of {target}", "types differ", old, f"{new.dtype}{_text(new.shape)}")
    for target, count in Counter(t for t, _ in graph.mutations).items():
        if count > 1:
            yield Problem("mutations", "an input is mutated once", 1, f"{count} times {target}")


GRAPH_RULES: list[Rule[Graph]] = [
    Rule("names are unique", _names_are_unique),
    Rule("operations are known", _operations_are_known),
    Rule("operands come first", _operands_come_first),
    Rule("shapes are sizes", _shapes_are_sizes),
    Rule("types follow from operands", _types_follow_from_operands),
    Rule("results exist", _results_exist),
]
