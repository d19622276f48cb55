"""Baseline x run x tolerance -> verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from pytest_tokenbudget.metering.cache_split import ForeignReads, as_written
from pytest_tokenbudget.model import Tokens, Usage, Verdict
from pytest_tokenbudget.settings import Caps, Metric, ScenarioSettings, Tolerance

Number = int | Fraction | Decimal
CostOf = Callable[[Usage], Decimal | None]
"""Dollars of a usage; None where a rate has no known price."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One metric held against its limit or its cap."""

    metric: str
    """A metric, or the name of a cap (`max_prompt_tokens`, ...)."""
    baseline: Number | None
    """None for caps, and where the baseline's cost is unknown."""
    measured: Number | None
    """None where the cost cannot be told; then it is over, since nobody can say that it is not."""
    limit: Number
    over: bool
    improved: bool = False

    @property
    def change(self) -> Fraction | None:
        """Relative growth over the baseline; for shares, the difference. None without a base."""
        if self.baseline is None or self.measured is None:
            return None
        if self.metric == "cache_share":
            return Fraction(self.measured) - Fraction(self.baseline)
        return Fraction(self.measured) / Fraction(self.baseline) - 1 if self.baseline else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with the limits that led to it, in the order of the metrics, caps last."""

    verdict: Verdict
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Starts:
    """The foreign reads of both sides, where two recordings began with different caches."""

    baseline: ForeignReads
    measured: ForeignReads


def judge(
    baseline: Usage | None,
    measured: Usage,
    settings: ScenarioSettings,
    cost: CostOf,
    *,
    departure: Verdict | None = None,
    best: Usage | None = None,
    unbounded: bool = False,
    starts: Starts | None = None,
) -> Judgement:
    """Judge one scenario, by the verdict that comes first: a departure, over, unknown, new, improved, within.

    A run that departs from its recording (`departure`) is never held against limits: its numbers answer
    another question. `measured` is the worst case and `best` the best one, where they differ; `unbounded`
    says that nobody knows a worst case, so that only what `best` has passed is proved. Where two recordings
    began with different caches (`starts`), the cost and cache share of both sides are those of an empty
    cache. Caps hold for what was measured.
    """
    if departure is not None:
        return Judgement(departure)
    worst = _held(baseline, measured, settings, cost, starts)
    if best is None or (worst.verdict != Verdict.OVER and not unbounded):
        return worst
    proved = _held(baseline, best, settings, cost, starts)
    # A share is no sum: what is unknown may raise it.
    limits = tuple(limit for limit in proved.limits if limit.metric != "cache_share" or not unbounded)
    if not any(limit.over for limit in limits):
        return Judgement(Verdict.UNKNOWN, () if unbounded else worst.limits)
    if not unbounded:
        limits = tuple(
            replace(limit, over=limit.over and beside.over)
            for limit, beside in zip(worst.limits, limits, strict=True)
        )
    return Judgement(Verdict.OVER, limits)


def _held(
    baseline: Usage | None, measured: Usage, settings: ScenarioSettings, cost: CostOf, starts: Starts | None
) -> Judgement:
    """Hold one usage against every limit and cap."""
    caps = tuple(_caps(measured, settings.caps, cost))
    if baseline is None:
        return Judgement(Verdict.OVER if any(cap.over for cap in caps) else Verdict.NEW, caps)
    limits = (*_limits(baseline, measured, settings, cost, starts), *caps)
    if any(limit.over for limit in limits):
        return Judgement(Verdict.OVER, limits)
    if any(limit.improved for limit in limits):
        return Judgement(Verdict.IMPROVED, limits)
    return Judgement(Verdict.WITHIN, limits)


def _limits(
    baseline: Usage, measured: Usage, settings: ScenarioSettings, cost: CostOf, starts: Starts | None
) -> Iterator[Limit]:
    was, now, tolerances = baseline.tokens, measured.tokens, settings.tolerances
    yield _count("prompt_tokens", was.prompt_tokens, now.prompt_tokens, tolerances["prompt_tokens"])
    yield _count("output_tokens", was.output_tokens, now.output_tokens, tolerances["output_tokens"])
    yield _count("turns", baseline.turns, measured.turns, tolerances["turns"])
    if starts:
        baseline, measured = as_written(baseline, starts.baseline), as_written(measured, starts.measured)
        was, now = baseline.tokens, measured.tokens
    yield from _share(was, now, tolerances["cache_share"], noise=tolerances["prompt_tokens"].absolute)
    yield from _cost(baseline, measured, settings, cost)


def _count(metric: Metric, was: int, now: int, tolerance: Tolerance) -> Limit:
    limit = tolerance.limit(was)
    return Limit(metric, was, now, limit, over=now > limit, improved=now < tolerance.floor(was))


def _share(was: Tokens, now: Tokens, tolerance: Tolerance, noise: int) -> Iterator[Limit]:
    """The share of the prompt that was read from the cache.

    It also falls when a cached prompt gets shorter, which is no regression: it is over only when more tokens
    than the noise are no longer read but sent or written.
    """
    if was.cache_share is None or now.cache_share is None:
        return
    points = Fraction(tolerance.absolute, 100)
    limit = max(was.cache_share - points, Fraction(0))
    unread = _unread(now) - _unread(was)
    fell = now.cache_share < limit and unread > noise
    rose = now.cache_share > was.cache_share + points
    yield Limit(
        "cache_share", was.cache_share, now.cache_share, limit, over=fell, improved=rose and unread < 0
    )


def _unread(tokens: Tokens) -> int:
    return tokens.prompt_tokens - tokens.cache_read_input_tokens


def _cost(baseline: Usage, measured: Usage, settings: ScenarioSettings, cost: CostOf) -> Iterator[Limit]:
    was, now, tolerance = cost(baseline), cost(measured), settings.tolerances["cost_usd"]
    if was is None:
        return  # nothing to hold it against; that a price is unknown is told by a finding
    least = _least_cost(baseline, settings, cost)
    limit = tolerance.cost_limit(was, least)
    over = now is None or now > limit
    yield Limit(
        "cost_usd", was, now, limit, over=over, improved=now is not None and now < was - (limit - was)
    )


def _least_cost(baseline: Usage, settings: ScenarioSettings, cost: CostOf) -> Decimal:
    """What the absolute token tolerances cost at the dearest rate of the baseline."""
    tokens = Tokens(
        input_tokens=settings.tolerances["prompt_tokens"].absolute,
        output_tokens=settings.tolerances["output_tokens"].absolute,
    )
    prices = (cost(Usage.of(rate, tokens)) for rate in baseline.by_rate)
    return max((price for price in prices if price is not None), default=Decimal(0))


def _caps(measured: Usage, caps: Caps, cost: CostOf) -> Iterator[Limit]:
    tokens = measured.tokens
    counts = (
        ("max_prompt_tokens", tokens.prompt_tokens, caps.max_prompt_tokens),
        ("max_output_tokens", tokens.output_tokens, caps.max_output_tokens),
        ("max_total_tokens", tokens.total, caps.max_total_tokens),
        ("max_turns", measured.turns, caps.max_turns),
    )
    for metric, now, cap in counts:
        if cap is not None:
            yield Limit(metric, None, now, cap, over=now > cap)
    if caps.max_cost_usd is not None:
        dollars = cost(measured)
        over = dollars is None or dollars > caps.max_cost_usd
        yield Limit("max_cost_usd", None, dollars, caps.max_cost_usd, over=over)
