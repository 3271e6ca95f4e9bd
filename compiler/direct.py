"""Past AOTAutograd's wrapper, where it has nothing to do.

The wrapper puts back mutated inputs, replays views of inputs, unwraps subclasses, keeps gradients and autocast out. For
an inference graph that only reads plain tensors and returns fresh ones, grad mode is all that is left of it, and not
even that where only kernels run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._functorch._aot_autograd.schemas import OutputType, PlainTensorMeta, ViewAndMutationMeta
from torch._guards import TracingContext

FRESH = (OutputType.non_alias, OutputType.unsafe_view_alias)


def find_direct_call(gm: fx.GraphModule, boxed: Callable[[list[Any]], Any]) -> Callable[..., Any] | None:
    """What Dynamo may call in place of AOTAutograd's wrapper of an inference graph; None where it is needed.

    Call it while AOTAutograd compiles `gm`, whose analysis it reads. Not for graphs traced under autocast, which the
    wrapper turns off while they run (and AOTAutograd while they are compiled, so nothing here can tell).
    """
    context = TracingContext.try_get()
    meta = getattr(context, "fw_metadata", None)
    if context is None or context.fakify_first_call:
        return None
    if not isinstance(meta, ViewAndMutationMeta) or not is_plain(meta, gm):
        return None
    executable = getattr(boxed, "executable", None)
    if executable is not None and executable.direct is not None:
        return executable.direct
    is_grad_enabled, set_grad_enabled = torch.is_grad_enabled, torch._C._set_grad_enabled

    def call(*args: Any) -> Any:
        if not is_grad_enabled():
            return boxed(list(args))
        set_grad_enabled(False)
        try:
            return boxed(list(args))
        finally:
            set_grad_enabled(True)

    return call


def is_plain(meta: ViewAndMutationMeta, gm: fx.GraphModule) -> bool:
    """Whether each input of the traced function is one of the graph's, only read, and each output is its own tensor."""
    placeholders = sum(n.op == "placeholder" for n in gm.graph.nodes)
    return (
        placeholders == len(meta.input_info)
        and not any(i.mutates_data or i.mutates_metadata or i.mutates_storage_metadata for i in meta.input_info)
        and all(o.output_type in FRESH and not o.dynamic_dims for o in meta.output_info)
        and all(n.target is not torch.ops.higher_order.with_effects for n in gm.graph.nodes)
        and _hold_plain_tensors((*meta.subclass_inp_meta, *meta.subclass_fw_graph_out_meta))
        and not (meta.num_intermediate_bases or meta.tokens or meta.is_rng_op_functionalized)
        and meta.grad_enabled_mutation is None
        and not any(_is_custom(n.target) for n in gm.graph.nodes)
    )


def _hold_plain_tensors(metas: Sequence[Any]) -> bool:
    return all(isinstance(m, PlainTensorMeta) for m in metas)


def _is_custom(target: Any) -> bool:
    """Whether the wrapper would watch this op at its first call, for results that alias inputs without saying so."""
    return isinstance(target, torch._ops.OpOverload) and target.namespace not in ("aten", "prims")
