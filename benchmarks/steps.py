"""Training steps: a call that runs a function forward and backward, and the same in float64 as its reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from kernel_cases import Tensors

from treadle.compiler.reference import in_float64, widen

Function = Callable[..., Any]
Step = tuple[Tensors, tuple[torch.Tensor | None, ...]]  # outputs; gradients of inputs, then of parameters


def make_step(function: Function, inputs: Tensors) -> Callable[[], Step]:
    """A call that gives the outputs and the gradients of all floats, from the same gradients of the outputs."""
    leaves = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs)
    return bind_step(function, leaves, draw_gradients(function, leaves))


def bind_step(function: Function, inputs: Tensors, given: Sequence[torch.Tensor]) -> Callable[[], Step]:
    """A call that gives the outputs and every gradient: of inputs that require one, and of a module's parameters.

    `given` are the gradients of the outputs, as `draw_gradients` makes them.
    """
    learned = [x for x in inputs if x.requires_grad] + parameters_of(function)

    def step() -> Step:
        with torch.enable_grad():
            found = outputs_of(function(*inputs))
        gradients = torch.autograd.grad(found, learned, given, allow_unused=True)
        return tuple(y.detach() for y in found), gradients

    return step


def draw_gradients(function: Function, inputs: Tensors, seed: int = 3) -> list[torch.Tensor]:
    """Random gradients of the outputs, the same numbers in every dtype (bf16 holds them); calls the function once."""
    with torch.enable_grad():
        outputs = outputs_of(function(*inputs))
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(y.shape, generator=generator).bfloat16().to(y) for y in outputs]


def run_exactly(function: Function, inputs: Tensors, given: Sequence[torch.Tensor]) -> Step:
    """One step in float64, for the same numbers: what the function casts to narrower floats stays as wide."""
    wide = copy.deepcopy(function).double() if isinstance(function, torch.nn.Module) else function
    with in_float64():
        return bind_step(wide, widen(inputs), widen(list(given)))()


def parameters_of(function: Function) -> list[torch.Tensor]:
    """The parameters of a module; a plain function has none."""
    return list(function.parameters()) if isinstance(function, torch.nn.Module) else []


def outputs_of(result: Any) -> list[torch.Tensor]:
    """The outputs that have gradients."""
    flat = result if isinstance(result, tuple) else (result,)
    return [y for y in flat if y.requires_grad]
