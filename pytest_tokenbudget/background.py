"""Threads that a test starts and leaves behind: what they ask later is asked while another test runs."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

_POOLS = frozenset({"concurrent.futures.thread", "anyio._backends._asyncio"})
"""Modules whose threads work for whoever gives them work, not for who happened to start them."""
_WAITING = frozenset({"threading", "queue"})


class BackgroundThreads:
    """Which test started a thread, as far as that shows: it was not there when the test began."""

    def __init__(self) -> None:
        self._started_by: WeakKeyDictionary[threading.Thread, str | None] = WeakKeyDictionary()

    def note(self, test: str | None) -> None:
        """Whatever has begun since the last note was started by this test; None for a fixture that outlives
        it, and where nobody knows."""
        for thread in threading.enumerate():
            self._started_by.setdefault(thread, test)

    def left_by(self, test: str, asked: Iterable[threading.Thread]) -> Iterator[str]:
        """Names of those threads of a test that have asked a model and still run."""
        for thread in asked:
            if self._started_by.get(thread) == test and thread.is_alive() and not _is_idle(thread):
                yield thread.name

    def strangers(self, test: str, asked: Iterable[threading.Thread]) -> Iterator[tuple[str, str]]:
        """Names of those that have asked while this test ran, and the other test that started each."""
        for thread in asked:
            starter = self._started_by.get(thread)
            if starter is not None and starter != test and not _is_of_a_pool(thread):
                yield thread.name, starter


def _is_of_a_pool(thread: threading.Thread) -> bool:
    return not _POOLS.isdisjoint(_modules(thread))


def _is_idle(thread: threading.Thread) -> bool:
    """Whether it is of a pool, and waits for work."""
    running = itertools.dropwhile(lambda module: module in _WAITING, _modules(thread))
    return next(running, None) in _POOLS


def _modules(thread: threading.Thread) -> Iterator[str]:
    """Of its stack, innermost first."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        yield str(frame.f_globals.get("__name__"))
        frame = frame.f_back
