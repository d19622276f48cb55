"""All causes together: silence where nothing matters, order, what is unknown."""

from __future__ import annotations

import copy
from decimal import Decimal

import pytest

from pytest_tokenbudget.diagnosis import diagnose
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.sources import SourceTree
from support.blocks import text
from support.changes import (
    LONGER,
    Case,
    InPlace,
    before_system,
    each,
    in_two_blocks,
    mark_system,
    mark_tools,
    on,
    put,
    question,
    system,
    unmark,
)
from support.seeded import (
    FILES,
    HANDBOOK,
    METER,
    PRICES,
    RULES,
    Body,
    advised,
    changed,
    cost,
    findings,
    record,
    replay,
    results,
    subagents,
    support_agent,
)


def as_lists(_: int, body: Body) -> None:
    for block in results(body):
        block["content"] = [text(block["content"])]


HARMLESS = [
    Case("nothing", each()),
    Case("metadata", each(put(metadata={"user_id": "u-17"}))),
    Case("another limit on the output", each(put(max_tokens=4096))),
    Case("stop sequences and temperature", each(put(stop_sequences=["\n\n"], temperature=0.2, top_p=0.9))),
    Case("streaming", each(put(stream=True))),
    Case(
        "the system prompt as a list",
        each(),
        before=each(lambda _, body: body.update(system=body["system"][0]["text"])),
        agent=lambda: support_agent(system=[text(HANDBOOK)], rolling=False),
    ),
    Case("tool results as lists", each(as_lists)),
    Case("the system prompt in two blocks", each(in_two_blocks)),
    Case("one more breakpoint", each(mark_tools)),
    Case("the breakpoint of the system prompt under that of the conversation", each(unmark("system"))),
    Case(
        "automatic caching instead of a moving breakpoint",
        each(unmark("messages"), put(cache_control={"type": "ephemeral"})),
    ),
    Case("five minutes said aloud", each(mark_system("5m"))),
    Case("tool_choice auto said aloud", each(put(tool_choice={"type": "auto"}))),
    Case(
        "the order of the keys of a message",
        each(lambda _, body: body.update(messages=[dict(reversed(m.items())) for m in body["messages"]])),
    ),
    Case("the order of the keys of the body", lambda _, body: dict(reversed(body.items()))),
    Case("a beta header about caching", each(), headers={"anthropic-beta": "extended-cache-ttl-2025-04-11"}),
    Case("nothing, warm", each(), warm=True),
    Case("one more breakpoint, warm", each(mark_tools), warm=True),
    Case("nothing, with subagents", each(), agent=subagents),
]


@pytest.mark.parametrize("case", HARMLESS, ids=str)
def test_harmless_changes_bring_no_finding(case: Case) -> None:
    case.check()


def test_unknown_turns_are_told_and_left_out_of_the_sums() -> None:
    pdf = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
    }
    case = Case(
        "a PDF from the third turn on",
        each(on(2, 3, step=lambda _, body: body["messages"][4]["content"].insert(0, copy.deepcopy(pdf)))),
        {"unknown turns 3 and 4": ("cannot be counted", "application/pdf", "")},
    )
    case.check()


def test_an_unknown_price_is_no_price() -> None:
    case = Case("a model that nobody knows", each(put(model="claude-nova-9")))
    told = findings(case.run())
    assert {one.kind for one in told} >= {"model_changed", "growth"}
    assert all(one.cost_usd is None for one in told)
    assert next(one for one in told if one.kind == "model_changed").text.endswith("a price is unknown")


def test_the_same_model_by_another_name_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRICES, "claude-sonnet-4-6-20260217", PRICES["claude-sonnet-4-6"])
    case = Case("a snapshot's id", each(put(model="claude-sonnet-4-6-20260217")))
    assert not findings(case.run())


def test_worst_first() -> None:
    case = Case(
        "a large part, a small one, and one that shrinks",
        each(
            system(lambda _, words: words.replace(RULES, RULES + "\n" + RULES)),
            question(lambda _, words: words + " Thanks."),
            lambda _, body: body["tools"].pop(),
        ),
    )
    told = findings(case.run())
    assert [one.where for one in told if one.kind == "growth"] == [
        "system[0]",
        "messages[0] user text",
        "tools[refund]",
    ]


def test_nothing_is_laid_out_or_counted_where_nothing_changed() -> None:
    def refuse(_: str) -> int:
        raise AssertionError("counted")

    run = Case("nothing", each()).run()
    assert diagnose(run, cost=cost, count=refuse, sources=SourceTree(FILES)) == ()


def test_what_the_cache_newly_serves_is_told_as_a_gain() -> None:
    case = Case(
        "breakpoints where there were none",
        each(),
        {"cache_change turns 1-4": ("tokens more are read from the cache than when recorded", "")},
        before=each(unmark("system", "messages")),
    )
    case.check()
    (found,) = findings(case.run())
    assert found.tokens is not None
    assert found.cost_usd is not None
    assert found.tokens > 0 > found.cost_usd


def test_a_live_run_has_nothing_to_be_held_against() -> None:
    agent = support_agent()
    assert findings(METER.called(record(agent.bodies(), agent.answers()))) == ()


def test_runs_of_several_cassettes_are_explained_together() -> None:
    grown = Case("", each(system(lambda _, words: words + "Be brief."))).run()
    (once,), (twice,) = findings(grown), findings(grown + grown)
    assert twice.tokens == 2 * (once.tokens or 0)
    assert "re-sent on 8 turns" in twice.text


ADVISOR = Usage.of(
    Rate("claude-opus-4-8"), Tokens(cache_read_input_tokens=780_000, output_tokens=90), turns=0
)


@pytest.mark.parametrize(
    "step",
    [
        system(lambda _, words: words + LONGER),
        put(model="claude-haiku-4-5"),
        unmark("messages"),
        unmark("system", "messages"),
        before_system("It is {}.", "10:01", "10:02", "10:03", "10:04"),
    ],
    ids=["growth", "another model", "a mark less", "no marks", "a clock"],
)
def test_causes_and_their_costs_are_the_same_beside_an_advisor(step: InPlace) -> None:
    """A second model in an answer, with a longer prompt than the request's, is no part of what changed."""
    agent = support_agent()
    recorded, bodies = record(agent.bodies(), agent.answers()), changed(agent.bodies(), each(step))
    alone, beside = (
        sorted((one.kind, one.where, one.tokens, one.cost_usd) for one in findings(replay(exchanges, bodies)))
        for exchanges in (recorded, advised(recorded, ADVISOR))
    )
    assert alone == beside
    assert alone


def test_the_costs_of_a_request_that_moves_to_the_model_of_its_advisor_add_up() -> None:
    agent = support_agent()
    bodies = changed(agent.bodies(), each(put(model="claude-opus-4-8")))
    run = replay(advised(record(agent.bodies(), agent.answers()), ADVISOR), bodies)
    told = findings(run)
    dollars = sum(
        ((cost(one.usage) or 0) - (cost(one.recorded or Usage()) or 0) for one in run.turns), Decimal(0)
    )
    parts = sum((one.cost_usd or Decimal(0) for one in told), Decimal(0))
    assert "model_changed" in {one.kind for one in told}
    assert float(parts) == pytest.approx(float(dollars), abs=1e-15)
