"""Choose what every report shows of a change: its place, its tokens and dollars, the scenarios it touches.

A change is what differs at one place, told once for all scenarios. Beside it stands what fails for another
reason, and what should be known although nothing fails.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_tokenbudget.model import FindingKind, Verdict
from pytest_tokenbudget.reports.document import Document, FindingEntry, ScenarioEntry, SourceEntry
from pytest_tokenbudget.reports.scenario_view import (
    dollars_of,
    exceeded,
    fails,
    is_comparable,
    is_of_match_on,
    short_names,
    tilde,
    worst_first,
)
from pytest_tokenbudget.reports.text import crop, plain
from pytest_tokenbudget.wording import count, money, plural, signed

_FEW, _OF_EACH_CAUSE = 12, 3


def causes(scenario: ScenarioEntry) -> list[FindingEntry]:
    """Return the findings that say why a scenario costs what it costs: all but the levers."""
    found = scenario["findings"]
    return [one for one in found if not is_lever(one)]


def reasons(scenario: ScenarioEntry) -> list[FindingEntry]:
    """Return the findings that say why it fails, without those to be known whatever the verdict is."""
    return [finding for finding in causes(scenario) if not is_note(finding)]


def beside_changes(scenario: ScenarioEntry) -> list[FindingEntry]:
    """Return the reasons of a failing scenario that no change tells; if it is over, changes tell costs."""
    told = OF_COST if scenario["verdict"] == "over" else ()
    return [finding for finding in reasons(scenario) if finding["kind"] not in told]


def by_cause(scenarios: Iterable[ScenarioEntry]) -> list[list[ScenarioEntry]]:
    """Group scenarios of one verdict and the same causes: one prompt changes, many tests fail."""
    groups: dict[object, list[ScenarioEntry]] = {}
    for one in scenarios:
        groups.setdefault(cause_of(one), []).append(one)
    return list(groups.values())


def cause_of(scenario: ScenarioEntry) -> tuple[object, ...]:
    """Return a key that is equal for scenarios of one verdict and the same causes."""
    reasons: list[object] = [(found["kind"], found["where"], place(found)) for found in causes(scenario)]
    return scenario["verdict"], *(reasons or [limit["metric"] for limit in exceeded(scenario)])


def some_of_each_cause(scenarios: Sequence[ScenarioEntry]) -> list[tuple[ScenarioEntry, int]]:
    """Return the first three scenarios of each cause; if there are few scenarios, all of them.

    Each comes with a number: how many more of its cause are left out after it.
    """
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
"""Kinds whose dollars add up to the change of a scenario's cost."""
_NEGLIGIBLE = 0.0005
"""The largest share that counts as rounding: it is shown as 0.0 %, or as 0.1 % at most."""


@dataclass(frozen=True)
class Change:
    """What differs at one place, and every scenario that it touches, the one that it costs most first."""

    touched: tuple[tuple[ScenarioEntry, tuple[FindingEntry, ...]], ...]
    """Each scenario with its findings about this place."""

    @property
    def findings(self) -> tuple[FindingEntry, ...]:
        """The findings of the scenario that the change costs most."""
        return self.touched[0][1]

    @property
    def scenarios(self) -> list[ScenarioEntry]:
        """All scenarios that the change touches."""
        return [scenario for scenario, _ in self.touched]

    @cached_property
    def failing(self) -> list[ScenarioEntry]:
        """The scenarios that the change touches and that fail."""
        return [scenario for scenario in self.scenarios if fails(scenario)]

    @property
    def source(self) -> SourceEntry | None:
        """Its file and line; None if they are not known."""
        return next((one["source"] for one in self.findings if one["source"]), None)

    @property
    def place(self) -> str:
        """Its file and line in words; empty if they are not known."""
        return line(self.source) if self.source else ""

    @property
    def where(self) -> str:
        """Its place in the request, in words: `the system prompt (system[0])`."""
        if self.findings[0]["kind"] == FindingKind.MODEL_CHANGED:
            return _MODEL
        return in_words(next((one["where"] for one in self.findings if one["where"]), ""))

    @property
    def title(self) -> str:
        """Its place in a file and in the request: `prompts/system.md:14: the system prompt (system[0])`."""
        return ": ".join(filter(None, (self.place, self.where)))

    @cached_property
    def tokens(self) -> int:
        """Prompt tokens that it adds to one run of each scenario."""
        grown = (one for one in self._findings if one["kind"] == FindingKind.GROWTH)
        return sum(one["tokens"] or 0 for one in grown)

    @cached_property
    def dollars(self) -> float | None:
        """Dollars that it adds to one run of each scenario; None if a price is missing."""
        costs = [one["cost_usd"] for one in self._findings]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    @property
    def is_saving(self) -> bool:
        """Whether a run bills less for it: what fails, fails for something else."""
        return self.tokens <= 0 and self.dollars is not None and self.dollars < 0

    @cached_property
    def month(self) -> float | None:
        """Dollars that it adds in a month; None if unknown, as when it is not known how often each runs."""
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
        """What it adds: `+1,056 prompt tokens, +$0.0015 a run, +$1.50 a month`; zeros are left out."""
        about = tilde(self.scenarios)
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
        """How many scenarios it touches: `in 45 scenarios together, 3 of them fail`."""
        number, failing = len(self.touched), len(self.failing)
        every = f"in {plural(number, 'scenario')}{' together' if number > 1 else ''}"
        if failing in (0, number):
            return every
        return f"{every}, {failing:,} of them {'fails' if failing == 1 else 'fail'}"

    @cached_property
    def is_told(self) -> bool:
        """Whether it is more than a rounding of the tokens and dollars of its scenarios."""
        sides = [side for scenario in self.scenarios if (side := scenario["baseline"])]
        tokens, cost = sum(side["prompt_tokens"] for side in sides), dollars_of(sides)
        moved = abs(self.tokens) > _NEGLIGIBLE * tokens
        return moved or self.dollars is None or abs(self.dollars) > _NEGLIGIBLE * cost


def changes(document: Document) -> list[Change]:
    """Return what differs, place by place, the worst first: in dollars a month if all are known, else a run.

    If anything fails, only changes that touch a failing scenario count. Mere roundings are left out, unless
    there is nothing else.
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
    """Return the findings about costs by their line, or by their place in the request if they have none.

    Another model counts, prices and caches the whole prompt anew: what has no line of its own belongs to it.
    """
    about = [finding for finding in causes(scenario) if finding["kind"] in OF_COST]
    about.sort(key=lambda finding: finding["kind"] != FindingKind.MODEL_CHANGED)
    model = about[0] if about and about[0]["kind"] == FindingKind.MODEL_CHANGED else None
    elsewhere = (place(model) or _MODEL) if model else None
    findings: dict[str, list[FindingEntry]] = defaultdict(list)
    for finding in about:
        findings[place(finding) or elsewhere or finding["where"] or sentence(finding)].append(finding)
    return findings


def _dearest(touched: tuple[ScenarioEntry, tuple[FindingEntry, ...]]) -> float:
    return _loss(sum(one["cost_usd"] or 0.0 for one in touched[1]))


def _loss(dollars: float | None) -> float:
    """Return a sort key that puts the highest cost first, and an unknown one before all."""
    return float("-inf") if dollars is None else -round(dollars, 10)


def unexplained(document: Document, told: Sequence[Change]) -> list[list[ScenarioEntry]]:
    """Return the failing scenarios that no change is told for, those of one reason together.

    A change explains a scenario that is over, if its cost is known. Every other verdict has a reason of its
    own.
    """
    explained = {one["id"] for change in told for one in change.failing if _is_counted(one)}
    failing = filter(fails, worst_first(document["scenarios"]))
    return by_cause(one for one in failing if one["id"] not in explained)


def _is_counted(scenario: ScenarioEntry) -> bool:
    """Return whether a scenario is over, and every number that is past its limit is known."""
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
    """Return a finding in a few words, without its line: `the system prompt (system[0]) +1,872 tokens`."""
    where, tokens = finding["where"], finding["tokens"]
    if finding["kind"] == FindingKind.GROWTH and where and tokens:
        return f"{in_words(where)} {signed(tokens, count(tokens))} tokens"
    if finding["kind"] == FindingKind.CACHE_BREAK and where:
        if short := finding.get("short"):
            return f"{in_words(where)} {short}"
        return f"the prompt cache is lost from {in_words(where)} on"
    return crop(sentence(finding), _PHRASE)


def levers(scenario: ScenarioEntry) -> list[FindingEntry]:
    """Return the findings that say what would be cheaper."""
    return [finding for finding in scenario["findings"] if is_lever(finding)]


def is_lever(finding: FindingEntry) -> bool:
    """Return whether a finding says what would be cheaper; its kind tells, also that of a newer version."""
    return finding["kind"].startswith("lever_")


def sentence(finding: FindingEntry) -> str:
    """Return the finding in one printable line; it says its place and its line by itself."""
    return plain(finding["text"])


_SAY_TOKENS = (FindingKind.GROWTH, FindingKind.CACHE_BREAK, FindingKind.CACHE_CHANGE)
"""Kinds whose sentence already says the tokens; only the sentence of a lever says dollars."""


def place(finding: FindingEntry) -> str:
    """Return the file and line of a finding; empty if it has none."""
    return line(finding["source"]) if finding["source"] else ""


def line(source: SourceEntry) -> str:
    """Return a file and line in words: `prompts/system.md:14`."""
    return f"{plain(source['file'])}:{source['line']}"


def facts(finding: FindingEntry) -> list[str]:
    """Return the tokens and dollars a run of a finding, if known and not in the text of its kind already."""
    tokens, cost, amounts = finding["tokens"], finding["cost_usd"], []
    if is_lever(finding):
        return []
    if tokens and finding["kind"] not in _SAY_TOKENS:
        amounts.append(f"{signed(tokens, count(tokens))} tokens")
    if cost:
        amounts.append(signed(cost, money(cost)))
    return [f"{', '.join(amounts)} a run"] if amounts else []


SECOND_REPLAY = "second replay"
"""`Finding.where` of what a second replay in another process has proved, which is charged."""
UNCHARGED = "second replay, not charged"
"""`Finding.where` of what a second replay has shown, and what nothing charges."""
_PROOF = "--token-budget-stability replays once more in another process and tells."
_WAYS_OUT = (
    "A newer pytest-tokenbudget may know it; --token-budget-count=api counts it exactly, for free, and "
    "minimum_cacheable_tokens in the settings names the shortest prefix that it caches."
)


@dataclass(frozen=True, slots=True)
class Note:
    """Something that should be known of scenarios even if they pass."""

    finding: FindingEntry
    """The finding of the first scenario."""
    scenarios: tuple[ScenarioEntry, ...]

    def __str__(self) -> str:
        told = sentence(self.finding).removeprefix(f"{plain(self.scenarios[0]['id'])}: ")
        text = crop(told, _NOTE)
        if place(self.finding) and place(self.finding) not in text:
            text = f"{place(self.finding)}: {text}"
        first, *others = short_names(self.scenarios)
        return f"{first}{f' and {len(others):,} more' if others else ''}: {text}{_next_step(self.finding)}"


def notes(document: Document) -> list[Note]:
    """Return what should be known whatever the verdicts are, each once for all scenarios that it is found in.

    These are values that may lose the cache from process to process, another order, another model at the same
    price or within tolerance, options under which the recorded answers would be others, recordings that began
    with another cache, models that are not known, and what the suite's own `match_on` refuses, which fails a
    test whatever its budget is.
    """
    found: dict[tuple[object, ...], tuple[FindingEntry, list[ScenarioEntry]]] = {}
    for scenario in worst_first(document["scenarios"]):
        is_within = scenario["verdict"] == Verdict.WITHIN
        for finding in scenario["findings"]:
            if not (is_note(finding) or (is_within and finding["kind"] in _OF_MODEL)):
                continue
            key = (finding["kind"], finding["where"], place(finding))
            found.setdefault(key, (finding, []))[1].append(scenario)
    return [Note(finding, tuple(scenarios)) for finding, scenarios in found.values()]


_NOTED = (
    FindingKind.VOLATILE,
    FindingKind.ANSWER_OPTIONS,
    FindingKind.OTHER_START,
    FindingKind.ASSUMED_MODEL,
)
_OF_MODEL = (FindingKind.MODEL_CHANGED, FindingKind.RATE_CHANGED)
_NOTE = 600


def is_note(finding: FindingEntry) -> bool:
    """Return whether a finding explains no cost, and should be known all the same."""
    same_price = finding["kind"] in _OF_MODEL and finding["cost_usd"] == 0
    return finding["kind"] in _NOTED or same_price or is_of_match_on(finding)


def is_suspicion(finding: FindingEntry) -> bool:
    """Return whether a finding tells a value that no second replay has looked at."""
    return finding["kind"] == FindingKind.VOLATILE and finding["where"] not in (SECOND_REPLAY, UNCHARGED)


def _next_step(finding: FindingEntry) -> str:
    """Return how the sentence of a note ends: what it means, and what would make it sure."""
    if finding["kind"] == FindingKind.ANSWER_OPTIONS:
        return ". Record it anew to know."
    if finding["kind"] == FindingKind.ASSUMED_MODEL:
        return f". {_WAYS_OUT}"
    if is_suspicion(finding):
        return f". It is not charged, as nothing proves it volatile: {_PROOF}"
    if finding["kind"] in _OF_MODEL:
        return f", {'at the same price' if finding['cost_usd'] == 0 else 'within the tolerance of the cost'}."
    return "" if is_of_match_on(finding) else "."  # that ends in a command
