"""Tolerances: how far above its baseline a metric may go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, get_args

Metric = Literal["prompt_tokens", "output_tokens", "turns", "cache_share", "cost_usd"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_TEXT = re.compile(r"\+?(?:(?P<percent>\d+(?:\.\d+)?)\s*%)?(?:\s*or\s*)?(?:\+?(?P<absolute>\d+))?")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Growth allowed over a baseline: the larger of a share of it and an absolute amount.

    For `cache_share`, `absolute` is in percentage points, downwards. For `cost_usd` it is unused: the price
    of the absolute token tolerances takes its place, so that a tiny scenario is not failed for its cents.
    """

    relative: Fraction = Fraction(0)
    absolute: int = 0

    def limit(self, baseline: int) -> int:
        """The largest count that is still allowed, rounded to a whole one."""
        return baseline + max(round(self.relative * baseline), self.absolute)

    def floor(self, baseline: int) -> int:
        """Below this a count is an improvement, not noise."""
        return baseline - max(round(self.relative * baseline), self.absolute)

    def cost_limit(self, baseline: Decimal, least: Decimal) -> Decimal:
        """The highest cost that is still allowed; `least` is the price of the absolute token tolerances."""
        relative = baseline * self.relative.numerator / self.relative.denominator
        return baseline + max(relative, least)


DEFAULTS: Mapping[Metric, Tolerance] = MappingProxyType(
    {
        "prompt_tokens": Tolerance(Fraction(5, 100), 25),
        "output_tokens": Tolerance(Fraction(10, 100), 25),
        "turns": Tolerance(),
        "cache_share": Tolerance(absolute=5),
        "cost_usd": Tolerance(Fraction(5, 100)),
    }
)
_BY_ONE_VALUE: tuple[Metric, ...] = ("prompt_tokens", "output_tokens", "cost_usd")


def parse_tolerance(value: object, default: Tolerance) -> Tolerance:
    """Read `"10%"`, `200`, `"200"` or `"10% or 200"`; a share alone keeps the default's absolute amount.

    `"0%"` and `0` mean exactly that: no growth. Raises ValueError with the reason.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Tolerance(absolute=value)
    match = _TEXT.fullmatch(value.strip()) if isinstance(value, str) and value.strip() else None
    if match is None or not any(match.groups()):
        raise ValueError(f'{value!r} is no tolerance; write "10%", 200 or "10% or 200"')
    if match["percent"] is None:
        return Tolerance(absolute=int(match["absolute"]))
    relative = Fraction(match["percent"]) / 100
    if match["absolute"] is not None:
        return Tolerance(relative, int(match["absolute"]))
    return replace(default, relative=relative) if relative else Tolerance()


def parse_tolerances(
    value: object, base: Mapping[Metric, Tolerance] = DEFAULTS
) -> Mapping[Metric, Tolerance]:
    """Read a tolerance setting over `base`: one value for tokens and cost, or a table by metric.

    Raises ValueError naming the metric and the reason.
    """
    if not isinstance(value, Mapping):
        given: Mapping[object, object] = dict.fromkeys(_BY_ONE_VALUE, value)
    else:
        given = value
    tolerances = dict(base)
    for key, one in given.items():
        metric = next((name for name in METRICS if name == key), None)
        if metric is None:
            raise ValueError(f"{key!r} is no metric; use {', '.join(METRICS)}")
        try:
            parsed = parse_tolerance(one, base[metric])
        except ValueError as error:
            raise ValueError(f"{metric}: {error}") from None
        if metric in ("turns", "cache_share") and parsed.relative:
            unit = "turns" if metric == "turns" else "percentage points"
            raise ValueError(f"{metric}: {one!r} is a share; write a whole number of {unit}")
        tolerances[metric] = parsed
    return MappingProxyType(tolerances)
