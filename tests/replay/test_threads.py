"""What several threads ask at once goes through the recording, whatever connections are made meanwhile."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from typing import Any

import pytest
import urllib3

from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import Ledger
from support.blocks import body
from support.clients import (
    CALLS,
    COMMAND,
    by_requests,
    by_urllib,
    by_urllib3,
    is_faithful,
    record,
    replaying,
    running,
)
from support.messages_api import MessagesApi

SECURE = "https://api.anthropic.com"


CLIENTS: dict[Callable[[str, Any], str], type] = {
    by_requests: urllib3.connection.HTTPConnection,
    by_urllib3: urllib3.connection.HTTPConnection,
    by_urllib: http.client.HTTPConnection,
}
"""Functions that ask, and the connection that each of them makes."""


class Held:
    """Holds back the first connection that is made, until another thread was answered."""

    def __init__(self, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self._holder = threading.Lock()
        make = connection.__init__

        def hold(made: Any, *given: Any, **options: Any) -> None:
            if type(made) is connection and self._holder.acquire(blocking=False):
                self.begun.set()
                assert self.may_go_on.wait(600)
            make(made, *given, **options)

        monkeypatch.setattr(connection, "__init__", hold)

    def ask(self, ask: Callable[[str, Any], str], url: str) -> list[str]:
        """Ask for one thing while the connection for another one is being made."""
        heard = list[str]()
        first = threading.Thread(target=lambda: heard.append(ask(url, body("One"))))
        first.start()
        assert self.begun.wait(600)
        try:
            second = ask(url, body("Two"))
        finally:
            self.may_go_on.set()
            first.join()
        return [*heard, second]


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_call_is_recorded_while_another_thread_makes_a_connection(
    api: MessagesApi, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str, Any], str]
) -> None:
    held = Held(CLIENTS[ask], monkeypatch)
    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        held.ask(ask, api.url)
    assert len(recording.interactions()) == len(api.charges) == 2


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_call_is_replayed_while_another_thread_makes_a_connection(
    api: MessagesApi, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str, Any], str]
) -> None:
    heard = list[str]()
    recorded = record(lambda: heard.extend([ask(api.url, body("One")), ask(api.url, body("Two"))]))
    held = Held(CLIENTS[ask], monkeypatch)
    with replaying(recorded) as ledger:
        assert held.ask(ask, api.url) == heard
    assert is_faithful(ledger)
    assert len(api.charges) == 2


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_connection_of_tls_is_made_as_well(api: MessagesApi, ask: Callable[[str, Any], str]) -> None:
    def secure(interaction: Interaction) -> Interaction:
        asked, answer = interaction
        return {**asked, "uri": asked["uri"].replace(api.url, SECURE)}, answer

    heard = list[str]()
    recorded = record(lambda: heard.append(ask(api.url, body("One"))))
    with replaying([secure(one) for one in recorded]) as ledger:
        assert ask(SECURE, body("One")) == heard[0]
    assert is_faithful(ledger)
