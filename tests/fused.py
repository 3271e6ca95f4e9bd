"""Runs fused graphs and graphs through their interpreters, in float64: what the tests of the passes compare."""

from __future__ import annotations

from typing import Any

import torch

from treadle.costmodel.roofline import estimate
from treadle.ir.graph import Graph
from treadle.ir.interp import run_kernel
from treadle.ir.interp_numbers import torch_dtype
from treadle.ir.loops import Kernel
from treadle.ir.ops import OPS
from treadle.ir.types import evaluate
from treadle.passes.fuse import Fused, Launch, fuse_graph

Tensors = dict[str, torch.Tensor]


def seconds(kernel: Kernel) -> float:
    return estimate(kernel).seconds


def fuse(graph: Graph, numerics: str = "fast") -> Fused:
    return fuse_graph(graph, seconds, numerics)


def make_inputs(graph: Graph, seed: int = 0, sizes: dict[str, int] | None = None) -> Tensors:
    """Random inputs in float64 or the integer types; integers are small, so that they may serve as indices."""
    rng = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    for node in graph.inputs:
        shape = [evaluate(n, sizes or {}) for n in node.shape]
        dtype = torch_dtype(node.element)
        if node.element.is_float:
            made[node.name] = torch.randn(shape, generator=rng, dtype=torch.float64)
        else:
            made[node.name] = torch.randint(0, 2, shape, generator=rng).to(dtype)
    return made


def run_graph(graph: Graph, inputs: Tensors) -> Tensors:
    """Every node by the reference of its row, floats in float64."""
    values = dict(inputs)
    for node in graph.nodes:
        reference = OPS[node.op].reference
        assert reference is not None, node.op
        result = reference(torch, [values[i] for i in node.inputs], node)
        dtype = torch.float64 if node.element.is_float else torch_dtype(node.element)
        values[node.name] = result.to(dtype)
    return values


def run_fused(fused: Fused, inputs: Tensors, sizes: dict[str, int] | None = None) -> Tensors:
    """Every launch by the interpreter of its canonical kernel, on flat storage."""
    memory: dict[str, torch.Tensor] = {n: t.contiguous().reshape(-1) for n, t in inputs.items()}
    for step in fused.steps:
        assert isinstance(step, Launch)
        by_parameter = dict(zip(step.kernel.buffers, step.buffers, strict=True))
        given = {p: memory[v] for p, v in by_parameter.items() if v in memory}
        for parameter, result in run_kernel(step.kernel, given, sizes, float64=True).items():
            span = 1 + sum((n - 1) * s for n, s in zip(result.shape, result.stride(), strict=True))
            memory[by_parameter[parameter]] = result.as_strided((span if result.numel() else 0,), (1,))
    return {n: seen(fused, n, memory, sizes or {}) for n in fused.graph.outputs if isinstance(n, str)}


def seen(fused: Fused, name: str, memory: dict[str, Any], sizes: dict[str, int]) -> torch.Tensor:
    node = fused.graph.by_name[name]
    shape = [evaluate(n, sizes) for n in node.shape]
    view = fused.views.get(name)
    if view is not None:
        strides = [evaluate(s, sizes) for s in view.strides]
        return memory[view.base].as_strided(shape, strides, evaluate(view.offset, sizes))
    strides = fused.layouts.get(name)
    return memory[name].as_strided(shape, strides) if strides else memory[name].reshape(shape)


def assert_same(graph: Graph, seed: int = 0, numerics: str = "fast") -> Fused:
    """Fuses the graph and compares every output with the reference."""
    inputs = make_inputs(graph, seed)
    expected = run_graph(graph, inputs)
    fused = fuse(graph, numerics)
    for name, got in run_fused(fused, inputs).items():
        want = expected[name]
        if want.dtype.is_floating_point:
            tolerance = 1e-9 if numerics == "strict" else 1e-6  # fast keeps constants to half an ulp of f32
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert torch.equal(got, want), name
    return fused
