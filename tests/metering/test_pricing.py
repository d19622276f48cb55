"""Tokens to dollars: the published prices by hand, and every trap of the price list."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version

import pytest
from genai_prices import Usage as Counts
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, Tokens, Usage

NOW = datetime(2026, 11, 21, tzinfo=UTC)
"""Prices have dates: without one, these tests would break on the day a price changes."""
PRICES = Prices(NOW)
MILLION = 10**6


def cost(rate: str, tokens: Tokens, at: datetime = NOW) -> Decimal | None:
    return Prices(at).cost(Usage.of(Rate.parse(rate), tokens))


def card(rate: str, at: datetime = NOW) -> tuple[str, ...] | None:
    """Dollars per million: input, 5m write, 1h write, read, output; `?` where unknown."""
    found = Prices(at).card(Rate.parse(rate))
    if found is None:
        return None
    prices = (
        found.input_tokens,
        found.ephemeral_5m_input_tokens,
        found.ephemeral_1h_input_tokens,
        found.cache_read_input_tokens,
        found.output_tokens,
    )
    return tuple("?" if price is None else f"{(price * MILLION).normalize():f}" for price in prices)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # USD per million, platform docs, "Pricing"
        ("claude-opus-4-8", "5 6.25 10 0.5 25"),
        ("claude-sonnet-4-6", "3 3.75 6 0.3 15"),
        ("claude-haiku-4-5", "1 1.25 2 0.1 5"),
        ("claude-opus-5-5", "4 5 8 0.2 20"),
        ("claude-opus-5", "5 6.25 10 0.5 25"),
        ("claude-opus-4-7", "5 6.25 10 0.5 25"),
        ("claude-sonnet-5", "2 2.5 4 0.2 10"),
        ("claude-fable-5", "10 12.5 20 1 50"),
        ("claude-fable-5-1", "10 12.5 20 0.25 50"),
        ("claude-fable-5-2", "8 10 16 0.2 40"),
        ("claude-opus-4-1-20250805", "15 18.75 30 1.5 75"),
        ("claude-haiku-5-5", "0.1 0.125 0.2 0.01 0.5"),
        ("claude-haiku-5-5 (long)", "0.5 0.625 1 0.05 2.5"),
        # fast mode, "Fast mode"
        ("claude-opus-4-8 (fast)", "10 12.5 20 1 50"),
        ("claude-opus-5 (fast)", "10 12.5 20 1 50"),
        ("claude-opus-5-5 (fast)", "8 10 16 0.4 40"),
        # half for batches, a tenth more for inference in the US; they stack
        ("claude-sonnet-4-6 (batch)", "1.5 1.875 3 0.15 7.5"),
        ("claude-haiku-5-5 (batch, long)", "0.25 0.3125 0.5 0.025 1.25"),
        ("claude-sonnet-4-6 (us)", "3.3 4.125 6.6 0.33 16.5"),
        ("claude-opus-4-8 (batch, us)", "2.75 3.4375 5.5 0.275 13.75"),
        ("claude-opus-4-8 (fast, us)", "11 13.75 22 1.1 55"),
        # clouds: regional endpoints cost a tenth more from 4.5 on
        ("claude-haiku-4-5-20251001 (aws)", "1 1.25 2 0.1 5"),
        ("claude-haiku-4-5-20251001 (aws, regional)", "1.1 1.375 2.2 0.11 5.5"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0 (aws, regional)", "1.1 1.375 2.2 0.11 5.5"),
        ("global.anthropic.claude-haiku-4-5-20251001-v1:0 (aws)", "1 1.25 2 0.1 5"),
        ("claude-3-haiku-20240307 (aws, regional)", "0.25 ? ? ? 1.25"),
        ("anthropic.claude-opus-5-20260724 (aws, regional)", "5.5 6.875 11 0.55 27.5"),
        # before 4.5 every endpoint has one price, also where a proxy hides the region
        ("claude-opus-4-1-20250805 (aws)", "15 18.75 ? 1.5 75"),
        ("anthropic.claude-opus-4-20250514-v1:0 (aws)", "15 18.75 ? 1.5 75"),
        ("anthropic.claude-3-haiku-20240307-v1:0:48k (aws, regional)", "0.25 ? ? ? 1.25"),
        ("anthropic.claude-3-sonnet-20240229-v1:0:200k (aws, regional)", "3 3.75 ? 0.3 15"),
        # as Bedrock's answers call them
        ("claude-3-haiku-48k-20240307 (aws, regional)", "0.25 ? ? ? 1.25"),
        ("claude-3-sonnet-28k-20240229 (aws)", "3 3.75 ? 0.3 15"),
        ("claude-mythos-5-2", "8 10 16 0.2 40"),
        # not in the list, but published: the page "Pricing", and the announcement of Project Glasswing
        ("claude-mythos-5", "10 12.5 20 1 50"),
        ("claude-mythos-5-20260609", "10 12.5 20 1 50"),
        ("claude-mythos-5-1", "10 12.5 20 0.25 50"),
        ("claude-mythos-5-1 (batch)", "5 6.25 10 0.125 25"),
        ("claude-mythos-5 (us)", "11 13.75 22 1.1 55"),
        ("claude-mythos-preview", "25 ? ? ? 125"),
        ("claude-haiku-4-5@20251001 (google)", "1 1.25 2 0.1 5"),
        ("claude-haiku-4-5-20251001 (google, regional)", "1.1 1.375 2.2 0.11 5.5"),
        ("claude-opus-4-8@20260528 (google, regional)", "5.5 6.875 11 0.55 27.5"),
        ("claude-fable-5-1@20260815 (google)", "10 12.5 20 0.25 50"),
        ("claude-sonnet-5 (google)", "2 2.5 4 0.2 10"),
        ("claude-opus-4-1-20250805 (google, regional)", "15 18.75 ? 1.5 75"),
        ("claude-sonnet-4-5-20250929 (azure)", "3 3.75 6 0.3 15"),
        ("claude-sonnet-4-6 (azure, us)", "3.3 4.125 6.6 0.33 16.5"),
    ],
)
def test_published_prices(model: str, expected: str) -> None:
    assert card(model) == tuple(expected.split())


@pytest.mark.parametrize(
    "rate",
    [
        "claude-opus-9",
        "claude-mythos-5 (fast)",
        "claude-mythos-5 (aws)",
        "claude-mythos-preview (google)",
        "anthropic/claude-mythos-5",
        "claude-mythos-9 (aws)",
        "claude-haiku-9-20270101",
        "gpt-5",
        "unknown",
        "",
        "anthropic/claude-haiku-4.5",
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "claude-2.0 (aws)",
        "claude-opus-4-6 (fast)",
        "claude-sonnet-4-6 (fast)",
        "claude-opus-4-8 (azure, fast)",
        "claude-opus-4-8 (priority)",
    ],
)
def test_what_the_list_does_not_know_is_unknown_never_free(rate: str) -> None:
    usage = Usage.of(Rate.parse(rate), Tokens(1))
    assert PRICES.card(Rate.parse(rate)) is None
    assert PRICES.cost(usage) is None
    assert PRICES.unpriced(usage) == (Rate.parse(rate),)


def test_a_run_by_hand() -> None:
    """0.003 + 0.0225 + 0.012 + 0.0006 + 0.0075 + 0.02 + 0.0001 + 0.0001 = 0.0658 dollars."""
    sonnet = Tokens(1000, 6000, 2000, 2000, 500, web_search_requests=2)
    usage = Usage.of(Rate("claude-sonnet-4-6"), sonnet)
    usage += Usage.of(Rate("claude-haiku-5-5"), Tokens(1000, output_tokens=200))
    assert PRICES.cost(usage) == Decimal("0.0658")


@pytest.mark.parametrize(
    ("tokens", "dollars"),
    [
        (Tokens(input_tokens=MILLION), "5"),
        (Tokens(ephemeral_5m_input_tokens=MILLION), "6.25"),
        (Tokens(ephemeral_1h_input_tokens=MILLION), "10"),
        (Tokens(cache_read_input_tokens=MILLION), "0.5"),
        (Tokens(output_tokens=MILLION), "25"),
        (Tokens(web_search_requests=1000), "10"),
        (Tokens(), "0"),
    ],
)
def test_each_count_by_itself(tokens: Tokens, dollars: str) -> None:
    assert cost("claude-opus-4-8", tokens) == Decimal(dollars)


def test_cost_adds_up_and_nothing_costs_nothing() -> None:
    one = Usage.of(Rate("claude-opus-4-8"), Tokens(3, 5, 7, 11, 13, 1))
    single = PRICES.cost(one)
    assert single is not None
    assert PRICES.cost(one + one + one) == 3 * single
    assert PRICES.cost(Usage()) == 0


def test_one_unknown_model_makes_the_sum_unknown() -> None:
    usage = Usage.of(Rate("claude-opus-4-8"), Tokens(9)) + Usage.of(Rate("claude-opus-9"), Tokens(1))
    assert PRICES.cost(usage) is None
    assert PRICES.unpriced(usage) == (Rate("claude-opus-9"),)


def test_a_turn_that_bills_nothing_needs_no_price() -> None:
    refused = Usage.of(Rate("claude-opus-9"), Tokens())
    assert (PRICES.cost(refused), PRICES.unpriced(refused)) == (0, ())


@pytest.mark.parametrize(
    ("rate", "tokens"),
    [
        ("claude-opus-4-8 (google)", Tokens(1, web_search_requests=1)),
        ("claude-opus-4-1-20250805 (google)", Tokens(1, ephemeral_1h_input_tokens=1)),
        ("claude-2.1", Tokens(1, cache_read_input_tokens=1)),
    ],
    ids=["a search", "an hour's write", "a read"],
)
def test_a_count_without_a_listed_price_is_unknown_too(rate: str, tokens: Tokens) -> None:
    """The list would price the first at nothing, the second as a five-minute write, the third as input."""
    assert cost(rate, tokens) is None
    assert cost(rate, Tokens(1)) is not None


counts = st.integers(0, 9_000)


@given(st.builds(Tokens, counts, counts, counts, counts, counts, st.integers(0, 9)))
@pytest.mark.parametrize("model", ["claude-opus-4-8", "claude-haiku-5-5", "claude-fable-5-1"])
def test_it_agrees_with_the_list_asked_for_everything_at_once(model: str, tokens: Tokens) -> None:
    """Whose input_tokens is the whole prompt, and whose cache writes hold those for an hour."""
    asked = calc_price(
        Counts(
            input_tokens=tokens.prompt_tokens,
            cache_write_tokens=tokens.cache_creation_input_tokens,
            cache_write_1h_tokens=tokens.ephemeral_1h_input_tokens,
            cache_read_tokens=tokens.cache_read_input_tokens,
            output_tokens=tokens.output_tokens,
            web_searches=tokens.web_search_requests,
        ),
        model,
        provider_id="anthropic",
        genai_request_timestamp=NOW,
    )
    assert cost(model, tokens) == asked.total_price


def test_batches_were_half_before_the_list_knew_it() -> None:
    before = datetime(2026, 10, 13, tzinfo=UTC)
    tokens = Tokens(MILLION, output_tokens=MILLION, web_search_requests=1000)
    for at in (before, NOW):
        assert cost("claude-haiku-4-5 (batch)", tokens, at) == Decimal("0.5") + Decimal("2.5") + 10
    assert card("claude-3-5-haiku-20241022 (batch)") == ("0.4", "0.5", "0.8", "0.04", "2")


def tiers(rate: str, *prompts: Tokens, at: datetime = NOW) -> list[str]:
    prices = Prices(at)
    total = sum((prices.tiered(Usage.of(Rate.parse(rate), tokens)) for tokens in prompts), Usage())
    assert total.turns == len(prompts)
    return sorted(str(rate) for rate in total.by_rate)


def test_the_tier_is_decided_by_request_never_by_the_sum() -> None:
    small, large = Tokens(60_000, output_tokens=1000), Tokens(1, 50_000, 0, 50_000)
    assert tiers("claude-haiku-5-5", small, small, small) == ["claude-haiku-5-5"]
    assert tiers("claude-haiku-5-5", small, large) == ["claude-haiku-5-5", "claude-haiku-5-5 (long)"]
    usage = PRICES.tiered(Usage.of(Rate("claude-haiku-5-5"), small))
    assert PRICES.cost(usage + usage) == Decimal("0.013")


@pytest.mark.parametrize(
    ("rate", "prompt", "long"),
    [
        ("claude-haiku-5-5", 100_000, False),
        ("claude-haiku-5-5", 100_001, True),
        ("claude-haiku-5-5 (batch, us)", 100_001, True),
        ("claude-haiku-5-5 (aws, regional)", 100_001, True),
        ("claude-sonnet-4-5-20250929", 200_001, True),
        ("claude-sonnet-4-6", 900_000, False),
        ("claude-opus-4-8", 900_000, False),
        ("claude-opus-9", 900_000, False),
    ],
)
def test_long_prompts_by_model(rate: str, prompt: int, long: bool) -> None:
    assert [("long" in found) for found in tiers(rate, Tokens(prompt))] == [long]


def test_tiers_have_dates_too() -> None:
    assert tiers("claude-sonnet-4-6", Tokens(200_001), at=datetime(2026, 3, 1, tzinfo=UTC)) == [
        "claude-sonnet-4-6 (long)"
    ]


def test_tiering_twice_changes_nothing() -> None:
    once = PRICES.tiered(Usage.of(Rate("claude-haiku-5-5"), Tokens(200_000)))
    assert PRICES.tiered(once) == once


def test_a_long_request_costs_the_long_price_for_every_token() -> None:
    long = PRICES.tiered(Usage.of(Rate("claude-haiku-5-5"), Tokens(150_000, output_tokens=1000)))
    assert PRICES.cost(long) == Decimal("0.0775")


@pytest.mark.parametrize(
    ("model", "cheaper"),
    [
        ("claude-opus-4-8", ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")),
        ("claude-sonnet-4-6", ("claude-sonnet-5-5", "claude-haiku-5-5")),
        ("claude-haiku-4-5-20251001", ("claude-haiku-5-5",)),
        ("claude-haiku-5-5", ()),
        ("claude-opus-9", ()),
    ],
)
def test_cheaper_models_of_the_current_line_up(model: str, cheaper: tuple[str, ...]) -> None:
    assert PRICES.cheaper_models(model) == cheaper


def test_every_key_that_we_ask_by_is_known_to_the_list(recwarn: pytest.WarningsRecorder) -> None:
    """A misspelled key is only warned about, and prices at nothing."""
    assert Prices(NOW).card(Rate("claude-opus-4-8")) is not None
    assert not recwarn.list
    with pytest.warns(UserWarning, match="cache_reads"):
        Counts(cache_reads=1)


def test_the_document_can_name_the_list() -> None:
    assert (PRICES.source, PRICES.version) == ("genai-prices", version("genai-prices"))


def test_nothing_is_loaded_before_a_price_is_asked_for() -> None:
    code = (
        "import sys; from pytest_tokenbudget.metering.pricing import Prices; Prices().version;"
        "sys.exit('genai_prices' in sys.modules or 'pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
