"""Ways to change what an agent sends, to be put together by the tables of the tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Finding
from pytest_tokenbudget.sources import SourceTree
from support.blocks import EPHEMERAL, text
from support.seeded import (
    FILES,
    HANDBOOK,
    SEARCH,
    Agent,
    Body,
    Change,
    changed,
    contents,
    cost,
    findings,
    record,
    replay,
    results,
    support_agent,
    tool,
)

MEASURED = ("growth", "cache_break", "cache_change", "model_changed", "rate_changed")
"""Kinds whose dollars are the difference in cost."""

InPlace = Callable[[int, Body], Any]


def unchanged(_: int, body: Body) -> Body:
    return body


@dataclass(frozen=True)
class Case:
    """One change, and what must be found: by `kind where`, phrases of the text, and the line or nothing."""

    name: str
    change: Change
    found: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that the change touches, as they are now."""
    agent: Callable[[], Agent] = support_agent
    before: Change = unchanged
    """What the recorded agent sent, where that differs from `agent`."""
    warm: bool = False
    """Whether the cache was warm when it was recorded."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def run(self) -> Run:
        """The run of the changed agent."""
        agent = self.agent()
        recorded = record(changed(agent.bodies(), self.before), agent.answers(), warm=self.warm)
        return replay(recorded, changed(agent.bodies(), self.change), **self.headers)

    def check(self) -> None:
        """Each cause once, at its place, with its line; and no other."""
        run = self.run()
        before = {path: FILES.get(path, "") for path in self.files}
        told = findings(run, SourceTree({**FILES, **self.files}, before))
        assert {f"{one.kind} {one.where}" for one in told} == set(self.found), "\n".join(map(str, told))
        assert len(told) == len(self.found), "one cause, one finding"
        for one in told:
            *phrases, line = self.found[f"{one.kind} {one.where}"]
            for phrase in phrases:
                assert phrase in one.text
            assert str(one.source or "") == line, one.text
            assert not one.source or f"{one.source.file}:{one.source.line}" in one.text
        adds_up(run, told)


def adds_up(run: Run, told: tuple[Finding, ...]) -> None:
    """Tokens to the token, dollars to the last digit."""
    sides = [(one.recorded, one.usage) for one in run.turns if one.recorded and one.estimate.prompt_tokens]
    tokens = sum(now.tokens.prompt_tokens - was.tokens.prompt_tokens for was, now in sides)
    assert sum(one.tokens or 0 for one in told if one.kind == "growth") == tokens
    dollars = sum(((cost(now) or 0) - (cost(was) or 0) for was, now in sides), Decimal(0))
    parts = sum(((one.cost_usd or 0) for one in told if one.kind in MEASURED), Decimal(0))
    assert float(parts) == pytest.approx(float(dollars), abs=1e-15)


def each(*steps: InPlace) -> Change:
    """Several changes of every turn."""

    def change(turn: int, body: Body) -> Body:
        for step in steps:
            step(turn, body)
        return body

    return change


def on(*turns: int, step: InPlace) -> InPlace:
    """A change of some turns only, counted from 0."""
    return lambda turn, body: step(turn, body) if turn in turns else None


def system(update: Callable[[int, str], str]) -> InPlace:
    """Another system prompt, by turn."""

    def step(turn: int, body: Body) -> None:
        body["system"][0]["text"] = update(turn, body["system"][0]["text"])

    return step


def before_system(line: str, *values: str) -> InPlace:
    """A line in front of the system prompt, filled by turn (the last value goes on)."""
    return system(lambda turn, words: line.format(values[min(turn, len(values) - 1)]) + "\n" + words)


def put(**options: Any) -> InPlace:
    """Other values beside the messages."""
    return lambda _, body: body.update(copy.deepcopy(options))


def question(update: Callable[[int, str], str]) -> InPlace:
    """Another first message, by turn."""

    def step(turn: int, body: Body) -> None:
        first = contents(body)[0]
        first["text"] = update(turn, first["text"])

    return step


def every_result(update: Callable[[int, str], Any], tool_use: str = "toolu_") -> InPlace:
    """Other tool results, by turn; `tool_use` begins the ids of those that change."""

    def step(turn: int, body: Body) -> None:
        for block in results(body):
            if block["tool_use_id"].startswith(tool_use):
                block["content"] = update(turn, block["content"])

    return step


def unmark(*parts: str) -> InPlace:
    """Drop the breakpoint of `system`, or of the last of the `messages`."""

    def step(_: int, body: Body) -> None:
        if "system" in parts:
            body["system"][0].pop("cache_control", None)
        if "messages" in parts:
            contents(body)[-1].pop("cache_control", None)

    return step


def mark_system(ttl: str = "5m") -> InPlace:
    def step(_: int, body: Body) -> None:
        body["system"][0]["cache_control"] = {**EPHEMERAL, "ttl": ttl}

    return step


def mark_tools(_: int, body: Body) -> None:
    body["tools"][-1]["cache_control"] = dict(EPHEMERAL)


def in_two_blocks(_: int, body: Body) -> None:
    whole = body["system"][0]["text"]
    cut = whole.index("31. When")
    body["system"] = [text(whole[:cut]), text(whole[cut:], cache_control=EPHEMERAL)]


# --- edits of the repository that the agent lives in --------------------------------------------------------

APPENDIX = " Appendix: what nobody asked for, in many words." * 3


def grow(tool_use: str) -> Any:
    return every_result(lambda _, words: words + APPENDIX, tool_use)


LONGER = (
    "Never promise a date.\nAlways answer in the language of the customer.\nAsk before you give money back.\n"
)
HANDBOOK_LINES = "agent/prompts/handbook.md:65-66"
LONGER_FILE = {"agent/prompts/handbook.md": HANDBOOK.replace("Never promise a date.\n", LONGER)}
SEARCH_LONGER = {
    **SEARCH,
    "description": f"{SEARCH['description']} Give at most five words, nouns before verbs.",
}
SEARCH_LIMIT = copy.deepcopy(SEARCH)
SEARCH_LIMIT["input_schema"]["properties"]["limit"] = {
    "type": "integer",
    "description": "How many passages to return at the most.",
}
SEARCH_BOTH = {**SEARCH_LIMIT, "description": SEARCH_LONGER["description"]}


def tools_file(*tools: Mapping[str, Any]) -> dict[str, str]:
    return {"agent/tools.json": json.dumps(tools, indent=2)}


def with_tools(*tools: Mapping[str, Any]) -> Change:
    return each(lambda _, body: body.update(tools=copy.deepcopy(list(tools))))


WEATHER = tool("weather", "Tell the weather of a city on a day.", city="Name of the city.")

TEMPLATE = {
    "agent/agent.py": (
        "from datetime import datetime\n\n\n"
        "def system(texts, session):\n"
        '    """Put together what the model is told."""\n'
        '    now = f"Current time: {datetime.now():%c}."\n'
        '    who = "Session: {id} on {host}"\n'
        '    return "\\n".join([now, who.format(id=session, host=host()), *texts])\n'
    )
}
NOW = "agent/agent.py:6"
WHO = "agent/agent.py:7"
UUIDS = tuple(f"3f2b8c1e-0d6a-4f5e-9c1b-2a3d4e5f6a{i:02d}" for i in range(4))
