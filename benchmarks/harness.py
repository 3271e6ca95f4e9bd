"""What every suite starts from: the timing of `treadle.compiler.timing`, the repository's root, a quiet process."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from treadle.compiler.timing import PAIRS as PAIRS
from treadle.compiler.timing import QUICK_PAIRS as QUICK_PAIRS
from treadle.compiler.timing import Call as Call
from treadle.compiler.timing import bind as bind
from treadle.compiler.timing import compile_for as compile_for
from treadle.compiler.timing import measure as measure
from treadle.compiler.timing import measure_cost as measure_cost
from treadle.compiler.timing import verdict as verdict

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(1, str(ROOT))  # benchmarks use tests/zoo; they run as scripts, not as a package


def geomean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def set_up() -> None:
    """One thread, passive waiting, no gradients, and no recompilation limit that would end a sweep over shapes.

    libgomp reads OMP_WAIT_POLICY when torch loads it, so a process started without the variable starts itself again.
    """
    if os.environ.get("OMP_WAIT_POLICY") != "passive":
        os.environ.update(OMP_WAIT_POLICY="passive")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch._dynamo.config.recompile_limit = 10_000
    torch._dynamo.config.accumulated_recompile_limit = 10_000
