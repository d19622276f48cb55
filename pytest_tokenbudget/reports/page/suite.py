"""The suite as a whole: its totals by kind and in dollars, and how they went over the commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_tokenbudget.reports import charts
from pytest_tokenbudget.reports.axes import axis_from_zero, compact
from pytest_tokenbudget.reports.charts import KINDS
from pytest_tokenbudget.reports.document import Count, TokensEntry, add
from pytest_tokenbudget.reports.history import History, suite
from pytest_tokenbudget.reports.numbers import (
    NONE,
    UNKNOWN,
    count,
    money,
    percent,
    plural,
    points,
    signed,
)
from pytest_tokenbudget.reports.page.details import by_kind
from pytest_tokenbudget.reports.page.subjects import Past, Subject

NAMES = {
    "read": "read from cache",
    "written": "written to cache",
    "uncached": "uncached",
    "output": "output",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that matters, and what is to be known of it."""

    name: str
    value: str
    change: str
    note: str = ""
    worse: bool = False


@dataclass(frozen=True, slots=True)
class KindRow:
    """One kind of tokens, then and now; a sum has no swatch."""

    name: str
    swatch: str
    was: str
    now: str
    change: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What the scenarios that can be compared add up to."""

    tiles: Sequence[Tile]
    kinds: Sequence[KindRow]
    bars: Sequence[tuple[str, str]]
    """Label and stacked bar: then, and now."""
    scope: str
    """Which scenarios they are of."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart under its title."""

    title: str
    svg: str
    note: str = ""


def totals(subjects: Sequence[Subject], then: str, *, alarmed: bool) -> Totals:
    """Like is compared with like: only what has a number then and now; `then` is what that time is called.

    Growth is marked as worse where the run is `alarmed`: any scenario is over.
    """
    both = [(one.was, one.now) for one in subjects if one.was is not None and one.now is not None]
    was, now = add([was for was, _ in both]), add([now for _, now in both])
    about = "~" if any(one.about for one in subjects if one.was and one.now) else ""
    before, after = by_kind(was), by_kind(now)
    rows = [
        KindRow(
            NAMES[kind],
            charts.swatch(kind),
            *_cells(before[place], after[place], "" if kind == "output" else about),
        )
        for place, kind in enumerate(KINDS)
    ]
    rows.append(KindRow("all tokens", "", *_cells(sum(before), sum(after), about)))
    most = max(sum(before), sum(after))
    bars = [
        (name, charts.stack(parts, most, f"{name}: {_words(parts)}"))
        for name, parts in ((then, before), ("now", after))
    ]
    scope = f"Of {plural(len(both), 'scenario')} with a number then and now"
    if len(both) < len(subjects):
        scope += f", not of {len(subjects) - len(both):,} that are new, stale or unknown"
    tiles = [*_token_tiles(was, now, about), *_cost_tiles(subjects)]
    if not alarmed:
        tiles = [replace(tile, worse=False) for tile in tiles]
    return Totals(tiles, rows, bars, f"{scope}.")


def _cells(was: int, now: int, about: str) -> tuple[str, str, str]:
    return count(was), about + count(now), _growth(was, now, about)


def _growth(was: float, now: float, about: str) -> str:
    if was == now:
        return "no change"
    if not was:
        return "new"
    return about + signed(now - was, percent(now / was - 1))


def _words(parts: Sequence[int]) -> str:
    return ", ".join(f"{count(part)} {NAMES[kind]}" for kind, part in zip(KINDS, parts, strict=True))


def _token_tiles(was: TokensEntry, now: TokensEntry, about: str) -> list[Tile]:
    tiles = []
    shown: tuple[tuple[str, Count], ...] = (
        ("Prompt tokens", "prompt_tokens"),
        ("Output tokens", "output_tokens"),
    )
    for name, key in shown:
        before, after, mark = was[key], now[key], about if key == "prompt_tokens" else ""
        change, note = _growth(before, after, mark), f"was {count(before)}"
        tiles.append(Tile(name, mark + count(after), change, note, after > before))
    return [*tiles, _share_tile(_share(was), _share(now), about)]


def _share_tile(was: float | None, now: float | None, about: str) -> Tile:
    if was is None or now is None:
        return Tile("Cache share", NONE if now is None else about + percent(now), "")
    change = "no change" if was == now else about + points(now - was)
    return Tile("Cache share", about + percent(now), change, f"was {percent(was)}", now < was)


def _share(tokens: TokensEntry) -> float | None:
    prompt = tokens["prompt_tokens"]
    return tokens["cache_read_input_tokens"] / prompt if prompt else None


def _cost_tiles(subjects: Sequence[Subject]) -> list[Tile]:
    """Dollars a run, and a month as far as anybody said how often."""
    compared = [one for one in subjects if one.was is not None and one.now is not None]
    tiles = [_cost_tile("Cost a run", compared, [1.0] * len(compared))]
    if any(one.runs is not None for one in subjects):
        told = [one for one in compared if one.runs is not None]
        tiles.append(_cost_tile("Cost a month", told, [one.runs or 0.0 for one in told]))
    return tiles


def _cost_tile(name: str, subjects: Sequence[Subject], runs: Sequence[float]) -> Tile:
    was = now = 0.0
    about, unpriced = "", 0
    for one, times in zip(subjects, runs, strict=True):
        if one.cost_change is None or one.was is None or one.now is None:
            unpriced += 1
            continue
        was += (one.was["cost_usd"] or 0) * times
        now += (one.now["cost_usd"] or 0) * times
        about = about or one.about
    if unpriced == len(subjects):
        return Tile(name, UNKNOWN, "")
    was, now = round(was, 10), round(now, 10)
    note = f"was {money(was)}"
    if unpriced:
        note += f", without {unpriced:,} of unknown cost"
    return Tile(name, about + money(now), _growth(was, now, about), note, now > was)


def figures(history: History, past: Past) -> list[Figure]:
    """Tokens by kind, dollars and the cache share of all baselines, commit by commit."""
    sums = suite(history)
    ends = past.date(0), past.date(-1)
    costs = [one["cost_usd"] for one in sums]
    shares = [_share(one) for one in sums]

    def notes(texts: Sequence[str]) -> list[str]:
        return [
            f"{past.commit(place)} {past.date(place)} {past.subject(place)}: {text}"
            for place, text in enumerate(texts)
        ]

    tokens = charts.stacked_trend(
        [by_kind(one) for one in sums],
        f"All baselines by kind: first {_words(by_kind(sums[0]))}; last {_words(by_kind(sums[-1]))}",
        compact,
        ends,
        notes=notes([_words(by_kind(one)) for one in sums]),
        height=220,
    )
    priced = [UNKNOWN if cost is None else money(cost) for cost in costs]
    cost = charts.trend(
        costs,
        axis_from_zero(max((cost for cost in costs if cost is not None), default=0)),
        f"Cost a run of all baselines: first {priced[0]}, last {priced[-1]}",
        money,
        ends,
        notes=notes(priced),
        height=84,
    )
    told = [NONE if part is None else percent(part) for part in shares]
    share = charts.trend(
        shares,
        axis_from_zero(1),
        f"Cache share of all baselines: first {told[0]}, last {told[-1]}",
        lambda part: percent(part, 0),
        ends,
        notes=notes(told),
        height=84,
    )
    gap = "A gap: a price is unknown there." if None in costs else ""
    return [
        Figure("Tokens a run, by kind", tokens, "A scenario that is added adds its tokens."),
        Figure("Cost a run", cost, gap),
        Figure("Cache share", share),
    ]
