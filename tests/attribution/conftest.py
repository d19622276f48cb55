"""Fixtures of the tests of attribution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.budgeted import Project, preload
from support.messages_api import MessagesApi
from support.scratch_suites import Suite, echo, make, record


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> None:
    preload()


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi(echo) as server:
        yield server


@pytest.fixture
def suite(tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi) -> Suite:
    def made(text: str, calls: int, **files: str) -> Project:
        project = make(tmp_path / "suite", pytester, text, **files)
        record(project, api, calls)
        return project

    return made
