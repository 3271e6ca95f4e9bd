"""The form that a spelling takes: the digests of its kernels."""

from __future__ import annotations

from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._functorch.aot_autograd import aot_module_simplified
from torch.fx.experimental.proxy_tensor import make_fx

from treadle.compiler.frontend.decompositions import build_decompositions
from treadle.compiler.frontend.importer import import_graph
from treadle.costmodel.roofline import estimate
from treadle.passes.fuse import Fused, Launch, fuse_graph

from .families import FAMILIES, Speller, inputs_of


def fused_form(family: str, seed: int) -> Fused:
    """One spelling, traced as AOTAutograd traces it, and fused."""
    inputs = inputs_of(family)
    spell = FAMILIES[family]
    found: list[Fused] = []

    def keep(gm: torch.fx.GraphModule, example_inputs: Any) -> Any:
        graph = import_graph(gm, family).graph
        found.append(fuse_graph(graph, lambda k: estimate(k).seconds))
        return make_boxed_func(gm.forward)

    traced = make_fx(lambda x, g: (spell(Speller(seed), x, g),), tracing_mode="fake")(*inputs)
    with torch.no_grad():
        run = aot_module_simplified(
            traced, inputs, fw_compiler=keep, inference_compiler=keep, decompositions=build_decompositions()
        )
        run(*inputs)
    return found[0]


def form(family: str, seed: int) -> tuple[str, ...]:
    return tuple(s.digest for s in fused_form(family, seed).steps if isinstance(s, Launch))
