"""When requests were sent and answers began."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pytest_tokenbudget.replay.traffic import Clock
from pytest_tokenbudget.wire.exchange import Answer

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_the_first_answer_sets_the_clock_and_milliseconds_do_the_rest() -> None:
    clock = Clock()
    first = clock.timed(Answer(200, date=NOON), {"started": 0, "answered": 800})
    second = clock.timed(Answer(200, date=NOON), {"started": 300, "answered": 900})
    assert (first.sent, first.date) == (NOON - timedelta(milliseconds=800), NOON)
    assert second.sent == NOON - timedelta(milliseconds=500)
    assert second.date == NOON + timedelta(milliseconds=100)
    assert first.date > second.sent  # the second was sent before the first began to be answered


def test_without_a_date_the_distances_are_the_same() -> None:
    clock = Clock()
    first = clock.timed(Answer(200), {"started": 0, "answered": 800})
    second = clock.timed(Answer(200), {"started": 300_000, "answered": 300_900})
    assert first.sent is not None
    assert second.sent is not None
    assert second.sent - first.sent == timedelta(minutes=5)


@pytest.mark.parametrize(
    "timing",
    [
        None,
        {},
        {"started": 3},
        {"started": "0", "answered": 1},
        {"started": -1, "answered": 1},
        {"started": 0, "answered": 10**12},
        [0, 1],
    ],
)
def test_what_tells_nothing_leaves_the_date(timing: object) -> None:
    assert Clock().timed(Answer(200, date=NOON), timing) == Answer(200, date=NOON)
