"""Fixtures of the tests of replay and recording."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from support.clients import script
from support.messages_api import MessagesApi


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi(script) as server:
        yield server


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that opens a connection from here on."""
    opened: list[str] = []
    connect = socket.socket.connect

    def spy(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            opened.append(str(address))
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", spy)
    return opened
