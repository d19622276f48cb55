"""From values to places in a plot: the range of an axis, its round ticks, and the path of a line of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

HEIGHT = 200
"""Of every plot, in its own units; small, because each point of each path is written in them."""
_STEPS = (1, 2, 5, 10)
_TICKS = 4
_LEAST_SPAN = 0.2
"""A trend shows at least a fifth of its highest value, so that a change of 1 % does not look like a cliff."""
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """The values from the bottom of a plot to its top, and those that are written beside it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def y(self, value: float) -> int:
        """The place of `value`, from 0 at the top to HEIGHT."""
        return HEIGHT - round(HEIGHT * (value - self.low) / (self.high - self.low))


def axis_from_zero(most: float, least_step: float = 0) -> Axis:
    """From 0 to `most`, or to the first tick where that is higher."""
    step = _step(most, least_step)
    number = max(1, floor(most / step + 1e-9))
    return Axis(0, max(most, step), tuple(step * index for index in range(number + 1)))


def axis_around(values: Values, least_step: float = 0) -> Axis:
    """Around the known `values`, and never below 0; of negative or no values: from 0."""
    known = [value for value in values if value is not None]
    top, bottom = max(known, default=0), min(known, default=0)
    missing = max(0, top * _LEAST_SPAN - (top - bottom)) / 2
    low, high = max(0, bottom - missing), top + missing
    if high - low <= 0:
        return axis_from_zero(max(top, least_step, 1e-9), least_step)
    step = _step(high - low, least_step)
    ticks = [step * index for index in range(ceil(low / step), floor(high / step) + 1)]
    return Axis(low, high, tuple(ticks))


def _step(span: float, least: float) -> float:
    """The round number that goes about _TICKS times into `span`."""
    raw = max(span / _TICKS, least, 1e-12)
    magnitude = 10.0 ** floor(log10(raw))
    return next((f * magnitude for f in _STEPS if f * magnitude >= raw * (1 - 1e-9)), 10 * magnitude)


def steps(values: Values, axis: Axis) -> str:
    """The path of values that hold until the next one: column i goes from i to i + 1; None is a gap."""
    path: list[str] = []
    y, since = None, 0
    for place, value in enumerate([*values, None]):
        now = None if value is None else axis.y(value)
        if now == y:
            continue
        if y is not None:
            path.append(f"h{place - since}")
        if now is not None:
            path.append(f"M{place} {now}" if y is None else f"v{now - y}")
        y, since = now, place
    return "".join(path)


def compact(number: float) -> str:
    """`20k`, `2.5M`: a round number beside an axis."""
    for size, unit in _UNITS:
        if abs(number) >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"
