"""How tensors lie in memory where compiled code expects them to: numbers, an order of dimensions, or anyhow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True)
class Order:
    """Dense, with these dimensions from the slowest to the quickest: what strides of dynamic sizes come to."""

    dims: tuple[int, ...]


Layout = tuple[int, ...] | Order | Literal["contiguous", "any"]


def laid_out(x: Any, layout: Layout) -> Any:
    """The tensor itself, or a copy in the layout that compiled code expects."""
    if not isinstance(x, torch.Tensor) or layout == "any":
        return x
    if layout == "contiguous":
        return x.contiguous()
    if isinstance(layout, Order):
        back = sorted(range(len(layout.dims)), key=layout.dims.__getitem__)
        return x.permute(layout.dims).contiguous().permute(back)
    if x.stride() == layout:
        return x
    return torch.empty_strided(x.shape, layout, dtype=x.dtype, device=x.device).copy_(x)


def layout_to_json(layout: Layout) -> Any:
    if isinstance(layout, Order):
        return {"order": list(layout.dims)}
    return layout if isinstance(layout, str) else list(layout)


def layout_from_json(data: Any) -> Layout:
    """Raises ValueError for what is no layout."""
    match data:
        case "contiguous" | "any":
            return data
        case {"order": [*dims]}:
            return Order(tuple(map(int, dims)))
        case [*strides]:
            return tuple(map(int, strides))
    raise ValueError(f"no layout: {data!r}")
