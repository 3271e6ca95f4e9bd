"""Past AOTAutograd's wrapper in training: one autograd function around a forward and a backward graph.

AOTAutograd's own does this for every kind of tensor, and asks at each call what kinds there are. For graphs that only
read plain tensors and return fresh ones, all of that is known when they are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import fx
from torch._functorch._aot_autograd.schemas import PlainTensorMeta, ViewAndMutationMeta
from torch._guards import TracingContext

from .direct import is_plain

Boxed = Callable[[list[Any]], Any]


class StepCapture:
    """Collects what AOTAutograd compiles of one training graph; `wrap` lets it stand for the wrapper."""

    def __init__(self) -> None:
        self.meta: ViewAndMutationMeta | None = None
        self.forward: Boxed | None = None
        self.step: Callable[..., Any] | None = None

    def see_forward(self, gm: fx.GraphModule, boxed: Boxed) -> None:
        """Call it while AOTAutograd compiles the forward graph, whose analysis it reads."""
        context = TracingContext.try_get()
        meta = getattr(context, "fw_metadata", None)
        if context is None or context.fakify_first_call or not isinstance(meta, ViewAndMutationMeta):
            return
        if is_plain(meta, gm) and _saves_plain_tensors(meta, gm):
            self.meta, self.forward = meta, boxed

    def see_backward(self, gm: fx.GraphModule, boxed: Boxed) -> None:
        """Call it when the backward graph is compiled: AOTAutograd waits with that until a gradient is asked for."""
        if self.meta is None or self.forward is None:
            return
        (results,) = next(n for n in gm.graph.nodes if n.op == "output").args
        unused = tuple(k for k, n in enumerate(results) if n is None)
        self.step = make_step(self.meta, self.forward, boxed, unused)

    def wrap(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is AOTAutograd's until there is a backward graph too."""
        if self.meta is None:
            return wrapped

        def call(*inputs: Any) -> Any:
            return wrapped(*inputs) if self.step is None else self.step(*inputs)

        return call


def _saves_plain_tensors(meta: ViewAndMutationMeta, gm: fx.GraphModule) -> bool:
    (results,) = next(n for n in gm.graph.nodes if n.op == "output").args
    tangents = meta.subclass_tangent_meta
    return (
        all(isinstance(n, fx.Node) and isinstance(n.meta.get("val"), torch.Tensor) for n in results)
        and meta.num_forward_returns == len(meta.output_info)
        and not meta.num_symints_saved_for_bw
        and not getattr(meta, "dynamic_saved_tensors_idxs", None)
        and all(isinstance(t, PlainTensorMeta) and t.memory_format is not None for t in tangents)
        and len(tangents) == sum(_has_tangent(o) for o in meta.output_info)
    )


def _has_tangent(output: Any) -> bool:
    return bool(output.requires_grad) and issubclass(output.raw_type, torch.Tensor)


def make_step(
    meta: ViewAndMutationMeta, forward: Boxed, backward: Boxed, unused: Sequence[int]
) -> Callable[..., Any]:  # fmt: skip
    """The autograd function of two compiled graphs.

    forward   inputs -> outputs and what is saved; backward: saved, gradients of outputs -> gradients of inputs
    unused    inputs that have no gradient
    """
    returned = meta.num_forward_returns
    constant = [k for k, o in enumerate(meta.output_info) if not o.requires_grad]
    learned = [k for k, o in enumerate(meta.output_info) if o.requires_grad]
    formats = [t.memory_format for t in meta.subclass_tangent_meta]
    is_grad_enabled, set_grad_enabled = torch.is_grad_enabled, torch._C._set_grad_enabled

    def run_backward(ctx: Any, gradients: Sequence[Any]) -> Any:
        inputs = list(ctx.saved_tensors)
        ctx.maybe_clear_saved_tensors()
        for k, wanted in zip(learned, formats, strict=True):
            inputs.append(as_traced(gradients[k], wanted))
        return tuple(backward(inputs))

    class CompiledStep(torch.autograd.Function):
        boxed_grads_call: ClassVar[bool] = False

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            found = forward(list(inputs))
            ctx.save_for_backward(*[x.detach() if x._is_view() else x for x in found[returned:]])
            if constant:
                ctx.mark_non_differentiable(*[found[k] for k in constant])
                ctx._materialize_non_diff_grads = False
            return tuple(found[:returned])

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            if not is_grad_enabled():
                return run_backward(ctx, gradients)
            set_grad_enabled(False)
            try:
                found = run_backward(ctx, gradients)
            finally:
                set_grad_enabled(True)
            # Somebody may differentiate the gradients, which would silently be constants.
            return Undifferentiable.apply(torch.empty(0, requires_grad=True), *found)

    apply = CompiledStep.apply

    def step(*inputs: Any) -> Any:
        if unused:
            given = list(inputs)
            for k in unused:
                if isinstance(given[k], torch.Tensor):
                    given[k] = given[k].detach()
            return apply(*given)
        return apply(*inputs)

    return step


class Undifferentiable(torch.autograd.Function):
    """Its inputs but the first; they have no gradient, and who asks is told."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, *values: Any) -> Any:
        return values

    @staticmethod
    def backward(ctx: Any, *unused: Any) -> Any:
        raise RuntimeError(
            "torch.compile with treadle does not support double backward: gradients of a compiled graph have none"
        )


def as_traced(x: torch.Tensor, wanted: Any) -> torch.Tensor:
    """A gradient in the memory layout that the backward graph was compiled for."""
    if wanted.memory_format is not None:
        return x.contiguous(memory_format=wanted.memory_format)  # the very tensor where it is so already
    if x.stride() == wanted.stride:
        return x
    return torch.empty_strided(wanted.size, wanted.stride, dtype=x.dtype, device=x.device).copy_(x)
