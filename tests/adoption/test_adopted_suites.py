"""Suites with cassettes of their own, as they are and under --token-budget: the same, and metered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from support import recording_modules, vcrpy_modules
from support.budgeted import Judged
from support.messages_api import MessagesApi
from support.recorded_suites import MORE, Ran, RecordedSuite, Spent, by_id, charged, measured

T = TypeVar("T")
RECORD = {
    "recording": "pytest --record-mode=rewrite test_",
    "vcrpy": r"delete \S+, and run the test as the suite records it",
}
ANEW = {
    "recording": "Record each anew (needs an API key): pytest --record-mode=rewrite TEST",
    "vcrpy": "Record the cassettes of plain vcrpy anew as the suite does it (needs an API key)",
}
SUITES = {"recording": recording_modules, "vcrpy": vcrpy_modules}
MODULES = [(suite, module) for suite, table in SUITES.items() for module in table.MODULES]
REFUSED = [(suite, module) for suite, module in MODULES if module in SUITES[suite].REFUSED]
COUNTED = sorted({*MODULES} - {*REFUSED})


@dataclass(frozen=True, repr=False)
class Runs:
    """What became of a suite."""

    charged: Mapping[str, Spent]
    recorded: Ran
    plain: Ran
    judged: Judged
    ran: Ran
    grown_plain: Ran
    grown: Judged
    grown_ran: Ran


@pytest.fixture(scope="module")
def made() -> dict[str, Runs]:
    return {}


@pytest.fixture
def runs(
    suite: str, made: dict[str, Runs], home: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Runs:
    """Recorded by a plain run; then the server is gone."""
    if suite not in made:
        made[suite] = run(suite, home / suite, pytester, monkeypatch)
    return made[suite]


def run(suite: str, folder: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runs:
    files = {f"test_{name}": text for name, text in SUITES[suite].MODULES.items()}
    if suite == "recording":
        files["conftest"] = recording_modules.CONFTEST
    with MessagesApi(lambda body: f"You said: {body['messages'][-1]['content']}", gzip=True) as api:
        its = RecordedSuite.write(folder, pytester, api, files)
        recorded = its.plain(*(["--record-mode=once"] if suite == "recording" else []))
    plain, judged = its.plain(), its.judge("--token-budget-update")
    monkeypatch.setenv("GROWN", MORE)
    return Runs(charged(api), recorded, plain, *judged, its.plain(), *its.judge())


def of(module: str, found: Mapping[str, T]) -> dict[str, T]:
    return {name: one for name, one in found.items() if name.startswith(f"test_{module}.py::")}


@pytest.mark.parametrize(("suite", "module"), MODULES)
def test_each_test_ends_as_it_does_without_the_flag(module: str, runs: Runs) -> None:
    assert of(module, runs.ran.outcomes) == of(module, runs.plain.outcomes) != {}
    assert of(module, runs.plain.outcomes) == of(module, runs.recorded.outcomes)


@pytest.mark.parametrize(("suite", "module"), MODULES)
def test_each_test_is_metered_with_the_recorded_usage(module: str, runs: Runs) -> None:
    expected, judged = of(module, runs.ran.answered), of(module, by_id(runs.judged))
    old = recording_modules.OLD_ANSWERS
    assert {n: e for n, e in of(module, runs.charged).items() if n not in old} == {
        n: e for n, e in expected.items() if n not in old
    }
    assert {entry["verdict"] for entry in judged.values()} <= {"within"}
    if module != "repeats":  # whose second answer is counted from the first
        finished = {n: e for n, e in expected.items() if runs.plain.outcomes.get(n, "passed") == "passed"}
        assert of(module, measured(runs.judged)) == finished
        assert {entry["basis"] for entry in judged.values()} <= {"recorded"}


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_of_the_suite_is_written(suite: str, runs: Runs) -> None:
    ran = [runs.plain, runs.ran, runs.grown_plain, runs.grown_ran]
    assert [one.cassettes == runs.recorded.cassettes for one in ran] == [True] * 4
    assert len(runs.recorded.cassettes) > len(SUITES[suite].MODULES)


@pytest.mark.parametrize(("suite", "module"), COUNTED)
def test_a_changed_prompt_is_counted_and_over(module: str, runs: Runs) -> None:
    """Where the suite itself, matching on less than the body, goes on passing."""
    was, now = (of(module, by_id(judged)) for judged in (runs.judged, runs.grown))
    asking = [name for name, entry in was.items() if entry["measured"]["turns"]]
    assert {name: now[name]["verdict"] for name in asking} == dict.fromkeys(asking, "over")
    assert {now[name]["basis"] for name in asking} <= {"counted", "estimated"}
    assert of(module, runs.grown_plain.outcomes) == of(module, runs.plain.outcomes)
    expected = {**of(module, runs.plain.outcomes), **dict.fromkeys(asking, "failure")}
    assert of(module, runs.grown_ran.outcomes) == expected


@pytest.mark.parametrize(("suite", "module"), REFUSED)
def test_a_changed_prompt_is_refused_where_the_suite_itself_refuses_it(
    suite: str, module: str, runs: Runs
) -> None:
    """In words that name what differs, where, and how it is recorded; and it is counted as everywhere."""
    now = of(module, by_id(runs.grown))
    assert {entry["verdict"] for entry in now.values()} == {"over"}
    assert dict.fromkeys(now, "failure") == of(module, runs.grown_plain.outcomes)
    assert of(module, runs.grown_ran.outcomes) == of(module, runs.grown_plain.outcomes)
    for entry in now.values():
        (told,) = [found["text"] for found in entry["findings"] if found["kind"] == "problem"]
        assert re.search(r"match_on lets no request of cassettes/\S+ answer it, for (.+) differs", told)
        assert re.search(r"match_on: .+ differs at \S+, character \d+\. ", told)
        assert "turns_changed" not in {found["kind"] for found in entry["findings"]}
        assert entry["measured"]["prompt_tokens"] > entry["baseline"]["prompt_tokens"]
        assert re.search(f"Record it: {RECORD[suite]}", told)
    said = re.sub(r"\s+", " ", runs.grown_ran.output)
    assert "match_on: body differs at system[0], character" in said
    assert ANEW[suite] in said
