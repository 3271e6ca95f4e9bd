"""What is known of a kernel's schedules by measuring them: plain data, which the store keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.schedule import Schedule, schedule_from_json


@dataclass(frozen=True, slots=True)
class Tried:
    """A schedule that was looked at: seconds of one launch, or why it was not measured."""

    schedule: Schedule
    seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found for a kernel; the default is the first of `tried`. `reason` says why `chosen` was."""

    chosen: Schedule
    tried: tuple[Tried, ...]
    reason: str


def tuning_to_json(t: Tuning) -> dict[str, Any]:
    rows = [{"schedule": x.schedule.to_json(), "seconds": x.seconds, "problem": x.problem} for x in t.tried]
    return {"chosen": t.chosen.to_json(), "tried": rows, "reason": t.reason}


def tuning_from_json(data: Mapping[str, Any]) -> Tuning:
    """Raises ScheduleError, KeyError or TypeError where that is not what came."""
    tried = tuple(Tried(schedule_from_json(x["schedule"]), x["seconds"], x["problem"]) for x in data["tried"])
    return Tuning(schedule_from_json(data["chosen"]), tried, data["reason"])
