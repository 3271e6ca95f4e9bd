"""The parts of a call: treadle's kernels without what Dynamo and AOTAutograd put around them, that without kernels, and
what of a graph is left to ATen.

Apart from `harness`, because what measures a first compilation must not have imported treadle before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import Call, compile_for
from torch._dynamo.backends.common import aot_autograd

from treadle.compiler.backend import treadle_backend
from treadle.compiler.driver import collect
from treadle.passes import fuse

NOT_NATIVE = ("opaque", "effect")  # kinds of calls that compute and are no library calls


def find_body(function: Callable[..., Any], inputs: Sequence[Any]) -> Call:
    """The kernels of a function as treadle compiles it, called without Dynamo's guards and AOTAutograd's wrapper."""
    given: list[Any] = []

    def keep_inputs(graph_module: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        compiled = treadle_backend(graph_module, examples)

        def call(*args: Any) -> Any:
            given[:] = args
            return compiled(*args)

        return call

    with collect() as found:
        compile_for(keep_inputs, function)(*inputs)
    (compiled,) = found
    body = compiled.executable.call
    return lambda: body(list(given))


def empty_backend(result: Any) -> Callable[..., Any]:
    """A backend whose code returns a ready tensor: what is left of a call are the guards and wrappers of all."""

    def compile_nothing(graph_module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        results = [result]

        def run(arguments: list[Any]) -> list[Any]:
            arguments.clear()  # as boxed callables do: inputs may be freed early
            return results

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    return aot_autograd(fw_compiler=compile_nothing)


def count_calls(graph: Any) -> Counter[str]:
    """The operators that a compiled graph leaves to ATen though they are no library calls, and why."""
    calls = [graph.fused.graph.by_name[step.node] for step in graph.fused.steps if isinstance(step, fuse.Call)]
    reasons = {call.target: call.reason for call in graph.imported.calls}
    targets = [node.attr("target") for node in calls if node.attr("kind") in NOT_NATIVE]
    return Counter(f"{target}: {reasons[target]}" if reasons.get(target) else target for target in targets)
