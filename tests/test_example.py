"""The example project, changed as pull requests change agents: verdicts, and numbers against live charges."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from difflib import unified_diff
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_tokenbudget.metering.counting import best_counter
from pytest_tokenbudget.reports.document import schema
from support.budgeted import Project
from support.messages_api import MessagesApi
from support.messages_api.support_model import answer

pytestmark = pytest.mark.newest

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
def project(tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the example that a test may change."""
    # pytest-asyncio warns where this is unset, and with pytest 8 our own filters make an error of it.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-o asyncio_default_fixture_loop_scope=function")
    copy = tmp_path / "support"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
    return Project(copy, pytester)


def charged(project: Project) -> dict[str, int]:
    """Prompt tokens of each scenario as the server charges them when the changed agent really calls it."""
    with MessagesApi(answer) as api:
        done = project.run("--token-budget-disable", url=api.url)
        assert done.status == 0, done.output
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


def grow_prompt(times: int) -> Callable[[Project], None]:
    """Append `times` * 16 tokens to a handbook of 2,036."""

    def edit(project: Project) -> None:
        with (project.path / "support_agent/prompts/support.md").open("a", encoding="utf-8") as file:
            file.write("\n" + SENTENCE * times)

    return edit


def grow_tool(project: Project) -> None:
    replace(
        project.path / "support_agent/tools/track_parcel.json",
        "not the number of the order.",
        "not the number of the order. " + SENTENCE * 19,
    )


def shorten_prompt(project: Project) -> None:
    file = project.path / "support_agent/prompts/support.md"
    text = file.read_text("utf-8")
    file.write_text(text[: text.index("# Prices, payment and invoices")], "utf-8")


def timestamp(project: Project) -> None:
    replace(
        project.path / "support_agent/agent.py",
        '"text": prompt("support")',
        '"text": f"It is {__import__(\'datetime\').datetime.now()}.\\n" + prompt("support")',
    )


def reflect(project: Project) -> None:
    replace(
        project.path / "support_agent/agent.py",
        "        if not calls:\n",
        "        if not calls:\n            triage(client, text_of(reply))\n",
    )


def skip_triage(project: Project) -> None:
    """Words instead of the small model, with the same result."""
    rules = '(("lawyer", "person"), ("exchange", "return"), ("fit a", "fit"), ("", "delivery"))'
    replace(project.path / "support_agent/agent.py", "MAX_TURNS = 8\n", f"MAX_TURNS = 8\nRULES = {rules}\n")
    replace(
        project.path / "support_agent/agent.py",
        "category = triage(client, message)",
        "category = next(kind for word, kind in RULES if word in message)",
    )


def loop(project: Project) -> None:
    replace(project.path / "support_agent/agent.py", "        messages += [", "        _ = [")


def test_unchanged_is_within_and_every_number_is_recorded(project: Project) -> None:
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    jsonschema.Draft202012Validator(schema()).validate(result.document)
    assert (result.document["errors"], result.document["not_judged"]) == ([], [])
    assert {entry["basis"] for entry in result.document["scenarios"]} == {"recorded"}
    assert {turn["basis"] for entry in result.document["scenarios"] for turn in entry["turns"]} == {
        "recorded"
    }
    assert set(result.scenarios) == set(SCENARIOS)
    for entry in result.document["scenarios"]:
        assert entry["measured"] == entry["baseline"]
    assert "TokenBudgetWarning" not in result.output


def test_two_percent_pass(project: Project) -> None:
    grow_prompt(2)(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output


@pytest.mark.parametrize("times", [13, 51], ids=["+10%", "+40%"])
def test_growth_is_over_and_the_number_is_what_the_server_charges(project: Project, times: int) -> None:
    grow_prompt(times)(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    allowed = 0.02 if EXACT else 0.06
    for scenario, tokens in charged(project).items():
        assert "prompt_tokens" in result.over(scenario)
        assert result.scenarios[scenario]["measured"]["prompt_tokens"] == pytest.approx(tokens, rel=allowed)


def test_a_grown_tool_is_over_and_the_number_is_what_the_server_charges(project: Project) -> None:
    grow_tool(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    for scenario, tokens in charged(project).items():
        measured = result.scenarios[scenario]["measured"]["prompt_tokens"]
        assert measured == pytest.approx(tokens, rel=0.02 if EXACT else 0.06)


def test_a_timestamp_fails_on_cache_share(project: Project) -> None:
    timestamp(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert all("cache_share" in result.over(scenario) for scenario in SCENARIOS)


def test_what_caches_nothing_is_told_which_text_should_carry_a_breakpoint(project: Project) -> None:
    agent = project.path / "support_agent/agent.py"
    replace(agent, ', "cache_control": {"type": "ephemeral"}', "")
    replace(agent, '            cache_control={"type": "ephemeral"},\n', "")
    result = project.judge("-k", "late_parcel")
    (scenario,) = result.document["scenarios"]
    (lever,) = (found for found in scenario["findings"] if found["kind"] == "lever_caching")
    assert lever["source"] == {"file": "support_agent/prompts/support.md", "line": 1}
    assert lever["text"].startswith("cache_control at system[0] (support_agent/prompts/support.md:1-")
    assert "and the last message" in lever["text"]


@pytest.mark.parametrize("edit", [reflect, skip_triage, loop])
def test_another_shape_is_stale(project: Project, edit: Callable[[Project], None]) -> None:
    edit(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (1, {"stale"}), result.output


def test_a_cheaper_prompt_is_improved_and_passes(project: Project) -> None:
    shorten_prompt(project)
    result = project.judge()
    assert (result.status, result.verdicts) == (0, {"improved"}), result.output


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["again", "-n 2"])
def test_the_same_document_however_it_is_run(project: Project, arguments: tuple[str, ...]) -> None:
    grow_prompt(13)(project)
    first, second = project.judge(), project.judge(*arguments)
    assert first.document == second.document


def test_a_partial_run_judges_what_it_ran(project: Project) -> None:
    result = project.judge("-k", "injury or unknown")
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert set(result.scenarios) == {
        "test_an_injury_goes_to_a_person",
        "test_an_unknown_order_is_asked_for_again",
    }


def test_an_update_without_changes_leaves_every_byte(project: Project) -> None:
    file = project.path / "tests/token_budgets/test_support.yaml"
    before = file.read_bytes()
    done = project.run("--token-budget", "--token-budget-update")
    assert done.status == 0, done.output
    assert file.read_bytes() == before


FIRST = """
- Say in one sentence what you did, in one what happens next, and in one by when that will be; leave
  out what the customer knows already from the last mail, and whatever is in the confirmation of the
  order.
- Where two rules disagree, follow the one that costs the customer less time, and write a note for
  the colleague who looks after the rules; say in it which two they are, and what the customer had
  asked for.
- Never quote a rule of the house to a customer: say what it means for the order in question, in
  words that they would use themselves, and what they can do now; whoever asks for the rule itself
  gets a link.
- If a customer writes in anger, answer the question first and the anger second, in one sentence,
  without a word that was in their mail; do not explain how the mistake came about unless they ask
  you for that.
"""
SECOND = """
- Ask for one thing at a time: an order number first, then what is wrong, then what would help;
  never for all three in one mail, and never for what stands in the order already or was said in an
  earlier message.
- A photo is worth asking for where a part is broken, and only there: say which side of it you need
  to see, and why that decides; if the customer cannot take one, ask what the part looks like, and
  go by that.
- Write dates with the day of the week, and sums with the currency; never write a date that nobody
  has confirmed, not even as a guess, and no sum that is not in the order or in what a tool has told
  you of it.
- Close with your name and the number of the case, never with a survey: whoever is content writes
  that without being asked for it, and whoever is not has no wish to give stars for an order that
  went wrong.
"""
REVIEWED = ("test_support.yaml", "accepted/test_support.yaml")
FORMATS = Path(__file__).parents[1] / "docs" / "formats.md"


@pytest.mark.skipif(not EXACT, reason="the page shows what ctok counts")
def test_the_page_shows_what_a_reviewer_sees_of_a_second_acceptance(project: Project) -> None:
    shown = FORMATS.read_text("utf-8").partition("## What a reviewer sees")[2].partition("\n## ")[0]
    shown = re.sub(r"ctok [\d.]+", best_counter().name, shown)
    prompt, folder = project.path / "support_agent/prompts/support.md", project.path / "tests/token_budgets"
    held = []
    for at, more in ((58, FIRST), (88, SECOND)):
        lines = prompt.read_text("utf-8").splitlines()
        rules = more.strip().replace("\n  ", " ").splitlines()
        prompt.write_text("\n".join([*lines[:at], *rules, *lines[at:], ""]), "utf-8")
        done = project.judge("--token-budget-update")
        held.append([(folder / name).read_text("utf-8").splitlines() for name in REVIEWED])
    said = " ".join(shown.partition("```text")[2].partition("```")[0].split())
    assert without_dollars(said) in without_dollars(done.words)
    for was, now in zip(*held, strict=True):
        written = [*unified_diff(was, now, n=3, lineterm="")][2:]
        hunks = re.split(r"^@@.*\n", shown.partition("```diff\n")[2].partition("```")[0], flags=re.MULTILINE)
        found = [hunk for hunk in hunks if _is_shown(hunk.splitlines(), written)]
        assert len(found) == (1 if was is held[0][0] else 2), "\n".join(written)


def without_dollars(text: str) -> str:
    """Return a text without what depends on the price list."""
    return re.sub(r"\$[\d.]+", "$", text)


def _is_shown(hunk: Sequence[str], written: Sequence[str]) -> bool:
    """Return whether the lines of a hunk stand in a diff one after the other; `...` ends a line early."""
    hunk = [line for line in hunk if not line.startswith(("---", "+++"))]
    starts = [line.removesuffix("...") for line in hunk]
    return bool(hunk) and any(
        all(map(str.startswith, written[at:], starts)) and len(written) - at >= len(hunk)
        for at in range(len(written))
    )


def test_recording_once_more_changes_no_baseline(project: Project) -> None:
    """The server is deterministic: recorded anew, each scenario for itself, the same agent costs the same."""
    baselines = project.path / "tests/token_budgets/test_support.yaml"
    before = baselines.read_bytes()
    for scenario, turns in {
        "test_a_late_parcel_counts_as_lost": 4,
        "test_three_researchers_find_out_whether_it_fits": 9,
    }.items():
        with MessagesApi(answer) as api:
            done = project.run("--token-budget-record=all", "-k", scenario, url=api.url)
        assert done.status == 0, done.output
        assert len(api.charges) == turns
    project.run("--token-budget", "--token-budget-update")
    assert baselines.read_bytes() == before
