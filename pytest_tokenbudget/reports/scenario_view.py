"""Choose what every report shows of a scenario: its place among others, its rows, its turns, its way out.

A verdict is resolved by one command, or by hand. A verdict of a newer version, which is not known, is shown
by its name and counts as failing.
"""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import commonprefix

from pytest_tokenbudget.budget.baselines import UPDATE as UPDATE_COMMAND
from pytest_tokenbudget.model import BY_HAND, Basis, FindingKind, ScenarioId, Verdict
from pytest_tokenbudget.reports.document import (
    Count,
    FindingEntry,
    FormerlyEntry,
    LimitEntry,
    ScenarioEntry,
    StartsEntry,
    TokensEntry,
    TurnEntry,
    is_known,
    is_measured,
)
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.wording import (
    NONE,
    UNKNOWN,
    apart,
    cents,
    count,
    money,
    percent,
    plural,
    points,
    signed,
)

_NAMED = 3
"""How many tests one way out names."""


def fails(scenario: ScenarioEntry) -> bool:
    """Return whether the scenario fails its test; a verdict that is not known does."""
    return verdict_fails(scenario["verdict"])


def verdict_fails(verdict: str) -> bool:
    """Return whether `verdict` fails a test; one that is not known does."""
    return not is_known(verdict) or Verdict(verdict).fails


def rank(verdict: str) -> int:
    """Return the place of `verdict` in the order of verdicts, the worst first.

    An unknown one comes after those that are known to fail, at the place of `improved`.
    """
    order = [*map(str, Verdict)]
    return order.index(verdict) if is_known(verdict) else order.index(Verdict.IMPROVED)


def worst_first(scenarios: Iterable[ScenarioEntry]) -> list[ScenarioEntry]:
    """Sort scenarios by verdict, then by dollars added a run (unknown ones first), largest change, id."""

    def key(scenario: ScenarioEntry) -> tuple[int, float, float, str]:
        added = cost_change(scenario)
        changes = [abs(limit["change"] or 0) for limit in scenario["limits"] if limit["over"]]
        dollars = float("-inf") if added is None else -added
        return rank(scenario["verdict"]), dollars, -max(changes, default=0), scenario["id"]

    return sorted(scenarios, key=key)


def is_comparable(scenario: ScenarioEntry) -> bool:
    """Return whether the scenario has a baseline and a measurement that answer the same question."""
    return scenario["baseline"] is not None and is_measured(scenario)


def changed(scenario: ScenarioEntry) -> bool:
    """Return whether anything differs from the baseline."""
    return scenario["measured"] != scenario["baseline"]


def is_news(scenario: ScenarioEntry) -> bool:
    """Return whether there is anything to say of the scenario."""
    return scenario["verdict"] != "within" or changed(scenario)


def short_names(scenarios: Sequence[ScenarioEntry]) -> list[str]:
    """Return the ids of scenarios as `short_ids` shows them."""
    return short_ids([one["id"] for one in scenarios])


def short_ids(ids: Sequence[str]) -> list[str]:
    """Return ids in printable form, without the folders, or the file, that all of them share."""
    names = list(map(plain, ids))
    files = {name.partition("::")[0] for name in names}
    if len(files) == 1:
        return [name.partition("::")[2] or name for name in names]
    shared = commonprefix(list(files))
    return [name[shared.rfind("/") + 1 :] for name in names]


def exceeded(scenario: ScenarioEntry) -> list[LimitEntry]:
    """Return the limits and caps that the scenario is past."""
    return [limit for limit in scenario["limits"] if limit["over"]]


METRICS = {
    "prompt_tokens": "prompt tokens",
    "output_tokens": "output tokens",
    "turns": "turns",
    "cache_share": "cache share",
    "cost_usd": "cost",
    "max_prompt_tokens": "max prompt tokens",
    "max_output_tokens": "max output tokens",
    "max_total_tokens": "max total tokens",
    "max_turns": "max turns",
    "max_cost_usd": "max cost",
}


def metric_name(metric: str) -> str:
    """Return a metric in words; one of a newer version by its own name."""
    return METRICS.get(metric, metric.replace("_", " "))


_OF_THE_ANSWER = {"output_tokens", "turns", "max_output_tokens", "max_turns"}
"""Metrics that a replay takes from the recorded answers: never estimated, never unknown."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one scenario, as it is printed."""

    metric: str
    baseline: str
    now: str
    change: str
    limit: str

    def __str__(self) -> str:
        moved = self.now if self.baseline == NONE else f"{self.baseline} → {self.now}"
        change = "" if self.change == NONE else f" ({self.change})"
        return f"{self.metric}: {moved}{change}, limit {self.limit}"


def cost_change(scenario: ScenarioEntry) -> float | None:
    """Return the dollars a run more than the baseline, or all of them without one; None if unknown."""
    measured, baseline = scenario["measured"], scenario["baseline"]
    if measured is None or measured["cost_usd"] is None or not is_measured(scenario):
        return None
    if baseline is None:
        return measured["cost_usd"]
    return None if baseline["cost_usd"] is None else measured["cost_usd"] - baseline["cost_usd"]


def is_cheaper(scenario: ScenarioEntry) -> bool:
    """Return whether a run is known to cost less than the baseline, both from the same start."""
    return any(change < 0 for change in _changes_of_cost(scenario))


def is_dearer(scenario: ScenarioEntry) -> bool:
    """Return whether a run is known to cost more than the baseline, both from the same start."""
    return any(change > 0 for change in _changes_of_cost(scenario))


def _changes_of_cost(scenario: ScenarioEntry) -> list[float]:
    """Return the relative change of the cost, if it is known."""
    return [limit["change"] or 0.0 for limit in scenario["limits"] if limit["metric"] == "cost_usd"]


def cost_cell(scenario: ScenarioEntry, runs: float = 1) -> str:
    """Return the cost of the change in `runs` runs, `+$0.0094`; without a baseline, that of the scenario."""
    if is_departed(scenario):
        return NONE
    change = cost_change(scenario)
    if change is None:
        return UNKNOWN
    shown = money(change * runs)
    if scenario["baseline"] is not None:
        shown = signed(change, shown) if change else f"+{shown}"  # a bare $0.00 would be what it costs
    return approximate(scenario) + shown


def is_departed(scenario: ScenarioEntry) -> bool:
    """Return whether the scenario asks something else than was recorded, or has no recording."""
    return scenario["verdict"] in (Verdict.STALE, Verdict.UNRECORDED)


def approximate(scenario: ScenarioEntry) -> str:
    """Return `~` if the prompt's numbers are estimated, `≥` if a part of them is unknown, else nothing."""
    return {"estimated": "~", "unknown": "≥"}.get(scenario["basis"], "")


def tilde(scenarios: Iterable[ScenarioEntry]) -> str:
    """Return `~` if the prompt of any scenario is estimated, else nothing."""
    return "~" if any(one["basis"] == "estimated" for one in scenarios) else ""


def dollars_of(sides: Iterable[TokensEntry | None]) -> float:
    """Return the sum of the dollars that are known."""
    return sum(side["cost_usd"] or 0.0 for side in sides if side is not None)


def unpriced(scenario: ScenarioEntry) -> bool:
    """Return whether a price is missing, now or in the baseline."""
    sides = (scenario["baseline"], scenario["measured"])
    return any(side is not None and side["cost_usd"] is None for side in sides)


def rows(scenario: ScenarioEntry) -> list[Row]:
    """Return the rows of a scenario: what is over, else the one number that its verdict is about."""
    limits, verdict = scenario["limits"], scenario["verdict"]
    if verdict == "over":
        about = [limit for limit in limits if limit["over"]]
    elif verdict == "improved":
        about = sorted(limits, key=_growth)[:1]
    else:
        about = [limit for limit in limits if limit["metric"] == "prompt_tokens"]
    return [row(limit, scenario) for limit in about] or [_prompt(scenario)]


def _prompt(scenario: ScenarioEntry) -> Row:
    """Return a row of the prompt tokens of a scenario without limits.

    If it is stale or unrecorded, its verdict stands in the place of the number.
    """
    baseline, measured = scenario["baseline"], scenario["measured"]
    was = "new" if baseline is None else count(baseline["prompt_tokens"])
    now = UNKNOWN if measured is None else approximate(scenario) + count(measured["prompt_tokens"])
    now = scenario["verdict"] if is_departed(scenario) else now
    return Row(METRICS["prompt_tokens"], was, now, NONE, NONE)


def row(limit: LimitEntry, scenario: ScenarioEntry) -> Row:
    """Return one limit as it is printed, with decimals enough to tell measured from allowed."""
    name, was, now, most = limit["metric"], limit["baseline"], limit["measured"], limit["limit"]
    about = "" if name in _OF_THE_ANSWER or now is None else approximate(scenario)
    shown: Callable[[float, int], str]
    if name == "cache_share":
        shown, scale, digits = percent, 100, 1
    elif name.endswith("cost_usd"):
        shown, scale, digits = (
            money,
            1,
            max(cents(number) for number in (was, now, most) if number is not None),
        )
    else:
        shown, scale, digits = count, 1, 0
    if now is not None:
        digits = apart(now * scale, most * scale, digits)
    return Row(
        metric=metric_name(name),
        baseline=NONE if was is None else shown(was, digits),
        now=UNKNOWN if now is None else about + shown(now, digits),
        change=_change(limit, about),
        limit=shown(most, digits),
    )


def _change(limit: LimitEntry, about: str) -> str:
    change = limit["change"]
    if change is None:
        return NONE
    return about + (points(change) if limit["metric"] == "cache_share" else signed(change, percent(change)))


def _growth(limit: LimitEntry) -> float:
    change = limit["change"] or 0.0
    return -change if limit["metric"] == "cache_share" else change


_TOKENS_ARE, _ANSWERED_BY = "tokens are", "answered by"
_WORDS = ("model", _TOKENS_ARE, _ANSWERED_BY)
_BASES = {"recorded": "as recorded", "counted": "counted offline", "estimated": "estimated"}
_PAIRED = {
    "exact": "the same request",
    "lineage": "the same conversation",
    "similar": "the most similar request",
    "order": "the next in order",
}


@dataclass(frozen=True, slots=True)
class TurnTable:
    """Cells under headers; what is the same in every row is no column but one of the `facts`."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    facts: tuple[str, ...]
    hidden: int = 0
    """How many turns are not among the rows."""

    @property
    def numbers(self) -> list[bool]:
        """Which columns hold numbers."""
        return [header not in _WORDS for header in self.headers]

    def without(self, header: str) -> TurnTable:
        """Return the same table without the column under `header`."""
        kept = [index for index, name in enumerate(self.headers) if name != header]
        cut = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return TurnTable(tuple(self.headers[index] for index in kept), cut, self.facts, self.hidden)


def turn_table(scenario: ScenarioEntry, most: int | None = None) -> TurnTable:
    """Return the turns that changed (all if none did), at most `most`; every turn if `most` is None.

    Turns are counted from 1. `was` and `change` are about the prompt, or about what is read from the cache if
    only that is past its limit.
    """
    turns = scenario["turns"]
    shown = turns
    if most is not None:
        shown = [turn for turn in turns if turn["tokens"] != turn["recorded"]] or turns
        shown = shown[:most]
    exceeded = {limit["metric"] for limit in scenario["limits"] if limit["over"]}
    about_reads = "cache_share" in exceeded and "prompt_tokens" not in exceeded
    subject: Count = "cache_read_input_tokens" if about_reads else "prompt_tokens"
    was = "read was" if about_reads else "was"
    headers = ("turn", *_WORDS, "prompt", "written", "read", "output", was, "change")
    table = TurnTable(headers, tuple(_cells(turn, subject) for turn in shown), (), len(turns) - len(shown))
    return _without_sameness(table)


def _cells(turn: TurnEntry, subject: Count) -> tuple[str, ...]:
    tokens, recorded = turn["tokens"], turn["recorded"]
    words = (plain(turn["model"] or UNKNOWN), _based(turn), _paired(turn))
    was = NONE if recorded is None else count(recorded[subject])
    if tokens is None:
        return (str(turn["index"] + 1), *words, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, was, UNKNOWN)
    about = "~" if turn["basis"] == "estimated" else ""
    moved = None if recorded is None else tokens[subject] - recorded[subject]
    return (
        str(turn["index"] + 1),
        *words,
        about + count(tokens["prompt_tokens"]),
        about + count(tokens["cache_creation_input_tokens"]),
        about + count(tokens["cache_read_input_tokens"]),
        count(tokens["output_tokens"]),
        was,
        NONE if moved is None else about + signed(moved, count(moved)),
    )


def _based(turn: TurnEntry) -> str:
    return _BASES.get(turn["basis"], turn["basis"])


def _paired(turn: TurnEntry) -> str:
    return _PAIRED.get(turn["paired"] or "", turn["paired"] or NONE)


def _without_sameness(table: TurnTable) -> TurnTable:
    facts = []
    for word in _WORDS:
        values = _column(table, word)
        if len(set(values)) == 1:
            facts.append(f"{word} {values[0]}" if word == _ANSWERED_BY else values[0])
            table = table.without(word)
    for header in table.headers:
        if set(_column(table, header)) == {NONE}:
            table = table.without(header)
    return TurnTable(table.headers, table.rows, tuple(facts), table.hidden)


def _column(table: TurnTable, header: str) -> Sequence[str]:
    index = table.headers.index(header)
    return [row[index] for row in table.rows]


UPDATE = tuple(UPDATE_COMMAND.split())
UPDATE_LIVE = ("pytest", "--token-budget-live", "--token-budget-update", "--token-budget-samples=5")
UPGRADE_PRICES = ("pip", "install", "-U", "genai-prices")
RECORD = ("pytest", "--token-budget", "--token-budget-record=changed")
RECORD_ALL = ("pytest", "--token-budget", "--token-budget-record=all")
MISBILLED = "usage"
"""`Finding.where` of a problem: recorded usage that cannot be that of its prompt."""
MATCH_ON = "match_on"
"""`Finding.where` of a problem: what the `match_on` of a suite refuses, whatever the numbers are."""
FIRST = ("pytest", "--token-budget", "--token-budget-record=once", "--token-budget-update")
UPGRADE = ("pip", "install", "-U", "pytest-tokenbudget")
REWRITE = ("pytest", "--record-mode=rewrite")


@dataclass(frozen=True, slots=True)
class WayOut:
    """What resolves a verdict: what to do, and the commands of a shell that do it, if there are any."""

    what: str
    commands: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it with each command on a line of its own, to be pasted."""
        return "\n  ".join((f"{self.what}:", *self.commands)) if self.commands else self.what


def ways_out(scenarios: Sequence[ScenarioEntry]) -> list[WayOut]:
    """Return the command that each verdict of `scenarios` asks for; caps are raised by hand."""
    by_verdict: dict[str, list[ScenarioEntry]] = defaultdict(list)
    for one in scenarios:
        by_verdict[one["verdict"]].append(one)
    over = by_verdict["over"]
    newer = [verdict for verdict in by_verdict if not is_known(verdict)]
    grown = [one for one in over if any(not _is_cap(limit) for limit in exceeded(one))]
    live, grown = [one for one in grown if is_live(one)], [one for one in grown if not is_live(one)]
    gone = [one for one in by_verdict["stale"] if _only_lost_turns(one)]
    departed = [
        one
        for verdict in ("stale", "unknown", "unrecorded")
        for one in by_verdict[verdict]
        if not (_is_edited_by_hand(one) or one in gone)
    ]
    refused = [one for one in over if any(map(is_of_match_on, one["findings"]))]
    moved = [one for one in scenarios if is_taken_along(one)]
    own: dict[tuple[str, ...], list[ScenarioEntry]] = defaultdict(list)
    for one in departed:
        if one["recorder"] is None:
            own[_recording_of(one)].append(one)
    found = [
        WayOut("If this is meant, accept it", _command(UPDATE, grown)),
        WayOut(
            "If this is meant, accept it by new live runs (needs an API key)", _command(UPDATE_LIVE, live)
        ),
        WayOut("If the turns are meant to be gone, accept it", _command(UPDATE, gone)),
        WayOut("Record it anew (needs an API key)", _command(RECORD_ALL, own[RECORD_ALL])),
        WayOut("Record what changed (needs an API key)", _command(RECORD, own[RECORD])),
        WayOut("Record it (needs an API key)", _command(FIRST, own[FIRST])),
        WayOut(
            "Write the first baseline",
            _command(UPDATE, [one for one in by_verdict["new"] if one not in moved]),
        ),
        *_keep(by_verdict["improved"]),
        *(WayOut(f"Upgrade to know what {verdict} means", (shlex.join(UPGRADE),)) for verdict in newer),
    ]
    unpriced_models = any(limit["measured"] is None for one in over for limit in exceeded(one))
    return [
        *take_along(moved),
        *(WayOut("Bring the missing price", (shlex.join(UPGRADE_PRICES),)) for _ in range(unpriced_models)),
        *(way_out for way_out in found if way_out.commands),
        *_as_the_suite_does([one for one in (*departed, *refused) if one["recorder"]]),
        *_without_a_key([one for one in departed if one not in moved]),
        *(_raise_caps(one) for one in over if any(map(_is_cap, exceeded(one)))),
    ]


def is_of_match_on(finding: FindingEntry) -> bool:
    """Return whether a finding tells what the suite's own `match_on` refuses."""
    return (finding["kind"], finding["where"]) == (FindingKind.PROBLEM, MATCH_ON)


def _keep(improved: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """Yield how to take lower numbers as baseline; those of a run that costs more are no gain."""
    cheaper, dearer = ([one for one in improved if is_dearer(one) == dear] for dear in (False, True))
    yield WayOut("To keep the gain, accept it", _command(UPDATE, cheaper))
    yield WayOut("It uses less, but costs more. If this is meant, accept it", _command(UPDATE, dearer))


def _recording_of(scenario: ScenarioEntry) -> tuple[str, ...]:
    """Return the command that records what a scenario with our own cassette lacks.

    If an answer says nothing that can be counted, or cannot be true, all is called again although it has not
    changed.
    """
    if scenario["verdict"] == "unrecorded":
        return FIRST
    misbilled = any(finding["where"] == MISBILLED for finding in scenario["findings"])
    unread = any(turn["basis"] == "unknown" and turn["recorded"] is None for turn in scenario["turns"])
    return RECORD_ALL if misbilled or unread else RECORD


def _is_edited_by_hand(scenario: ScenarioEntry) -> bool:
    """Return whether only an edit that a finding names resolves it, and no recording does."""
    return any(finding["where"] == BY_HAND for finding in scenario["findings"])


def _only_lost_turns(scenario: ScenarioEntry) -> bool:
    """Return whether only recorded turns that are no longer asked for keep it from being judged."""
    kinds = (FindingKind.TURNS_CHANGED, FindingKind.PROBLEM, FindingKind.UNKNOWN)
    found = {(one["kind"], one["where"]) for one in scenario["findings"] if one["kind"] in kinds}
    return found == {(FindingKind.TURNS_CHANGED, "removed")} and bool(scenario["turns"])


def _as_the_suite_does(stale: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """Yield how to record the tests that another recorder than this plugin records."""
    theirs = [one for one in stale if one["recorder"] == "pytest-recording"]
    if len(theirs) == 1:
        yield WayOut("Record it anew (needs an API key)", _command(REWRITE, theirs))
    elif theirs:
        yield WayOut("Record each anew (needs an API key)", (f"{shlex.join(REWRITE)} TEST",))
    if len(theirs) < len(stale):
        yield WayOut("Record the cassettes of plain vcrpy anew as the suite does it (needs an API key)")


def _without_a_key(departed: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """Yield what helps if nobody has a key, or if what changed cannot be counted.

    A test whose call nothing answers fails by itself, judged or not.
    """
    answered = [one for one in departed if not _lacks_an_answer(one)]
    way = "Without a key: undo the change, let somebody who has one record it, or"
    if answered:
        shown = answered if len(answered) <= _NAMED else answered[:1]
        named = ", ".join(json.dumps(plain(ScenarioId(one["id"]).argument)) for one in shown)
        more = ", ..." if len(answered) > _NAMED else ""
        yield WayOut(f"{way} set exclude = [{named}{more}] in [tool.tokenbudget]")
    if len(answered) < len(departed):
        what = "what has no answer" if answered else "the test" if len(departed) == 1 else "the tests"
        yield WayOut(f"{way} skip {what} until then")


_UNANSWERED = ("added", "loop", "reordered")
"""Places of findings that tell of requests which the recording does not answer."""


def _lacks_an_answer(scenario: ScenarioEntry) -> bool:
    """Return whether a scenario asks what no recorded turn answers."""
    told = ((finding["kind"], finding["where"]) for finding in scenario["findings"])
    asks = any(kind == FindingKind.TURNS_CHANGED and where in _UNANSWERED for kind, where in told)
    return scenario["verdict"] == "unrecorded" or asks


def _raise_caps(scenario: ScenarioEntry) -> WayOut:
    caps = " and ".join(limit["metric"] for limit in exceeded(scenario) if _is_cap(limit))
    where = f"the marker of {plain(scenario['id'])} or in [tool.tokenbudget]"
    return WayOut(f"A cap is raised by hand: {caps} in {where}")


def is_live(scenario: ScenarioEntry) -> bool:
    """Return whether the scenario was measured by real calls."""
    return scenario["basis"] == str(Basis.LIVE)


def _is_cap(limit: LimitEntry) -> bool:
    return limit["metric"].startswith("max_")


def is_taken_along(scenario: ScenarioEntry) -> bool:
    """Return whether it is known what takes the files of a scenario along that was renamed or moved."""
    if "formerly" not in scenario or scenario["verdict"] not in (Verdict.NEW, Verdict.UNRECORDED):
        return False
    return bool(scenario["formerly"]["moves"] or scenario["formerly"]["update"])


def take_along(moved: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """Yield the commands that take the files of renamed tests along: all moves, updates, then one pruning."""
    if moved:
        which = short_names(moved[:1])[0] if len(moved) == 1 else f"these {len(moved):,} tests"
        what = f"If {which} {'was' if len(moved) == 1 else 'were'} renamed or moved, take the files along"
        yield WayOut(what, tuple(_moves([one["formerly"] for one in moved])))


def _moves(moved: Sequence[FormerlyEntry]) -> Iterator[str]:
    folders = dict.fromkeys(folder for one in moved for folder in one["folders"])
    moves = dict.fromkeys((move["old"], move["new"]) for one in moved for move in one["moves"])
    tests = dict.fromkeys(one["update"] for one in moved if one["update"] is not None)
    if folders:
        yield shlex.join(["mkdir", "-p", *map(plain, folders)])
    yield from (shlex.join(["git", "mv", *map(plain, move)]) for move in moves)
    if tests:
        yield shlex.join([*UPDATE, *map(plain, tests)])
    if any(one["prune"] for one in moved):
        yield "tokenbudget prune --delete"


def _command(command: tuple[str, ...], scenarios: Sequence[ScenarioEntry]) -> tuple[str, ...]:
    """Return the command for one scenario; for several, that of the whole suite; for none, no command."""
    targets = [plain(ScenarioId(one["id"]).argument) for one in scenarios] if len(scenarios) == 1 else []
    return (shlex.join([*command, *targets]),) if scenarios else ()


def runs_of(scenario: ScenarioEntry, otherwise: float | None) -> float | None:
    """Return how often a month it runs: as its marker or the settings of its run said, else `otherwise`."""
    runs = scenario["runs_per_month"]
    return otherwise if runs is None else runs


def usual_month(runs_per_month: float) -> str:
    """Return what a month is if no test ran and so no marker was read, in words."""
    return f"a month is {runs_per_month:,.0f} runs of each, as the settings say (markers are not read)"


def months(runs_per_month: float | None, start: StartsEntry | None) -> list[str]:
    """Return what a month is, and what baselines cost in one; nothing if that is not known."""
    if not runs_per_month:
        return []
    return [usual_month(runs_per_month), *([baselines_month(start, runs_per_month)] if start else [])]


def month_from(cold: float, warm: float, *, partly: bool, least: bool = False) -> str:
    """Return in brackets from which start a month is priced, and what it costs from others, in dollars.

    `partly`: some recordings began partly warm. `least`: `warm` is the least that it can be. Empty if the
    cache makes no difference.
    """
    if money(cold) == money(warm):
        return ""
    from_empty = "from an empty cache"
    if partly:
        from_empty = f"from recordings that began partly warm, {money(cold)} {from_empty}"
    return f" ({from_empty}, {'at least ' if least else ''}{money(warm)} with a warm prefix)"


def baselines_month(starts: StartsEntry, runs_per_month: float) -> str:
    """Return what baselines cost a month, together, and from which start, in words."""
    number = starts["scenarios"]
    every = f"all {number:,} baselines together" if number > 1 else "the baseline"
    usd, cold, warm = (
        None if dollars is None else dollars * runs_per_month
        for dollars in (starts["usd"], starts["cold_usd"], starts["warm_usd"])
    )
    if usd is None or cold is None or warm is None:
        return f"{every}: unknown a month, for a price is missing"
    start = month_from(cold, warm, partly=starts["foreign_reads"] > 0, least=starts["warm_is_least"])
    return f"{every}: {money(usd)} a month{start}"


def other_start(names: Sequence[str], where: str) -> Iterator[str]:
    """Yield that recordings of the scenarios `names` began with different caches, and what is compared.

    `where` says which numbers it is true of.
    """
    if names:
        yield (
            f"recorded anew from another start: {plural(len(names), 'scenario')}. What a recording reads "
            f"from a prompt cache that it did not fill counts as written, {where}"
        )
