"""Write a run for other programs: OTLP/JSON traces, JUnit properties, GitHub workflow commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from pytest_tokenbudget.model import Rate
from pytest_tokenbudget.reports import change_view, run_view, scenario_view
from pytest_tokenbudget.reports.document import Document, ScenarioEntry, TokensEntry, TurnEntry
from pytest_tokenbudget.reports.scenario_view import fails, rows, ways_out
from pytest_tokenbudget.reports.text import command_data, command_property, plain

Json = dict[str, Any]
Value = str | int | float | bool | None

_SCHEMA = "https://opentelemetry.io/schemas/gen-ai/1.42.0"
_INTERNAL, _CLIENT = 1, 3
_OK, _ERROR = 1, 2
_STEP = 1_000_000
"""Nanoseconds between one turn and the next: a replay has an order but no duration."""


def traces(document: Document, time_unix_nano: int) -> Json:
    """Return an OTLP `ExportTraceServiceRequest`: a trace a scenario, a span a turn.

    It begins at `time_unix_nano`. Names are those of the GenAI conventions, whose `input_tokens` include what
    is written to and read from the cache; ours stand beside them as `tokenbudget.*`. What is unknown is left
    out. The same document at the same time has the same ids.
    """
    spans = [
        span for scenario in document["scenarios"] for span in _scenario(document, scenario, time_unix_nano)
    ]
    tool, prices = document["tool"], document["prices"]
    resource = {
        "service.name": tool["name"],
        "service.version": tool["version"],
        "vcs.ref.head.revision": document["commit"],
        "tokenbudget.mode": document["mode"],
        "tokenbudget.prices.source": prices["source"],
        "tokenbudget.prices.version": prices["version"],
    }
    scope = {"name": tool["name"], "version": tool["version"]}
    scoped = {"scope": scope, "schemaUrl": _SCHEMA, "spans": spans}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scoped]}]}


def _scenario(document: Document, scenario: ScenarioEntry, start: int) -> Iterator[Json]:
    trace = _id(16, document["commit"], start, scenario["id"])
    root = _id(8, trace)
    baseline, measured = scenario["baseline"], scenario["measured"]
    attributes: dict[str, Value] = {
        "test.case.name": scenario["id"],
        "test.case.result.status": "fail" if fails(scenario) else "pass",
        "code.file.path": scenario["file"],
        "code.line.number": scenario["line"],
        "tokenbudget.verdict": scenario["verdict"],
        "tokenbudget.basis": scenario["basis"],
        **_ours("tokenbudget.baseline", baseline),
        **_ours("tokenbudget.measured", measured),
    }
    end = start + _STEP * len(scenario["turns"])
    status = {"code": _ERROR, "message": scenario["verdict"]} if fails(scenario) else {"code": _OK}
    yield _span(trace, root, "", scenario["id"], _INTERNAL, start, end, attributes, status)
    for turn in scenario["turns"]:
        began = start + _STEP * turn["index"]
        name = f"chat {Rate.parse(turn['model']).model}" if turn["model"] else "chat"
        span = _id(8, trace, turn["index"])
        yield _span(trace, span, root, name, _CLIENT, began, began + _STEP, _turn(turn), {})


def _turn(turn: TurnEntry) -> dict[str, Value]:
    tokens = turn["tokens"]
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": turn["model"] and Rate.parse(turn["model"]).model,
        "tokenbudget.turn": turn["index"],
        "tokenbudget.basis": turn["basis"],
        "tokenbudget.paired": turn["paired"],
        **_ours("tokenbudget.measured", tokens),
        **_ours("tokenbudget.recorded", turn["recorded"]),
    }
    if tokens is None:
        return attributes
    written = tokens["cache_creation_input_tokens"]
    return attributes | {
        "gen_ai.response.model": next((Rate.parse(rate).model for rate in tokens["models"]), None),
        "gen_ai.usage.input_tokens": tokens["prompt_tokens"],
        "gen_ai.usage.output_tokens": tokens["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": tokens["cache_read_input_tokens"],
        "gen_ai.usage.cache_write.input_tokens": written,
        "gen_ai.usage.cache_creation.input_tokens": written,  # its name until 2026, which many still read
    }


def _ours(prefix: str, tokens: TokensEntry | None) -> dict[str, Value]:
    """Return the document's own counts, in which `input_tokens` are the uncached ones only."""
    if tokens is None:
        return {}
    return {f"{prefix}.{name}": value for name, value in tokens.items() if isinstance(value, (int, float))}


def _span(
    trace: str,
    span: str,
    parent: str,
    name: str,
    kind: int,
    start: int,
    end: int,
    attributes: Mapping[str, Value],
    status: Json,
) -> Json:
    return {
        "traceId": trace,
        "spanId": span,
        "parentSpanId": parent,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(end),
        "attributes": _attributes(attributes),
        "status": status,
    }


def _attributes(values: Mapping[str, Value]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: Value) -> Json:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64 bits are a string in OTLP/JSON
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def _id(size: int, *parts: object) -> str:
    """Return an id of `size` bytes in hexadecimal, the same for the same parts."""
    return sha256("\0".join(map(str, parts)).encode("utf-8", "backslashreplace")).hexdigest()[: 2 * size]


_COUNTS = ("turns", "prompt_tokens", "cache_read_input_tokens", "output_tokens", "cost_usd")


def properties(scenario: ScenarioEntry) -> list[tuple[str, str]]:
    """Return (name, value) of each JUnit property, all below `token_budget.`; a value may be `unknown`."""
    measured = scenario["measured"]
    values = {name: None if measured is None else measured[name] for name in _COUNTS}  # type: ignore[literal-required]
    told = {"verdict": scenario["verdict"], "basis": scenario["basis"], **values}
    return [
        (f"token_budget.{name}", "unknown" if value is None else str(value)) for name, value in told.items()
    ]


_MOST = 10
"""Most errors: GitHub shows ten a step, and drops the rest without a word."""


def workflow_commands(document: Document) -> list[str]:
    """Return at most ten `::error file=...,line=...,title=...::text`, worst first, one for each cause.

    At most ten `::warning ...` follow, on what should be known although it may pass. Each stands on the line
    that caused it if that is known, else on its test. A command must begin its line.
    """
    failing = [one for one in scenario_view.worst_first(document["scenarios"]) if scenario_view.fails(one)]
    told = [_error(group) for group in change_view.by_cause(failing)]
    title = command_property("Token budget: not measured")
    told += [f"::error title={title}::{command_data(line)}" for line in run_view.errors(document)]
    warned = list(map(_warning, change_view.notes(document)[:_MOST]))
    if len(told) <= _MOST:
        return [*told, *warned]
    left = f"{len(told) - _MOST + 1:,} more causes of failure: the whole report has them all"
    return [*told[: _MOST - 1], f"::error title=Token budget::{command_data(left)}", *warned]


def _warning(note: change_view.Note) -> str:
    first = note.scenarios[0]
    source = note.finding["source"] or {"file": first["file"], "line": first["line"]}
    at = f"file={command_property(plain(source['file']))},line={source['line']}"
    return f"::warning {at},title=Token budget::{command_data(plain(str(note)))}"


def _error(group: list[ScenarioEntry]) -> str:
    worst, *alike = group
    found = change_view.reasons(worst) or change_view.causes(worst)
    placed = next((finding["source"] for finding in found if finding["source"]), None)
    file, line = (placed["file"], placed["line"]) if placed else (worst["file"], worst["line"])
    text = [plain(worst["id"])]
    if worst["verdict"] == "over":
        text += map(str, rows(worst))
    text += [change_view.sentence(finding) for finding in found[:1]]
    text += [f"{len(alike):,} more like it"] * bool(alike)
    text += map(str, ways_out(group))
    message = command_data("\n".join(text))
    title = command_property(f"Token budget: {worst['verdict']}")
    return f"::error file={command_property(plain(file))},line={line},title={title}::{message}"
