"""Choose what every report shows of a document: order, headline, rows, turns, causes, ways out.

A verdict is resolved by one command, or by what is done by hand. What a document says of a scenario beside
its numbers (who records it, how often it runs) stands in it as findings of kinds that are no causes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import commonprefix

from pytest_tokenbudget.model import Finding, Verdict, argument
from pytest_tokenbudget.reports.document import (
    Count,
    Document,
    FindingEntry,
    LimitEntry,
    ScenarioEntry,
    TokensEntry,
    TurnEntry,
)
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.settings import ScenarioSettings
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

_FEW, _OF_EACH_CAUSE = 12, 3


def fails(scenario: ScenarioEntry) -> bool:
    """Whether the scenario fails its test."""
    return Verdict(scenario["verdict"]).fails


def worst_first(scenarios: Iterable[ScenarioEntry]) -> list[ScenarioEntry]:
    """By verdict, then by dollars added a run (unknown ones first), by the largest change, by id."""
    order = list(Verdict)

    def key(scenario: ScenarioEntry) -> tuple[int, float, float, str]:
        added = cost_change(scenario)
        changes = [abs(limit["change"] or 0) for limit in scenario["limits"] if limit["over"]]
        dollars = float("-inf") if added is None else -added
        return order.index(Verdict(scenario["verdict"])), dollars, -max(changes, default=0), scenario["id"]

    return sorted(scenarios, key=key)


def is_comparable(scenario: ScenarioEntry) -> bool:
    """Whether the scenario has a baseline and a measurement that answer the same question."""
    return None not in (scenario["baseline"], scenario["measured"]) and scenario["verdict"] != "stale"


def changed(scenario: ScenarioEntry) -> bool:
    """Whether anything is other than in the baseline."""
    return scenario["measured"] != scenario["baseline"]


def causes(scenario: ScenarioEntry) -> list[FindingEntry]:
    """The findings that say why."""
    found = scenario["findings"]
    return [one for one in found if not (one["kind"].startswith("lever_") or is_fact(one))]


def is_news(scenario: ScenarioEntry) -> bool:
    """Whether there is anything to say of the scenario."""
    return scenario["verdict"] != "within" or changed(scenario)


def short_names(scenarios: Sequence[ScenarioEntry]) -> list[str]:
    """The ids in printable form, without the folders, or the file, that all of them share."""
    return short_ids([one["id"] for one in scenarios])


def short_ids(ids: Sequence[str]) -> list[str]:
    """The same of ids alone."""
    names = list(map(plain, ids))
    files = {name.partition("::")[0] for name in names}
    if len(files) == 1:
        return [name.partition("::")[2] or name for name in names]
    shared = commonprefix(list(files))
    return [name[shared.rfind("/") + 1 :] for name in names]


def by_cause(scenarios: Iterable[ScenarioEntry]) -> list[list[ScenarioEntry]]:
    """The scenarios of one verdict and the same causes together: one prompt changes, many tests fail."""
    groups: dict[object, list[ScenarioEntry]] = {}
    for one in scenarios:
        reasons: list[object] = [(found["kind"], found["where"], place(found)) for found in causes(one)]
        reasons = reasons or [limit["metric"] for limit in exceeded(one)]
        groups.setdefault((one["verdict"], *reasons), []).append(one)
    return list(groups.values())


def some_of_each_cause(scenarios: Sequence[ScenarioEntry]) -> list[tuple[ScenarioEntry, int]]:
    """The three first of each cause, the last of them with the number of those left out; all when few."""
    if len(scenarios) <= _FEW:
        return [(one, 0) for one in scenarios]
    shown = []
    for group in by_cause(scenarios):
        first, left = group[:_OF_EACH_CAUSE], len(group[_OF_EACH_CAUSE:])
        shown += [(one, 0) for one in first[:-1]] + [(first[-1], left)]
    return shown


def levers(scenario: ScenarioEntry) -> list[FindingEntry]:
    """The findings that say what would be cheaper."""
    return [finding for finding in scenario["findings"] if finding["kind"].startswith("lever_")]


def sentence(finding: FindingEntry) -> str:
    """The finding in one printable line that names its place, unless that is the whole run."""
    text, where = plain(finding["text"]), plain(finding["where"])
    return text if where in ("", "run") or where in text else f"{where}: {text}"


def place(finding: FindingEntry) -> str:
    """`prompts/system.md:14`, or nothing."""
    source = finding["source"]
    return f"{plain(source['file'])}:{source['line']}" if source else ""


def facts(finding: FindingEntry) -> list[str]:
    """Its place, tokens and dollars, as far as they are known and its sentence does not say them."""
    tokens, cost, text = finding["tokens"], finding["cost_usd"], finding["text"]
    amounts = []
    if tokens and finding["kind"] != "interval" and count(abs(tokens)) not in text:
        amounts.append(f"{signed(tokens, count(tokens))} tokens")
    if cost and "$" not in text:
        amounts.append(signed(cost, money(cost)))
    where = place(finding)
    return [
        *([where] if where and where not in sentence(finding) else []),
        *([f"{', '.join(amounts)} a run"] if amounts else []),
    ]


def exceeded(scenario: ScenarioEntry) -> list[LimitEntry]:
    """The limits and caps that it is past."""
    return [limit for limit in scenario["limits"] if limit["over"]]


def headline(document: Document) -> str:
    """`2 of 14 scenarios are over budget, 1 is stale: +4,120 prompt tokens (+18.0%), +$0.0120 a run`."""
    compared = [one for one in document["scenarios"] if is_comparable(one)]
    moved = _moved(document, compared)
    if not compared:
        end = ""
    elif not any(changed(one) for one in compared):
        end = ", nothing changed"
    else:
        end = f": {', '.join(moved)}" if moved else ": the same in all"
    unknown = sum(unpriced(one) for one in document["scenarios"] if one["verdict"] != "stale")
    unpaid = f", the cost of {plural(unknown, 'scenario')} unknown" if unknown else ""
    return _verdicts(document) + end + unpaid


def _verdicts(document: Document) -> str:
    verdicts, number = document["totals"]["verdicts"], len(document["scenarios"])
    every = plural(number, "scenario")
    words = {"over": "over budget", "stale": "stale", "new": "new"}
    failing = [(verdicts[verdict], word) for verdict, word in words.items() if verdicts[verdict]]
    if not failing:
        verb = "is" if number == 1 else "are"
        cheaper = f", {verdicts['improved']:,} cheaper" if verdicts["improved"] else ""
        return f"{every} {verb} within budget{cheaper}" if number else "No scenario was measured"
    (first, word), *others = failing
    start = f"{first:,} of {every} {'is' if first == 1 else 'are'} {word}"
    return ", ".join([start, *(f"{n:,} {'is' if n == 1 else 'are'} {word}" for n, word in others)])


def _moved(document: Document, compared: Sequence[ScenarioEntry]) -> list[str]:
    was, now = document["totals"]["baseline"], document["totals"]["measured"]
    about = "~" if any(one["basis"] == "estimated" for one in compared) else ""
    counts: tuple[Count, ...] = ("prompt_tokens", "output_tokens")
    parts = [
        f"{about}{growth(now[name], was[name], count, METRICS[name])}"
        for name in counts
        if now[name] != was[name]
    ]
    priced = [one for one in compared if not unpriced(one)]
    before, after = _cost(one["baseline"] for one in priced), _cost(one["measured"] for one in priced)
    if round(after - before, 10):
        parts.append(f"{about}{growth(after, before, money, 'a run')}")
    return parts


def growth(now: float, was: float, shown: Callable[[float], str], unit: str) -> str:
    """`+4,120 prompt tokens (+18.0%)`."""
    change = now - was
    text = f"{signed(change, shown(change))} {unit}"
    return f"{text} ({signed(change, percent(change / was))})" if was else text


def _cost(sides: Iterable[TokensEntry | None]) -> float:
    return sum(side["cost_usd"] or 0.0 for side in sides if side is not None)


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
    """Dollars a run over the baseline, or all of them where there is none; None where unknown."""
    measured, baseline = scenario["measured"], scenario["baseline"]
    if measured is None or measured["cost_usd"] is None or scenario["verdict"] == "stale":
        return None
    if baseline is None:
        return measured["cost_usd"]
    return None if baseline["cost_usd"] is None else measured["cost_usd"] - baseline["cost_usd"]


def cost_cell(scenario: ScenarioEntry, runs: float = 1) -> str:
    """`+$0.0094`: what the change costs in `runs` runs; without a baseline, what the scenario costs."""
    if scenario["verdict"] == "stale":
        return NONE
    change = cost_change(scenario)
    if change is None:
        return UNKNOWN
    shown = money(change * runs)
    if scenario["baseline"] is not None:
        shown = signed(change, shown) if change else f"+{shown}"  # a bare $0.00 would be what it costs
    return approximate(scenario) + shown


def approximate(scenario: ScenarioEntry) -> str:
    """`~` where the numbers of the prompt are estimated."""
    return "~" if scenario["basis"] == "estimated" else ""


def unpriced(scenario: ScenarioEntry) -> bool:
    """Whether a price is missing, now or in the baseline."""
    sides = (scenario["baseline"], scenario["measured"])
    return any(side is not None and side["cost_usd"] is None for side in sides)


def rows(scenario: ScenarioEntry) -> list[Row]:
    """What a table says of the scenario: what is over; else the one number that its verdict is about."""
    limits, verdict = scenario["limits"], scenario["verdict"]
    if verdict == "over":
        about = [limit for limit in limits if limit["over"]]
    elif verdict == "improved":
        about = sorted(limits, key=_growth)[:1]
    else:
        about = [limit for limit in limits if limit["metric"] == "prompt_tokens"]
    return [row(limit, scenario) for limit in about] or [_prompt(scenario)]


def _prompt(scenario: ScenarioEntry) -> Row:
    """The prompt tokens of a scenario that is not held against limits; why not, in the place of a number."""
    baseline, measured = scenario["baseline"], scenario["measured"]
    was = "new" if baseline is None else count(baseline["prompt_tokens"])
    now = UNKNOWN if measured is None else approximate(scenario) + count(measured["prompt_tokens"])
    return Row(METRICS["prompt_tokens"], was, "stale" if scenario["verdict"] == "stale" else now, NONE, NONE)


def row(limit: LimitEntry, scenario: ScenarioEntry) -> Row:
    """One limit as it is printed, with enough decimals to tell what is measured from what is allowed."""
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
        metric=METRICS[name],
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


_WORDS = ("model", "basis", "paired")


@dataclass(frozen=True, slots=True)
class TurnTable:
    """Cells under headers; what is the same in every row is no column but one of the `facts`."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    facts: tuple[str, ...]
    hidden: int = 0
    """Turns that are not among the rows."""

    @property
    def numbers(self) -> list[bool]:
        """Which columns hold numbers."""
        return [header not in _WORDS for header in self.headers]

    def without(self, header: str) -> TurnTable:
        """The same table, one column less."""
        kept = [index for index, name in enumerate(self.headers) if name != header]
        cut = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return TurnTable(tuple(self.headers[index] for index in kept), cut, self.facts, self.hidden)


def turn_table(scenario: ScenarioEntry, most: int | None = None) -> TurnTable:
    """The turns that changed (all of them when none did), at most `most`; every turn when `most` is None.

    Turns are counted from 1. `was` and `change` speak of the prompt, or of what is read from the cache where
    only that is over its limit.
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
    words = (plain(turn["model"] or UNKNOWN), turn["basis"], turn["paired"] or NONE)
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


def _without_sameness(table: TurnTable) -> TurnTable:
    facts = []
    for word in _WORDS:
        values = _column(table, word)
        if len(set(values)) == 1:
            facts.append(f"paired: {values[0]}" if word == "paired" else values[0])
            table = table.without(word)
    for header in table.headers:
        if set(_column(table, header)) == {NONE}:
            table = table.without(header)
    return TurnTable(table.headers, table.rows, tuple(facts), table.hidden)


def _column(table: TurnTable, header: str) -> Sequence[str]:
    index = table.headers.index(header)
    return [row[index] for row in table.rows]


UPDATE = ("pytest", "--token-budget", "--token-budget-update")
UPGRADE_PRICES = ("pip", "install", "-U", "genai-prices")
RECORD = ("pytest", "--token-budget", "--token-budget-record=changed")
RECORD_ALL = ("pytest", "--token-budget", "--token-budget-record=all")
MISBILLED = "usage"
"""The place of a problem with recorded usage that cannot be that of its prompt."""
REWRITE = ("pytest", "--record-mode=rewrite")


@dataclass(frozen=True, slots=True)
class WayOut:
    """What resolves a verdict: what to do, and the command that does it, where one does."""

    what: str
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}: {shlex.join(self.command)}" if self.command else self.what


def ways_out(scenarios: Sequence[ScenarioEntry]) -> list[WayOut]:
    """For each failing verdict among `scenarios` the command that resolves it; caps are raised by hand."""
    by_verdict: dict[str, list[ScenarioEntry]] = {"over": [], "stale": [], "new": []}
    for one in scenarios:
        by_verdict[one["verdict"]].append(one)
    over, stale = by_verdict["over"], by_verdict["stale"]
    grown = [one for one in over if any(not _is_cap(limit) for limit in exceeded(one))]
    own = [one for one in stale if recorder_of(one) is None]
    misbilled = [one for one in own if any(finding["where"] == MISBILLED for finding in one["findings"])]
    found = [
        WayOut("If this is meant, accept it", _command(UPDATE, grown)),
        WayOut("Record it anew (needs an API key)", _command(RECORD_ALL, misbilled)),
        WayOut(
            "Record what changed (needs an API key)", _command(RECORD, [e for e in own if e not in misbilled])
        ),
        WayOut("Write the first baseline", _command(UPDATE, by_verdict["new"])),
    ]
    unpriced_models = any(limit["measured"] is None for one in over for limit in exceeded(one))
    return [
        *(WayOut("Bring the missing price", UPGRADE_PRICES) for _ in range(unpriced_models)),
        *(way_out for way_out in found if way_out.command),
        *_as_the_suite_does([one for one in stale if recorder_of(one)]),
        *(_raise_caps(one) for one in over if any(map(_is_cap, exceeded(one)))),
    ]


def _as_the_suite_does(stale: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """How tests are recorded that have recorded themselves."""
    theirs = [one for one in stale if recorder_of(one) == "pytest-recording"]
    if len(theirs) == 1:
        yield WayOut("Record it anew (needs an API key)", _command(REWRITE, theirs))
    elif theirs:
        yield WayOut(f"Record each anew (needs an API key): {shlex.join(REWRITE)} TEST")
    if len(theirs) < len(stale):
        yield WayOut("Record the cassettes of plain vcrpy anew as the suite does it (needs an API key)")


def _raise_caps(scenario: ScenarioEntry) -> WayOut:
    caps = " and ".join(limit["metric"] for limit in exceeded(scenario) if _is_cap(limit))
    where = f"the marker of {plain(scenario['id'])} or in [tool.tokenbudget]"
    return WayOut(f"A cap is raised by hand: {caps} in {where}")


def _is_cap(limit: LimitEntry) -> bool:
    return limit["metric"].startswith("max_")


def _command(command: tuple[str, ...], scenarios: Sequence[ScenarioEntry]) -> tuple[str, ...]:
    """The command for one scenario; for several, that of the whole suite; for none, none."""
    if len(scenarios) != 1:
        return command if scenarios else ()
    (one,) = scenarios
    return (*command, plain(argument(one["id"])))


_WAYS_OUT = "A newer pytest-tokenbudget may know it; --token-budget-count=api counts it exactly, for free."


def doubts(scenario: ScenarioEntry) -> Iterator[str]:
    """Yield what is to be known of a scenario even where it passes, in sentences.

    They tell options under which the recorded answers would be others, that two recordings began with
    different caches, and models that are not known; the last is the same for every scenario, so that it can
    be said once.
    """
    for finding in scenario["findings"]:
        text = plain(finding["text"])
        if finding["kind"] == "answer_options":
            yield f"{scenario['id']}: {text}. Record it anew to know."
        elif finding["kind"] == "assumed_model":
            yield f"{text}. {_WAYS_OUT}"
        elif finding["kind"] == "other_start":
            yield f"{scenario['id']}: {text}."


_RECORDER, _RUNS = "recorder", "runs_per_month"


def scenario_facts(
    verdict: Verdict, recorder: str | None, its: ScenarioSettings, usual: ScenarioSettings
) -> tuple[Finding, ...]:
    """As findings, what a report of a scenario needs: who is to record it, and how often it runs.

    Of one that is within its budget only a number of runs that is not the `usual` one.
    """
    told = [recorded_by(recorder)] if recorder is not None and verdict == Verdict.STALE else []
    runs = its.runs_per_month
    if runs is not None and (runs != usual.runs_per_month or verdict != Verdict.WITHIN):
        told.append(often(runs))
    return tuple(told)


def recorded_by(recorder: str) -> Finding:
    """That a scenario's cassettes are not this plugin's own."""
    return Finding(_RECORDER, recorder, f"its cassettes are recorded by {recorder}")


def often(runs_per_month: int) -> Finding:
    """How often a scenario runs."""
    return Finding(_RUNS, str(runs_per_month), f"runs {runs_per_month:,} times a month")


def is_fact(finding: FindingEntry) -> bool:
    """Whether a finding is none of the causes of anything."""
    return finding["kind"] in (_RECORDER, _RUNS)


def recorder_of(scenario: ScenarioEntry) -> str | None:
    """Who records the cassettes that it plays; None: this plugin."""
    return _fact(scenario, _RECORDER)


def runs_of(scenario: ScenarioEntry, otherwise: float | None) -> float | None:
    """How often a month it runs: as its marker or the settings of its run said, else as the caller says."""
    told = _fact(scenario, _RUNS)
    return int(told) if told is not None and told.isdecimal() else otherwise


def usual_month(runs_per_month: float) -> str:
    """What a month is where no test ran, so that no marker was read: the basis of its dollars, in words."""
    return f"a month is {runs_per_month:,.0f} runs of each, as the settings say (markers are not read)"


def _fact(scenario: ScenarioEntry, kind: str) -> str | None:
    return next((found["where"] for found in scenario["findings"] if found["kind"] == kind), None)
