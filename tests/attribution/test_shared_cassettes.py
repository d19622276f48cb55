"""A cassette that a fixture of the user's holds open for many tests: each test has its own line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_tokenbudget.metering import meter
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.run.accepting import replayed
from support.budgeted import Judged, Project
from support.messages_api import MessagesApi
from support.scratch_suites import echo, make
from support.seeded import METER, Body, record, request, support_agent, text

SUITE = """
import os

import pytest
import vcr
from agent import ask


@pytest.fixture(scope="session")
def cassette():
    with vcr.use_cassette("shared.yaml", filter_headers=["x-api-key"]) as opened:
        ask("Open the office.")
        yield opened


@pytest.fixture(scope="module", autouse=True)
def closed_again():
    with vcr.use_cassette("closed.yaml", filter_headers=["x-api-key"]):
        return ask("Unlock the door.")


@pytest.fixture
def own():
    with vcr.use_cassette("own.yaml", filter_headers=["x-api-key"]):
        yield


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_letter(cassette, letter):
    assert ask(f"Read letter {letter}.") == f"You said Read letter {letter}."


def test_two_letters(cassette):
    ask("Read letter D.")
    if "GROWN" in os.environ:
        ask("Read letter D.", system="Be brief, and never promise a date that nobody has confirmed. " * 4)
    else:
        ask("Read letter E.")


def test_own(own):
    assert ask("Read letter F.")


def test_nothing(cassette):
    assert len(cassette) == 6
"""
LINES = {
    "fixture cassette": 1,
    "fixture closed_again": 1,
    "test_letter[A]": 1,
    "test_letter[B]": 1,
    "test_letter[C]": 1,
    "test_two_letters": 2,
    "test_own": 1,
}


def test_what_a_test_adds_to_a_shared_cassette_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 tests of one cassette measured it 400 times, whole: each call of theirs up to 400 times."""
    agent = support_agent()
    bodies = [{**body, "system": [text(f"Shop {n}.")]} for n in range(12) for body in agent.bodies()[:1]]
    recorded = record(bodies, agent.answers()[:1] * len(bodies))
    measured: list[object] = []
    fed_back = meter.fed_back_tokens
    monkeypatch.setattr(
        meter, "fed_back_tokens", lambda prompt, *more: (measured.append(prompt), fed_back(prompt, *more))[1]
    )
    recording = Recording(recorded)

    def judge(number: int, body: Body) -> Run:
        recording.choose(request(body))
        return replayed(METER, recording, misses=(), unplayed=(), reshaped=(), whole=False, only={number})

    runs = [judge(number, body) for number, body in enumerate(bodies)]
    assert len(measured) == len(bodies), "each recorded call once, not once for each later test"
    assert [run.usage for run in runs] == [exchange.answer.usage for exchange in recorded]

    recording = Recording(recorded)
    changed = {**bodies[0], "system": [text("Shop 0, and be brief.")]}
    first, second = judge(0, changed), judge(1, bodies[1])
    assert first.usage.tokens.prompt_tokens > recorded[0].answer.usage.tokens.prompt_tokens  # type: ignore[union-attr]
    assert second.usage == recorded[1].answer.usage


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def project(home: Path, pytester: pytest.Pytester) -> Project:
    """Recorded by vcrpy alone."""
    if (home / "suite").exists():
        return Project(home / "suite", pytester)
    made = make(home / "suite", pytester, SUITE)
    with MessagesApi(echo) as api:
        recorded = made.run("--token-budget-disable", url=api.url)
    assert recorded.status == 0, recorded.output
    (home / "url").write_text(api.url)
    updated = made.judge("--token-budget-update", url=api.url)
    assert (updated.status, updated.verdicts) == (0, {"within"}), updated.output
    return made


def judge(project: Project, *arguments: str) -> Judged:
    return project.judge(*arguments, url=(project.path.parent / "url").read_text())


def turns(judged: Judged) -> dict[str, int]:
    return {name: entry["measured"]["turns"] for name, entry in judged.scenarios.items()}


def test_each_test_and_each_fixture_has_its_line(project: Project) -> None:
    judged = judge(project)
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert turns(judged) == LINES
    assert {entry["basis"] for entry in judged.document["scenarios"]} == {"recorded"}


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        (("-k", "two_letters"), {"letter[", "own"}),
        (("-k", "letter and not two"), {"two", "own"}),
        (("test_it.py::test_letter[C]", "test_it.py::test_letter[A]"), {"[B]", "two", "own"}),
        (("-n", "2"), set()),
    ],
    ids=["-k", "-k not", "another order", "-n 2"],
)
def test_what_is_left_out_is_missed_by_nobody(
    project: Project, arguments: tuple[str, ...], left_out: set[str]
) -> None:
    judged = judge(project, *arguments)
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert turns(judged) == {
        name: count for name, count in LINES.items() if not any(word in name for word in left_out)
    }


def test_a_miss_is_that_of_the_test_that_asks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROWN", "1")
    judged = judge(project)
    assert judged.status == 1
    assert {name: entry["verdict"] for name, entry in judged.scenarios.items()} == {
        **dict.fromkeys(LINES, "within"),
        "test_two_letters": "stale",
    }
