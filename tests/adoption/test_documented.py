"""docs/cassettes.md says of every option of vcrpy and pytest-recording what becomes of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import vcr
from pytest_recording import hooks, plugin

DOCS = Path(__file__).parents[2] / "docs" / "cassettes.md"


@pytest.fixture(scope="module")
def named() -> set[str]:
    """Everything in code spans of the section."""
    text = DOCS.read_text("utf-8")
    section = text.partition("### Options of vcrpy")[2].partition("\n## ")[0]
    return {span.removeprefix("@pytest.mark.") for span in re.findall(r"`([^`]+)`", section)}


def of_vcrpy() -> Iterator[str]:
    yield from list(inspect.signature(vcr.VCR.__init__).parameters)[1:]
    yield from list(inspect.signature(vcr.VCR._use_cassette).parameters)[1:-1]
    source = inspect.getsource(vcr.VCR.get_merged_config)
    yield from re.findall(r"kwargs\.get\(\s*\"(\w+)\"", source)


def of_pytest_recording() -> Iterator[str]:
    for name, one in vars(plugin).items():
        if type(one).__name__ == "FixtureFunctionDefinition":
            yield name
    yield from (name for name in vars(hooks) if name.startswith("pytest_"))
    source = inspect.getsource(plugin)
    yield from re.findall(r"addoption\(\s*\"(--[\w-]+)\"", source)
    yield from re.findall(r"\"markers\",\s*\"(\w+):", source)


def test_every_option_of_vcrpy(named: set[str]) -> None:
    options = set(of_vcrpy())
    assert len(options) >= 20
    assert options - named == set()


def test_every_option_mark_and_fixture_of_pytest_recording(named: set[str]) -> None:
    options = set(of_pytest_recording()) - {"--record-mode"}  # which is named with its values
    assert len(options) >= 14
    assert options - named == set()
    assert {f"--record-mode={plugin.RECORD_MODES[2]}", *plugin.RECORD_MODES} - {"none"} <= named
