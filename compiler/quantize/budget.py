"""A scheme for each layer, so that errors are least within a budget of bits: an integer program.

least    sum(l, c) error[l, c] chosen[l, c]
where    each layer l takes one candidate c, and sum(l, c) bits[l, c] chosen[l, c] <= budget

As LQ-LoRA (arXiv:2311.12023) chooses its configurations; errors are measured, one layer at a time: the energy that
rounding adds to a layer's output, relative to the output's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...ir.errors import BadInput
from .build import build_layer, check_layer, name_place, store_layer
from .calibrate import Observed
from .names import parse_scheme
from .schemes import Scheme

CANDIDATES = ("ternary", "w2a16-g64", "w3a16", "w4a16", "w4a16-g32", "planes6", "w8a16")
WHERE = "treadle.quantize, budget_bits"

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate for a layer: the relative energy of its error, and all the bits it takes."""

    scheme: Scheme
    error: float
    bits: int


def choose_schemes(
    layers: Mapping[Key, nn.Linear], candidates: Sequence[str | Scheme], budget_bits: float,
    observed: Mapping[Key, Observed],
) -> dict[Key, Scheme]:  # fmt: skip
    """The best scheme of each layer. Raises BadInput where the budget is below what the smallest candidates take."""
    schemes = [parse_scheme(c) for c in candidates]
    choices = {key: _list_choices(key, layer, schemes, observed.get(key)) for key, layer in layers.items()}
    weights = sum(layer.weight.numel() for layer in layers.values())
    places = solve(list(choices.values()), budget_bits * weights, weights)
    return {key: row[place].scheme for (key, row), place in zip(choices.items(), places, strict=True)}


def _list_choices(key: Any, layer: nn.Linear, schemes: Sequence[Scheme], seen: Observed | None) -> list[Choice]:
    where = name_place(key[0] if isinstance(key, tuple) else str(key))
    found, problems = [], []
    for scheme in schemes:
        try:
            check_layer(layer, scheme, seen, where)
        except BadInput as problem:
            problems.append(problem)
            continue
        found.append(_measure(layer, scheme, seen, where))
    if not found:
        raise problems[0] if problems else BadInput("no candidates", where=WHERE, hint="leave candidates= out")
    return found


def _measure(layer: nn.Linear, scheme: Scheme, seen: Observed | None, where: str) -> Choice:
    stored = store_layer(layer, scheme, seen, where)
    quantized = build_layer(layer, scheme, stored)
    if seen is None:
        error = _energy(quantized.weight.float() - layer.weight.float()) / _energy(layer.weight)
    else:
        exact = nn.functional.linear(seen.rows, layer.weight)
        bias = 0.0 if layer.bias is None else layer.bias
        error = _energy(quantized(seen.rows) - bias - exact) / _energy(exact)
    return Choice(scheme, error, 8 * sum(t.nbytes for t in quantized.stored().values()))


def _energy(t: Tensor) -> float:
    return max(float(t.double().square().sum()), 1e-300)


def solve(choices: Sequence[Sequence[Choice]], budget: float, weights: int) -> list[int]:
    """Which of its choices each layer takes; `budget` is bits in all. Raises BadInput where nothing fits."""
    smallest = [min(range(len(row)), key=lambda k: (row[k].bits, row[k].error)) for row in choices]
    least = _count_bits(choices, smallest)
    if least > budget:
        raise BadInput("the budget is below the smallest candidates", where=WHERE,
                       expected=f"at least {least / weights:.3f}", got=f"{budget / weights:.3f}")  # fmt: skip
    room, kept_back = math.floor(budget) - least, 0
    while kept_back < room:
        places = _run_program(choices, room - kept_back)
        if _count_bits(choices, places) <= budget:
            return places
        kept_back = 2 * kept_back + 1  # the solver allows itself a millionth more than it is given
    return smallest


def _count_bits(choices: Sequence[Sequence[Choice]], places: Sequence[int]) -> int:
    return sum(row[place].bits for row, place in zip(choices, places, strict=True))


def _run_program(choices: Sequence[Sequence[Choice]], room: int) -> list[int]:
    """The best choices whose bits are at most `room` above those of the smallest."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise BadInput("a budget needs scipy", where=WHERE, hint="pip install 'treadle[quantize]'") from None
    errors = torch.tensor([c.error for row in choices for c in row], dtype=torch.float64)
    more = [(c.bits - min(d.bits for d in row)) / room for row in choices for c in row]
    owners = torch.tensor([layer for layer, row in enumerate(choices) for _ in row])
    belongs = (owners == torch.arange(len(choices))[:, None]).double()
    done = milp(
        c=(errors * (1e6 / float(errors.max()))).numpy(),  # the solver stops at an absolute gap of a millionth
        integrality=[1] * len(errors),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(belongs.numpy(), 1, 1), LinearConstraint([more], -math.inf, 1)],
        options={"mip_rel_gap": 0.0},
    )
    if done.x is None:
        raise BadInput(f"the integer program has no answer: {done.message}", where=WHERE)
    chosen = torch.from_numpy(done.x).split([len(row) for row in choices])
    return [int(part.argmax()) for part in chosen]
