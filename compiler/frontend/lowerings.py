"""All lowerings in one place, and what is known of the calls that have none."""

from __future__ import annotations

from torch import fx

# Importing them fills the table.
from . import activations, pointwise, selects, views
from . import attention as attention
from . import batch_norm as batch_norm
from . import contractions as contractions
from . import convolutions as convolutions
from . import creation as creation
from . import foreach as foreach
from . import groups as groups
from . import indexing as indexing
from . import norms as norms
from . import pools as pools
from . import random as random
from . import reductions as reductions
from . import scans as scans
from .context import LOWERINGS

_CONTRACTION = "a contraction"
_CONVOLUTION = "a convolution"
_ATTENTION = "attention"

# Any layout of the operands will do for these.
ANY_LAYOUT = frozenset(
    f"aten.{name}.default"
    for name in ("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "linear", "_int_mm")
)

# What a library computes: the name of the call and why it is one.
LIBRARY: dict[str, str] = {
    **dict.fromkeys(ANY_LAYOUT, _CONTRACTION),
    **{
        f"aten.{name}.default": _CONTRACTION
        for name in ("_grouped_mm", "_scaled_mm", "matmul", "linear_backward", "_weight_int4pack_mm",
        "_weight_int8pack_mm")
    },
    "aten._addmm_activation.default": _CONTRACTION,
    "transformers.grouped_mm_fallback.default": _CONTRACTION,
    "transformers.grouped_mm_fallback_backward.default": _CONTRACTION,
    **{
        f"aten.{name}.default": _CONVOLUTION
        for name in ("convolution", "convolution_backward", "_convolution", "mkldnn_convolution", "conv_tbc",
        "conv_tbc_backward")
    },
    **{
        f"aten._scaled_dot_product_{name}.default": _ATTENTION
        for name in (
            "flash_attention_for_cpu", "flash_attention_for_cpu_backward", "attention_math", "flash_attention",
            "flash_attention_backward", "efficient_attention", "efficient_attention_backward", "cudnn_attention",
            "cudnn_attention_backward", "fused_attention_overrideable", "fused_attention_overrideable_backward",
        )
    },
    "aten.scaled_dot_product_attention.default": _ATTENTION,
}  # fmt: skip

# Lowerings that compute nothing: they are not counted among the native nodes.
FREE = frozenset(name for name, function in LOWERINGS.items() if function in (*views.FREE, selects.identity))

# Modules whose lowerings accept a 0-d tensor wherever a number may stand.
TAKES_NUMBERS = frozenset({pointwise.__name__, selects.__name__, activations.__name__})


def is_random(node: fx.Node) -> bool:
    """True for attention with dropout, which draws random numbers."""
    arguments = (*node.args, *node.kwargs.values())
    schema = getattr(node.target, "_schema", None)
    if schema is None or "scaled_dot_product" not in schema.name or schema.name.endswith("backward"):
        return False
    names = [a.name for a in schema.arguments]
    at = names.index("dropout_p") if "dropout_p" in names else len(arguments)
    return node.kwargs.get("dropout_p", node.args[at] if at < len(node.args) else 0.0) not in (0, 0.0)
