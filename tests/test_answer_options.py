"""Options that rule the answer: a replay cannot say what they do to it, and says that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.budgeted import Judged, Project, record_test
from support.messages_api import MessagesApi

TEST = """
import json
import os

import httpx2
import pytest


@pytest.mark.token_budget
def test_it():
    body = {
        "model": "claude-opus-4-8",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": "Is it true?"}],
        **json.loads(os.environ.get("MORE", "{}")),
    }
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    if betas := os.environ.get("BETAS"):
        headers["anthropic-beta"] = betas
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600).raise_for_status()
"""


@pytest.fixture
def project(tmp_path: Path, pytester: pytest.Pytester) -> Project:
    project = record_test(tmp_path, pytester, TEST)
    assert project.judge("--token-budget-update").status == 0
    return project


def causes(judged: Judged) -> list[tuple[str, str]]:
    findings = judged.scenarios["test_it"]["findings"]
    return [(one["kind"], one["where"]) for one in findings if not one["kind"].startswith("lever")]


def test_more_effort_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", json.dumps({"output_config": {"effort": "max"}}))
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert causes(judged) == [("answer_options", "effort")]
    assert "\ntest_it: turn 1: effort is max, and was not set when" in judged.output


def test_another_beta_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETAS", "oauth-2025-04-20, inline-tools-2026-09-15")
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert causes(judged) == [("answer_options", "anthropic-beta")]
    output = judged.words
    assert (
        "turn 1: anthropic-beta is inline-tools-2026-09-15, and was not set when the answers were" in output
    )


@pytest.mark.parametrize(
    "betas", ["context-1m-2025-08-07", "oauth-2025-04-20", "interleaved-thinking-2025-05-14"]
)
def test_a_beta_that_changes_no_count_is_not_told(
    betas: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BETAS", betas)
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert causes(judged) == []
    assert "TokenBudgetWarning" not in judged.output


def test_an_answer_that_its_limit_would_cut_off_is_unknown(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", json.dumps({"max_tokens": 1}))
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (1, {"unknown"}), judged.output
    assert "at most 1 are asked for now" in judged.words


def test_breakpoints_that_the_api_would_refuse_make_it_stale(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = {"type": "text", "text": "Yes or no?", "cache_control": {"type": "ephemeral"}}
    monkeypatch.setenv("MORE", json.dumps({"messages": [{"role": "user", "content": [block] * 5}]}))
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (1, {"stale"}), judged.output
    output = judged.words
    assert "--token-budget-record" not in output, "a recording would get the same error"
    assert "refuse it with an error 400, so mend the request first: 5 cache breakpoints are set" in output
    with MessagesApi(lambda _: "Yes.") as api:
        live = project.run("--token-budget-live", url=api.url)
    assert "400" in live.output


def test_another_limit_changes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", json.dumps({"max_tokens": 2048}))
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert causes(judged) == []
    assert "TokenBudgetWarning" not in judged.output
