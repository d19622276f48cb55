"""The command line of pytest-recording, with and without the flag: the same calls, files and outcomes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from support.budgeted import Judged
from support.messages_api import MessagesApi
from support.recorded_suites import Ran, RecordedSuite, by_id, measured

SUITE = """
import os
import socket

import pytest
from agent import URL, ask


@pytest.mark.vcr
def test_known():
    assert ask("One").startswith("You said")


@pytest.mark.vcr
def test_more():
    assert ask("Two").startswith("You said")
    if "MORE" in os.environ:
        assert ask("Three").startswith("You said")


@pytest.mark.vcr
def test_new(letter):
    assert ask("Four").startswith("You said")


@pytest.fixture
def letter():
    yield
    ask("Put it back.")


def test_socket():
    with socket.socket() as one:
        one.settimeout(5)
        one.connect(("127.0.0.1", int(URL.rpartition(":")[2])))
"""


@dataclass(frozen=True, repr=False)
class Both:
    """The same run without the flag and with it, each on its own copy of the suite."""

    plain: Ran
    judged: Judged
    ran: Ran
    calls: tuple[int, int]
    """That reached the server."""

    @property
    def recorded(self) -> list[Mapping[str, list[str]]]:
        """By cassette: what was asked."""
        return [{path: asked(text) for path, text in one.cassettes.items()} for one in (self.plain, self.ran)]


def asked(cassette: bytes) -> list[str]:
    return [one["request"]["body"] for one in yaml.safe_load(cassette)["interactions"]]


class Runner:
    """A suite of which one test has no cassette yet, and one asks more than was recorded."""

    def __init__(self, folder: Path, pytester: pytest.Pytester, api: MessagesApi) -> None:
        self._folder, self._pytester, self._api = folder, pytester, api
        suite = RecordedSuite.write(folder / "suite", pytester, api, {"test_it": SUITE})
        suite.plain("--record-mode=once", "-k", "known or more")

    def both(self, *arguments: str) -> Both:
        calls, ran = [], []
        for name in ("plain", "judged"):
            shutil.copytree(self._folder / "suite", self._folder / name)
            suite = RecordedSuite(self._folder / name, self._pytester, self._api.url)
            before = len(self._api.charges)
            run = suite.plain if name == "plain" else suite.judge
            ran.append(run(*arguments, *(["--token-budget-update"] if name == "judged" else [])))
            calls.append(len(self._api.charges) - before)
        plain, (judged, judged_ran) = ran
        return Both(plain, judged, judged_ran, (calls[0], calls[1]))


@pytest.fixture
def runner(tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi) -> Runner:
    return Runner(tmp_path, pytester, api)


@pytest.mark.parametrize(
    ("mode", "calls", "failing"),
    [
        ("none", 0, {"test_more", "test_new"}),
        ("once", 2, {"test_more"}),
        ("new_episodes", 3, set()),
        ("all", 5, set()),
        ("rewrite", 5, set()),
    ],
)
def test_record_modes(
    mode: str, calls: int, failing: set[str], runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", "1")
    both = runner.both(f"--record-mode={mode}")
    assert both.calls == (calls, calls)
    assert both.plain.outcomes == both.ran.outcomes
    assert {n for n, outcome in both.ran.outcomes.items() if outcome != "passed"} == {
        f"test_it.py::{name}" for name in failing
    }
    plain, judged = both.recorded
    assert plain == judged
    entries = by_id(both.judged)
    verdicts = {name: entry["verdict"] for name, entry in entries.items() if entry["verdict"] != "within"}
    expected = {"test_more": "stale", "test_new": "unrecorded"}
    assert verdicts == {f"test_it.py::{name}": expected[name] for name in failing}
    assert {entry["basis"] for entry in entries.values()} == {"recorded"}
    assert measured(both.judged) == both.ran.answered


@pytest.mark.parametrize(
    ("arguments", "socket"),
    [
        ((), "passed"),
        (("--block-network",), "failure"),
        (("--block-network", "--allowed-hosts=127.0.0.1"), "passed"),
        (("--block-network", "--allowed-hosts=10.0.0.1,example.com"), "failure"),
        (("--block-network", "--record-mode=new_episodes"), "failure"),
    ],
    ids=["free", "blocked", "allowed", "others allowed", "blocked but for recording"],
)
def test_network_blocking(arguments: tuple[str, ...], socket: str, runner: Runner) -> None:
    both = runner.both(*arguments, "-k", "not new")
    assert both.plain.outcomes == both.ran.outcomes
    assert both.ran.outcomes["test_it.py::test_socket"] == socket
    assert both.ran.outcomes["test_it.py::test_known"] == "passed"
    assert measured(both.judged) == both.ran.answered
    assert both.plain.cassettes == both.ran.cassettes


def test_workers(tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi) -> None:
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": SUITE})
    recorded = suite.plain("--record-mode=once")
    judged, ran = suite.judge("-n", "2", "--token-budget-update")
    assert ran.outcomes == recorded.outcomes
    assert measured(judged) == ran.answered == recorded.answered
    assert ran.cassettes == recorded.cassettes


def test_disable_recording_is_refused_by_name(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": SUITE})
    assert suite.plain("--disable-recording").status == 0
    assert len(api.charges) == 4
    done = suite.run("--token-budget", "--disable-recording")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "--disable-recording sends the model calls of @pytest.mark.vcr tests past" in done.output
    assert len(api.charges) == 4
    assert suite.run("--disable-recording", "-k", "known").status == 0


def test_live_runs_replay_what_the_suite_replays(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    """Its cassettes are its own: --token-budget-live does not open them."""
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": SUITE})
    suite.plain("--record-mode=once")
    suite.judge("--token-budget-update")
    before = len(api.charges)
    judged, ran = suite.judge("--token-budget-live")
    assert (judged.status, len(api.charges)) == (0, before)
    assert {entry["basis"] for entry in by_id(judged).values()} == {"recorded"}
    assert measured(judged) == ran.answered


def test_the_spend_limit_holds_for_what_the_suite_records(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": SUITE})
    options = ("--token-budget-record=once", "--token-budget-max-spend=0.0004")
    judged, _ = suite.judge("--record-mode=once", "-k", "known or more", *options)
    assert len(api.charges) == 1, "a call may cost 0.0003 dollars"
    assert {entry["verdict"] for entry in by_id(judged).values()} == {"new"}, "the other one was not run"
    assert "past --token-budget-max-spend=0.0004" in judged.output
    assert "not run: 1 test" in judged.output


def test_both_marks_keep_the_cassette_of_pytest_recording(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    """At the very place where this plugin would have its own; --token-budget-record leaves it alone."""
    text = SUITE.replace("@pytest.mark.vcr\n", "@pytest.mark.vcr\n@pytest.mark.token_budget\n")
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": text})
    recorded = suite.plain("--record-mode=once", "-o", "markers=token_budget")
    before = len(api.charges)
    judged, ran = suite.judge("--token-budget-record=all", "--token-budget-update")
    assert (judged.status, len(api.charges)) == (0, before), judged.output
    assert ran.cassettes == recorded.cassettes
    assert measured(judged) == ran.answered == recorded.answered
