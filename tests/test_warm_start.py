"""Scenarios that were recorded while their caches were warm: somebody recorded twice in a row."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.budgeted import Project
from support.messages_api import Charge, MessagesApi, Script
from support.messages_api.prompt import Body
from support.messages_api.support_model import answer
from test_example import EXACT, EXAMPLE, grow_prompt, replace, timestamp
from test_example import SCENARIOS as OF_THE_EXAMPLE

pytestmark = pytest.mark.newest

ALLOWED = 0.02 if EXACT else 0.06
SCENARIOS = {
    name: OF_THE_EXAMPLE[name]
    for name in ("test_a_late_parcel_counts_as_lost", "test_three_researchers_find_out_whether_it_fits")
}
"""Of the example: one that asks in turn, and one that asks at once. Both send the same handbook."""


def record_warm(project: Project, script: Script) -> None:
    """Record by a second run on one server, and write the baselines of that."""
    with MessagesApi(script) as api:
        for _ in range(2):
            done = project.run("--token-budget-record=all", url=api.url)
            assert done.status == 0, done.output
    assert project.judge("--token-budget-update").status == 0


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warm") / "support"


@pytest.fixture
def project(tmp_path: Path, recorded: Path, pytester: pytest.Pytester) -> Project:
    """The example, recorded by a second run on one server, with the baselines of that."""
    if not recorded.exists():
        left = shutil.ignore_patterns("__pycache__", ".*cache", "cassettes", "token_budgets")
        shutil.copytree(EXAMPLE, recorded, ignore=left)
        (tests,) = recorded.glob("tests/test_*.py")
        head, *listed = re.split(r"(?m)^(?=@pytest\.mark\.token_budget)", tests.read_text("utf-8"))
        kept = [test for test in listed if any(f"def {name}(" in test for name in SCENARIOS)]
        tests.write_text(head + "".join(kept), "utf-8")
        made = Project(recorded, pytester)
        record_warm(made, answer)
    copy = tmp_path / "support"
    shutil.copytree(recorded, copy)
    return Project(copy, pytester)


def second_run(project: Project) -> dict[str, list[Charge]]:
    """What a second live run of the changed agent is charged, by scenario."""
    with MessagesApi(answer) as api:
        for _ in range(2):
            first = len(api.charges)
            done = project.run("--token-budget-disable", url=api.url)
            assert done.status == 0, done.output
        charges = api.charges[first:]
    return {
        scenario: [c for c in charges if words in str(c.body["messages"][0]["content"])]
        for scenario, words in SCENARIOS.items()
    }


def test_unchanged_reads_from_the_first_turn_on(project: Project) -> None:
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    for entry in result.document["scenarios"]:
        assert entry["basis"] == "recorded"
        first = next(turn["tokens"] for turn in entry["turns"] if turn["tokens"]["cache_read_input_tokens"])
        assert first["cache_creation_input_tokens"] == 0
        assert entry["measured"] == entry["baseline"]


def test_a_small_edit_of_a_stable_prompt_is_no_cold_start(project: Project) -> None:
    """The edited prompt is as stable as the one before it: the next run but one finds it warm again."""
    grow_prompt(2)(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    for scenario, charges in second_run(project).items():
        measured = result.scenarios[scenario]["measured"]
        for name in ("cache_read_input_tokens", "prompt_tokens"):
            live = sum(getattr(charge.usage, name) for charge in charges)
            assert measured[name] == pytest.approx(live, rel=ALLOWED)


def timestamp_in_front(project: Project) -> None:
    """The time as a block of its own: nothing that was recorded changes."""
    now = '{"type": "text", "text": f"It is {__import__(\'datetime\').datetime.now()}."}'
    replace(project.path / "support_agent/agent.py", "[_handbook()]", f"[{now}, _handbook()]")


@pytest.mark.parametrize("edit", [timestamp, timestamp_in_front])
def test_a_timestamp_is_never_warm(project: Project, edit: Callable[[Project], None]) -> None:
    edit(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert all("cache_share" in result.over(scenario) for scenario in SCENARIOS)
    if not EXACT:
        return  # a time is no known text, which the server could charge without ctok
    for scenario, charges in second_run(project).items():
        live = sum(charge.usage.cache_read_input_tokens for charge in charges)
        measured = result.scenarios[scenario]["measured"]
        assert measured["cache_read_input_tokens"] == pytest.approx(live, rel=ALLOWED)


def record_cold(project: Project, *arguments: str) -> None:
    """Record anew on a server whose cache is empty."""
    with MessagesApi(answer) as api:
        done = project.run("--token-budget-record=all", *arguments, url=api.url)
        assert done.status == 0, done.output


def test_recorded_anew_on_a_cold_cache_is_no_regression(project: Project) -> None:
    record_cold(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert "not the same start" in result.output
    first = result.scenarios[next(iter(SCENARIOS))]
    assert first["measured"]["cost_usd"] > 1.2 * first["baseline"]["cost_usd"], "it is told as it was billed"
    limits = {limit["metric"]: limit for limit in first["limits"]}
    assert limits["cost_usd"]["baseline"] == pytest.approx(limits["cost_usd"]["measured"], rel=0.01)


def test_recorded_before_its_neighbours_and_after_them_is_one_cost(project: Project) -> None:
    """In the order of the file, the later scenarios read what the first ones wrote."""
    record_cold(project)
    assert project.judge("--token-budget-update").status == 0
    for scenario in SCENARIOS:
        record_cold(project, f"tests/test_support.py::{scenario}")
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output


def test_recorded_anew_on_a_warm_cache_is_no_improvement(project: Project) -> None:
    record_cold(project)
    assert project.judge("--token-budget-update").status == 0
    with MessagesApi(answer) as api:
        for _ in range(2):
            assert project.run("--token-budget-record=all", url=api.url).status == 0
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output


@pytest.mark.skipif(not EXACT, reason="a time is no known text, which the server could charge without ctok")
def test_a_broken_cache_is_a_regression_from_any_start(project: Project) -> None:
    timestamp(project)
    record_cold(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert all({"cache_share", "cost_usd"} <= result.over(scenario) for scenario in SCENARIOS)


def test_a_baseline_that_does_not_say_its_recording_is_judged_as_before(project: Project) -> None:
    (baselines,) = project.path.rglob("token_budgets/*.yaml")
    text = re.sub(r"(?m)^ +(foreign_reads:|5m:|1h:|recording:).*\n", "", baselines.read_text("utf-8"))
    baselines.write_text(text.replace("version: 2", "version: 1"), "utf-8")
    before = baselines.read_bytes()
    assert project.judge("--token-budget-update").status == 0
    assert baselines.read_bytes() == before, "an update of what did not change does not migrate"
    record_cold(project)
    result = project.judge()
    assert result.status == 1, result.output
    assert result.over(next(iter(SCENARIOS))) == {"cache_share", "cost_usd"}
    assert "the baseline does not say which recording it was measured on" in result.words


LOOP = """
import os

import httpx2
import pytest

CACHE = {"type": "ephemeral"}
SYSTEM = [{"type": "text", "text": "The customer writes first. " * 1_000, "cache_control": CACHE}]


@pytest.mark.token_budget
def test_three_questions():
    headers = {"x-api-key": os.environ.get("ANTHROPIC_API_KEY", "")}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    messages = []
    for words in ("One " * 400, "Two " * 400, "Three " * 400 + os.environ.get("CHANGED", "")):
        messages.append({"role": "user", "content": words})
        body = {"model": "claude-haiku-4-5", "max_tokens": 50, "system": SYSTEM, "messages": messages}
        answer = httpx2.post(f"{url}/v1/messages", json=body | {"cache_control": CACHE}, headers=headers)
        messages.append({"role": "assistant", "content": answer.raise_for_status().json()["content"]})
"""


def yes(_: Body) -> str:
    return "Yes."


def test_a_turn_that_is_called_anew_has_the_start_of_its_recording(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`changed` calls one turn on a cold cache; the others were recorded on a warm one."""
    (tmp_path / "test_it.py").write_text(LOOP, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    project = Project(tmp_path, pytester)
    record_warm(project, yes)
    monkeypatch.setenv("CHANGED", "Be brief.")
    with MessagesApi(yes) as api:
        recorded = project.judge("--token-budget-record=changed", url=api.url)
        assert len(api.charges) == 1
        assert api.charges[0].usage.cache_read_input_tokens == 0
    with MessagesApi(yes) as api:  # as warm as the recording was
        monkeypatch.delenv("CHANGED")
        assert project.run("--token-budget-disable", url=api.url).status == 0
        monkeypatch.setenv("CHANGED", "Be brief.")
        first = len(api.charges)
        assert project.run("--token-budget-disable", url=api.url).status == 0
        live = [charge.usage for charge in api.charges[first:]]
    for result in (recorded, project.judge()):
        assert (result.status, result.verdicts) == (0, {"within"}), result.output
        measured = result.scenarios["test_three_questions"]["measured"]
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
            assert measured[name] == pytest.approx(sum(getattr(usage, name) for usage in live), abs=5)
    again = project.run("--token-budget-record=changed", url="http://127.0.0.1:9")
    assert again.status == 0, again.output  # nothing is left to call
