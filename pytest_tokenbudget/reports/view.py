"""What every report shows of a document: the order, the headline, the rows, the causes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from posixpath import commonprefix

from pytest_tokenbudget.model import Verdict
from pytest_tokenbudget.reports.document import (
    Count,
    Document,
    FindingEntry,
    LimitEntry,
    ScenarioEntry,
    TokensEntry,
)
from pytest_tokenbudget.reports.facts import is_fact
from pytest_tokenbudget.reports.rows import METRICS, cost_change, unpriced
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.wording import count, money, percent, plural, signed

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
