"""Schedules: how a kernel is run, as data that is hashed, written to JSON and compared.

A schedule names a strategy and the value chosen for each knob that is not at its default. It says nothing about
legality: applying it to a kernel does, and raises `ScheduleError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import ScheduleError

Value = bool | int | str


@dataclass(frozen=True, slots=True)
class Knob:
    """One choice of a schedule space. `candidates` are in an order in which neighbours behave alike.

    >>> Knob("unroll", 4, (1, 2, 4, 8)).neighbours(4)
    (2, 8)
    """

    name: str
    default: Value
    candidates: tuple[Value, ...]
    text: str = ""

    def check(self, value: Value) -> Value:
        if value not in self.candidates or type(value) is not type(self.default):
            raise ScheduleError(
                "not a value of this knob",
                where=self.name,
                expected=", ".join(map(str, self.candidates)),
                got=value,
                hint="take one of those listed",
            )
        return value

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """The candidates beside `value`: all the others where the values are names."""
        at = self.candidates.index(self.check(value))
        if isinstance(self.default, str):
            return tuple(c for c in self.candidates if c != value)
        return tuple(self.candidates[k] for k in (at - 1, at + 1) if 0 <= k < len(self.candidates))

    def encode(self, value: Value) -> tuple[float, ...]:
        """Numbers for a cost model: the logarithm of a count, one column for each name."""
        if isinstance(self.default, str):
            return tuple(float(c == value) for c in self.candidates)
        return (float(value),) if isinstance(value, bool) else (math.log2(1 + float(value)),)


@dataclass(frozen=True, slots=True)
class Schedule:
    """`choices` are (knob, value) pairs sorted by knob; a knob that is not listed has its default."""

    strategy: str
    choices: tuple[tuple[str, Value], ...] = ()

    def get(self, knob: Knob) -> Value:
        """The value chosen for `knob`; raises ScheduleError where it is not one of its candidates."""
        return next((knob.check(v) for name, v in self.choices if name == knob.name), knob.default)

    def choose(self, **values: Value) -> Schedule:
        """The schedule with other values for some knobs."""
        return Schedule(self.strategy, tuple(sorted({**dict(self.choices), **values}.items())))

    def check_names(self, knobs: Iterable[Knob]) -> None:
        """Raises ScheduleError for a choice that no knob of a space makes."""
        names = [k.name for k in knobs]
        for name, _ in self.choices:
            if name not in names:
                raise ScheduleError("no such knob", where=self.strategy, expected=", ".join(names), got=name)

    def to_json(self) -> dict[str, Any]:
        return {"strategy": self.strategy, "choices": dict(self.choices)}

    def __str__(self) -> str:
        return " ".join([self.strategy, *(f"{name}={json.dumps(value)}" for name, value in self.choices)])


def schedule_from_json(data: dict[str, Any]) -> Schedule:
    """Reads what `Schedule.to_json` wrote; raises ScheduleError where that is not what came."""
    try:
        strategy, choices = data["strategy"], data["choices"]
        pairs = tuple(sorted(choices.items()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ScheduleError("not a schedule", expected='{"strategy": .., "choices": {..}}', got=data) from error
    bad = [v for _, v in pairs if not isinstance(v, bool | int | str)]
    if not isinstance(strategy, str) or bad:
        raise ScheduleError("not a schedule", expected="a name and booleans, integers or names", got=data)
    return Schedule(strategy, pairs)
