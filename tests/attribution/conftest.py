"""Fixtures of the tests of attribution."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from support.budgeted import Project
from support.messages_api import Charge, MessagesApi
from support.scratch_suites import Suite, echo, make, record


class Recording(NamedTuple):
    """A suite with its recordings and baselines, and what the server charged for it."""

    folder: Path
    charges: list[Charge]


@pytest.fixture(scope="session")
def recordings() -> dict[object, Recording]:
    """Hold what `suite` has recorded, by the files of the suite."""
    return {}


@pytest.fixture
def suite(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    pytester: pytest.Pytester,
    api: MessagesApi,
    recordings: dict[object, Recording],
) -> Suite:
    """Return what makes a suite: it is recorded once, and the ledger of `api` has the charges of that."""

    def made(text: str, calls: int, **files: str) -> Project:
        of = (text, *sorted(files.items()))
        if of not in recordings:
            first = make(tmp_path_factory.mktemp("recorded") / "suite", pytester, text, **files)
            with MessagesApi(echo) as server:
                record(first, server, calls)
                recordings[of] = Recording(first.path, [*server.charges])
        shutil.copytree(recordings[of].folder, tmp_path / "suite")
        api.charges.extend(recordings[of].charges)
        return Project(tmp_path / "suite", pytester)

    return made
