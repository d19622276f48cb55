"""How a run is told as a whole, in each state that a pull request can be in: terminal and Markdown."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_tokenbudget.reports.baseline_report import Accepting, Diff
from pytest_tokenbudget.reports.document import Document, add
from pytest_tokenbudget.reports.markdown import Links, markdown
from pytest_tokenbudget.reports.terminal import summary_lines
from pytest_tokenbudget.reports.text import width
from support.documents import SONNET, document, finding, let_run, loop, scenario

AT = "https://github.com/shop/agent"
LINKS = Links(f"{AT}/blob/HEAD", f"{AT}/commit/HEAD", f"{AT}/actions/runs/1", f"{AT}/commit/BASE")
NAMES = [f"tests/test_support.py::test_{name}" for name in ("refund", "late_parcel", "wrong_item")]
SMALL, LARGE = loop(SONNET, 4000, [90, 120]), loop(SONNET, 5200, [90, 120])
CAUSES = [
    finding("growth", where, text, tokens=tokens, cost=cost, at=at)
    for where, text, tokens, cost, at in (
        (
            "system[0]",
            "system[0]: +1,000 tokens, re-sent on 2 turns = +2,000",
            2000,
            0.003,
            "agent/prompt.md:9",
        ),
        (
            "tools[look].description",
            "tools[look].description: +200 tokens",
            400,
            0.0006,
            "agent/tools.json:4",
        ),
        ("messages[0] user text", "messages[0] user text: added, +60 tokens", 60, 0.0001, "agent/talk.py:31"),
    )
]


def three_causes() -> Document:
    """Twenty scenarios: each of them fails for one to three of three changes."""
    scenarios = []
    for number in range(20):
        found = CAUSES[number % 3 :] if number % 2 else CAUSES[number % 3 :][:1]
        scenarios.append(
            scenario(f"tests/test_{number % 4}.py::test_{number}", "over", SMALL, LARGE, findings=found)
        )
        let_run(scenarios[-1], 1000)
    return document(scenarios)


ASKED = [
    finding(
        "turns_changed",
        "added",
        "the agent asks 1 turn that the recording does not have: user text 'Is every claim supported?'",
    ),
    finding(
        "turns_changed",
        "bounds",
        "as far as it can be told without recording: +138 prompt tokens, +0 to +1,024 output tokens, "
        "+$0.0004 to +$0.0158 a run",
    ),
]


def stale() -> Document:
    """Three scenarios that ask one call more than was recorded, beside one that is as before."""
    asking = [
        scenario(name, "stale", SMALL, [*SMALL, None], models=[SONNET] * 3, findings=ASKED) for name in NAMES
    ]
    for entry in asking:
        entry["bounds"] = {"least": add(SMALL), "most": add(LARGE)}
    return document([*asking, scenario("tests/test_shop.py::test_search", "within", SMALL, SMALL)])


def each(verdict: str, was: Any, now: Any, **more: Any) -> Document:
    return document([scenario(name, verdict, was, now) for name in NAMES], **more)


ERRORS: Any = [
    {"id": NAMES[0], "text": "ended before it was measured: AssertionError"},
    {"id": None, "text": "token_budgets/test_support.yaml: holds conflict marks of a merge (line 3)"},
]
DOCUMENTS = {
    "causes": three_causes(),
    "first": each("new", None, SMALL),
    "improved": each("improved", LARGE, SMALL),
    "errors": document(
        [scenario(NAMES[1], "within", SMALL, SMALL)],
        errors=ERRORS,
        not_judged=[{"id": NAMES[0], "outcome": "failed"}],
        unmeasured=[{"id": NAMES[2], "why": "gone"}],
    ),
    "accepted": each("within", LARGE, LARGE),
    "stale": stale(),
}


def accepting() -> Accepting:
    """All baselines raised, the first for two changes."""
    places: list[Any] = [{"file": "agent/prompt.md", "line": 9}, {"file": "agent/tools.json", "line": 4}]
    diff: Diff = {
        "version": 1,
        "base": {"name": "origin/main", "commit": "1a2b3c4d" * 5},
        "prices": {"source": "genai-prices", "version": "0.2.3"},
        "runs_per_month": 1000,
        "unchanged": 0,
        "scenarios": [
            {
                "id": name,
                "was": name,
                "matched": None,
                "change": "raised",
                "before": add(SMALL),
                "now": add(LARGE),
                "accepts": ["system", "tools"][: 1 + (name == NAMES[0])],
                "sources": places[: 1 + (name == NAMES[0])],
            }
            for name in NAMES
        ],
        "already": None,
    }
    return Accepting(
        diff, ["loosens limits in 1 place"], ["Limits changed: pyproject.toml: tolerance 5% -> 20%"]
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_markdown(name: str, golden: Any) -> None:
    accepted = accepting() if name == "accepted" else None
    golden(
        f"state-{name}.md", markdown(DOCUMENTS[name], runs_per_month=1000, links=LINKS, accepting=accepted)
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_terminal(name: str, golden: Any) -> None:
    told = []
    for columns, verbosity in ((60, -1), (80, 0)):
        lines = summary_lines(DOCUMENTS[name], columns=columns, verbosity=verbosity)
        assert all(width(line.text) <= columns or line.is_command for line in lines)
        told += [f"{columns} columns{' with -q' if verbosity else ''}", *(line.text for line in lines), ""]
    golden(f"state-{name}.txt", "\n".join(told))
