"""Which graphs may be captured once as a CUDA graph and replayed: the reason, where one may not.

A replay repeats what the host did at the capture, with the host's numbers of that time. So sizes must be fixed, all
tensors must be on the one device, and every call must be one whose work is on the device alone.
"""

from __future__ import annotations

import torch
from torch import fx

from ..passes.fuse import Call
from .frontend.calls import find_target
from .frontend.importer import Imported
from .runtime.plan_values import Values

HOST_TAGS = (
    torch.Tag.cudagraph_unsafe, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape,
)  # fmt: skip
# Not so tagged, and yet the host waits for the device: masks become indices, factorisations tell whether they failed.
HOST_OPS = ("aten::index_put", "aten::index", "aten::linalg_", "aten::_linalg_", "aten::cholesky", "aten::lu_")
ON_CPU = "its kernels run on the CPU, where there is no launch to save: it is the code of mode default"


def find_capture_problem(gm: fx.GraphModule, imported: Imported, values: Values, device: str) -> str:
    """Why the plan of this graph is run launch by launch in every mode; "" where it may be captured."""
    if device == "cpu":
        return ON_CPU
    if values.graph.symbols or any(n.dtype is None for n in values.inputs):
        return "its sizes are dynamic"
    elsewhere = _find_elsewhere(gm, device)
    if elsewhere:
        return f"a tensor is on {elsewhere}, whose numbers a replay would not read again"
    calls = [values.graph.by_name[s.node].attr("target") for s in values.fused.steps if isinstance(s, Call)]
    problems = (_find_call_problem(target, imported) for target in dict.fromkeys(calls))
    return next((p for p in problems if p), "" if values.fused.steps else "it launches nothing")


def _find_elsewhere(gm: fx.GraphModule, device: str) -> str:
    vals = (n.meta.get("val") for n in gm.graph.nodes)
    devices = (str(v.device) for v in vals if isinstance(v, torch.Tensor))
    return next((d for d in devices if d != device), "")


def _find_call_problem(target: str, imported: Imported) -> str:
    function = find_target(target, imported.objects)
    if not isinstance(function, torch._ops.OpOverload) or function.namespace not in ("aten", "prims"):
        return f"{target} may run code of its own on the host"
    if function._schema.is_mutable:
        return f"{target} writes to what it reads"
    if any(tag in function.tags for tag in HOST_TAGS) or function._schema.name.startswith(HOST_OPS):
        return f"{target} makes the host wait for the device"
    return ""
