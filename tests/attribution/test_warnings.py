"""What cannot be metered is told by a warning, which fails nothing unless a filter names it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.run.reporting import Cache
from support.budgeted import Project
from support.messages_api import MessagesApi
from support.scratch_suites import Suite, make, record

CONVERSE = """
import contextlib
import os

import httpx2
import pytest
from agent import ask


def converse():
    url = os.environ.get("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    with contextlib.suppress(httpx2.HTTPError):
        httpx2.post(f"{url}/model/anthropic.claude-haiku-4-5-20251001-v1:0/converse", json={}, timeout=600)


@pytest.fixture(scope="module")
def setting():
    converse()


@pytest.mark.token_budget
def test_it():
    ask("One")
    converse()


@pytest.mark.token_budget
def test_with_setting(setting):
    ask("Two")
"""
SAID = "Bedrock's Converse API is not the Messages API"
NAMED = "pytest_tokenbudget.errors.TokenBudgetWarning"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warnings")


@pytest.fixture
def converse(home: Path, pytester: pytest.Pytester, api: MessagesApi) -> Project:
    """Recorded once."""
    if (home / "suite").exists():
        return Project(home / "suite", pytester)
    made = make(home / "suite", pytester, CONVERSE)
    record(made, api, 2)
    return made


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        ("", 0, True),
        ("-W error", 0, True),
        ("-W error::UserWarning", 0, True),
        ("-W error -n 1", 0, True),
        (f"-W ignore::{NAMED}", 0, False),
        (f"-W error::{NAMED}", 1, True),
    ],
)
def test_it_fails_only_where_a_filter_names_it(
    converse: Project, arguments: str, status: int, shown: bool
) -> None:
    judged = converse.judge(*arguments.split())
    assert judged.status == status, judged.output
    assert (SAID in judged.output) is shown
    if shown and not status:
        assert "2 warnings" in judged.output  # of the test and of the fixture
    assert judged.verdicts == {"within"}


def test_a_client_that_goes_past_every_http_library(suite: Suite, api: MessagesApi) -> None:
    project = suite(
        """
import os
import socket
from urllib.parse import urlsplit

import pytest


@pytest.mark.token_budget
def test_it():
    if "ANTHROPIC_BASE_URL" in os.environ:
        where = urlsplit(os.environ["ANTHROPIC_BASE_URL"])
        with socket.create_connection((where.hostname, where.port)) as connection:
            connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            assert b"404" in connection.recv(100)
""",
        0,
    )
    recorded = project.run("--token-budget-record=all", url=api.url)
    assert recorded.status == 0
    assert "TokenBudgetWarning: test_it.py::test_it: no model call was seen" in recorded.output
    assert "TokenBudgetWarning" not in project.judge().output


def test_in_replay_such_a_client_is_refused(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(
        """
import os
import socket

import pytest
from agent import ask


@pytest.mark.token_budget
def test_it():
    ask("One")
    if "PAST" in os.environ:
        with pytest.raises(BaseException):
            socket.create_connection(("api.anthropic.com", 443))
""",
        1,
    )
    monkeypatch.setenv("PAST", "1")
    judged = project.judge()
    assert judged.status == 1
    assert judged.verdicts == {"stale"}
    assert "it goes past the HTTP libraries that can be replayed" in judged.words


class Unwritable:
    """As pytest's cache on a file system that can only be read."""

    def get(self, key: str, default: Any) -> Any:
        return default

    def set(self, key: str, value: object) -> None:
        warnings.warn(pytest.PytestCacheWarning(f"could not create cache path {key}"), stacklevel=2)


@pytest.mark.filterwarnings("error")
def test_a_cache_that_cannot_be_written_is_not_told_for_each_text() -> None:
    cache: Any = Unwritable()
    with pytest.raises(pytest.PytestCacheWarning):
        cache.set("count", 1)
    kept = Cache(cache)
    kept.set("count", 1)
    assert kept.get("count", None) is None
