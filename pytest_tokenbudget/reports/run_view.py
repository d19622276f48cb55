"""Choose what every report shows of a run: its headline, its last line, and what was not measured."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from pytest_tokenbudget.model import FindingKind
from pytest_tokenbudget.reports.change_view import SECOND_REPLAY, is_suspicion, notes, sentence
from pytest_tokenbudget.reports.document import Count, Document, ScenarioEntry, is_measured
from pytest_tokenbudget.reports.scenario_view import (
    METRICS,
    changed,
    cost_change,
    dollars_of,
    fails,
    is_cheaper,
    is_comparable,
    is_live,
    is_news,
    month_from,
    rank,
    short_names,
    tilde,
    unpriced,
    verdict_fails,
)
from pytest_tokenbudget.reports.text import plain, printable_lines
from pytest_tokenbudget.wording import count, money, next_step, percent, plural, signed

_MODES = {
    "replay": "replayed from recordings",
    "record": "recorded from real calls",
    "live": "measured by real calls",
}


def mode(document: Document) -> str:
    """Return how the run was measured, in words."""
    return _MODES.get(document["mode"], document["mode"])


def headline(document: Document, *, accepts: bool = False) -> str:
    """Return a sentence: `2 of 14 scenarios are over budget, 1 is stale: +4,120 prompt tokens (+18.0%), ...`.

    What was not measured comes before what is well. "Nothing changed" is said only if all was measured, and
    nothing is told of a change.
    """
    compared = [one for one in document["scenarios"] if is_comparable(one)]
    moved = [*_longer(document, compared), *_dearer(compared), *_dearer_a_month(compared)]
    fine = not (missing(document) or any(map(fails, document["scenarios"])))
    if moved:
        end = f": {', '.join(moved)}"
    elif any(map(changed, compared)):
        end = ": the same in all" if fine else ""
    elif suspected := sum(map(_is_suspected, document["scenarios"])):
        end = f", {suspected:,} suspected"
    else:
        unchanged = fine and compared and not accepts and not _hides_a_change(document)
        end = ", nothing changed" if unchanged else ""
    return _verdicts(document) + end + _unpaid(document)


def _hides_a_change(document: Document) -> bool:
    """Return whether numbers that are the same do not say that nothing changed, in all that there is."""
    told = (note.finding["kind"] for note in notes(document))
    return bool(document["excluded"] or document["unmetered"]) or any(
        kind != FindingKind.ASSUMED_MODEL for kind in told
    )


def _unpaid(document: Document) -> str:
    unknown = sum(unpriced(one) for one in document["scenarios"] if is_measured(one))
    return f", the cost of {plural(unknown, 'scenario')} unknown" if unknown else ""


def opening(document: Document) -> str:
    """Return the headline that fits a run: with dollars first if it fails, else with what is well."""
    return money_first(document) if any(map(fails, document["scenarios"])) else headline(document)


def money_first(document: Document) -> str:
    """Return the headline of a run that fails: dollars a month where known, and a run, tokens, verdicts."""
    compared = [one for one in document["scenarios"] if is_comparable(one)]
    parts = [*_dearer_a_month(compared), *_dearer(compared), *_longer(document, compared)]
    return ": ".join(filter(None, (", ".join(parts), _verdicts(document) + _unpaid(document))))


def _verdicts(document: Document) -> str:
    verdicts, not_run, unmeasured = _counts(document), _not_run(document), len(document["unmeasured"])
    unjudged = _unjudged(document) + not_run
    number = len(document["scenarios"]) + len(document["not_judged"]) + unmeasured
    every, passing = plural(number, "scenario"), verdicts["improved"] + verdicts["within"]
    amiss = [
        (n, "over budget" if name == "over" else name) for name, n in verdicts.items() if verdict_fails(name)
    ]
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
        improved = sum(one["verdict"] == "improved" and is_cheaper(one) for one in document["scenarios"])
        cheaper = f", {improved:,} of them cheaper" if improved else ""
        cheaper = ", and cheaper" if improved == number else cheaper
        said.append(f"{every} {_is(number)} within budget{cheaper}")
    if excluded := len(document["excluded"]):
        said.append(f"{excluded:,} {_is(excluded)} excluded")
    return ", ".join(said)


def _counts(document: Document) -> Counter[str]:
    """Count the scenarios that were judged by verdict, in the order of `rank`."""
    judged = (one["verdict"] for one in document["scenarios"] if not _is_told_only(one))
    return Counter(sorted(judged, key=rank))


def _is_told_only(scenario: ScenarioEntry) -> bool:
    """Return whether a scenario has live runs that only caps could judge, as it has no baseline."""
    return is_live(scenario) and scenario["verdict"] == "within" and scenario["baseline"] is None


def _unjudged(document: Document) -> int:
    """Count the scenarios without a verdict, but those that were not run."""
    told = sum(map(_is_told_only, document["scenarios"]))
    return len(document["not_judged"]) - _not_run(document) + told


def _other_errors(document: Document) -> int:
    """Count the errors that belong to no unjudged test: those of files, of a collection."""
    unjudged = {test["id"] for test in document["not_judged"]}
    return sum(error["id"] not in unjudged for error in document["errors"])


def _not_run(document: Document) -> int:
    """Count the tests that a spend limit kept from a call."""
    return sum(test["outcome"] == "not_run" for test in document["not_judged"])


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


Told = tuple[Sequence[str], str]
"""Tests, by their ids, and what is said of all of them."""


def missing(document: Document) -> list[str]:
    """Return a line for each error, and one for what ended otherwise without a verdict."""
    return _lines(missing_by_text(document))


def missing_by_text(document: Document) -> list[Told]:
    """Return what `missing` says: the tests, and why they are missing."""
    failed = {error["id"] for error in document["errors"]}
    others = [(test["id"], test["outcome"]) for test in document["not_judged"] if test["id"] not in failed]
    return [
        *_errors(document),
        *_by_text((name, f"not judged: {outcome}") for name, outcome in others),
        *_unmeasured(document),
    ]


def unmeasured(document: Document) -> list[str]:
    """Return a line for each reason why a committed baseline was not measured.

    Where tests were renamed, no pruning is advised: the baselines that seem to be left are theirs.
    """
    return _lines(_unmeasured(document))


def _unmeasured(document: Document) -> list[Told]:
    whys = {**_WHYS, "gone": _GONE} if any("formerly" in one for one in document["scenarios"]) else _WHYS
    return _by_text((one["id"], whys.get(one["why"], one["why"])) for one in document["unmeasured"])


_GONE = "has a baseline, and no test any more"
_WHYS = {
    "gone": f"{_GONE}. Bring the test back.\n"
    + next_step("If it is meant to go, its baseline goes with it", "tokenbudget prune --delete"),
    "skipped": "not measured: its module is skipped",
    "not_run": "was to run, and the run ended before it",
}


def errors(document: Document) -> list[str]:
    """Return a line for each error, with the tests that it is of."""
    return _lines(_errors(document))


def _errors(document: Document) -> list[Told]:
    return _by_text((error["id"], error["text"]) for error in document["errors"])


def _by_text(entries: Iterable[tuple[str | None, str]]) -> list[Told]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, text in entries:
        names[printable_lines(text)] += [plain(name)] if name else []
    return [(ids, text) for text, ids in names.items()]


def _lines(told: Iterable[Told]) -> list[str]:
    return [f"{names[0]}{and_more(names)}: {text}" if names else text for names, text in told]


def and_more(names: Sequence[str]) -> str:
    """Return how many names there are beside the first: ` and 2 more`."""
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""


def live(document: Document) -> list[str]:
    """Return a line for each scenario with live runs: what they cost, and what would decide an open one."""
    told = (FindingKind.INTERVAL, FindingKind.INCONCLUSIVE)
    names = short_names(document["scenarios"])
    return [
        f"{name}: {'; '.join(sentence(finding) for finding in entry['findings'] if finding['kind'] in told)}"
        for name, entry in zip(names, document["scenarios"], strict=True)
        if is_live(entry) and any(finding["kind"] in told for finding in entry["findings"])
    ]


def has_news(document: Document) -> bool:
    """Return whether there is more to say than that all was measured and nothing changed."""
    told = missing(document) or notes(document) or live(document)
    return bool(told) or any(map(is_news, document["scenarios"]))


def line(document: Document) -> str:
    """Return what was judged, as the last line of the section in the terminal.

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
    """Return whether its cached prefix may be another one in every process, which nothing charges."""
    found = [one for one in scenario["findings"] if one["kind"] == FindingKind.VOLATILE]
    if fails(scenario):
        return any(map(is_suspicion, found))
    return any(one["where"] != SECOND_REPLAY for one in found)


def _sums(document: Document, compared: Sequence[ScenarioEntry]) -> Iterator[str]:
    """Yield what scenarios with a baseline take a run, compared with it, and a month if that is known."""
    was, now, about = document["totals"]["baseline"], document["totals"]["measured"], tilde(compared)
    before, after = was["prompt_tokens"], now["prompt_tokens"]
    together = "together " if len(compared) > 1 else ""
    yield f"{together}{about}{count(after)} prompt tokens{_relative(after, before)}"
    if now["cost_usd"] is None:
        yield "cost unknown"
        return
    yield f"{about}{money(now['cost_usd'])} a run{_relative(now['cost_usd'], was['cost_usd'] or 0)}"
    yield from [of_month] if (of_month := month(compared)) else []


def month(scenarios: Sequence[ScenarioEntry]) -> str:
    """Return `$3,177.89 a month (from an empty cache, $2,901.00 with a warm prefix)`.

    Empty if it is not known of each of them how often it runs, and what a run costs.
    """
    runs = [one["runs_per_month"] for one in scenarios]
    if not scenarios or None in runs or any(map(unpriced, scenarios)):
        return ""
    dollars = sum(
        (number or 0) * dollars_of([one["measured"]]) for number, one in zip(runs, scenarios, strict=True)
    )
    return f"{tilde(scenarios)}{money(dollars)} a month{_start(scenarios)}"


def _start(scenarios: Sequence[ScenarioEntry]) -> str:
    """Return in brackets from which start a month is priced, and what it is from others.

    Empty if a document does not say so, and if nothing is cached.
    """
    starts = [(one["runs_per_month"] or 0, one.get("start")) for one in scenarios]
    cold = [runs * start["cold_usd"] for runs, start in starts if start and start["cold_usd"] is not None]
    warm = [runs * start["warm_usd"] for runs, start in starts if start and start["warm_usd"] is not None]
    if len(cold) < len(starts) or len(warm) < len(starts):
        return ""
    partly = any(start and start["foreign_reads"] for _, start in starts)
    return month_from(sum(cold), sum(warm), partly=partly)


def _relative(now: float, was: float) -> str:
    """Return the growth from `was`, ` (+18.0%)`; nothing without a base, or if nothing grew or shrank."""
    moved = round(now - was, 10)
    return f" ({signed(moved, percent(moved / was))})" if was and moved else ""


def _longer(document: Document, compared: Sequence[ScenarioEntry]) -> list[str]:
    was, now, about = document["totals"]["baseline"], document["totals"]["measured"], tilde(compared)
    counts: tuple[Count, ...] = ("prompt_tokens", "output_tokens")
    return [
        f"{about}{growth(now[name], was[name], count, METRICS[name])}"
        for name in counts
        if now[name] != was[name]
    ]


def _dearer(compared: Sequence[ScenarioEntry]) -> list[str]:
    priced = [one for one in compared if not unpriced(one)]
    before, after = (
        dollars_of(one["baseline"] for one in priced),
        dollars_of(one["measured"] for one in priced),
    )
    moved = round(after - before, 10)
    return [f"{tilde(compared)}{growth(after, before, money, 'a run')}"] if moved else []


def _dearer_a_month(compared: Sequence[ScenarioEntry]) -> list[str]:
    """Return the dollars more a month in words, if it is known of each scenario how often it runs."""
    costs = [(one["runs_per_month"], cost_change(one)) for one in compared]
    month = sum((runs or 0) * (dollars or 0.0) for runs, dollars in costs)
    is_known = all(runs and dollars is not None for runs, dollars in costs)
    return (
        [f"{tilde(compared)}{signed(month, money(month))} a month"] if is_known and round(month, 10) else []
    )


def growth(now: float, was: float, shown: Callable[[float], str], unit: str) -> str:
    """Return a change with its unit: `+4,120 prompt tokens (+18.0%)`."""
    change = now - was
    return f"{signed(change, shown(change))} {unit}{_relative(now, was)}"
