"""What goes into layers when a model runs: how loud each channel is, and some rows to measure errors on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ...ir.errors import BadInput

ROWS = 256  # kept of each layer's inputs
WHERE = "calibration"


@dataclass(frozen=True, slots=True)
class Observed:
    """loudest f32[K]: the largest magnitude of each input channel; rows [R, K]: the first inputs, R at most 256."""

    loudest: Tensor
    rows: Tensor

    def join(self, other: Observed) -> Observed:
        rows = torch.cat((self.rows, other.rows.to(self.rows)))[:ROWS]
        return Observed(self.loudest.maximum(other.loudest), rows)


def observe(model: nn.Module, layers: Mapping[str, nn.Module], calibration: Any) -> dict[str, Observed]:
    """Run the model, in evaluation mode and without gradients, and keep what its layers were given, by their names.

    calibration  inputs of a call: a tensor, a mapping of keywords or a tuple; or an iterable of such

    Layers that were not called, or with no rows, are left out. Raises BadInput for inputs that are not finite.
    """
    found: dict[str, list[Observed]] = {name: [] for name in layers}
    hooks = [layer.register_forward_pre_hook(_listen(found[n], n), with_kwargs=True) for n, layer in layers.items()]
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            for call in _list_calls(calibration):
                _run(model, call)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return {name: reduce(Observed.join, seen) for name, seen in found.items() if seen}


def _listen(found: list[Observed], name: str) -> Any:
    def hear(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = (args[0] if args else kwargs["input"]).detach()
        rows = x.reshape(-1, x.shape[-1])
        if not len(rows):
            return
        if not rows.isfinite().all():
            raise BadInput("an input is not finite", where=f"{WHERE}, layer {name!r}", hint="mend the inputs")
        found.append(Observed(rows.abs().amax(0).float(), rows[:ROWS].clone()))
        found[:] = [reduce(Observed.join, found)]

    return hear


def _list_calls(calibration: Any) -> Iterable[Any]:
    if isinstance(calibration, (Tensor, Mapping, tuple)):
        return [calibration]
    if isinstance(calibration, Iterable):
        return calibration
    expected = "a tensor, a tuple, a mapping, or an iterable of them"
    raise BadInput("not inputs of a model", where=WHERE, expected=expected, got=type(calibration).__name__)


def _run(model: nn.Module, call: Any) -> None:
    if isinstance(call, Mapping):
        model(**call)
    elif isinstance(call, (tuple, list)):
        model(*call)
    else:
        model(call)
