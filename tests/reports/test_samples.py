"""Live runs of one scenario as one: how sure the mean is, and what it is held against."""

from __future__ import annotations

import html
import re
from decimal import Decimal
from typing import Any

import pytest

from pytest_tokenbudget.budget.verdict import LiveRuns
from pytest_tokenbudget.model import Usage
from pytest_tokenbudget.reports.build import Spread, merge_samples
from pytest_tokenbudget.reports.dashboard import dashboard
from pytest_tokenbudget.reports.document import TokensEntry, add
from support.documents import SONNET, document, loop, scenario

TEST = "tests/test_a.py::test_a"
WAS = loop(SONNET, 1000, [10, 10])


def merged(*runs: list[TokensEntry], judged: LiveRuns | None = None, is_over: bool = False) -> Any:
    def cost(_usage: Usage) -> Decimal:
        return Decimal("0.01")

    samples = [scenario(TEST, "within", WAS, run, basis="live") for run in runs]
    return merge_samples(samples, cost, judged, is_over=is_over)


def limit(one: Any, metric: str) -> Any:
    return next((each for each in one["limits"] if each["metric"] == metric), None)


RUNS = [loop(SONNET, prompt, [10, 10]) for prompt in (2000, 2010, 2020)]


def told(one: Any, kind: str) -> list[str]:
    return [each["text"] for each in one["findings"] if each["kind"] == kind]


@pytest.mark.parametrize("is_over", [False, True])
def test_cost_alone_is_judged_and_the_other_metrics_explain(is_over: bool) -> None:
    judged = LiveRuns((0.01, 0.0101), (0.015, 0.0151, 0.0152), 1.05)
    one = merged(*RUNS, judged=judged, is_over=is_over)
    assert one["verdict"] == ("over" if is_over else "within")
    assert [each["metric"] for each in one["limits"] if each["over"]] == (["cost_usd"] if is_over else [])
    sent = [add(run)["prompt_tokens"] for run in RUNS]
    assert limit(one, "prompt_tokens")["measured"] == pytest.approx(sum(sent) / len(sent))
    (said,) = told(one, "interval")
    assert said.startswith("3 live runs: $0.0")
    assert "; +50.2% against 2 runs of its baseline (+" in said
    assert len(told(one, "inconclusive")) == (not is_over)


def test_without_a_baseline_of_live_runs_nothing_is_judged_but_caps() -> None:
    (said,) = told(merged(*RUNS), "interval")
    assert said.endswith("not judged, but by caps: it has no baseline of 2 or more live runs")
    assert merged(*RUNS, judged=LiveRuns((0.01,), (0.02,), 1.05))["verdict"] == "within"


def test_what_is_not_decided_says_what_would_decide_it() -> None:
    before = (0.0090, 0.0110, 0.0100, 0.0095, 0.0105) * 4
    one = merged(*RUNS, judged=LiveRuns(before, (0.0092, 0.0122, 0.0105), 1.05))
    (said,) = told(one, "inconclusive")
    assert re.fullmatch(r"undecided: \d+ more runs, about \$[\d.]+, would decide \+10\.0%", said)
    page = html.unescape(dashboard(document([one], mode="live"), None))
    assert said in page
    assert told(one, "interval")[0] in page


def test_a_run_without_a_prompt_has_no_cache_share() -> None:
    runs = [scenario(TEST, "within", WAS, WAS, basis="live") for _ in range(2)]
    runs[1]["limits"] = [each for each in runs[1]["limits"] if each["metric"] != "cache_share"]
    one = merge_samples(runs, lambda _usage: Decimal("0.01"))
    assert limit(one, "cache_share") is None
    assert limit(one, "cost_usd") is not None


def test_a_share_that_falls_in_no_run_past_its_limit_does_not_in_the_mean() -> None:
    runs = [scenario(TEST, "within", WAS, WAS, basis="live") for _ in range(2)]
    for run in runs:
        limit(run, "cache_share").update(measured=0.1, over=False)  # a shorter prompt, nothing less is read
    one = merge_samples(runs, lambda _usage: Decimal("0.01"))
    assert one["verdict"] == "within"
    assert not [each for each in one["findings"] if each["kind"] == "inconclusive"]


@pytest.mark.parametrize(("number", "t"), [(2, 6.314), (16, 1.753), (17, 1.746), (31, 1.697), (121, 1.658)])
def test_the_interval_is_that_of_the_tables(number: int, t: float) -> None:
    values = [0.0, 1.0] * (number // 2) + [0.5] * (number % 2)
    spread = Spread.of(values)
    deviation = (sum((value - 0.5) ** 2 for value in values) / (number - 1)) ** 0.5
    assert spread.mean == 0.5
    assert (spread.high - spread.mean) / deviation * number**0.5 == pytest.approx(t, rel=0.005)
