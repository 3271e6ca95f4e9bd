"""What the suites run: the examples by file, and the small graphs that they need besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from harness import ROOT

from treadle.compiler.model_file import load_model

MAIN_JOB = "examples/01_llama.py"
EXAMPLES = (
    MAIN_JOB, "examples/02_vit.py", "examples/03_bert.py", "examples/04_unet_block.py", "examples/05_scan.py",
)  # fmt: skip
ONE_KERNEL = "one_kernel"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Model = Callable[..., Any]
Inputs = tuple[Any, ...] | Mapping[str, Any]


def load_target(target: str, dtype: str = "bf16", **arguments: Any) -> tuple[Model, Inputs]:
    """A model and its inputs: "one_kernel", or FILE[:FUNCTION] whose function (default `build`) takes a dtype."""
    if target == ONE_KERNEL:
        return one_kernel, (torch.linspace(-2, 2, 64, dtype=DTYPES[dtype]),)
    loaded = load_model(str(ROOT / target), dtype, **arguments)
    return loaded.model, loaded.inputs


def one_kernel(x: torch.Tensor) -> torch.Tensor:
    """A graph that any compiler makes one kernel of, small enough that only the call costs time."""
    return torch.sigmoid(x) * x + 1


def short_name(target: str) -> str:
    """examples/01_llama.py -> llama."""
    return Path(target.partition(":")[0]).stem.lstrip("0123456789_")
