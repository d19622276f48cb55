"""Fixtures of the tests of adoption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.budgeted import preload
from support.messages_api import MessagesApi


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> None:
    preload()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module of tests keeps its suite."""
    return tmp_path_factory.mktemp("adoption")


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi(lambda body: f"You said {body['messages'][-1]['content']}") as server:
        yield server
