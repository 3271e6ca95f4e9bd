"""Schedules and knobs: data that says what it means, and refuses what it does not."""

from __future__ import annotations

import json

import pytest

from treadle.ir.errors import ScheduleError
from treadle.ir.schedule import Knob, Schedule, schedule_from_json

UNROLL = Knob("unroll", 4, (1, 2, 4, 8))
KEEP = Knob("keep", "auto", ("auto", "all", "none"))
STREAM = Knob("stream", False, (False, True))


def test_a_schedule_is_its_choices():
    s = Schedule("rows").choose(unroll=8, stream=True)
    assert s == Schedule("rows", (("stream", True), ("unroll", 8))) and hash(s) == hash(s.choose(unroll=8))
    assert (s.get(UNROLL), s.get(STREAM), s.get(KEEP)) == (8, True, "auto")
    assert str(s) == "rows stream=true unroll=8"
    assert schedule_from_json(json.loads(json.dumps(s.to_json()))) == s


def test_knobs_know_their_neighbours_and_encoding():
    assert UNROLL.neighbours(1) == (2,) and UNROLL.neighbours(4) == (2, 8)
    assert KEEP.neighbours("all") == ("auto", "none")
    assert KEEP.encode("all") == (0.0, 1.0, 0.0) and STREAM.encode(True) == (1.0,) and UNROLL.encode(1) == (1.0,)


@pytest.mark.parametrize(("knob", "value"), [(UNROLL, 3), (UNROLL, True), (STREAM, 1), (KEEP, "some")])
def test_a_value_that_is_no_candidate_is_refused(knob: Knob, value: object):
    with pytest.raises(ScheduleError, match="not a value of this knob"):
        Schedule("rows").choose(**{knob.name: value}).get(knob)  # type: ignore[arg-type]


def test_a_choice_of_no_knob_is_refused():
    with pytest.raises(ScheduleError, match=r"no such knob .*expected unroll, keep.* got warps"):
        Schedule("rows").choose(warps=4).check_names([UNROLL, KEEP])


@pytest.mark.parametrize("data", [{}, {"strategy": "rows"}, {"strategy": 1, "choices": {}}, [], "rows",
                                  {"strategy": "rows", "choices": {"unroll": [1]}}])  # fmt: skip
def test_other_data_is_no_schedule(data: object):
    with pytest.raises(ScheduleError, match="not a schedule"):
        schedule_from_json(data)  # type: ignore[arg-type]
