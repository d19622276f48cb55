"""Live runs of one scenario as one: how sure the mean is, and what it is held against."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from pytest_tokenbudget.model import Usage
from pytest_tokenbudget.reports.build import Spread, merge_samples
from pytest_tokenbudget.reports.document import TokensEntry, add
from support.documents import SONNET, loop, scenario

TEST = "tests/test_a.py::test_a"
WAS = loop(SONNET, 1000, [10, 10])


def merged(verdict: str, *runs: list[TokensEntry]) -> Any:
    def cost(_usage: Usage) -> Decimal:
        return Decimal("0.01")

    return merge_samples([scenario(TEST, verdict, WAS, run, basis="live") for run in runs], cost)


def limit(one: Any, metric: str) -> Any:
    return next((each for each in one["limits"] if each["metric"] == metric), None)


@pytest.mark.parametrize(
    ("prompts", "verdict", "doubts"),
    [
        ((1000, 1000, 1000), "within", 0),
        ((2000, 2010, 2020), "over", 0),
        ((1000, 1000, 1400), "within", 1),
    ],
    ids=["the same", "all of them", "one of them"],
)
def test_over_is_what_no_chance_explains(prompts: tuple[int, ...], verdict: str, doubts: int) -> None:
    runs = [loop(SONNET, prompt, [10, 10]) for prompt in prompts]
    one = merged("over", *runs)
    assert one["verdict"] == verdict
    inconclusive = [each["where"] for each in one["findings"] if each["kind"] == "inconclusive"]
    assert inconclusive.count("prompt_tokens") == doubts
    sent = [add(run)["prompt_tokens"] for run in runs]
    assert limit(one, "prompt_tokens")["measured"] == pytest.approx(sum(sent) / len(sent))


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
