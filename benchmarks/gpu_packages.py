"""Packages on a real GPU: made from a model on the CPU and from one on the GPU, loaded on both, captured and not."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import treadle
from treadle.compiler.check import compare

F = torch.nn.functional
CALLS = 4  # of a package: the second one is captured, the others replay
PLACES = ("cpu", "cuda")


class Block(nn.Module):
    """Attention, a norm and a feed-forward layer; `calls` counts them."""

    calls: torch.Tensor

    def __init__(self, width: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        rows, length, width = x.shape
        q, k, v = self.mix(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, width)
        x = x + self.out(y) * torch.arange(1, length + 1, device=x.device)[:, None].to(x.dtype).rsqrt()
        return x + self.down(F.gelu(self.up(self.norm(x))))


def plan_packages(quick: bool) -> dict[str, Callable[[Any], dict[str, Any]]]:
    return {
        f"from {home} to {place}{' captured' * graphs}":
            lambda args, h=home, p=place, g=graphs: check_package(h, p, graphs=g)
        for home in PLACES for place in PLACES for graphs in (False, True) if place == "cuda" or not graphs
    }  # fmt: skip


def check_package(home: str, place: str, *, graphs: bool) -> dict[str, Any]:
    """One package for both, made where the model is `home`, loaded to run on `place`."""
    torch.manual_seed(0)
    model = Block().to(home).eval()
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability())
    with tempfile.TemporaryDirectory(prefix="treadle-gpu-package-") as folder, torch.no_grad():
        x = torch.randn(4, 128, 256, device=home)
        made = treadle.package(model, (x,), Path(folder, "block.treadle"), targets=("avx2", arch))
        begin = time.perf_counter()
        call = treadle.load(made, device=place, cuda_graphs=graphs)
        call(x.to(place))
        seconds = time.perf_counter() - begin
        model, wide = model.to(place), copy.deepcopy(model).to(place).double()
        inputs = [torch.randn(4, 128, 256, device=place) for _ in range(CALLS)]
        found = [call(x).clone() for x in inputs]
        report = compare(found, [model(x) for x in inputs], [wide(x.double()) for x in inputs])
    right = report.ok and int(call.state["calls"]) == CALLS + 1 and call.target.kind == place
    return {"right": right, "error_over_eager": round(report.worst_ratio, 3), "first_result_s": round(seconds, 4),
            "capture": call.capture}  # fmt: skip


def summarize_packages(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "wrong": sorted(name for name, row in rows.items() if not row.get("right")),
        "worst_first_result_s": max((row.get("first_result_s", 0) for row in rows.values()), default=0),
    }
