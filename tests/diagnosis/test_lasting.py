"""Which changed prefixes earlier runs of the changed agent have written, so that a warm start finds them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_tokenbudget.diagnosis.volatile import is_lasting
from pytest_tokenbudget.sources.tree import SourceTree
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt

RULES = "Never promise a date that nobody has confirmed, and sign with your name."
SOURCES = SourceTree({"rules.md": RULES, "agent.py": 'SYSTEM = "Be brief and friendly to everybody."'})
TIME = "It is 2026-11-22 10:31:07."
QUESTION = "Where is my parcel?"


def asked(*system: str, question: str = QUESTION, cached: bool = True, **more: Any) -> Prompt:
    body: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "system": [{"type": "text", "text": text} for text in system],
        "messages": [{"role": "user", "content": question}],
        **more,
    }
    return parse_prompt(body | ({"cache_control": {"type": "ephemeral"}} if cached else {}))


@pytest.mark.parametrize(
    ("now", "lasting"),
    [
        (asked("Be brief."), True),
        (asked("Be brief.", RULES), True),
        (asked(RULES, "Be brief."), True),
        (asked(TIME, "Be brief."), False),
        (asked("Be brief.", TIME), False),
        (asked(f"{TIME} Be brief."), False),
        (asked("The customer is called Jones.", "Be brief."), False),
        (asked("Be brief.", question="Where is my refund, then?"), True),
        (asked("Be brief.", question=f"{TIME} {QUESTION}"), False),
        (asked("Be brief.", question=f"{TIME} {QUESTION}", cached=False), True),
        (asked("Be brief.", tools=[{"name": "search", "description": RULES, "input_schema": {}}]), True),
        (asked("Be brief.", tools=[{"name": "search", "description": TIME, "input_schema": {}}]), False),
    ],
)
def test_what_lasts(now: Prompt, lasting: bool) -> None:
    assert is_lasting(asked("Be brief."), now, SOURCES) is lasting
