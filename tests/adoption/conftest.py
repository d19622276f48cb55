"""Fixtures of the tests of adoption."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module of tests keeps its suite."""
    return tmp_path_factory.mktemp("adoption")
