"""From a `torch.nn.Linear` and a scheme to the tensors of a quantized layer: checks, smoothing, order, rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...ir.errors import BadInput
from .activations import MIXED_LIMITS
from .calibrate import Observed
from .linear import IntLinear, QuantLinear, SimulatedLinear, choose_layer
from .names import name_scheme
from .numbers import TINY
from .schemes import Format, Int, Mixed, Scheme, group_of
from .weights import Stored, read_weight, store_weight

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LONGEST_SUM = (2**31 - 1) // 127**2  # of products of INT8 in an i32
RANK_ROUNDS = 5  # of rounding and decomposing in turn; the best is kept


def store_layer(layer: nn.Linear, scheme: Scheme, observed: Observed | None, where: str) -> Stored:
    """All tensors of the quantized layer but its bias. Raises BadInput for a layer that the scheme does not fit."""
    check_layer(layer, scheme, observed, where)
    weight, dtype = layer.weight.detach().float(), layer.weight.dtype
    beside: Stored = {}
    if observed is not None and scheme.needs_calibration:
        beside = _find_beside(weight, scheme, observed)
    if "smoother" in beside:
        weight = weight / beside["smoother"]
    if "order" in beside:
        weight = weight.index_select(1, beside["order"])
    store = _store_low_rank if scheme.rank else _store_plain
    stored = store(weight, scheme, dtype)
    for name, t in stored.items():
        if t.is_floating_point() and not t.float().isfinite().all():
            raise BadInput(f"the {name} that rounding needs overflows", where=where, hint="are the weights too large?")
    return stored | beside


def name_place(name: str) -> str:
    """A layer, for messages; the model itself has no name."""
    return f"layer {name!r}" if name else "the layer"


def build_layer(layer: nn.Linear, scheme: Scheme, stored: Stored, simulate: bool = False) -> QuantLinear:
    """The module that replaces the layer; the bias is the layer's own."""
    made = SimulatedLinear if simulate else choose_layer(scheme)
    quantized = made(scheme, layer.out_features, layer.in_features, stored, layer.bias)
    return quantized.train(layer.training)


# --- checks ------------------------------------------------------------------------------------------------------


def check_layer(layer: nn.Linear, scheme: Scheme, observed: Observed | None, where: str) -> None:
    """Raises BadInput, which names the layer."""
    weight = layer.weight
    if weight.dtype not in FLOATS:
        raise BadInput("weights are no floats", where=where, expected=_list(FLOATS), got=weight.dtype)
    if weight.is_meta:
        raise BadInput("weights without values", where=where, hint="load the model before it is quantized")
    if not weight.numel():
        raise BadInput("a layer without weights", where=where, expected="[N, K] above 0", got=list(weight.shape),
                       hint="leave it out with skip=")  # fmt: skip
    if not weight.isfinite().all():
        bad = int((~weight.isfinite()).sum())
        raise BadInput("weights are not finite", where=where, got=f"{bad} NaN or infinite", hint="mend the checkpoint")
    for form in (scheme.weight, scheme.activation):
        _check_groups(form, layer.in_features, scheme, where)
    if choose_layer(scheme) is IntLinear and layer.in_features > LONGEST_SUM:
        raise BadInput("the sum of a row overflows i32", where=where, expected=f"K up to {LONGEST_SUM}",
                       got=layer.in_features)  # fmt: skip
    if scheme.rank > min(weight.shape):
        raise BadInput("the rank is above the matrix's", where=where, expected=f"up to {min(weight.shape)}",
                       got=scheme.rank)  # fmt: skip
    if scheme.needs_calibration and observed is None:
        raise BadInput(f"{name_scheme(scheme)!r} needs to see inputs of this layer", where=where,
                       hint="pass calibration=, with inputs that reach it")  # fmt: skip


def _check_groups(form: Format | None, columns: int, scheme: Scheme, where: str) -> None:
    group = group_of(form)
    if not group or columns % group == 0:
        return
    valid = [g for g in range(2, min(columns, 1024) + 1) if columns % g == 0]
    free = hasattr(form, "group")
    hint = f"groups that do: {_list(valid)}" if free and valid else "take a scheme without groups, such as w8a16"
    raise BadInput(f"the group of {name_scheme(scheme)!r} does not divide K", where=where,
                   expected=f"a divisor of {columns}", got=group, hint=hint)  # fmt: skip


def _list(values: object) -> str:
    return ", ".join(map(str, values))  # type: ignore[call-overload]


# --- what stands beside the weights ------------------------------------------------------------------------------


def _find_beside(weight: Tensor, scheme: Scheme, observed: Observed) -> Stored:
    beside: Stored = {}
    loudest = observed.loudest.to(weight.device)
    if scheme.smooth:
        beside["smoother"] = _find_smoother(weight, loudest, scheme.smooth)
        loudest = loudest * beside["smoother"]
    if scheme.static and isinstance(scheme.activation, Int):
        limit = 2 ** (scheme.activation.bits - 1) - 1
        beside["input_scale"] = (loudest.max() / limit).clamp(min=TINY).reshape(1)
    if isinstance(scheme.activation, Mixed):
        beside |= _find_order(loudest, scheme.activation)
    return beside


def _find_smoother(weight: Tensor, loudest: Tensor, exponent: float) -> Tensor:
    """f32[K]: max|W_k|^(1 - a) / max|x_k|^a; 1 for channels that are silent or have no weights."""
    strength = weight.abs().amax(0).float()
    smoother = strength ** (1 - exponent) / loudest**exponent
    return torch.where(smoother.isfinite() & (smoother > 0), smoother, 1.0)


def _find_order(loudest: Tensor, form: Mixed) -> Stored:
    """The loudest channels first, and as many blocks of them in 8 bits as the share says, rounded up."""
    order = loudest.argsort(descending=True, stable=True)
    blocks = len(order) // form.group
    wide = -(-round(form.share * len(order)) // form.group)
    loud, other = MIXED_LIMITS
    limits = torch.where(torch.arange(blocks, device=order.device) < wide, loud, other)
    return {"order": order, "limits": limits[:, None]}


def _store_plain(w: Tensor, scheme: Scheme, dtype: torch.dtype) -> Stored:
    return store_weight(w, scheme.weight, dtype)


def _store_low_rank(w: Tensor, scheme: Scheme, dtype: torch.dtype) -> Stored:
    """W = Q + up down: round what the product leaves, decompose what rounding leaves, in turn (arXiv:2311.12023)."""
    best: Stored = {}
    least, thin = float("inf"), torch.zeros_like(w)
    for _ in range(RANK_ROUNDS):
        stored = store_weight(w - thin, scheme.weight, dtype)
        rounded = read_weight(scheme.weight, stored, w.shape[1], torch.float32)
        up, down = (t.to(dtype) for t in _decompose(w - rounded, scheme.rank))
        thin = up.float() @ down.float()
        error = float((w - rounded - thin).norm())
        if error < least:
            best, least = {**stored, "up": up, "down": down}, error
    return best


def _decompose(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of [N, rank] and [rank, K], each with half of the singular values."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous()
