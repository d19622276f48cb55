"""Turns that were recorded one after another and are asked for at once now are told; they decide nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.messages_api import MessagesApi
from support.scratch_suites import echo, make

AGENT = """
import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2

WORDS = ("One", "Two", "Three")
URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com") + "/v1/messages"
OPTIONS = {"headers": {"x-api-key": "k"}, "timeout": 600}


def body(words):
    return {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": words}]}


def by_threads():
    together = threading.Barrier(len(WORDS), timeout=600)

    def ask(words):
        whole = httpx2.Request("POST", URL, json=body(words)).read()

        def sent():
            together.wait()  # all have begun to send, and none has an answer
            yield whole

        headers = {"x-api-key": "k", "content-length": str(len(whole))}
        httpx2.post(URL, content=sent(), headers=headers, timeout=600).raise_for_status()

    with ThreadPoolExecutor(len(WORDS)) as pool:
        list(pool.map(ask, WORDS))


async def gathered():
    async with httpx2.AsyncClient(**OPTIONS) as client:
        answers = await asyncio.gather(*(client.post(URL, json=body(words)) for words in WORDS))
    assert [answer.raise_for_status().status_code for answer in answers] == [200] * len(WORDS)


def in_turn():
    for words in WORDS:
        httpx2.post(URL, json=body(words), **OPTIONS).raise_for_status()


WAYS = {"threads": by_threads, "gather": lambda: asyncio.run(gathered()), "in turn": in_turn}


def run():
    WAYS[os.environ["CASE"]]()
"""
SUITE = """
import agent
import pytest


@pytest.mark.token_budget
def test_it():
    agent.run()
"""
TOLD = "test_it.py::test_it: turns that were recorded one after the other are asked for at once now: "
COMMAND = "Record it anew to know: pytest test_it.py::test_it --token-budget-record=all"


def test_what_shows_is_told_and_decides_nothing(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make(tmp_path / "suite", pytester, SUITE, agent=AGENT)
    monkeypatch.setenv("CASE", "in turn")
    with MessagesApi(echo) as api:
        recorded = project.run(
            "--token-budget", "--token-budget-record=once", "--token-budget-update", url=api.url
        )
    assert recorded.status == 0, recorded.output
    for case in ("threads", "gather", "in turn"):
        monkeypatch.setenv("CASE", case)
        judged = project.judge()
        assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
        assert (TOLD in judged.words, COMMAND in judged.words) == (case != "in turn",) * 2, judged.output
        assert ("2 more pairs" in judged.words) == (case != "in turn")


@pytest.mark.parametrize("case", ["threads", "gather"])
def test_what_was_recorded_at_once_is_as_it_was(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The server answers none of the three before all are there."""
    project = make(tmp_path / "suite", pytester, SUITE, agent=AGENT)
    monkeypatch.setenv("CASE", case)
    together = threading.Barrier(3, timeout=600)

    def says(body: Mapping[str, Any]) -> str:
        together.wait()
        return echo(body)

    with MessagesApi(says) as api:
        recorded = project.run(
            "--token-budget", "--token-budget-record=once", "--token-budget-update", url=api.url
        )
    assert recorded.status == 0, recorded.output
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert TOLD not in judged.words
