"""Define the JSON document that every report is made of: types, totals, reading, merging.

A document is held against `document.schema.json`, in the part of JSON Schema that the schema uses.
Version 1 is read for ever; keys that a reader does not know are ignored. The documents of several shards
merge into one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from posixpath import normpath
from types import MappingProxyType
from typing import Any, Literal, NoReturn, NotRequired, TypedDict, cast

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.model import Rate, ScenarioId, Tokens, Usage, Verdict
from pytest_tokenbudget.wording import next_step, plural

VERSION = 2

_AGAIN = "Write it again with --token-budget-report=json:FILE."

Recorder = Literal["pytest-recording", "vcrpy"]
Count = Literal[
    "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "prompt_tokens"
]


class CacheCreation(TypedDict):
    """Written prompt tokens by lifetime."""

    ephemeral_5m_input_tokens: int
    ephemeral_1h_input_tokens: int


class CountsEntry(TypedDict):
    """The four counts, and the prompt's sum."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    prompt_tokens: int


class RateEntry(CountsEntry):
    """The tokens that were billed at one rate."""

    cost_usd: float | None
    cache_creation: CacheCreation
    web_search_requests: NotRequired[int]


class TokensEntry(CountsEntry):
    """The tokens of a turn, a scenario or a suite (TOKENS)."""

    turns: int
    cost_usd: float | None
    models: dict[str, RateEntry]


class LimitEntry(TypedDict):
    """One metric held against its limit or cap."""

    metric: str
    baseline: float | None
    measured: float | None
    limit: float
    change: float | None
    over: bool


class TurnEntry(TypedDict):
    """One billed turn."""

    index: int
    model: str | None
    basis: str
    paired: str | None
    tokens: TokensEntry | None
    recorded: TokensEntry | None


class SourceEntry(TypedDict):
    """A line of a file of the repository."""

    file: str
    line: int


class FindingEntry(TypedDict):
    """One cause, or one way to spend less."""

    kind: str
    where: str
    tokens: int | None
    cost_usd: float | None
    text: str
    source: SourceEntry | None
    short: NotRequired[str]
    """What becomes of its place, in a few words; only where its kind does not say that."""


class PartEntry(TypedDict):
    """The tokens and dollars of one part of the context in a run."""

    part: str
    """`system`, `tools`, `conversation`, `tool results`, `thinking`, `images` or `answers`."""
    tokens: int
    cost_usd: float | None
    turns: list[float | None]
    """Dollars by turn; 0 where a turn has none of it, None where they are unknown."""


class ToolEntry(TypedDict):
    """The tokens and dollars of the definition of one tool in a run."""

    server: str
    """The MCP server that its name tells; else empty."""
    name: str
    tokens: int
    cost_usd: float | None


class ConversationEntry(TypedDict):
    """The tokens and dollars of one conversation: an agent's, or a subagent's with its own beginning."""

    model: str
    turns: list[int]
    """Indexes among the turns of the scenario."""
    tokens: int
    """Tokens of prompts and answers."""
    cost_usd: float | None


class ContextEntry(TypedDict):
    """The parts of a scenario's bill."""

    parts: list[PartEntry]
    tools: list[ToolEntry]
    conversations: list[ConversationEntry]


class MoveEntry(TypedDict):
    """A file or folder that stands under the old name of a test, and where it belongs now."""

    old: str
    new: str


class BoundsEntry(TypedDict):
    """The bounds of a run that asks more than was recorded."""

    least: TokensEntry
    most: TokensEntry | None
    """None if the worst case is unknown."""


class StartEntry(TypedDict):
    """From which prompt cache a run was measured, and what it costs from others; None: a price is unknown."""

    foreign_reads: int
    """Tokens that it read and had not put into the cache itself."""
    cold_usd: float | None
    """A run, from an empty cache."""
    warm_usd: float | None
    """A run whose prefix is in the cache."""


class StartsEntry(TypedDict):
    """What a run of each of some baselines costs together, from several starts; None: a price is unknown."""

    scenarios: int
    foreign_reads: int
    """Tokens that they read and had not put into the cache themselves."""
    usd: float | None
    """From the start of each recording."""
    cold_usd: float | None
    """From an empty cache."""
    warm_usd: float | None
    """With the prefix of each in the cache."""
    warm_is_least: bool
    """Whether `warm_usd` is the least that it can be: a baseline does not say which turn wrote how much."""


class FormerlyEntry(TypedDict):
    """What tests that are gone have left, and a scenario finds by what it asks; and what takes it along.

    Ids and paths are from the root of the run.
    """

    text: str
    """What was found, in a sentence."""
    cassettes: list[str]
    baselines: list[str]
    """Ids under which they stand."""
    folders: list[str]
    """Folders to make first."""
    moves: list[MoveEntry]
    """None where several tests may have been this one."""
    update: str | None
    """The tests whose baselines are to be written then, as an argument of pytest; None where none are."""
    prune: bool
    """Whether nothing but what belongs to no test is left then, so that it may be deleted."""


class ScenarioEntry(TypedDict):
    """One scenario: its verdict and all that led to it."""

    id: str
    file: str
    line: int
    verdict: str
    """A `Verdict`, or a word of a newer version, which counts as failing."""
    basis: str
    baseline: TokensEntry | None
    measured: TokensEntry | None
    limits: list[LimitEntry]
    turns: list[TurnEntry]
    findings: list[FindingEntry]
    recorder: str | None
    """The recorder of its cassettes; None for this plugin."""
    runs_per_month: int | None
    """How often it runs a month, as its marker or the settings of its run say."""
    context: NotRequired[ContextEntry]
    """Only for a scenario that was measured."""
    bounds: NotRequired[BoundsEntry]
    """Only for a scenario that asks more than was recorded."""
    start: NotRequired[StartEntry]
    """Only if it is known how often the scenario runs a month."""
    formerly: NotRequired[FormerlyEntry]
    """Only for a scenario that may have been renamed or moved."""


class TotalsEntry(TypedDict):
    """How often each verdict was given, and the sums of the scenarios."""

    verdicts: dict[str, int]
    baseline: TokensEntry
    measured: TokensEntry


class ErrorEntry(TypedDict):
    """Something that the run could not do: a test that ended unmeasured, a file that cannot be read."""

    id: str | None
    text: str


class NotJudgedEntry(TypedDict):
    """A scenario whose test was collected and has no verdict."""

    id: str
    outcome: str
    """`failed`, `not_run` (a spend limit kept it from a call), `skipped` or `xfailed`."""


class ExcludedEntry(TypedDict):
    """A test that is not judged because its suite says so."""

    id: str
    why: str


class UnmeasuredEntry(TypedDict):
    """A scenario with a committed baseline, in a folder that was run, that nothing measured."""

    id: str
    why: str
    """`gone` (it has no test), `skipped` (its module is), `not_run` (the run ended before it). The first and
    the last fail the run."""


class UnmeteredEntry(TypedDict):
    """Model calls that no scenario meters, and that the suite allows."""

    id: str
    """The id of the test that made them, else words that say who did."""
    calls: int


class Document(TypedDict):
    """The JSON document of one run."""

    version: int
    tool: dict[str, str]
    mode: str
    prices: dict[str, str]
    commit: str | None
    totals: TotalsEntry
    scenarios: list[ScenarioEntry]
    errors: list[ErrorEntry]
    not_judged: list[NotJudgedEntry]
    excluded: list[ExcludedEntry]
    unmetered: list[UnmeteredEntry]
    unmeasured: list[UnmeasuredEntry]
    committed: list[str]
    """Ids of all baselines in the folders that were run."""
    project: str | None
    """The folder of the run, relative to the top of its repository; None outside of one."""


def totals(scenarios: Iterable[ScenarioEntry]) -> TotalsEntry:
    """Return what `scenarios` add up to; a cost is None as soon as one of them has none.

    Only scenarios with a baseline and a measurement that answer the same question are added up.
    """
    listed = list(scenarios)
    both = [
        (one["baseline"], one["measured"])
        for one in listed
        if one["baseline"] is not None and one["measured"] is not None and is_measured(one)
    ]
    verdicts = Counter(one["verdict"] for one in listed)
    return {
        "verdicts": {name: verdicts[name] for name in dict.fromkeys((*map(str, Verdict), *verdicts))},
        "baseline": add([baseline for baseline, _ in both]),
        "measured": add([measured for _, measured in both]),
    }


_KNOWN = frozenset(map(str, Verdict))


def is_known(verdict: str) -> bool:
    """Return whether this version knows `verdict`."""
    return verdict in _KNOWN


def is_measured(scenario: ScenarioEntry) -> bool:
    """Return whether the numbers of a scenario answer the question that its baseline answers."""
    verdict = scenario["verdict"]
    return scenario["measured"] is not None and not (is_known(verdict) and not Verdict(verdict).is_measured)


def add(entries: Iterable[TokensEntry]) -> TokensEntry:
    """Return the sum of TOKENS, rate by rate; a cost is None as soon as one of its parts has none."""
    total, costs = Usage(), list[float | None]()
    by_rate: dict[Rate, list[float | None]] = {}
    for entry in entries:
        total += usage_of(entry)
        costs.append(entry["cost_usd"])
        for rate, part in entry["models"].items():
            by_rate.setdefault(Rate.parse(rate), []).append(part["cost_usd"])
    return tokens_entry(total, _sum(costs), {rate: _sum(parts) for rate, parts in by_rate.items()})


def _sum(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return round(sum(known), 10) if len(known) == len(costs) else None


def tokens_entry(usage: Usage, cost: float | None, costs: Mapping[Rate, float | None]) -> TokensEntry:
    """Return TOKENS: the counts of all rates together, then by rate; `costs` are dollars by rate."""
    models = {str(rate): _rate_entry(usage.by_rate[rate], costs[rate]) for rate in sorted(usage.by_rate)}
    return {"turns": usage.turns, **_counts_entry(usage.tokens), "cost_usd": cost, "models": models}


def _rate_entry(tokens: Tokens, cost: float | None) -> RateEntry:
    entry = {
        **_counts_entry(tokens),
        "cost_usd": cost,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.ephemeral_5m_input_tokens,
            "ephemeral_1h_input_tokens": tokens.ephemeral_1h_input_tokens,
        },
    }
    searches = {"web_search_requests": tokens.web_search_requests} if tokens.web_search_requests else {}
    return cast("RateEntry", {**entry, **searches})


def _counts_entry(tokens: Tokens) -> CountsEntry:
    return {
        "input_tokens": tokens.input_tokens,
        "cache_creation_input_tokens": tokens.cache_creation_input_tokens,
        "cache_read_input_tokens": tokens.cache_read_input_tokens,
        "output_tokens": tokens.output_tokens,
        "prompt_tokens": tokens.prompt_tokens,
    }


def usage_of(entry: TokensEntry) -> Usage:
    """Return the usage that `tokens_entry` wrote."""
    by_rate: dict[Rate, Tokens] = {}
    for name, part in entry["models"].items():
        rate, tokens = Rate.parse(name), _tokens_of(part)
        by_rate[rate] = by_rate[rate] + tokens if rate in by_rate else tokens
    return Usage(entry["turns"], MappingProxyType(by_rate))


def _tokens_of(entry: RateEntry) -> Tokens:
    return Tokens(
        input_tokens=entry["input_tokens"],
        ephemeral_5m_input_tokens=entry["cache_creation"]["ephemeral_5m_input_tokens"],
        ephemeral_1h_input_tokens=entry["cache_creation"]["ephemeral_1h_input_tokens"],
        cache_read_input_tokens=entry["cache_read_input_tokens"],
        output_tokens=entry["output_tokens"],
        web_search_requests=entry.get("web_search_requests", 0),
    )


def load(path: Path) -> Document:
    """Read and validate the document at `path`; `ReportError` says what is wrong with it and where."""
    try:
        document = json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}. {_AGAIN}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is not UTF-8 text. {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}. {_AGAIN}") from error
    return validate(document, str(path))


def validate(document: object, name: str = "the document") -> Document:
    """Return `document` where the schema allows it, one of version 1 as version 2 writes it.

    Raises ReportError with `name` and the wrong key.
    """
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ReportError(
            f"{name} has version {version}, written by a newer pytest-tokenbudget; this one reads versions 1 "
            f"to {VERSION}. " + next_step("Upgrade", "pip install -U pytest-tokenbudget")
        )
    if isinstance(document, dict):
        for keys, what in _BESIDE.items():
            if keys <= document.keys():
                raise ReportError(f"{name} is no document of a run: it is {what}.")
    document = _upgraded(document)
    wrong = next(problems(document), None)
    if wrong is not None:
        raise ReportError(f"{name}: {wrong}. {_AGAIN}")
    return cast("Document", document)


DOCUMENT, DIFF, CHECK = "token-budget.json", "token-budget-diff.json", "token-budget-check.json"
"""The names of a document and of what stands beside it, in the folder of a CI artifact."""
_BESIDE: Mapping[frozenset[str], str] = {
    frozenset(("problems", "notices")): (
        f"what `tokenbudget check` wrote. Keep it as {CHECK} beside {DOCUMENT}, and name the folder"
    ),
    frozenset(("base", "unchanged")): f"what `tokenbudget diff` wrote. Give it as --diff={DIFF}",
}
"""What is given for a document by mistake, by keys that it has and a document has not."""

_LATER: Mapping[str, object] = {
    "excluded": [],
    "unmetered": [],
    "unmeasured": [],
    "committed": [],
    "project": None,
}
"""Keys of version 2 that its first writers did not have, with the values that stand in for them."""


def _upgraded(document: object) -> object:
    """Return a document with the keys that version 2 has, where older ones lack them; anything else as is."""
    if not isinstance(document, dict):
        return document
    if document.get("version") != 1 or not _is_a(document["version"], "integer"):
        return document if _LATER.keys() <= document.keys() else {**_LATER, **document}
    upgraded = {**_LATER, **document, "version": VERSION, "errors": [], "not_judged": []}
    if isinstance(scenarios := document.get("scenarios"), list):
        upgraded["scenarios"] = [_upgraded_scenario(scenario) for scenario in scenarios]
    return upgraded


def _upgraded_scenario(scenario: object) -> object:
    """Return a scenario of version 1, where findings said who records it and how often it runs."""
    if not isinstance(scenario, dict) or not isinstance(scenario.get("findings"), list):
        return scenario
    said: dict[str, object] = {"recorder": None, "runs_per_month": None}
    causes = []
    for finding in scenario["findings"]:
        if isinstance(finding, dict) and finding.get("kind") in ("recorder", "runs_per_month"):
            said[finding["kind"]] = finding.get("where")
        else:
            causes.append(finding)
    runs = said["runs_per_month"]
    said["runs_per_month"] = (
        int(runs) if isinstance(runs, str) and re.fullmatch("[0-9]{1,18}", runs) else None
    )
    return {**scenario, "findings": causes, **said}


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


Schema = Mapping[str, Any]

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_SPOKEN: Mapping[str, str] = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


@cache
def schema() -> Schema:
    """Return the JSON schema (draft 2020-12) of the document."""
    text = files("pytest_tokenbudget.reports").joinpath("document.schema.json").read_text("utf-8")
    loaded: Schema = json.loads(text)
    return loaded


def problems(value: object, rule: Schema | None = None, key: str = "") -> Iterator[str]:
    """Yield sentences like `scenarios[3].line must be a whole number, not "x"`, in the document's order."""
    rule = schema() if rule is None else rule
    if "$ref" in rule:
        yield from problems(value, schema()["$defs"][rule["$ref"].removeprefix("#/$defs/")], key)
    elif "anyOf" in rule:
        first, *others = rule["anyOf"]
        wrong = list(problems(value, first, key))
        if wrong and all(any(problems(value, option, key)) for option in others):
            yield from wrong
    elif wanted := _unmet(value, rule):
        yield f"{key or 'it'} must be {wanted}, not {_shown(value)}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from problems(item, rule["items"], f"{key}[{index}]")
    elif isinstance(value, dict):
        yield from _object_problems(value, rule, key)


def _object_problems(value: dict[str, object], rule: Schema, key: str) -> Iterator[str]:
    known, others = rule.get("properties", {}), rule.get("additionalProperties", True)
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{_join(key, name)} is missing"
    for name, item in value.items():
        if name in known:
            yield from problems(item, known[name], _join(key, name))
        elif others is False:
            yield f"{_join(key, name)} is not a key of this version"
        elif others is not True:
            yield from problems(item, others, _join(key, name))


def _unmet(value: object, rule: Schema) -> str | None:
    """Return what `value` itself must be and is not, in words, whatever is inside it; None if it is."""
    if "type" not in rule:
        allowed = rule["enum"] if "enum" in rule else [rule["const"]]
        met = any(value == one and type(value) is type(one) for one in allowed)
        return None if met else " or ".join(json.dumps(one) for one in allowed)
    names = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    if not any(_is_a(value, name) for name in names):
        return " or ".join(_SPOKEN[name] for name in names)
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        return "a word of small letters"
    if isinstance(value, (int, float)) and value < rule.get("minimum", value):
        return f"at least {rule['minimum']}"
    if isinstance(value, (int, float)) and value > rule.get("maximum", value):
        return f"at most {rule['maximum']}"  # 1e999 is infinite
    return None


def _is_a(value: object, name: str) -> bool:
    if isinstance(value, bool):  # an int to Python, not to JSON
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return _SPOKEN["object" if isinstance(value, dict) else "array"]
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


_SAME_RUN = ("commit", "mode", "prices", "tool")
"""What documents must agree on for their numbers to be of one run and to add up."""


@dataclass(frozen=True, slots=True)
class Merged:
    """One document, and what a person should know of how it came about."""

    document: Document
    notes: tuple[str, ...] = ()


def merge(documents: Mapping[str, Document], *, shards: int | None = None) -> Merged:
    """Return the document of all scenarios of `documents`, which are named by the files they came from.

    The order of the files does not matter. A scenario that several files hold is taken once if it is the same
    in all of them. Raises ReportError, which names the files, if it is not, if the files are not of one run,
    or if there are not `shards` of them.
    """
    names = sorted(documents)
    if shards is not None and len(names) != shards:
        raise ReportError(
            f"{len(names)} of {shards} shards are here: {', '.join(names) or 'none'}. What the others have "
            "measured would be missing without a trace: wait for them, or give the number that is meant."
        )
    if not names:
        raise ReportError("There is no document to merge. Name the files of the shards.")
    _check_same_run(names, documents)
    if len({document["project"] or "" for document in documents.values()}) > 1:
        documents = {name: _from_above(document) for name, document in documents.items()}
    found: dict[str, tuple[str, ScenarioEntry]] = {}
    doubles = 0
    for name in names:
        for scenario in documents[name]["scenarios"]:
            before, known = found.setdefault(scenario["id"], (name, scenario))
            doubles += known is not scenario
            if known != scenario:
                raise ReportError(
                    f"{before} and {name} disagree about {scenario['id']}. Each shard runs its own part of "
                    "the suite: leave one of the files out, or run both with the same settings."
                )
    scenarios = [scenario for _, (_, scenario) in sorted(found.items())]
    merged = {**documents[names[0]], "totals": totals(scenarios), "scenarios": scenarios}
    parts = [documents[name] for name in names]
    merged |= _unjudged(parts, set(found))
    merged |= _unmeasured(parts, found)
    empty = [name for name in names if not documents[name]["scenarios"]]
    notes = [f"{name} holds no scenario." for name in empty]
    if doubles:
        verb = "was" if doubles == 1 else "were"
        notes.append(f"{plural(doubles, 'scenario')} {verb} in more than one file, and the same in each.")
    return Merged(cast("Document", merged), tuple(notes))


_WITH_IDS = ("scenarios", "errors", "not_judged", "excluded", "unmeasured", "unmetered")
"""Keys of lists whose entries have the id of a scenario."""


def _from_above(document: Document) -> Document:
    """Return a document with all its ids as they are from the top of the repository."""
    folder = f"{document['project']}/" if document["project"] else ""

    def placed(entries: Iterable[Mapping[str, Any]]) -> list[Any]:
        return [{**one, "id": one["id"] and str(ScenarioId(one["id"]).below(folder))} for one in entries]

    document = from_the_top(document, folder)
    entries: Mapping[str, Any] = document
    lists = {name: placed(entries[name]) for name in _WITH_IDS}
    committed = [str(ScenarioId(one).below(folder)) for one in document["committed"]]
    return cast("Document", {**document, **lists, "committed": committed, "project": ""})


def from_the_top(document: Document, prefix: str) -> Document:
    """Return `document` with its files as GitHub knows them, from the top of the repository."""
    scenarios = [
        {
            **one,
            "file": prefix + one["file"],
            "findings": [
                {**found, "source": {**found["source"], "file": normpath(prefix + found["source"]["file"])}}
                if found["source"]
                else found
                for found in one["findings"]
            ],
        }
        for one in document["scenarios"]
    ]
    return {**document, "scenarios": cast("list[ScenarioEntry]", scenarios)}


def _unjudged(documents: Sequence[Document], measured: Collection[str]) -> dict[str, object]:
    """Return the errors and what is not judged of all `documents`, each once, without what is `measured`."""
    errors = {(error["id"] or "", error["text"]): error for one in documents for error in one["errors"]}
    left = {each["id"]: each for one in documents for each in one["not_judged"] if each["id"] not in measured}
    kept = [error for _, error in sorted(errors.items()) if error["id"] not in measured]
    excluded = {each["id"]: each for one in documents for each in one["excluded"]}
    unmetered: Counter[str] = Counter()
    for one in documents:
        unmetered.update({each["id"]: each["calls"] for each in one["unmetered"]})
    return {
        "errors": kept,
        "not_judged": [each for _, each in sorted(left.items())],
        "excluded": [each for _, each in sorted(excluded.items())],
        "unmetered": [{"id": name, "calls": calls} for name, calls in sorted(unmetered.items())],
    }


def _unmeasured(documents: Sequence[Document], measured: Iterable[str]) -> dict[str, object]:
    """Return the committed baselines of all `documents`, and those that none of them knows of.

    One document alone claims what its own run did; of several, what no one has measured is gone.
    """
    known = set(measured)
    for document in documents:
        known |= {each["id"] for each in (*document["not_judged"], *document["excluded"])}
    committed = sorted({each for document in documents for each in document["committed"]})
    entries = {each["id"]: each for document in documents for each in document["unmeasured"]}
    if len(documents) > 1:
        tests = [each for each in committed if ScenarioId(each).kind == "test" and each not in entries]
        entries |= {each: {"id": each, "why": "gone"} for each in tests}
    left = [each for _, each in sorted(entries.items()) if each["id"] not in known]
    return {"committed": committed, "unmeasured": left}


def is_lost(entry: UnmeasuredEntry) -> bool:
    """Return whether what was not measured fails the run."""
    return entry["why"] != "skipped"


def _check_same_run(names: list[str], documents: Mapping[str, Document]) -> None:
    first = names[0]
    for key in _SAME_RUN:
        for name in names[1:]:
            ours, theirs = documents[first].get(key), documents[name].get(key)
            if ours != theirs:
                raise ReportError(
                    f"{first} and {name} are not of one run: "
                    f"{key} {_setting_text(ours)} and {_setting_text(theirs)}. "
                    "Merge what one commit, one mode, one price list and one version of the tool measured."
                )


def _setting_text(value: object) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
