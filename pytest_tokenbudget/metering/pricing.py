"""Convert tokens to dollars by the price list of genai-prices; an unknown price is None, never $0.

The few models that the list lacks and whose prices are published are in `models.PUBLISHED_PRICES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pytest_tokenbudget.metering.models import PUBLISHED_PRICES, model_row, short_name
from pytest_tokenbudget.model import COUNTS, Rate, Tokens, Usage

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation


@dataclass(frozen=True, slots=True)
class RateCard:
    """Dollars for one of each of the counts of `Tokens`; None where no price is known."""

    input_tokens: Decimal | None
    ephemeral_5m_input_tokens: Decimal | None
    ephemeral_1h_input_tokens: Decimal | None
    cache_read_input_tokens: Decimal | None
    output_tokens: Decimal | None
    web_search_requests: Decimal | None

    def cost(self, tokens: Tokens) -> Decimal | None:
        """Return the dollars for `tokens`, or None if a price of what was used is unknown."""
        total = Decimal(0)
        for count in COUNTS:
            if number := getattr(tokens, count):
                price = getattr(self, count)
                if price is None:
                    return None
                total += number * price
        return total

    def scaled(self, factor: Decimal) -> RateCard:
        """Return the card with every token's price times `factor`; searches keep their price."""
        prices = {field.name: getattr(self, field.name) for field in fields(self)}
        scaled = {name: price if price is None else price * factor for name, price in prices.items()}
        return replace(self, **{**scaled, "web_search_requests": self.web_search_requests})


_BATCH = Decimal("0.5")
"""Factor on input, output, cache prices (platform docs, "Batch processing"); the list has it by date only."""
_SEARCH = Decimal("0.01")
"""Dollars for one web search, with any model ("Pricing", web search tool)."""
_MILLION = 10**6
_GEOGRAPHY = Decimal("1.1")
"""Factor on every token where inference stays in the US, or a cloud's endpoint is regional ("Pricing")."""

_BASE_PROBE, _LONG_PROBE = 10**3, 10**7
"""Prompt sizes below and above every long-context threshold; powers of ten, so that dividing is exact."""
_PROBES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "input_tokens": ("input_mtok", ()),
    "ephemeral_5m_input_tokens": ("cache_write_mtok", ("cache_write_tokens",)),
    "ephemeral_1h_input_tokens": ("cache_write_1h_mtok", ("cache_write_tokens", "cache_write_1h_tokens")),
    "cache_read_input_tokens": ("cache_read_mtok", ("cache_read_tokens",)),
    "output_tokens": ("output_mtok", ("output_tokens",)),
    "web_search_requests": ("web_searches_kcount", ("web_searches",)),
}
"""The price that must be listed for a count, lest a dearer or free one stands in; and what to ask for."""
_NOT_IN_PROMPT = ("output_tokens", "web_search_requests")

_PROVIDERS = ("aws", "google", "azure")
_ON_BEDROCK = re.compile(r"^(?:[a-z-]+\.)?anthropic\.")
_BOUGHT_CONTEXT = re.compile(r"-\d+k(?=-\d{8})")
"""The context size in the names that Bedrock's answers give Claude 3: `claude-3-haiku-48k-20240307`."""
_SNAPSHOT = re.compile(r"[-@]\d{8}(?:-v\d+(?::\d+)?)?$")
_GENERATION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_LINE_UP = re.compile(r"^claude-(?P<tier>[a-z]+)-\d+(?:-\d+)?$")


class Prices:
    """The price list at one moment, so that a baseline and a run are priced alike."""

    source = "genai-prices"

    def __init__(self, at: datetime | None = None) -> None:
        """Take the prices of the time `at`, when the tokens are bought; None is now."""
        self.at = at or datetime.now(UTC)
        self._cards: dict[Rate, RateCard | None] = {}
        self._thresholds: dict[Rate, int | None] = {}

    @property
    def version(self) -> str:
        """The version of the price list, for the document."""
        return version("genai-prices")

    def cost(self, usage: Usage) -> Decimal | None:
        """Return the dollars for `usage`, unrounded, or None if the price of anything in it is unknown."""
        costs = [self._cost(rate, tokens) for rate, tokens in usage.by_rate.items()]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None

    def unpriced(self, usage: Usage) -> tuple[Rate, ...]:
        """Return the rates for which `cost` is None, in their order."""
        return tuple(rate for rate, tokens in usage.by_rate.items() if self._cost(rate, tokens) is None)

    def _cost(self, rate: Rate, tokens: Tokens) -> Decimal | None:
        if tokens == Tokens():
            return Decimal(0)
        card = self.card(rate)
        return card.cost(tokens) if card else None

    def card(self, rate: Rate) -> RateCard | None:
        """Return the dollars per token at a rate, or None if the list does not know model or modifier."""
        if rate not in self._cards:
            self._cards[rate] = self._find_card(rate)
        return self._cards[rate]

    def tiered(self, usage: Usage) -> Usage:
        """Return the usage of one answer, with the modifier `long` where its prompt is above the threshold.

        Above the model's threshold the whole request has another price. So this is decided answer by answer:
        a sum of small requests is not a long one.
        """
        total = Usage(usage.turns)
        for rate, tokens in usage.by_rate.items():
            if rate not in self._thresholds:
                self._thresholds[rate] = self._long_threshold(rate)
            threshold = self._thresholds[rate]
            if threshold is not None and tokens.prompt_tokens > threshold:
                rate = replace(rate, modifiers=(*rate.modifiers, "long"))
            total += Usage.of(rate, tokens, turns=0)
        return total

    def cheaper_models(self, model: str) -> tuple[str, ...]:
        """Return the current models that cost less than `model` for input and output, dearest first.

        Current is the newest generation of each tier (haiku, sonnet, ...) that the list knows. Empty where
        the price of `model` is unknown. Their tokenizers may differ from the model's.
        """
        own = self.card(Rate(model))
        if own is None:
            return ()
        cards = {name: card for name in self._line_up() if (card := self.card(Rate(name)))}
        cheaper = [name for name, card in cards.items() if _is_below(card, own)]
        return tuple(sorted(cheaper, key=lambda name: _order(cards[name]), reverse=True))

    def _line_up(self) -> Iterator[str]:
        from genai_prices.data_snapshot import get_snapshot

        newest: dict[str, str] = {}
        anthropic = next(provider for provider in get_snapshot().providers if provider.id == "anthropic")
        for model in anthropic.models:
            if match := _LINE_UP.match(model.id):
                known = newest.setdefault(match["tier"], model.id)
                newest[match["tier"]] = max(known, model.id, key=_generation)
        yield from newest.values()

    def _long_threshold(self, rate: Rate) -> int | None:
        found = self._ask(rate, {}, {"input_tokens": _BASE_PROBE})
        tiers: list[Any] = getattr(found.model_price.input_mtok, "tiers", []) if found else []
        return int(tiers[0].start) if tiers else None

    def _find_card(self, rate: Rate) -> RateCard | None:
        modifiers = set(rate.modifiers)
        if "priority" in modifiers:
            return None  # committed capacity, not sold by the token
        size = _LONG_PROBE if "long" in modifiers else _BASE_PROBE
        card = self._listed(rate, {}, size)
        if card is None:
            return None
        if "fast" in modifiers:
            fast = self._listed(rate, {"speed": "fast"}, size)
            card = fast if fast != card else None  # the list ignores what it does not know
        if card and "batch" in modifiers:
            batch = self._listed(rate, {"processing": "batch"}, size)
            card = batch if batch != card else card.scaled(_BATCH)
        return card.scaled(_surcharge(rate)) if card else None

    def _listed(self, rate: Rate, context: Mapping[str, str], size: int) -> RateCard | None:
        """Return the list's own prices, found by asking for `size` of one count at a time, or None."""

        def ask(**counts: int) -> PriceCalculation | None:
            # input_tokens is the whole prompt here, not what is uncached
            return self._ask(rate, context, {"input_tokens": size, **counts})

        base = ask()
        if base is None:
            return _published(rate)
        prices: dict[str, Decimal | None] = {}
        for name, (listed, keys) in _PROBES.items():
            found = ask(**dict.fromkeys(keys, size))
            if found is None or getattr(base.model_price, listed) is None:
                prices[name] = None
                continue
            beside = base.total_price if name in _NOT_IN_PROMPT else 0
            prices[name] = (found.total_price - beside) / size
        return RateCard(**prices)

    def _ask(
        self, rate: Rate, context: Mapping[str, str], counts: Mapping[str, int]
    ) -> PriceCalculation | None:
        """Ask genai-prices under the first spelling of the model that it knows; None if it knows none."""
        from genai_prices import Usage as Counts
        from genai_prices import calc_price

        provider = next((word for word in rate.modifiers if word in _PROVIDERS), "anthropic")
        for model in _spellings(rate, provider):
            try:
                return calc_price(
                    Counts(**counts),
                    model,
                    provider_id=provider,
                    genai_request_timestamp=self.at,
                    price_context=context,
                )
            except LookupError:
                continue
        return None


def _spellings(rate: Rate, provider: str) -> Iterator[str]:
    """Yield the ids under which the list may know a model, each also without its date.

    Bedrock's ids carry their geography there: `global.` is the base rate, a bare id the regional one. Models
    older than 4.5 have one price everywhere (page "Pricing", 2026-03), which is listed under the bare id.
    """
    models = [rate.model]
    if provider == "aws":
        bare = _BOUGHT_CONTEXT.sub("", _ON_BEDROCK.sub("", rate.model))
        anywhere = "regional" not in rate.modifiers
        models = [f"global.anthropic.{bare}"] if anywhere else []
        if not anywhere or not model_row(bare).regional_surcharge:
            models.append(f"anthropic.{bare}")
    for model in models:
        yield model
        if undated := _SNAPSHOT.sub("", model):
            yield undated


def _published(rate: Rate) -> RateCard | None:
    """Return the prices that Anthropic states for a model that the list does not know, or None.

    They hold on Claude's own API alone, so that None is returned on any other platform.
    """
    prices = PUBLISHED_PRICES.get(short_name(rate.model) or "")
    if prices is None or not rate.model.startswith("claude-") or set(_PROVIDERS) & set(rate.modifiers):
        return None
    tokens = (prices.input, prices.write_5m, prices.write_1h, prices.read, prices.output)
    given, write_5m, write_1h, read, output = (price and price / _MILLION for price in tokens)
    return RateCard(given, write_5m, write_1h, read, output, _SEARCH)


def _surcharge(rate: Rate) -> Decimal:
    """Return the factor on every price for where inference runs; Bedrock's is in its listed prices."""
    regional = "google" in rate.modifiers and "regional" in rate.modifiers
    if "us" in rate.modifiers or (regional and model_row(rate.model).regional_surcharge):
        return _GEOGRAPHY
    return Decimal(1)


def _generation(model: str) -> tuple[int, int]:
    match = _GENERATION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def _order(card: RateCard) -> tuple[Decimal, Decimal]:
    return card.output_tokens or Decimal(0), card.input_tokens or Decimal(0)


def _is_below(card: RateCard, own: RateCard) -> bool:
    return all(price < limit for price, limit in zip(_order(card), _order(own), strict=True))
