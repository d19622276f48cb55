"""Where the money goes: the dearest scenarios, the models, and what would be cheaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.advice_report import LeverEntry, advice, outliers, overlap
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.subjects import Subject
from pytest_tokenbudget.reports.document import Document, RateEntry, add
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural, signed

_DEAREST, _LEVERS = 10, 10


@dataclass(frozen=True, slots=True)
class Spender:
    """A scenario and its part of the spend."""

    name: str
    anchor: str
    cost: str
    share: str
    together: str
    """The share of all down to this one."""
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
    """What one model, or one rate of it, takes in a run of everything."""

    name: str
    cells: Sequence[str]
    picture: str


@dataclass(frozen=True, slots=True)
class Lever:
    """A way to spend fewer."""

    saving: str
    text: str
    facts: str


@dataclass(frozen=True, slots=True)
class Savings:
    """What would be cheaper."""

    levers: Sequence[Lever] = ()
    note: str = ""
    """What to know where they overlap."""


MODEL_HEADERS = ("Uncached", "Written", "Read", "Output", "Cache share", "Cost a run", "Of the spend")


def spend(subjects: Sequence[Subject]) -> Spend:
    """Of all scenarios whose cost is known."""
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
    """`7 of 500 scenarios hold 50.3% of the $0.71 that a run costs; 12 cost far more than the others.`"""
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
    """Each rate by its cost, unknown ones first."""
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
    """What saves most first."""
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
    shown = view.short_ids(names)[0] if names else NONE
    others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    facts = ", ".join(filter(None, (lever["source"], f"in {shown}{others}")))
    return Lever(saving, text if not where or where in text else f"{where}: {text}", facts)
