"""Which commit moved which scenario, out of what replaying each commit came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pytest_tokenbudget.reports.blame_report import Replay, blame, blame_lines
from pytest_tokenbudget.reports.document import ScenarioEntry
from support import documents

PRICES = {"source": "genai-prices", "version": "0.2.3"}
A, B = "tests/test_agent.py::test_a", "tests/test_agent.py::test_b"


def scenario(
    name: str, prompt: int, verdict: str = "within", answered: int = 10, recorded: int = 1000
) -> ScenarioEntry:
    was = [documents.used(documents.HAIKU, recorded, 0, 0, answered)]
    return documents.scenario(name, verdict, was, [documents.used(documents.HAIKU, prompt, 0, 0, 10)])


def replays(*commits: Sequence[ScenarioEntry] | str | Mapping[str, Any]) -> list[Replay]:
    """Scenarios: measured. A string: why it could not be. A table: what else a replay may know."""
    found = []
    for place, one in enumerate(commits):
        commit: Any = {
            "commit": f"{place}" * 40,
            "date": f"2026-11-2{place}T09:00:00+00:00",
            "subject": f"Commit {place}",
        }
        if isinstance(one, str):
            found.append(Replay(commit, note=one))
        elif isinstance(one, Mapping):
            scenarios = one.get("scenarios", ())
            others = {key: value for key, value in one.items() if key != "scenarios"}
            document = None if one.get("same") else documents.document(scenarios)
            found.append(Replay(commit, document=document, **others))
        else:
            found.append(Replay(commit, document=documents.document(one)))
    return found


def told(*commits: Any) -> list[dict[str, tuple[Any, ...]]]:
    """By commit: what each moved scenario did, since which commit, its prompt before and now."""
    return [
        {
            move["id"]: (
                move["what"],
                (move["since"] or "")[:1],
                *(side and side["prompt_tokens"] for side in (move["before"], move["now"])),
            )
            for move in commit["moves"]
        }
        for commit in blame("a..b", replays(*commits), PRICES)["commits"]
    ]


def test_each_step_is_held_against_the_one_before() -> None:
    assert told(
        [scenario(A, 10), scenario(B, 20)],
        [scenario(A, 10), scenario(B, 25)],
        [scenario(A, 9), scenario(B, 25)],
    ) == [
        {},
        {B: ("moved", "0", 20, 25)},
        {A: ("moved", "1", 10, 9)},
    ]


def test_what_is_no_number_is_a_word() -> None:
    one = scenario(A, 10)
    stale = scenario(A, 5, "stale")
    assert told([one], [one, scenario(B, 20)], [one]) == [
        {},
        {B: ("added", "", None, 20)},
        {B: ("removed", "1", 20, None)},
    ]
    assert told([one], [stale], [stale], [one]) == [
        {},
        {A: ("stale", "0", 10, None)},
        {},
        {A: ("again", "0", 10, 10)},
    ]
    assert told([one], [stale], [scenario(A, 30)])[2] == {A: ("moved", "0", 10, 30)}


def test_a_test_that_ran_and_measured_nothing_was_not_removed() -> None:
    one, two = scenario(A, 10), scenario(B, 20)
    failed = {"scenarios": [two], "untold": {A: "failed"}}
    assert told([one, two], failed, failed, [scenario(A, 30), two]) == [
        {},
        {A: ("failed", "0", 10, None)},
        {},
        {A: ("moved", "0", 10, 30)},
    ]
    assert told([two], {"scenarios": [two], "untold": {A: "skipped"}}) == [{}, {}], "it was none before"


def test_a_commit_that_could_not_be_measured_moves_nothing_and_hides_nothing() -> None:
    assert told([scenario(A, 10)], "broken", [scenario(A, 30)]) == [{}, {}, {A: ("moved", "0", 10, 30)}]
    assert told("broken", [scenario(A, 10)], [scenario(A, 30)]) == [{}, {}, {A: ("moved", "1", 10, 30)}]
    assert told([scenario(A, 10)], {"same": True}, [scenario(A, 30)]) == [{}, {}, {A: ("moved", "0", 10, 30)}]


def test_a_renamed_test_and_a_moved_file_are_one_scenario() -> None:
    one, two = scenario(A, 10), scenario(B, 20)
    other = scenario("tests/test_agent.py::test_c", 10)
    assert told([one, two], [other, two])[1] == {other["id"]: ("renamed", "0", 10, 10)}
    moved = [scenario(name.replace("agent", "moved"), prompt) for name, prompt in ((A, 11), (B, 20))]
    step = {"scenarios": moved, "moved": {"tests/test_moved.py": "tests/test_agent.py"}}
    assert told([one, two], step)[1] == {
        moved[0]["id"]: ("moved", "0", 10, 11),
        moved[1]["id"]: ("renamed", "0", 20, 20),
    }


def test_a_new_recording_is_told() -> None:
    found = blame("a..b", replays([scenario(A, 10)], [scenario(A, 30, answered=12)]), PRICES)
    assert [move["rerecorded"] for move in found["commits"][1]["moves"]] == [True]
    assert any("recorded anew" in line.text for line in blame_lines(found, columns=100))
    accepted = blame("a..b", replays([scenario(A, 10)], [scenario(A, 30, recorded=1020)]), PRICES)
    assert [move["rerecorded"] for move in accepted["commits"][1]["moves"]] == [False], "its answers stay"


@pytest.mark.parametrize(
    ("name", "columns", "ascii_only"), [("blame.txt", 100, False), ("blame-60-ascii.txt", 60, True)]
)
def test_as_it_is_printed(
    golden: Callable[[str, str], None], name: str, columns: int, ascii_only: bool
) -> None:
    one, two = scenario(A, 1200), scenario(B, 2300)
    found = blame(
        "main..HEAD",
        replays(
            [one, two],
            {"scenarios": [scenario(A, 1670), scenario(B, 2770)], "merge": True},
            "Could not be measured: pytest ended with 2: E   SyntaxError: \x1b[31minvalid syntax",
            {
                "scenarios": [
                    scenario(A, 900, "stale"),
                    scenario(B, 2000, answered=12),
                    scenario("t.py::new", 4),
                ]
            },
            {
                "scenarios": [scenario(A, 1670)],
                "untold": {B: "failed"},
                "note": "1 test fails for another reason: x.",
            },
            {"same": True, "note": "Changes no file."},
            [scenario(A, 1670), scenario(B, 2000, answered=12)],
        ),
        PRICES,
    )
    lines = blame_lines(found, columns=columns, ascii_only=ascii_only)
    assert all(len(line.text) <= columns for line in lines)
    golden(name, "".join(f"{line.text}\n" for line in lines))
