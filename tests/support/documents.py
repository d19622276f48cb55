"""Documents as real runs write them: all within budget, one of each verdict, and as many as asked.

Their numbers come from agents that never ran, but they add up as those of real ones do: a prompt that grows
by its own answers turn for turn, a prefix that is written once and read after, the prices of November 2026.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_tokenbudget.reports.document import (
    Document,
    ErrorEntry,
    ExcludedEntry,
    FindingEntry,
    LimitEntry,
    NotJudgedEntry,
    RateEntry,
    Recorder,
    ScenarioEntry,
    TokensEntry,
    TurnEntry,
    UnmeasuredEntry,
    UnmeteredEntry,
    add,
    totals,
)

SONNET, HAIKU, OPUS, NEW_MODEL = (
    "claude-sonnet-5",
    "claude-haiku-4-5",
    "claude-opus-5-5",
    "claude-sonnet-6-preview",
)

PRICES = {SONNET: (2.0, 10.0, 0.2), HAIKU: (1.0, 5.0, 0.1), OPUS: (4.0, 20.0, 0.2)}
"""Dollars per million tokens: uncached, answer, read. A write for five minutes costs 1.25 times uncached."""

COMMIT = "9f2c41d07b8e5a63c1d0f4b7a92e86d3510c7ea4"


def document(
    scenarios: Iterable[ScenarioEntry],
    mode: str = "replay",
    *,
    errors: Sequence[ErrorEntry] = (),
    not_judged: Sequence[NotJudgedEntry] = (),
    excluded: Sequence[ExcludedEntry] = (),
    unmeasured: Sequence[UnmeasuredEntry] = (),
    unmetered: Sequence[UnmeteredEntry] = (),
) -> Document:
    listed = sorted(scenarios, key=lambda one: one["id"])
    return {
        "version": 2,
        "tool": {"name": "pytest-tokenbudget", "version": "0.1.0"},
        "mode": mode,
        "prices": {"source": "genai-prices", "version": "0.2.3"},
        "commit": COMMIT,
        "totals": totals(listed),
        "scenarios": listed,
        "errors": list(errors),
        "not_judged": list(not_judged),
        "excluded": list(excluded),
        "unmetered": list(unmetered),
        "unmeasured": list(unmeasured),
        "committed": [],
        "project": None,
    }


def used(model: str, uncached: int, written: int, read: int, output: int) -> TokensEntry:
    """TOKENS of one turn."""
    cost = None
    if model in PRICES:
        fresh, answer, cached = PRICES[model]
        cost = round((uncached * fresh + written * fresh * 1.25 + read * cached + output * answer) / 1e6, 10)
    rate: RateEntry = {
        "input_tokens": uncached,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": output,
        "prompt_tokens": uncached + written + read,
        "cost_usd": cost,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
    }
    entry: Any = {key: value for key, value in rate.items() if key != "cache_creation"}
    return {"turns": 1, **entry, "models": {model: rate}}


def loop(model: str, prefix: int, outputs: Sequence[int], *, cached: bool = True) -> list[TokensEntry]:
    """A tool loop: every turn sends the prefix, what was said before and the newest message of 60 tokens."""
    turns, before = [], 0
    for index, output in enumerate(outputs):
        fresh = 60 + 35 * index
        if cached:
            known = 0 if index == 0 else prefix + before - (60 + 35 * (index - 1))
            turns.append(used(model, fresh, prefix + before - known, known, output))
        else:
            turns.append(used(model, prefix + before + fresh, 0, 0, output))
        before += fresh + output
    return turns


def scenario(
    node_id: str,
    verdict: str,
    was: Sequence[TokensEntry] | None,
    now: Sequence[TokensEntry | None],
    *,
    line: int = 12,
    basis: str = "recorded",
    paired: Sequence[str] | str = "exact",
    findings: Sequence[FindingEntry] = (),
    caps: dict[str, float] | None = None,
    models: Sequence[str] = (),
    recorder: Recorder | None = None,
) -> ScenarioEntry:
    baseline = add(was) if was is not None else None
    known = [turn for turn in now if turn is not None]
    measured = add(known) if len(known) == len(now) else None
    recorded = list(was or ())
    pairs = [paired] * len(now) if isinstance(paired, str) else list(paired)
    turns: list[TurnEntry] = [
        {
            "index": index,
            "model": next(iter(turn["models"])) if turn else models[index],
            "basis": "unknown" if turn is None else "recorded" if turn in recorded else basis,  # type: ignore[typeddict-item]
            "paired": pairs[index],
            "tokens": turn,
            "recorded": recorded[index] if index < len(recorded) else None,
        }
        for index, turn in enumerate(now)
    ]
    entry: ScenarioEntry = {
        "id": node_id,
        "file": node_id.partition("::")[0],
        "line": line,
        "verdict": verdict,  # type: ignore[typeddict-item]
        "basis": "unknown" if measured is None else basis,  # type: ignore[typeddict-item]
        "baseline": baseline,
        "measured": measured,
        "limits": [] if verdict == "stale" or measured is None else limits(baseline, measured, caps or {}),
        "turns": turns,
        "findings": list(findings),
        "recorder": recorder,
        "runs_per_month": None,
    }
    return entry


def let_run(scenario: ScenarioEntry, per_month: int) -> None:
    """Let a scenario say how often it runs."""
    scenario["runs_per_month"] = per_month


def limits(baseline: TokensEntry | None, measured: TokensEntry, caps: dict[str, float]) -> list[LimitEntry]:
    found: list[LimitEntry] = []
    if baseline is not None:
        for name, share, least in (("prompt_tokens", 0.05, 25), ("output_tokens", 0.1, 25), ("turns", 0, 0)):
            was = baseline[name]  # type: ignore[literal-required]
            found.append(limit(name, was, measured[name], was + max(int(was * share), least)))  # type: ignore[literal-required]
        before, after = share_of(baseline), share_of(measured)
        lowest = max(before - 0.05, 0)
        entry = limit("cache_share", before, after, round(lowest, 10))
        found.append({**entry, "change": round(after - before, 10), "over": after < lowest})
        if baseline["cost_usd"] is not None:
            most = round(baseline["cost_usd"] * 1.05 + 0.0001, 10)
            found.append(limit("cost_usd", baseline["cost_usd"], measured["cost_usd"], most))
    for name, most in caps.items():
        found.append(limit(name, None, measured[name.removeprefix("max_")], most))  # type: ignore[literal-required]
    return found


def limit(metric: str, was: float | None, now: float | None, most: float) -> LimitEntry:
    change = None if not was or now is None else round(now / was - 1, 10)
    over = now is None or now > most
    return {"metric": metric, "baseline": was, "measured": now, "limit": most, "change": change, "over": over}


def share_of(tokens: TokensEntry) -> float:
    return round(tokens["cache_read_input_tokens"] / tokens["prompt_tokens"], 10)


def finding(
    kind: str, where: str, text: str, *, tokens: int | None = None, cost: float | None = None, at: str = ""
) -> FindingEntry:
    file, _, line = at.partition(":")
    source: Any = {"file": file, "line": int(line)} if at else None
    return {"kind": kind, "where": where, "tokens": tokens, "cost_usd": cost, "text": text, "source": source}


def dearer(was: Sequence[TokensEntry], now: Sequence[TokensEntry]) -> float:
    return round((add(now)["cost_usd"] or 0) - (add(was)["cost_usd"] or 0), 10)


def all_green() -> Document:
    """Fourteen scenarios, nothing changed."""
    names = ["refund[gold|eu]", "refund[gold|us]", "refund[basic|eu]", "late_parcel", "angry_customer"]
    names += ["wrong_item", "cancels_order", "changes_address", "asks_for_human"]
    scenarios = []
    for index, name in enumerate(names):
        turns = loop(SONNET, 4180 + 90 * index, [180 + 7 * index, 96, 240][: 2 + index % 2])
        scenarios.append(
            scenario(
                f"tests/agents/test_support.py::test_{name}", "within", turns, turns, line=20 + 9 * index
            )
        )
    for index, name in enumerate(["billing", "bug", "sales", "spam", "unclear"]):
        turns = loop(HAIKU, 620, [18 + index], cached=False)
        scenarios.append(
            scenario(
                f"tests/agents/test_triage.py::test_routes[{name}]", "within", turns, turns, line=14 + index
            )
        )
    return document(scenarios)


def one_of_each() -> Document:
    """Every verdict, every reason to fail, every basis, and text that nobody should trust."""
    return document([*_over(), *_stale_and_new(), *_passing()])


def _over() -> list[ScenarioEntry]:
    answers = [212, 148, 95, 187, 120, 264]
    was, now = loop(SONNET, 4180, answers), loop(SONNET, 6052, answers)
    grown = finding(
        "growth",
        "system[0]",
        "system[0] grew by 1,872 tokens, sent on 6 turns: it now begins its second section with "
        '"# House rules\\n- Always quote the order number | never promise a date", '
        "from prompts/support.md:41",
        tokens=6 * 1872,
        cost=dearer(was, now),
        at="prompts/support.md:41",
    )
    lever = finding(
        "lever_caching",
        "system[0]",
        "system[0] is written anew in every run; with a lifetime of one hour, runs within it would read it: "
        "saves $0.0084 a run",
        tokens=0,
        cost=-0.0084,
        at="support/agent.py:58",
    )
    steady = loop(SONNET, 5240, [160, 140, 210, 90])
    broken = [
        used(SONNET, t["input_tokens"], t["prompt_tokens"] - t["input_tokens"], 0, t["output_tokens"])
        for t in steady
    ]
    stamp = finding(
        "cache_break",
        "system[0]",
        'the cached prefix breaks at character 18 of system[0]: "Today is 2026-11-21T09:14:02Z" was '
        '"Today is 2026-11-14T16:40:55Z", from support/agent.py:31; no file of the repository holds either',
        cost=dearer(steady, broken),
        at="support/agent.py:31",
    )
    before, after = loop(SONNET, 2310, [84, 130]), loop(SONNET, 2612, [84, 130])
    tool = finding(
        "growth",
        "tools[lookup_order].description",
        "tools[lookup_order].description grew by an estimated 302 tokens, sent on 2 turns, from "
        "support/tools.py:77",
        tokens=604,
        cost=dearer(before, after),
        at="support/tools.py:77",
    )
    interval = finding("interval", "live", "the estimate is good to 38 tokens either way (95 %)")
    long = loop(HAIKU, 2900, [340, 310])
    priced, unpriced = loop(SONNET, 3100, [260, 122]), loop(NEW_MODEL, 3100, [260, 122])
    no_price = finding(
        "unpriced_model",
        NEW_MODEL,
        f"genai-prices 0.2.3 knows no price for {NEW_MODEL}, so nobody can say what a run costs",
    )
    test = "tests/agents/test_support.py::"
    return [
        scenario(
            test + "test_refund[gold|eu]",
            "over",
            was,
            now,
            line=24,
            basis="counted",
            paired="lineage",
            findings=[grown, lever],
        ),
        scenario(
            test + "test_angry_customer",
            "over",
            steady,
            broken,
            line=61,
            basis="counted",
            paired="lineage",
            findings=[stamp],
        ),
        scenario(
            "tests/agents/test_tools.py::TestLookup::test_order_that_does_not_exist[eu-express]",
            "over",
            before,
            after,
            line=33,
            basis="estimated",
            paired=["lineage", "similar"],
            findings=[tool, interval],
        ),
        scenario(
            "tests/agents/test_summary.py::test_weekly_digest",
            "over",
            long,
            long,
            line=18,
            caps={"max_prompt_tokens": 6000},
        ),
        scenario(
            "tests/agents/test_research.py::test_three_researchers",
            "over",
            priced,
            unpriced,
            line=47,
            paired="lineage",
            basis="counted",
            findings=[no_price],
        ),
    ]


def _stale_and_new() -> list[ScenarioEntry]:
    recorded = loop(SONNET, 3890, [120, 205, 88])
    asked = [recorded[0], None, recorded[2]]
    missed = finding(
        "turns_changed",
        "added",
        'the agent now asks itself "Is every claim in this draft supported?\x1b[31m" '
        "after turn 1, and the recording has no answer to it",
    )
    unplayed = finding("turns_changed", "removed", "the recorded turn 3 (search_kb) is no longer asked for")
    fresh = loop(OPUS, 1480, [310, 95])
    session = loop(HAIKU, 910, [42])
    return [
        scenario(
            "tests/agents/test_reflection.py::test_checks_its_draft",
            "stale",
            recorded,
            asked,
            line=29,
            models=[SONNET] * 3,
            findings=[missed, unplayed],
        ),
        scenario("tests/agents/test_escalation.py::test_hands_over_to_human", "new", None, fresh, line=15),
        scenario("tests/agents/conftest.py::fixture warm_agent [session]", "new", None, session, line=8),
    ]


def _passing() -> list[ScenarioEntry]:
    was, now = loop(SONNET, 5120, [140, 160]), loop(SONNET, 4010, [140, 160])
    shorter = finding(
        "growth",
        "tools[search_kb].input_schema",
        "tools[search_kb].input_schema shrank by 1,110 tokens, sent on 2 turns, from support/tools.py:12",
        tokens=-2220,
        cost=dearer(was, now),
        at="support/tools.py:12",
    )
    drift, drifted = loop(SONNET, 4180, [150, 150]), loop(SONNET, 4203, [150, 150])
    steady = [loop(HAIKU, 620, [20 + index], cached=False) for index in range(5)]
    return [
        scenario(
            "tests/agents/test_search.py::test_finds_article",
            "improved",
            was,
            now,
            line=22,
            basis="counted",
            paired="lineage",
            findings=[shorter],
        ),
        scenario(
            "tests/agents/test_support.py::test_late_parcel",
            "within",
            drift,
            drifted,
            line=88,
            basis="counted",
            paired="lineage",
        ),
        *(
            scenario(f"tests/agents/test_triage.py::test_routes[{name}]", "within", turns, turns, line=14)
            for name, turns in zip(["billing", "bug", "sales", "spam", "unclear"], steady, strict=True)
        ),
    ]


def many(number: int = 500) -> Document:
    """`number` scenarios after a shared prompt grew: two of five over, some new, stale, improved."""
    dice = random.Random(2026)
    scenarios = []
    for index in range(number):
        model = dice.choice([SONNET, SONNET, HAIKU, OPUS])
        prefix, answers = (
            dice.randrange(900, 9000),
            [dice.randrange(20, 400) for _ in range(dice.randint(1, 8))],
        )
        was = loop(model, prefix, answers)
        case_id = f"test_case_{index:03}[{dice.choice('abc')}|{index % 5}]"
        name = f"tests/suite_{index % 7}/test_flow_{index % 40:02}.py::{case_id}"
        match index % 10:
            case 0 | 1 | 2 | 3:
                now = loop(model, prefix + dice.randrange(500, 1500), answers)
                grew = finding(
                    "growth",
                    "system[0]",
                    f"system[0] grew, sent on {len(answers)} turns, from prompts/shared.md:7",
                    tokens=add(now)["prompt_tokens"] - add(was)["prompt_tokens"],
                    at="prompts/shared.md:7",
                )
                one = scenario(
                    name, "over", was, now, line=index + 1, basis="counted", paired="lineage", findings=[grew]
                )
            case 4:
                one = scenario(name, "new", None, was, line=index + 1)
            case 5:
                one = scenario(
                    name, "stale", was, [*was[:-1], None], line=index + 1, models=[model] * len(was)
                )
            case 6:
                now = loop(model, prefix - 400, answers)
                one = scenario(name, "improved", was, now, line=index + 1, basis="counted", paired="lineage")
            case _:
                one = scenario(name, "within", was, was, line=index + 1)
        scenarios.append(one)
    return document(scenarios)
