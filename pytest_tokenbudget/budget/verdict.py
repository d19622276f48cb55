"""Baseline x run x tolerance -> verdict; of live runs, which differ, what statistics bear."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from statistics import NormalDist

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


# --- live runs --------------------------------------------------------------------------------------------

ALPHA = 0.05
"""How often a scenario, and a suite, that did not change may fail."""
LEVEL = 0.045
"""What one scenario, and all by Holm's method, are proved at. One look before the end leaves 4.67 % of
`ALPHA`; costs of few different numbers of turns are no log-normal, which takes the rest
(benchmarks/live_statistics.py)."""
_POWER = 0.8
"""How often a growth that is asked about is to be found."""
_LOOKS = 1.678
"""O'Brien and Fleming's constant for a one-sided test at 5 % with two looks (Jennison and Turnbull, Group
Sequential Methods, 2000, table 2.3): at a share t of the information the bound is `_LOOKS / sqrt(t)`."""
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Growth:
    """How the cost of live runs compares with that of a baseline of live runs."""

    log_ratio: float
    """Mean of the logs now, less that of the baseline."""
    error: float
    """Its standard error; 0 where no run differs from another."""
    freedom: float
    """Degrees of freedom of that error."""

    @property
    def ratio(self) -> float:
        """Return the ratio of the (geometric) mean costs."""
        return math.exp(self.log_ratio)

    @property
    def p(self) -> float:
        """Return how probable a growth as large as this one is without any."""
        if not self.error:
            return 0.0 if self.log_ratio > 0 else 1.0
        return student_tail(self.log_ratio / self.error, self.freedom)

    def interval(self) -> tuple[float, float]:
        """Return the ratios that the true one is between in nine of ten cases."""
        half = student_quantile(1 - ALPHA, self.freedom) * self.error if self.error else 0.0
        return math.exp(self.log_ratio - half), math.exp(self.log_ratio + half)


def growth(baseline: Sequence[float], now: Sequence[float]) -> Growth | None:
    """Compare the costs of live runs on logs: by Welch's test (Biometrika 34, 1947) and by Student's.

    The less sure of the two counts. Of few runs the variance may be small by chance, which Welch's test takes
    for true and Student's pools with the other side's; where the two sides vary differently, Welch's is
    right. A single run of now is taken to vary as the baseline does. None for fewer than two runs of the
    baseline, for none of now, and where a run cost nothing.
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
    """Return the variance of a sample, ten times as fast as `statistics.variance`, which takes fractions."""
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

    By Holm's method (Scandinavian Journal of Statistics 6, 1979): the smallest p is held against the level
    over the number of scenarios, the next against the level over one fewer, to the first that fails.
    """
    found: set[str] = set()
    for place, name in enumerate(sorted(scenarios, key=lambda name: scenarios[name].p)):
        if scenarios[name].p > LEVEL / (len(scenarios) - place):
            break
        found.add(name)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class LiveRuns:
    """The costs of one scenario in dollars of today: of each live run of its baseline, and of now."""

    baseline: tuple[float, ...]
    now: tuple[float, ...]
    allowed: float
    """The ratio to the baseline's mean that its tolerance allows."""
    is_stopped: bool = False
    """Whether `may_stop` has ended its runs."""

    @property
    def growth(self) -> Growth | None:
        """Return how they compare, or None where that cannot be told."""
        return growth(self.baseline, self.now)

    @property
    def is_past(self) -> bool:
        """Whether the mean is past what the tolerance allows."""
        return statistics.fmean(self.now) > self.allowed * statistics.fmean(self.baseline)


@dataclass(frozen=True, slots=True)
class LiveVerdict:
    """What the live runs of a suite come to."""

    over: frozenset[str]
    """Scenarios whose mean is past its limit, and proved to be above its baseline."""
    suite: Growth | None
    """Of all scenarios together; None where there are fewer than two."""
    suite_is_over: bool


def judge_live(scenarios: Mapping[str, LiveRuns]) -> LiveVerdict:
    """Judge the live runs of a suite, by `grown` and by one test of the whole; either fails it."""
    known = {name: found for name, runs in scenarios.items() if (found := runs.growth)}
    proved = {name for name in grown(known) if scenarios[name].is_past}
    stopped = {name for name, runs in scenarios.items() if runs.is_stopped}
    suite = suite_growth(list(known.values()))
    allowed = statistics.fmean([math.log(scenarios[name].allowed) for name in known] or [0.0])
    is_over = suite is not None and suite.p <= ALPHA and suite.log_ratio > allowed
    return LiveVerdict(frozenset(proved | stopped), suite, is_over)


def may_stop(runs: LiveRuns, planned: int, scenarios: int) -> bool:
    """Return whether a scenario, one of `scenarios`, is over at the look before the end of `planned` runs.

    There is one look, after half of the runs and at least two. The information of n runs against m of the
    baseline is 1 / (1/n + 1/m).
    """
    found, number = runs.growth, len(runs.now)
    if found is None or number != first_look(planned) or number == planned or not runs.is_past:
        return False
    share = (1 / planned + 1 / len(runs.baseline)) / (1 / number + 1 / len(runs.baseline))
    return found.p <= (1 - _NORMAL.cdf(_LOOKS / math.sqrt(share))) / scenarios


def first_look(planned: int) -> int:
    """Return after how many of the planned runs they may be stopped."""
    return max(2, math.ceil(planned / 2))


def runs_to_decide(baseline: Sequence[float], now: Sequence[float], ratio: float) -> int | None:
    """Return how many more runs would find a growth by `ratio` in four of five cases; 0: there are enough.

    None where no number would: the baseline itself has too few runs, or the runs of now tell nothing.
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
    """Return the probability that Student's t is above `t`.

    By the regularised incomplete beta function (Abramowitz and Stegun, 26.7.1 and 26.5.27).
    """
    half = _beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return half if t > 0 else 1 - half


def student_quantile(share: float, freedom: float) -> float:
    """Return the t that a `share` of Student's distribution is below, by halving an interval."""
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
"""Coefficients of the fraction; beyond these it converges in about the root of the larger parameter."""


def _coefficient(step: int, x: float, a: float, b: float) -> float:
    """Return a coefficient of the continued fraction of the incomplete beta function, from 1."""
    m, odd = divmod(step, 2)
    if odd:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
