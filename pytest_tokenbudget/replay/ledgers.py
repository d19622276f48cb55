"""Whose requests are being sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pytest_tokenbudget.replay.playback import Ledger


class Ledgers:
    """Whose requests are being sent: the ledger on top. Process-wide, so that threads and tasks find it."""

    def __init__(self) -> None:
        self._stack: list[Ledger] = []

    @property
    def top(self) -> Ledger:
        """The ledger that answers now."""
        return self._stack[-1]

    @contextlib.contextmanager
    def using(self, ledger: Ledger) -> Iterator[Ledger]:
        """Put a ledger on top for a while; what began under it is finished under it."""
        self._stack.append(ledger)
        try:
            yield ledger
        finally:
            self._stack.remove(ledger)
