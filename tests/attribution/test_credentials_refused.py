"""A real call that fails for its credentials says so in one sentence."""

from __future__ import annotations

import pytest

from support.messages_api import MessagesApi
from support.scratch_suites import Suite

ONE = """
import pytest
from agent import ask


@pytest.mark.token_budget
def test_parcel():
    assert ask("One") == "You said One"
"""


def test_it_is_one_sentence_without_a_traceback(
    suite: Suite, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite(ONE, 1)
    done = project.run("--token-budget-record=all")  # no key is set
    assert done.status == 1
    assert "test_it.py::test_parcel: No real call was made, and there is no key" in done.output
    assert "KeyError" not in done.output
    assert done.words.count("there is no key: neither") == 1, "under the test's name, and nowhere else"
    monkeypatch.setenv("MORE", " Answer at once, and in as few words as you can.")
    changed = project.run("--token-budget-record=changed")
    assert "test_it.py::test_parcel: No real call was made, and there is no key" in changed.output
    assert "KeyError" not in changed.output
    monkeypatch.delenv("MORE")
    agent = project.path / "agent.py"
    text = agent.read_text("utf-8")
    agent.write_text(text.replace('"x-api-key"', '"x-other-key"'), "utf-8")  # which the server refuses
    done = project.run("--token-budget-record=all", url=api.url)
    assert done.status == 1
    assert "test_it.py::test_parcel: the API answered 401, so the key was not accepted." in done.output
    assert "raise_for_status" not in done.output
    assert project.judge().status == 0  # the recording is as it was
