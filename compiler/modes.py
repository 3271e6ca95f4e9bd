"""The modes of torch.compile, by Inductor's names, as values of treadle's own options.

    torch.compile(model, backend="treadle", mode="max-autotune")       options={"autotune": True, "cuda_graphs": True}

torch hands over a mode or options, never both; the options say the same and can stand beside others.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.errors import SettingError

MODES: dict[str, Mapping[str, object]] = {
    "default": {},
    "reduce-overhead": {"cuda_graphs": True},
    "max-autotune": {"autotune": True, "cuda_graphs": True},
    "max-autotune-no-cudagraphs": {"autotune": True},
}


def find_options(mode: str | None, options: Mapping[str, object] | None = None) -> dict[str, object]:
    """The options that a mode stands for, under those given beside it. Raises SettingError for a mode unknown."""
    if mode is not None and mode not in MODES:
        raise SettingError("no such mode of the backend 'treadle'", got=mode, choices=tuple(MODES))
    return {**MODES[mode or "default"], **(options or {})}
