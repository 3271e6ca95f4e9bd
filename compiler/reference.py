"""Run a model three ways on equal inputs: compiled, eager, and in float64 as the reference of `check.py`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from .check import FACTOR, Report, compare, leaves

Inputs = tuple[Any, ...] | list[Any] | Mapping[str, Any]
NARROW = (torch.float16, torch.bfloat16, torch.float32)


def check(
    model: Callable[..., Any], inputs: Inputs, compiled: Callable[..., Any], *,
    train: bool = False, seed: int = 0, factor: float = FACTOR, strides: bool = True,
) -> Report:  # fmt: skip
    """Run `compiled` and `model` on equal inputs and judge outputs, mutated inputs and, with `train`, every gradient.

    `compiled` must share its parameters with `model`, as `torch.compile(model)` does.
    """
    exact = run_in_float64(model, inputs, train=train, seed=seed)  # first: a model that ran may not be copied any more
    eager = run(model, inputs, train=train, seed=seed)
    got = run(model, inputs, runner=compiled, train=train, seed=seed)
    return compare(got, eager, exact, factor=factor, strides=strides)


def run(
    model: Callable[..., Any], inputs: Inputs, *,
    runner: Callable[..., Any] | None = None, train: bool = False, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Call `runner` (the model itself by default) once and return all that it computed and wrote.

    The result holds "outputs", "inputs" as the call left them and, with `train`, "gradients" of parameters and inputs
    and "buffers". The model's own gradients and buffers are as before afterwards.
    """
    fresh = copy.deepcopy(inputs)
    module = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
    torch.manual_seed(seed)
    with _kept_state(module), torch.set_grad_enabled(train):
        outputs = call(model if runner is None else runner, fresh)
        if not train:
            return {"outputs": outputs, "inputs": fresh}
        scalar_loss(outputs).backward()
        tensors = [*module.named_parameters(), *((n, t) for n, t in leaves(fresh) if isinstance(t, torch.Tensor))]
        gradients = {name: tensor.grad for name, tensor in tensors if tensor.requires_grad}
        buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    return {"outputs": outputs, "inputs": fresh, "gradients": gradients, "buffers": buffers}


def run_in_float64(model: Callable[..., Any], inputs: Inputs, *, train: bool = False, seed: int = 0) -> dict[str, Any]:
    """Like `run`, on a copy of the model in float64; casts to narrower floats inside the model are left out too."""
    wide = copy.deepcopy(model).double() if isinstance(model, torch.nn.Module) else model
    with in_float64():
        return run(wide, widen(copy.deepcopy(inputs)), train=train, seed=seed)


@contextmanager
def in_float64() -> Iterator[None]:
    """Float64 for new tensors, and wherever operators are asked for a narrower float."""
    with default_dtype(torch.float64), WidenFloats():
        yield


def call(function: Callable[..., Any], inputs: Inputs) -> Any:
    """Call with a mapping as keywords, with anything else as positional arguments."""
    return function(**inputs) if isinstance(inputs, Mapping) else function(*inputs)


def scalar_loss(outputs: object) -> torch.Tensor:
    """The model's own loss, or all outputs that have a gradient under fixed weights that no symmetry cancels."""
    found = dict(leaves(outputs))
    loss = found.get("loss")
    if isinstance(loss, torch.Tensor):
        return loss
    terms = [_weigh(leaf) for leaf in found.values() if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    return torch.stack(terms).sum()


def _weigh(leaf: torch.Tensor) -> torch.Tensor:
    leaf = leaf if leaf.dtype == torch.float64 else leaf.float()
    weights = torch.arange(leaf.numel(), dtype=leaf.dtype).cos().reshape(leaf.shape)
    return (leaf * weights).mean()


class WidenFloats(TorchDispatchMode):
    """Replace every narrower float dtype that an operator is asked for by float64.

    Models upcast on their own (`x.to(torch.float32)` in a norm, `softmax(dtype=torch.float32)`); in a reference that
    would be a narrowing, and the "float64" result would have float32's error.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.view.dtype:  # reinterprets bits
            return func(*args, **kwargs)
        if func is torch.ops.aten._grouped_mm.default and args[0].dtype == torch.float64:
            return _grouped_mm(*args, **kwargs)
        args, kwargs = tree_map(_widen_dtype, (args, kwargs))
        return func(*args, **kwargs)


def _grouped_mm(a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor | None = None, *unused: Any) -> torch.Tensor:
    """`aten._grouped_mm`, which has no float64 kernel: group g ends at offs[g] on the axis that has no groups yet."""
    if offs is None:
        return torch.bmm(a, b)
    ends = [0, *offs.tolist()]
    groups = [slice(start, end) for start, end in pairwise(ends)]
    if a.dim() == 2 and b.dim() == 2:
        return torch.stack([a[:, group] @ b[group] for group in groups])
    if a.dim() == 3:
        return _fill(a.shape[1], b.shape[1], a, [a[g] @ b[:, group] for g, group in enumerate(groups)], 1)
    return _fill(a.shape[0], b.shape[2], a, [a[group] @ b[g] for g, group in enumerate(groups)], 0)


def _fill(rows: int, columns: int, like: torch.Tensor, blocks: list[torch.Tensor], axis: int) -> torch.Tensor:
    """The blocks side by side, with zeros after the last group."""
    filled = torch.cat(blocks, axis)
    result = like.new_zeros(rows, columns)
    result[: filled.shape[0], : filled.shape[1]] = filled
    return result


def widen(value: Any) -> Any:
    """The same structure with its narrower float tensors in float64 (leaves that need gradients stay leaves)."""
    if isinstance(value, torch.Tensor):
        wide = value.detach().double() if value.dtype in NARROW else value
        return wide.requires_grad_(value.requires_grad) if wide is not value else value
    if isinstance(value, Mapping):
        return {key: widen(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(widen(child) for child in value)
    return value


def _widen_dtype(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` the one that new float tensors get."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _kept_state(module: torch.nn.Module) -> Iterator[None]:
    """Start without gradients; afterwards put gradients and buffers back as they were."""
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)
