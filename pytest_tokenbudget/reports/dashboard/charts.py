"""Draw charts as SVG text: geometry only, without a script and without a size of their own.

A drawing stretches to the room it gets. Words stand outside of what is stretched, at places in percent, so
that they keep their size on a phone. Words are escaped here, and are printable already. Colours come from the
page's style sheet; the attributes beside the classes serve where a content policy blocks that. What a colour
says, a pattern or a word says too. An axis has a range and round ticks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

Shown = Callable[[float], str]
"""Writes a number beside an axis."""

KINDS = ("read", "written", "uncached", "output")
"""The kinds of tokens from the bottom of a stack to its top; also the classes of what is drawn."""
_FILLS = {"read": "#a9c9ea", "written": "url(#written)", "uncached": "#2f6fb3", "output": "#16324f"}
_BLUE = _FILLS["uncached"]
_LINE = f'fill="none" stroke="{_BLUE}" stroke-width="1.5"'
_AREAS = 'shape-rendering="crispEdges"'
_STEADY = 'vector-effect="non-scaling-stroke"'
"""Keeps a line as thick as it says, however it is stretched; the style sheet says it of all lines."""
_NUMBERED = 12
"""Most turns with a number below their bar; of more turns, every second, third, ... has one."""
PATTERNS = (
    '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>'
    '<pattern id="written" width="8" height="10" patternUnits="userSpaceOnUse">'
    '<rect class="paper" width="8" height="10" fill="#fbe3b5"/>'
    '<rect class="ink" width="8" height="4" fill="#d98e16"/></pattern></defs></svg>'
)
"""The patterns of the stacks, once a page. Stripes lie, so that stretching does not change them."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a stack: its parts in the order of KINDS (None if unknown), and `was`, its whole before."""

    parts: Sequence[int] | None
    was: int | None = None


def sparkline(name: str, values: Values, axis: Axis, label: str, kind: str = "") -> str:
    """Draw a trend in a cell of a table. Its path has the id `name`, for `trend_again` to draw it again."""
    drawn = f'<path id="{escape(name)}" class="line" {_STEADY} d="{steps(values, axis)}"/>'
    if values and values[-1] is not None:
        drawn += _dots([(len(values), axis.y(values[-1]))], kind)
    return (
        f'<svg class="spark" role="img" aria-label="{escape(label)}" width="110" height="24" '
        f'viewBox="0 0 {len(values)} {HEIGHT}" preserveAspectRatio="none" {_LINE}>{drawn}</svg>'
    )


def trend(
    values: Values,
    axis: Axis,
    label: str,
    shown: Shown,
    ends: tuple[str, str],
    *,
    notes: Sequence[str] = (),
    height: int = 120,
) -> str:
    """Draw a line over the commits; `notes`, one a commit, are shown when it is pointed at."""
    drawn = f'<path class="line" {_STEADY} d="{steps(values, axis)}"/>{_notes(notes)}'
    plot = _plot(drawn, len(values), axis, shown, height, _LINE)
    return _over_commits(plot, label, ends, height)


def trend_again(
    name: str,
    values: Values,
    axis: Axis,
    label: str,
    shown: Shown,
    ends: tuple[str, str],
    *,
    dots: Sequence[int] = (),
    height: int = 120,
) -> str:
    """Draw the sparkline called `name` in large, with an axis, and with `dots` at those commits."""
    places = [(dot, axis.y(value)) for dot in dots if (value := values[dot]) is not None]
    drawn = f'<use href="#{escape(name)}"/>{_dots(places)}'
    plot = _plot(drawn, len(values), axis, shown, height, _LINE)
    return _over_commits(plot, label, ends, height)


def stacked_trend(
    columns: Sequence[Sequence[int]],
    label: str,
    shown: Shown,
    ends: tuple[str, str],
    *,
    notes: Sequence[str] = (),
    height: int = 180,
) -> str:
    """Draw areas over the commits; each of `columns` holds the parts in the order of KINDS."""
    axis = axis_from_zero(max((sum(parts) for parts in columns), default=0), 1)
    drawn = ""
    for index in reversed(range(len(KINDS))):  # the whole first, each lower part over it: no gaps
        if any(parts[index] for parts in columns):
            tops = [sum(parts[: index + 1]) for parts in columns]
            drawn += _filled(KINDS[index], f"{steps(tops, axis)}V{HEIGHT}H0Z")
    plot = _plot(drawn + _notes(notes), len(columns), axis, shown, height, _AREAS)
    return _over_commits(plot, label, ends, height)


def stacked_bars(bars: Sequence[Bar], label: str, shown: Shown, *, height: int = 120) -> str:
    """Draw a bar a turn, a line across it at what it was; an unknown turn is an empty, dashed frame."""
    number = len(bars)
    most = max([0, *(sum(bar.parts or ()) for bar in bars), *(bar.was or 0 for bar in bars)])
    axis = axis_from_zero(most, 1)
    drawn = ""
    for index in reversed(range(len(KINDS))):
        tops = [
            (place, axis.y(sum(bar.parts[: index + 1])))
            for place, bar in enumerate(bars)
            if bar.parts and bar.parts[index]
        ]
        drawn += _filled(KINDS[index], "".join(_bar(place, top) for place, top in tops))
    unknown = [_bar(p, axis.y(bar.was or axis.high)) for p, bar in enumerate(bars) if bar.parts is None]
    drawn += _outlined("unknown", "".join(unknown))
    moved = [(p, bar) for p, bar in enumerate(bars) if bar.parts and bar.was not in (None, sum(bar.parts))]
    drawn += _outlined("was", "".join(f"M{10 * place} {axis.y(bar.was or 0)}h10" for place, bar in moved))
    plot = _plot(drawn, 10 * number, axis, shown, height, _AREAS)
    return _chart(label, height, plot + _numbers(number, height), str(min(44 * number, 640)))


def stack(parts: Sequence[int], most: float, label: str) -> str:
    """Draw one lying bar of `parts` in the order of KINDS; its whole width stands for `most`."""
    drawn, start = "", 0.0
    for kind, part in zip(KINDS, parts, strict=True):
        width = part / most * 100 if most else 0
        if width:
            place = f'x="{start:.2f}%" width="{width:.2f}%" height="20"'
            drawn += f'<rect class="{kind}" {place} fill="{_FILLS[kind]}"/>'
        start += width
    return (
        f'<svg class="stack" role="img" aria-label="{escape(label)}" width="100%" height="20">{drawn}</svg>'
    )


def share(part: float) -> str:
    """Draw a bar for a cell whose words say the same; a `part` of 1 is the whole width."""
    end = min(max(part, 0), 1) * 64
    return (
        '<svg class="share" aria-hidden="true" width="64" height="5" viewBox="0 0 64 5" '
        f'preserveAspectRatio="none"><path d="M0 2.5h{end:.3g}" stroke="{_BLUE}" stroke-width="5"/></svg>'
    )


def swatch(kind: str) -> str:
    """Draw the colour of a kind, for a legend."""
    return (
        '<svg class="swatch" aria-hidden="true" width="12" height="12">'
        f'<rect class="{kind}" width="12" height="12" fill="{_FILLS[kind]}"/></svg>'
    )


def _over_commits(plot: str, label: str, ends: tuple[str, str], height: int) -> str:
    first, last = map(escape, ends)
    y = height + 17
    words = f'<text y="{y}">{first}</text><text x="100%" y="{y}" text-anchor="end">{last}</text>'
    return _chart(label, height, plot + words)


def _chart(label: str, height: int, inner: str, width: str = "100%") -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(label)}" width="{width}" height="{height + 22}" '
        f'overflow="visible">{inner}</svg>'
    )


def _plot(drawn: str, columns: int, axis: Axis, shown: Shown, height: int, style: str) -> str:
    """Draw what is stretched, over thin lines at the ticks; their numbers stand in the margin to the left."""
    places = [(axis.y(tick), escape(shown(tick))) for tick in axis.ticks]
    lines = "".join(f"M0 {y}h{columns}" for y, _ in places)
    words = "".join(f'<text y="{round(y * height / HEIGHT)}">{text}</text>' for y, text in places)
    return (
        f'<svg class="plot" height="{height}" viewBox="0 0 {max(columns, 1)} {HEIGHT}" '
        f'preserveAspectRatio="none" {style}><path class="grid" stroke="#8884" d="{lines}"/>{drawn}'
        f'</svg><g transform="translate(-6 4)" text-anchor="end">{words}</g>'
    )


def _numbers(turns: int, height: int) -> str:
    """Draw the numbers of turns, from 1, below their bars."""
    every = ceil(turns / _NUMBERED) or 1
    words = "".join(
        f'<text x="{(turn - 0.5) / turns * 100:.4g}%">{turn}</text>' for turn in range(1, turns + 1, every)
    )
    return f'<g transform="translate(0 {height + 17})" text-anchor="middle">{words}</g>'


def _notes(notes: Sequence[str]) -> str:
    return "".join(
        f'<rect class="note" x="{place}" width="1" height="{HEIGHT}" fill-opacity="0" stroke="none">'
        f"<title>{escape(note)}</title></rect>"
        for place, note in enumerate(notes)
    )


def _filled(kind: str, path: str) -> str:
    return f'<path class="{kind}" d="{path}" fill="{_FILLS[kind]}"/>' if path else ""


def _outlined(kind: str, path: str) -> str:
    return f'<path class="{kind}" {_LINE} d="{path}"/>' if path else ""


def _bar(place: int, y: int) -> str:
    return f"M{10 * place + 1} {y}h8V{HEIGHT}h-8z"


def _dots(places: Sequence[tuple[int, int]], kind: str = "") -> str:
    """Draw dots that are round however they are stretched: lines of no length with round ends."""
    if not places:
        return ""
    path = "".join(f"M{x} {y}h0" for x, y in places)
    name = f"dot {kind}" if kind else "dot"
    return f'<path class="{name}" {_STEADY} d="{path}" stroke-width="6" stroke-linecap="round"/>'


HEIGHT = 200
"""The height of every plot, in its own units; small, because each point of each path is written in them."""
_STEPS = (1, 2, 5, 10)
_TICKS = 4
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """The values from the bottom of a plot to its top, and those that are written beside it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def y(self, value: float) -> int:
        """Return the place of `value`, from 0 at the top to HEIGHT."""
        return HEIGHT - round(HEIGHT * (value - self.low) / (self.high - self.low))


def axis_from_zero(most: float, least_step: float = 0) -> Axis:
    """Return the axis from 0 to `most`, or to the first tick if that is higher."""
    step = _step(most, least_step)
    number = max(1, floor(most / step + 1e-9))
    return Axis(0, max(most, step), tuple(step * index for index in range(number + 1)))


def _step(span: float, least: float) -> float:
    """Return the round number that goes about _TICKS times into `span`, and is at least `least`."""
    raw = max(span / _TICKS, least, 1e-12)
    magnitude = 10.0 ** floor(log10(raw))
    return next((f * magnitude for f in _STEPS if f * magnitude >= raw * (1 - 1e-9)), 10 * magnitude)


def steps(values: Values, axis: Axis) -> str:
    """Return the path of values that hold until the next: column i goes from i to i + 1; None is a gap."""
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
    """Return a round number for an axis: `20k`, `2.5M`."""
    for size, unit in _UNITS:
        if abs(number) >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"
