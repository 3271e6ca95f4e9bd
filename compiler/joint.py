"""The joint graph of training, cut into a forward and a backward graph.

    y = softmax(x)        m = max(x); s = sum(exp(x - m));  y = exp(x - m) / s
    dx = f(dy, y)   ->    m, s are saved: a number for each row; the backward graph computes y from x again

torch's minimum cut decides what is saved. It is told two things first. What normalises a row is spelled in operations
of which the statistics are a few numbers a row, and the rest is pointwise and costs nothing to compute again. And the
backward operators that treadle lowers to equations do not want their operands in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from functorch.compile import min_cut_rematerialization_partition
from torch import fx
from torch._functorch import partitioners
from torch._guards import TracingContext
from torch.utils.checkpoint import CheckpointPolicy

from .joint_expand import expand

aten = torch.ops.aten
# Equations to treadle, which need no operand in memory; torch's own list has what Inductor lowers.
FUSIBLE = (
    aten._softmax_backward_data, aten._log_softmax_backward_data, aten.native_layer_norm_backward,
    aten.native_group_norm_backward, aten.native_batch_norm_backward, aten._fused_rms_norm_backward,
    aten.nll_loss_forward, aten.nll_loss_backward, aten.detach, aten.embedding, aten.logsumexp,
    aten.silu_backward, aten.hardswish_backward, aten.hardsigmoid_backward, aten.hardtanh_backward,
    aten.leaky_relu_backward, aten.elu_backward, aten.softplus_backward, aten.mish_backward,
    aten.log_sigmoid_backward, aten.tanh_backward, aten.sigmoid_backward, aten.glu, aten.glu_backward, aten.cat,
    aten.stack, aten.constant_pad_nd, aten.repeat, aten.fill, aten.select_backward, aten.slice_backward,
    aten.linalg_vector_norm, aten.embedding_dense_backward, aten.scatter_add, aten.scatter, aten.tril, aten.triu,
)  # fmt: skip
# What costs no more to compute again than to load.
RECOMPUTED = (
    aten.detach, aten.embedding, aten.glu, aten.cat, aten.stack, aten.constant_pad_nd, aten.repeat, aten.fill,
    aten.logsumexp, aten.tril, aten.triu,
)  # fmt: skip


def partition_joint(
    joint: fx.GraphModule, inputs: Any, **options: Any
) -> tuple[fx.GraphModule, fx.GraphModule]:  # fmt: skip
    """The forward and the backward graph: a `partition_fn` for AOTAutograd.

    Inputs cost nothing to save: who calls the graph holds them, as eager would.
    """
    expand(joint)
    if any(joint.graph.find_nodes(op="call_function", target=t) for t in (aten.mm.default, aten.bmm.default)):
        import_module(".joint_links", __package__).save_little(joint, options["num_fwd_outputs"])
    primals = [n for n in joint.graph.nodes if n.op == "placeholder" and "tangents" not in n.name]
    written = _find_written(joint, primals)
    _save_old_values(joint, [primals[k] for k in written])
    options["static_lifetime_input_indices"] = [k for k in range(len(primals)) if k not in written]
    with _own_operators():
        return min_cut_rematerialization_partition(joint, inputs, **options)


def _find_written(joint: fx.GraphModule, primals: list[fx.Node]) -> set[int]:
    """The inputs that the graph, or AOTAutograd after it, writes to before the backward graph runs."""
    context = TracingContext.try_get()
    infos = getattr(getattr(context, "fw_metadata", None), "input_info", ())
    inside = {n.args[0] for n in joint.graph.nodes if n.target is aten.copy_.default}
    outside = {k for k, info in enumerate(infos) if info.mutates_data or info.mutates_metadata}
    return outside | {k for k, n in enumerate(primals) if n in inside}


def _save_old_values(joint: fx.GraphModule, written: list[fx.Node]) -> None:
    """The backward graph would read an input that has been written to since: it gets what was made of a copy.

    (torch's own partitioner saves the input itself: its backends then fail, or give other gradients than eager.)
    """
    for primal in written:
        readers = [n for n in primal.users if n.target is not aten.copy_.default or n.args[0] is not primal]
        if not readers or not isinstance(primal.meta.get("val"), torch.Tensor):
            continue
        with joint.graph.inserting_before(min(readers)):
            old = joint.graph.call_function(aten.clone.default, (primal,))
        old.meta.update(val=primal.meta["val"].clone(), recompute=CheckpointPolicy.MUST_SAVE)
        for reader in readers:
            reader.replace_input_with(primal, old)
    joint.recompile()


@contextmanager
def _own_operators() -> Iterator[None]:
    """torch's partitioner asks one function for its lists of operators."""
    theirs = getattr(partitioners, "get_default_op_list", None)
    if theirs is None:
        yield
        return

    def ours() -> Any:
        found = theirs()
        found.fusible_ops.update(FUSIBLE)
        found.recomputable_ops.update(RECOMPUTED)
        return found

    partitioners.get_default_op_list = ours
    try:
        yield
    finally:
        partitioners.get_default_op_list = theirs
