"""Agents at once, recorded anew in many orders: what is on disk is what was asked, and no change to itself.

A tenth of the sessions is drawn (`make test-deep` takes all): each records, changes something, records again.
"""

from __future__ import annotations

import importlib.util
import random
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.blocks import text
from support.budgeted import Project
from support.messages_api import MessagesApi, api, tool_use
from support.sample import tenth

pytestmark = pytest.mark.newest

AGENT = """
import asyncio
import os
import random

import anthropic
import pytest

TOOLS = [{"name": "look_up", "description": "Looks it up.", "input_schema": {"type": "object"}}]
RULES = "You are a clerk who finds parcels. " * (160 + int(os.environ.get("RULES", "0")))
SYSTEM = [{"type": "text", "text": RULES, "cache_control": {"type": "ephemeral"}}]


async def find(client, name):
    words = os.environ.get("WORDS", "") if name == "rules" else ""
    messages = [{"role": "user", "content": f"Source: {name}{words}"}]
    while True:
        await asyncio.sleep(random.random() / 50)
        reply = await client.messages.create(
            model="claude-haiku-4-5", max_tokens=200, system=SYSTEM, tools=TOOLS, messages=messages
        )
        calls = [block for block in reply.content if block.type == "tool_use"]
        if not calls:
            return reply.content[0].text
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": f"In the {name}."} for call in calls
        ]
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]


async def agents():
    async with anthropic.AsyncAnthropic() as client:
        await asyncio.gather(*(find(client, name) for name in ("rules", "cases", "manuals")))


@pytest.mark.token_budget
def test_agents():
    asyncio.run(agents())
"""


def model(calls: int, rounds: int) -> Any:
    """Make a model that calls so many tools at once, so many times, before it answers: to each the same."""

    def answer(body: Mapping[str, Any]) -> Any:
        if len(body["messages"]) // 2 < rounds:
            return [text("I look."), *(tool_use("look_up") for _ in range(calls))]
        return "It is there."

    return answer


@pytest.mark.skipif(importlib.util.find_spec("ctok") is None, reason="the server counts with ctok alone here")
@pytest.mark.parametrize("seed", tenth(range(20), of="sessions recorded anew"))
def test_what_is_recorded_anew_is_what_was_asked(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    if draw.random() < 0.7:  # as the API does; else with the ids that the same request had before
        monkeypatch.setattr(api, "identifier", lambda prefix, *_: f"{prefix}_01{uuid.uuid4().hex[:22]}")
    (tmp_path / "test_it.py").write_text(AGENT, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    project, script = Project(tmp_path, pytester), model(draw.choice([1, 2]), draw.choice([1, 2]))
    for mode in ("all", *draw.choices(("all", "changed"), k=3)):
        with MessagesApi(script) as server:
            done = project.run(f"--token-budget-record={mode}", url=server.url)
        assert done.status == 0, done.output
        updated = project.judge("--token-budget-update")
        assert updated.status == 0, updated.output
        judged = project.judge()
        (entry,) = judged.document["scenarios"]
        assert (judged.status, entry["verdict"]) == (0, "within"), judged.output
        assert entry["measured"] == entry["baseline"]
        assert {turn["basis"] for turn in entry["turns"]} == {"recorded"}
        assert not (tmp_path / "token_budgets/accepted").exists(), "nothing but the recording was accepted"
        monkeypatch.setenv(draw.choice(["RULES", "WORDS"]), str(draw.randrange(9)))
