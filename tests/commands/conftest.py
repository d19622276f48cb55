"""Fixtures of the commands that run a suite."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from support import agent_suite
from support.apart import warm_python
from support.scratch import Scratch


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run Python without its imports, and pytest without other plugins: a replay takes less."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(sys, "executable", warm_python())


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite, recorded once."""
    folder = tmp_path_factory.mktemp("recorded") / "suite"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        agent_suite.record(folder)
    return folder


@pytest.fixture
def repo(recorded: Path, tmp_path: Path, quick: None) -> Scratch:
    """A repository of one commit: a suite that is within its budget."""
    shutil.copytree(recorded, tmp_path / "repo")
    scratch = Scratch.create(tmp_path / "repo")
    scratch.commit("Begin")
    return scratch
