"""A cassette that a fixture of the user's holds open for many tests: each test has its own line."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

from pytest_tokenbudget.budget.baselines import recording_digest
from pytest_tokenbudget.metering import cache_split, meter, prompt_cache
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Basis, Usage
from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.run import accepting
from pytest_tokenbudget.run.accepting import replayed
from pytest_tokenbudget.wire.exchange import Accepted
from pytest_tokenbudget.wire.prompt import Block, last_breakpoint
from support.blocks import text
from support.budgeted import Judged, Project
from support.messages_api import MessagesApi
from support.scratch_suites import echo, make
from support.seeded import METER, Body, record, request, support_agent

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
    known = meter.Known
    monkeypatch.setattr(
        meter, "Known", lambda prompt, *more: (measured.append(prompt), known(prompt, *more))[1]
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


def test_what_changes_in_a_shared_cassette_without_a_cache_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each changed call once, in its own test: the others cannot have left it another cache."""
    agent = support_agent()
    plain = {**agent.bodies()[0], "tools": [], "messages": [{"role": "user", "content": "Hello"}]}
    bodies = [{**plain, "system": [text(f"Shop {n}.")]} for n in range(12)]
    recording = Recording(record(bodies, agent.answers()[:1] * len(bodies)))
    counted: list[object] = []
    estimate = meter.estimate
    monkeypatch.setattr(
        meter,
        "estimate",
        lambda was, now, *more, **near: (counted.append(now), estimate(was, now, *more, **near))[1],
    )
    runs = []
    for number, body in enumerate(bodies):
        recording.choose(request({**body, "system": [text(f"Shop {number}, and be brief.")]}))
        runs.append(
            replayed(METER, recording, misses=(), unplayed=(), reshaped=(), whole=False, only={number})
        )
    assert len(counted) == len(bodies)
    assert {len(run.turns) for run in runs} == {1}
    everything = METER.replayed(recording.exchanges, recording.pairs)
    assert [turn.usage for run in runs for turn in run.turns] == [turn.usage for turn in everything.turns]


MARKED = {"cache_control": {"type": "ephemeral"}}


def caching_bodies(number: int) -> list[Body]:
    """What so many tests ask of one cassette: all of them begin with the same cached rules."""
    rules = text("Never promise a date that nobody has confirmed. " * 120) | MARKED
    body = {**support_agent().bodies()[0], "tools": []}
    asked = [{"role": "user", "content": f"Where is parcel {n}?"} for n in range(number)]
    return [{**body, "system": [rules], "messages": [one]} for one in asked]


def longer(body: Body) -> Body:
    """The body with longer rules."""
    rules = text(body["system"][0]["text"] + "Sign with your name, and be brief. " * 20) | MARKED
    return {**body, "system": [rules]}


def test_a_clock_is_looked_for_once_in_what_changes_in_a_shared_cassette(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In each turn once, not in all turns again for each later test."""
    volatile = import_module(
        "pytest_tokenbudget.diagnosis.volatile"
    )  # its package has a function of that name
    bodies = caching_bodies(12)
    recording = Recording(record(bodies, support_agent().answers()[:1] * len(bodies)))
    looked_at: list[object] = []
    timed = volatile._timed

    def counted(recorded: object, block: Block, *numbers: object, **how: bool) -> object:
        looked_at.append(block)
        return timed(recorded, block, *numbers, **how)

    monkeypatch.setattr(volatile, "_timed", counted)
    measure = replace(METER, shared=WeakKeyDictionary(), timed=volatile.timed_as_recorded)
    for number, body in enumerate(map(longer, bodies)):
        recording.choose(request(body))
        replayed(measure, recording, misses=(), unplayed=(), reshaped=(), whole=False, only={number})
    prompts = [request(body).prompt for body in bodies]
    assert len(looked_at) == sum(last_breakpoint(prompt) + 1 for prompt in prompts)


@pytest.mark.parametrize("is_accepted", [False, True])
def test_what_changes_in_a_shared_cassette_that_caches_is_simulated_once(
    monkeypatch: pytest.MonkeyPatch, is_accepted: bool
) -> None:
    """Each test was simulated anew for every later one: n(n+1)/2 turns. It adds its own now."""
    bodies = caching_bodies(12)
    recorded = record(bodies, support_agent().answers()[:1] * len(bodies))
    changed = [longer(body) for body in bodies]
    accepted = {
        number: Accepted(request(longer(body)), exchange.answer.usage or Usage(), Basis.COUNTED)
        for number, (body, exchange) in enumerate(zip(bodies, recorded, strict=True))
    }
    if is_accepted:
        changed = [longer(body) for body in changed]
    recording = Recording(recorded, accepted=lambda: accepted if is_accepted else {})
    simulated, counted = [], []
    ask, estimate = prompt_cache.Cache.ask, meter.estimate
    monkeypatch.setattr(
        prompt_cache.Cache, "ask", lambda cache, *turn: (simulated.append(turn), ask(cache, *turn))[1]
    )
    monkeypatch.setattr(
        meter, "estimate", lambda *sides, **near: (counted.append(sides), estimate(*sides, **near))[1]
    )
    measure, runs = replace(METER, shared=WeakKeyDictionary()), []
    for number, body in enumerate(changed):
        recording.choose(request(body))
        runs.append(
            replayed(measure, recording, misses=(), unplayed=(), reshaped=(), whole=False, only={number})
        )
    sides = 2 if is_accepted else 1
    # The recorded turns are studied, and simulated as recorded and as asked: three times each.
    assert len(simulated) == sides * 3 * len(bodies)
    assert len(counted) == (3 if is_accepted else 1) * len(bodies)  # and each once against the accepted one
    assert {len(run.turns) for run in runs} == {1}
    everything = METER.replayed(recording.exchanges, recording.pairs)
    assert [turn.usage for run in runs for turn in run.turns] == [turn.usage for turn in everything.turns]
    assert runs[0].usage.tokens.cache_creation_input_tokens > 0
    assert all(run.usage.tokens.cache_read_input_tokens > 0 for run in runs[1:])


def test_tests_of_a_shared_cassette_that_caches_may_come_in_any_order() -> None:
    """What comes before what is known is measured anew, with all that is known."""
    bodies = caching_bodies(5)
    recording = Recording(record(bodies, support_agent().answers()[:1] * len(bodies)))
    measure, runs = replace(METER, shared=WeakKeyDictionary()), {}
    for number in (2, 4, 0, 1, 3):
        recording.choose(request(longer(bodies[number])))
        runs[number] = replayed(
            measure, recording, misses=(), unplayed=(), reshaped=(), whole=False, only={number}
        )
        known = METER.replayed(recording.exchanges, recording.pairs, only={number})
        assert runs[number].usage == known.usage, number


def test_a_change_of_a_later_turn_is_no_business_of_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although all of them cache: what comes later has left no cache to what came before."""
    agent = support_agent()
    mark = {"cache_control": {"type": "ephemeral"}}
    bodies = [{**agent.bodies()[0], "system": [text(f"Shop {n}.") | mark]} for n in range(3)]
    recording = Recording(record(bodies, agent.answers()[:1] * len(bodies)))
    recording.choose(request({**bodies[2], "system": [text("Shop 2, and be brief.") | mark]}))
    recording.choose(request(bodies[0]))
    assert [(pair.index, pair.is_recorded) for pair in recording.pairs] == [(2, False), (0, True)]
    monkeypatch.setattr(cache_split, "study", None)
    run = replayed(METER, recording, misses=(), unplayed=(), reshaped=(), whole=False, only={0})
    assert run.usage == recording.exchanges[0].answer.usage


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


def test_a_first_baseline_reads_a_shared_cassette_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 tests of one cassette made the digest of it 800 times, whole: 14 of 25 s of CPU."""
    made: list[str] = []
    monkeypatch.setattr(
        accepting, "recording_digest", lambda turns: made.append(recording_digest(turns)) or made[-1]
    )
    (project.path / "token_budgets" / "test_it.yaml").unlink()
    updated = judge(project, "--token-budget-update")
    assert (updated.status, updated.verdicts) == (0, {"within"}), updated.output
    assert len(made) == len({*made}) == 3, "shared.yaml, closed.yaml, own.yaml"
    judged = judge(project)
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output


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
