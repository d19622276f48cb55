"""The example project, changed as pull requests change agents: verdicts, and numbers against live charges."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from budgeted import against, judged, run
from messages_api import MessagesApi
from messages_api.support_model import answer

EXAMPLE = Path(__file__).parents[1] / "example_project"
EXACT = find_spec("ctok") is not None
SCENARIOS = {
    "test_a_late_parcel_counts_as_lost": "promised for Wednesday",
    "test_a_wrong_part_is_replaced": "a disc of 180 mm",
    "test_three_researchers_find_out_whether_it_fits": "a steel frame with a BSA shell",
    "test_an_injury_goes_to_a_person": "The stem from order",
    "test_an_unknown_order_is_asked_for_again": "FW-99999",
}
"""Each scenario, and words of the customer's message that stand in all of its requests."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example that a test may change."""
    copy = tmp_path / "support"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
    return copy


def charged(project: Path) -> dict[str, int]:
    """Prompt tokens of each scenario as the server charges them when the changed agent really calls it."""
    with MessagesApi(answer) as api:
        done = run(project, "--token-budget-disable", **against(api.url))
        assert done.returncode == 0, done.stdout + done.stderr
    return {
        scenario: sum(c.usage.prompt_tokens for c in api.charges if words in _first_message(c.body))
        for scenario, words in SCENARIOS.items()
    }


def _first_message(body: Mapping[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1, f"{file.name} must hold {old!r} once"
    file.write_text(text.replace(old, new), "utf-8")


SENTENCE = "When a customer mentions the weather, leave the weather alone and answer the question. "


def grow_prompt(times: int) -> Callable[[Path], None]:
    """Append `times` * 16 tokens to a handbook of 2,036."""

    def edit(project: Path) -> None:
        with (project / "support_agent/prompts/support.md").open("a", encoding="utf-8") as file:
            file.write("\n" + SENTENCE * times)

    return edit


def grow_tool(project: Path) -> None:
    replace(
        project / "support_agent/tools/track_parcel.json",
        "not the number of the order.",
        "not the number of the order. " + SENTENCE * 19,
    )


def shorten_prompt(project: Path) -> None:
    file = project / "support_agent/prompts/support.md"
    text = file.read_text("utf-8")
    file.write_text(text[: text.index("# Prices, payment and invoices")], "utf-8")


def timestamp(project: Path) -> None:
    replace(
        project / "support_agent/agent.py",
        '"text": prompt("support")',
        '"text": f"It is {__import__(\'datetime\').datetime.now()}.\\n" + prompt("support")',
    )


def reflect(project: Path) -> None:
    replace(
        project / "support_agent/agent.py",
        "        if not calls:\n",
        "        if not calls:\n            triage(client, text_of(reply))\n",
    )


def skip_triage(project: Path) -> None:
    """Words instead of the small model, with the same result."""
    rules = '(("lawyer", "person"), ("exchange", "return"), ("fit a", "fit"), ("", "delivery"))'
    replace(project / "support_agent/agent.py", "MAX_TURNS = 8\n", f"MAX_TURNS = 8\nRULES = {rules}\n")
    replace(
        project / "support_agent/agent.py",
        "category = triage(client, message)",
        "category = next(kind for word, kind in RULES if word in message)",
    )


def loop(project: Path) -> None:
    replace(project / "support_agent/agent.py", "        messages += [", "        _ = [")


def test_unchanged_is_within_and_every_number_is_recorded(project: Path) -> None:
    result = judged(project)
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert {entry["basis"] for entry in result.document["scenarios"]} == {"recorded"}
    assert {turn["basis"] for entry in result.document["scenarios"] for turn in entry["turns"]} == {
        "recorded"
    }
    assert set(result.scenarios) == set(SCENARIOS)
    for entry in result.document["scenarios"]:
        assert entry["measured"] == entry["baseline"]


def test_two_percent_pass(project: Path) -> None:
    grow_prompt(2)(project)
    result = judged(project)
    assert (result.status, result.verdicts) == (0, {"within"}), result.output


@pytest.mark.parametrize("times", [13, 51], ids=["+10%", "+40%"])
def test_growth_is_over_and_the_number_is_what_the_server_charges(project: Path, times: int) -> None:
    grow_prompt(times)(project)
    result = judged(project)
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    allowed = 0.02 if EXACT else 0.06
    for scenario, tokens in charged(project).items():
        assert "prompt_tokens" in result.over(scenario)
        assert result.scenarios[scenario]["measured"]["prompt_tokens"] == pytest.approx(tokens, rel=allowed)


def test_a_grown_tool_is_over_and_the_number_is_what_the_server_charges(project: Path) -> None:
    grow_tool(project)
    result = judged(project)
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    for scenario, tokens in charged(project).items():
        measured = result.scenarios[scenario]["measured"]["prompt_tokens"]
        assert measured == pytest.approx(tokens, rel=0.02 if EXACT else 0.06)


def test_a_timestamp_fails_on_cache_share(project: Path) -> None:
    timestamp(project)
    result = judged(project)
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert all("cache_share" in result.over(scenario) for scenario in SCENARIOS)


@pytest.mark.parametrize("edit", [reflect, skip_triage, loop])
def test_another_shape_is_stale(project: Path, edit: Callable[[Path], None]) -> None:
    edit(project)
    result = judged(project)
    assert (result.status, result.verdicts) == (1, {"stale"}), result.output


def test_a_cheaper_prompt_is_improved_and_passes(project: Path) -> None:
    shorten_prompt(project)
    result = judged(project)
    assert (result.status, result.verdicts) == (0, {"improved"}), result.output


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["again", "-n 2"])
def test_the_same_document_however_it_is_run(project: Path, arguments: tuple[str, ...]) -> None:
    grow_prompt(13)(project)
    first, second = judged(project), judged(project, *arguments)
    assert first.document == second.document


def test_a_partial_run_judges_what_it_ran(project: Path) -> None:
    result = judged(project, "-k", "injury or unknown")
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert set(result.scenarios) == {
        "test_an_injury_goes_to_a_person",
        "test_an_unknown_order_is_asked_for_again",
    }


def test_an_update_without_changes_leaves_every_byte(project: Path) -> None:
    file = project / "tests/token_budgets/test_support.yaml"
    before = file.read_bytes()
    done = run(project, "--token-budget", "--token-budget-update")
    assert done.returncode == 0, done.stdout
    assert file.read_bytes() == before


def test_recording_once_more_changes_no_baseline(project: Path) -> None:
    """The server is deterministic: recorded anew, the same agent costs the same."""
    before = (project / "tests/token_budgets/test_support.yaml").read_bytes()
    with MessagesApi(answer) as api:
        done = run(project, "--token-budget-record=all", **against(api.url))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(api.charges) == sum(len(entry["turns"]) for entry in judged(project).document["scenarios"])
    run(project, "--token-budget", "--token-budget-update")
    assert (project / "tests/token_budgets/test_support.yaml").read_bytes() == before
