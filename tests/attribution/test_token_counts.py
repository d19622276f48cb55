"""An agent that trims its prompt by `count_tokens` trims a changed one in replay as it does live."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.messages_api import MessagesApi
from support.scratch_suites import make

AGENT = """
import os

import httpx2

URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
RULE = "The parcel waits in the shop until the customer comes. "
CHAPTERS = [f"Chapter {n}. {RULE * 20}" for n in range(4)]
LIMIT = 9000


def post(path, body):
    answer = httpx2.post(f"{URL}/v1/messages{path}", json=body, headers={"x-api-key": "k"}, timeout=600)
    return answer.raise_for_status().json()


def ask(words):
    chapters = list(CHAPTERS)
    while True:
        content = [{"type": "text", "text": text} for text in [*chapters, words]]
        body = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": content}]}
        if post("/count_tokens", body)["input_tokens"] <= LIMIT:
            return post("", {**body, "max_tokens": 50})["content"][0]["text"]
        chapters.pop()
"""
SUITE = """
import pytest
from agent import ask


@pytest.mark.token_budget
def test_it():
    assert ask("How long does a parcel wait?")
"""


def test_a_lower_limit_trims_in_replay_what_it_trims_live(tmp_path: Path, pytester: pytest.Pytester) -> None:
    project = make(tmp_path / "suite", pytester, SUITE, agent=AGENT)
    with MessagesApi(lambda _: "Until it is fetched.") as api:
        assert project.run("--token-budget-record=once", url=api.url).status == 0
        assert project.judge("--token-budget-update").status == 0
        (tmp_path / "suite/agent.py").write_text(AGENT.replace("9000", "600"), "utf-8")
        judged = project.judge()
        before = len(api.charges)
        assert project.run("--token-budget-disable", url=api.url).status == 0
        (charge,) = api.charges[before:]
    entry = judged.scenarios["test_it"]
    assert (judged.status, entry["verdict"]) == (0, "improved"), judged.output
    truth = charge.usage.prompt_tokens
    assert entry["measured"]["prompt_tokens"] == pytest.approx(truth, rel=0.05)
