"""`treadle.quantize`: a model whose linear layers hold narrow numbers, as plain PyTorch modules.

small = treadle.quantize(model, "w4a16")                                          every nn.Linear but lm_head
small = treadle.quantize(model, {"*.mlp.*": "w4a16-g64", "*": "w8a8"})             by name; the first pattern that fits
small = treadle.quantize(model, budget_bits=3.5, calibration=batches)              a scheme for each layer, by budget
fake = treadle.quantize(model, "w8a8-static", calibration=batches, simulate=True)  floats that are rounded alike
fast = torch.compile(small, backend="treadle")

The new layers compute in ordinary tensor arithmetic (linear.py): eager runs them, and any backend compiles them.
Schemes have names (names.py); `measure` (report.py) tells what rounding costs; `save` and `load` (files.py) keep
safetensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatch
from functools import reduce
from typing import Any

import torch
from torch import nn

from ...ir.errors import BadInput
from .budget import CANDIDATES, choose_schemes
from .build import build_layer, name_place, store_layer
from .calibrate import Observed, observe
from .linear import QuantLinear
from .names import parse_scheme
from .schemes import Scheme

WHERE = "treadle.quantize"

Group = tuple[str, ...]  # the names of layers that share one weight


def quantize(
    model: nn.Module, scheme: str | Scheme | Mapping[str, str | Scheme] | None = None, *,
    budget_bits: float | None = None, candidates: Sequence[str | Scheme] = CANDIDATES, calibration: Any = None,
    skip: Iterable[str] = ("lm_head",), simulate: bool = False, inplace: bool = False,
) -> nn.Module:  # fmt: skip
    """The model with its `torch.nn.Linear` layers [N, K] quantized; a copy, unless `inplace`.

    scheme       a name, a Scheme, or a mapping from patterns of layer names to them (others are left alone)
    budget_bits  instead of a scheme: the bits per weight, scales included, that the layers may have on average; each
                 gets the one of `candidates` with which the sum of their squared relative errors is least
    calibration  inputs of a call (a tensor, a tuple, a mapping of keywords) or an iterable of such: for static and
                 smoothed schemes and mixed inputs, and what errors are measured on
    skip         names or patterns of layers that stay as they are: "lm_head" is any layer of that name
    simulate     weights are kept as floats, rounded as the scheme rounds them: for accuracy studies

    Biases are kept. Layers that share a weight share the quantized one; where something else shares it too (an
    embedding), the layer is left alone, with a warning. Subclasses of nn.Linear are left alone. A model that is itself
    a layer is returned as the new one.

    Raises SettingError for an unknown scheme, BadInput for a model without layers to quantize, for layers that a scheme
    does not fit (which names those groups that fit), and for weights or calibration inputs that are not finite.
    """
    _check_call(model, scheme, budget_bits)
    model = model if inplace else deepcopy(model)
    layers = find_layers(model, tuple(skip))
    groups = _group_tied(model, layers)
    observed = {} if calibration is None else _join(groups, observe(model, layers, calibration))
    with torch.no_grad():
        if budget_bits is not None:
            schemes = choose_schemes({g: layers[g[0]] for g in groups}, candidates, budget_bits, observed)
        else:
            schemes = _assign(groups, scheme)
        built = _build(layers, schemes, observed, simulate)
    return replace_layers(model, built)


def find_layers(model: nn.Module, skip: tuple[str, ...] = ()) -> dict[str, nn.Linear]:
    """The layers by name, each once. Raises BadInput where there are none."""
    found = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    kept = {name: m for name, m in found.items() if not any(_matches(name, pattern) for pattern in skip)}
    if kept:
        return kept
    if any(isinstance(m, QuantLinear) for m in model.modules()):
        raise BadInput("the model is quantized already", where=WHERE, hint="start from the unquantized one")
    problem = "skip= leaves no layer" if found else "the model has no torch.nn.Linear"
    raise BadInput(problem, where=WHERE, got=", ".join(found) or type(model).__name__)


def replace_layers(model: nn.Module, built: Mapping[str, QuantLinear]) -> nn.Module:
    """Put the new layers in place of those of that name, wherever the model holds them."""
    by_layer = {id(model.get_submodule(name)): new for name, new in built.items()}
    places = [(name, m) for name, m in model.named_modules(remove_duplicate=False) if id(m) in by_layer]
    for name, layer in places:
        if not name:
            return by_layer[id(layer)]
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, by_layer[id(layer)])
    return model


def _check_call(model: Any, scheme: Any, budget_bits: Any) -> None:
    if not isinstance(model, nn.Module):
        raise BadInput("not a model", where=WHERE, expected="a torch.nn.Module", got=type(model).__name__)
    if (scheme is None) == (budget_bits is None):
        raise BadInput("a scheme or a budget", where=WHERE, expected="one of the two", hint='such as "w4a16"')


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or name.rpartition(".")[2] == pattern


def _group_tied(model: nn.Module, layers: Mapping[str, nn.Linear]) -> list[Group]:
    """Names of layers, those that share a weight together; without those that share it with something else."""
    chosen = set(map(id, layers.values()))
    others: dict[int, str] = {}
    for name, module in model.named_modules():
        if id(module) not in chosen:
            others |= {_identify(p): name for p in module.parameters(recurse=False)}
    groups: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        key = _identify(layer.weight)
        if key in others:
            warnings.warn(f"{WHERE}: {name!r} is left as it is: {others[key]!r} has its weight too", stacklevel=3)
            continue
        groups.setdefault(key, []).append(name)
    if not groups:
        raise BadInput("every layer shares its weight with something that is no layer", where=WHERE)
    return [tuple(names) for names in groups.values()]


def _identify(p: torch.Tensor) -> Any:
    return (p.data_ptr(), p.shape, p.stride(), p.dtype) if p.numel() and not p.is_meta else id(p)


def _join(groups: list[Group], observed: Mapping[str, Observed]) -> dict[Group, Observed]:
    seen = {group: [observed[name] for name in group if name in observed] for group in groups}
    return {group: reduce(Observed.join, found) for group, found in seen.items() if found}


def _assign(groups: list[Group], scheme: Any) -> dict[Group, Scheme]:
    if not isinstance(scheme, Mapping):
        one = parse_scheme(scheme)
        return dict.fromkeys(groups, one)
    patterns = {pattern: parse_scheme(s) for pattern, s in scheme.items()}
    found = {}
    for group in groups:
        fitting = [next((s for p, s in patterns.items() if _matches(name, p)), None) for name in group]
        if any(s != fitting[0] for s in fitting):
            raise BadInput("layers with one weight take one scheme", where=WHERE, got=", ".join(group))
        if fitting[0] is not None:
            found[group] = fitting[0]
    if not found:
        raise BadInput("no layer has a name that fits", where=WHERE, expected=", ".join(patterns),
                       got=", ".join(g[0] for g in groups))  # fmt: skip
    return found


def _build(
    layers: Mapping[str, nn.Linear], schemes: Mapping[Group, Scheme], observed: Mapping[Group, Observed], simulate: bool
) -> dict[str, QuantLinear]:
    """All new layers before any is put in place: an error leaves the model as it was."""
    built = {}
    for group, scheme in schemes.items():
        stored = store_layer(layers[group[0]], scheme, observed.get(group), name_place(group[0]))
        made = [build_layer(layers[name], scheme, stored, simulate) for name in group]
        if simulate:
            for other in made[1:]:
                other.fake = made[0].fake
        built |= dict(zip(group, made, strict=True))
    return built
