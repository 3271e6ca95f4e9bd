"""Run a function through AOTAutograd, the importer and the graph interpreter, and judge it against eager and
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._functorch.aot_autograd import aot_function, aot_module_simplified
from torch.fx import GraphModule
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from treadle.compiler.check import Report, compare
from treadle.compiler.frontend.calls import run_call
from treadle.compiler.frontend.decompositions import build_decompositions
from treadle.compiler.frontend.importer import Imported, import_graph
from treadle.ir.graph_interp import evaluate

NARROW = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Outcome:
    """What came of one case: the imported graphs (forward, then backward), and the verdict."""

    imported: list[Imported]
    report: Report

    @property
    def opaque(self) -> list[str]:
        return [f"{c.target} ({c.reason})" for i in self.imported for c in i.calls if c.kind == "opaque"]


def run_case(function: Callable[..., Any], *args: Any, train: bool = False, **kwargs: Any) -> Outcome:
    """`function(*args, **kwargs)`, and with `train` its gradients, imported and interpreted; compared with eager and
    with float64.
    """
    leaves, spec = tree_flatten((args, kwargs))
    names: list[str] = []
    at = [k for k, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def flat(*tensors: torch.Tensor) -> list[Any]:
        filled = list(leaves)
        for k, value in zip(at, tensors, strict=True):
            filled[k] = value
        a, kw = tree_unflatten(filled, spec)
        found = [
            (keystr(k), v) for k, v in tree_flatten_with_path(function(*a, **kw))[0] if isinstance(v, torch.Tensor)
        ]
        names[:] = [k for k, _ in found]
        return [v for _, v in found]

    imported: list[Imported] = []
    compile_: Any = partial(interpreted, imported)
    compiled = aot_function(
        flat, fw_compiler=compile_, bw_compiler=compile_, inference_compiler=compile_,
        decompositions=build_decompositions(), keep_inference_input_mutations=True,
    )  # fmt: skip
    tensors = [leaves[k] for k in at]
    run(compiled, tensors, train)  # traces; the next run finds the random numbers where eager does
    results = (
        run(flat, tensors, train), run(flat, [_widen(t) for t in tensors], train), run(compiled, tensors, train)
    )  # fmt: skip
    eager, exact, got = ({**r, "outputs": dict(zip(names, r["outputs"], strict=True))} for r in results)
    return Outcome(imported, compare(got, eager, exact, strides=False))


def interpreted(imported: list[Imported], gm: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """A compiler for AOTAutograd that runs each graph by the graph interpreter."""
    one = import_graph(gm, "case")
    imported.append(one)

    def call(args: list[Any]) -> list[Any]:
        inputs = [*args, *one.constants]
        result = evaluate(one.graph, inputs, run_call=partial(run_with, one))
        for node, value in zip(one.graph.inputs, inputs, strict=True):
            if node.name in result.mutations:
                value.copy_(result.mutations[node.name])
        return result.outputs

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def run_with(imported: Imported, target: str, args: Any, tensors: Any, sizes: Any) -> Any:
    return run_call(target, args, tensors, sizes, imported.objects)


def run(function: Callable[..., Any], tensors: list[torch.Tensor], train: bool) -> dict[str, Any]:
    """Outputs, inputs as they are left, gradients."""
    torch.manual_seed(0)
    inputs = [t.detach().clone().requires_grad_(train and t.is_floating_point()) for t in tensors]
    outputs = function(*inputs)
    result: dict[str, Any] = {"outputs": [o.detach() for o in outputs]}
    if not train:
        return {**result, "inputs": inputs}
    differentiable = [o for o in outputs if o.requires_grad]
    weights = [torch.linspace(0.5, 1.5, o.numel()).reshape(o.shape).to(o.dtype) for o in differentiable]
    asked = [t for t in inputs if t.requires_grad]
    if differentiable:
        result["gradients"] = torch.autograd.grad(differentiable, asked, weights, allow_unused=True)
    return result


def _widen(t: torch.Tensor) -> torch.Tensor:
    return t.double() if t.dtype in NARROW else t


def interpreting_backend(imported: list[Imported]) -> Callable[..., Any]:
    """A torch.compile backend that runs every graph by the graph interpreter."""

    def backend(gm: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        compile_: Any = partial(interpreted, imported)
        return aot_module_simplified(
            gm, example_inputs, fw_compiler=compile_, bw_compiler=compile_, inference_compiler=compile_,
            decompositions=build_decompositions(), keep_inference_input_mutations=True,
        )  # fmt: skip

    return backend
