"""A model without a row of its own: its changed prompts are estimated, and that is said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.budgeted import Judged, Project, record_test

TEST = """
import os

import httpx2
import pytest


def ask(*texts):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    system = "Be brief." + os.environ.get("MORE", "")
    body = {"model": "claude-opus-4-8", "max_tokens": 1024, "system": system, "messages": messages}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=60).raise_for_status()


@pytest.mark.token_budget
def test_two_turns():
    ask("Is it true?")
    ask("Is it true?", "Yes.", "Really?")


@pytest.mark.token_budget
def test_one_turn():
    ask("Is it false?")
"""
SENTENCE = "claude-opus-9 is not a known model: "


@pytest.fixture
def project(tmp_path: Path, pytester: pytest.Pytester) -> Project:
    """Recorded with a model that has a row, and then renamed in every file."""
    project = record_test(tmp_path, pytester, TEST)
    for path in (tmp_path / "test_it.py", *tmp_path.rglob("*.yaml")):
        path.write_text(path.read_text("utf-8").replace("claude-opus-4-8", "claude-opus-9"), "utf-8")
    assert project.judge("--token-budget-update").status == 0
    return project


def assumed(judged: Judged) -> dict[str, list[str]]:
    return {
        name: [one["text"] for one in scenario["findings"] if one["kind"] == "assumed_model"]
        for name, scenario in judged.scenarios.items()
    }


def test_what_did_not_change_needs_no_row(project: Project) -> None:
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert assumed(judged) == {"test_two_turns": [], "test_one_turn": []}
    assert SENTENCE not in judged.words


def test_a_small_change_passes_and_is_told_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", " Be kind.")
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert {scenario["basis"] for scenario in judged.scenarios.values()} == {"estimated"}
    for texts in assumed(judged).values():
        assert len(texts) == 1, "once for both turns"
        assert texts[0].startswith(SENTENCE)
    output = judged.words
    assert output.count(f" and 1 more: {SENTENCE}") == 1, judged.output
    assert "--token-budget-count=api" in output


def test_a_failure_says_it_with_its_causes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", " Be kind, and never rude." * 20)
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (1, {"over"}), judged.output
    assert all(len(texts) == 1 for texts in assumed(judged).values())
    assert f" and 1 more: {SENTENCE}" in judged.words
