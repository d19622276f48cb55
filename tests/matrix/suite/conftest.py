"""Names of clouds lead to the server of the tests; what touches the network in replay is written down."""

from __future__ import annotations

import functools
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import CALLING, Row

EVENTS: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        EVENTS.append(f"{event} {arguments!r}")
    elif event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        EVENTS.append(f"{event} {arguments[1]!r}")


def lead_home() -> None:
    """Every name is an alias of this machine."""
    real = socket.getaddrinfo

    def getaddrinfo(name: Any, *arguments: Any, **options: Any) -> Any:
        return real("127.0.0.1", *arguments, **options)

    socket.getaddrinfo = getaddrinfo


ssl.create_default_context = functools.cache(ssl.create_default_context)  # most of what a client costs

if CALLING:
    lead_home()
else:
    sys.addaudithook(watch)


def pytest_sessionfinish() -> None:
    if not CALLING:
        Path(os.environ["MATRIX_NETWORK"]).write_text("\n".join(EVENTS), "utf-8")


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    return Row(request.node.name)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that clients want to sleep before they try again; they do not get them."""
    import time

    import anyio

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(anyio, "sleep", sleep)
    yield slept
    assert len(slept) == 1
    assert slept[0] > 0.2 if CALLING else slept[0] < 0.01
