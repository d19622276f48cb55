"""What every report shows: order, headline, rows, causes and the way out."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_tokenbudget.model import FindingKind
from pytest_tokenbudget.reports.change_view import (
    by_cause,
    causes,
    changes,
    facts,
    notes,
    phrase,
    sentence,
    unexplained,
)
from pytest_tokenbudget.reports.dashboard import page
from pytest_tokenbudget.reports.exports import workflow_commands
from pytest_tokenbudget.reports.markdown import markdown
from pytest_tokenbudget.reports.run_view import has_news, headline, line, missing
from pytest_tokenbudget.reports.scenario_view import cost_cell, row, rows, short_names, ways_out, worst_first
from pytest_tokenbudget.reports.terminal import summary_lines
from support.documents import HAIKU, NEW_MODEL, SONNET, document, finding, loop, scenario, used

TEST = "tests/test_a.py::test_"
SMALL, LARGE = loop(HAIKU, 1000, [10]), loop(HAIKU, 1600, [10])
CACHED, SHORT = [used(HAIKU, 1100, 0, 5000, 10)], [used(HAIKU, 1200, 0, 4400, 10)]
"""A prompt of which less is sent, and of that less is read from the cache: fewer tokens, a dearer run."""
UNPRICED = loop(NEW_MODEL, 1000, [10])
UPDATE = "pytest --token-budget --token-budget-update"
RECORD = "pytest --token-budget --token-budget-record=changed"
RECORD_ALL = "pytest --token-budget --token-budget-record=all"
FIRST = "pytest --token-budget --token-budget-record=once --token-budget-update"
REWRITE = "pytest --record-mode=rewrite"


def without_key(*names: str, more: str = "") -> str:
    excluded = ", ".join(f'"{TEST}{name}"' for name in names)
    return (
        "Without a key: undo the change, let somebody who has one record it, or set "
        f"exclude = [{excluded}{more}] in [tool.tokenbudget]"
    )


SKIP = "Without a key: undo the change, let somebody who has one record it, or skip the test until then"
GONE = finding("turns_changed", "removed", "a turn is gone")
CAPS = f"max_prompt_tokens and max_turns in the marker of {TEST}a or in [tool.tokenbudget]"


def one(name: str, verdict: str = "within", was: Any = SMALL, now: Any = SMALL, **more: Any) -> Any:
    return scenario(TEST + name, verdict, was, now, **more)


UNKNOWN_NOW = {"now": [None], "models": [HAIKU]}


def test_worst_first() -> None:
    dear, dearest = loop(SONNET, 3000, [10]), loop(SONNET, 9000, [10])
    unpriced = loop(NEW_MODEL, 1000, [10])
    listed = [
        one("within"),
        one("improved", "improved", LARGE, SMALL),
        one("new", "new", None, SMALL),
        one("stale", "stale", **UNKNOWN_NOW),
        one("over_little", "over", SMALL, LARGE),
        one("over_more", "over", SMALL, dear),
        one("over_most", "over", SMALL, dearest),
        one("over_unknown", "over", SMALL, unpriced),
    ]
    order = [name["id"].removeprefix(TEST) for name in worst_first(listed)]
    assert order == [
        "over_unknown", "over_most", "over_more", "over_little", "stale", "new", "improved", "within",
    ]  # fmt: skip
    assert worst_first(reversed(listed)) == worst_first(listed)


@pytest.mark.parametrize(
    ("scenarios", "said"),
    [
        ([], "No scenario was measured"),
        ([one("a")], "1 scenario is within budget, nothing changed"),
        ([one("a"), one("b")], "2 scenarios are within budget, nothing changed"),
        ([one("a", "new", None)], "1 of 1 scenario is new"),
        (
            [one("a", was=UNPRICED, now=UNPRICED), one("b", "stale", UNPRICED, **UNKNOWN_NOW)],
            "1 of 2 scenarios is stale, the cost of 1 scenario unknown",
        ),
        ([one("a", "new", None, UNPRICED)], "1 of 1 scenario is new, the cost of 1 scenario unknown"),
        (
            [one("a", "over", SMALL, LARGE), one("b"), one("c", "stale", **UNKNOWN_NOW)],
            (
                "1 of 3 scenarios is over budget, 1 is stale: "
                "+600 prompt tokens (+28.3%), +$0.00075 a run (+27.6%)"
            ),
        ),
        (
            [one("a", "improved", LARGE, SMALL)],
            (
                "1 scenario is within budget, and cheaper: "
                "−600 prompt tokens (−36.1%), −$0.00075 a run (−35.5%)"
            ),
        ),
        (
            [one("a", "improved", CACHED, SHORT), one("b", "improved", LARGE, SMALL)],
            (
                "2 scenarios are within budget, 1 of them cheaper: "
                "−1,100 prompt tokens (−14.2%), −$0.00071 a run (−18.9%)"
            ),
        ),
        (
            [one("a", "improved", CACHED, SHORT)],
            "1 scenario is within budget: −500 prompt tokens (−8.2%), +$0.000040 a run (+2.4%)",
        ),
        (
            [one("a", "over", SMALL, LARGE, basis="estimated")],
            "1 of 1 scenario is over budget: ~+600 prompt tokens (+56.6%), ~+$0.00075 a run (+55.1%)",
        ),
        (
            [one("a", "over", SMALL, loop(NEW_MODEL, 1000, [10])), one("b", "over", SMALL, LARGE)],
            (
                "2 of 2 scenarios are over budget: +600 prompt tokens (+28.3%), +$0.00075 a run (+55.1%), "
                "the cost of 1 scenario unknown"
            ),
        ),
        (
            [one("a", "within", SMALL, LARGE), one("b", "within", LARGE, SMALL)],
            "2 scenarios are within budget: the same in all",
        ),
        (
            [one("a", "over", SMALL, loop(HAIKU, 1000, [90]))],
            "1 of 1 scenario is over budget: +80 output tokens (+800.0%), +$0.00040 a run (+29.4%)",
        ),
    ],
)  # fmt: skip
def test_headline(scenarios: Any, said: str) -> None:
    assert headline(document(scenarios)) == said


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (FindingKind.VOLATILE, ", 1 suspected"),
        (FindingKind.ANSWER_OPTIONS, ""),
        (FindingKind.OTHER_START, ""),
        (FindingKind.ASSUMED_MODEL, ", nothing changed"),
    ],
)
def test_nothing_changed_is_not_said_beside_a_change_that_is_told(kind: str, end: str) -> None:
    told: Any = {
        "kind": kind,
        "where": "system[0]",
        "tokens": None,
        "cost_usd": None,
        "text": "x",
        "source": None,
    }
    entry: Any = {**one("a"), "findings": [told]}
    assert headline(document([entry])) == f"1 scenario is within budget{end}"


def test_what_costs_more_is_called_cheaper_nowhere() -> None:
    told = markdown(document([one("a", "improved", CACHED, SHORT)]))
    assert "1 scenario is improved, not cheaper" in told
    assert "gain" not in told
    assert "2 scenarios are improved, not cheaper" in markdown(
        document([one(name, "improved", CACHED, SHORT) for name in "ab"])
    )


@pytest.mark.parametrize(
    "more",
    [
        {"excluded": [{"id": "test_it.py::test_b", "why": "slow"}]},
        {"unmetered": [{"id": "test_it.py::test_b", "calls": 2}]},
    ],
    ids=str,
)
def test_nothing_changed_is_not_said_where_something_was_not_measured(more: Any) -> None:
    assert "nothing changed" not in headline({**document([one("a")]), **more})


def cells(metric: str, was: Any, now: Any, limit: Any, change: Any, basis: str = "counted") -> list[str]:
    entry: Any = {"metric": metric, "baseline": was, "measured": now, "limit": limit, "change": change}
    shown = row({**entry, "over": True}, one("a", basis=basis))
    return [shown.metric, shown.baseline, shown.now, shown.change, shown.limit]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("prompt_tokens", 4812, 6690, 5053, 0.39), ["prompt tokens", "4,812", "6,690", "+39.0%", "5,053"]),
        (("prompt_tokens", 4812, 6690, 5053, 0.39, "estimated"),
         ["prompt tokens", "4,812", "~6,690", "~+39.0%", "5,053"]),
        (("output_tokens", 10, 30, 20, 2, "estimated"), ["output tokens", "10", "30", "+200.0%", "20"]),
        (("turns", 6, 7, 6, 1 / 6), ["turns", "6", "7", "+16.7%", "6"]),
        (("cache_share", 0.81, 0.0, 0.76, -0.81), ["cache share", "81.0%", "0.0%", "−81.0 pts", "76.0%"]),
        (("cache_share", 0.81, 0.7599, 0.76, -0.0501),
         ["cache share", "81.00%", "75.99%", "−5.0 pts", "76.00%"]),
        (("cost_usd", 0.0241, 0.02532, 0.0253, 0.05), ["cost", "$0.02410", "$0.02532", "+5.0%", "$0.02530"]),
        (("cost_usd", 0.0241, None, 0.0253, None), ["cost", "$0.0241", "unknown", "–", "$0.0253"]),
        (("max_cost_usd", None, 1.5, 1, None), ["max cost", "–", "$1.50", "–", "$1.00"]),
        (("max_turns", None, 5, 4, None), ["max turns", "–", "5", "–", "4"]),
        (("prompt_tokens", 100, 105.4, 105, 0.054), ["prompt tokens", "100.0", "105.4", "+5.4%", "105.0"]),
    ],
)  # fmt: skip
def test_a_row_tells_what_is_measured_from_what_is_allowed(given: Any, shown: list[str]) -> None:
    assert cells(*given) == shown


def test_rows_say_why_there_is_no_number() -> None:
    (stale,) = rows(one("a", "stale", **UNKNOWN_NOW))
    (unrecorded,) = rows(one("a", "unrecorded", None, []))
    (unknown,) = rows(one("a", "unknown", **UNKNOWN_NOW))
    assert (unrecorded.baseline, unrecorded.now) == ("new", "unrecorded")
    assert (unknown.baseline, unknown.now) == ("1,060", "unknown")
    (new,) = rows(one("a", "new", None))
    assert (stale.baseline, stale.now, stale.limit) == ("1,060", "stale", "–")
    assert (new.baseline, new.now, new.limit) == ("new", "1,060", "–")


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        (one("a", "over", SMALL, LARGE), "+$0.00075"),
        (one("a", "over", SMALL, LARGE, basis="estimated"), "~+$0.00075"),
        (one("a", "improved", LARGE, SMALL), "−$0.00075"),
        (one("a"), "+$0.00"),
        (one("a", "new", None), "$0.0014"),
        (one("a", "stale", **UNKNOWN_NOW), "–"),
        (one("a", "unrecorded", None, []), "–"),
        (one("a", "unknown", **UNKNOWN_NOW), "unknown"),
        (one("a", "unknown", SMALL, LARGE), "unknown"),
        (one("a", "over", SMALL, loop(NEW_MODEL, 1000, [10])), "unknown"),
        (one("a", "over", loop(NEW_MODEL, 1000, [10]), SMALL), "unknown"),
    ],
)
def test_cost_cell(entry: Any, shown: str) -> None:
    assert cost_cell(entry) == shown


SKIPPED: Any = {"id": TEST + "skipped", "outcome": "skipped"}
FAILED: Any = {"id": TEST + "failed", "outcome": "failed"}
ASSERTION: Any = {"id": TEST + "failed", "text": "ended before it was measured: AssertionError"}
BROKEN: Any = {"id": None, "text": "report.md: the report cannot be written: no space"}


@pytest.mark.parametrize(
    ("scenarios", "errors", "not_judged", "said"),
    [
        ([one("a"), one("b")], [ASSERTION], [FAILED],
         "1 of 3 scenarios is not judged, 2 are within budget"),
        ([one("a")], [], [SKIPPED], "1 of 2 scenarios is not judged, 1 is within budget"),
        ([], [ASSERTION], [FAILED, SKIPPED], "2 of 2 scenarios are not judged"),
        ([one("a")], [BROKEN], [], "1 error, 1 scenario within budget"),
        ([], [BROKEN], [], "1 error, no scenario was measured"),
        ([one("a", "over", SMALL, SMALL), one("b")], [], [], "1 of 2 scenarios is over budget"),
        ([one("a", "over", SMALL, LARGE)], [], [SKIPPED],
         ("1 of 2 scenarios is over budget, 1 is not judged: "
          "+600 prompt tokens (+56.6%), +$0.00075 a run (+55.1%)")),
        ([one("a", "new", None), one("b")], [], [], "1 of 2 scenarios is new"),
    ],
)  # fmt: skip
def test_nothing_changed_is_said_only_where_all_was_measured(
    scenarios: list[Any], errors: list[Any], not_judged: list[Any], said: str
) -> None:
    told = document(scenarios, errors=errors, not_judged=not_judged)
    assert headline(told) == said
    assert has_news(told)
    assert len(missing(told)) == len({entry["id"] for entry in (*errors, *not_judged)})


def test_an_error_of_many_tests_is_one_line() -> None:
    text = "tests/token_budgets/test_a.yaml is not YAML"
    errors: Any = [{"id": f"{TEST}{index}", "text": text} for index in range(40)]
    left: Any = [{"id": error["id"], "outcome": "failed"} for error in errors]
    assert missing(document([one("a")], errors=errors, not_judged=[*left, SKIPPED])) == [
        f"{TEST}0 and 39 more: {text}",
        f"{TEST}skipped: not judged: skipped",
    ]


def monthly(name: str, runs: int | None) -> Any:
    return {**one(name, "within", SMALL, LARGE), "runs_per_month": runs}


@pytest.mark.parametrize(
    ("scenarios", "said"),
    [
        ([], "0 scenarios"),
        ([one("a"), one("b")], "2 within; together 2,120 prompt tokens, $0.0027 a run"),
        ([one("a", "over", SMALL, LARGE), one("b"), one("c", "stale", **UNKNOWN_NOW)],
         "1 over, 1 stale, 1 within; together 2,720 prompt tokens (+28.3%), $0.0035 a run (+27.6%)"),
        ([one("a", "unknown", SMALL, LARGE), one("b"), one("c", "unrecorded", None, [])],
         "1 unknown, 1 unrecorded, 1 within; 1,060 prompt tokens, $0.0014 a run"),
        ([one("a", "new", None)], "1 new"),
        ([one("a", "over", SMALL, LARGE, basis="estimated")],
         "1 over; ~1,660 prompt tokens (+56.6%), ~$0.0021 a run (+55.1%)"),
        ([one("a", "within", UNPRICED, UNPRICED)], "1 within; 1,060 prompt tokens, cost unknown"),
        ([monthly("a", 1000), monthly("b", 10)],
         "2 within; together 3,320 prompt tokens (+56.6%), $0.0042 a run (+55.1%), $2.13 a month"),
        ([monthly("a", 1000), monthly("b", None)],
         "2 within; together 3,320 prompt tokens (+56.6%), $0.0042 a run (+55.1%)"),
    ],
)  # fmt: skip
def test_the_line(scenarios: list[Any], said: str) -> None:
    assert line(document(scenarios)) == f"token budgets: {said}"


def test_a_month_says_its_start_wherever_it_is_told() -> None:
    start = {"foreign_reads": 0, "cold_usd": 0.004, "warm_usd": 0.001}
    told = document([{**monthly("a", 1000), "start": start}])
    said = "a month (from an empty cache, $1.00 with a warm prefix)"
    assert said in line(told)
    assert said.replace("$", "\\$") in markdown(told)
    assert said in page(told, None, None).facts[-2]
    partly = document([{**monthly("a", 1000), "start": {**start, "foreign_reads": 5}}])
    assert "from recordings that began partly warm, $4.00 from an empty cache" in line(partly)
    assert "a month" not in markdown(document([one("a", "over", SMALL, LARGE)])).rpartition("<sub>")[2]


def test_the_line_says_what_else_there_is() -> None:
    doubt = finding("volatile", "system[0]", "it may change")
    told = document(
        [scenario("a", "within", SMALL, SMALL, findings=[doubt])],
        not_judged=[SKIPPED],
        excluded=[{"id": "c", "why": "no key"}],
        unmeasured=[{"id": "d", "why": "gone"}, {"id": "e", "why": "skipped"}],
        unmetered=[{"id": "f", "calls": 2}, {"id": "g", "calls": 1}],
    )
    assert line(told).endswith("; 1 excluded; 1 not judged; 2 unmeasured; 3 unmetered calls; 1 suspected")
    assert headline(told).startswith("1 of 4 scenarios is not judged, 2 are unmeasured, 1 is within budget")


def test_the_line_says_what_was_not_judged() -> None:
    told = line(document([one("a", "new", None)], errors=[BROKEN, ASSERTION], not_judged=[FAILED, SKIPPED]))
    assert told == "token budgets: 1 new; 2 not judged; 1 error"


def test_findings() -> None:
    grown = finding("growth", "system[0]", "it\ngrew by 500 tokens", tokens=500, cost=0.01, at="a b.md:3")
    assert sentence(grown) == r"it\ngrew by 500 tokens"
    assert facts(grown) == ["+$0.0100 a run"], "the tokens are in the sentence"
    gone = finding("turns_changed", "removed", "a turn is gone", tokens=-500, cost=-1)
    assert facts(gone) == ["−500 tokens, −$1.00 a run"]
    assert facts(finding("interval", "live", "about")) == []


@pytest.mark.parametrize("at", ["", "agent.py:9"])
def test_what_another_model_counts_anew_belongs_to_it(at: str) -> None:
    switched = finding("model_changed", "turns 1-4", "turns 1-4: a instead of b", cost=0.01, at=at)
    anew = finding("growth", "model", "another tokenizer", tokens=500, cost=0.002)
    (change,) = changes(document([one("a", "over", SMALL, LARGE, findings=[switched, anew])]))
    assert (change.title, change.tokens) == (": ".join(filter(None, (at, "the model"))), 500)


def test_another_lifetime_is_no_lost_cache() -> None:
    hour = "cache prefix breaks at system[0]: cache_control asks for 1h where it asked for 5m; 9 tokens "
    dearer = finding("cache_break", "system[0]", f"{hour}are written for 1h, at another price", tokens=9)
    dearer["short"] = "is cached for 1h, at another price"
    assert phrase(dearer) == "the system prompt (system[0]) is cached for 1h, at another price"
    lost = finding("cache_break", "system[0]", f"{hour}lose the cache", tokens=9)
    assert phrase(lost) == "the prompt cache is lost from the system prompt (system[0]) on"


def test_what_a_finding_says_is_decided_by_its_kind_not_by_what_stands_in_a_prompt() -> None:
    """A dollar sign or a number that a prompt brought into a text is no amount of ours."""
    quoting = finding("growth", "system[0]", 'system[0]: +7 tokens, "costs $5"', tokens=7, cost=0.01)
    assert facts(quoting) == ["+$0.0100 a run"]
    gone = finding("turns_changed", "removed", 'a turn is gone: "500 tokens for $1"', tokens=-500, cost=-1)
    assert facts(gone) == ["−500 tokens, −$1.00 a run"]
    assert facts(finding("lever_caching", "system[0]", "saves $0.0100 a run", tokens=-5, cost=-0.01)) == []
    assert causes(one("a", findings=[finding("lever_of_a_newer_version", "run", "cheaper")])) == []


@pytest.mark.parametrize(
    ("scenarios", "said"),
    [
        ([one("a[x|y]", "over", SMALL, LARGE)], [f"If this is meant, accept it: {UPDATE} '{TEST}a[x|y]'"]),
        ([one("a", "over", SMALL, LARGE), one("b", "over", SMALL, LARGE)],
         [f"If this is meant, accept it: {UPDATE}"]),
        ([one("a", "improved", LARGE, SMALL)], [f"To keep the gain, accept it: {UPDATE} {TEST}a"]),
        ([one("a", "improved", CACHED, SHORT)],
         [f"It uses less, but costs more. If this is meant, accept it: {UPDATE} {TEST}a"]),
        ([one("a", "new", None)], [f"Write the first baseline: {UPDATE} {TEST}a"]),
        ([scenario("tests/conftest.py::fixture agent [session]", "new", None, SMALL)],
         [f"Write the first baseline: {UPDATE} tests"]),
        ([one("a", "stale", **UNKNOWN_NOW)],
         [f"Record what changed (needs an API key): {RECORD} {TEST}a", without_key("a")]),
        ([one("a", "unknown", **UNKNOWN_NOW)],
         [f"Record what changed (needs an API key): {RECORD} {TEST}a", without_key("a")]),
        ([one("a", "unknown", was=[], now=[None], models=[SONNET])],
         [f"Record it anew (needs an API key): {RECORD_ALL} {TEST}a", without_key("a")]),
        ([one("a", "unrecorded", None, [])],
         [f"Record it (needs an API key): {FIRST} {TEST}a", SKIP]),
        ([one("a", "unrecorded", None, [], recorder="pytest-recording")],
         [f"Record it anew (needs an API key): {REWRITE} {TEST}a", SKIP]),
        ([one("a", "stale", **UNKNOWN_NOW), one("b", "unrecorded", None, [])],
         [f"Record what changed (needs an API key): {RECORD} {TEST}a",
          f"Record it (needs an API key): {FIRST} {TEST}b",
          without_key("a"), SKIP.replace("the test", "what has no answer")]),
        ([one("a", "stale", findings=[GONE])],
         [f"If the turns are meant to be gone, accept it: {UPDATE} {TEST}a"]),
        ([one("a", "stale", findings=[GONE, finding("turns_changed", "added", "asks more")])],
         [f"Record what changed (needs an API key): {RECORD} {TEST}a", SKIP]),
        ([one("a", "stale", findings=[finding("problem", "by hand", "a fork asks")])], []),
        ([one("a", "stale", recorder="pytest-recording", **UNKNOWN_NOW)],
         [f"Record it anew (needs an API key): {REWRITE} {TEST}a", without_key("a")]),
        ([one("a", "stale", recorder="pytest-recording", **UNKNOWN_NOW)] * 2
         + [one("c", "stale", recorder="vcrpy", **UNKNOWN_NOW), one("b", "stale", **UNKNOWN_NOW)],
         [f"Record what changed (needs an API key): {RECORD} {TEST}b",
          f"Record each anew (needs an API key): {REWRITE} TEST",
          "Record the cassettes of plain vcrpy anew as the suite does it (needs an API key)",
          without_key("a", more=", ...")]),
        ([one("a", "over", SMALL, SMALL, caps={"max_prompt_tokens": 9, "max_turns": 0})],
         [f"A cap is raised by hand: {CAPS}"]),
        ([one("a", "over", SMALL, loop(NEW_MODEL, 1000, [10]))],
         ["Bring the missing price: pip install -U genai-prices",
          f"If this is meant, accept it: {UPDATE} {TEST}a"]),
        ([], []),
    ],
)  # fmt: skip
def test_ways_out(scenarios: Any, said: list[str]) -> None:
    found = ways_out(scenarios)
    assert [": ".join((way_out.what, *way_out.commands)) for way_out in found] == said
    for way_out in found:
        assert str(way_out).splitlines()[1:] == [f"  {command}" for command in way_out.commands]


def test_by_cause_puts_together_only_what_has_the_same_reason() -> None:
    cause = finding("growth", "system[0]", "it grew", at="a.md:3")
    elsewhere = finding("growth", "system[0]", "it grew", at="b.md:3")
    listed = [
        one("a", "over", SMALL, LARGE, findings=[cause]),
        one("b", "over", SMALL, LARGE, findings=[elsewhere]),
        one("c", "over", SMALL, LARGE, findings=[cause]),
        one("d", "over", SMALL, SMALL, caps={"max_turns": 0}),
        one("e", "over", SMALL, SMALL, caps={"max_prompt_tokens": 0}),
        one("f", "new", None),
        one("g", "new", None),
    ]
    groups = [[name["id"][-1] for name in group] for group in by_cause(listed)]
    assert groups == [["a", "c"], ["b"], ["d"], ["e"], ["f", "g"]]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["tests/a/test_x.py::test_a", "tests/a/test_x.py::test_b[c/d]"], ["test_a", "test_b[c/d]"]),
        (["tests/a/test_x.py::t", "tests/a/b/test_y.py::t"], ["test_x.py::t", "b/test_y.py::t"]),
        (["test_x.py::t", "tests/test_y.py::t"], ["test_x.py::t", "tests/test_y.py::t"]),
        (["test_x.py", "test_y.py"], ["test_x.py", "test_y.py"]),
        ([], []),
    ],
)
def test_short_names(ids: list[str], names: list[str]) -> None:
    assert short_names([scenario(name, "within", SMALL, SMALL) for name in ids]) == names


def test_a_turn_keeps_its_counts_apart() -> None:
    turn = used(SONNET, 60, 4000, 300, 12)
    assert turn["prompt_tokens"] == 4360
    assert turn["cost_usd"] == pytest.approx(0.01030)


VOLATILE = finding("volatile", "system[0]", "a date differs, from agent.py:3", at="agent.py:3")
ORDER = finding("volatile", "tools", "the tools stand in another order")
SAME_PRICE = finding("model_changed", "turn 1", "turn 1: b instead of a", cost=0.0)
DEARER = finding("model_changed", "turn 2", "turn 2: c instead of a", cost=0.5)
EFFORT = finding("answer_options", "effort", "turn 1: effort is high, and was low", at="agent.py:9")


def test_what_matters_is_told_everywhere_although_all_is_within_budget() -> None:
    findings = [VOLATILE, ORDER, SAME_PRICE, DEARER, EFFORT]
    told = document([one("a", findings=findings), one("b", findings=findings[:1])])
    texts = list(map(str, notes(told)))
    proof = (
        "It is not charged, as nothing proves it volatile: --token-budget-stability replays once more in "
        "another process and tells."
    )
    assert texts == [
        f"test_a and 1 more: a date differs, from agent.py:3. {proof}",
        f"test_a: the tools stand in another order. {proof}",
        "test_a: turn 1: b instead of a, at the same price.",
        "test_a: turn 2: c instead of a, within the tolerance of the cost.",
        "test_a: agent.py:9: turn 1: effort is high, and was low. Record it anew to know.",
    ]
    assert has_news(told)
    for verbosity in (-1, 0, 1):
        lines = [entry.text for entry in summary_lines(told, columns=60, verbosity=verbosity)]
        shown = " ".join(" ".join(lines).split())
        assert all(text in shown for text in texts)
    page = markdown(told)
    assert page.count("- **to know**: ") == len(texts)
    commands = workflow_commands(told)
    assert [command.partition(",title")[0] for command in commands] == [
        "::warning file=agent.py,line=3",
        "::warning file=tests/test_a.py,line=12",
        "::warning file=tests/test_a.py,line=12",
        "::warning file=tests/test_a.py,line=12",
        "::warning file=agent.py,line=9",
    ]
    assert not notes(document([one("a", "over", SMALL, LARGE, findings=[DEARER])])), "it is a change there"


def test_a_change_explains_what_is_over_and_nothing_else() -> None:
    grown = finding("growth", "system[0]", "it grew", tokens=600, cost=0.001, at="a.md:1")
    unpriced = finding("unpriced_model", NEW_MODEL, "no price is known")
    grown_too = [{**grown, "cost_usd": None}, unpriced]
    listed = [
        one("over", "over", SMALL, LARGE, findings=[grown]),
        one("unpriced", "over", SMALL, loop(NEW_MODEL, 1600, [10]), findings=grown_too),
        one("unknown", "unknown", SMALL, LARGE, findings=[grown]),
        one("capped", "over", SMALL, SMALL, caps={"max_turns": 0}),
    ]
    told = changes(document(listed))
    assert [change.title for change in told] == ["a.md:1: the system prompt (system[0])"]
    assert (len(told[0].scenarios), told[0].tokens, told[0].dollars) == (2, 1200, None)
    names = [
        [entry["id"].removeprefix(TEST) for entry in group] for group in unexplained(document(listed), told)
    ]
    assert sorted(names) == [["capped"], ["unknown"], ["unpriced"]]
