"""Tests whose names make one file name: pytest-recording's scheme leaves out what makes them differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.messages_api import MessagesApi
from support.scratch_suites import make

ALIKE = """
import pytest
from agent import ask

pytestmark = pytest.mark.token_budget


@pytest.mark.parametrize("word", ["One/Two", "One|Two", "Three"])
def test_word(word):
    ask(word)


class TestMorning:
    class TestTea:
        def test_ask(self):
            ask("One")


class TestEvening:
    class TestTea:
        def test_ask(self):
            ask("Two")
"""


def test_none_replays_what_another_recorded(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    project = make(tmp_path / "suite", pytester, ALIKE)
    recorded = project.run("--token-budget-record=all", url=api.url)
    assert "1 passed, 4 errors" in recorded.output
    assert "test_word[One/Two] and test_it.py::test_word[One|Two] would share one cassette" in recorded.output
    assert "TestMorning::TestTea::test_ask and test_it.py::TestEvening::TestTea" in recorded.output
    assert [file.name for file in tmp_path.rglob("*.yaml")] == ["test_word[Three].yaml"]
    assert len(api.charges) == 1
