"""Baseline x run x tolerance -> verdict, as tables."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.budget.compare import judge
from pytest_tokenbudget.config import Caps, ScenarioSettings
from pytest_tokenbudget.model import Rate, Tokens, Usage, Verdict

MODEL = Rate("claude-sonnet-4-6")
UNKNOWN = Rate("claude-from-the-future")
DEFAULT = ScenarioSettings()


def cost(usage: Usage) -> Decimal | None:
    """The price list of sonnet 4.6, and of nothing else."""
    if any(rate != MODEL for rate in usage.by_rate):
        return None
    t = usage.tokens
    per_million = (
        3 * t.input_tokens
        + Decimal("3.75") * t.ephemeral_5m_input_tokens
        + 6 * t.ephemeral_1h_input_tokens
        + Decimal("0.3") * t.cache_read_input_tokens
        + 15 * t.output_tokens
    )
    return per_million / 1_000_000


def used(*, turns: int = 3, rate: Rate = MODEL, **tokens: int) -> Usage:
    return Usage.of(rate, Tokens(**tokens), turns)


CACHED = {"input_tokens": 100, "ephemeral_5m_input_tokens": 1000, "cache_read_input_tokens": 4000}
BASE = used(**CACHED, output_tokens=500)


@pytest.mark.parametrize(
    ("now", "verdict", "over"),
    [
        pytest.param(BASE, Verdict.WITHIN, set(), id="unchanged"),
        pytest.param(used(**CACHED, output_tokens=542), Verdict.WITHIN, set(), id="output-within-its-limits"),
        pytest.param(
            used(**CACHED, output_tokens=550), Verdict.OVER, {"cost_usd"}, id="output-costs-too-much"
        ),
        pytest.param(
            used(**CACHED, output_tokens=551), Verdict.OVER, {"output_tokens", "cost_usd"}, id="output"
        ),
        pytest.param(
            used(
                input_tokens=105,
                ephemeral_5m_input_tokens=1050,
                cache_read_input_tokens=4200,
                output_tokens=500,
            ),
            Verdict.WITHIN,
            set(),
            id="prompt-at-its-limit",
        ),
        pytest.param(
            used(
                input_tokens=100,
                ephemeral_5m_input_tokens=1400,
                cache_read_input_tokens=5600,
                output_tokens=500,
            ),
            Verdict.OVER,
            {"prompt_tokens", "cost_usd"},
            id="a-cached-prompt-grew",
        ),
        pytest.param(
            used(input_tokens=100, ephemeral_5m_input_tokens=5000, output_tokens=500),
            Verdict.OVER,
            {"cache_share", "cost_usd"},
            id="the-cache-broke-and-not-one-token-more-was-sent",
        ),
        pytest.param(
            used(
                input_tokens=100,
                ephemeral_5m_input_tokens=500,
                cache_read_input_tokens=2000,
                output_tokens=500,
            ),
            Verdict.IMPROVED,
            set(),
            id="a-shorter-cached-prompt-lowers-the-share-and-is-no-regression",
        ),
        pytest.param(used(turns=4, **CACHED, output_tokens=500), Verdict.OVER, {"turns"}, id="one-more-turn"),
        pytest.param(
            used(rate=UNKNOWN, **CACHED, output_tokens=500),
            Verdict.OVER,
            {"cost_usd"},
            id="a-known-price-became-unknown",
        ),
    ],
)
def test_verdict(now: Usage, verdict: Verdict, over: set[str]) -> None:
    judgement = judge(BASE, now, DEFAULT, cost)
    assert judgement.verdict == verdict
    assert {limit.metric for limit in judgement.limits if limit.over} == over


def test_a_scenario_without_a_baseline_is_new() -> None:
    assert judge(None, BASE, DEFAULT, cost).verdict == Verdict.NEW


def test_a_stale_scenario_is_held_against_nothing() -> None:
    judgement = judge(BASE, used(turns=1, input_tokens=1), DEFAULT, cost, stale=True)
    assert judgement.verdict == Verdict.STALE
    assert judgement.limits == ()


@pytest.mark.parametrize(
    ("caps", "over"),
    [
        (Caps(max_prompt_tokens=5100, max_output_tokens=500, max_turns=3, max_cost_usd=Decimal(1)), set()),
        (Caps(max_prompt_tokens=5099), {"max_prompt_tokens"}),
        (Caps(max_output_tokens=499), {"max_output_tokens"}),
        (Caps(max_turns=2), {"max_turns"}),
        (Caps(max_cost_usd=Decimal("0.0001")), {"max_cost_usd"}),
    ],
)
def test_caps_hold_with_and_without_a_baseline(caps: Caps, over: set[str]) -> None:
    for baseline in (BASE, None):
        judgement = judge(baseline, BASE, ScenarioSettings(caps=caps), cost)
        assert {limit.metric for limit in judgement.limits if limit.over} == over
        assert (judgement.verdict == Verdict.OVER) == bool(over)


def test_a_cap_on_a_cost_that_nobody_can_tell_is_over() -> None:
    settings = ScenarioSettings(caps=Caps(max_cost_usd=Decimal(100)))
    unpriced = used(rate=UNKNOWN, **CACHED)
    judgement = judge(unpriced, unpriced, settings, cost)
    assert judgement.verdict == Verdict.OVER
    assert [(limit.metric, limit.measured) for limit in judgement.limits if limit.over] == [
        ("max_cost_usd", None)
    ]


def test_an_unknown_price_on_both_sides_judges_tokens_alone() -> None:
    unpriced = used(rate=UNKNOWN, **CACHED)
    judgement = judge(unpriced, unpriced, DEFAULT, cost)
    assert judgement.verdict == Verdict.WITHIN
    assert "cost_usd" not in {limit.metric for limit in judgement.limits}


def test_a_tiny_scenario_is_not_failed_for_its_cents() -> None:
    small, grown = used(input_tokens=100, output_tokens=10), used(input_tokens=124, output_tokens=10)
    assert judge(small, grown, DEFAULT, cost).verdict == Verdict.WITHIN


def test_change_is_relative_and_of_shares_absolute() -> None:
    limits = {
        limit.metric: limit for limit in judge(BASE, used(**CACHED, output_tokens=600), DEFAULT, cost).limits
    }
    assert limits["output_tokens"].change == Fraction(1, 5)
    assert limits["cache_share"].change == 0


COUNTS = st.builds(
    Tokens,
    input_tokens=st.integers(0, 10_000),
    ephemeral_5m_input_tokens=st.integers(0, 10_000),
    ephemeral_1h_input_tokens=st.integers(0, 10_000),
    cache_read_input_tokens=st.integers(0, 10_000),
    output_tokens=st.integers(0, 10_000),
)


@given(COUNTS, st.integers(1, 9))
def test_what_did_not_change_is_within(tokens: Tokens, turns: int) -> None:
    usage = Usage.of(MODEL, tokens, turns)
    assert judge(usage, usage, DEFAULT, cost).verdict == Verdict.WITHIN


@given(COUNTS, COUNTS)
def test_more_than_the_limit_never_passes(was: Tokens, now: Tokens) -> None:
    baseline, measured = Usage.of(MODEL, was, 1), Usage.of(MODEL, now, 1)
    allowed = was.prompt_tokens + max(was.prompt_tokens * Fraction(5, 100) + Fraction(1, 2), 25)
    verdict = judge(baseline, measured, DEFAULT, cost).verdict
    if now.prompt_tokens > allowed:
        assert verdict == Verdict.OVER
