"""Reports of what diagnosis really finds: agents that change in many ways, metered, judged and told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_tokenbudget.budget.verdict import Starts, judge
from pytest_tokenbudget.diagnosis.diagnose import diagnose
from pytest_tokenbudget.diagnosis.turns import other_start, recorded_anew
from pytest_tokenbudget.model import FindingKind, Rate, Tokens, Usage
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.change_view import changes
from pytest_tokenbudget.reports.dashboard import dashboard, scenarios
from pytest_tokenbudget.reports.document import Document, ScenarioEntry
from pytest_tokenbudget.reports.exports import workflow_commands
from pytest_tokenbudget.reports.markdown import markdown
from pytest_tokenbudget.reports.scenario_view import fails, worst_first
from pytest_tokenbudget.reports.terminal import failure_text, summary_lines
from pytest_tokenbudget.reports.text import width
from pytest_tokenbudget.settings import ScenarioSettings
from pytest_tokenbudget.sources.tree import SourceTree
from support.changes import Case, before_system, each, put, system
from support.documents import document
from support.seeded import FILES, HANDBOOK, contents, cost, count, tool

GROWN = HANDBOOK + "\n" + "Say in one sentence why, before you say what you will do.\n" * 12
PROMPT = "agent/prompts/handbook.md"
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
CASES = (
    Case("grown", each(system(lambda *_: GROWN)), files={PROMPT: GROWN}),
    Case("grown_too", each(system(lambda *_: GROWN)), files={PROMPT: GROWN}),
    Case("clock", each(before_system("It is {}.", "10:00:01", "10:00:02", "10:00:03", "10:00:04"))),
    Case("day", each(before_system("Today is {}.", "2026-11-29"))),
    Case("tool", each(lambda _, body: body["tools"].append(tool("cancel", "Cancel an order. " * 20)))),
    Case("server", each(lambda _, body: body["tools"].append(tool("mcp__shop__find", "Find a part. " * 30)))),
    Case("reordered", each(lambda _, body: body["tools"].reverse())),
    Case("effort", each(put(output_config={"effort": "high"}))),
    Case("model", each(put(model="claude-haiku-4-5"))),
    Case("nova", each(put(model="claude-nova-9"))),
    Case("unread", each(lambda _, body: contents(body) and body["messages"][0]["content"].insert(0, PDF))),
    Case("shorter", lambda turn, body: None if turn == 3 else body),
    Case("unchanged", each()),
)
ANEW = Usage.of(Rate("claude-sonnet-4-6"), Tokens(input_tokens=9000, output_tokens=160), turns=4)
STARTS = Starts({}, {Rate("claude-sonnet-4-6"): {"5m": 4085}})
FOUND = {
    FindingKind.GROWTH, FindingKind.CACHE_BREAK, FindingKind.VOLATILE, FindingKind.TURNS_CHANGED,
    FindingKind.MODEL_CHANGED, FindingKind.RECORDING_CHANGED, FindingKind.OTHER_START,
    FindingKind.ANSWER_OPTIONS, FindingKind.ASSUMED_MODEL, FindingKind.UNKNOWN,
}  # fmt: skip


def entry(case: Case) -> ScenarioEntry:
    """The changed agent of a case as a run would tell it."""
    run = case.run()
    before = {path: FILES.get(path, "") for path in case.files}
    baseline = sum((turn.recorded for turn in run.turns if turn.recorded), Usage())
    settings = ScenarioSettings(runs_per_month=1000)
    findings = diagnose(run, cost=cost, count=count, sources=SourceTree({**FILES, **case.files}, before))
    judgement = judge(
        baseline,
        run.usage,
        settings,
        cost,
        departure=run.departure,
        best=run.best,
        unbounded=run.is_unbounded,
    )
    place = build.Place(f"tests/test_agent.py::test_{case.name}", "tests/test_agent.py", 3)
    return build.scenario(place, judgement, baseline, run, findings, cost, runs_per_month=1000)


@pytest.fixture(scope="module")
def told() -> Document:
    entries = [entry(case) for case in CASES]
    run = CASES[-1].run()
    anew = [*recorded_anew(run, ANEW, cost, None, names_recording=True), *other_start(STARTS)]
    judgement = judge(ANEW, run.usage, ScenarioSettings(), cost)
    place = build.Place("tests/test_agent.py::test_anew", "tests/test_agent.py", 9)
    return document([*entries, build.scenario(place, judgement, ANEW, run, anew, cost)])


def test_every_kind_of_cause_is_found(told: Document) -> None:
    kinds = {finding["kind"] for one in told["scenarios"] for finding in one["findings"]}
    assert kinds == {str(kind) for kind in FOUND}


@pytest.mark.parametrize(("columns", "verbosity"), [(60, 0), (80, 0), (120, 0), (80, -1), (80, 1)])
def test_terminal(told: Document, golden: Any, columns: int, verbosity: int) -> None:
    lines = summary_lines(told, columns=columns, verbosity=verbosity)
    assert all(width(line.text) <= columns for line in lines)
    form = {-1: "quiet", 0: "plain", 1: "verbose"}[verbosity]
    golden(f"found-{columns}-{form}.txt", "".join(f"{line.text}\n" for line in lines))


def test_failures(told: Document, golden: Any) -> None:
    failing = filter(fails, worst_first(told["scenarios"]))
    golden("found-failures.txt", "\n\n".join(map(failure_text, failing)) + "\n")


def test_markdown(told: Document, golden: Any) -> None:
    golden("found.md", markdown(told))


def test_annotations(told: Document, golden: Any) -> None:
    golden("found-annotations.txt", "".join(f"{line}\n" for line in workflow_commands(told)))


def test_what_a_context_is_made_of_adds_up_to_the_bill(told: Document) -> None:
    known = [one for one in told["scenarios"] if "context" in one]
    assert len(known) >= 10
    for scenario in known:
        context, turns = scenario["context"], scenario["turns"]
        bills = [turn["tokens"] for turn in turns]
        assert sum(part["tokens"] for part in context["parts"]) == sum(
            bill["prompt_tokens"] + bill["output_tokens"] for bill in bills if bill
        )
        for index, bill in enumerate(bills):
            costs = [part["turns"][index] for part in context["parts"]]
            if bill and bill["cost_usd"] is not None:
                assert sum(cost or 0.0 for cost in costs) == pytest.approx(bill["cost_usd"])
            else:
                assert None in costs
        sums = [sum(one["tokens"] for one in context[key]) for key in ("tools", "conversations")]  # type: ignore[literal-required]
        parts = {part["part"]: part["tokens"] for part in context["parts"]}
        assert sums == [parts["tools"], sum(parts.values())]
        assert list(parts) == ["system", "tools", "conversation", "tool results", "answers"]


def test_the_page_says_what_a_context_is_made_of(told: Document) -> None:
    text = re.sub(r"<[^>]*>", " ", dashboard(told, None))
    assert "What the context is made of" in text
    assert re.search(r"shop: 1 tool\s+[\d,]+\s+\$[\d.]+\s+[\d.]+%\s+shop/find", text)
    subjects = {one.id.partition("::")[2]: one for one in scenarios.subjects(told, None, None)}
    context = scenarios.details(subjects["test_unchanged"]).context
    assert context is not None
    assert context.headers == ("turn", "system", "tools", "conversation", "tool results", "answers")
    shares = [int(share.rstrip("%")) for share in context.rows[-1][1:]]
    assert 98 <= sum(shares) <= 102


def test_another_model_is_one_change(told: Document) -> None:
    (one,) = [one for one in told["scenarios"] if one["id"].endswith("::test_model")]
    (change,) = changes(document([one]))
    assert change.title == "the model"
    assert change.findings[0]["kind"] == "model_changed"
    assert len(change.findings) == len(one["findings"]) > 2
