"""Verdicts of the prompt cache are proved: its split has bounds, and an edit is no loss until proved."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import time_machine
import yaml

from support.blocks import text
from support.budgeted import Judged, Project

MARK = {"cache_control": {"type": "ephemeral"}}
RULES = " ".join(f"Rule {number}: answer the customers of the shop briefly." for number in range(300))
FILE = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
URL = "https://api.anthropic.com/v1/messages"

TEST = """
import json
import pathlib

import httpx2
import pytest

import agent


@pytest.mark.token_budget
def test_it():
    for body in agent.requests(json.loads(pathlib.Path("bodies.json").read_text("utf-8"))):
        httpx2.post("https://api.anthropic.com/v1/messages", json=body)
"""
AGAIN = "once more in another process: "
UNCHANGED = "def requests(bodies):\n    return bodies\n"


def body(system: Sequence[Any], *content: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": list(content)}]
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 50,
        "system": list(system),
        "messages": messages,
        **more,
    }


def usage(uncached: int, written: int, read: int) -> dict[str, int]:
    return {
        "input_tokens": uncached,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": 5,
    }


def interaction(asked: Mapping[str, Any], billed: Mapping[str, int]) -> dict[str, Any]:
    said = {
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [text("Yes.")],
        "stop_reason": "end_turn",
        "usage": billed,
    }
    headers = {"content-type": ["application/json"]}
    return {
        "request": {"method": "POST", "uri": URL, "headers": headers, "body": json.dumps(asked)},
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": headers,
            "body": {"string": json.dumps(said)},
        },
    }


class Recorded(Project):
    """A project with one scenario that asks the bodies of a file, as its agent changes them."""

    def __init__(self, path: Path, pytester: pytest.Pytester) -> None:
        super().__init__(path, pytester)
        (path / "pytest.ini").write_text("[pytest]\npythonpath = .\n", "utf-8")
        (path / "test_it.py").write_text(TEST, "utf-8")

    def record(
        self, *turns: tuple[dict[str, Any], dict[str, int]], tests: Sequence[str] = ("test_it",)
    ) -> None:
        """Write the cassettes and the baseline of tests that ask these requests, with this usage."""
        (self.path / "bodies.json").write_text(json.dumps([asked for asked, _ in turns]), "utf-8")
        kept = {"version": 1, "interactions": [interaction(*turn) for turn in turns]}
        for test in tests:
            cassette = self.path / "cassettes" / "test_it" / f"{test}.yaml"
            cassette.parent.mkdir(parents=True, exist_ok=True)
            cassette.write_text(yaml.safe_dump(kept), "utf-8")
        self.change(UNCHANGED)
        assert self.judge("--token-budget-update").status == 0

    def change(self, agent: str) -> None:
        """Write the agent."""
        (self.path / "agent.py").write_text(agent, "utf-8")

    def judge(self, *arguments: str, url: str | None = None) -> Judged:
        """Judge in a moment, as on a machine that is never slow; a second replay has a clock of its own."""
        with time_machine.travel(datetime.datetime.now(datetime.UTC), tick=False):
            return super().judge(*arguments, url=url)

    def changed(self, agent: str) -> Judged:
        """Judge another agent."""
        self.change(agent)
        return self.judge()

    def accept(self, told: Judged) -> Judged:
        """Accept what a run told, and judge the same agent again: that is booked, and no doubt is left."""
        update = self.judge("--token-budget-update")
        assert update.status == 0
        assert "suspected" not in update.words, "it is booked"
        after = self.judge()
        assert (after.status, after.verdicts) == (0, {"within"}), after.output
        booked, charged = after.scenarios["test_it"]["baseline"], told.scenarios["test_it"]["measured"]
        for metric in ("prompt_tokens", "cache_read_input_tokens"):  # an id has some tokens more or less
            assert booked[metric] == pytest.approx(charged[metric], abs=60)
        assert booked["cost_usd"] == pytest.approx(charged["cost_usd"], rel=0.01)
        assert AGAIN not in after.output
        assert "suspected" not in after.words, "it was accepted as what it is"
        accepted = self.path / "token_budgets" / "accepted" / "test_it.yaml"
        before = accepted.read_bytes()
        assert self.judge("--token-budget-update").status == 0
        assert accepted.read_bytes() == before, "a second update writes nothing"
        return after


@pytest.fixture
def project(tmp_path: Path, pytester: pytest.Pytester) -> Recorded:
    return Recorded(tmp_path, pytester)


CLOCK = """
import itertools

SECONDS = itertools.count(10)


def requests(bodies):
    for body in bodies:
        body["system"][0]["text"] = f"It is 10:31:{next(SECONDS)}. " + body["system"][0]["text"]
    return bodies
"""
UNSEEN = {
    "web search": body([text(RULES, **MARK)], text("Where is it?", **MARK), tools=[SEARCH]),
    "a file": body([text(RULES, **MARK)], FILE, text("Where is it?", **MARK)),
}


@pytest.mark.parametrize("kind", UNSEEN)
def test_a_clock_in_front_of_what_cannot_be_counted_is_no_silent_pass(project: Recorded, kind: str) -> None:
    asked = UNSEEN[kind]
    project.record((asked, usage(3, 4800, 0)), (asked, usage(3, 0, 4800)), (asked, usage(3, 0, 4800)))
    result = project.changed(CLOCK)
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert "date or time" in result.words
    assert result.scenarios["test_it"]["measured"]["cache_read_input_tokens"] == 0


GONE = """
def requests(bodies):
    for body in bodies:
        content = body["messages"][0]["content"]
        content[:] = [block for block in content if block["type"] == "text"]
    return bodies
"""
BILLED = {
    "cached": [usage(3, 4800, 0), usage(3, 0, 4800), usage(3, 0, 4800)],
    "not cached": [usage(4803, 0, 0)] * 3,
}


@pytest.mark.parametrize("kind", BILLED)
def test_a_file_that_is_gone_is_what_was_billed_beside_all_else(project: Recorded, kind: str) -> None:
    asked = UNSEEN["a file"] if kind == "cached" else body([text(RULES)], FILE, text("Where is it?"))
    project.record(*((asked, billed) for billed in BILLED[kind]))
    result = project.changed(GONE)
    assert (result.status, result.verdicts) == (0, {"improved"}), result.output
    entry = result.scenarios["test_it"]
    assert entry["basis"] == "estimated"
    assert entry["measured"]["prompt_tokens"] == pytest.approx(3 * 3612, rel=0.08)
    read = entry["measured"]["cache_read_input_tokens"]
    assert read == pytest.approx(2 * 3610 if kind == "cached" else 0, rel=0.08)
    assert project.judge("--token-budget-update").status == 0
    after = project.judge()
    assert (after.status, after.verdicts) == (0, {"within"}), after.output
    assert after.scenarios["test_it"]["measured"] == entry["measured"]


def test_two_files_that_are_gone_are_unknown(project: Recorded) -> None:
    project.record((TWO, usage(3, 9000, 0)), (TWO, usage(3, 0, 9000)))
    assert project.changed(GONE).verdicts == {"unknown"}, "nobody knows how much either was"


MOVED = """
def requests(bodies):
    content = bodies[1]["messages"][0]["content"]
    content.insert(2, {"type": "text", "text": "Please."})
    return bodies
"""
TWO = body(
    [text("Answer briefly.")],
    FILE,
    text("The first.", **MARK),
    FILE | {"title": "Another"},
    text("The second.", **MARK),
)


def test_a_limit_between_the_best_and_the_worst_case_is_unknown(project: Recorded) -> None:
    """Two files of unknown size with a breakpoint between: nobody can say how much of them is still read."""
    project.record((TWO, usage(3, 9000, 0)), (TWO, usage(3, 0, 9000)))
    result = project.changed(MOVED)
    assert (result.status, result.verdicts) == (1, {"unknown"}), result.output
    assert "whether it is within its budget cannot be told" in result.output
    assert "2 blocks of its prompt have no known size" in result.output
    assert 'the first difference is messages[0] user text: now "Please."' in result.words
    entry = result.scenarios["test_it"]
    least, most = entry["bounds"]["least"], entry["bounds"]["most"]
    for first_file in (10, 2000, 4500, 7000, 8900):  # of whatever sizes the two files are, 9,000 together
        read = first_file + 15  # and the texts up to the first breakpoint
        asked = 9003 + 9005  # "Please." has 2
        dollars = (9003 * 3.75 + read * 0.3 + (9005 - read) * 3.75 + 10 * 15) / 1e6
        assert least["prompt_tokens"] <= asked <= most["prompt_tokens"]
        assert least["cost_usd"] <= dollars <= most["cost_usd"], first_file
    (told,) = [one["text"] for one in entry["findings"] if one["where"] == "bounds"]
    assert told.startswith("as far as it can be told without recording: +2 prompt tokens, 0 output tokens, +")
    assert project.judge("--token-budget-update").verdicts == {"unknown"}, "nothing unknown is accepted"


def test_bounds_without_a_limit_between_them_are_told_and_pass(project: Recorded) -> None:
    wide = "[tool.tokenbudget.tolerance]\ncost_usd = '2000%'\ncache_share = 100\n"
    (project.path / "pyproject.toml").write_text(wide, "utf-8")
    project.record((TWO, usage(3, 9000, 0)), (TWO, usage(3, 0, 9000)))
    result = project.changed(MOVED)
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    (told,) = [f["text"] for f in result.scenarios["test_it"]["findings"] if f["kind"] == "cache_change"]
    assert told.startswith("turn 2: up to ")
    assert "nobody can say how many: 2 blocks of its prompt have no known size" in told


WARM = body([text(RULES, **MARK)], text("Where is it?"))
EDITS = {
    "a rule more": '" Never promise an hour to anybody."',
    "words that code makes": '" never promise a date or an hour.".upper()',
    "a path": '" Work in /srv/shop/app and nowhere else."',
    "a schema": '\' {"limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 10}}\'',
    "a date": '" Today is Saturday, 28 November 2026 (2026-11-28)."',
    "a clock that stands for a whole run": '" It is 10:31:07."',
}
EDIT = """
def requests(bodies):
    for body in bodies:
        body["system"][0]["text"] += {text}
    return bodies
"""


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_what_was_warm_is_no_lost_cache(project: Recorded, edit: str) -> None:
    """A guess is no proof: not the look of a text, nor that no file of the repository holds it."""
    project.record((WARM, usage(12, 0, 3600)))
    result = project.changed(EDIT.format(text=EDITS[edit]))
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert result.scenarios["test_it"]["measured"]["cache_read_input_tokens"] > 3600


COLD = [(WARM, usage(12, 3600, 0))]
MADE = {
    "of this process": ('" It is " + datetime.datetime.now().strftime("%H:%M:%S") + "."', "over"),
    "the same in every process": ('" It is " + "70:13:01"[::-1] + "."', "within"),
}
MAKES = "import datetime\n" + EDIT


@pytest.mark.parametrize("made", MADE)
def test_a_second_replay_judges_where_a_verdict_hangs_on_it(project: Recorded, made: str) -> None:
    """A value that no file holds is a lost cache where another process fills in another one, else an edit."""
    text, verdict = MADE[made]
    project.record((WARM, usage(12, 0, 3600)))
    result = project.changed(MAKES.format(text=text))
    assert (result.status, result.verdicts) == (int(verdict == "over"), {verdict}), result.output
    read = result.scenarios["test_it"]["measured"]["cache_read_input_tokens"]
    assert (read == 0) == (verdict == "over")
    assert "replayed 1 scenario once more in another process: " in result.output
    assert "suspected" not in result.output
    assert "1 failed, 1 passed" not in result.output, "one test counts once"
    proof = "a second replay proves it: system[0] differs from process to process (date or time)"
    assert (proof in result.words) == (verdict == "over")
    if verdict == "over":
        assert "00:00:00" not in result.output, "no time that nobody asked"
        project.accept(result)
    else:
        untouched = (project.path / "token_budgets" / "test_it.yaml").read_bytes()
        assert project.judge("--token-budget-update").status == 0
        assert (project.path / "token_budgets" / "test_it.yaml").read_bytes() == untouched, "it passes"


STAMPED = """
import datetime


def requests(bodies):
    for body in bodies:
        stamp = datetime.datetime.now().strftime("{format}")
        body["system"][0]["text"] = f"It is {{stamp}}. " + body["system"][0]["text"]
        yield body
"""
COLD_TURNS = [(WARM, usage(12, 3600, 0)), (WARM, usage(12, 0, 3600)), (WARM, usage(12, 0, 3600))]
CLOCKS = {"%H:%M:%S": "over", "%s": "over", "%H:%M": "within"}


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_clock_is_judged_by_a_replay_in_which_time_goes_by(project: Recorded, clock: str) -> None:
    """A replay takes no time, so that all its turns look alike; a real run takes seconds."""
    project.record(*COLD_TURNS)
    result = project.changed(STAMPED.format(format=clock))
    verdict = CLOCKS[clock]
    assert (result.status, result.verdicts) == (int(verdict == "over"), {verdict}), result.output
    measured = result.scenarios["test_it"]["measured"]
    assert (measured["cache_read_input_tokens"] == 0) == (verdict == "over")
    proof = "a second replay proves it, in which a second goes by with each answer"
    assert (proof in result.words) == (verdict == "over"), result.output
    assert ("suspected" in result.words) == (verdict == "within"), result.output
    if verdict == "over":
        assert result.over("test_it") == {"cache_share", "cost_usd"}
        assert "(date or time)" in result.words
        assert measured["prompt_tokens"] == pytest.approx(3 * 3622, abs=60)
        after = project.accept(result)
        assert after.scenarios["test_it"]["baseline"] == measured
        assert after.scenarios["test_it"]["measured"] == measured


IDS = """
import uuid


def requests(bodies):
    run = uuid.uuid4().hex
    for body in bodies:
        body["system"][0]["text"] = f"Run {run}. " + body["system"][0]["text"]
        yield body
"""
CHARGED = {
    "a clock of seconds": (STAMPED.format(format="%H:%M:%S"), COLD_TURNS),
    "a clock of seconds, warm": (STAMPED.format(format="%H:%M:%S"), [(WARM, usage(12, 0, 3600))] * 3),
    "an id of the process": (IDS, [(WARM, usage(12, 0, 3600))] * 3),
}
LOST = {"a clock of seconds": 3, "a clock of seconds, warm": 3, "an id of the process": 1}
"""How many turns write what comes behind the value."""
LONGER = """

def requests(bodies, asked=requests):
    for body in asked(bodies):
        body["system"][0]["text"] += " Never promise anything to anybody, and say so at once." * 60
        yield body
"""


@pytest.mark.parametrize("value", CHARGED)
def test_what_a_second_replay_charges_is_what_is_accepted(project: Recorded, value: str) -> None:
    """What was told is booked: the same agent is neither over nor improved by it, and a better one is."""
    agent, turns = CHARGED[value]
    project.record(*turns)
    result = project.changed(agent)
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    after = project.accept(result)
    read = after.scenarios["test_it"]["measured"]["cache_read_input_tokens"]
    assert read == pytest.approx(result.scenarios["test_it"]["measured"]["cache_read_input_tokens"], abs=60)
    stability = project.judge("--token-budget-stability")
    assert (stability.status, "the prefix of another process" in stability.words) == (1, True)
    assert "nothing proves it" not in stability.words, "that was the proof"
    assert project.changed(UNCHANGED).verdicts == {"improved"}
    project.change(agent)
    assert project.judge("--token-budget-update").status == 0
    longer = project.changed(agent + LONGER)
    assert (longer.verdicts, longer.over("test_it")) == ({"over"}, {"prompt_tokens", "cost_usd"})
    lost = longer.scenarios["test_it"]["measured"]["cache_creation_input_tokens"]
    assert lost > after.scenarios["test_it"]["measured"]["cache_creation_input_tokens"] + LOST[value] * 600
    project.accept(longer)


def test_an_update_by_several_processes_accepts_what_was_told(project: Recorded) -> None:
    project.record(*COLD_TURNS)
    project.change(STAMPED.format(format="%H:%M:%S"))
    told = project.judge("-n", "2")
    assert told.verdicts == {"over"}
    assert project.judge("-n", "2", "--token-budget-update").status == 0
    after = project.judge("-n", "2")
    assert (after.status, after.verdicts) == (0, {"within"}), after.output
    assert after.scenarios["test_it"]["measured"] == told.scenarios["test_it"]["measured"]


def test_an_update_replays_once_more_only_where_a_judging_run_does(project: Recorded) -> None:
    """What is over by its tokens is accepted as it is told: the clock beside it is not charged."""
    project.record(*COLD_TURNS)
    grown = project.changed(STAMPED.format(format="%H:%M:%S") + LONGER)
    assert (grown.verdicts, AGAIN in grown.output) == ({"over"}, False)
    update = project.judge("--token-budget-update")
    assert (update.status, AGAIN in update.output) == (0, False), update.output
    after = project.judge()
    assert (after.status, after.verdicts) == (0, {"within"}), after.output
    assert after.scenarios["test_it"]["baseline"] == grown.scenarios["test_it"]["measured"]


def test_a_clock_that_was_accepted_as_it_stands_still_goes_on_to_do_so(project: Recorded) -> None:
    """Baselines of before have the numbers of a replay in which no time goes by. They hold."""
    project.record(*COLD_TURNS)
    still = STAMPED.format(format="%H:%M:%S").replace("datetime.datetime.now()", "datetime.time(10, 31, 7)")
    project.change(still)
    assert project.judge("--token-budget-update-all").status == 0
    accepted = (project.path / "token_budgets" / "accepted" / "test_it.yaml").read_text("utf-8")
    assert "10:31:07" in accepted
    assert "volatile" not in accepted
    result = project.changed(STAMPED.format(format="%H:%M:%S"))
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    measured = result.scenarios["test_it"]["measured"]
    assert measured == result.scenarios["test_it"]["baseline"]
    assert project.judge("--token-budget-update").status == 0
    assert project.judge().scenarios["test_it"]["measured"] == measured


def listed(path: Path) -> tuple[dict[str, int], list[ElementTree.Element]]:
    """Return the counts of a JUnit file, and its test cases."""
    (suite,) = ElementTree.parse(path).iter("testsuite")
    counts = ("tests", "failures", "errors", "skipped")
    return {name: int(suite.get(name, "")) for name in counts}, [*suite.iter("testcase")]


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("processes", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_test_is_reported_once_whatever_a_second_replay_says(
    project: Recorded, processes: Sequence[str], made: str
) -> None:
    text, verdict = MADE[made]
    project.record((WARM, usage(12, 0, 3600)))
    project.change(MAKES.format(text=text))
    result = project.judge(*processes, "--junitxml=junit.xml", "-rA")
    failed = int(verdict == "over")
    assert (result.status, result.verdicts) == (failed, {verdict}), result.output
    counts, (case,) = listed(project.path / "junit.xml")
    assert counts == {"tests": 1, "failures": failed, "errors": 0, "skipped": 0}
    assert len([*case.iter("failure")]) == failed
    told = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert told["token_budget.verdict"] == verdict
    assert told["token_budget.cost_usd"] == str(result.scenarios["test_it"]["measured"]["cost_usd"])
    assert float(case.get("time", "")) > 0
    assert re.findall(r"=+ (\d \w+) in ", result.output) == ["1 failed" if failed else "1 passed"]
    assert result.output.count("PASSED") + result.output.count("FAILED") == 1
    if not processes:
        assert f"test_it.py {'F' if failed else '.'}" in result.words, "no dot comes before"


def test_a_run_that_ends_early_reports_what_passed(project: Recorded) -> None:
    """No second replay is made then, and nothing is proved."""
    project.record((WARM, usage(12, 0, 3600)))
    project.change(MAKES.format(text=MADE["of this process"][0]))
    test = project.path / "test_it.py"
    test.write_text(f"{test.read_text('utf-8')}\n\ndef test_other():\n    assert False\n", "utf-8")
    result = project.judge("-x", "--junitxml=junit.xml")
    assert "1 failed, 1 passed" in result.output
    counts, cases = listed(project.path / "junit.xml")
    assert counts == {"tests": 2, "failures": 1, "errors": 0, "skipped": 0}
    assert [len([*case.iter("failure")]) for case in cases] == [0, 1]


def test_a_teardown_that_fails_is_reported_beside_what_a_second_replay_says(project: Recorded) -> None:
    project.record((WARM, usage(12, 0, 3600)))
    project.change(MAKES.format(text=MADE["of this process"][0]))
    test = project.path / "test_it.py"
    untidy = '@pytest.fixture\ndef untidy():\n    yield\n    raise OSError("untidy")\n\n\n@pytest.mark.token'
    source = (
        test.read_text("utf-8").replace("@pytest.mark.token", untidy).replace("test_it()", "test_it(untidy)")
    )
    test.write_text(source, "utf-8")
    result = project.judge("--junitxml=junit.xml")
    assert "1 failed, 1 error" in result.output
    counts, _ = listed(project.path / "junit.xml")
    assert (counts["failures"], counts["errors"]) == (1, 1)


def test_two_tests_that_a_second_replay_fails_by_one_cause_are_told_once(project: Recorded) -> None:
    test = project.path / "test_it.py"
    several = '@pytest.mark.parametrize("number", range(2))\ndef test_it(number)'
    test.write_text(test.read_text("utf-8").replace("def test_it()", several), "utf-8")
    project.record((WARM, usage(12, 0, 3600)), tests=("test_it[0]", "test_it[1]"))
    result = project.changed(MAKES.format(text=MADE["of this process"][0]))
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert "(1 more test of the same cause, below)" in result.words
    assert len(re.findall(r"(?m)^_+ test_it\[\d\] _+$", result.output)) == 1
    assert "2 failed in" in result.output
    assert result.output.count("--token-budget-update") == 1


def test_a_router_that_is_asked_the_same_is_not_taken_for_the_turn_with_the_clock(project: Recorded) -> None:
    router = body([text("Sort the message: where, why, or when.")], text("Where is it?"))
    project.record((router, usage(30, 0, 0)), *COLD_TURNS[:2])
    asked = STAMPED.format(format="%H:%M:%S").replace(
        "    for body in", "    yield bodies.pop(0)\n    for body in"
    )
    result = project.changed(asked)
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert result.scenarios["test_it"]["measured"]["cache_read_input_tokens"] == 0
    assert "what was accepted has the like there" not in result.words


TICKING = """
import datetime
import os

IS_SECOND = "TOKENBUDGET_CLOCK" in os.environ


def requests(bodies):
    began = datetime.datetime.now()
    for turn, body in enumerate(bodies):
        passed = datetime.timedelta({unit}=0 if IS_SECOND else turn // 2)
        stamp = ((datetime.datetime.now() if IS_SECOND else began) + passed).strftime("{format}")
        body["system"][0]["text"] = f"It is {{stamp}}. " + body["system"][0]["text"]
        yield body
"""
TICKS = {"seconds": ("%H:%M:%S", "over", 0), "minutes": ("%H:%M", "within", 7200)}


@pytest.mark.parametrize("unit", TICKS)
def test_a_second_or_minute_that_ends_in_a_replay_decides_nothing(project: Recorded, unit: str) -> None:
    """On a slow machine one does. The second replay judges all the same, with the same sum."""
    clock, verdict, read = TICKS[unit]
    project.record(*COLD_TURNS)
    result = project.changed(TICKING.format(unit=unit, format=clock))
    assert (result.status, result.verdicts) == (int(verdict == "over"), {verdict}), result.output
    measured = result.scenarios["test_it"]["measured"]
    assert measured["cache_read_input_tokens"] == pytest.approx(read, abs=60)
    assert "date or time" in result.words


@pytest.mark.parametrize("unit", TICKS)
def test_a_clock_that_was_recorded_within_one_tick_may_go_on_in_a_replay(
    project: Recorded, unit: str
) -> None:
    """The agent is unchanged. That its turns tell two times now is the machine's doing."""
    clock, _, _ = TICKS[unit]
    stamp = datetime.datetime(2026, 11, 25, 9, 12, 40).strftime(clock)
    timed = body([text(f"It is {stamp}. {RULES}", **MARK)], text("Where is it?"))
    project.record((timed, usage(12, 3610, 0)), *[(timed, usage(12, 0, 3610))] * 2)
    agent = TICKING.format(unit=unit, format=clock)
    result = project.changed(agent.replace('["text"]\n', '["text"][len(f"It is {stamp}. "):]\n'))
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    measured = result.scenarios["test_it"]["measured"]
    assert measured["cache_read_input_tokens"] == pytest.approx(7220, abs=60)


TIMED = [
    (body([text(f"It is 09:12:4{turn}. {RULES}", **MARK)], text("Where is it?")), usage(12, 3610, 0))
    for turn in range(3)
]
RETIMED = """
import datetime
import re


def requests(bodies):
    for body in bodies:
        words = body["system"][0]["text"]
        body["system"][0]["text"] = re.sub(r"It is .{{8}}", {now}, words){more}
        yield body
"""
IT_IS = 'f"It is {datetime.datetime.now():%H:%M:%S}"'
REPLAYED = {
    "the same agent": (IT_IS, "", (0, "within", 0)),
    "one more rule": (IT_IS, ' + " Be kind."', (0, "within", 0)),
    "no clock any more": ('"It is late"', "", (0, "improved", 7200)),
    "minutes": ('f"It is {datetime.datetime.now():%H:%M}"', "", (0, "improved", 7200)),
}


@pytest.mark.parametrize("kind", REPLAYED)
def test_a_clock_that_was_recorded_does_not_stand_still_in_replay(project: Recorded, kind: str) -> None:
    """All turns of a replay tell the same time. That is no cache gained: each still writes its own prefix."""
    project.record(*TIMED)
    now, more, (status, verdict, read) = REPLAYED[kind]
    result = project.changed(RETIMED.format(now=now, more=more))
    assert (result.status, result.verdicts) == (status, {verdict}), result.output
    measured = result.scenarios["test_it"]["measured"]
    assert measured["cache_read_input_tokens"] == pytest.approx(read, abs=60)
    assert project.judge("--token-budget-update").status == 0
    accepted = project.judge()
    assert accepted.verdicts == {"within"}, accepted.output
    assert accepted.scenarios["test_it"]["measured"] == measured


ACCEPTED = {
    "a clock": ("It is 09:12:44.", 'f"It is {datetime.datetime.now():%H:%M:%S}."'),
    "an id": ("Run 9f2c41d0.", 'f"Run {uuid.uuid4().hex[:8]}."'),
}
REPLACED = """
import datetime
import uuid


def requests(bodies):
    for body in bodies:
        body["system"][0]["text"] = body["system"][0]["text"].replace("{was}", {now})
    return bodies
"""


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_value_that_was_accepted_is_told_and_not_charged(project: Recorded, kind: str) -> None:
    """The accepted prompt has one at that place too, so that both sides end there.

    What is a time on both sides is known to be one without a second replay.
    """
    was, now = ACCEPTED[kind]
    project.record((body([text(f"{RULES} {was}", **MARK)], text("Where is it?")), usage(12, 0, 3610)))
    result = project.changed(REPLACED.format(was=was, now=now))
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    accepted = "what was accepted has the like there, so that nothing is charged"
    assert (accepted in result.words) == (kind == "an id")
    assert ("once more in another process: " in result.words) == (kind == "an id")
    assert "; 1 suspected ====" in result.words


def test_a_suspicion_is_told_beside_what_fails_for_another_cause(project: Recorded) -> None:
    """Whoever accepts the growth sees the clock first."""
    project.record(*COLD)
    grown = '" Never promise anything to anybody, and say so at once." * 60'
    result = project.changed(MAKES.format(text=f"{grown} + {MADE['of this process'][0]}"))
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert result.over("test_it") == {"prompt_tokens", "cost_usd"}
    assert "It is not charged" in result.words
    assert "; 1 suspected ====" in result.words


def test_nothing_is_replayed_again_where_no_verdict_hangs_on_it(project: Recorded) -> None:
    """All of the loss lies between runs, of which this recording has one: it is named, and not charged."""
    project.record(*COLD)
    result = project.changed(MAKES.format(text=MADE["of this process"][0]))
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert "once more in another process: " not in result.output
    assert "date or time" in result.output
    assert "It is not charged" in result.words
    assert "; 1 suspected ====" in result.words


BY_TURN = {"a clock": CLOCK, "a counter": CLOCK.replace("It is 10:31:{", "Step {")}


@pytest.mark.parametrize("kind", BY_TURN)
def test_two_turns_that_differ_prove_that_a_warm_cache_is_lost(project: Recorded, kind: str) -> None:
    """A counter is the same in each run, and all the same no turn reads what the one before it wrote.

    A run just after another one, with the same answers, would find each turn in the cache. That is luck of
    the recording, which no agent with a new question has.
    """
    project.record((WARM, usage(12, 0, 3600)), (WARM, usage(12, 0, 3600)))
    result = project.changed(BY_TURN[kind])
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert result.scenarios["test_it"]["measured"]["cache_read_input_tokens"] == 0
    assert "where it leaves the prefix that an earlier turn cached" in result.words


def test_an_edit_in_front_of_such_a_clock_is_not_why_the_cache_is_lost(project: Recorded) -> None:
    """The edit would be warm again in the next run; the first turn loses its cache to the clock as well."""
    look = {"name": "look", "description": "Look it up.", "input_schema": {"type": "object"}}
    warm = body([text(RULES, **MARK)], text("Where is it?"), tools=[look])
    project.record((warm, usage(12, 0, 3900)), (warm, usage(12, 0, 3900)))
    edit = 'body["tools"][0]["description"] = "Look it up in the shop."'
    result = project.changed(CLOCK.replace("    return bodies", f"        {edit}\n    return bodies"))
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    findings = result.scenarios["test_it"]["findings"]
    (lost,) = (finding for finding in findings if finding["kind"] == "cache_break")
    assert lost["where"] == "system[0]"
    assert "on turns 1 and 2 lose the cache" in lost["text"]


def test_a_suite_is_as_green_tomorrow_as_today(project: Recorded) -> None:
    """A date alone is never proof, however the repository makes it."""
    dated = body([text(f"{RULES} Today is 2026-11-25.", **MARK)], text("Where is it?"))
    project.record((dated, usage(12, 0, 3610)))
    agent = """
import datetime


def requests(bodies):
    today = datetime.date.today().isoformat()
    for body in bodies:
        body["system"][0]["text"] = body["system"][0]["text"].replace("2026-11-25", today)
    return bodies
"""
    result = project.changed(agent)
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    measured = result.scenarios["test_it"]["measured"]
    assert (measured["cache_read_input_tokens"], measured["cache_creation_input_tokens"]) == (3610, 0)
