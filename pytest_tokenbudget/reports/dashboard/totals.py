"""Show the suite as a whole: its totals, where the money goes, and both over the commits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_tokenbudget.reports import scenario_view
from pytest_tokenbudget.reports.advice_report import LeverEntry, advice, outliers, overlap
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.charts import KINDS, Axis, Shown, axis_from_zero, compact
from pytest_tokenbudget.reports.dashboard.scenarios import Past, Subject, by_kind
from pytest_tokenbudget.reports.document import Document, RateEntry, TokensEntry, add
from pytest_tokenbudget.reports.history import History, Step, steps, suite
from pytest_tokenbudget.reports.text import crop, plain
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural, points, signed

NAMES = {
    "read": "read from cache",
    "written": "written to cache",
    "uncached": "uncached",
    "output": "output",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that matters, its change, and a note on it."""

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
    """The sums of the scenarios that can be compared."""

    tiles: Sequence[Tile]
    kinds: Sequence[KindRow]
    bars: Sequence[tuple[str, str]]
    """Label and stacked bar: then, and now."""
    scope: str
    """A sentence that says which scenarios these are."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A scenario then and now."""

    was: TokensEntry
    now: TokensEntry
    about: str
    runs: float | None


def totals(subjects: Sequence[Subject], then: str, *, alarmed: bool) -> Totals:
    """Return the totals of the scenarios that have a number both then and now; `then` names that time.

    Where nothing had a number then, they are of all that is measured. Growth is marked as worse if the run is
    `alarmed`: if any scenario is over.
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
    """Return the scenarios that can be compared, and a sentence that says which they are."""
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
    """Return `about`, but nothing for output: that is what the recording answered, never an estimate."""
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
    """Return `parts` in words: `1,200 read from cache, ...`; they are in the order of `charts.KINDS`."""
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
    """Return the part of the prompt that was read from the cache, or None if there is no prompt."""
    prompt = tokens["prompt_tokens"]
    return tokens["cache_read_input_tokens"] / prompt if prompt else None


def _cost_tiles(pairs: Sequence[_Pair]) -> list[Tile]:
    """Return tiles of the dollars a run, and a month for those whose runs a month are known."""
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


_DEAREST, _LEVERS, _FOLDERS = 10, 10, 20


@dataclass(frozen=True, slots=True)
class FolderRow:
    """The totals of the scenarios of one folder, or of one file of the only folder, in a run."""

    name: str
    cells: Sequence[str]


FOLDER_HEADERS = ("Scenarios", "Prompt tokens", "Change", "Cost a run", "Cost a month", "Of the spend")


def folders(subjects: Sequence[Subject]) -> list[FolderRow]:
    """Return the totals of folders, the dearest first, or of files if all are in one; none of one alone."""
    groups: dict[str, list[Subject]] = defaultdict(list)
    for one in subjects:
        groups[plain(one.id.partition("::")[0])].append(one)
    if len({file.rpartition("/")[0] for file in groups}) > 1:
        by_file, groups = groups, defaultdict(list)
        for file, own in by_file.items():
            groups[file.rpartition("/")[0] or "."] += own
    if len(groups) < 2:
        return []
    sums = {name: add([one.now for one in own if one.now is not None]) for name, own in groups.items()}
    spent = sum(total["cost_usd"] or 0.0 for total in sums.values())
    ordered = sorted(groups, key=lambda name: (-(sums[name]["cost_usd"] or 0.0), name))
    return [_folder(name, groups[name], sums[name], spent) for name in ordered[:_FOLDERS]]


def _folder(name: str, own: Sequence[Subject], total: TokensEntry, spent: float) -> FolderRow:
    pairs = [(one.was["prompt_tokens"], one.now["prompt_tokens"]) for one in own if one.was and one.now]
    was, now = sum(before for before, _ in pairs), sum(after for _, after in pairs)
    cost, about = total["cost_usd"], next((one.about for one in own if one.about), "")
    months = [None if cost is None or one.runs is None else _monthly(one, one.runs) for one in own if one.now]
    known = [month for month in months if month is not None]
    cells = (
        count(len(own)),
        about + count(total["prompt_tokens"]),
        _growth(was, now, about) if pairs else NONE,
        UNKNOWN if cost is None else about + money(cost),
        about + money(sum(known)) if known and len(known) == len(months) else NONE,
        percent(cost / spent) if cost is not None and spent else NONE,
    )
    return FolderRow(name, cells)


def _monthly(one: Subject, runs: float) -> float:
    return (one.now["cost_usd"] or 0.0) * runs if one.now else 0.0


@dataclass(frozen=True, slots=True)
class Makeup:
    """What a run of everything is made of: parts of the context, and the tools that take most."""

    parts: Sequence[Sequence[str]] = ()
    """One row a part: name, tokens, dollars and share of the bill."""
    tools: Sequence[Sequence[str]] = ()
    """The same rows for tool definitions: one for those of a server, and each of them below it."""
    hidden: int = 0
    """How many tools are not among the rows."""
    unpriced: int = 0
    """How many scenarios are left out because a price is missing."""


_TOOLS = 40


def makeup(document: Document) -> Makeup:
    """Return the parts of the bill of all scenarios with prices; empty if the document does not say them."""
    known = [one["context"] for one in document["scenarios"] if "context" in one]
    contexts = [context for context in known if None not in (part["cost_usd"] for part in context["parts"])]
    parts: dict[str, Spent] = {}
    tools: dict[tuple[str, str], Spent] = {}
    for part in (part for context in contexts for part in context["parts"]):
        name = plain(part["part"])
        parts[name] = parts.get(name, Spent()).plus(part["tokens"], part["cost_usd"])
    for tool in (tool for context in contexts for tool in context["tools"]):
        key = (plain(tool["server"]), plain(tool["name"]))
        tools[key] = tools.get(key, Spent()).plus(tool["tokens"], tool["cost_usd"])
    bill = sum(spent.dollars or 0.0 for spent in parts.values())
    servers: dict[str, Spent] = {}
    for (server, _), spent in tools.items():
        servers[server] = servers.get(server, Spent()).plus(spent.tokens, spent.dollars)

    def order(key: tuple[str, str]) -> tuple[bool, int, str, int, str]:
        server, name = key
        return not server, -servers[server].tokens, server, -tools[key].tokens, name

    ordered = sorted(tools, key=order)
    rows: list[Sequence[str]] = []
    for index, (server, name) in enumerate(ordered[:_TOOLS]):
        if server and (index == 0 or ordered[index - 1][0] != server):
            number = sum(key[0] == server for key in tools)
            rows.append(servers[server].row(f"{server}: {plural(number, 'tool')}", bill))
        rows.append(tools[server, name].row(f"{server}/{name}" if server else name, bill))
    return Makeup(
        [spent.row(name, bill) for name, spent in parts.items() if spent.tokens],
        rows,
        max(0, len(ordered) - _TOOLS),
        len(known) - len(contexts),
    )


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens and dollars a run; the dollars are None as soon as those of a part are."""

    tokens: int = 0
    dollars: float | None = 0.0

    def plus(self, tokens: int, dollars: float | None) -> Spent:
        """Return the sum with more tokens and dollars; its dollars are None if either are."""
        known = self.dollars is not None and dollars is not None
        return Spent(self.tokens + tokens, (self.dollars or 0.0) + (dollars or 0.0) if known else None)

    def row(self, name: str, bill: float) -> Sequence[str]:
        """Return the cells of a row; `bill` is the dollars that the share is of."""
        if self.dollars is None:
            return (name, count(self.tokens), UNKNOWN, NONE)
        share = percent(self.dollars / bill) if bill else NONE
        return (name, count(self.tokens), money(self.dollars), share)


@dataclass(frozen=True, slots=True)
class SuiteMove:
    """A commit that moved the suite; addresses only where the remote is known."""

    date: str
    commit: str
    subject: str
    address: str
    pull_request: str
    pull_address: str
    cells: Sequence[str]


MOVE_HEADERS = ("Baselines", "Prompt tokens", "Cost a run", "Cost a month")


def moves(history: History, runs: float | None) -> list[SuiteMove]:
    """Return the commits that moved most dollars, the newest first."""
    web = history.get("web")
    web = web if web and _WEB.fullmatch(web) else None
    return [_suite_move(step, web, runs) for step in steps(history, _MOVES)]


_MOVES, _SUBJECT_COLUMNS = 12, 80
_WEB = re.compile(r"https://[\w.-]+/[\w.-]+/[\w.-]+", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{40,64}")


def _suite_move(step: Step, web: str | None, runs: float | None) -> SuiteMove:
    commit, number, dollars = step.commit["commit"], step.pull_request, step.dollars
    cells = [step.scenarios, signed(step.tokens, count(step.tokens)), UNKNOWN, UNKNOWN if runs else NONE]
    if dollars is not None:
        cells[2] = signed(dollars, money(dollars))
        cells[3] = signed(dollars, money(dollars * runs)) if runs else NONE
    return SuiteMove(
        date=plain(step.commit["date"][:10]),
        commit=plain(commit[:7]),
        subject=crop(plain(step.commit["subject"]).removesuffix(f" (#{number})"), _SUBJECT_COLUMNS),
        address=f"{web}/commit/{commit}" if web and _HASH.fullmatch(commit) else "",
        pull_request=f"#{number}" if number is not None else "",
        pull_address=f"{web}/pull/{number}" if web and number is not None else "",
        cells=cells,
    )


@dataclass(frozen=True, slots=True)
class Spender:
    """A scenario and its part of the spend."""

    name: str
    anchor: str
    cost: str
    share: str
    together: str
    """The share of all scenarios from the dearest down to this one."""
    picture: str
    outlier: bool


@dataclass(frozen=True, slots=True)
class Spend:
    """The dearest scenarios, and in a sentence how the spend is spread."""

    sentence: str
    dearest: Sequence[Spender]
    others: Spender | None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """The tokens and dollars of one model, or one rate of it, in a run of everything."""

    name: str
    cells: Sequence[str]
    picture: str


@dataclass(frozen=True, slots=True)
class Lever:
    """One way to spend less."""

    saving: str
    text: str
    facts: str


@dataclass(frozen=True, slots=True)
class Savings:
    """What would be cheaper."""

    levers: Sequence[Lever] = ()
    note: str = ""
    """What to know if the savings overlap; else nothing."""


MODEL_HEADERS = ("Uncached", "Written", "Read", "Output", "Cache share", "Cost a run", "Of the spend")


def spend(subjects: Sequence[Subject]) -> Spend:
    """Return the spend of all scenarios whose cost is known."""
    costs = {one.id: one.now["cost_usd"] for one in subjects if one.now is not None}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    total = sum(known.values())
    far = {one["id"] for one in outliers(costs)}
    by_id = {one.id: one for one in subjects}
    ordered = sorted(known, key=lambda name: (-known[name], name))
    dearest, summed = [], 0.0
    for name in ordered[:_DEAREST]:
        summed += known[name]
        one = by_id[name]
        dearest.append(_spender(one.name, one.anchor, known[name], total, summed, name in far))
    left = ordered[_DEAREST:]
    others = None
    if left:
        rest = sum(known[name] for name in left)
        others = _spender(f"{len(left):,} others", "", rest, total, total, False)
    return Spend(_spread(known, ordered, total, len(subjects), len(far)), dearest, others)


def _spender(name: str, anchor: str, cost: float, total: float, summed: float, outlier: bool) -> Spender:
    part, together = (cost / total, summed / total) if total else (0.0, 0.0)
    return Spender(name, anchor, money(cost), percent(part), percent(together), charts.share(part), outlier)


def _spread(
    known: Mapping[str, float], ordered: Sequence[str], total: float, number: int, outlying: int
) -> str:
    """Return how the spend is spread: `7 of 500 scenarios hold 50.3% of the $0.71 that a run costs; ...`."""
    if not known:
        return f"The cost of {plural(number, 'scenario')} is unknown." if number else ""
    if not total:
        return "A run costs nothing."
    half, summed = 0, 0.0
    for name in ordered:
        half, summed = half + 1, summed + known[name]
        if summed >= total / 2:
            break
    verb = "holds" if half == 1 else "hold"
    share, of = percent(summed / total), plural(len(known), "scenario")
    parts = [f"{half:,} of {of} {verb} {share} of the {money(total)} that a run costs"]
    if outlying:
        parts.append(f"{outlying:,} {'costs' if outlying == 1 else 'cost'} far more than the others")
    if len(known) < number:
        parts.append(f"the cost of {number - len(known):,} is unknown")
    return "; ".join(parts) + "."


def models(subjects: Sequence[Subject]) -> list[ModelRow]:
    """Return a row for each rate, by its cost, unknown ones first."""
    total = add([one.now for one in subjects if one.now is not None])
    rates = total["models"]
    spent = sum(rate["cost_usd"] or 0 for rate in rates.values())
    most = max((rate["prompt_tokens"] + rate["output_tokens"] for rate in rates.values()), default=0)

    def order(name: str) -> tuple[bool, float, str]:
        cost = rates[name]["cost_usd"]
        return cost is not None, -(cost or 0), name

    return [_model(name, rates[name], spent, most) for name in sorted(rates, key=order)]


def _model(name: str, rate: RateEntry, spent: float, most: int) -> ModelRow:
    prompt, cost = rate["prompt_tokens"], rate["cost_usd"]
    read, written = rate["cache_read_input_tokens"], rate["cache_creation_input_tokens"]
    uncached, output = rate["input_tokens"], rate["output_tokens"]
    hour = rate["cache_creation"]["ephemeral_1h_input_tokens"]
    cells = (
        count(uncached),
        count(written) + (f" ({count(hour)} for 1 h)" if hour else ""),
        count(read),
        count(output),
        percent(read / prompt) if prompt else NONE,
        UNKNOWN if cost is None else money(cost),
        NONE if cost is None or not spent else percent(cost / spent),
    )
    label = f"{plain(name)}: {count(prompt)} prompt tokens, {count(output)} output tokens"
    picture = charts.stack((read, written, uncached, output), most, label)
    return ModelRow(plain(name), cells, picture)


def savings(document: Document, runs_per_month: float | None) -> Savings:
    """Return what would be cheaper, the largest saving first."""
    found = advice(document, runs_per_month)
    return Savings([_lever(one) for one in found["levers"][:_LEVERS]], overlap(found))


def _lever(lever: LeverEntry) -> Lever:
    cost, where, names = lever["cost_usd"], plain(lever["where"]), lever["scenarios"]
    text = plain(lever["text"])
    if cost is None:
        saving = f"saving {UNKNOWN}"
    else:
        saving = f"{signed(cost, money(cost))} a run"
        if (month := lever["cost_usd_a_month"]) is not None:
            saving += f", {signed(month, money(month))} a month"
    shown = scenario_view.short_ids(names)[0] if names else NONE
    others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return Lever(saving, text if not where or where in text else f"{where}: {text}", f"in {shown}{others}")


_TALL, _LOW = 220, 84
_CENT = 0.01
"""Dollars at the top of the axis, where all costs nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart under its title."""

    title: str
    svg: str
    """The chart; empty if nothing is known."""
    note: str = ""


def figures(history: History, past: Past) -> list[Figure]:
    """Return the three charts over the commits: tokens, cost and cache share."""
    sums = suite(history)
    return [
        _tokens([by_kind(one) for one in sums], past),
        _costs([one["cost_usd"] for one in sums], past),
        _line("Cache share", [cache_share(one) for one in sums], axis_from_zero(1), _percent, past),
    ]


def _costs(costs: Sequence[float | None], past: Past) -> Figure:
    known = [cost for cost in costs if cost is not None]
    if not known:
        return Figure("Cost a run", "", "Unknown: of every commit a price is missing.")
    gap = "A gap: a price is unknown there." if None in costs else ""
    return _line("Cost a run", costs, axis_from_zero(max(known) or _CENT), money, past, gap)


def _tokens(columns: Sequence[Sequence[int]], past: Past) -> Figure:
    told = [words(parts) for parts in columns]
    label = f"Tokens of all baselines: first {told[0]}; last {told[-1]}"
    svg = charts.stacked_trend(columns, label, compact, _ends(past), notes=_notes(told, past), height=_TALL)
    return Figure("Tokens a run, by kind", svg, "A scenario that is added adds its tokens.")


def _line(
    title: str, values: Sequence[float | None], axis: Axis, shown: Shown, past: Past, note: str = ""
) -> Figure:
    told = [UNKNOWN if value is None else shown(value) for value in values]
    label = f"{title} of all baselines: first {told[0]}, last {told[-1]}"
    svg = charts.trend(values, axis, label, shown, _ends(past), notes=_notes(told, past), height=_LOW)
    return Figure(title, svg, note)


def _percent(part: float) -> str:
    return percent(part, 0)


def _ends(past: Past) -> tuple[str, str]:
    return past.date(0), past.date(-1)


def _notes(told: Sequence[str], past: Past) -> list[str]:
    """Return what is said of each commit when it is pointed at."""
    return [
        f"{past.commit(place)} {past.date(place)} {past.subject(place)}: {text}"
        for place, text in enumerate(told)
    ]
