"""Baseline x run x tolerance -> verdict, as tables."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.budget.verdict import judge
from pytest_tokenbudget.model import Rate, Tokens, Usage, Verdict
from pytest_tokenbudget.settings import Caps, ScenarioSettings

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


@pytest.mark.parametrize(
    ("now", "improved"),
    [
        pytest.param({}, set(), id="unchanged"),
        pytest.param({"cache_read_input_tokens": 3999}, set(), id="one-token-fewer-is-noise"),
        pytest.param({"cache_read_input_tokens": 3745}, set(), id="prompt-at-its-floor"),
        pytest.param({"cache_read_input_tokens": 3744}, {"prompt_tokens"}, id="prompt-below-its-floor"),
        pytest.param({"output_tokens": 499}, set(), id="one-output-token-fewer-is-noise"),
        pytest.param({"output_tokens": 458}, set(), id="output-below-none-of-its-floors"),
        pytest.param({"output_tokens": 449}, {"output_tokens", "cost_usd"}, id="output-below-its-floor"),
        pytest.param({"turns": 2}, {"turns"}, id="a-turn-fewer"),
    ],
)
def test_improved_is_what_is_below_the_floor_and_not_what_is_any_token_fewer(
    now: dict[str, int], improved: set[str]
) -> None:
    judgement = judge(BASE, used(**{**CACHED, "output_tokens": 500, **now}), DEFAULT, cost)
    assert {limit.metric for limit in judgement.limits if limit.improved} == improved
    assert judgement.verdict == (Verdict.IMPROVED if improved else Verdict.WITHIN)


@pytest.mark.parametrize(
    ("was", "now", "improved", "over"),
    [
        ((1000, 1000), (900, 1100), False, False),
        ((1000, 1000), (899, 1101), True, False),
        ((1000, 1000), (1000, 2000), False, False),
        ((1000, 1000), (1100, 900), False, False),
        ((1000, 1000), (1101, 899), False, True),
        ((1000, 20), (1025, 0), False, False),
        ((100, 100), (125, 75), False, False),
        ((100, 100), (126, 74), False, True),
        ((1000, 1000), (500, 400), False, False),
    ],
    ids=[
        *("five points more", "more than five points", "a larger share with as much unread"),
        *("five points fewer", "more than five points fewer", "less than five points fewer"),
        *("as many unread as noise", "one more unread than noise", "a shorter prompt of a smaller share"),
    ],
)
def test_the_cache_share(was: tuple[int, int], now: tuple[int, int], improved: bool, over: bool) -> None:
    """Uncached and read tokens: a change of more than five points, of tokens that are no longer (un)read."""
    baseline, measured = (used(input_tokens=i, cache_read_input_tokens=r) for i, r in (was, now))
    limits = {limit.metric: limit for limit in judge(baseline, measured, DEFAULT, cost).limits}
    assert (limits["cache_share"].improved, limits["cache_share"].over) == (improved, over)


@pytest.mark.parametrize(
    ("now", "improved", "over"),
    [
        (1000, False, False),
        (950, False, False),
        (949, True, False),
        (1050, False, False),
        (1051, False, True),
    ],
)
def test_the_cost(now: int, improved: bool, over: bool) -> None:
    """In dollars of a thousand output tokens, of which five of a hundred are noise."""
    baseline, measured = used(output_tokens=1000), used(output_tokens=now)
    limits = {limit.metric: limit for limit in judge(baseline, measured, DEFAULT, cost).limits}
    assert (limits["cost_usd"].improved, limits["cost_usd"].over) == (improved, over)


def test_the_limit_of_a_small_cache_share_is_none_below_zero() -> None:
    baseline = used(input_tokens=980, cache_read_input_tokens=20)
    limits = {limit.metric: limit for limit in judge(baseline, baseline, DEFAULT, cost).limits}
    assert limits["cache_share"].limit == 0


@pytest.mark.parametrize(("cap", "over"), [("0.0075", False), ("0.0074", True)])
def test_a_cost_at_its_cap_is_not_over(cap: str, over: bool) -> None:
    settings = ScenarioSettings(caps=Caps(max_cost_usd=Decimal(cap)))
    assert judge(None, used(output_tokens=500), settings, cost).limits[0].over is over


@pytest.mark.parametrize(("now", "over"), [(125, False), (126, True)])
def test_the_noise_of_a_cost_is_priced_at_the_dearest_rate(now: int, over: bool) -> None:
    """25 prompt and 25 output tokens: at ten dollars a token 500, whatever else the scenario bills."""
    cheap, dear = Rate("cheap"), Rate("dear")

    def price(usage: Usage) -> Decimal:
        dollars = {cheap: 1, dear: 10}
        return sum((dollars[r] * Decimal(t.total) for r, t in usage.by_rate.items()), Decimal(0))

    def both(tokens: int) -> Usage:
        return Usage.of(cheap, Tokens(input_tokens=10)) + Usage.of(dear, Tokens(input_tokens=tokens), 0)

    assert price(both(now)) - price(both(75)) == 10 * (now - 75)
    limits = {limit.metric: limit for limit in judge(both(75), both(now), DEFAULT, price).limits}
    assert limits["cost_usd"].over is over


def test_a_cost_that_became_unknown_is_no_improvement() -> None:
    limits = {limit.metric: limit for limit in judge(BASE, used(rate=UNKNOWN), DEFAULT, cost).limits}
    assert (limits["cost_usd"].improved, limits["cost_usd"].over) == (False, True)


def test_over_by_one_metric_is_over_whatever_another_one_saves() -> None:
    assert judge(BASE, used(turns=4, **CACHED, output_tokens=300), DEFAULT, cost).verdict == Verdict.OVER


def test_a_scenario_without_a_baseline_is_new() -> None:
    assert judge(None, BASE, DEFAULT, cost).verdict == Verdict.NEW


@pytest.mark.parametrize("departure", [Verdict.UNRECORDED, Verdict.STALE])
@pytest.mark.parametrize("baseline", [BASE, None])
def test_what_departs_from_its_recording_is_held_against_nothing(
    departure: Verdict, baseline: Usage | None
) -> None:
    settings = ScenarioSettings(caps=Caps(max_turns=1))
    judgement = judge(baseline, BASE, settings, cost, departure=departure, best=BASE, unbounded=True)
    assert judgement.verdict == departure
    assert judgement.limits == ()


GROWN = used(**CACHED | {"cache_read_input_tokens": 4600}, output_tokens=500)
COLD = used(input_tokens=100, ephemeral_5m_input_tokens=5000, output_tokens=500)
LOST = used(input_tokens=100, ephemeral_5m_input_tokens=5600, output_tokens=500)


@pytest.mark.parametrize(
    ("baseline", "best", "worst", "verdict", "over"),
    [
        pytest.param(BASE, BASE, BASE, Verdict.WITHIN, set(), id="both-within"),
        pytest.param(BASE, BASE, COLD, Verdict.UNKNOWN, {"cache_share", "cost_usd"}, id="a-limit-between"),
        pytest.param(BASE, GROWN, LOST, Verdict.OVER, {"prompt_tokens"}, id="only-what-is-proved-is-over"),
        pytest.param(COLD, BASE, COLD, Verdict.WITHIN, set(), id="as-dear-as-ever-at-worst"),
        pytest.param(None, BASE, COLD, Verdict.NEW, set(), id="no-baseline"),
    ],
)
def test_a_verdict_between_bounds_is_proved(
    baseline: Usage | None, best: Usage, worst: Usage, verdict: Verdict, over: set[str]
) -> None:
    judgement = judge(baseline, worst, DEFAULT, cost, best=best)
    assert judgement.verdict == verdict
    assert {limit.metric for limit in judgement.limits if limit.over} == over


def test_a_cap_between_the_bounds_is_unknown() -> None:
    settings = ScenarioSettings(caps=Caps(max_cost_usd=Decimal("0.02")))
    for baseline in (COLD, None):
        assert judge(baseline, COLD, settings, cost, best=BASE).verdict == Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("baseline", "known", "verdict", "over"),
    [
        pytest.param(BASE, used(input_tokens=9), Verdict.UNKNOWN, set(), id="nobody-knows-the-most"),
        pytest.param(None, used(input_tokens=9), Verdict.UNKNOWN, set(), id="comes-before-new"),
        pytest.param(BASE, used(turns=4, input_tokens=9), Verdict.OVER, {"turns"}, id="turns-are-known"),
        pytest.param(
            BASE, used(input_tokens=7000), Verdict.OVER, {"prompt_tokens", "cost_usd"}, id="the-rest-is-over"
        ),
    ],
)
def test_what_is_known_alone_may_be_over(
    baseline: Usage | None, known: Usage, verdict: Verdict, over: set[str]
) -> None:
    judgement = judge(baseline, BASE, DEFAULT, cost, best=known, unbounded=True)
    assert judgement.verdict == verdict
    assert {limit.metric for limit in judgement.limits if limit.over} == over
    assert "cache_share" not in {limit.metric for limit in judgement.limits}


@pytest.mark.parametrize(
    ("caps", "over"),
    [
        (Caps(max_prompt_tokens=5100, max_output_tokens=500, max_turns=3, max_cost_usd=Decimal(1)), set()),
        (Caps(max_prompt_tokens=5099), {"max_prompt_tokens"}),
        (Caps(max_output_tokens=499), {"max_output_tokens"}),
        (Caps(max_turns=2), {"max_turns"}),
        (Caps(max_cost_usd=Decimal("0.0001")), {"max_cost_usd"}),
        (Caps(max_total_tokens=1), {"max_total_tokens"}),
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
