"""Judge a run by its baseline and tolerances; judge live runs, which vary by themselves, by statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from statistics import NormalDist

from pytest_tokenbudget.metering.cache_split import ForeignReads, as_written
from pytest_tokenbudget.model import Tokens, Usage, Verdict
from pytest_tokenbudget.settings import Caps, Metric, ScenarioSettings, Tolerance

Number = int | Fraction | Decimal
CostOf = Callable[[Usage], Decimal | None]
"""Returns the dollars that a usage costs; None if a rate has no known price."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One metric, compared with its limit or its cap."""

    metric: str
    """A metric, or the name of a cap (`max_prompt_tokens`, ...)."""
    baseline: Number | None
    """The baseline's value; None for caps."""
    measured: Number | None
    """The measured value. None if the cost is unknown; then it is over, since it may be."""
    limit: Number
    over: bool
    improved: bool = False

    @property
    def change(self) -> Fraction | None:
        """Relative growth over the baseline (0.1 is 10 %); of shares the difference. None without a base."""
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
    """The foreign reads of both sides, if two recordings began with different caches."""

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
    """Judge one scenario, by the first verdict of: departure, over, unknown, new, improved, within.

    A run that departs from its recording (`departure`) is never compared with limits: its numbers answer
    another question. `measured` is the worst case and `best` the best one, if they differ. `unbounded` says
    that no worst case is known, so that only what `best` exceeds is proved. If two recordings began with
    different caches (`starts`), the cost and cache share of both sides are computed as from an empty cache.
    Caps hold for what was measured.
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
    """Compare one usage with every limit and cap."""
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
    """Yield the limit of each metric, in order."""
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
    """Yield the limit of the share of the prompt that was read from the cache.

    The share also falls when a cached prompt gets shorter, which is no regression. So it is over only if more
    tokens than the noise are no longer read but sent or written.
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
    """Return the prompt tokens that were not read from the cache."""
    return tokens.prompt_tokens - tokens.cache_read_input_tokens


def _cost(baseline: Usage, measured: Usage, settings: ScenarioSettings, cost: CostOf) -> Iterator[Limit]:
    """Yield the limit of the cost; nothing if the baseline's cost is unknown."""
    was, now, tolerance = cost(baseline), cost(measured), settings.tolerances["cost_usd"]
    if was is None:
        return  # nothing to compare with; a finding says that a price is unknown
    least = _least_cost(baseline, settings, cost)
    limit = tolerance.cost_limit(was, least)
    over = now is None or now > limit
    yield Limit(
        "cost_usd", was, now, limit, over=over, improved=now is not None and now < was - (limit - was)
    )


def _least_cost(baseline: Usage, settings: ScenarioSettings, cost: CostOf) -> Decimal:
    """Return what the absolute token tolerances cost (dollars) at the dearest rate of the baseline."""
    tokens = Tokens(
        input_tokens=settings.tolerances["prompt_tokens"].absolute,
        output_tokens=settings.tolerances["output_tokens"].absolute,
    )
    prices = (cost(Usage.of(rate, tokens)) for rate in baseline.by_rate)
    return max((price for price in prices if price is not None), default=Decimal(0))


def _caps(measured: Usage, caps: Caps, cost: CostOf) -> Iterator[Limit]:
    """Yield a limit for each cap that is set."""
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


# --- live runs --------------------------------------------------------------------------------------------

ALPHA = 0.05
"""Most often (share of runs) that an unchanged scenario, or an unchanged suite, may fail."""
LEVEL = 0.0437
"""The level at which one scenario, and all together by Holm's method, are proved. Looks before the end, and
costs of few different numbers of turns, which are not log-normal, take the rest of `ALPHA`
(benchmarks/live_statistics.py)."""
_POWER = 0.8
"""How often a real growth shall be found."""
_LOOKS = 1.08
"""At a share t of the information the bound of a look is `_LOOKS * z / sqrt(t)`, with z the bound at the end:
of O'Brien and Fleming's form (Biometrics 35, 1979), and a little higher than theirs, so that what looks add
stays below `ALPHA` (benchmarks/live_statistics.py)."""
_FEWEST = 3
"""Runs before a first look: costs of two may well be equal by chance."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Growth:
    """How the costs of live runs compare with those of a baseline of live runs."""

    log_ratio: float
    """Mean of the logarithms of the costs now, less that of the baseline."""
    error: float
    """Standard error of `log_ratio`; 0 if no run differs from another."""
    freedom: float
    """Degrees of freedom of `error`."""

    @property
    def ratio(self) -> float:
        """The ratio of the (geometric) mean costs, now over baseline."""
        return math.exp(self.log_ratio)

    @cached_property
    def p(self) -> float:
        """The probability of a growth this large if nothing has grown (one-sided p-value)."""
        if not self.error:
            return 0.0 if self.log_ratio > 0 else 1.0
        return student_tail(self.log_ratio / self.error, self.freedom)

    def interval(self) -> tuple[float, float]:
        """Return the lower and upper ratio between which the true one is in nine of ten cases."""
        half = student_quantile(1 - ALPHA, self.freedom) * self.error if self.error else 0.0
        return math.exp(self.log_ratio - half), math.exp(self.log_ratio + half)


def growth(baseline: Sequence[float], now: Sequence[float]) -> Growth | None:
    """Compare the costs of live runs on logarithms, by Welch's test (Biometrika 34, 1947) and by Student's.

    The test with the larger p counts. The variance of few runs may be small by chance. Welch's test takes it
    for true, while Student's pools it with the other side's; if the two sides vary differently, Welch's is
    right. A single run of `now` is taken to vary as the baseline does. Return None for fewer than two runs of
    the baseline, for none of `now`, and if a run cost nothing.
    """
    if len(baseline) < 2 or not now or min(*baseline, *now) <= 0:
        return None
    before, after = [math.log(cost) for cost in baseline], [math.log(cost) for cost in now]
    difference = statistics.fmean(after) - statistics.fmean(before)
    first = _variance(before)
    second = _variance(after) if len(after) > 1 else first
    shared = len(before) + len(after) - 2
    pooled = ((len(before) - 1) * first + (len(after) - 1) * second) / shared
    student = Growth(difference, math.sqrt(pooled * (1 / len(before) + 1 / len(after))), shared)
    of_baseline, of_now = first / len(before), second / len(after)
    error = math.sqrt(of_baseline + of_now)
    if len(after) < 2 or not error:
        return student
    parts = of_baseline**2 / (len(before) - 1) + of_now**2 / (len(after) - 1)
    welch = Growth(difference, error, error**4 / parts)
    return max(student, welch, key=lambda found: found.p)


def _variance(values: Sequence[float]) -> float:
    """Return the variance of a sample, ten times as fast as `statistics.variance`, which uses fractions."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def suite_growth(scenarios: Sequence[Growth]) -> Growth | None:
    """Return the mean growth of a suite, each scenario being one observation; None for fewer than two."""
    ratios = [one.log_ratio for one in scenarios]
    if len(ratios) < 2:
        return None
    error = statistics.stdev(ratios) / math.sqrt(len(ratios))
    return Growth(statistics.fmean(ratios), error, len(ratios) - 1)


def grown(scenarios: Mapping[str, Growth]) -> frozenset[str]:
    """Return the scenarios that have grown, with at most `LEVEL` chance that any of them has not.

    By Holm's method (Scandinavian Journal of Statistics 6, 1979): the smallest p is compared with the level
    over the number of scenarios, the next with the level over one fewer, until the first that is larger.
    """
    found: set[str] = set()
    for place, name in enumerate(sorted(scenarios, key=lambda name: scenarios[name].p)):
        if scenarios[name].p > LEVEL / (len(scenarios) - place):
            break
        found.add(name)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class LiveRuns:
    """The costs of one scenario, in dollars at today's prices: the live runs of its baseline, and of now."""

    baseline: tuple[float, ...]
    now: tuple[float, ...]
    allowed: float
    """The largest ratio of the mean costs, now over baseline, that its tolerance allows."""
    is_stopped: bool = False
    """Whether `may_stop` has ended its runs early."""

    @property
    def growth(self) -> Growth | None:
        """How the runs of now compare with the baseline, or None if that cannot be told."""
        return growth(self.baseline, self.now)

    @property
    def is_past(self) -> bool:
        """Whether the mean cost of now is past what the tolerance allows."""
        return statistics.fmean(self.now) > self.allowed * statistics.fmean(self.baseline)


@dataclass(frozen=True, slots=True)
class LiveVerdict:
    """The verdict on the live runs of a suite."""

    over: frozenset[str]
    """Scenarios whose mean is past its limit and proved to be above its baseline, or that were stopped."""
    suite: Growth | None
    """The growth of all scenarios together; None for fewer than two."""
    suite_is_over: bool


def judge_live(scenarios: Mapping[str, LiveRuns]) -> LiveVerdict:
    """Judge the live runs of a suite by `grown`, and by one test of the whole suite; either may fail it."""
    known = {name: found for name, runs in scenarios.items() if (found := runs.growth)}
    proved = {name for name in grown(known) if scenarios[name].is_past}
    stopped = {name for name, runs in scenarios.items() if runs.is_stopped}
    suite = suite_growth(list(known.values()))
    allowed = statistics.fmean([math.log(scenarios[name].allowed) for name in known] or [0.0])
    is_over = suite is not None and suite.p <= ALPHA and suite.log_ratio > allowed
    return LiveVerdict(frozenset(proved | stopped), suite, is_over)


def may_stop(runs: LiveRuns, planned: int, scenarios: int) -> bool:
    """Return whether a scenario, one of `scenarios`, is over at a look before the end of `planned` runs.

    The information of n runs against m of the baseline is 1 / (1/n + 1/m).
    """
    number = len(runs.now)
    if number not in looks(planned) or not runs.is_past or (found := runs.growth) is None:
        return False
    share = (1 / planned + 1 / len(runs.baseline)) / (1 / number + 1 / len(runs.baseline))
    bound = _LOOKS * _NORMAL.inv_cdf(LEVEL / scenarios) / math.sqrt(share)
    return found.p <= _NORMAL.cdf(bound)


def looks(planned: int) -> tuple[int, ...]:
    """Return after how many of the planned runs they may be stopped: a half, three quarters, rounded up."""
    parts = (max(_FEWEST, math.ceil(planned * part)) for part in (1 / 2, 3 / 4))
    return tuple(sorted({number for number in parts if number < planned}))


def runs_to_decide(baseline: Sequence[float], now: Sequence[float], ratio: float) -> int | None:
    """Return how many more runs would find a growth by `ratio` in four of five cases; 0 if there are enough.

    Return None if no number would: the baseline itself has too few runs, or the runs of `now` say nothing.
    """
    if len(baseline) < 2 or len(now) < 2 or min(*baseline, *now) <= 0:
        return None
    needed = math.log(ratio) / (_NORMAL.inv_cdf(1 - ALPHA) + _NORMAL.inv_cdf(_POWER))
    before = statistics.variance(map(math.log, baseline)) / len(baseline)
    if needed**2 <= before:
        return None
    runs = math.ceil(statistics.variance(map(math.log, now)) / (needed**2 - before))
    return max(runs - len(now), 0)


def student_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t, with this many degrees of freedom, is above `t`.

    By the regularised incomplete beta function (Abramowitz and Stegun, 26.7.1 and 26.5.27).
    """
    half = _beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return half if t > 0 else 1 - half


def student_quantile(share: float, freedom: float) -> float:
    """Return the t that a `share` (0 to 1) of Student's distribution is below, by halving an interval."""
    low, high = -1e3, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - student_tail(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (A. & S. 26.5.8)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    value = 1.0
    for step in range(_STEPS + math.isqrt(int(max(a, b))), 0, -1):
        value = 1 + _coefficient(step, x, a, b) / value
    return front / (a * value)


_STEPS = 16
"""Coefficients of the fraction; it needs about the root of the larger parameter in addition to converge."""


def _coefficient(step: int, x: float, a: float, b: float) -> float:
    """Return coefficient `step`, from 1, of the continued fraction of the incomplete beta function."""
    m, odd = divmod(step, 2)
    if odd:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
