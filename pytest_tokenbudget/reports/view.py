"""Choose what every report shows of a document: order, headline, rows, turns, causes, ways out.

A verdict is resolved by one command, or by what is done by hand. A verdict that is not known, of a newer
version, is shown by its name and counts as failing.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from posixpath import commonprefix

from pytest_tokenbudget.budget.baselines import UPDATE as UPDATE_COMMAND
from pytest_tokenbudget.model import BY_HAND, Basis, FindingKind, ScenarioId, Verdict
from pytest_tokenbudget.reports.document import (
    Count,
    Document,
    FindingEntry,
    LimitEntry,
    ScenarioEntry,
    TokensEntry,
    TurnEntry,
    is_known,
    is_measured,
)
from pytest_tokenbudget.reports.text import crop, plain
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
_NAMED = 3
"""Tests that one way out names."""


def fails(scenario: ScenarioEntry) -> bool:
    """Return whether the scenario fails its test; a verdict that is not known does."""
    return _fails(scenario["verdict"])


def _fails(verdict: str) -> bool:
    return not is_known(verdict) or Verdict(verdict).fails


def rank(verdict: str) -> int:
    """Return the place of `verdict` among all, the worst first; an unknown one is the last that fails."""
    order = [*map(str, Verdict)]
    return order.index(verdict) if is_known(verdict) else order.index(Verdict.IMPROVED)


def worst_first(scenarios: Iterable[ScenarioEntry]) -> list[ScenarioEntry]:
    """By verdict, then by dollars added a run (unknown ones first), by the largest change, by id."""

    def key(scenario: ScenarioEntry) -> tuple[int, float, float, str]:
        added = cost_change(scenario)
        changes = [abs(limit["change"] or 0) for limit in scenario["limits"] if limit["over"]]
        dollars = float("-inf") if added is None else -added
        return rank(scenario["verdict"]), dollars, -max(changes, default=0), scenario["id"]

    return sorted(scenarios, key=key)


def is_comparable(scenario: ScenarioEntry) -> bool:
    """Whether the scenario has a baseline and a measurement that answer the same question."""
    return scenario["baseline"] is not None and is_measured(scenario)


def changed(scenario: ScenarioEntry) -> bool:
    """Whether anything is other than in the baseline."""
    return scenario["measured"] != scenario["baseline"]


def causes(scenario: ScenarioEntry) -> list[FindingEntry]:
    """The findings that say why."""
    found = scenario["findings"]
    return [one for one in found if not is_lever(one)]


def reasons(scenario: ScenarioEntry) -> list[FindingEntry]:
    """Return the findings that say why it fails: not what is to be known whatever the verdict is."""
    return [finding for finding in causes(scenario) if not is_note(finding)]


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
        groups.setdefault(cause_of(one), []).append(one)
    return list(groups.values())


def cause_of(scenario: ScenarioEntry) -> tuple[object, ...]:
    """Return what is equal for scenarios of one verdict and the same causes."""
    reasons: list[object] = [(found["kind"], found["where"], place(found)) for found in causes(scenario)]
    return scenario["verdict"], *(reasons or [limit["metric"] for limit in exceeded(scenario)])


def some_of_each_cause(scenarios: Sequence[ScenarioEntry]) -> list[tuple[ScenarioEntry, int]]:
    """The three first of each cause, the last of them with the number of those left out; all when few."""
    if len(scenarios) <= _FEW:
        return [(one, 0) for one in scenarios]
    shown = []
    for group in by_cause(scenarios):
        first, left = group[:_OF_EACH_CAUSE], len(group[_OF_EACH_CAUSE:])
        shown += [(one, 0) for one in first[:-1]] + [(first[-1], left)]
    return shown


OF_COST = (
    FindingKind.GROWTH,
    FindingKind.CACHE_BREAK,
    FindingKind.CACHE_CHANGE,
    FindingKind.MODEL_CHANGED,
    FindingKind.RATE_CHANGED,
    FindingKind.RECORDING_CHANGED,
)
"""Kinds whose dollars add up to what a scenario costs more."""
_NEGLIGIBLE = 0.0005
"""A share that is shown as 0.0 %, or as 0.1 % at most."""


@dataclass(frozen=True)
class Change:
    """What differs at one place, and every scenario that it touches, the one that it costs most first."""

    touched: tuple[tuple[ScenarioEntry, tuple[FindingEntry, ...]], ...]
    """Each scenario with its findings about this place."""

    @property
    def findings(self) -> tuple[FindingEntry, ...]:
        """Those of the scenario that it costs most."""
        return self.touched[0][1]

    @property
    def scenarios(self) -> list[ScenarioEntry]:
        """All that it touches."""
        return [scenario for scenario, _ in self.touched]

    @cached_property
    def failing(self) -> list[ScenarioEntry]:
        """Those of them that fail."""
        return [scenario for scenario in self.scenarios if fails(scenario)]

    @property
    def place(self) -> str:
        """Its file and line, where they are known."""
        return next(filter(None, map(place, self.findings)), "")

    @property
    def where(self) -> str:
        """`the system prompt (system[0])`."""
        if self.findings[0]["kind"] == FindingKind.MODEL_CHANGED:
            return _MODEL
        return in_words(next((one["where"] for one in self.findings if one["where"]), ""))

    @property
    def title(self) -> str:
        """`prompts/system.md:14: the system prompt (system[0])`."""
        return ": ".join(filter(None, (self.place, self.where)))

    @cached_property
    def tokens(self) -> int:
        """Prompt tokens that it adds to one run of each."""
        grown = (one for one in self._findings if one["kind"] == FindingKind.GROWTH)
        return sum(one["tokens"] or 0 for one in grown)

    @cached_property
    def dollars(self) -> float | None:
        """What it adds to one run of each; None where a price is missing."""
        costs = [one["cost_usd"] for one in self._findings]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    @cached_property
    def month(self) -> float | None:
        """The same in a month; None where it is not known how often each runs."""
        if self.dollars is None or any(not scenario["runs_per_month"] for scenario in self.scenarios):
            return None
        return sum(
            (scenario["runs_per_month"] or 0) * (one["cost_usd"] or 0.0)
            for scenario, findings in self.touched
            for one in findings
        )

    @property
    def _findings(self) -> Iterator[FindingEntry]:
        return (one for _, findings in self.touched for one in findings)

    @property
    def amounts(self) -> str:
        """`+1,056 prompt tokens, +$0.0015 a run, +$1.50 a month`; what it does not move is left out."""
        about = _about(self.scenarios)
        parts = [f"{about}{signed(self.tokens, count(self.tokens))} prompt tokens"] if self.tokens else []
        if self.dollars is None:
            parts.append("at an unknown cost")
        elif round(self.dollars, 10):
            parts.append(f"{about}{signed(self.dollars, money(self.dollars))} a run")
        if self.month:
            parts.append(f"{about}{signed(self.month, money(self.month))} a month")
        return ", ".join(parts)

    @property
    def extent(self) -> str:
        """`in 45 scenarios, 3 of them fail`."""
        every, failing = plural(len(self.touched), "scenario"), len(self.failing)
        if failing in (0, len(self.touched)):
            return f"in {every}"
        return f"in {every}, {failing:,} of them {'fails' if failing == 1 else 'fail'}"

    @cached_property
    def is_told(self) -> bool:
        """Whether it is more than a rounding of what its scenarios take."""
        sides = [side for scenario in self.scenarios if (side := scenario["baseline"])]
        tokens, cost = sum(side["prompt_tokens"] for side in sides), _cost(sides)
        moved = abs(self.tokens) > _NEGLIGIBLE * tokens
        return moved or self.dollars is None or abs(self.dollars) > _NEGLIGIBLE * cost


def changes(document: Document) -> list[Change]:
    """Return what differs, place by place: the worst first, in dollars a month where all are known, or a run.

    Where anything fails, only what touches a failing scenario; and no rounding, where more than that is told.
    """
    by_place: dict[str, list[tuple[ScenarioEntry, tuple[FindingEntry, ...]]]] = defaultdict(list)
    for scenario in worst_first(document["scenarios"]):
        if is_comparable(scenario):
            for key, findings in _by_place(scenario).items():
                by_place[key].append((scenario, tuple(findings)))
    found = [Change(tuple(sorted(touched, key=_dearest))) for touched in by_place.values()]
    if any(map(fails, document["scenarios"])):
        found = [change for change in found if change.failing]
    found = [change for change in found if change.is_told] or found
    monthly = None not in [change.month for change in found]
    return sorted(found, key=lambda change: _loss(change.month if monthly else change.dollars))


_MODEL = "the model"


def _by_place(scenario: ScenarioEntry) -> dict[str, list[FindingEntry]]:
    """Return the findings about costs by their line, or by their place in the request without one.

    Another model counts, prices and caches the whole prompt anew: what has no line of its own belongs to it.
    """
    about = [finding for finding in causes(scenario) if finding["kind"] in OF_COST]
    about.sort(key=lambda finding: finding["kind"] != FindingKind.MODEL_CHANGED)
    elsewhere = _MODEL if about and about[0]["kind"] == FindingKind.MODEL_CHANGED else None
    findings: dict[str, list[FindingEntry]] = defaultdict(list)
    for finding in about:
        findings[place(finding) or elsewhere or finding["where"] or sentence(finding)].append(finding)
    return findings


def _dearest(touched: tuple[ScenarioEntry, tuple[FindingEntry, ...]]) -> float:
    return _loss(sum(one["cost_usd"] or 0.0 for one in touched[1]))


def _loss(dollars: float | None) -> float:
    """Sort what costs most first, and first of all what nobody knows."""
    return float("-inf") if dollars is None else -round(dollars, 10)


def unexplained(document: Document, told: Sequence[Change]) -> list[list[ScenarioEntry]]:
    """Return the failing scenarios that no change is told for, those of one reason together.

    A change explains what is over, if its cost is known: every other verdict has a reason of its own.
    """
    explained = {one["id"] for change in told for one in change.failing if _is_counted(one)}
    failing = filter(fails, worst_first(document["scenarios"]))
    return by_cause(one for one in failing if one["id"] not in explained)


def _is_counted(scenario: ScenarioEntry) -> bool:
    """Return whether a scenario is over by numbers, none of which is unknown."""
    counted = all(limit["measured"] is not None for limit in exceeded(scenario))
    return scenario["verdict"] == "over" and counted


_PARTS = (
    (re.compile(r"system\b.*"), "the system prompt"),
    (re.compile(r"tools\[(.*)\]\.description"), "the description of a tool"),
    (re.compile(r"tools\[(.*)\]\.input_schema"), "the parameters of a tool"),
    (re.compile(r"tools\b.*"), "the tools"),
    (re.compile(r"messages\b.*tool_result.*"), "the result of a tool"),
    (re.compile(r"messages\b.*"), "the conversation"),
    (re.compile(r"recording"), "the cassette"),
)


def in_words(where: str) -> str:
    """Return a place in a request with what it is: `the system prompt (system[0])`."""
    shown = plain(where)
    words = next((words for pattern, words in _PARTS if pattern.fullmatch(shown)), "")
    return f"{words} ({shown})" if words else shown


_PHRASE = 100


def phrase(finding: FindingEntry) -> str:
    """What a finding says in a few words, without its line: `the system prompt (system[0]) +1,872 tokens`."""
    where, tokens = finding["where"], finding["tokens"]
    if finding["kind"] == FindingKind.GROWTH and where and tokens:
        return f"{in_words(where)} {signed(tokens, count(tokens))} tokens"
    if finding["kind"] == FindingKind.CACHE_BREAK and where:
        return f"the prompt cache is lost from {in_words(where)} on"
    return crop(sentence(finding), _PHRASE)


def levers(scenario: ScenarioEntry) -> list[FindingEntry]:
    """The findings that say what would be cheaper."""
    return [finding for finding in scenario["findings"] if is_lever(finding)]


def is_lever(finding: FindingEntry) -> bool:
    """Return whether it says what would be cheaper, by its kind; those of newer versions are known by it."""
    return finding["kind"].startswith("lever_")


def sentence(finding: FindingEntry) -> str:
    """Return the finding in one printable line; it says its place and its line by itself."""
    return plain(finding["text"])


_SAY_TOKENS = (FindingKind.GROWTH, FindingKind.CACHE_BREAK, FindingKind.CACHE_CHANGE)
"""Causes whose sentence says how many tokens they are; dollars are in the sentence of a lever only."""


def place(finding: FindingEntry) -> str:
    """`prompts/system.md:14`, or nothing."""
    source = finding["source"]
    return f"{plain(source['file'])}:{source['line']}" if source else ""


def facts(finding: FindingEntry) -> list[str]:
    """Return its tokens and dollars a run, as far as they are known and a text of its kind has none."""
    tokens, cost, amounts = finding["tokens"], finding["cost_usd"], []
    if is_lever(finding):
        return []
    if tokens and finding["kind"] not in _SAY_TOKENS:
        amounts.append(f"{signed(tokens, count(tokens))} tokens")
    if cost:
        amounts.append(signed(cost, money(cost)))
    return [f"{', '.join(amounts)} a run"] if amounts else []


def exceeded(scenario: ScenarioEntry) -> list[LimitEntry]:
    """The limits and caps that it is past."""
    return [limit for limit in scenario["limits"] if limit["over"]]


_MODES = {
    "replay": "replayed from recordings",
    "record": "recorded from real calls",
    "live": "measured by real calls",
}


def mode(document: Document) -> str:
    """Return how the run was measured, in words."""
    return _MODES.get(document["mode"], document["mode"])


def headline(document: Document) -> str:
    """`2 of 14 scenarios are over budget, 1 is stale: +4,120 prompt tokens (+18.0%), +$0.0120 a run`.

    What was not measured is said before what is well. "Nothing changed" is said only where all was measured.
    """
    compared = [one for one in document["scenarios"] if is_comparable(one)]
    moved = [*_longer(document, compared), *_dearer(compared)]
    fine = not (missing(document) or any(map(fails, document["scenarios"])))
    if moved:
        end = f": {', '.join(moved)}"
    elif any(map(changed, compared)):
        end = ": the same in all" if fine else ""
    else:
        end = ", nothing changed" if fine and compared else ""
    return _verdicts(document) + end + _unpaid(document)


def _unpaid(document: Document) -> str:
    unknown = sum(unpriced(one) for one in document["scenarios"] if is_measured(one))
    return f", the cost of {plural(unknown, 'scenario')} unknown" if unknown else ""


def money_first(document: Document) -> str:
    """Return the headline of a run that fails: dollars a month where known, and a run, tokens, verdicts."""
    compared = [one for one in document["scenarios"] if is_comparable(one)]
    costs = [(one["runs_per_month"], cost_change(one)) for one in compared]
    month = sum((runs or 0) * (dollars or 0.0) for runs, dollars in costs)
    parts = [*_dearer(compared), *_longer(document, compared)]
    if month and all(runs and dollars is not None for runs, dollars in costs):
        parts.insert(0, f"{_about(compared)}{signed(month, money(month))} a month")
    return ": ".join(filter(None, (", ".join(parts), _verdicts(document) + _unpaid(document))))


def _verdicts(document: Document) -> str:
    verdicts, not_run, unmeasured = _counts(document), _not_run(document), len(document["unmeasured"])
    unjudged = _unjudged(document) + not_run
    number = len(document["scenarios"]) + len(document["not_judged"]) + unmeasured
    every, passing = plural(number, "scenario"), verdicts["improved"] + verdicts["within"]
    amiss = [(n, "over budget" if name == "over" else name) for name, n in verdicts.items() if _fails(name)]
    amiss += [(not_run, "not run"), (unjudged - not_run, "not judged"), (unmeasured, "unmeasured")]
    (first, word), *others = [(n, word) for n, word in amiss if n] or [(0, "")]
    said = [f"{first:,} of {every} {_is(first)} {word}"] if first else []
    said += [f"{n:,} {_is(n)} {word}" for n, word in others]
    if alone := _other_errors(document):
        said.append(plural(alone, "error"))
    if not number:
        said.append("no scenario was measured" if said else "No scenario was measured")
    elif said and passing == len(document["scenarios"]) > 0:
        alone = passing < number
        said.append(f"{passing:,} {_is(passing)} within budget" if alone else f"{every} within budget")
    elif not said:
        cheaper = f", {verdicts['improved']:,} cheaper" if verdicts["improved"] else ""
        said.append(f"{every} {_is(number)} within budget{cheaper}")
    if excluded := len(document["excluded"]):
        said.append(f"{excluded:,} {_is(excluded)} excluded")
    return ", ".join(said)


def _counts(document: Document) -> Counter[str]:
    """Count the scenarios that were judged by verdict, in the order of `rank`."""
    judged = (one["verdict"] for one in document["scenarios"] if not _is_told_only(one))
    return Counter(sorted(judged, key=rank))


def _is_told_only(scenario: ScenarioEntry) -> bool:
    """Whether it is of live runs that nothing could be held against but caps."""
    return _is_live(scenario) and scenario["verdict"] == "within" and scenario["baseline"] is None


def _unjudged(document: Document) -> int:
    """Count the scenarios without a verdict, but those that were not run."""
    told = sum(map(_is_told_only, document["scenarios"]))
    return len(document["not_judged"]) - _not_run(document) + told


def _other_errors(document: Document) -> int:
    """Count the errors that are of no test that is not judged: of files, of a collection."""
    unjudged = {test["id"] for test in document["not_judged"]}
    return sum(error["id"] not in unjudged for error in document["errors"])


def _not_run(document: Document) -> int:
    """Count the tests that a spend limit kept from a call."""
    return sum(test["outcome"] == "not_run" for test in document["not_judged"])


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def missing(document: Document) -> list[str]:
    """Return a line for each error, and one for what ended otherwise without a verdict."""
    failed = {error["id"] for error in document["errors"]}
    others = [(test["id"], test["outcome"]) for test in document["not_judged"] if test["id"] not in failed]
    return [
        *errors(document),
        *_by_text((name, f"not judged: {outcome}") for name, outcome in others),
        *unmeasured(document),
    ]


def unmeasured(document: Document) -> list[str]:
    """Return a line for each reason why a committed baseline was not measured."""
    return _by_text((one["id"], _UNMEASURED.get(one["why"], one["why"])) for one in document["unmeasured"])


_UNMEASURED = {
    "gone": (
        "has a baseline, and no test any more. Bring the test back; if it is meant to go, its "
        "baseline goes with it: tokenbudget prune --delete"
    ),
    "skipped": "not measured: its module is skipped",
    "not_run": "was to run, and the run ended before it",
}


def errors(document: Document) -> list[str]:
    """Return a line for each error, with the tests that it is of."""
    return _by_text((error["id"], error["text"]) for error in document["errors"])


def _by_text(entries: Iterable[tuple[str | None, str]]) -> list[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, text in entries:
        names[plain(text)] += [plain(name)] if name else []
    return [f"{_first_of(ids)}: {text}" if ids else text for text, ids in names.items()]


def _first_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def live(document: Document) -> list[str]:
    """Return what live runs cost, and what would decide where nothing is decided, scenario by scenario."""
    told = (FindingKind.INTERVAL, FindingKind.INCONCLUSIVE)
    names = short_names(document["scenarios"])
    return [
        f"{name}: {'; '.join(sentence(finding) for finding in entry['findings'] if finding['kind'] in told)}"
        for name, entry in zip(names, document["scenarios"], strict=True)
        if _is_live(entry) and any(finding["kind"] in told for finding in entry["findings"])
    ]


def has_news(document: Document) -> bool:
    """Return whether there is anything to say but that all was measured and nothing changed."""
    told = missing(document) or notes(document) or live(document)
    return bool(told) or any(map(is_news, document["scenarios"]))


def line(document: Document) -> str:
    """Return what was judged, as the last line of our section.

    `token budgets: 1 over, 13 within; 26,120 prompt tokens (+18.0%), $0.0620 a run (+9.0%); 2 not judged`
    """
    counts = [f"{number:,} {name}" for name, number in _counts(document).items()]
    parts = [", ".join(counts) or "0 scenarios"]
    compared = [one for one in document["scenarios"] if is_comparable(one)]
    if compared:
        parts.append(", ".join(_sums(document, compared)))
    not_run, unmetered = _not_run(document), sum(entry["calls"] for entry in document["unmetered"])
    others = {
        "excluded": len(document["excluded"]),
        "not run": not_run,
        "not judged": _unjudged(document),
        "unmeasured": len(document["unmeasured"]),
        "unmetered call" if unmetered == 1 else "unmetered calls": unmetered,
        "suspected": sum(map(_is_suspected, document["scenarios"])),
    }
    parts += [f"{number:,} {what}" for what, number in others.items() if number]
    if alone := _other_errors(document):
        parts.append(plural(alone, "error"))
    return f"token budgets: {'; '.join(parts)}"


def _is_suspected(scenario: ScenarioEntry) -> bool:
    """Return whether it passes although its cached prefix may be another one in every process."""
    kinds = {finding["kind"] for finding in scenario["findings"]}
    return FindingKind.VOLATILE in kinds and not fails(scenario)


def _sums(document: Document, compared: Sequence[ScenarioEntry]) -> Iterator[str]:
    """Yield what the scenarios with a baseline take a run, against it, and in a month where that is known."""
    was, now, about = document["totals"]["baseline"], document["totals"]["measured"], _about(compared)
    before, after = was["prompt_tokens"], now["prompt_tokens"]
    yield f"{about}{count(after)} prompt tokens{_relative(after, before)}"
    if now["cost_usd"] is None:
        yield "cost unknown"
        return
    yield f"{about}{money(now['cost_usd'])} a run{_relative(now['cost_usd'], was['cost_usd'] or 0)}"
    months = [one["runs_per_month"] for one in compared]
    if None not in months:
        dollars = sum(
            (runs or 0) * _cost([one["measured"]]) for runs, one in zip(months, compared, strict=True)
        )
        yield f"{about}{money(dollars)} a month"


def _about(scenarios: Iterable[ScenarioEntry]) -> str:
    """Return `~` where the prompt of any of them is estimated."""
    return "~" if any(one["basis"] == "estimated" for one in scenarios) else ""


def _relative(now: float, was: float) -> str:
    """Return ` (+18.0%)`; nothing without a base."""
    return f" ({signed(now - was, percent((now - was) / was))})" if was else ""


def _longer(document: Document, compared: Sequence[ScenarioEntry]) -> list[str]:
    was, now, about = document["totals"]["baseline"], document["totals"]["measured"], _about(compared)
    counts: tuple[Count, ...] = ("prompt_tokens", "output_tokens")
    return [
        f"{about}{growth(now[name], was[name], count, METRICS[name])}"
        for name in counts
        if now[name] != was[name]
    ]


def _dearer(compared: Sequence[ScenarioEntry]) -> list[str]:
    priced = [one for one in compared if not unpriced(one)]
    before, after = _cost(one["baseline"] for one in priced), _cost(one["measured"] for one in priced)
    moved = round(after - before, 10)
    return [f"{_about(compared)}{growth(after, before, money, 'a run')}"] if moved else []


def growth(now: float, was: float, shown: Callable[[float], str], unit: str) -> str:
    """`+4,120 prompt tokens (+18.0%)`."""
    change = now - was
    return f"{signed(change, shown(change))} {unit}{_relative(now, was)}"


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


def metric_name(metric: str) -> str:
    """Return what a metric is called; one of a newer version by its own name."""
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
    """Dollars a run over the baseline, or all of them where there is none; None where unknown."""
    measured, baseline = scenario["measured"], scenario["baseline"]
    if measured is None or measured["cost_usd"] is None or not is_measured(scenario):
        return None
    if baseline is None:
        return measured["cost_usd"]
    return None if baseline["cost_usd"] is None else measured["cost_usd"] - baseline["cost_usd"]


def cost_cell(scenario: ScenarioEntry, runs: float = 1) -> str:
    """`+$0.0094`: what the change costs in `runs` runs; without a baseline, what the scenario costs."""
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
    """Return whether it asks something else than was recorded, or what never was."""
    return scenario["verdict"] in (Verdict.STALE, Verdict.UNRECORDED)


def approximate(scenario: ScenarioEntry) -> str:
    """`~` where the numbers of the prompt are estimated, `≥` where a part of them is unknown."""
    return {"estimated": "~", "unknown": "≥"}.get(scenario["basis"], "")


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
    now = scenario["verdict"] if is_departed(scenario) else now
    return Row(METRICS["prompt_tokens"], was, now, NONE, NONE)


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
"""The place of a problem with recorded usage that cannot be that of its prompt."""
SECOND_REPLAY = "second replay"
"""The place of what a second replay in another process has shown."""
FIRST = ("pytest", "--token-budget", "--token-budget-record=once", "--token-budget-update")
UPGRADE = ("pip", "install", "-U", "pytest-tokenbudget")
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
    by_verdict: dict[str, list[ScenarioEntry]] = defaultdict(list)
    for one in scenarios:
        by_verdict[one["verdict"]].append(one)
    over = by_verdict["over"]
    newer = [verdict for verdict in by_verdict if not is_known(verdict)]
    grown = [one for one in over if any(not _is_cap(limit) for limit in exceeded(one))]
    live, grown = [one for one in grown if _is_live(one)], [one for one in grown if not _is_live(one)]
    gone = [one for one in by_verdict["stale"] if _only_lost_turns(one)]
    departed = [
        one
        for verdict in ("stale", "unknown", "unrecorded")
        for one in by_verdict[verdict]
        if not (_is_edited_by_hand(one) or one in gone)
    ]
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
        WayOut("Write the first baseline", _command(UPDATE, by_verdict["new"])),
        *(WayOut(f"Upgrade to know what {verdict} means", UPGRADE) for verdict in newer),
    ]
    unpriced_models = any(limit["measured"] is None for one in over for limit in exceeded(one))
    return [
        *(WayOut("Bring the missing price", UPGRADE_PRICES) for _ in range(unpriced_models)),
        *(way_out for way_out in found if way_out.command),
        *_as_the_suite_does([one for one in departed if one["recorder"]]),
        *_without_a_key(departed),
        *(_raise_caps(one) for one in over if any(map(_is_cap, exceeded(one)))),
    ]


def _recording_of(scenario: ScenarioEntry) -> tuple[str, ...]:
    """Return the command that records what a scenario of our own cassettes lacks.

    Where the answer to what is asked says nothing that can be counted, or cannot be true, what was recorded
    has to be called again although it has not changed.
    """
    if scenario["verdict"] == "unrecorded":
        return FIRST
    misbilled = any(finding["where"] == MISBILLED for finding in scenario["findings"])
    unread = any(turn["basis"] == "unknown" and turn["recorded"] is None for turn in scenario["turns"])
    return RECORD_ALL if misbilled or unread else RECORD


def _is_edited_by_hand(scenario: ScenarioEntry) -> bool:
    """Return whether an edit resolves it that a finding names, and no recording does."""
    return any(finding["where"] == BY_HAND for finding in scenario["findings"])


def _only_lost_turns(scenario: ScenarioEntry) -> bool:
    """Return whether nothing but recorded turns that nobody asks for any more keeps it from being judged."""
    kinds = (FindingKind.TURNS_CHANGED, FindingKind.PROBLEM, FindingKind.UNKNOWN)
    found = {(one["kind"], one["where"]) for one in scenario["findings"] if one["kind"] in kinds}
    return found == {(FindingKind.TURNS_CHANGED, "removed")} and bool(scenario["turns"])


def _as_the_suite_does(stale: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """How tests are recorded that have recorded themselves."""
    theirs = [one for one in stale if one["recorder"] == "pytest-recording"]
    if len(theirs) == 1:
        yield WayOut("Record it anew (needs an API key)", _command(REWRITE, theirs))
    elif theirs:
        yield WayOut(f"Record each anew (needs an API key): {shlex.join(REWRITE)} TEST")
    if len(theirs) < len(stale):
        yield WayOut("Record the cassettes of plain vcrpy anew as the suite does it (needs an API key)")


def _without_a_key(departed: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """Yield what helps where nobody has a key, or where what changed can be counted by nobody."""
    if departed:
        shown = departed if len(departed) <= _NAMED else departed[:1]
        named = ", ".join(json.dumps(plain(ScenarioId(one["id"]).argument)) for one in shown)
        more = ", ..." if len(departed) > _NAMED else ""
        yield WayOut(
            "Without a key: undo the change, let somebody who has one record it, or set "
            f"exclude = [{named}{more}] in [tool.tokenbudget]"
        )


def _raise_caps(scenario: ScenarioEntry) -> WayOut:
    caps = " and ".join(limit["metric"] for limit in exceeded(scenario) if _is_cap(limit))
    where = f"the marker of {plain(scenario['id'])} or in [tool.tokenbudget]"
    return WayOut(f"A cap is raised by hand: {caps} in {where}")


def _is_live(scenario: ScenarioEntry) -> bool:
    return scenario["basis"] == str(Basis.LIVE)


def _is_cap(limit: LimitEntry) -> bool:
    return limit["metric"].startswith("max_")


def _command(command: tuple[str, ...], scenarios: Sequence[ScenarioEntry]) -> tuple[str, ...]:
    """The command for one scenario; for several, that of the whole suite; for none, none."""
    if len(scenarios) != 1:
        return command if scenarios else ()
    (one,) = scenarios
    return (*command, plain(ScenarioId(one["id"]).argument))


_PROOF = "--token-budget-stability replays once more in another process and tells."
_WAYS_OUT = "A newer pytest-tokenbudget may know it; --token-budget-count=api counts it exactly, for free."


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be known of scenarios even where they pass."""

    finding: FindingEntry
    """As it is of the first of them."""
    scenarios: tuple[ScenarioEntry, ...]

    def __str__(self) -> str:
        text = crop(sentence(self.finding), _NOTE)
        if place(self.finding) and place(self.finding) not in text:
            text = f"{place(self.finding)}: {text}"
        first, *others = short_names(self.scenarios)
        return f"{first}{f' and {len(others):,} more' if others else ''}: {text}{_next_step(self.finding)}"


def notes(document: Document) -> list[Note]:
    """Return what is to be known whatever the verdicts are, each once for all scenarios that it is found in.

    That are values that may lose the cache from process to process, another order, another model at the same
    price, options under which the recorded answers would be others, recordings that began with another cache,
    and models that are not known.
    """
    found: dict[tuple[object, ...], tuple[FindingEntry, list[ScenarioEntry]]] = {}
    for scenario in worst_first(document["scenarios"]):
        for finding in filter(is_note, scenario["findings"]):
            if _is_suspicion(finding) and fails(scenario):
                continue  # it is charged, or what fails is something else
            key = (finding["kind"], finding["where"], place(finding))
            found.setdefault(key, (finding, []))[1].append(scenario)
    return [Note(finding, tuple(scenarios)) for finding, scenarios in found.values()]


_NOTED = (
    FindingKind.VOLATILE,
    FindingKind.ANSWER_OPTIONS,
    FindingKind.OTHER_START,
    FindingKind.ASSUMED_MODEL,
)
_AT_NO_COST = (FindingKind.MODEL_CHANGED, FindingKind.RATE_CHANGED)
_NOTE = 400


def is_note(finding: FindingEntry) -> bool:
    """Return whether a finding explains no cost, and is to be known all the same."""
    return finding["kind"] in _NOTED or (finding["kind"] in _AT_NO_COST and finding["cost_usd"] == 0)


def _is_suspicion(finding: FindingEntry) -> bool:
    """Return whether a finding tells a value that no second replay has looked at."""
    return finding["kind"] == FindingKind.VOLATILE and finding["where"] != SECOND_REPLAY


def _next_step(finding: FindingEntry) -> str:
    """Return how the sentence of a note ends: what it means, and what would make it sure."""
    if finding["kind"] == FindingKind.ANSWER_OPTIONS:
        return ". Record it anew to know."
    if finding["kind"] == FindingKind.ASSUMED_MODEL:
        return f". {_WAYS_OUT}"
    if _is_suspicion(finding):
        return f". It is not charged, as nothing proves it volatile: {_PROOF}"
    return ", at the same price." if finding["kind"] in _AT_NO_COST else "."


def runs_of(scenario: ScenarioEntry, otherwise: float | None) -> float | None:
    """Return how often a month it runs: as its marker or the settings of its run said, else `otherwise`."""
    runs = scenario["runs_per_month"]
    return otherwise if runs is None else runs


def usual_month(runs_per_month: float) -> str:
    """What a month is where no test ran, so that no marker was read: the basis of its dollars, in words."""
    return f"a month is {runs_per_month:,.0f} runs of each, as the settings say (markers are not read)"
