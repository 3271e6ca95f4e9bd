"""Where an fx node comes from: the last line of the user's own program, and the module it ran in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import fx


def find_source(node: fx.Node) -> str:
    """`model.py:20 (layers.0.mlp)`, as far as tracing has kept it; "" where it has not."""
    meta = node.meta
    place = _last_frame(meta.get("stack_trace") or "")
    modules: dict[str, Any] = meta.get("nn_module_stack") or meta.get("fwd_nn_module_stack") or {}
    if not modules:
        return place
    path = _module_path(str(next(reversed(modules.values()))[0]))
    return f"{place} ({path})" if path else place


@lru_cache(maxsize=4096)
def _last_frame(trace: str) -> str:
    at = trace.rfind('File "')
    if at < 0:
        return ""
    path, _, rest = trace[at + 6 :].partition('", line ')
    line = rest.split(",", 1)[0].split("\n", 1)[0]
    return f"{path}:{line}"


@lru_cache(maxsize=4096)
def _module_path(path: str) -> str:
    """`L['self'].model.layers[0]` -> `model.layers.0`."""
    path = path.partition("']")[2] if path.startswith("L['") else path.removeprefix("L__self__")
    return path.replace("['", ".").replace("']", "").replace("[", ".").replace("]", "").strip(".")
