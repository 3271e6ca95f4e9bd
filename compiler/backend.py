"""`torch.compile(backend="treadle")`: Dynamo's graph through AOTAutograd to the driver.

Registered as the entry point `treadle` of the group `torch_dynamo_backends`: torch imports this module when the name is
first used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo import disable
from torch._dynamo.utils import GmWrapper, flatten_graph_inputs
from torch._functorch.aot_autograd import aot_module_simplified

from .direct import find_direct_call
from .direct_step import StepCapture
from .driver import Boxed, compile_boxed, open_store
from .hoist import find_statics, hoist
from .joint import partition_joint
from .modes import find_options
from .runtime.kept import keep_values
from .settings import settings
from .table import find_decompositions

Compiler = Callable[..., Boxed]  # (graph module, example inputs) -> what runs the graph


def treadle_backend(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compile what Dynamo has traced; `options` are treadle's settings by name, `mode` one of `modes.MODES`.

    Raises SettingError for others.
    """
    with settings.override(**find_options(mode, options)):
        if any(isinstance(x, (list, tuple, dict)) for x in example_inputs):  # what compiled autograd captures
            return flatten_graph_inputs(gm, example_inputs, run_aot)
        return run_aot(gm, example_inputs)


def run_aot(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """Trace a graph with AOTAutograd and compile what comes out, under the settings in force."""
    snapshot = settings.snapshot()
    direct: list[Callable[..., Any] | None] = []
    step = StepCapture()
    count = len(example_inputs)
    lifted = any(True for _ in itertools.chain(gm.parameters(), gm.buffers()))
    boxed = isinstance(gm, GmWrapper)  # AOTAutograd's wrapper then takes one list
    may_be_direct = not (lifted or boxed or torch._C._is_any_autocast_enabled())

    def compile_inference(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Boxed:
        boxed = compile_kept(gm, snapshot) or make_compiler("inference", snapshot)(gm, example_inputs)
        direct.append(find_direct_call(gm, boxed) if may_be_direct and len(example_inputs) == count else None)
        return boxed

    def compile_forward(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Boxed:
        boxed = make_compiler("forward", snapshot)(gm, example_inputs)
        if may_be_direct and len(example_inputs) == count:
            step.see_forward(gm, boxed)
        return boxed

    def compile_backward(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Boxed:
        boxed = make_compiler("backward", snapshot)(gm, example_inputs)
        step.see_backward(gm, boxed)
        return without_tracing(boxed)  # it runs outside of Dynamo's frame, where Dynamo might trace what it runs

    compiled = aot_module_simplified(
        gm,
        example_inputs,
        fw_compiler=compile_forward,
        bw_compiler=without_tracing(compile_backward),
        inference_compiler=compile_inference,
        partition_fn=partition_joint,
        decompositions=find_decompositions(open_store()),
        keep_inference_input_mutations=True,
    )
    return without_tracing((direct[0] if len(direct) == 1 else None) or step.wrap(compiled))


def compile_kept(gm: fx.GraphModule, snapshot: Mapping[str, object]) -> Boxed | None:
    """The graph in two, one of which runs when parameters change; None where that is not asked for or does not pay."""
    if snapshot["hoist"] == "never":
        return None
    apart = hoist(gm, find_statics(gm), copies=snapshot["hoist"] == "all")
    if apart is None:
        return None
    apart.main.meta["hoisted"] = apart.notes
    once = make_compiler("once", snapshot)(apart.once, ())
    return keep_values(once, make_compiler("inference", snapshot)(apart.main, ()), apart.statics)


def make_compiler(kind: str, snapshot: Mapping[str, object]) -> Compiler:
    """A compiler for AOTAutograd under the settings of the call that it began with: it may be called much later."""

    def compile_graph(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Boxed:
        with settings.override(**snapshot):
            return compile_boxed(gm, kind)

    return compile_graph


def without_tracing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, into which Dynamo does not look."""
    untraced: Any = disable(function, reason="what treadle has compiled is not traced")
    return untraced
