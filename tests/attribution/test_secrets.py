"""A prompt that holds a secret: hidden in the recording, and still the same prompt in replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.messages_api import MessagesApi
from support.scratch_suites import Suite

SUITE = """
import os

import pytest
from agent import ask


@pytest.mark.token_budget
def test_it():
    assert ask(f"Deploy with {os.environ['DEPLOY']} and {os.environ['HOST_TOKEN']}.")
"""
KEY = "sk-ant-api03-0123456789abcdef"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY", KEY)
    monkeypatch.setenv("HOST_TOKEN", "correct-horse-battery")


def test_the_same_prompt_is_unchanged(suite: Suite) -> None:
    project = suite(SUITE, 1)
    cassette = next(Path(project.path, "cassettes").rglob("*.yaml")).read_text("utf-8")
    assert "Deploy with REDACTED and REDACTED." in cassette
    (entry,) = project.judge().document["scenarios"]
    assert (entry["verdict"], entry["basis"]) == ("within", "recorded")


def test_another_secret_of_the_same_kind_is_no_change(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(SUITE, 1)
    monkeypatch.setenv("DEPLOY", "sk-ant-api03-fedcba9876543210")
    monkeypatch.setenv("HOST_TOKEN", "another-horse")
    (entry,) = project.judge().document["scenarios"]
    assert entry["basis"] == "recorded"


def test_a_change_beside_a_secret_is_a_change(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(SUITE, 1)
    monkeypatch.setenv("DEPLOY", f"care, {KEY}, slowly, and tell us when it is done")
    (entry,) = project.judge().document["scenarios"]
    assert entry["basis"] in ("counted", "estimated")
    assert entry["measured"]["prompt_tokens"] > entry["baseline"]["prompt_tokens"] + 5


def test_recording_what_changed_calls_nothing_for_it(suite: Suite, api: MessagesApi) -> None:
    project = suite(SUITE, 1)
    assert project.run("--token-budget-record=changed", url=api.url).status == 0
    assert len(api.charges) == 1
