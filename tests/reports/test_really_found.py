"""Reports of what diagnosis really finds: agents that change in many ways, metered, judged and told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from pytest_tokenbudget.advice import Spend, advise, outliers
from pytest_tokenbudget.advice.layout import lay_out
from pytest_tokenbudget.budget.verdict import LiveRuns, Starts, judge
from pytest_tokenbudget.diagnosis import diagnose
from pytest_tokenbudget.diagnosis.prompt_parts import text_of
from pytest_tokenbudget.diagnosis.turns import other_start, recorded_anew
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Finding, FindingKind, Rate, Tokens, Usage
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
from pytest_tokenbudget.sources import SourceTree
from support.changes import Case, before_system, each, put, system, unmark
from support.documents import document
from support.seeded import (
    FILES,
    HANDBOOK,
    METER,
    Step,
    changed,
    contents,
    cost,
    count,
    record,
    replay,
    several,
    support_agent,
    tool,
)

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
    Case("cached", each(), before=each(unmark("system", "messages"))),
    Case("shorter", lambda turn, body: None if turn == 3 else body),
    Case("unchanged", each()),
)
ANEW = Usage.of(Rate("claude-sonnet-4-6"), Tokens(input_tokens=9000, output_tokens=160), turns=4)
STARTS = Starts({}, {Rate("claude-sonnet-4-6"): {"5m": 4085}})
CHEAPER = {"claude-opus-4-8": ("claude-haiku-4-5",), "claude-sonnet-4-6": ("claude-haiku-4-5",)}


def entry(case: Case) -> ScenarioEntry:
    """The changed agent of a case as a run would tell it."""
    before = {path: FILES.get(path, "") for path in case.files}
    return told_of(case.name, case.run(), SourceTree({**FILES, **case.files}, before))


def told_of(name: str, run: Run, sources: SourceTree | None = None, *more: Finding) -> ScenarioEntry:
    """A run, judged against what it recorded, as `Judge` tells it; `more` is what it adds."""
    baseline = sum((turn.recorded for turn in run.turns if turn.recorded), Usage())
    settings = ScenarioSettings(runs_per_month=1000)
    findings = [*more, *diagnose(run, cost=cost, count=count, sources=sources or SourceTree(FILES))]
    judgement = judge(
        baseline,
        run.usage,
        settings,
        cost,
        departure=run.departure,
        best=run.best,
        unbounded=run.is_unbounded,
    )
    place = build.Place(f"tests/test_agent.py::test_{name}", "tests/test_agent.py", 3)
    laid_out = lay_out(run, cost)
    return build.scenario(
        place, judgement, baseline, run, findings, cost, runs_per_month=1000, laid_out=laid_out
    )


@pytest.fixture(scope="module")
def told() -> Document:
    entries = [entry(case) for case in CASES]
    run = CASES[-1].run()
    anew = [*recorded_anew(run, ANEW, cost, None, names_recording=True), *other_start(STARTS)]
    judgement = judge(ANEW, run.usage, ScenarioSettings(), cost)
    place = build.Place("tests/test_agent.py::test_anew", "tests/test_agent.py", 9)
    entries.append(build.scenario(place, judgement, ANEW, run, anew, cost, laid_out=lay_out(run, cost)))
    return document([*entries, batched(), unreadable(), unpriced(), live(), *wasteful()])


def batched() -> ScenarioEntry:
    """Calls that are batches now: the same tokens at another rate."""
    run = CASES[-1].run()
    usages = [Usage.of(Rate("claude-sonnet-4-6", ("batch",)), turn.usage.main_tokens) for turn in run.turns]
    turns = [replace(turn, usage=usage) for turn, usage in zip(run.turns, usages, strict=True)]
    return told_of("batched", replace(run, turns=tuple(turns)))


def unreadable() -> ScenarioEntry:
    """A run with a problem of its own, which the session puts into words."""
    problem = "2 calls were asked by threads that no test has begun, and are of nobody"
    run = replace(CASES[-1].run(), problems=(problem,))
    return told_of("unreadable", run, None, Finding(FindingKind.PROBLEM, "run", problem))


def unpriced() -> ScenarioEntry:
    """An agent whose model nobody prices, then and now."""
    run, rate = CASES[-1].run(), Rate("claude-sonnet-9")
    usages = [Usage.of(rate, turn.usage.main_tokens) for turn in run.turns]
    turns = [
        replace(turn, usage=usage, recorded=usage) for turn, usage in zip(run.turns, usages, strict=True)
    ]
    finding = Finding(FindingKind.UNPRICED_MODEL, str(rate), f"no price is known for {rate}")
    return told_of("unpriced", replace(run, turns=tuple(turns)), None, finding)


def live() -> ScenarioEntry:
    """Live runs that differ so much that nothing is decided."""
    bodies = changed(support_agent().bodies(), each())
    sample = told_of("live", METER.called(record(bodies, support_agent().answers())))
    assert sample["measured"] is not None
    usd = sample["measured"]["cost_usd"]
    assert usd is not None
    costs = (0.7 * usd, 1.2 * usd, 1.1 * usd)
    samples: list[Any] = [{**sample, "measured": {**sample["measured"], "cost_usd": one}} for one in costs]
    return build.merge_samples(samples, cost, LiveRuns((usd, 1.1 * usd, 0.8 * usd), costs, 1.05))


def wasteful() -> Iterator[ScenarioEntry]:
    """Agents that change nothing, and could be cheaper."""
    tree = SourceTree(FILES)
    asks = (f"Look into the {part}." for part in ("saddle", "chain", "pump"))
    scattered = [support_agent(opening=ask, steps=[Step(f"{ask} It is fine.")]) for ask in asks]
    for name, agents in (("wasteful", [support_agent()]), ("scattered", scattered)):
        bodies, answers = several(*agents)
        bodies = changed(bodies, each(unmark("system", "messages")))
        run = replay(record(bodies, answers), bodies)
        more = advise(
            lay_out(run, cost),
            cheaper=lambda model: CHEAPER.get(model, ()),
            batchable=True,
            locate=lambda block: tree.locate("", text_of(block)).source,
        )
        yield told_of(name, run, None, *more)


def test_every_kind_of_finding_is_written_by_what_finds_it(told: Document) -> None:
    kinds = {finding["kind"] for one in told["scenarios"] for finding in one["findings"]}
    suite = {f"test_{number}": [Spend(1000, Decimal(number))] for number in range(9)}
    kinds |= {finding.kind for finding in outliers(suite)}
    assert kinds == set(map(str, FindingKind))


@pytest.mark.parametrize(("columns", "verbosity"), [(60, 0), (80, 0), (120, 0), (80, -1), (80, 1)])
def test_terminal(told: Document, golden: Any, columns: int, verbosity: int) -> None:
    lines = summary_lines(told, columns=columns, verbosity=verbosity)
    assert all(width(line.text) <= columns or line.is_command for line in lines)
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
        assert set(parts) | {"tool results"} == {"system", "tools", "conversation", "tool results", "answers"}
    unchanged = next(one for one in known if one["id"].endswith("::test_unchanged"))
    tokens = {tool["name"]: tool["tokens"] for tool in unchanged["context"]["tools"]}
    assert tokens["added by the API"] == 4 * 497, "to the tools of Sonnet 4.6, on four turns"


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
