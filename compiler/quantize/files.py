"""Quantized models as safetensors: every tensor by its name, the schemes as JSON in the metadata. Nothing is pickled.

save(small, "small.safetensors")
small = load(make_model(), "small.safetensors")      # the unquantized model, whose values do not matter
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...ir.errors import BadInput
from ..package import make_savable, share_names
from .door import replace_layers
from .linear import TENSORS, QuantLinear, SimulatedLinear, choose_layer
from .report import find_quantized
from .schemes import decode_scheme, encode_scheme

KEY = "treadle.quantize"
FORMAT = 1


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a quantized model. A tensor of several names is stored once. Simulations are not saved: they are floats."""
    layers = find_quantized(model)
    for name, layer in layers.items():
        if isinstance(layer, SimulatedLinear):
            raise BadInput("a simulation is not saved", where=f"layer {name!r}", hint="save its state_dict")
    state: dict[str, Tensor] = dict(model.state_dict())
    names = share_names(state)
    schemes = {name: encode_scheme(layer.scheme) for name, layer in _list_places(model)}
    same = {name: stored for name, stored in names.items() if name != stored}
    about = {"format": FORMAT, "schemes": schemes, "same": same}
    tensors = {stored: state[stored] for stored in dict.fromkeys(names.values())}
    save_file(make_savable(tensors), os.fspath(path), metadata={"format": "pt", KEY: json.dumps(about)})


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Turn the unquantized model into the one that was saved, in place, with the tensors of the file; returns it.

    Its own values are overwritten, so it may be on the meta device. Raises BadInput for a file that is damaged or that
    `save` did not write, or a model that differs.
    """
    about, tensors = _read(path)
    tensors |= {name: tensors[stored] for name, stored in about["same"].items()}
    built: dict[str, QuantLinear] = {}
    for name, data in about["schemes"].items():
        layer = _find_layer(model, name)
        prefix = f"{name}." if name else ""
        mine = {part: tensors[prefix + part] for part in TENSORS if prefix + part in tensors}
        built[name] = _build(layer, name, decode_scheme(data), mine)
    model = replace_layers(model, built)
    meta = any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    try:
        model.load_state_dict(tensors, assign=meta)
    except RuntimeError as error:
        raise BadInput(f"the model is not the one that was saved: {error}", where=path) from None
    return model


def _list_places(model: nn.Module) -> list[tuple[str, QuantLinear]]:
    return [(n, m) for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, QuantLinear)]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"not a file of tensors: {error}", where=path) from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise BadInput("the file holds no quantized model of this format", where=path,
                       hint="treadle.compiler.quantize.save writes them")  # fmt: skip
    for name, t in tensors.items():
        if t.is_floating_point() and not t.float().isfinite().all():
            raise BadInput("a tensor is not finite", where=f"{path}, {name}", hint="the file is damaged")
    return about, tensors


def _find_layer(model: nn.Module, name: str) -> nn.Linear:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = None
    if isinstance(layer, nn.Linear):
        return layer
    raise BadInput("the file quantizes a layer that the model lacks", where=f"layer {name!r}",
                   expected="a torch.nn.Linear", got=type(layer).__name__)  # fmt: skip


def _build(layer: nn.Linear, name: str, scheme: Any, tensors: Mapping[str, Tensor]) -> QuantLinear:
    device = "cpu" if layer.weight.is_meta else layer.weight.device
    moved = {part: t.to(device) for part, t in tensors.items()}
    made = choose_layer(scheme)(scheme, layer.out_features, layer.in_features, moved, layer.bias)
    shape = (layer.out_features, layer.in_features)
    try:
        fits = made.dequantize(torch.float32).shape == shape
    except (KeyError, RuntimeError, IndexError) as error:
        raise BadInput(f"the tensors are not those of the scheme: {error}", where=f"layer {name!r}") from None
    if not fits:
        raise BadInput("the tensors are of another shape", where=f"layer {name!r}", expected=list(shape))
    return made.train(layer.training)
