"""When requests were sent and answers began."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.traffic import Clock, Sent
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


URL = "https://api.anthropic.com/v1/messages"


def asked(words: str) -> dict[str, Any]:
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": words}]}
    return {"method": "POST", "uri": URL, "headers": {}, "body": json.dumps(body).encode()}


def interaction(words: str, started: int, answered: int) -> Interaction:
    usage = {"input_tokens": 9, "output_tokens": 3}
    said = {"type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn", "usage": usage}
    answer = {
        "status": {"code": 200, "message": "OK"},
        "headers": {"content-type": ["application/json"]},
        "body": {"string": json.dumps(said).encode()},
        "timing": {"started": started, "answered": answered},
    }
    return asked(words), answer


class Meeting(Ledger):
    """A ledger in which two threads that ask meet, so that one asks before the other has its answer."""

    def __init__(self, *interactions: Interaction) -> None:
        super().__init__("test_it.py::test_it", "record it", interactions)
        self.barrier = threading.Barrier(2)

    def notice(self, sent: Sent) -> None:
        self.barrier.wait(60)
        super().notice(sent)


def ask(ledger: Ledger, words: str) -> None:
    assert ledger.find(ledger.read(asked(words))) is not None


@pytest.mark.parametrize(("sent", "apart"), [(900, True), (300, False)])
def test_calls_that_are_seen_at_once_and_were_apart_are_told(sent: int, apart: bool) -> None:
    """The first was sent at 0 ms and answered from 800 ms on."""
    ledger = Meeting(interaction("One", 0, 800), interaction("Two", sent, sent + 500))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(ask, ledger), ("Two", "One")))
    pairs = [[first.request, second.request] for first, second in ledger.now_at_once]
    said = [[request.prompt.blocks[0].content["text"] for request in pair] for pair in pairs]
    assert said == ([["One", "Two"]] if apart else [])


def test_nothing_is_said_where_calls_were_recorded_at_once() -> None:
    """Which of two agents asks first is chance: the second call of one may meet the first of the other."""
    first, other, second = ("One", 0, 800), ("Other", 100, 850), ("Two", 900, 990)
    ledger = Meeting(interaction(*first), interaction(*other), interaction(*second))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(ask, ledger), ("Two", "Other")))
    assert ledger.now_at_once == []


def test_nothing_is_said_of_calls_one_after_another() -> None:
    ledger = Ledger("test_it.py::test_it", "record it", [interaction("One", 0, 8), interaction("Two", 9, 20)])
    ask(ledger, "Two")
    ask(ledger, "One")
    assert ledger.now_at_once == []
