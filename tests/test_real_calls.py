"""Real calls against the server of the tests: live samples, the spend limit, counting by the endpoint."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.budget.baselines import read_baselines
from support.budgeted import Project, run_apart
from support.messages_api import MessagesApi
from support.scratch_suites import echo

SUITE = """
import os

import httpx2
import pytest

SYSTEM = "You are a clerk who files letters. " * int(os.environ.get("TIMES", "20"))


@pytest.mark.token_budget
@pytest.mark.parametrize("word", ["one", "two"])
def test_ask(word):
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": int(os.environ.get("MOST", "50")),
        "system": SYSTEM,
        "messages": [{"role": "user", "content": word}],
    }
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-beta": os.environ.get("BETA", "")}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600).raise_for_status()
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    (folder / "test_real.py").write_text(SUITE, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    with MessagesApi(echo) as api:
        done = run_apart(folder, "--token-budget-record=once", url=api.url)
    assert done.status == 0, done.output
    assert run_apart(folder, "--token-budget", "--token-budget-update").status == 0
    return folder


@pytest.fixture
def suite(recorded: Path, pytester: pytest.Pytester) -> Project:
    return Project(recorded, pytester)


def live(suite: Project, url: str, *arguments: str) -> Any:
    return suite.judge("--token-budget-live", *arguments, url=url)


KEYLESS = """
import anthropic
import pytest


@pytest.mark.token_budget
def test_ask():
    messages = [{"role": "user", "content": "Hello"}]
    anthropic.Anthropic().messages.create(model="claude-haiku-4-5", max_tokens=50, messages=messages)
"""


@pytest.mark.usefixtures("recorded")
def test_a_client_without_a_key_is_told_what_to_set(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(KEYLESS)
    done = Project(pytester.path, pytester).run("--token-budget-record=once")
    assert done.status == 1
    assert "neither ANTHROPIC_API_KEY nor ANTHROPIC_AUTH_TOKEN is set" in done.output
    assert not list(pytester.path.rglob("*.yaml"))
    assert "is set" not in Project(pytester.path, pytester).run().output, "a replay needs none"


@pytest.mark.whole_run
def test_a_terminal_of_ascii_gets_ascii(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(recorded, tmp_path / "suite")
    again = """    body["messages"][0]["content"] = "One – or more?"
    httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600)
"""
    asks = SUITE + again
    (copy / "test_real.py").write_text(asks, "utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    for arguments in ((), ("--token-budget",), ("--token-budget", "-n", "1")):
        done = run_apart(copy, *arguments)
        assert done.status == 1
        assert "One - or more?" in done.words, done.output
        assert "\\u2013" not in done.output


# --- live -------------------------------------------------------------------------------------------------


@pytest.fixture
def baseline(suite: Project, api: MessagesApi) -> Project:
    """The suite with a baseline of two live runs."""
    done = live(suite, api.url, "--token-budget-update", "--token-budget-samples=2")
    assert done.status == 0, done.output
    return suite


def test_samples_are_told_and_not_judged_without_a_baseline_of_live_runs(
    suite: Project, api: MessagesApi
) -> None:
    before = {path: path.read_bytes() for path in suite.path.rglob("*.yaml")}
    result = live(suite, api.url, "--token-budget-samples=3")
    assert result.status == 0, result.output
    assert len(api.charges) == 6
    assert set(result.scenarios) == {"test_ask[one]", "test_ask[two]"}
    for entry in result.scenarios.values():
        assert (entry["basis"], entry["verdict"], entry["baseline"]) == ("live", "within", None)
    assert {path: path.read_bytes() for path in suite.path.rglob("*.yaml")} == before
    assert "test_ask[one]: 3 live runs: $0.0" in result.output
    assert "not judged, but by caps" in result.words
    assert "2 not judged" in result.output
    assert "paid: 6 real calls, $0.0" in result.output


def test_live_runs_are_kept_beside_the_replayed_numbers(baseline: Project, api: MessagesApi) -> None:
    (path,) = baseline.path.rglob("token_budgets/*.yaml")
    kept = read_baselines(path)
    assert {name: len(one.live) for name, one in kept.items()} == {"test_ask[one]": 2, "test_ask[two]": 2}
    assert baseline.judge().status == 0
    assert baseline.judge("--token-budget-update").status == 0
    assert read_baselines(path) == kept, "an update of what is replayed keeps them"
    result = live(baseline, api.url, "--token-budget-samples=3")
    assert (result.status, result.verdicts) == (0, {"within"})
    assert "0.0% against 2 runs of its baseline" in result.words
    assert "2 within" in result.output


def test_what_could_not_be_kept_is_not_paid_for(
    recorded: Path, tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    copy = shutil.copytree(recorded, tmp_path / "suite", ignore=shutil.ignore_patterns("token_budgets"))
    result = live(
        Project(copy, pytester), api.url, "--token-budget-update", "--token-budget-samples=5", "-k", "one"
    )
    assert (result.status, api.charges) == (1, [])
    assert "test_ask[one]: live runs are kept beside a replayed baseline, and it has none" in result.words
    assert "pytest --token-budget-record=once pytest --token-budget --token-budget-update" in result.words


def test_a_dearer_agent_fails_once_a_scenario_and_ends_early(
    baseline: Project, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "40")
    before = len(api.charges)
    result = live(baseline, api.url, "--token-budget-samples=6")
    assert (result.status, result.verdicts) == (1, {"over"})
    assert "2 failed, 6 passed, 6 skipped" in result.output
    assert len(api.charges) - before == 6
    assert result.over("test_ask[one]") == {"cost_usd"}
    command = "pytest --token-budget-live --token-budget-update --token-budget-samples=5"
    assert command in result.output
    accepted = live(baseline, api.url, "--token-budget-update", "--token-budget-samples=5")
    assert accepted.status == 0, accepted.output
    assert live(baseline, api.url, "--token-budget-samples=2").status == 0


def test_a_suite_fails_as_a_whole(
    baseline: Project, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "40")
    result = live(baseline, api.url)
    assert result.status == 1
    assert "over: 2 scenarios together cost +" in result.output


def test_noise_is_undecided_and_does_not_fail(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOST", "500")
    monkeypatch.setenv("TIMES", "100")
    lengths = itertools.cycle([20, 110, 40, 90, 60])

    def noisy(_: Mapping[str, Any]) -> str:
        return "word " * next(lengths)

    with MessagesApi(noisy) as server:
        arguments = ("--token-budget-samples=5", "-k", "one")
        assert live(suite, server.url, "--token-budget-update", *arguments).status == 0
        result = live(suite, server.url, *arguments)
        markdown = suite.path / "report.md"
        live(suite, server.url, *arguments, f"--token-budget-report=markdown:{markdown}")
    assert result.status == 0, result.output
    told = result.words
    assert "5 live runs: $0.0" in told
    assert re.search(r"undecided: \d+ more runs, about \$0\.0\d+, would decide \+\d+\.\d%", told), told
    assert "undecided: " in markdown.read_text("utf-8")


def test_a_sample_is_named_as_its_test(
    suite: Project, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOST", "-1")
    result = live(suite, api.url, "--token-budget-samples=2", "-k", "one")
    assert result.status == 1
    assert "FAILED test_real.py::test_ask[one] - " in result.output


# --- the spend limit --------------------------------------------------------------------------------------


def test_no_call_is_made_that_could_pass_the_limit(suite: Project, api: MessagesApi) -> None:
    result = live(suite, api.url, "--token-budget-max-spend=0.00086")
    assert result.status == 1
    assert len(api.charges) == 1
    assert "past --token-budget-max-spend=0.00086" in result.output


def test_a_limit_that_is_high_enough_changes_nothing(suite: Project, api: MessagesApi) -> None:
    assert live(suite, api.url, "--token-budget-max-spend=1").status == 0
    assert len(api.charges) == 2


def test_a_refused_recording_leaves_the_cassette(suite: Project, api: MessagesApi) -> None:
    before = {path: path.read_bytes() for path in suite.path.rglob("*.yaml")}
    done = suite.run("--token-budget-record=all", "--token-budget-max-spend=0", url=api.url)
    assert done.status == 1
    assert api.charges == []
    assert {path: path.read_bytes() for path in suite.path.rglob("*.yaml")} == before


# --- counting by the endpoint -----------------------------------------------------------------------------


def counts(api: MessagesApi) -> int:
    return sum("count_tokens" in one.path for one in api.requests)


def test_changed_prompts_are_counted_by_the_endpoint_once(
    suite: Project, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "21")
    result = suite.judge("--token-budget-count=api", url=api.url)
    assert {entry["basis"] for entry in result.scenarios.values()} == {"counted"}
    assert counts(api) == 4  # two scenarios, the recorded prompt and the new one
    assert api.charges == []
    with MessagesApi(echo) as charging:
        charged = live(suite, charging.url)
    for name, entry in charged.scenarios.items():
        assert result.scenarios[name]["measured"]["prompt_tokens"] == entry["measured"]["prompt_tokens"]


def test_the_endpoint_is_asked_with_the_betas_of_each_prompt(
    suite: Project, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "23")
    monkeypatch.setenv("BETA", "oauth-2025-04-20, inline-tools-2026-09-15")
    assert suite.judge("--token-budget-count=api", "-k", "one", url=api.url).document["scenarios"]
    betas = [one.headers.get("anthropic-beta") for one in api.requests if "count_tokens" in one.path]
    assert sorted(betas, key=str) == [None, "inline-tools-2026-09-15"]


def test_nothing_changed_counts_nothing(suite: Project, api: MessagesApi) -> None:
    assert suite.judge("--token-budget-count=api", url=api.url).status == 0
    assert counts(api) == 0


def test_an_endpoint_that_does_not_answer_falls_back_and_says_so(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "21")
    result = suite.judge("--token-budget-count=api", "-k", "one", url="http://127.0.0.1:9")
    (entry,) = result.scenarios.values()
    assert entry["basis"] in ("counted", "estimated")
    assert "counted offline instead" in result.output


def test_counting_by_the_endpoint_needs_a_key(suite: Project) -> None:
    done = suite.run("--token-budget", "--token-budget-count=api")
    assert done.status == 4
    assert "needs ANTHROPIC_API_KEY" in done.output
