"""Prefixes that differ from process to process."""

from __future__ import annotations

import pytest
from changes import NOW, TEMPLATE, WHO, Case, before_system, each


def per_process(name: str, line: str, value: str, kind: str, source: str = "") -> Case:
    """A value in front of the system prompt that is the same on every turn, and another in every process."""
    found = {
        "volatile system[0]": ("system_changed", kind, "is in no file of the repository", source),
        "growth system[0]": ("re-sent on 4 turns", source),
    }
    return Case(name, each(before_system(line, value)), found, TEMPLATE)


def another_value(name: str, line: str, was: str, now: str, kind: str, source: str) -> Case:
    """The same line as recorded, filled with another value of the same length."""
    return Case(
        name,
        each(before_system(line, now)),
        {"volatile system[0]": ("system_changed", kind, source)},
        TEMPLATE,
        before=each(before_system(line, was)),
    )


VOLATILE = [
    per_process("a date", "Current time: {}.", "2026-11-21T10:00:01Z", "date or time", NOW),
    per_process("a session", "Session: {} on web", "brave-otter-9", "UUID or random id", WHO),
    per_process(
        "a path that no file knows", "Work in {}", "/tmp/pytest-of-ci/run-81/shop", "path or host name"
    ),
    per_process("a text that no file knows", "{}", "Mr Jones wants it in verse.", "changed text"),
    another_value("another date", "Current time: {}.", "2026-11-20", "2026-11-21", "date or time", NOW),
    another_value("another counter", "Session: {} on web", "41", "42", "counter", WHO),
    another_value("another host", "Session: 1 on {}", "blue", "grey", "changed text", WHO),
    Case(
        "tools in hash order",
        each(lambda _, body: body["tools"].reverse()),
        {"volatile tools": ("another order", "differs from process to process", "")},
    ),
    Case(
        "a set in a schema",
        each(lambda _, body: body["tools"][2]["input_schema"]["required"].reverse()),
        {"volatile tools[refund].input_schema": ("tools_changed, another order", "")},
    ),
]


@pytest.mark.parametrize("case", VOLATILE, ids=str)
def test_volatile_prefixes(case: Case) -> None:
    case.check()
