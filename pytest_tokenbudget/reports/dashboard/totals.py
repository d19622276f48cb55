"""The suite as a whole: its totals by kind and in dollars, then and now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.charts import KINDS
from pytest_tokenbudget.reports.dashboard.subjects import Subject
from pytest_tokenbudget.reports.document import TokensEntry, add
from pytest_tokenbudget.reports.page.details import by_kind
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural, points, signed

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
class _Pair:
    """A scenario then and now."""

    was: TokensEntry
    now: TokensEntry
    about: str
    runs: float | None


def totals(subjects: Sequence[Subject], then: str, *, alarmed: bool) -> Totals:
    """Like is compared with like: only what has a number then and now; `then` is what that time is called.

    Where nothing had a number then, it is all that is measured. Growth is marked as worse where the run is
    `alarmed`: any scenario is over.
    """
    pairs, scope = _pairs(subjects)
    if not pairs:
        return Totals([], [], [], scope)
    was, now = add([pair.was for pair in pairs]), add([pair.now for pair in pairs])
    about = next((pair.about for pair in pairs if pair.about), "")
    before, after = by_kind(was), by_kind(now)
    rows = [
        KindRow(NAMES[kind], charts.swatch(kind), *_cells(before[place], after[place], _of(kind, about)))
        for place, kind in enumerate(KINDS)
    ]
    rows.append(KindRow("all tokens", "", *_cells(sum(before), sum(after), about)))
    if not was["turns"]:
        rows = [replace(row, was=NONE) for row in rows]
    most = max(sum(before), sum(after))
    bars = [
        (name, charts.stack(parts, most, f"{name}: {words(parts)}"))
        for name, parts in ((then, before), ("now", after))
        if sum(parts)
    ]
    tiles = [*_token_tiles(was, now, about), *_cost_tiles(pairs)]
    return Totals(tiles if alarmed else [replace(one, worse=False) for one in tiles], rows, bars, scope)


def _pairs(subjects: Sequence[Subject]) -> tuple[list[_Pair], str]:
    """Those that can be compared, and in a sentence which they are."""
    both = [_Pair(one.was, one.now, one.about, one.runs) for one in subjects if one.was and one.now]
    number = plural(len(both), "scenario")
    if both and len(both) == len(subjects):
        return both, f"Of {number} with a number then and now."
    if both:
        left = f"not of {len(subjects) - len(both):,} that are new, stale or unknown"
        return both, f"Of {number} with a number then and now, {left}."
    new = [_Pair(add([]), one.now, one.about, one.runs) for one in subjects if one.now]
    if new:
        return new, f"Of {plural(len(new), 'scenario')} without a baseline to compare with."
    return [], "No scenario has a number that could be added up."


def _of(kind: str, about: str) -> str:
    """Output is what the recording answered, never an estimate."""
    return "" if kind == "output" else about


def _cells(was: int, now: int, about: str) -> tuple[str, str, str]:
    return count(was), about + count(now), _growth(was, now, about)


def _growth(was: float, now: float, about: str) -> str:
    if was == now:
        return "no change"
    if not was:
        return "new"
    return about + signed(now - was, percent(now / was - 1))


def words(parts: Sequence[int]) -> str:
    """`1,200 read from cache, ...`, of parts in the order of `charts.KINDS`."""
    return ", ".join(f"{count(part)} {NAMES[kind]}" for kind, part in zip(KINDS, parts, strict=True))


def _token_tiles(was: TokensEntry, now: TokensEntry, about: str) -> list[Tile]:
    tokens = [
        _tile("Prompt tokens", was["prompt_tokens"], now["prompt_tokens"], count, about),
        _tile("Output tokens", was["output_tokens"], now["output_tokens"], count, ""),
    ]
    before, after = cache_share(was), cache_share(now)
    if before is None or after is None:
        return [*tokens, Tile("Cache share", NONE if after is None else about + percent(after), "")]
    change = "no change" if before == after else about + points(after - before)
    return [
        *tokens,
        Tile("Cache share", about + percent(after), change, f"was {percent(before)}", after < before),
    ]


def _tile(name: str, was: float, now: float, shown: Callable[[float], str], about: str) -> Tile:
    note = f"was {shown(was)}" if was else ""
    return Tile(name, about + shown(now), _growth(was, now, about), note, now > was > 0)


def cache_share(tokens: TokensEntry) -> float | None:
    """None where there is no prompt."""
    prompt = tokens["prompt_tokens"]
    return tokens["cache_read_input_tokens"] / prompt if prompt else None


def _cost_tiles(pairs: Sequence[_Pair]) -> list[Tile]:
    """Dollars a run, and a month as far as anybody said how often."""
    tiles = [_cost_tile("Cost a run", [(pair, 1) for pair in pairs])]
    told = [(pair, pair.runs) for pair in pairs if pair.runs is not None]
    if told:
        silent = len(pairs) - len(told)
        without = f"without {silent:,} of which nobody said how often" if silent else ""
        tiles.append(_noted(_cost_tile("Cost a month", told), without))
    return tiles


def _cost_tile(name: str, pairs: Sequence[tuple[_Pair, float]]) -> Tile:
    was = now = 0.0
    about, unpriced = "", 0
    for pair, times in pairs:
        before, after = pair.was["cost_usd"], pair.now["cost_usd"]
        if before is None or after is None:
            unpriced += 1
            continue
        was, now, about = was + before * times, now + after * times, about or pair.about
    if unpriced == len(pairs):
        return Tile(name, UNKNOWN, "")
    tile = _tile(name, round(was, 10), round(now, 10), money, about)
    return _noted(tile, f"without {unpriced:,} of unknown cost" if unpriced else "")


def _noted(tile: Tile, note: str) -> Tile:
    return replace(tile, note=", ".join(filter(None, (tile.note, note))))
