"""Changed prefixes that are proved to differ from process to process; all others are edits, and stay warm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_tokenbudget.diagnosis.volatile import proved_volatile
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.wire.answers import Answer
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Pair, Request
from pytest_tokenbudget.wire.prompt import parse_prompt

BRIEF = "Be brief."
QUESTION = "Where is my parcel?"
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("search", "refund", "note")]


def asked(*system: str, said: Sequence[str] = (QUESTION,), cached: bool = True, **more: Any) -> Request:
    body: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "system": [{"type": "text", "text": text} for text in system],
        "messages": [{"role": "user", "content": text} for text in said],
        **more,
    }
    prompt = parse_prompt(body | ({"cache_control": {"type": "ephemeral"}} if cached else {}))
    return Request(Endpoint("messages"), prompt, "")


def proved(was: Sequence[Request], now: Sequence[Request], *, time_goes_by: bool = False) -> list[int]:
    pairs = [
        Pair(index, recorded=old, request=new, answer=Answer(200), how=Paired.LINEAGE)
        for index, (old, new) in enumerate(zip(was, now, strict=True))
    ]
    return sorted(proved_volatile(pairs, time_goes_by=time_goes_by))


def time(turn: int) -> str:
    return f"It is 2026-11-22 10:31:{10 + turn}."


ALIKE = [asked(BRIEF)] * 3
CLOCKS = {
    "in a text": [asked(f"{time(turn)} {BRIEF}") for turn in range(3)],
    "in front": [asked(time(turn), BRIEF) for turn in range(3)],
    "behind": [asked(BRIEF, time(turn)) for turn in range(3)],
    "in a tool": [asked(BRIEF, tools=[{**TOOLS[0], "description": time(turn)}]) for turn in range(3)],
}
VOLATILE = {
    "a clock of fractions": [asked(f"It is 10:31:07.{turn}25. {BRIEF}") for turn in range(3)],
    "an id in the question": [asked(BRIEF, said=[f"{QUESTION} (id 8f3a2c1{turn})"]) for turn in range(3)],
    "a step": [asked(BRIEF, f"Step {turn} of 9.") for turn in range(3)],
}
EDITS = {
    "nothing": ALIKE,
    "one clock for the whole run": [asked(f"{time(0)} {BRIEF}")] * 3,
    "a path": [asked(f"Work in /srv/shop/app. {BRIEF}")] * 3,
    "words of no file": [asked("The customer is called Jones.", BRIEF)] * 3,
    "words by the step": [asked(f"{BRIEF} {step}") for step in ("Plan first.", "Now act.", "Sum it up.")],
    "another question by turn": [
        asked(BRIEF, said=[text]) for text in ("Where is it?", "Why?", "When, then?")
    ],
    "a clock that nothing caches": [asked(f"{time(turn)} {BRIEF}", cached=False) for turn in range(3)],
    "a result that was cleared": [asked(BRIEF), asked(BRIEF), asked(BRIEF, said=["[cleared]"])],
    "a conversation that goes on": [asked(BRIEF, said=[QUESTION, f"No. {n}"]) for n in range(3)],
}


@pytest.mark.parametrize("change", VOLATILE)
def test_two_turns_that_differ_in_a_value_are_proof(change: str) -> None:
    assert proved(ALIKE, VOLATILE[change]) == [0, 1, 2]


@pytest.mark.parametrize("change", CLOCKS)
def test_a_clock_is_proof_in_the_replay_in_which_time_goes_by(change: str) -> None:
    assert proved(ALIKE, CLOCKS[change], time_goes_by=True) == [0, 1, 2]
    assert proved(ALIKE, CLOCKS[change]) == [], "elsewhere it is the machine that is slow"


@pytest.mark.parametrize("change", EDITS)
def test_everything_else_is_an_edit(change: str) -> None:
    assert proved(ALIKE, EDITS[change]) == []


def test_tools_in_another_order_by_turn_are_proof() -> None:
    was = [asked(BRIEF, tools=TOOLS)] * 2
    assert proved(was, [asked(BRIEF, tools=TOOLS[::-1]), asked(BRIEF, tools=TOOLS)]) == [0, 1]
    assert proved(was, [asked(BRIEF, tools=TOOLS[::-1])] * 2) == []


def test_what_differed_when_recorded_proves_nothing() -> None:
    was = [asked(f"{time(turn)} {BRIEF}") for turn in range(3)]
    now = [asked(f"{time(turn + 10)} {BRIEF}") for turn in range(3)]
    assert proved(was, now) == proved(was, now, time_goes_by=True) == []


def test_one_turn_proves_nothing() -> None:
    assert proved(ALIKE[:1], VOLATILE["a step"][:1]) == []
