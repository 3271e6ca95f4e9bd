"""Texts of many lengths through one compiled model: right, and without a storm of compilations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from treadle.compiler.check import compare
from treadle.compiler.reference import run, run_in_float64

from . import ARCHITECTURES
from .architecture import tokens
from .cases import CountingBackend

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

LENGTHS = (1, 7, 129, 1000)
PADDED = 129
NAMES = ("llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt", "mixtral", "bert", "roberta", "modernbert")
MORE_COMPILATIONS = 2


def make_inputs(seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """One batch a length, then a batch of texts padded at the left."""
    generator = torch.Generator().manual_seed(seed)
    batches = [{"input_ids": tokens(generator, length=length)} for length in LENGTHS]
    padded = {"input_ids": tokens(generator, length=PADDED), "attention_mask": torch.ones(2, PADDED, dtype=torch.int64)}
    padded["attention_mask"][1, :40] = 0
    return [{**batch, "attention_mask": torch.ones_like(batch["input_ids"])} for batch in batches] + [padded]


def count_graphs(model: Any, backend: str) -> tuple[int, list[dict[str, Any]]]:
    """How many graphs `backend` compiles for all lengths, and the results."""
    torch._dynamo.reset()
    counting = CountingBackend(backend)
    compiled = torch.compile(model, backend=counting)
    results = [run(model, inputs, runner=compiled) for inputs in make_inputs()]
    return counting.graphs, results


@pytest.mark.parametrize("name", NAMES)
def test_lengths(name: str, backend: str):
    model, _ = ARCHITECTURES[name].build()
    exact = [run_in_float64(model, inputs) for inputs in make_inputs()]
    eager = [run(model, inputs) for inputs in make_inputs()]
    needed, _ = count_graphs(model, "aot_eager")
    graphs, got = count_graphs(model, backend)
    for values in zip(got, eager, exact, strict=True):
        report = compare(*values)
        if not report.ok:
            pytest.fail(f"{name} through {backend}:\n{report}", pytrace=False)
    assert graphs <= needed + MORE_COMPILATIONS
