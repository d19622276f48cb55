"""When requests were sent and their answers began, on one clock, where a recorder wrote it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pytest_tokenbudget.wire.exchange import Answer

_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)
"""Only differences count; a day for recordings whose answers have no `Date`."""


class Clock:
    """Of one recording: its first answer with a `timing` sets it; the others follow in milliseconds."""

    def __init__(self) -> None:
        self._began: datetime | None = None

    def timed(self, answer: Answer, timing: object) -> Answer:
        """The answer with `sent` and a finer `date`, where `timing` tells both; else as it is."""
        started, answered = _milliseconds(timing, "started"), _milliseconds(timing, "answered")
        if started is None or answered is None:
            return answer
        if self._began is None:
            self._began = (answer.date or _SOME_DAY) - answered
        return replace(answer, sent=self._began + started, date=self._began + answered)


def _milliseconds(timing: object, name: str) -> timedelta | None:
    value: Any = timing.get(name) if isinstance(timing, Mapping) else None
    return timedelta(milliseconds=value) if isinstance(value, int) and 0 <= value < 10**10 else None
