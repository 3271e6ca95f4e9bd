"""Every operator that torch describes (its OpInfo database): importing never fails, and results are eager's."""

from __future__ import annotations

import itertools
import re
import warnings
from typing import Any

import pytest
import torch
from frontend_sweep import run_case
from torch import Tensor

pytest.importorskip("expecttest")  # torch's database imports it
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SAMPLES = 3
# Uninitialised memory, and random numbers whose seed the database sets inside the operator, where tracing does not
# see it.
UNKNOWN = re.compile(
    r"empty|rand|normal|bernoulli|multinomial|dropout|rrelu|cauchy|exponential|geometric|fractional_max_pool|uniform|svd_lowrank|pca_lowrank"
)
# torch's own tracing gives another rounding for 8-bit images.
TRACED_OTHERWISE = re.compile(r"interpolate|upsample")
# Raised by torch for reasons of its own, before treadle sees a graph or where eager's results are compared.
OUT_OF_REACH = (
    "DataDependentOutputException", "DynamicOutputShapeException", "not differentiable", "SparseC", "sparse", "Sparse",
    "is not implemented", "out of bounds for storage", "ill-defined", "only supported on CUDA",
)  # fmt: skip


def cases(dtype: torch.dtype, train: bool) -> Any:
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        if UNKNOWN.search(op.name) or not op.supports_dtype(dtype, "cpu") or (train and not op.supports_autograd):
            continue
        if dtype is torch.uint8 and TRACED_OTHERWISE.search(op.name):
            continue
        found = list(itertools.islice(op.sample_inputs("cpu", dtype), 4 * SAMPLES))
        for sample in found[:: max(1, len(found) // SAMPLES)][:SAMPLES]:
            yield op, sample


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_operators(dtype: torch.dtype, train: bool) -> None:
    if train and dtype not in (torch.float32, torch.bfloat16):
        pytest.skip("gradients are of floats")
    failures, right = [], 0
    for op, sample in cases(dtype, train):
        args = (sample.input, *sample.args)
        shapes = [tuple(a.shape) if isinstance(a, Tensor) else a for a in args]
        name = f"{op.name} {op.variant_test_name} {shapes} {sample.kwargs}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcome = run_case(op.op, *args, train=train, **sample.kwargs)
            except Exception as e:  # noqa: BLE001  what an operator raises is the finding
                if not any(word in f"{type(e).__name__} {e}" for word in OUT_OF_REACH):
                    failures.append(f"{name}: {type(e).__name__}: {e}"[:400])
                continue
        right += outcome.report.ok
        if not outcome.report.ok:
            failures.append(f"{name}\n{outcome.report.table(3)}")
    assert not failures, "\n".join(failures)
    assert right > 300
