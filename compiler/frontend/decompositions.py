"""Which operators torch takes apart before treadle sees them.

torch's own core table, less three kinds of entry:
- whatever is lowered natively: tracing a Python decomposition costs more than lowering the op, and an op that keeps
its name
  keeps its meaning;
- every `*scaled_dot_product*` entry: with them, gradients through torch 2.13 on CPU are silently wrong (the
probabilities land in
  the log-sum-exp slot of the backward op). Forward and backward of an op are decomposed together or not at all;
- what would draw other random numbers than eager does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import _decomp

from . import lowerings

RANDOM = frozenset({"aten.bernoulli.default"})


@cache
def build_decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for AOTAutograd; built once a process and not to be changed."""
    # The public table also lists what AOTAutograd takes apart anyway (composite ops); listing those costs 0.3 s.
    build = getattr(_decomp, "_core_aten_decompositions_post_autograd", _decomp.core_aten_decompositions)
    return {op: function for op, function in build().items() if not _is_kept(op)}


def _is_kept(op: Any) -> bool:
    if not isinstance(op, torch._ops.OpOverload):
        return True
    name = str(op)
    return name in lowerings.LOWERINGS or name in RANDOM or "scaled_dot_product" in name
